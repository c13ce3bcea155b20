"""OpenNMT-tf 2: a folder with a checkpoint, model_description.py and the vocabularies."""

from pathlib import Path
from typing import Any

import numpy as np

from tfseq2seq.converters.base import Conversion, Expected
from tfseq2seq.converters.opennmt_tf_description import Made, Named, read_description
from tfseq2seq.converters.weights import ConversionError, Weights
from tfseq2seq.converters.words import Side, read_checkpoint, read_json, read_lines

ENDING = "/.ATTRIBUTES/VARIABLE_VALUE"
IGNORED = r"(?!model/).*|.*/\.OPTIMIZER_SLOT/.*"  # an optimizer's and counters
DESCRIPTION = "model_description.py"
VOCABULARIES = {
    "source": ("source_vocab.txt", "source_vocabulary.txt", "src-vocab.txt", "src_vocab.txt", "vocab.joint.txt",
               "vocab.txt"),
    "target": ("target_vocab.txt", "target_vocabulary.txt", "tgt-vocab.txt", "tgt_vocab.txt", "vocab.joint.txt",
               "vocab.txt")}
START, END, PADDING = 1, 2, 0  # ids of every vocabulary; the unknown token's follows the last line
SHARING = {"NONE": "none", "SOURCE_TARGET_INPUT": "source_target", "TARGET": "target_output", "ALL": "all"}
ACTIVATIONS = {
    "nn.relu": "relu", "layers.gelu": "gelu_tanh", "nn.gelu": "gelu", "nn.swish": "swish", "nn.silu": "swish"}
CELLS = {"LSTMCell": "lstm", "GRUCell": "gru"}
BRIDGES = {"CopyBridge": "copy", "ZeroBridge": "zero"}
ATTENTIONS = {"LuongAttention": "general", "BahdanauAttention": "additive"}
NOTES = [
    "text is cut at white space: give it the tokens that the model was trained with",
    "sources are read without <s> and </s>, as OpenNMT-tf does unless data.source_sequence_controls says otherwise",
    "an unknown word is written as \u2047"]


def read_opennmt_tf(
    path: str, source_vocabulary: str | None = None, target_vocabulary: str | None = None,
) -> Conversion:
    """Reads a model folder of OpenNMT-tf.

    Args:
        path: the folder, or a checkpoint in it without its ending; model_description.py may lie one folder above.
        source_vocabulary, target_vocabulary: files, where they lie elsewhere or are called otherwise.
    Raises:
        ConversionError: files are missing or damaged, or the model has no counterpart.
    """
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    home = next((each for each in (folder, folder.parent) if (each / DESCRIPTION).is_file()), None)
    if home is None:
        raise ConversionError(f"{folder}: needs {DESCRIPTION}, which OpenNMT-tf keeps in the model folder.")
    described = read_description(home / DESCRIPTION)
    given = read_checkpoint(place, IGNORED, ENDING)
    source, target = (
        _side(named, (folder, home), name)
        for name, named in (("source", source_vocabulary), ("target", target_vocabulary)))
    reader = {"Transformer": _Transformer, "SequenceToSequence": _Recurrent}.get(described.name)
    if reader is None:
        raise ConversionError(
            f"{home / DESCRIPTION}: must build a Transformer or a SequenceToSequence to be imported. Received: "
            f"{described.name}.")
    found = reader(described, given, source, target)
    given.refuse_leftovers()
    tables = {
        "data": {"source_tokenizer": source.table, "target_tokenizer": target.table, **found.limits},
        "model": found.model, "decode": {
            "beam_size": 4, "length_penalty": 0.0, "finish": "shared", "end_length": 2, "cut": True,
            "max_length": min(250, found.longest - 1)},
        "export": {"max_source_length": min(256, found.longest)}}
    return Conversion(
        tables, source.tokenizer, target.tokenizer, found.weights, f"OpenNMT-tf: {found.architecture}",
        len(given.taken), list(NOTES), _expected(folder, target), target.ids)


def _side(named: str | None, folders: tuple[Path, ...], name: str) -> Side:
    places = [Path(named)] if named else [folder / each for folder in folders for each in VOCABULARIES[name]]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ConversionError(
            f"{places[0].parent}: needs the {name} vocabulary, a token a line, called {places[0].name}; or name it "
            f"with --{name}-vocabulary.")
    tokens = read_lines(path)
    return Side([*tokens, "<unk>"], len(tokens), START, END, PADDING)


def _expected(folder: Path, target: Side) -> list[Expected]:
    if not (folder / "expected.json").is_file():
        return []
    expected = read_json(folder / "expected.json")
    greedy = expected.get("decode", {}).get("greedy", {}).get("hypotheses", [])
    limit = expected.get("maximum_decoding_length")
    found = [
        target.expect(line, rows[0]["tokens"], rows[0]["ids"])
        for line, rows in zip(expected.get("source", []), greedy, strict=False)]
    return [Expected(each.source, each.text, each.ids, limit) for each in found]


class _Reader:
    """What both kinds of models have: embeddings, the output layer, and options that are known or refused."""

    limits: dict[str, int] = {}
    longest = 10_000

    def __init__(self, described: Made, given: Weights, source: Side, target: Side):
        self.given, self.source, self.target = given, source, target
        self.options, self.weights = dict(described.options), dict[str, np.ndarray]()
        share = self.options.pop("share_embeddings", Named("EmbeddingsSharingLevel.NONE"))
        if not isinstance(share, Named) or share.last not in SHARING:
            raise ConversionError(
                f"OpenNMT-tf: share_embeddings must be one of {', '.join(SHARING)} to be imported. Received: {share}.")
        self.share = SHARING[share.last]
        self.widths = [self._width(self.options.pop(f"{side}_inputter", None)) for side in ("source", "target")]
        self.model: dict[str, Any] = {"source_end": False, "share_embeddings": self.share}
        self.architecture = self.read()
        if self.options:
            name, value = next(iter(self.options.items()))
            raise ConversionError(f"OpenNMT-tf: the option {name} cannot be imported. Received: {name} = {value}.")
        self.model["embedding_units"] = self._embeddings()

    def read(self) -> str:
        """Reads encoder and decoder; returns what they are."""
        raise NotImplementedError

    def _width(self, inputter: Any) -> int | None:
        if inputter is None:
            return None
        options = dict(inputter.options) if isinstance(inputter, Made) else {}
        if not isinstance(inputter, Made) or inputter.name != "WordEmbedder" or set(options) - {
                "embedding_size", "dropout"}:
            raise ConversionError(
                f"OpenNMT-tf: inputters must be WordEmbedder(embedding_size=...) to be imported. Received: {inputter}.")
        return options["embedding_size"]

    def take(self, name: str) -> np.ndarray:
        return self.given.take(f"model/{name}")

    def option(self, options: dict[str, Any], name: str, default: Any, known: dict[Any, Any] | None = None) -> Any:
        """Takes an option; where `known` has its counterparts, by the end of a name."""
        value = options.pop(name, default)
        if known is None:
            return value
        key = getattr(value, "name", value)  # of "tf.nn.relu" the last two parts, or the last one
        if isinstance(key, str):
            parts = key.split(".")
            key = ".".join(parts[-2:]) if ".".join(parts[-2:]) in known else parts[-1]
        if key not in known or getattr(value, "options", None):
            names = ", ".join(str(each) for each in known if each is not None)
            raise ConversionError(f"OpenNMT-tf: {name} must be one of {names} to be imported. Received: {value}.")
        return known[key]

    def _embeddings(self) -> int:
        """The tables and the output layer: what is shared stands in the checkpoint under one of its names."""
        names = {
            "source": ["examples_inputter/features_inputter/embedding"],
            "target": ["examples_inputter/labels_inputter/embedding"],
            "output": ["decoder/output_layer/kernel", "decoder/output_layer/weight"]}
        tied = self.share in ("target_output", "all")
        if self.share in ("source_target", "all"):
            names["target"] = [*names["source"], *names["target"]]
        if tied:
            names["target"] = [*names["target"], *names["output"]]

        def first(side: str) -> np.ndarray:
            return self.take(next((name for name in names[side] if f"model/{name}" in self.given), names[side][0]))

        self.weights["target_embedding.table"] = self.target.ids.table(first("target"))
        if self.share in ("none", "target_output"):
            self.weights["source_embedding.table"] = self.source.ids.table(first("source"))
        name = "decoder/output_layer/bias"
        bias = self.take(name) if f"model/{name}" in self.given else None
        if tied:
            self.model["output_bias"] = True
            self.weights["output_bias.bias"] = self.target.ids.bias(bias)
        else:
            self.weights |= self.target.output(first("output"), bias)
        return self.weights["target_embedding.table"].shape[1]


class _Transformer(_Reader):
    def read(self) -> str:
        options = self.options
        layers = self.option(options, "num_layers", 6)
        layers = layers if isinstance(layers, tuple) else (layers, layers)
        units, heads = self.option(options, "num_units", 512), self.option(options, "num_heads", 8)
        if any(width not in (None, units) for width in self.widths):
            raise ConversionError(
                f"OpenNMT-tf: embedding_size must be num_units to be imported. Received: {self.widths} and {units}.")
        pre_norm = self.option(options, "pre_norm", True)
        table = {
            "kind": "transformer", "units": units, "heads": heads,
            "feed_forward_units": self.option(options, "ffn_inner_dim", 2048),
            "activation": self.option(options, "ffn_activation", Named("tf.nn.relu"), ACTIVATIONS),
            "norm": "pre" if pre_norm else "post", "epsilon": 1e-3,
            "dropout": self.option(options, "dropout", 0.1),
            "attention_dropout": self.option(options, "attention_dropout", 0.1),
            "feed_forward_dropout": self.option(options, "ffn_dropout", 0.1),
            **self._positions(options)}
        for name in ("attention_reduction", "mha_bias", "output_layer_bias"):  # told by the weights, or no answer's
            options.pop(name, None)
        for side, number in zip(("encoder", "decoder"), layers, strict=True):
            self.model[side] = {**table, "layers": number}
            for i in range(number):
                self._layer(side, i, pre_norm)
            if pre_norm:
                self._norm(f"{side}.stack.normalize", f"{side}/layer_norm")
            if table["positions"] == "learned":
                # Their positions begin with 1.
                self.weights[f"{side}.stack.learned.table"] = self.take(f"{side}/position_encoder/embedding")[1:]
        return f"Transformer of {layers[0]} and {layers[1]} layers, {units} units, {heads} heads, {table['norm']}-norm"

    def _positions(self, options: dict[str, Any]) -> dict[str, Any]:
        relative = self.option(options, "maximum_relative_position", None)
        if relative is not None:
            raise ConversionError(
                "OpenNMT-tf: maximum_relative_position (Shaw et al., 2018) cannot be imported. Received: "
                f"maximum_relative_position = {relative}.")
        encoder = self.option(options, "position_encoder_class", Named("SinusoidalPositionEncoder"))
        if encoder is None:
            return {"positions": "none"}
        name = getattr(encoder, "last", getattr(encoder, "name", encoder))
        inner = dict(getattr(encoder, "options", {}))
        if name == "PositionEmbedder":
            self.longest = inner.pop("maximum_position", 128)
            self.limits = {"max_source_length": self.longest, "max_target_length": self.longest}
        if name not in ("SinusoidalPositionEncoder", "PositionEmbedder") or inner:
            raise ConversionError(
                "OpenNMT-tf: position_encoder_class must be SinusoidalPositionEncoder or PositionEmbedder, without "
                f"options, or None, to be imported. Received: {encoder}.")
        if name == "PositionEmbedder":
            return {"positions": "learned", "max_positions": self.longest}
        return {"positions": "sinusoidal", "waves": "timing", "first_position": 1}

    def _layer(self, side: str, i: int, pre_norm: bool) -> None:
        ours, theirs = f"{side}.stack.blocks.{i}", f"{side}/layers/{i}"
        norm = "input_layer_norm" if pre_norm else "output_layer_norm"
        parts = [("self", f"{theirs}/self_attention"), ("feed", f"{theirs}/ffn")]
        if side == "decoder":
            parts.insert(1, ("cross", f"{theirs}/attention/0"))
        for part, scope in parts:
            self._norm(f"{ours}.{part}_residual.normalize", f"{scope}/{norm}")
            scope += "/layer"
            if part == "feed":
                self._linear(f"{ours}.feed_forward.expand", scope, "inner")
                self._linear(f"{ours}.feed_forward.contract", scope, "outer")
                continue
            ours_part = f"{ours}.{part}_attention"
            if part == "self":
                self._linear(f"{ours_part}.query_key_value", scope, "linear_queries", "linear_keys", "linear_values")
            else:
                self._linear(f"{ours_part}.query", scope, "linear_queries")
                self._linear(f"{ours_part}.key_value", scope, "linear_keys", "linear_values")
            self._linear(f"{ours_part}.output_projection", scope, "linear_output")

    def _linear(self, ours: str, scope: str, *names: str) -> None:
        """Maps side by side; one without a bias has zeros."""
        kernels = [self.take(f"{scope}/{name}/kernel") for name in names]
        biases = [
            self.take(f"{scope}/{name}/bias") if f"model/{scope}/{name}/bias" in self.given
            else np.zeros(kernel.shape[1], np.float32) for name, kernel in zip(names, kernels, strict=True)]
        self.weights[f"{ours}.kernel"] = np.concatenate(kernels, -1)
        self.weights[f"{ours}.bias"] = np.concatenate(biases)

    def _norm(self, ours: str, scope: str) -> None:
        self.weights |= {f"{ours}.scale": self.take(f"{scope}/gamma"), f"{ours}.bias": self.take(f"{scope}/beta")}


class _Recurrent(_Reader):
    def read(self) -> str:
        if None in self.widths or self.widths[0] != self.widths[1]:
            raise ConversionError(
                f"OpenNMT-tf: both inputters must have one embedding_size to be imported. Received: {self.widths}.")
        made = [self.option(self.options, side, None) for side in ("encoder", "decoder")]
        readers = {
            "RNNEncoder": self._rnn_encoder, "LSTMEncoder": self._lstm_encoder, "GNMTEncoder": self._gnmt_encoder,
            "RNNDecoder": self._decoder, "AttentionalRNNDecoder": self._decoder}
        for side, each in zip(("encoder", "decoder"), made, strict=True):
            if not isinstance(each, Made) or each.name not in readers or not each.name.lower().endswith(side):
                raise ConversionError(
                    f"OpenNMT-tf: the {side} must be one of "
                    f"{', '.join(name for name in readers if name.lower().endswith(side))} to be imported. Received: "
                    f"{getattr(each, 'name', each)}.")
            options = dict(each.options)
            self.model[side] = readers[each.name](each.name, options)
            if options:
                name, value = next(iter(options.items()))
                raise ConversionError(
                    f"OpenNMT-tf: the option {name} of {each.name} cannot be imported. Received: {name} = {value}.")
        tables = self.model["encoder"], self.model["decoder"]
        return (
            f"{made[0].name} of {tables[0]['layers']} and {made[1].name} of {tables[1]['layers']} layers, "
            f"{tables[1]['cell']}, {tables[0]['units']} and {tables[1]['units']} units")

    def _stack(self, options: dict[str, Any], cell: bool = True) -> dict[str, Any]:
        residual = self.option(options, "residual_connections", False)
        return {
            "layers": self.option(options, "num_layers", None), "units": self.option(options, "num_units", None),
            "dropout": self.option(options, "dropout", 0.3), **({"residual": True} if residual else {}),
            "cell": self.option(options, "cell_class", None, {None: "lstm", **CELLS}) if cell else "lstm"}

    def _both_ways(self, options: dict[str, Any]) -> bool:
        reducer = self.option(options, "reducer", Made("ConcatReducer", {}))
        both = self.option(options, "bidirectional", False)
        if both and getattr(reducer, "name", reducer) != "ConcatReducer":
            raise ConversionError(f"OpenNMT-tf: reducer must be ConcatReducer() to be imported. Received: {reducer}.")
        return both

    def _rnn_encoder(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        table, both = self._stack(options), self._both_ways(options)
        for way in ("forward", "backward")[: 2 if both else 1]:
            scope = f"encoder/rnn/rnn/{f'{way}_layer/' if both else ''}cell/cells"
            for i in range(table["layers"]):
                self._cell(f"encoder.{way}.{i}", f"{scope}/{i}")
        return {
            "kind": "recurrent", **table, "bidirectional": both, **({"directions": "apart"} if both else {})}

    def _lstm_encoder(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        table, both = self._stack(options, cell=False), self._both_ways(options)
        for i in range(table["layers"]):
            self._layer(i, f"encoder/rnn/layers/{i}", both)
        return {"kind": "recurrent", **table, "bidirectional": both}

    def _gnmt_encoder(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        table = self._stack(options, cell=False)
        for i in range(table["layers"]):
            self._layer(i, f"encoder/encoders/{min(i, 1)}/rnn/layers/{max(i - 1, 0)}", i == 0)
        return {"kind": "recurrent", **table, "bidirectional": True, "bidirectional_layers": 1, "residual": True,
                "residual_layers": table["layers"] - 1}

    def _layer(self, i: int, scope: str, both: bool) -> None:
        for way in ("forward", "backward")[: 2 if both else 1]:
            self._cell(f"encoder.{way}.{i}", f"{scope}/layer/rnn/{f'{way}_layer/' if both else ''}cell")

    def _decoder(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        table = self._stack(options)
        table["bridge"] = self.option(options, "bridge_class", None, {None: "zero", **BRIDGES})
        attends = name == "AttentionalRNNDecoder"
        scope = "decoder/cell/_cell/cells" if attends else "decoder/cell/cells"
        for i in range(table["layers"]):
            self._cell(f"decoder.cells.{i}", f"{scope}/{i}")
        if not attends:
            return {"kind": "recurrent", "reads_context": False, **table}
        self.option(options, "first_layer_attention", False, {False: False})
        activations = {"tanh": "tanh", None: "none"}
        attention = self.option(options, "attention_mechanism_class", Named("LuongAttention"), ATTENTIONS)
        mechanism, ours = "decoder/attention_mechanism", "decoder.attention"
        self.weights[f"{ours}.key_projection.kernel"] = self.take(f"{mechanism}/memory_layer/kernel")
        if attention == "additive":
            self.weights[f"{ours}.query_projection.kernel"] = self.take(f"{mechanism}/query_layer/kernel")
            self.weights[f"{ours}.score_vector"] = self.take(f"{mechanism}/attention_v")
        kernel = self.take("decoder/cell/_attention_layers/0/kernel")
        self.weights["decoder.combine.kernel"] = np.roll(kernel, -table["units"], 0)  # ours reads the context first
        return {
            "kind": "attentional", **table, "attention": attention, "input_feeding": True,
            "attentional_activation": self.option(
                options, "attention_layer_activation", Named("tf.math.tanh"), activations)}

    def _cell(self, ours: str, scope: str) -> None:
        """A Keras cell, which may stand in a wrapper."""
        wrapped = next((name for name in ("/layer", "/cell") if f"model/{scope}{name}/kernel" in self.given), "")
        for name in ("kernel", "recurrent_kernel", "bias"):
            self.weights[f"{ours}.{name}"] = self.take(f"{scope}{wrapped}/{name}")
