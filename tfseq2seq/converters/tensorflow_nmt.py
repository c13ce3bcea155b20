"""tensorflow/nmt: a folder with `hparams`, the vocabularies and a TensorFlow 1 checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np

from tfseq2seq.converters.base import Conversion
from tfseq2seq.converters.weights import ConversionError, Weights
from tfseq2seq.converters.words import Side, check_options, read_checkpoint, read_json, read_lines

IGNORED = r"(.*/)?(Adam|Adam_1|Momentum|Adagrad)|beta[12]_power|Variable(_\d+)?|(.*/)?global_step"
# unit_type -> our cell, and its scope in a checkpoint.
CELLS = {
    "lstm": ("lstm", "basic_lstm_cell"), "gru": ("gru_reset_before", "gru_cell"),
    "layer_norm_lstm": ("layer_norm_lstm", "layer_norm_basic_lstm_cell")}
# attention -> ours, and its scope in a checkpoint.
ATTENTIONS = {
    "luong": ("general", "luong_attention"), "scaled_luong": ("scaled_general", "luong_attention"),
    "bahdanau": ("additive", "bahdanau_attention"), "normed_bahdanau": ("normed_additive", "bahdanau_attention")}
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "unit_type": tuple(CELLS), "attention": ("", None, *ATTENTIONS), "encoder_type": ("uni", "bi", "gnmt"),
    "attention_architecture": ("standard", "gnmt", "gnmt_v2", "", None), "language_model": (False, None),
    "use_char_encode": (False, None), "src_embed_file": ("", None), "tgt_embed_file": ("", None),
    "source_reverse": (False, None), "infer_mode": ("greedy", "beam_search", "sample", None)}
NOTES = [
    "text is cut at white space: give it the tokens that the model was trained with",
    "an unknown word is written as \u2047"]


def read_nmt(path: str) -> Conversion:
    """Reads a folder that `nmt.nmt` wrote.

    Args:
        path: the folder, or a checkpoint in it without its ending.
    Raises:
        ConversionError: files are missing or damaged, or an option has no counterpart.
    """
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    hparams = _read_hparams(folder)
    given = read_checkpoint(place, IGNORED)
    source, target = (_side(folder, hparams, side) for side in ("src", "tgt"))
    weights = _weights(given, hparams, source, target)
    given.refuse_leftovers()
    tables = {
        "data": {
            "source_tokenizer": source.table, "target_tokenizer": target.table,
            # Theirs count no end token.
            "max_source_length": (hparams.get("src_max_len") or 127) + 1,
            "max_target_length": (hparams.get("tgt_max_len") or 127) + 1},
        "model": _model(hparams), "decode": _decode(hparams),
        "export": {"max_source_length": (hparams.get("src_max_len_infer") or 255) + 1}}
    kind = hparams["attention"] and f"{hparams['attention']} attention ({hparams['attention_architecture']})"
    architecture = (
        f"tensorflow/nmt: {hparams['encoder_type']} encoder of {hparams['num_encoder_layers']} and decoder of "
        f"{hparams['num_decoder_layers']} layers, {hparams['unit_type']}, {hparams['num_units']} units, "
        f"{kind or 'no attention'}")
    return Conversion(
        tables, source.tokenizer, target.tokenizer, weights, architecture, len(given.taken), list(NOTES),
        _expected(folder, target), target.ids)


def _expected(folder: Path, target: Side) -> list[Any]:
    """Greedy answers that lie beside."""
    if not (folder / "expected.json").is_file():
        return []
    expected = read_json(folder / "expected.json")
    greedy = expected.get("decode", {}).get("greedy", {}).get("hypotheses", [])
    return [
        target.expect(line, rows[0]["tokens"], rows[0]["ids"])
        for line, rows in zip(expected.get("source", []), greedy, strict=False)]


def _read_hparams(folder: Path) -> dict[str, Any]:
    hparams = read_json(folder / "hparams")
    check_options("tensorflow/nmt", hparams, SUPPORTED)
    layers = hparams.get("num_layers")
    for side in ("encoder", "decoder"):
        hparams.setdefault(f"num_{side}_layers", layers)
        hparams.setdefault(f"num_{side}_residual_layers", hparams.get("num_residual_layers", _residual(hparams, side)))
    return hparams


def _residual(hparams: dict[str, Any], side: str) -> int:
    """How many of the highest layers have a residual connection, as the program counts them."""
    if not hparams.get("residual"):
        return 0
    layers = {side: hparams.get(f"num_{side}_layers") or hparams["num_layers"] for side in ("encoder", "decoder")}
    if hparams.get("encoder_type") == "gnmt" and (side == "encoder" or layers["encoder"] == layers["decoder"]):
        return layers["encoder"] - 2
    return layers[side] - 1


def _side(folder: Path, hparams: dict[str, Any], side: str) -> Side:
    named = Path(hparams["src_vocab_file" if hparams.get("share_vocab") else f"{side}_vocab_file"])
    places = [folder / named, folder / named.name, folder.parent / named]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ConversionError(f"{folder}: needs its vocabularies; put {named.name} beside hparams.")
    tokens = [line.strip() for line in read_lines(path)]
    start, end = hparams.get("sos") or "<s>", hparams.get("eos") or "</s>"
    for token in (start, end):
        if token not in tokens:
            raise ConversionError(f"{path}: must hold {token!r}, which hparams names.")
    # What is not in the list is id 0, whatever that is called.
    return Side(tokens, 0, tokens.index(start), tokens.index(end))


def _model(hparams: dict[str, Any]) -> dict[str, Any]:
    """The [model] table."""
    cell, units, dropout = CELLS[hparams["unit_type"]][0], hparams["num_units"], hparams["dropout"]
    both = {"cell": cell, "units": units, "dropout": dropout}
    layers, residual = hparams["num_encoder_layers"], hparams["num_encoder_residual_layers"]
    kind = hparams["encoder_type"]
    if kind == "bi":
        layers, residual = layers // 2, residual // 2
    encoder: dict[str, Any] = {
        "kind": "recurrent", **both, "layers": layers, "bidirectional": kind != "uni", **_joined(residual)}
    if kind == "bi":
        encoder |= {"directions": "apart", "last_states": "alternating"}
    elif kind == "gnmt":
        encoder |= {"bidirectional_layers": 1, "last_states": "backward"}
    decoder: dict[str, Any] = {
        **both, "layers": hparams["num_decoder_layers"], **_joined(hparams["num_decoder_residual_layers"]),
        "bridge": "copy" if hparams.get("pass_hidden_state", True) else "zero"}
    if not hparams["attention"]:
        decoder |= {"kind": "recurrent", "reads_context": False}
    else:
        decoder |= {
            "kind": "attentional", "attention": ATTENTIONS[hparams["attention"]][0], "input_feeding": True,
            "output": "attention" if hparams.get("output_attention", True) else "state"}
        if _is_gnmt(hparams):
            decoder |= {
                "attending_layer": "bottom", "attentional_vector": "context", "output": "state",
                "upper_context": "current" if hparams["attention_architecture"] == "gnmt_v2" else "previous"}
        else:
            decoder |= {"attentional_activation": "none"}
    return {
        "embedding_units": units, "source_end": False, "encoder": encoder, "decoder": decoder,
        "share_embeddings": "source_target" if hparams.get("share_vocab") else "none"}


def _joined(residual: int) -> dict[str, Any]:
    return {"residual": True, "residual_layers": residual} if residual > 0 else {}


def _is_gnmt(hparams: dict[str, Any]) -> bool:
    return bool(hparams["attention"]) and hparams.get("attention_architecture") in ("gnmt", "gnmt_v2")


def _decode(hparams: dict[str, Any]) -> dict[str, Any]:
    """The [decode] table; nmt's own limit is twice the source's length."""
    beams = hparams.get("beam_width") or 1
    mode = hparams.get("infer_mode") or ("beam_search" if beams > 1 else "greedy")
    found: dict[str, Any] = {
        "length_penalty": hparams.get("length_penalty_weight", 0.0),
        "coverage_penalty": hparams.get("coverage_penalty_weight", 0.0) if hparams["attention"] else 0.0,
        "beam_size": 1, "cut": True}
    if hparams.get("tgt_max_len_infer"):
        found["max_length"] = hparams["tgt_max_len_infer"]
    else:
        found |= {"max_length": 2 * (hparams.get("src_max_len_infer") or 128), "max_length_ratio": 2.0}
    if mode == "beam_search":
        found |= {
            "finish": "shared", "beam_size": beams,
            "num_hypotheses": min(beams, hparams.get("num_translations_per_input") or 1)}
    elif mode == "sample":
        found |= {"method": "sample", "temperature": hparams["sampling_temperature"]}
    return found


def _weights(
    given: Weights, hparams: dict[str, Any], source: Side, target: Side,
) -> dict[str, np.ndarray]:
    """Our weights by their path in the model."""
    found = dict[str, np.ndarray]()
    if hparams.get("share_vocab"):
        found["target_embedding.table"] = target.ids.table(given.take("embeddings/embedding_share"))
    else:
        found["source_embedding.table"] = source.ids.table(given.take("embeddings/encoder/embedding_encoder"))
        found["target_embedding.table"] = target.ids.table(given.take("embeddings/decoder/embedding_decoder"))
    root = "dynamic_seq2seq"
    layers, kind = hparams["num_encoder_layers"], hparams["encoder_type"]
    encoder = f"{root}/encoder"
    both = {"bi": layers // 2, "gnmt": 1}.get(kind, 0)
    for way, ours in (("fw", "forward"), ("bw", "backward")):
        for i in range(both):
            _put(found, f"encoder.{ours}.{i}", _cell(
                given, hparams, f"{encoder}/bidirectional_rnn/{way}/{_layer(i, both)}"))
    one_way = {"uni": layers, "gnmt": layers - 1}.get(kind, 0)
    for i in range(one_way):
        _put(found, f"encoder.forward.{both + i}", _cell(given, hparams, f"{encoder}/rnn/{_layer(i, one_way)}"))
    decoder, layers = f"{root}/decoder", hparams["num_decoder_layers"]
    attention = f"{decoder}/{'multi_rnn_cell/cell_0_attention/' if _is_gnmt(hparams) else ''}attention/"
    for i in range(layers):
        if not hparams["attention"]:
            scope = f"{decoder}/{_layer(i, layers)}"
        elif not _is_gnmt(hparams):
            scope = f"{attention}{_layer(i, layers)}"
        else:
            scope = f"{decoder}/multi_rnn_cell/cell_{i}/" if i else attention
        _put(found, f"decoder.cells.{i}", _cell(given, hparams, scope))
    if hparams["attention"]:
        _put(found, "decoder.attention", _attention(given, hparams["attention"], decoder, attention))
        if not _is_gnmt(hparams):
            kernel = given.take(f"{attention}attention_layer/kernel")
            found["decoder.combine.kernel"] = np.roll(kernel, -hparams["num_units"], 0)  # ours reads the context first
    return found | target.output(given.take(f"{decoder}/output_projection/kernel"))


def _put(found: dict[str, np.ndarray], path: str, parts: dict[str, np.ndarray]) -> None:
    found |= {f"{path}.{name}": part for name, part in parts.items()}


def _layer(i: int, layers: int) -> str:
    return f"multi_rnn_cell/cell_{i}/" if layers > 1 else ""


def _cell(given: Weights, hparams: dict[str, Any], scope: str) -> dict[str, np.ndarray]:
    """A cell's weights; the kernels of inputs and state are one there, and `forget_bias` is added when it runs."""
    kind, units = hparams["unit_type"], hparams["num_units"]
    scope += CELLS[kind][1]
    if kind == "gru":
        gates, candidate = given.take(f"{scope}/gates/kernel"), given.take(f"{scope}/candidate/kernel")
        reset, update = np.split(gates, 2, -1)
        reset_bias, update_bias = np.split(given.take(f"{scope}/gates/bias"), 2)
        kernel = np.concatenate([update, reset, candidate], -1)
        bias = np.concatenate([update_bias, reset_bias, given.take(f"{scope}/candidate/bias")])
        return {"kernel": kernel[:-units], "recurrent_kernel": kernel[-units:], "bias": bias}
    kernel = _reorder(given.take(f"{scope}/kernel"))
    found = {"kernel": kernel[:-units], "recurrent_kernel": kernel[-units:]}
    if kind == "lstm":
        found["bias"] = _reorder(given.take(f"{scope}/bias"))
    else:
        names = ("input", "forget", "transform", "output")
        found["scale"] = np.concatenate([given.take(f"{scope}/{name}/gamma") for name in names])
        found["bias"] = np.concatenate([given.take(f"{scope}/{name}/beta") for name in names])
        found["state_scale"], found["state_bias"] = (given.take(f"{scope}/state/{name}") for name in ("gamma", "beta"))
    found["bias"][units : 2 * units] += hparams.get("forget_bias", 1.0)
    return found


def _reorder(values: np.ndarray) -> np.ndarray:
    """Gates i, candidate, f, o to i, f, candidate, o."""
    first, candidate, forget, output = np.split(values, 4, -1)
    return np.concatenate([first, forget, candidate, output], -1)


def _attention(given: Weights, kind: str, decoder: str, scope: str) -> dict[str, np.ndarray]:
    ours, name = ATTENTIONS[kind]
    scope += name
    found = {"key_projection.kernel": given.take(f"{decoder}/memory_layer/kernel")}
    if ours == "scaled_general":
        found["scale"] = given.take(f"{scope}/attention_g")
    if name == "bahdanau_attention":
        found["query_projection.kernel"] = given.take(f"{scope}/query_layer/kernel")
        found["score_vector"] = given.take(f"{scope}/attention_v")
    if ours == "normed_additive":
        found |= {"scale": given.take(f"{scope}/attention_g"), "bias": given.take(f"{scope}/attention_b")}
    return found
