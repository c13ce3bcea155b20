"""The families that are built as BART (Lewis et al., 2020, arXiv:1910.13461): their names are the same."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfseq2seq.converters.base import Conversion, Ids
from tfseq2seq.converters.transformers.files import ModelFiles
from tfseq2seq.converters.transformers.generation import decode_table, special_id
from tfseq2seq.converters.transformers.vocabularies import (
    bart_tokenizers,
    language_tokenizers,
    marian_tokenizers,
    pegasus_tokenizers,
    unknown_id,
)
from tfseq2seq.converters.weights import Weights
from tfseq2seq.layers.positions import sinusoids
from tfseq2seq.tokenizers import Tokenizer

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What differs among the families that are built as BART.

    Attributes:
        name: for the user.
        task: of the recipe.
        norm: "pre", then there is a last normalization, or "post".
        positions: keys of both sides' tables.
        embedding_norm: whether embeddings are normalized.
        offset: of learned positions, rows at the start of their table that are no positions.
        fixed: values of config.json that the family has, where they stand there.
        tokenizers: (files, ids, languages) to both sides' tokenizers.
    """

    name: str
    task: str
    norm: str
    positions: Mapping[str, Any]
    embedding_norm: bool = False
    offset: int = 0
    fixed: Mapping[str, tuple[Any, ...]]
    tokenizers: Callable[..., tuple[Tokenizer, Tokenizer]]


_HALVES = {"positions": "sinusoidal", "waves": "halves"}
MARIAN = Family(
    name="MarianMT", task="translation", norm="post", positions=_HALVES, tokenizers=marian_tokenizers,
    fixed={
        "normalize_before": (False,), "normalize_embedding": (False,), "add_final_layer_norm": (False,),
        "static_position_embeddings": (True,), "share_encoder_decoder_embeddings": (True,)})
PEGASUS = Family(
    name="Pegasus", task="summarization", norm="pre", positions=_HALVES, tokenizers=pegasus_tokenizers,
    fixed={
        "normalize_before": (True,), "normalize_embedding": (False,), "add_final_layer_norm": (True,),
        "static_position_embeddings": (True,)})
M2M100 = Family(
    name="M2M100", task="translation", norm="pre", positions={"positions": "sinusoidal", "waves": "timing"},
    tokenizers=language_tokenizers, fixed={"normalize_before": (True,), "normalize_embedding": (False,)})
MBART = Family(
    name="mBART", task="translation", norm="pre", positions={"positions": "learned"}, embedding_norm=True, offset=2,
    tokenizers=language_tokenizers,
    fixed={
        "normalize_before": (True,), "normalize_embedding": (True,), "add_final_layer_norm": (True,),
        "static_position_embeddings": (False,)})

BART = Family(
    name="BART", task="summarization", norm="post", positions={"positions": "learned"}, embedding_norm=True, offset=2,
    tokenizers=bart_tokenizers,
    fixed={
        "normalize_before": (False,), "normalize_embedding": (True,), "add_final_layer_norm": (False,),
        "static_position_embeddings": (False,), "extra_pos_embeddings": (2,)})


def read_bart(family: Family, files: ModelFiles, **languages: str) -> Conversion:
    """A model of a family. `languages`: "source_language" and "target_language", where they are tokens."""
    files.need({"is_encoder_decoder": (True,), **family.fixed})
    size = files.get("vocab_size")
    files.need({"decoder_vocab_size": (size,)})
    weights, config = files.weights(), files.config
    unknown = unknown_id(files)
    ids = ids_of(files, size, unknown)
    most = config.get("max_position_embeddings", 1024)
    share, arrays = embeddings(weights, files, ids)
    positions = dict(family.positions)
    if positions.get("waves") == "timing":
        positions["first_position"] = files.get("pad_token_id") + 1
    sides: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        table = stack_table(
            files, side, norm=family.norm, normalize_embeddings=family.embedding_norm, **positions)
        arrays |= stack(weights, side, table["layers"], family.norm == "pre", family.embedding_norm)
        learned = _positions(weights, side, family, table, most)
        if learned is not None:
            table |= {"positions": "learned", "max_positions": len(learned)}
            arrays[f"{side}.stack.learned.table"] = learned
        sides[side] = table
        weights.leave([f"model.{side}.embed_positions.weights", f"model.{side}.version"])  # computed, or no weight
    weights.refuse_leftovers()
    source, target = family.tokenizers(files, ids, **languages)
    notes: list[str] = []
    model = {
        "embedding_units": files.get("d_model"), "share_embeddings": share,
        "scale_embeddings": bool(config.get("scale_embedding", False)), "output_bias": share == "all", **sides}
    return Conversion(
        {
            "task": family.task, "model": model, "decode": decode_table(files.generation, ids, most, notes=notes),
            "data": {"max_source_length": most, "max_target_length": most}, "train": FINE_TUNING,
            "export": {"max_source_length": most}},
        source, target, arrays, architecture(family.name, sides), len(weights.taken), notes, their_ids=ids)


def _positions(weights: Weights, side: str, family: Family, table: dict[str, Any], most: int) -> np.ndarray | None:
    """The table of positions of a side; None where they are computed, and the files hold no others."""
    name = f"model.{side}.embed_positions.weight"
    if table["positions"] == "learned":
        return weights.take(name)[family.offset :]
    if table["waves"] != "halves" or name not in weights:
        return None
    values = weights.take(name)
    computed = sinusoids(tf.range(len(values)), table["units"], "halves").numpy()
    close = values.shape == computed.shape and np.allclose(values, computed, rtol=0, atol=1e-3)
    return None if close else values


# Small steps from weights that are good already.
FINE_TUNING: dict[str, Any] = {"learning_rate": 5e-5, "label_smoothing": 0.0}


def architecture(name: str, tables: dict[str, Any]) -> str:
    """What was found, in a line."""
    sides = (
        f"{side} of {table['layers']} layers, {table['units']} wide, {table['heads']} heads, feed-forward "
        f"{table['feed_forward_units']} {table['activation']}" for side, table in tables.items())
    return f"{name}: {'; '.join(sides)}"
