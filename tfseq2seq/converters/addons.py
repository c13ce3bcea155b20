"""tensorflow-addons' AttentionWrapper: NAME.json with options and NAME.weights.npz, see docs/importing.md."""

from pathlib import Path
from typing import Any

import numpy as np

from tfseq2seq.config import Model
from tfseq2seq.converters.base import Conversion, Ids, assign
from tfseq2seq.converters.weights import ConversionError, Weights
from tfseq2seq.converters.words import Side, check_options, read_json, read_lines
from tfseq2seq.model import Seq2Seq, build_model

ATTENTIONS = {
    ("luong", False): "general", ("luong", True): "scaled_general", ("bahdanau", False): "additive",
    ("bahdanau", True): "normed_additive"}
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "attention": ("luong", "bahdanau"), "cell": ("lstm", "gru"), "probability_fn": ("softmax",),
    "bridge": ("copy", "zero")}


def read_addons(path: str) -> Conversion:
    """Reads an encoder and a decoder of Keras' cells, the decoder in an AttentionWrapper.

    Args:
        path: NAME.json; NAME.weights.npz lies beside it, and so do the vocabularies that it names.
    Raises:
        ConversionError: files are missing or damaged, an option has no counterpart, or there is no encoder.
    """
    options, given = _read(Path(path))
    if "source_embedding" not in given or "encoder" not in options:
        raise ConversionError(
            f"{path}: holds a decoder alone, which answers nothing. Add the encoder's weights and options, see "
            "docs/importing.md; or build your own encoder around tfseq2seq.converters.addons.load_decoder.")
    source, target = (_side(Path(path).parent, options, given, side) for side in ("source", "target"))
    weights = _decoder(options, given, target.ids)
    weights["source_embedding.table"] = source.ids.table(given.take("source_embedding"))
    encoder = options["encoder"]
    for way in ("forward", "backward")[: 2 if encoder.get("bidirectional") else 1]:
        for i in range(encoder["layers"]):
            weights |= _cell(given, f"encoder.{way}.{i}", f"encoder/{way}{i}")
    given.refuse_leftovers()
    table = {
        "kind": "recurrent", "cell": options.get("cell", "lstm"), "layers": encoder["layers"],
        "units": encoder["units"], "bidirectional": bool(encoder.get("bidirectional"))}
    tables = {
        "data": {"source_tokenizer": source.table, "target_tokenizer": target.table},
        "model": _model(options, table, options.get("bridge", "copy")),
        "decode": {"beam_size": 4, "length_penalty": 0.0, "finish": "shared", "cut": True}}
    return Conversion(
        tables, source.tokenizer, target.tokenizer, weights, _architecture(options), len(given.taken),
        ["text is cut at white space: give it the tokens that the model was trained with"], [], target.ids)


def load_decoder(path: str) -> tuple[Seq2Seq, Ids]:
    """A decoder without its encoder: a model whose encoder is new, and from the ids of the decoder to ours.

    Give `model.decoder` a memory of the width that the attention was made for, through its `attention.project`, and
    cell states of its own width. Raises as `read_addons`.
    """
    options, given = _read(Path(path))
    ids = _ids(options, given.shape("embedding")[0])
    weights = _decoder(options, given, ids)
    given.refuse_leftovers()
    encoder = {"kind": "recurrent", "units": options["memory_depth"], "bidirectional": False}
    model = build_model(Model.model_validate(_model(options, encoder, "zero")), 5, len(ids.rows))
    own = {place: _at(model, place) for place in ("source_embedding.table", *(
        f"encoder.forward.0.{name}" for name in ("kernel", "recurrent_kernel", "bias")))}
    assign(model, {**weights, **own})
    return model, ids


def _at(model: Seq2Seq, place: str) -> np.ndarray:
    found: Any = model
    for part in place.split("."):
        found = found[int(part)] if part.isdecimal() else getattr(found, part)
    return found.numpy()


class _Arrays(Weights):
    def shape(self, name: str) -> tuple[int, ...]:
        """Of a weight that is there."""
        if name not in self:
            raise ConversionError(f"{self.where}: the weight {name} is missing; the architecture needs it.")
        return self._arrays[name].shape


def _read(path: Path) -> tuple[dict[str, Any], _Arrays]:
    found = read_json(path)
    options = found.get("options", found)
    check_options(str(path), options, SUPPORTED)
    file = path.with_name(f"{path.stem}.weights.npz")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return options, _Arrays({name: arrays[name] for name in arrays.files}, str(file))
    except (OSError, ValueError, EOFError) as error:
        raise ConversionError(f"{file}: must be an .npz file of plain arrays. Received: {error}.") from error


def _ids(options: dict[str, Any], size: int) -> Ids:
    return Ids(size, options["end_id"], options.get("unknown_id"), options["start_id"], options["end_id"])


def _side(folder: Path, options: dict[str, Any], given: _Arrays, side: str) -> Side:
    named = options.get(f"{side}_vocabulary")
    if not named:
        raise ConversionError(f"{folder}: the options need {side}_vocabulary, a file with a token a line.")
    lines = read_lines(folder / Path(named).name)
    size = given.shape("source_embedding" if side == "source" else "embedding")[0]
    unknown = options.get("unknown_id")
    return Side(lines, 0 if unknown is None else unknown, options["start_id"], options["end_id"], size=size)


def _model(options: dict[str, Any], encoder: dict[str, Any], bridge: str) -> dict[str, Any]:
    size = options.get("attention_layer_size")
    kind = ATTENTIONS[options["attention"], bool(options.get("scaled") or options.get("normed"))]
    decoder: dict[str, Any] = {
        "kind": "attentional", "cell": options.get("cell", "lstm"), "layers": options.get("layers", 1),
        "units": options["units"], "bridge": bridge, "attention": kind, "input_feeding": True,
        "output": "attention" if options.get("output_attention", True) else "state"}
    if "additive" in kind:
        decoder["attention_units"] = options["attention_units"]
    if size is None:
        decoder["attentional_vector"] = "context"
    else:
        decoder |= {"attentional_units": size, "attentional_activation": "none"}
    return {"embedding_units": options["embedding"], "source_end": False, "encoder": encoder, "decoder": decoder}


def _decoder(options: dict[str, Any], given: Weights, ids: Ids) -> dict[str, np.ndarray]:
    weights = {"target_embedding.table": ids.table(given.take("embedding"))}
    for i in range(options.get("layers", 1)):
        weights |= _cell(given, f"decoder.cells.{i}", f"cell{i}")
    ours, kind = "decoder.attention", ATTENTIONS[
        options["attention"], bool(options.get("scaled") or options.get("normed"))]
    weights[f"{ours}.key_projection.kernel"] = given.take("attention/memory_layer/kernel")
    if kind in ("scaled_general", "normed_additive"):
        weights[f"{ours}.scale"] = given.take("attention/attention_g").reshape(())
    if "additive" in kind:
        weights[f"{ours}.query_projection.kernel"] = given.take("attention/query_layer/kernel")
        weights[f"{ours}.score_vector"] = given.take("attention/attention_v")
    if kind == "normed_additive":
        weights[f"{ours}.bias"] = given.take("attention/attention_b")
    if options.get("attention_layer_size") is not None:
        # Theirs reads the state first, ours the context.
        weights["decoder.combine.kernel"] = np.roll(given.take("attention_layer/kernel"), -options["units"], 0)
    bias = given.take("output/bias") if "output/bias" in given else None
    kernel = given.take("output/kernel")
    return weights | {"output_layer.kernel": ids.table(kernel.T).T, "output_layer.bias": ids.bias(bias)}


def _cell(given: Weights, ours: str, theirs: str) -> dict[str, np.ndarray]:
    """A cell of Keras, whose weights lie as ours."""
    return {f"{ours}.{name}": given.take(f"{theirs}/{name}") for name in ("kernel", "recurrent_kernel", "bias")}


def _architecture(options: dict[str, Any]) -> str:
    return (
        f"tensorflow-addons: AttentionWrapper with {options['attention']} attention around {options.get('layers', 1)} "
        f"layers of {options.get('cell', 'lstm')}, {options['units']} units")
