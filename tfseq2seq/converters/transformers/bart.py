"""The families that are built as BART (Lewis et al., 2020, arXiv:1910.13461): their names are the same."""

from typing import Any

import numpy as np

from tfseq2seq.converters.base import Conversion, Ids
from tfseq2seq.converters.transformers.files import ModelFiles
from tfseq2seq.converters.transformers.generation import decode_table, special_id
from tfseq2seq.converters.transformers.vocabularies import marian_tokenizers
from tfseq2seq.converters.weights import Weights

ACTIVATIONS = {
    "relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "swish": "swish",
    "silu": "swish"}

# Our layer -> theirs, in each of the blocks.
_NORMS = {"self_residual": "self_attn_layer_norm", "feed_residual": "final_layer_norm"}
_CROSS_NORM = {"cross_residual": "encoder_attn_layer_norm"}
_FEED_FORWARD = {"expand": "fc1", "contract": "fc2"}

Arrays = dict[str, np.ndarray]


def linear(weights: Weights, place: str, *names: str) -> Arrays:
    """Maps of one input side by side; a bias that is missing is 0."""
    kernels = [weights.take(f"{name}.weight") for name in names]
    biases = [
        weights.take(f"{name}.bias") if f"{name}.bias" in weights else np.zeros([len(kernel)], np.float32)
        for name, kernel in zip(names, kernels, strict=True)]
    return {f"{place}.kernel": np.concatenate(kernels, 0).T, f"{place}.bias": np.concatenate(biases)}


def norm(weights: Weights, place: str, name: str) -> Arrays:
    return {f"{place}.scale": weights.take(f"{name}.weight"), f"{place}.bias": weights.take(f"{name}.bias")}


def attention(weights: Weights, place: str, name: str, cross: bool) -> Arrays:
    query, key, value = (f"{name}.{part}_proj" for part in "qkv")
    found = linear(weights, f"{place}.output_projection", f"{name}.out_proj")
    if cross:
        return found | linear(weights, f"{place}.query", query) | linear(weights, f"{place}.key_value", key, value)
    return found | linear(weights, f"{place}.query_key_value", query, key, value)


def stack(weights: Weights, side: str, layers: int, final_norm: bool, embedding_norm: bool) -> Arrays:
    """The weights of all layers of "encoder" or "decoder"."""
    found: Arrays = {}
    for i in range(layers):
        place, theirs = f"{side}.stack.blocks.{i}", f"model.{side}.layers.{i}"
        norms = _NORMS | (_CROSS_NORM if side == "decoder" else {})
        for ours, name in norms.items():
            found |= norm(weights, f"{place}.{ours}.normalize", f"{theirs}.{name}")
        found |= attention(weights, f"{place}.self_attention", f"{theirs}.self_attn", cross=False)
        if side == "decoder":
            found |= attention(weights, f"{place}.cross_attention", f"{theirs}.encoder_attn", cross=True)
        for ours, name in _FEED_FORWARD.items():
            found |= linear(weights, f"{place}.feed_forward.{ours}", f"{theirs}.{name}")
    if final_norm:
        found |= norm(weights, f"{side}.stack.normalize", f"model.{side}.layer_norm")
    if embedding_norm:
        found |= norm(weights, f"{side}.stack.normalize_inputs", f"model.{side}.layernorm_embedding")
    return found


def stack_table(files: ModelFiles, side: str, **others: Any) -> dict[str, Any]:
    """The recipe's table of "encoder" or "decoder"."""
    files.need({"activation_function": ACTIVATIONS})
    config = files.config
    return {
        "kind": "transformer", "layers": files.get(f"{side}_layers"), "units": files.get("d_model"),
        "heads": files.get(f"{side}_attention_heads"), "feed_forward_units": files.get(f"{side}_ffn_dim"),
        "activation": ACTIVATIONS[config.get("activation_function", "gelu")], "epsilon": 1e-5,
        "dropout": float(config.get("dropout", 0.1)), "attention_dropout": float(config.get("attention_dropout", 0.0)),
        "feed_forward_dropout": float(config.get("activation_dropout", 0.0)),
        "layer_drop": float(config.get(f"{side}_layerdrop", 0.0)), **others}


def embeddings(weights: Weights, files: ModelFiles, ids: Ids) -> tuple[str, Arrays]:
    """How tables are shared, as `share_embeddings` says it, and the tables with the output layer."""
    bias = weights.take("final_logits_bias")[0] if "final_logits_bias" in weights else None
    names = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    if files.config.get("tie_word_embeddings", True):
        table = weights.take("model.shared.weight")
        for name in names:
            weights.take_copy(name, table)
        return "all", {"target_embedding.table": ids.table(table), "output_bias.bias": ids.bias(bias)}
    source, target, output = map(weights.take, names)
    weights.leave(["model.shared.weight"])
    return "none", {
        "source_embedding.table": ids.table(source), "target_embedding.table": ids.table(target),
        "output_layer.kernel": ids.table(output).T, "output_layer.bias": ids.bias(bias)}


def ids_of(files: ModelFiles, size: int, unknown: int | None) -> Ids:
    pad, start, end = (
        special_id(files.generation, files.get, f"{name}_token_id") for name in ("pad", "decoder_start", "eos"))
    return Ids(size, pad, unknown, start, end)


def read_marian(files: ModelFiles) -> Conversion:
    """MarianMT, as of OPUS-MT (Tiedemann & Thottingal, 2020)."""
    files.need({
        "normalize_before": (False,), "normalize_embedding": (False,), "add_final_layer_norm": (False,),
        "static_position_embeddings": (True,), "share_encoder_decoder_embeddings": (True,),
        "is_encoder_decoder": (True,)})
    size = files.get("vocab_size")
    files.need({"decoder_vocab_size": (size,)})
    weights, vocabulary = files.weights(), files.json("vocab.json")
    ids = ids_of(files, size, vocabulary.get("<unk>"))
    share, arrays = embeddings(weights, files, ids)
    tables = {
        side: stack_table(files, side, norm="post", positions="sinusoidal", waves="halves")
        for side in ("encoder", "decoder")}
    for side, table in tables.items():
        arrays |= stack(weights, side, table["layers"], final_norm=False, embedding_norm=False)
        weights.leave([f"model.{side}.embed_positions.weight"])  # computed
    weights.refuse_leftovers()
    most = files.config.get("max_position_embeddings", 512)
    notes: list[str] = []
    model = {
        "embedding_units": files.get("d_model"), "share_embeddings": share,
        "scale_embeddings": bool(files.config.get("scale_embedding", False)), "output_bias": share == "all", **tables}
    source, target = marian_tokenizers(files, ids)
    return Conversion(
        {
            "task": "translation", "model": model, "decode": decode_table(files.generation, ids, most, notes=notes),
            "data": {"max_source_length": most, "max_target_length": most}, "train": FINE_TUNING,
            "export": {"max_source_length": most}},
        source, target, arrays, _architecture("MarianMT", tables), len(weights.taken), notes, their_ids=ids)


# Small steps from weights that are good already.
FINE_TUNING: dict[str, Any] = {"learning_rate": 5e-5, "label_smoothing": 0.0}


def _architecture(name: str, tables: dict[str, Any]) -> str:
    sides = (
        f"{side} of {table['layers']} layers, {table['units']} wide, {table['heads']} heads, feed-forward "
        f"{table['feed_forward_units']} {table['activation']}" for side, table in tables.items())
    return f"{name}: {'; '.join(sides)}"
