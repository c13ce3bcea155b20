"""The Conformer's layers, on the rows of real steps."""

import keras
import tensorflow as tf

from tfseq2seq.layers.base import check_name
from tfseq2seq.layers.convolution import depthwise_convolution
from tfseq2seq.layers.dropout import Dropout
from tfseq2seq.layers.linear import Linear
from tfseq2seq.layers.multihead import SelfAttention
from tfseq2seq.layers.normalization import LayerNorm
from tfseq2seq.layers.positions import RelativeBias, rotate, sinusoids
from tfseq2seq.layers.transformer import FeedForward, Residual

POSITIONS = ("sinusoidal", "relative", "rotary", "none")


@keras.saving.register_keras_serializable("tfseq2seq")
class ConvolutionModule(keras.layers.Layer):
    """W' swish(normalize(depthwise(GLU(W x + b)))) + b' (Gulati et al., 2020, arXiv:2005.08100, figure 2).

    Each vector is normalized by itself: the paper's batch normalization would let a sentence's values hang on its
    company and on the padding there.

    Args:
        units: Width.
        kernel_size: Steps that each output sees, odd, itself in the middle.
    Call arguments:
        rows: [R, units] float.
        steps: `RealSteps`.
    Returns:
        [R, units] float.
    """

    def __init__(self, units, kernel_size, **kwargs):
        super().__init__(**kwargs)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"ConvolutionModule needs an odd kernel_size, with a middle. Received: kernel_size={kernel_size}.")
        self.units, self.kernel_size = units, kernel_size
        policy = self.dtype_policy
        self.enter = Linear(2 * units, parts=2, name="enter", dtype=policy)
        self.normalize = LayerNorm(name="normalize", dtype=policy)
        self.leave = Linear(units, name="leave", dtype=policy)

    def build(self, rows_shape):
        self.kernel = self.add_weight(
            name="kernel", shape=(self.kernel_size, self.units),
            initializer=keras.initializers.RandomUniform(-self.kernel_size**-0.5, self.kernel_size**-0.5))
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def call(self, rows, steps):
        linear, gate = tf.split(self.enter(rows), 2, -1)
        padded = steps.unpack(linear * tf.sigmoid(gate))  # [B, S, units], 0 on padding
        hidden = steps.pack(depthwise_convolution(padded, tf.convert_to_tensor(self.kernel)))
        hidden = tf.nn.bias_add(hidden, tf.convert_to_tensor(self.bias))
        return self.leave(tf.nn.silu(self.normalize(hidden)))

    def get_config(self):
        return {**super().get_config(), "units": self.units, "kernel_size": self.kernel_size}


class ConformerLayer(keras.layers.Layer):
    """a = x + FFN(x) / 2, b = a + MHSA(a), c = b + Conv(b), y = normalize(c + FFN'(c) / 2), each part pre-norm.

    (Gulati et al., 2020, section 2.4.)

    Args:
        units: Width.
        heads: Number of heads; divides units.
        feed_forward_units: Width inside the feed-forward layers.
        kernel_size: See `ConvolutionModule`.
        rotary: Whether queries and keys are turned by their positions.
        dropout: Share set to 0 in training of each part's output, and inside the feed-forward layers, in [0, 1).
        attention_dropout: The same of the attention weights.
    """

    def __init__(
        self, units, heads, feed_forward_units, kernel_size, rotary=False, dropout=0.0, attention_dropout=0.0, **kwargs,
    ):
        super().__init__(**kwargs)
        policy, self.rotary = self.dtype_policy, rotary

        def residual(name):
            return Residual("pre", "layer", dropout, name=f"{name}_residual", dtype=policy)

        def feed_forward(name):
            return FeedForward(units, feed_forward_units, "swish", False, dropout, name=name, dtype=policy)

        self.first_feed_forward, self.first_residual = feed_forward("first_feed_forward"), residual("first")
        self.self_attention = SelfAttention(units, heads, attention_dropout, name="self_attention", dtype=policy)
        self.self_residual = residual("self_attention")
        self.convolution = ConvolutionModule(units, kernel_size, name="convolution", dtype=policy)
        self.convolution_residual = residual("convolution")
        self.last_feed_forward, self.last_residual = feed_forward("last_feed_forward"), residual("last")
        self.normalize = LayerNorm(name="normalize", dtype=policy)
        self.built = True  # the parts build themselves when they are first used

    def read(self, rows, steps, bias, positions, training=False):
        """All steps at once.

        Args:
            rows: [R, units] float, the real steps.
            steps: `RealSteps`.
            bias: [B, heads or 1, 1 or S, S] float32, added to the scores.
            positions: [S] int32.
            training: Whether dropout is on.
        Returns:
            [R, units] float.
        """
        rows = self._feed(self.first_feed_forward, self.first_residual, rows, training)
        projected = steps.unpack(self.self_attention.project(self.self_residual.before(rows)))
        query, keys, values = self.self_attention.split(projected)
        if self.rotary:
            query, keys = rotate(query, positions), rotate(keys, positions)
        mixed, _ = self.self_attention.attend(query, keys, values, bias, training)
        rows = self.self_residual.after(rows, self.self_attention.output(steps.pack(mixed)), training)
        convolved = self.convolution(self.convolution_residual.before(rows), steps=steps)
        rows = self.convolution_residual.after(rows, convolved, training)
        return self.normalize(self._feed(self.last_feed_forward, self.last_residual, rows, training))

    def _feed(self, feed_forward, residual, rows, training):
        output = feed_forward(residual.before(rows), training=training)
        return residual.after(rows, 0.5 * output, training)


class ConformerStack(keras.layers.Layer):
    """The way in, and the layers.

    Args:
        layers: Number of layers, at least 1.
        positions: "sinusoidal", "relative", "rotary" or "none", see `layers.positions`; the paper's is another relative
            one (Dai et al., 2019).
        All others: See `ConformerLayer`.
    Raises:
        ValueError: an unknown kind of positions, heads that do not divide units, or an even kernel_size.
    """

    def __init__(
        self, layers, units, heads, feed_forward_units, kernel_size, positions="rotary", dropout=0.0,
        attention_dropout=0.0, **kwargs,
    ):
        super().__init__(**kwargs)
        check_name("ConformerStack", "positions", positions, POSITIONS)
        policy = self.dtype_policy
        self.units, self.positions = units, positions
        self.settings = {
            "layers": layers, "units": units, "heads": heads, "feed_forward_units": feed_forward_units,
            "kernel_size": kernel_size, "positions": positions, "dropout": dropout,
            "attention_dropout": attention_dropout}
        self.remove_padding = True  # see `RealSteps`; a model that XLA compiles turns it off
        self.drop = Dropout(dropout, dtype=policy)
        self.relative = RelativeBias(
            heads, True, name="relative_bias", dtype=policy) if positions == "relative" else None
        self.blocks = [
            ConformerLayer(
                units, heads, feed_forward_units, kernel_size, positions == "rotary", dropout, attention_dropout,
                name=f"layer_{i}", dtype=policy)
            for i in range(layers)]

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        self.enter = Linear(self.units, name="enter", dtype=self.dtype_policy) if width != self.units else None
        self.built = True

    def begin(self, inputs, positions, training):
        """[B, S, X] to [B, S, units], with their positions [S] where these are added."""
        if not self.built:  # not called as a layer, which would do it
            self.build(inputs.shape)
        hidden = tf.cast(inputs, self.compute_dtype)
        if self.enter is not None:
            hidden = self.enter(hidden)
        if self.positions == "sinusoidal":
            hidden += tf.cast(sinusoids(positions, self.units), hidden.dtype)
        return self.drop(hidden, training=training)

    def score_bias(self, positions):
        """[1, heads, S, S] float32 from the distances, or 0."""
        return 0.0 if self.relative is None else tf.cast(self.relative(positions, positions), tf.float32)[None]
