"""Eole: a folder with config.json, vocab.json and safetensors files."""

from pathlib import Path
from typing import Any

from tfseq2seq.converters.base import Conversion
from tfseq2seq.converters.opennmt_py import conversion
from tfseq2seq.converters.opennmt_torch import ACTIVATIONS, NORMALIZATIONS, WAVES, Names, Options, Reader
from tfseq2seq.converters.weights import ConversionError, read_files
from tfseq2seq.converters.words import Side, check_options, read_json

NAMES = Names(
    source_embedding="src_emb.embeddings.weight", target_embedding="tgt_emb.embeddings.weight",
    encoder_layer="encoder.transformer_layers.{i}", decoder_layer="decoder.transformer_layers.{i}",
    encoder_norm="input_layernorm", decoder_norm="input_layernorm", cross_norm="precontext_layernorm",
    encoder_feed_norm="post_attention_layernorm", decoder_feed_norm="post_attention_layernorm",
    expand="mlp.gate_up_proj", gate="mlp.up_proj", contract="mlp.down_proj",
    position_tables=("src_emb.pe.pe", "tgt_emb.pe.pe"))
SIDE: dict[str, tuple[Any, ...]] = {  # of encoder and decoder
    "encoder_type": ("rnn", "brnn", "transformer"), "decoder_type": ("rnn", "transformer"),
    "layer_norm": tuple(NORMALIZATIONS), "mlp_activation_fn": tuple(ACTIVATIONS), "relative_positions_buckets": (0,),
    "heads_kv": (None,), "head_dim": (None,), "attn_scaling": (None,), "num_experts": (0,), "sliding_window": (0,),
    "parallel_residual": (False,), "shared_layer_norm": (False,), "ffn_layernorm": (False,), "query_norm": (False,),
    "key_norm": (False,), "coverage_attn": (False,), "context_gate": (None,), "bridge": (False,),
    "rnn_type": ("LSTM", "GRU"), "global_attention": ("general", "dot", "mlp", "none", None),
    "global_attention_function": ("softmax",), "post_attention_layernorm": (True,)}
EMBEDDINGS: dict[str, tuple[Any, ...]] = {
    "position_encoding_type": (*WAVES, "Rotary", None), "position_shift": (0, None), "normalize": (False, None)}
MODEL: dict[str, tuple[Any, ...]] = {
    "model_task": ("seq2seq", None), "model_type": ("encoder_decoder", "text", None), "quant_type": ("", None)}
ROPE: dict[str, tuple[Any, ...]] = {
    "rotary_theta": (10000,), "rotary_dim": (0,), "scaling_type": (None,), "interleave_local": (0,)}


def read_eole(path: str) -> Conversion:
    """Reads a model folder of Eole.

    Raises:
        ConversionError: files are missing or damaged, or an option has no counterpart.
    """
    folder = Path(path)
    config = read_json(folder / "config.json")
    model = config.get("model", config)
    encoder, decoder = ({**model, **(model.get(side) or {})} for side in ("encoder", "decoder"))
    if not model.get("encoder") or not model.get("decoder"):
        raise ConversionError(f"{folder}: must be a model with an encoder and a decoder to be imported.")
    embeddings = {**model, **(model.get("embeddings") or {})}
    rope = embeddings.get("rope_config") or encoder.get("rope_config") or {}
    for options, supported in (
            (encoder, SIDE), (decoder, SIDE), (embeddings, EMBEDDINGS), (rope, ROPE), (model, MODEL)):
        check_options(str(folder / "config.json"), options, supported)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConversionError(f"{folder}: needs its weights, as model.00.safetensors. Received: no .safetensors file.")
    given = read_files(files, str(folder))
    sides = _sides(folder)
    reader = Reader(_options(config, model, encoder, decoder, embeddings, rope), NAMES, given, *sides)
    given.refuse_leftovers()
    return conversion(reader, f"Eole: {reader.architecture}", folder, {})


def _sides(folder: Path) -> list[Side]:
    vocabulary = read_json(folder / "vocab.json")
    special = {
        "bos_token": "<s>", "pad_token": "<blank>", "eos_token": "</s>", "unk_token": "<unk>",
        **(vocabulary.get("specials") or {})}
    start = vocabulary.get("decoder_start_token") or special["bos_token"]
    sides = []
    for name in ("src", "tgt"):
        tokens = vocabulary.get(name)
        if not isinstance(tokens, list):
            raise ConversionError(f"{folder / 'vocab.json'}: must hold a list of tokens {name}.")
        for token in (start, *special.values()):
            if token not in tokens:
                raise ConversionError(f"{folder / 'vocab.json'}: its tokens {name} must hold {token!r}.")
        sides.append(Side(
            tokens, tokens.index(special["unk_token"]), tokens.index(start), tokens.index(special["eos_token"]),
            tokens.index(special["pad_token"])))
    return sides


def _options(
    config: dict[str, Any], model: dict[str, Any], encoder: dict[str, Any], decoder: dict[str, Any],
    embeddings: dict[str, Any], rope: dict[str, Any],
) -> Options:
    training = config.get("training") or {}
    width = embeddings.get("word_vec_size", -1)
    kind = encoder.get("encoder_type", "rnn")
    positions = embeddings.get("position_encoding_type", "SinusoidalInterleaved")

    def rate(name: str, default: float) -> float:
        values = training.get(name, default)
        return float(values[0] if isinstance(values, list) else values)

    return Options(
        encoder=kind, decoder=decoder.get("decoder_type", "rnn"),
        layers=(encoder.get("layers", 2), decoder.get("layers", 2)),
        units=(encoder.get("hidden_size", 512), decoder.get("hidden_size", 512)),
        widths=(width, width) if width > 0 else (
            embeddings.get("src_word_vec_size", 512), embeddings.get("tgt_word_vec_size", 512)),
        share_embeddings=bool(model.get("share_embeddings")), share_output=bool(model.get("share_decoder_embeddings")),
        dropout=rate("dropout", 0.3), attention_dropout=rate("attention_dropout", 0.1), heads=encoder.get("heads", 8),
        feed_forward=encoder.get("transformer_ff", 2048), activation=encoder.get("mlp_activation_fn", "relu"),
        normalization=encoder.get("layer_norm", "standard"), epsilon=encoder.get("norm_eps", 1e-6),
        positions=positions if kind == "transformer" else None, rotary_interleave=rope.get("rotary_interleave", True),
        cell=encoder.get("rnn_type", "LSTM"), input_feed=bool(decoder.get("input_feed", True)),
        attention=decoder.get("global_attention", "general"))
