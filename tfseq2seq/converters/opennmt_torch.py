"""What OpenNMT-py 3 and Eole share: the architecture, under names that differ, and PyTorch's recurrent weights."""

import dataclasses
from typing import Any

import numpy as np

from tfseq2seq.converters.weights import ConversionError, Weights
from tfseq2seq.converters.words import Side
from tfseq2seq.layers.positions import sinusoids

# mlp activation -> ours, and whether it is gated.
ACTIVATIONS = {
    "relu": ("relu", False), "gelu": ("gelu", False), "silu": ("swish", False), "gated-gelu": ("gelu", True),
    "gated-silu": ("swish", True)}
NORMALIZATIONS = {"standard": "layer", "standardFP32": "layer", "rms": "rms"}
WAVES = {"SinusoidalInterleaved": "interleaved", "SinusoidalConcat": "timing"}
ATTENTIONS = {"dot": "dot", "general": "general", "mlp": "additive"}
CHECKED_STEPS = 512  # of a table of positions; later ones differ in the last digits
NOTES = [
    "text is cut at white space: give it the tokens that the model was trained with",
    "an unknown word is written as \u2047"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
    """How a system calls its weights; {i} is a layer."""

    source_embedding: str
    target_embedding: str
    encoder_layer: str
    decoder_layer: str
    encoder_norm: str  # before the self-attention, and so on
    decoder_norm: str
    cross_norm: str
    encoder_feed_norm: str
    decoder_feed_norm: str
    expand: str
    gate: str  # the map that is gated by the activation of `expand`
    contract: str
    position_tables: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a configuration says, whatever it calls it."""

    encoder: str  # "transformer", "rnn" or "brnn"
    decoder: str  # "transformer" or "rnn"
    layers: tuple[int, int]
    units: tuple[int, int]
    widths: tuple[int, int]  # of embeddings
    share_embeddings: bool
    share_output: bool
    dropout: float
    attention_dropout: float = 0.0
    heads: int = 8
    feed_forward: int = 2048
    activation: str = "relu"
    normalization: str = "standard"
    epsilon: float = 1e-6
    positions: str | None = None  # the name of sinusoidal ones, "Rotary", or None
    rotary_interleave: bool = True
    cell: str = "LSTM"
    input_feed: bool = True
    attention: str | None = "general"


class Reader:
    """Weights by their places in our model, and the [model] table; ConversionError for what has no counterpart."""

    def __init__(self, options: Options, names: Names, given: Weights, source: Side, target: Side):
        self.options, self.names, self.given = options, names, given
        self.source, self.target = source, target
        self.weights = dict[str, np.ndarray]()
        if options.widths[0] != options.widths[1]:
            raise ConversionError(
                f"{given.where}: both sides must have embeddings of one width to be imported. Received: "
                f"{options.widths}.")
        if (options.encoder == "transformer") != (options.decoder == "transformer"):
            raise ConversionError(
                f"{given.where}: encoder and decoder must both be Transformers or both recurrent to be imported. "
                f"Received: {options.encoder} and {options.decoder}.")
        share = {(False, False): "none", (True, False): "source_target", (False, True): "target_output",
                 (True, True): "all"}[options.share_embeddings, options.share_output]
        self.model: dict[str, Any] = {
            "source_end": False, "share_embeddings": share, "embedding_units": options.widths[0]}
        self._embeddings(share)
        self.architecture = self._transformer() if options.encoder == "transformer" else self._recurrent()

    def _take(self, name: str) -> np.ndarray:
        return self.given.take(name)

    def _embeddings(self, share: str) -> None:
        given, names = self.given, self.names
        first, second = names.source_embedding, names.target_embedding
        if share in ("source_target", "all") and first not in given:  # one copy of what is shared may be left out
            first, second = second, first
        table = self._take(first)
        if share in ("source_target", "all"):
            given.take_copy(second, table)
        else:
            self.weights["source_embedding.table"] = self.source.ids.table(table)
            table = self._take(second)
        self.weights["target_embedding.table"] = self.target.ids.table(table)
        bias = self._take("generator.bias") if "generator.bias" in given else None
        if share in ("target_output", "all"):
            given.take_copy("generator.weight", table)
            self.model["output_bias"] = True
            self.weights["output_bias.bias"] = self.target.ids.bias(bias)
        else:
            self.weights |= self.target.output(self._take("generator.weight").T, bias)

    # Transformer

    def _transformer(self) -> str:
        options = self.options
        if options.units[0] != options.units[1] or options.widths[0] != options.units[0]:
            raise ConversionError(
                f"{self.given.where}: a Transformer must have one width in all layers and embeddings to be imported. "
                f"Received: {options.units} and {options.widths}.")
        activation, gated = ACTIVATIONS[options.activation]
        table: dict[str, Any] = {
            "kind": "transformer", "units": options.units[0], "heads": options.heads,
            "feed_forward_units": options.feed_forward, "activation": activation, "gated": gated, "norm": "pre",
            "normalization": NORMALIZATIONS[options.normalization], "epsilon": options.epsilon,
            "dropout": options.dropout, "attention_dropout": options.attention_dropout,
            "feed_forward_dropout": options.dropout}
        if options.positions in WAVES:
            table |= {"positions": "sinusoidal", "waves": WAVES[options.positions]}
            self._check_positions(sinusoids(np.arange(CHECKED_STEPS), options.units[0], table["waves"]).numpy())
        else:
            table["positions"] = "rotary" if options.positions == "Rotary" else "none"
            self.model["scale_embeddings"] = False
        for side, layers in zip(("encoder", "decoder"), options.layers, strict=True):
            self.model[side] = {**table, "layers": layers}
            for i in range(layers):
                self._layer(side, i)
            self._norm(f"{side}.stack.normalize", f"{side}.layer_norm")
        return (
            f"Transformer of {options.layers[0]} and {options.layers[1]} layers, {options.units[0]} units, "
            f"{options.heads} heads")

    def _check_positions(self, expected: np.ndarray) -> None:
        """Takes the tables of positions, where they are kept, which we compute."""
        for name in self.names.position_tables:
            if name not in self.given:
                continue
            found = self._take(name).reshape(-1, expected.shape[1])[:CHECKED_STEPS]
            if np.abs(found - expected[: len(found)]).max() > 1e-3:
                raise ConversionError(
                    f"{self.given.where}: the positions {name} must be {self.options.positions}, as the options say.")

    def _layer(self, side: str, i: int) -> None:
        names, ours = self.names, f"{side}.stack.blocks.{i}"
        decodes = side == "decoder"
        theirs = (names.decoder_layer if decodes else names.encoder_layer).format(i=i)
        first = names.decoder_norm if decodes else names.encoder_norm
        self._norm(f"{ours}.self_residual.normalize", f"{theirs}.{first}")
        scope = f"{theirs}.self_attn"
        self._linear(
            f"{ours}.self_attention.query_key_value", f"{scope}.linear_query", f"{scope}.linear_keys",
            f"{scope}.linear_values", turned=2)
        self._linear(f"{ours}.self_attention.output_projection", f"{scope}.final_linear")
        if decodes:
            self._norm(f"{ours}.cross_residual.normalize", f"{theirs}.{names.cross_norm}")
            scope = f"{theirs}.context_attn"
            self._linear(f"{ours}.cross_attention.query", f"{scope}.linear_query")
            self._linear(f"{ours}.cross_attention.key_value", f"{scope}.linear_keys", f"{scope}.linear_values")
            self._linear(f"{ours}.cross_attention.output_projection", f"{scope}.final_linear")
        feed = names.decoder_feed_norm if decodes else names.encoder_feed_norm
        self._norm(f"{ours}.feed_residual.normalize", f"{theirs}.{feed}")
        expand = [names.expand, names.gate] if ACTIVATIONS[self.options.activation][1] else [names.expand]
        self._linear(f"{ours}.feed_forward.expand", *(f"{theirs}.{name}" for name in expand))
        self._linear(f"{ours}.feed_forward.contract", f"{theirs}.{names.contract}")

    def _linear(self, ours: str, *theirs: str, turned: int = 0) -> None:
        """Maps side by side, whose matrices lie the other way about; one without a bias has zeros.

        `turned` of them are queries and keys, whose units rotary positions may pair otherwise.
        """
        kernels, biases = [], []
        for i, name in enumerate(theirs):
            kernel = self._take(f"{name}.weight").T
            bias = self._take(f"{name}.bias") if f"{name}.bias" in self.given else np.zeros(
                kernel.shape[1], np.float32)
            if i < turned and self.options.positions == "Rotary" and self.options.rotary_interleave:
                # Theirs turn units 2i and 2i + 1 of a head as a plane, ours i and i + D / 2.
                order = np.arange(len(bias)).reshape(self.options.heads, -1, 2).transpose(0, 2, 1).reshape(-1)
                kernel, bias = kernel[:, order], bias[order]
            kernels.append(kernel)
            biases.append(bias)
        self.weights[f"{ours}.kernel"] = np.concatenate(kernels, -1)
        self.weights[f"{ours}.bias"] = np.concatenate(biases)

    def _norm(self, ours: str, theirs: str) -> None:
        self.weights[f"{ours}.scale"] = self._take(f"{theirs}.weight")
        if NORMALIZATIONS[self.options.normalization] == "layer":
            self.weights[f"{ours}.bias"] = self._take(f"{theirs}.bias")

    # Recurrent

    def _recurrent(self) -> str:
        options, both = self.options, self.options.encoder == "brnn"
        cell = options.cell.lower()
        units = options.units[0] // 2 if both else options.units[0]
        self.model["encoder"] = {
            "kind": "recurrent", "cell": cell, "layers": options.layers[0], "units": units, "bidirectional": both,
            "dropout": options.dropout}
        for i in range(options.layers[0]):
            for way, ending in (("forward", ""), ("backward", "_reverse"))[: 2 if both else 1]:
                self._cell(f"encoder.{way}.{i}", "encoder.rnn", f"_l{i}{ending}")
        decoder: dict[str, Any] = {
            "cell": cell, "layers": options.layers[1], "units": options.units[1], "bridge": "copy",
            "dropout": options.dropout}
        for i in range(options.layers[1]):
            if options.input_feed:
                self._cell(f"decoder.cells.{i}", f"decoder.rnn.layers.{i}", "")
            else:
                self._cell(f"decoder.cells.{i}", "decoder.rnn", f"_l{i}")
        self.model["decoder"] = decoder | self._attention()
        return (
            f"{options.encoder} encoder of {options.layers[0]} and decoder of {options.layers[1]} layers, "
            f"{options.cell}, {options.units[1]} units, {options.attention} attention")

    def _attention(self) -> dict[str, Any]:
        options = self.options
        if options.attention in (None, "none"):
            if options.input_feed:
                raise ConversionError(
                    f"{self.given.where}: input_feed without attention cannot be imported. Received: input_feed = 1.")
            return {"kind": "recurrent", "reads_context": False}
        kind, ours = ATTENTIONS[options.attention], "decoder.attention"
        table = {"kind": "attentional", "attention": kind, "input_feeding": options.input_feed}
        if kind == "general":
            # Theirs multiplies the query, query' = W query; the scores are the same.
            self.weights[f"{ours}.key_projection.kernel"] = self._take("decoder.attn.linear_in.weight")
        if kind == "additive":
            table |= {"attention_bias": True, "attentional_bias": True, "attentional_activation": "none"}
            self.weights[f"{ours}.key_projection.kernel"] = self._take("decoder.attn.linear_context.weight").T
            self.weights[f"{ours}.query_projection.kernel"] = self._take("decoder.attn.linear_query.weight").T
            self.weights[f"{ours}.query_projection.bias"] = self._take("decoder.attn.linear_query.bias")
            self.weights[f"{ours}.score_vector"] = self._take("decoder.attn.v.weight")[0]
            self.weights["decoder.combine.bias"] = self._take("decoder.attn.linear_out.bias")
        self.weights["decoder.combine.kernel"] = self._take("decoder.attn.linear_out.weight").T
        return table

    def _cell(self, ours: str, scope: str, ending: str) -> None:
        """PyTorch's gates: i, f, g, o as ours; of a GRU r, z, n, where ours begin with z."""
        kernels = [self._take(f"{scope}.weight_{name}{ending}").T for name in ("ih", "hh")]
        biases = [self._take(f"{scope}.bias_{name}{ending}") for name in ("ih", "hh")]
        if self.options.cell == "GRU":
            def update_first(values: np.ndarray) -> np.ndarray:
                reset, update, candidate = np.split(values, 3, -1)
                return np.concatenate([update, reset, candidate], -1)

            kernels, biases = [[update_first(each) for each in part] for part in (kernels, biases)]
        self.weights[f"{ours}.kernel"], self.weights[f"{ours}.recurrent_kernel"] = kernels
        self.weights[f"{ours}.bias"] = np.stack(biases) if self.options.cell == "GRU" else biases[0] + biases[1]


# How both search: an end takes a place among the best for a step; the length counts the start token too.
DECODE = {
    "beam_size": 5, "finish": "narrow", "stop": "top", "end_length": 2, "length_penalty_kind": "length",
    "length_penalty": 1.0, "max_length": 250, "cut": True}
