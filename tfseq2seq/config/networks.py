"""One table for each family of encoders and decoders."""

import math
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import Discriminator, Field, Tag

from tfseq2seq.config.table import NonNegativeInt, PositiveInt, Rate, Table

Size = Literal["tiny", "small", "base", "big"]

# preset -> the keys it sets, a family each; keys of the recipe's own win. The Transformer's base and big are those of
# Vaswani et al., 2017, table 3; the convolutional small is Gehring et al.'s for IWSLT and big theirs for WMT en-ro;
# the Conformer's small, base and big are the S, M and L of Gulati et al., 2020, table 1;
# the recurrent big has the depth and about the width of Luong et al., 2015, and the width of Wu et al., 2016 (8 layers
# there); base is half as deep.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "recurrent encoder": {
        "tiny": {"layers": 1, "units": 64}, "small": {"layers": 1, "units": 256},
        "base": {"layers": 2, "units": 512}, "big": {"layers": 4, "units": 512}},
    "recurrent decoder": {
        "tiny": {"layers": 1, "units": 128}, "small": {"layers": 1, "units": 512},
        "base": {"layers": 2, "units": 1024}, "big": {"layers": 4, "units": 1024}},
    "convolutional": {
        "tiny": {"layers": 2, "units": 128}, "small": {"layers": 4, "units": 256},
        "base": {"layers": 8, "units": 512}, "big": {"layers": 20, "units": 512}},
    "transformer": {
        "tiny": {"layers": 2, "units": 128, "heads": 4, "feed_forward_units": 512},
        "small": {"layers": 3, "units": 256, "heads": 4, "feed_forward_units": 1024},
        "base": {"layers": 6, "units": 512, "heads": 8, "feed_forward_units": 2048},
        "big": {"layers": 6, "units": 1024, "heads": 16, "feed_forward_units": 4096}},
    "conformer": {
        "tiny": {"layers": 2, "units": 128, "heads": 4, "feed_forward_units": 512},
        "small": {"layers": 16, "units": 144, "heads": 4, "feed_forward_units": 576},
        "base": {"layers": 16, "units": 256, "heads": 4, "feed_forward_units": 1024},
        "big": {"layers": 17, "units": 512, "heads": 8, "feed_forward_units": 2048}},
    "subsampling": {
        "tiny": {"units": 128}, "small": {"units": 144}, "base": {"units": 256}, "big": {"units": 512}},
}


class _Network(Table):
    """A family's table: `preset` sets the sizes that the table does not."""

    family: ClassVar[str]  # of PRESETS
    kind: str
    preset: Size | None = None
    units: PositiveInt = 256

    @property
    def output_units(self) -> int:
        """Width of the memory."""
        return self.units

    @property
    def state(self) -> tuple[str, int, int] | None:
        """Cell, layers and width of the last state, which a decoder may copy; None where there is no state."""
        return None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**PRESETS[cls.family].get(str(values.get("preset")), {}), **values}
        return values


class _Cells(_Network):
    # "gru" resets after the product, as cuDNN; "gru_reset_before" before it (Cho et al., 2014); "layer_norm_lstm"
    # normalizes each gate (Ba et al., 2016).
    cell: Literal["lstm", "gru", "gru_reset_before", "layer_norm_lstm"] = "lstm"
    layers: PositiveInt = 1
    units: PositiveInt = 256  # of each direction
    normalization: Literal["none", "layer", "rms"] = "none"  # of each layer's output
    dropout: Rate = 0.1  # on the input of every layer and on the output
    dropout_per_sequence: bool = False  # one mask for all steps (Gal & Ghahramani, 2016)


class _Recurrent(_Cells):
    residual: bool = False  # each layer of equal width adds its input to its output (Wu et al., 2016, section 3.1)
    residual_layers: NonNegativeInt | None = None  # how many of the highest layers do so; default: all


class RecurrentEncoder(_Recurrent):
    """A stack of LSTM or GRU layers, in one direction or both."""

    family = "recurrent encoder"
    kind: Literal["recurrent"] = "recurrent"
    bidirectional: bool = True
    bidirectional_layers: PositiveInt | None = None  # how many of the lowest layers are; default: all
    # "joined": a layer reads both directions of the one below; "apart": each direction is a stack of its own.
    directions: Literal["joined", "apart"] = "joined"
    # What the decoder is given of a layer in both directions: "both" side by side, as two layers "alternating", or the
    # "backward" one alone.
    last_states: Literal["both", "alternating", "backward"] = "both"
    merge_states: bool = False  # one linear layer makes the two directions' last states `units` wide
    pooling: Literal["last", "mean", "max", "attentive"] = "last"  # the fixed context: h_T, or pooled outputs

    @property
    def output_units(self) -> int:
        """Width of the memory."""
        return self.units * (2 if self._num_backward == self.layers else 1)

    @property
    def _num_backward(self) -> int:
        return min(self.layers, self.bidirectional_layers or self.layers) if self.bidirectional else 0

    @property
    def state(self) -> tuple[str, int, int] | None:
        """Cell, layers and width of the last state, which a decoder may copy; width 0 where layers have several."""
        if self.last_states == "alternating":
            return self.cell, self.layers + self._num_backward, self.units
        if self.last_states == "backward" or self.merge_states:
            return self.cell, self.layers, self.units
        return self.cell, self.layers, self.output_units if self._num_backward in (0, self.layers) else 0

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if self.directions == "apart" and (self.normalization != "none" or self._num_backward < self.layers):
            raise ValueError(
                "directions = \"apart\" needs all layers bidirectional and normalization = \"none\". Received: "
                f"{self._num_backward} of {self.layers} layers in both directions, normalization = "
                f"\"{self.normalization}\"")
        if self.merge_states and (self.last_states != "both" or 0 < self._num_backward < self.layers):
            raise ValueError(
                "merge_states needs last_states = \"both\" and all layers in both directions. Received: last_states = "
                f"\"{self.last_states}\", {self._num_backward} of {self.layers} layers in both directions")
        if self.merge_states and not self.bidirectional:
            raise ValueError(
                "merge_states needs two directions: set bidirectional = true, or merge_states = false. "
                "Received: bidirectional = false")
        return self


class PyramidalEncoder(_Cells):
    """A stack of LSTM or GRU layers in both directions, each over half of the steps below (Chan et al., 2016)."""

    family = "recurrent encoder"
    kind: Literal["pyramidal"] = "pyramidal"
    layers: PositiveInt = 4  # the lowest reads every step; 4 make one step of 8
    pooling: Literal["last", "mean", "max", "attentive"] = "last"  # the fixed context: h_T, or pooled outputs

    @property
    def output_units(self) -> int:
        """Width of the memory."""
        return 2 * self.units

    @property
    def state(self) -> tuple[str, int, int] | None:
        """Cell, layers and width of the last state, which a decoder may copy."""
        return (self.cell, self.layers, self.output_units)

    @property
    def shortening(self) -> int:
        """Steps of the source for each of the memory."""
        return 2 ** (self.layers - 1)


class SubsamplingEncoder(_Network):
    """Convolutions of every other step, to stand before another encoder in a sequence."""

    family = "subsampling"
    kind: Literal["subsampling"] = "subsampling"
    layers: PositiveInt = 2  # each halves the steps
    strides: list[Annotated[int, Field(ge=1, le=2)]] | None = None  # of each layer; default: 2 of all
    activation: Literal["relu", "gelu"] = "relu"
    pooling: Literal["mean", "max", "attentive"] = "mean"  # of the memory, to the fixed context
    dropout: Rate = 0.1  # on the output

    @property
    def shortening(self) -> int:
        """Steps of the source for each of the memory."""
        return math.prod(self.strides or [2] * self.layers)

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if self.strides is not None and len(self.strides) != self.layers:
            raise ValueError(
                f"strides needs one number a layer. Received: layers={self.layers}, strides={self.strides}")
        return self


class ConvolutionalEncoder(_Network):
    """Gated convolutions (Gehring et al., 2017)."""

    family = "convolutional"
    kind: Literal["convolutional"] = "convolutional"
    layers: PositiveInt = 4
    kernel_size: PositiveInt = 3  # steps, odd
    max_positions: PositiveInt = 1024  # learned positions; longer sources are refused
    pooling: Literal["mean", "max", "attentive"] = "mean"  # of the memory, to the fixed context
    dropout: Rate = 0.1  # on the embeddings and on the input of every layer

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size must be odd, so that it has a middle. Received: kernel_size={self.kernel_size}")
        return self


class _Transformer(_Network):
    layers: PositiveInt = 6
    units: PositiveInt = 512
    heads: PositiveInt = 8  # units must be a multiple of it
    feed_forward_units: PositiveInt = 2048
    activation: Literal["relu", "gelu", "gelu_tanh", "swish"] = "relu"
    gated: bool = False  # the feed-forward layer as GLU: activation(x W) * (x V) (Shazeer, 2020)
    norm: Literal["pre", "post"] = "pre"  # before each sublayer, or after its residual as Vaswani et al.
    normalization: Literal["layer", "rms"] = "layer"
    positions: Literal["sinusoidal", "learned", "relative", "rotary", "none"] = "sinusoidal"
    max_positions: PositiveInt = 1024  # of learned positions
    dropout: Rate = 0.1  # on the embeddings and on the output of every sublayer
    attention_dropout: Rate = 0.0  # on the attention weights
    feed_forward_dropout: Rate = 0.0  # inside the feed-forward layer, after the activation
    layer_drop: Rate = 0.0  # share of the training steps that each layer is left out of (Fan et al., 2020)
    head_units: PositiveInt | None = None  # width of a head; default: units / heads
    scale_attention: bool = True  # scores divided by sqrt(head_units); T5's are not (Raffel et al., 2020)
    use_bias: bool = True  # of linear maps
    epsilon: Annotated[float, Field(gt=0)] = 1e-6  # of normalizations, added to the variance
    # How sinusoidal positions lie: sine beside cosine, sines before cosines, or the latter with tensor2tensor's rates.
    waves: Literal["interleaved", "halves", "timing"] = "interleaved"
    first_position: NonNegativeInt = 0  # of sinusoidal positions
    num_buckets: PositiveInt = 32  # of relative positions
    max_distance: PositiveInt = 128  # of relative positions, steps; all beyond are alike
    normalize_embeddings: bool = False  # the sum of embeddings and positions

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        _check_heads(self.units, self.heads, self.positions, self.head_units)
        return self


def _check_heads(units: int, heads: int, positions: str, head_units: int | None = None) -> None:
    if head_units is None and units % heads:
        raise ValueError(f"units must be a multiple of heads. Received: units={units}, heads={heads}")
    if positions == "rotary" and (head_units or units // heads) % 2:
        raise ValueError(
            "positions = \"rotary\" turns pairs of units: units / heads must be even. "
            f"Received: units={units}, heads={heads}")


class TransformerEncoder(_Transformer):
    """Self-attention (Vaswani et al., 2017)."""

    family = "transformer"
    kind: Literal["transformer"] = "transformer"
    pooling: Literal["mean", "max", "attentive"] = "mean"  # of the memory, to the fixed context


class ConformerEncoder(_Network):
    """Self-attention and convolutions (Gulati et al., 2020)."""

    family = "conformer"
    kind: Literal["conformer"] = "conformer"
    layers: PositiveInt = 16
    units: PositiveInt = 256
    heads: PositiveInt = 4  # units must be a multiple of it
    feed_forward_units: PositiveInt = 1024
    kernel_size: PositiveInt = 31  # steps of the convolutions, odd
    positions: Literal["sinusoidal", "relative", "rotary", "none"] = "rotary"
    pooling: Literal["mean", "max", "attentive"] = "mean"  # of the memory, to the fixed context
    dropout: Rate = 0.1  # on the input, on every part's output, and inside the feed-forward layers
    attention_dropout: Rate = 0.0  # on the attention weights

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        _check_heads(self.units, self.heads, self.positions)
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size must be odd, so that it has a middle. Received: kernel_size={self.kernel_size}")
        return self


class _Composed(Table):
    encoders: list["Encoder"] = Field(min_length=2)


class SequenceEncoder(_Composed):
    """Each encoder reads what the one before it wrote."""

    kind: Literal["sequence"] = "sequence"

    @property
    def output_units(self) -> int:
        """Width of the memory."""
        return self.encoders[-1].output_units

    @property
    def state(self) -> tuple[str, int, int] | None:
        """The last encoder's."""
        return self.encoders[-1].state

    @property
    def pooling(self) -> str:
        """The last encoder's."""
        return self.encoders[-1].pooling

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if any(encoder.kind == "parallel" for encoder in self.encoders):
            raise ValueError(
                "a parallel encoder reads several sources and can only stand outermost. Received: one in a sequence")
        if any(encoder.pooling == "attentive" for encoder in self.encoders[:-1]):
            raise ValueError(
                "pooling = \"attentive\" would learn nothing in a sequence but in its last encoder, whose fixed "
                "context is the whole's. Received: an earlier encoder with pooling = \"attentive\"")
        return self


class ParallelEncoder(_Composed):
    """One encoder a source; the decoder attends to all of them. Needs `data.source_separator`."""

    kind: Literal["parallel"] = "parallel"

    @property
    def output_units(self) -> int:
        """Width of the memory."""
        return self.encoders[0].output_units

    @property
    def state(self) -> tuple[str, int, int] | None:
        """All encoders' layers one after the other; None where no encoder has a state."""
        states = [encoder.state for encoder in self.encoders if encoder.state]
        if not states:
            return None
        cells, layers, widths = zip(*states, strict=True)
        return "/".join(dict.fromkeys(cells)), sum(layers), widths[0] if len(set(widths)) == 1 else 0

    @property
    def pooling(self) -> str:
        """"attentive" where any encoder's is."""
        return "attentive" if any(encoder.pooling == "attentive" for encoder in self.encoders) else "mean"

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if any(encoder.kind == "parallel" for encoder in self.encoders):
            raise ValueError("a parallel encoder cannot hold another one: name all encoders in one list")
        widths = [encoder.output_units for encoder in self.encoders]
        if len(set(widths)) > 1:
            raise ValueError(
                "parallel encoders must write memories of one width (a bidirectional encoder's is twice its "
                f"units), as the decoder attends to all at once. Received widths: {', '.join(map(str, widths))}")
        return self


class _RecurrentDecoder(_Recurrent):
    units: PositiveInt = 512
    # How the encoder's last state becomes the decoder's first; auto: dense from a recurrent encoder, else pooled.
    bridge: Literal["auto", "dense", "copy", "pooled", "zero"] = "auto"


class RecurrentDecoder(_RecurrentDecoder):
    """A stack of LSTM or GRU layers that reads one fixed context at every step."""

    family = "recurrent decoder"
    kind: Literal["recurrent"] = "recurrent"
    reads_context: bool = True  # false: the source is the first state alone (Sutskever et al., 2014)


class AttentionalDecoder(_RecurrentDecoder):
    """A stack of LSTM or GRU layers that attends to the source."""

    family = "recurrent decoder"
    kind: Literal["attentional"] = "attentional"
    attention: Literal[
        "additive", "normed_additive", "dot", "scaled_dot", "general", "scaled_general", "concat", "multi_head",
        "location", "coverage"] = "general"
    attention_units: PositiveInt | None = None  # of additive ones: width where both meet; default: units
    attention_bias: bool = False  # of additive and concat: a bias there
    heads: PositiveInt = 4  # of multi_head
    location_width: PositiveInt = 31  # of location: steps of the memory that a filter over the last weights sees, odd
    input_feeding: bool = False  # Luong et al., 2015, section 3.3; costs a loop over target steps
    # Which layer's state looks at the source; all layers above "bottom" read the context too (Wu et al., 2016).
    attending_layer: Literal["top", "bottom"] = "top"
    upper_context: Literal["previous", "current"] = "previous"  # of "bottom": the step's whose context they read
    # What is fed, and shown to the output layer: W [context; state], or the context alone.
    attentional_vector: Literal["combined", "context"] = "combined"
    attentional_units: PositiveInt | None = None  # width of "combined"; default: units
    attentional_activation: Literal["tanh", "none"] = "tanh"  # of "combined"
    attentional_bias: bool = False  # of "combined"
    output: Literal["attention", "state"] = "attention"  # what the output layer sees: that vector, or the top state

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if self.attention == "multi_head" and self.units % self.heads:
            raise ValueError(
                "attention = \"multi_head\" needs units that are a multiple of heads. "
                f"Received: units={self.units}, heads={self.heads}")
        if self.attention_bias and self.attention not in ("additive", "concat"):
            raise ValueError(
                "attention_bias belongs to attention = \"additive\" and \"concat\". "
                f"Received: attention = \"{self.attention}\"")
        if not self.input_feeding and (self.attending_layer == "bottom" or self.output == "state"):
            raise ValueError(
                "attending_layer = \"bottom\" and output = \"state\" need input_feeding = true. Received: "
                f"attending_layer = \"{self.attending_layer}\", output = \"{self.output}\"")
        if self.location_width % 2 == 0:
            raise ValueError(
                f"location_width must be odd, so that it has a middle. Received: location_width={self.location_width}")
        return self


class TransformerDecoder(_Transformer):
    """Causal self-attention and attention to the source (Vaswani et al., 2017)."""

    family = "transformer"
    kind: Literal["transformer"] = "transformer"


def _kind(default: str):
    """Reads the tag of a table that may leave out its kind."""
    return lambda table: table.get("kind", default) if isinstance(table, dict) else getattr(table, "kind", None)


Encoder = Annotated[
    Annotated[RecurrentEncoder, Tag("recurrent")] | Annotated[ConvolutionalEncoder, Tag("convolutional")]
    | Annotated[TransformerEncoder, Tag("transformer")] | Annotated[PyramidalEncoder, Tag("pyramidal")]
    | Annotated[ConformerEncoder, Tag("conformer")] | Annotated[SubsamplingEncoder, Tag("subsampling")]
    | Annotated[SequenceEncoder, Tag("sequence")] | Annotated[ParallelEncoder, Tag("parallel")],
    Discriminator(_kind("recurrent"))]
Decoder = Annotated[
    Annotated[RecurrentDecoder, Tag("recurrent")] | Annotated[AttentionalDecoder, Tag("attentional")]
    | Annotated[TransformerDecoder, Tag("transformer")],
    Discriminator(_kind("attentional"))]
SequenceEncoder.model_rebuild()
ParallelEncoder.model_rebuild()
