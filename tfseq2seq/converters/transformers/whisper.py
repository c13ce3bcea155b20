"""Whisper (Radford et al., 2022, arXiv:2212.04356): recordings to text, a window of fixed length at a time."""

from typing import Any

import numpy as np

from pipelines.audio import FrontEnd
from tfseq2seq.config import Audio
from tfseq2seq.converters.base import Conversion, Ids
from tfseq2seq.converters.transformers.bart import FINE_TUNING, architecture, stack, stack_table
from tfseq2seq.converters.transformers.files import ModelFiles
from tfseq2seq.converters.transformers.generation import decode_table, special_id
from tfseq2seq.converters.transformers.vocabularies import byte_level, read_vocabulary
from tfseq2seq.converters.weights import ConversionError, Weights

HIGHEST_FREQUENCY = 8000.0  # Hz, where the last triangle ends, whatever the rate


def read_whisper(
    files: ModelFiles, source_language: str | None = None, target_language: str | None = None,
) -> Conversion:
    """Whisper, to write what is said in the source language, or with target_language "en" its translation."""
    files.need({
        "is_encoder_decoder": (True,), "use_weighted_layer_sum": (False,), "scale_embedding": (False,),
        "tie_word_embeddings": (True,), "apply_spec_augment": (False,)})
    weights = files.weights()
    audio = _audio(files)
    frames, positions = audio.chunk_frames, files.get("max_source_positions")
    if frames != 2 * positions:
        raise ConversionError(
            f"{files.folder / 'preprocessor_config.json'}: chunk_length must give two frames for each of "
            f"max_source_positions = {positions}. Received: {frames} frames.")
    table = weights.take("model.decoder.embed_tokens.weight")
    weights.take_copy("proj_out.weight", table)
    pad, start, end = (
        special_id(files.generation, files.get, f"{name}_token_id") for name in ("pad", "decoder_start", "eos"))
    ids = Ids(len(table), pad, None, start, end)
    sides = {
        "encoder": stack_table(files, "encoder", norm="pre", positions="learned", max_positions=positions),
        "decoder": stack_table(
            files, "decoder", norm="pre", positions="learned", max_positions=files.get("max_target_positions"))}
    arrays = {"target_embedding.table": ids.table(table), "output_bias.bias": ids.bias()}
    for side, table_ in sides.items():
        found = stack(weights, side, table_["layers"], final_norm=True, embedding_norm=False)
        found[f"{side}.stack.learned.table"] = weights.take(f"model.{side}.embed_positions.weight")
        # The encoder's stack reads what two convolutions wrote.
        arrays |= {place.replace("encoder.", "encoder.encoders.1.", 1): values for place, values in found.items()}
    arrays |= _convolutions(weights)
    weights.refuse_leftovers()
    model = {
        "embedding_units": files.get("d_model"), "share_embeddings": "target_output", "scale_embeddings": False,
        "output_bias": True, "source": "features", "project_features": False, "decoder": sides["decoder"],
        "encoder": {"kind": "sequence", "encoders": [
            {
                "kind": "subsampling", "layers": 2, "strides": [1, 2], "activation": "gelu", "dropout": 0.0,
                "units": files.get("d_model")},
            sides["encoder"]]}}
    before = _prompt(files, source_language, target_language)
    target = byte_level(files, ids, before=[int(ids.ours[id_]) for id_ in before])
    notes = [f"recordings are cut at {audio.chunk:g} seconds; longer ones need to be cut before"]
    most = files.get("max_target_positions")
    decode = decode_table(files.generation, ids, most, 1 + len(before), notes)
    return Conversion(
        {
            "task": "speech", "model": model, "decode": decode, "train": FINE_TUNING,
            "data": {
                "audio": audio.model_dump(mode="json"), "max_source_length": frames,
                "max_target_length": most}, "export": {"max_source_length": frames}},
        FrontEnd(audio), target, arrays, architecture("Whisper", sides), len(weights.taken), notes, their_ids=ids,
        prompt_length=1 + len(before))


def _audio(files: ModelFiles) -> Audio:
    about = files.json("preprocessor_config.json", {}) or files.json("processor_config.json")["feature_extractor"]
    rate, size = about.get("sampling_rate", 16_000), about.get("n_fft", 400)
    for name, known in (("feature_extractor_type", ("WhisperFeatureExtractor",)), ("dither", (0, None))):
        if about.get(name) not in known:
            raise ConversionError(
                f"{files.folder / 'preprocessor_config.json'}: {name} must be {known[0]!r}. Received: "
                f"{about.get(name)!r}.")
    files.need({"num_mel_bins": (about.get("feature_size", 80),)})
    return Audio(
        sample_rate=rate, window=size / rate, hop=about.get("hop_length", 160) / rate,
        mel_bins=about.get("feature_size", 80), highest_frequency=HIGHEST_FREQUENCY, normalization="peak",
        chunk=float(about.get("chunk_length", 30)), reflect=True, fft_size=size)


def _convolutions(weights: Weights) -> dict[str, np.ndarray]:
    found = {}
    for i in range(2):
        place, name = f"encoder.encoders.0.convolutions.{i}.linear", f"model.encoder.conv{i + 1}"
        kernel = weights.take(f"{name}.weight")  # [units, D, 3]
        found[f"{place}.kernel"] = kernel.transpose(2, 1, 0).reshape(-1, len(kernel))
        found[f"{place}.bias"] = weights.take(f"{name}.bias")
    return found


def _prompt(files: ModelFiles, source_language: str | None, target_language: str | None) -> list[int]:
    """Ids there that the decoder is given after its start: language, task, and that it writes no times."""
    generation, vocabulary = files.generation, read_vocabulary(files)

    def id_of(name: str, option: str) -> int:
        if f"<|{name}|>" not in vocabulary:
            raise ConversionError(
                f"{files.folder}: knows no token <|{name}|>; give another --{option}. Received: {name!r}.")
        return vocabulary[f"<|{name}|>"]

    given: list[Any] = generation.get("forced_decoder_ids") or []
    if given and source_language is None and target_language is None and all(id_ is not None for _, id_ in given):
        return [id_ for _, id_ in sorted(given)]
    found = []
    if generation.get("is_multilingual", "<|transcribe|>" in vocabulary):
        task = generation.get("task") or files.tokenizer.get("task") or "transcribe"
        if target_language is not None:
            if target_language not in ("en", source_language):
                raise ConversionError(
                    "Whisper translates into English alone: --target-language must be en. Received: "
                    f"{target_language!r}.")
            task = "translate" if target_language != source_language else "transcribe"
        language = source_language or generation.get("language") or files.tokenizer.get("language") or "en"
        found = [id_of(str(language).strip("<|>"), "source-language"), id_of(task, "target-language")]
    return [*found, id_of("notimestamps", "source-language")]
