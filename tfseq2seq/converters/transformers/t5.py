"""T5 (Raffel et al., 2020, arXiv:1910.10683), its version 1.1 and mT5 (Xue et al., 2021, arXiv:2010.11934)."""

from typing import Any

import numpy as np

from tfseq2seq.converters.base import Conversion
from tfseq2seq.converters.transformers.bart import FINE_TUNING, architecture, ids_of
from tfseq2seq.converters.transformers.files import ModelFiles
from tfseq2seq.converters.transformers.generation import decode_table
from tfseq2seq.converters.transformers.vocabularies import t5_tokenizers
from tfseq2seq.converters.weights import ConversionError, Weights

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "swish", "swish": "swish"}
MAX_LENGTH = 512  # of sources, which relative positions do not limit; what T5 was trained with

Arrays = dict[str, np.ndarray]


def read_t5(files: ModelFiles) -> Conversion:
    """T5 and mT5."""
    files.need({"is_encoder_decoder": (True,)})
    config, weights = files.config, files.weights()
    tied = bool(config.get("tie_word_embeddings", True))
    activation, gated = _activation(files)
    dropout = float(config.get("dropout_rate", 0.1))
    settings = {
        "kind": "transformer", "units": files.get("d_model"), "heads": files.get("num_heads"),
        "head_units": files.get("d_kv"), "feed_forward_units": files.get("d_ff"), "activation": activation,
        "gated": gated, "norm": "pre", "normalization": "rms", "epsilon": float(config.get("layer_norm_epsilon", 1e-6)),
        "positions": "relative", "num_buckets": config.get("relative_attention_num_buckets", 32),
        "max_distance": config.get("relative_attention_max_distance", 128), "use_bias": False, "scale_attention": False,
        "dropout": dropout, "attention_dropout": dropout, "feed_forward_dropout": dropout}
    layers = {
        "encoder": files.get("num_layers"), "decoder": config.get("num_decoder_layers") or files.get("num_layers")}
    sides: dict[str, Any] = {side: {**settings, "layers": number} for side, number in layers.items()}
    table = weights.take("shared.weight")
    ids = ids_of(files, len(table), 2)
    arrays: Arrays = {}
    for side, number in layers.items():
        weights.take_copy(f"{side}.embed_tokens.weight", table)
        arrays |= _stack(weights, side, number, gated)
    # Written by old versions, and never read.
    weights.leave(["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"])
    model: dict[str, Any] = {"embedding_units": files.get("d_model"), "scale_embeddings": False, **sides}
    arrays["target_embedding.table"] = ids.table(table)
    if tied:
        weights.take_copy("lm_head.weight", table)
        model |= {
            "share_embeddings": "all", "output_bias": True,
            "scale_output": bool(config.get("scale_decoder_outputs", True))}
        arrays["output_bias.bias"] = ids.bias()
    else:
        files.need({"scale_decoder_outputs": (False,)})
        model["share_embeddings"] = "source_target"
        arrays |= {
            "output_layer.kernel": ids.table(weights.take("lm_head.weight")).T, "output_layer.bias": ids.bias()}
    weights.refuse_leftovers()
    source, target = t5_tokenizers(files, ids)
    notes: list[str] = []
    return Conversion(
        {
            "task": "translation", "model": model, "decode": decode_table(files.generation, ids, 10_000, notes=notes),
            "data": {"max_source_length": MAX_LENGTH, "max_target_length": MAX_LENGTH}, "train": FINE_TUNING,
            "export": {"max_source_length": MAX_LENGTH}},
        source, target, arrays, architecture("T5", sides), len(weights.taken), notes, their_ids=ids)


def _activation(files: ModelFiles) -> tuple[str, bool]:
    """Our activation of feed_forward_proj, as "relu" or "gated-gelu", and whether the layer is gated."""
    projection = files.config.get("feed_forward_proj", "relu")
    name = "gelu_new" if projection == "gated-gelu" else projection.removeprefix("gated-")
    if name not in ACTIVATIONS:
        raise ConversionError(
            f"{files.folder / 'config.json'}: feed_forward_proj must be one of {', '.join(ACTIVATIONS)}, with gated- "
            f"before it or not. Received: {projection!r}.")
    return ACTIVATIONS[name], projection.startswith("gated-")


def _stack(weights: Weights, side: str, layers: int, gated: bool) -> Arrays:
    def kernel(*names: str) -> np.ndarray:
        return np.concatenate([weights.take(f"{name}.weight") for name in names]).T

    found: Arrays = {}
    for i in range(layers):
        place, theirs = f"{side}.stack.blocks.{i}", f"{side}.block.{i}.layer"
        within = f"{theirs}.0.SelfAttention"
        found[f"{place}.self_residual.normalize.scale"] = weights.take(f"{theirs}.0.layer_norm.weight")
        found[f"{place}.self_attention.query_key_value.kernel"] = kernel(*(f"{within}.{part}" for part in "qkv"))
        found[f"{place}.self_attention.output_projection.kernel"] = kernel(f"{within}.o")
        last = 1
        if side == "decoder":
            across, last = f"{theirs}.1.EncDecAttention", 2
            found[f"{place}.cross_residual.normalize.scale"] = weights.take(f"{theirs}.1.layer_norm.weight")
            found[f"{place}.cross_attention.query.kernel"] = kernel(f"{across}.q")
            found[f"{place}.cross_attention.key_value.kernel"] = kernel(f"{across}.k", f"{across}.v")
            found[f"{place}.cross_attention.output_projection.kernel"] = kernel(f"{across}.o")
        dense = f"{theirs}.{last}.DenseReluDense"
        inner = ("wi_0", "wi_1") if gated else ("wi",)
        found[f"{place}.feed_residual.normalize.scale"] = weights.take(f"{theirs}.{last}.layer_norm.weight")
        found[f"{place}.feed_forward.expand.kernel"] = kernel(*(f"{dense}.{name}" for name in inner))
        found[f"{place}.feed_forward.contract.kernel"] = kernel(f"{dense}.wo")
    bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found[f"{side}.stack.relative.table"] = weights.take(bias)
    found[f"{side}.stack.normalize.scale"] = weights.take(f"{side}.final_layer_norm.weight")
    return found
