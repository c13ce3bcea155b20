"""OpenNMT-py 3: a .pt file with weights, options and vocabularies."""

from pathlib import Path
from typing import Any

from tfseq2seq.converters.base import Conversion, Expected
from tfseq2seq.converters.opennmt_torch import (
    ACTIVATIONS,
    DECODE,
    NORMALIZATIONS,
    NOTES,
    WAVES,
    Names,
    Options,
    Reader,
)
from tfseq2seq.converters.torch_files import read_torch
from tfseq2seq.converters.weights import ConversionError, Weights
from tfseq2seq.converters.words import Side, check_options, read_json

NAMES = Names(
    source_embedding="encoder.embeddings.make_embedding.emb_luts.0.weight",
    target_embedding="decoder.embeddings.make_embedding.emb_luts.0.weight",
    encoder_layer="encoder.transformer.{i}", decoder_layer="decoder.transformer_layers.{i}", encoder_norm="layer_norm",
    decoder_norm="layer_norm_1", cross_norm="layer_norm_2", encoder_feed_norm="feed_forward.layer_norm",
    decoder_feed_norm="feed_forward.layer_norm", expand="feed_forward.w_1", gate="feed_forward.w_3",
    contract="feed_forward.w_2",
    position_tables=("encoder.embeddings.make_embedding.pe.pe", "decoder.embeddings.make_embedding.pe.pe"))
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "model_task": ("seq2seq",), "encoder_type": ("rnn", "brnn", "transformer"), "decoder_type": ("rnn", "transformer"),
    "n_src_feats": (0,), "layer_norm": tuple(NORMALIZATIONS), "pos_ffn_activation_fn": tuple(ACTIVATIONS),
    "position_encoding_type": tuple(WAVES), "max_relative_positions": (0, -1), "relative_positions_buckets": (0,),
    "rotary_theta": (10000, 1e4), "rotary_dim": (0,), "multiquery": (False,), "num_kv": (0,), "num_experts": (0,),
    "parallel_residual": (False,), "shared_layer_norm": (False,), "sliding_window": (0,), "copy_attn": (False,),
    "coverage_attn": (False,), "context_gate": (None,), "bridge": (False,), "rnn_type": ("LSTM", "GRU"),
    "global_attention": ("general", "dot", "mlp", "none", None), "global_attention_function": ("softmax",),
    "generator_function": ("softmax",), "self_attn_type": ("scaled-dot", "scaled-dot-flash"), "feat_merge": (
        "concat", "sum", "mlp"), "quant_type": ("", None)}


def read_opennmt_py(path: str) -> Conversion:
    """Reads a checkpoint, or a folder with one, of OpenNMT-py. Its pickle builds plain values alone, see `torch_files`.

    Raises:
        ConversionError: it is missing, damaged or unsafe, or an option has no counterpart.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(place.glob("*.pt"))
        if len(files) != 1:
            raise ConversionError(
                f"{place}: must hold one .pt file; of several name one. Received: "
                f"{', '.join(file.name for file in files) or 'none'}.")
        place = files[0]
    found = read_torch(place)
    missing = [name for name in ("model", "generator", "vocab", "opt") if not found.get(name)]
    if missing:
        raise ConversionError(
            f"{place}: must be a checkpoint of OpenNMT-py, with {', '.join(missing)}. Received: {list(found)}.")
    options, vocabulary = dict(vars(found["opt"])), found["vocab"]
    check_options(str(place), options, SUPPORTED)
    tokens = [_tokens(place, vocabulary, side) for side in ("src", "tgt")]
    start = vocabulary.get("decoder_start_token", "<s>")
    sides = [
        Side(each, each.index("<unk>"), each.index(start), each.index("</s>"), each.index("<blank>"))
        for each in tokens]
    given = Weights({**found["model"], **{
        f"generator.{name}": value for name, value in found["generator"].items()}}, str(place))
    reader = Reader(_options(options), NAMES, given, *sides)
    given.refuse_leftovers()
    return conversion(reader, f"OpenNMT-py: {reader.architecture}", place.parent, {
        "max_source_length": options.get("src_seq_length", 192) + 1,
        "max_target_length": options.get("tgt_seq_length", 192) + 1})


def conversion(reader: Reader, architecture: str, folder: Path, lengths: dict[str, int]) -> Conversion:
    """What was read, with the search of OpenNMT-py and Eole."""
    tables = {
        "data": {"source_tokenizer": reader.source.table, "target_tokenizer": reader.target.table, **lengths},
        "model": reader.model, "decode": dict(DECODE)}
    return Conversion(
        tables, reader.source.tokenizer, reader.target.tokenizer, reader.weights, architecture,
        len(reader.given.taken), list(NOTES), _expected(folder, reader.target), reader.target.ids)


def _tokens(place: Path, vocabulary: dict[str, Any], side: str) -> list[str]:
    tokens = vocabulary.get(side)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ConversionError(f"{place}: its vocabulary {side} must be a list of tokens.")
    for token in ("<unk>", "<blank>", "<s>", "</s>"):
        if token not in tokens:
            raise ConversionError(f"{place}: its vocabulary {side} must hold {token}.")
    return tokens


def _options(options: dict[str, Any]) -> Options:
    relative = options.get("max_relative_positions", 0)
    sinusoidal = options.get("position_encoding_type", "SinusoidalInterleaved")
    absolute = sinusoidal if options.get("position_encoding") else None
    if absolute and options["encoder_type"] != "transformer":
        raise ConversionError("OpenNMT-py: position_encoding of a recurrent encoder cannot be imported.")
    return Options(
        encoder=options["encoder_type"], decoder=options["decoder_type"],
        layers=(options["enc_layers"], options["dec_layers"]), units=(options["enc_hid_size"], options["dec_hid_size"]),
        widths=(options["src_word_vec_size"], options["tgt_word_vec_size"]),
        share_embeddings=bool(options.get("share_embeddings")),
        share_output=bool(options.get("share_decoder_embeddings")), dropout=_first(options.get("dropout", 0.3)),
        attention_dropout=_first(options.get("attention_dropout", 0.1)), heads=options.get("heads", 8),
        feed_forward=options.get("transformer_ff", 2048), activation=options.get("pos_ffn_activation_fn", "relu"),
        normalization=options.get("layer_norm", "standard"), epsilon=options.get("norm_eps", 1e-6),
        positions="Rotary" if relative == -1 else absolute, rotary_interleave=options.get("rotary_interleave", True),
        cell=options.get("rnn_type", "LSTM"), input_feed=bool(options.get("input_feed", 1)),
        attention=options.get("global_attention", "general"))


def _first(values: Any) -> float:
    return float(values[0] if isinstance(values, list) else values)


def _expected(folder: Path, target: Side) -> list[Expected]:
    if not (folder / "expected.json").is_file():
        return []
    expected = read_json(folder / "expected.json")
    limit = expected.get("runs", {}).get("greedy", {}).get("max_length")
    return [
        Expected(" ".join(each["pieces"]), each["greedy"]["text"][0], [
            int(target.ids.ours[id_]) for id_ in each["greedy"]["ids"][0]], limit)
        for each in expected.get("examples", []) if "greedy" in each]
