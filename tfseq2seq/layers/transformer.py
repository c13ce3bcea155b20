"""The Transformer's layers, on the rows of real steps."""

from typing import Any

import keras
import tensorflow as tf

from tfseq2seq.layers.base import check_name
from tfseq2seq.layers.dropout import Dropout, LayerDrop
from tfseq2seq.layers.linear import Linear
from tfseq2seq.layers.multihead import CrossAttention, SelfAttention
from tfseq2seq.layers.normalization import NORMALIZATIONS
from tfseq2seq.layers.positions import WAVES, LearnedPositions, RelativeBias, rotate, sinusoids

ACTIVATIONS = {
    "relu": tf.nn.relu,
    "gelu": tf.nn.gelu,  # x times the normal distribution's function (Hendrycks & Gimpel, 2016, arXiv:1606.08415)
    "gelu_tanh": lambda values: tf.nn.gelu(values, approximate=True),  # as BERT, GPT-2 and T5 v1.1 compute it
    "swish": tf.nn.silu,
}

POSITIONS = ("sinusoidal", "learned", "relative", "rotary", "none")


@keras.saving.register_keras_serializable("tfseq2seq")
class FeedForward(keras.layers.Layer):
    """activation(x W_1 + b_1) W_2 + b_2 (Vaswani et al., 2017, arXiv:1706.03762, eq. 2).

    Gated: (activation(x W_1 + b_1) * (x V + c)) W_2 + b_2 (Shazeer, 2020, arXiv:2002.05202, eq. 6).

    Args:
        units: Width of the output.
        inner_units: Width between the two maps.
        activation: A name of `ACTIVATIONS`.
        gated: Whether the inner values are gated.
        dropout: Share of the inner values set to 0 in training, in [0, 1).
        use_bias: Whether the maps add one.
    Call arguments:
        rows: [R, units] float.
        training: Whether dropout is on.
    Returns:
        [R, units] float.
    """

    def __init__(
        self, units, inner_units, activation="relu", gated=False, dropout=0.0, use_bias=True, **kwargs,
    ):
        super().__init__(**kwargs)
        self.units, self.inner_units, self.use_bias = units, inner_units, use_bias
        self.activation, self.gated, self.dropout = activation, gated, dropout
        policy, parts = self.dtype_policy, 2 if gated else 1
        self.expand = Linear(parts * inner_units, use_bias, parts=parts, name="expand", dtype=policy)
        self.contract = Linear(units, use_bias, name="contract", dtype=policy)
        self.drop = Dropout(dropout, dtype=policy)

    def call(self, rows, training=False):
        inner = self.expand(rows)
        activate = ACTIVATIONS[self.activation]
        if self.gated:
            gate, linear = tf.split(inner, 2, -1)
            inner = activate(gate) * linear
        else:
            inner = activate(inner)
        return self.contract(self.drop(inner, training=training))

    def get_config(self):
        return {
            **super().get_config(), "units": self.units, "inner_units": self.inner_units,
            "activation": self.activation, "gated": self.gated, "dropout": self.dropout, "use_bias": self.use_bias}


@keras.saving.register_keras_serializable("tfseq2seq")
class Residual(keras.layers.Layer):
    """The connection around a sublayer f.

    "pre": x + dropout(f(normalize(x))) (Xiong et al., 2020, arXiv:2002.04745); "post": normalize(x + dropout(f(x)))
    (Vaswani et al., 2017, section 5.4).

    Args:
        norm: "pre" or "post".
        normalization: "layer" or "rms".
        dropout: Share of f's output set to 0 in training, in [0, 1).
        epsilon: The normalization's, added to the variance.
    """

    def __init__(self, norm="pre", normalization="layer", dropout=0.0, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.norm, self.normalization, self.dropout, self.epsilon = norm, normalization, dropout, epsilon
        self.normalize = NORMALIZATIONS[normalization](epsilon, dtype=self.dtype_policy)
        self.drop = Dropout(dropout, dtype=self.dtype_policy)
        self.built = True  # the parts build themselves when they are first used

    def before(self, rows):
        """What f reads."""
        return self.normalize(rows) if self.norm == "pre" else rows

    def after(self, rows, output, training):
        """x and f's output, joined."""
        joined = rows + self.drop(output, training=training)
        return joined if self.norm == "pre" else self.normalize(joined)

    def get_config(self):
        return {
            **super().get_config(), "norm": self.norm, "normalization": self.normalization, "dropout": self.dropout,
            "epsilon": self.epsilon}


class TransformerLayer(keras.layers.Layer):
    """One layer of the encoder, or with `cross_attention` of the decoder; each sublayer stands in a `Residual`.

    Args:
        units: Width.
        heads: Number of heads; divides units unless `head_units` is given.
        feed_forward_units: Width inside the feed-forward layer.
        activation, gated: See `FeedForward`.
        norm, normalization, epsilon: See `Residual`.
        rotary: Whether queries and keys of the self-attention are turned by their positions.
        cross_attention: Whether the layer looks at the source.
        dropout, attention_dropout, feed_forward_dropout: Shares set to 0 in training, in [0, 1).
        head_units, scale_attention: See `SelfAttention`'s head_units and scale.
        use_bias: Whether linear maps add a bias.
    """

    def __init__(
        self, units, heads, feed_forward_units, activation="relu", gated=False, norm="pre", normalization="layer",
        rotary=False, cross_attention=False, dropout=0.0, attention_dropout=0.0, feed_forward_dropout=0.0,
        head_units=None, scale_attention=True, use_bias=True, epsilon=1e-6, **kwargs,
    ):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.rotary = rotary

        def residual(name):
            return Residual(norm, normalization, dropout, epsilon, name=f"{name}_residual", dtype=policy)

        attention = (units, heads, attention_dropout, head_units, scale_attention, use_bias)
        self.self_attention = SelfAttention(*attention, name="self_attention", dtype=policy)
        self.self_residual = residual("self_attention")
        self.cross_attention: Any = None
        self.cross_residual: Any = None
        if cross_attention:
            self.cross_attention = CrossAttention(*attention, name="cross_attention", dtype=policy)
            self.cross_residual = residual("cross_attention")
        self.feed_forward = FeedForward(
            units, feed_forward_units, activation, gated, feed_forward_dropout, use_bias, name="feed_forward",
            dtype=policy)
        self.feed_residual = residual("feed_forward")
        self.built = True  # the parts build themselves when they are first used

    def read(self, rows, steps, bias, positions, memory=None, memory_bias=None, training=False):
        """All steps at once.

        Args:
            rows: [R, units] float, the real steps.
            steps: `RealSteps` of the sequence.
            bias: added to the scores of the self-attention, see `attend`.
            positions: [T] int32.
            memory: keys and values of the source, each [B, heads, S, D].
            memory_bias: [B, 1, 1, S] float32.
            training: Whether dropout is on.
        Returns:
            rows [R, units], and the weights on the source [B, heads, T, S] float32, or None.
        """
        projected = self.self_attention.project(self.self_residual.before(rows))
        query, keys, values = self._split(steps.unpack(projected), positions)
        mixed, weights = self.self_attention.attend(query, keys, values, bias, training)
        rows = self.self_residual.after(rows, self.self_attention.output(steps.pack(mixed)), training)
        weights = None
        if self.cross_attention is not None:
            query = steps.unpack(self.cross_attention.query(self.cross_residual.before(rows)))
            mixed, weights = self.cross_attention.attend(query, *memory, memory_bias, training)
            rows = self.cross_residual.after(rows, self.cross_attention.output(steps.pack(mixed)), training)
        return self._feed(rows, training), weights

    def step(self, rows, cache, extend, bias, positions, memory, memory_bias, training=False):
        """One step of N = B * K hypotheses, those of one source side by side.

        Args:
            rows: [N, units] float.
            cache: keys and values of the steps before, each [B, heads, C, D].
            extend: (cached, those of this step [B, heads, K, D]) -> [B, heads, C', D].
            bias: [B, heads or 1, K, C'] float32, added to the scores of the self-attention.
            positions: [K] int32, t everywhere.
            memory: keys and values of the source, each [B, heads, S, D].
            memory_bias: [B, 1, 1, S] float32.
            training: Whether dropout is on.
        Returns:
            rows [N, units], the cache with this step, weights on the source [B, heads, K, S] float32.
        """
        num_rows, num_sources = tf.shape(rows)[0], tf.shape(memory[0])[0]
        beam = tf.maximum(num_rows // tf.maximum(num_sources, 1), 1)  # 0 sources have 0 rows

        def of_sources(vectors):
            return tf.reshape(vectors, [num_sources, beam, vectors.shape[-1]])

        projected = self.self_attention.project(self.self_residual.before(rows))
        query, keys, values = self._split(of_sources(projected), positions)
        cache = tuple(extend(*pair) for pair in zip(cache, (keys, values), strict=True))
        mixed, _ = self.self_attention.attend(query, cache[0], cache[1], bias, training)
        mixed = tf.reshape(mixed, [num_rows, mixed.shape[-1]])
        rows = self.self_residual.after(rows, self.self_attention.output(mixed), training)
        query = of_sources(self.cross_attention.query(self.cross_residual.before(rows)))
        mixed, weights = self.cross_attention.attend(query, memory[0], memory[1], memory_bias, training)
        mixed = tf.reshape(mixed, [num_rows, mixed.shape[-1]])
        rows = self.cross_residual.after(rows, self.cross_attention.output(mixed), training)
        return self._feed(rows, training), cache, weights

    def _split(self, projected, positions):
        query, keys, values = self.self_attention.split(projected)
        if self.rotary:
            query, keys = rotate(query, positions), rotate(keys, positions)
        return query, keys, values

    def _feed(self, rows, training):
        output = self.feed_forward(self.feed_residual.before(rows), training=training)
        return self.feed_residual.after(rows, output, training)


class TransformerStack(keras.layers.Layer):
    """What encoder and decoder share: the way in, the layers, the last normalization.

    Args:
        layers: Number of layers, at least 1.
        positions: "sinusoidal", "learned", "relative", "rotary" or "none", see `layers.positions`.
        max_positions: Number of learned positions.
        causal: Whether no step sees a later one.
        layer_drop: Share of the training steps that a layer is left out of, see `LayerDrop`.
        waves: How sines and cosines lie, see `sinusoids`.
        first_position: What the first step's is, of sinusoidal positions.
        num_buckets, max_distance: Of relative positions, see `RelativeBias`.
        normalize_embeddings: Whether the sum of embeddings and positions is normalized (as BERT's, Devlin et al., 2019,
            arXiv:1810.04805).
        All others: See `TransformerLayer`.
    Raises:
        ValueError: an unknown activation, norm, normalization, waves or kind of positions, or heads that do not divide
            units.
    """

    def __init__(
        self, layers, units, heads, feed_forward_units, activation="relu", gated=False, norm="pre",
        normalization="layer", positions="sinusoidal", max_positions=1024, causal=False, dropout=0.0,
        attention_dropout=0.0, feed_forward_dropout=0.0, layer_drop=0.0, head_units=None, scale_attention=True,
        use_bias=True, epsilon=1e-6, waves="interleaved", first_position=0, num_buckets=32, max_distance=128,
        normalize_embeddings=False, **kwargs,
    ):
        super().__init__(**kwargs)
        for argument, value, known in (
                ("activation", activation, ACTIVATIONS), ("norm", norm, ("pre", "post")),
                ("normalization", normalization, NORMALIZATIONS), ("positions", positions, POSITIONS),
                ("waves", waves, WAVES)):
            check_name("TransformerStack", argument, value, known)
        policy = self.dtype_policy
        self.layers, self.units, self.heads = layers, units, heads
        self.positions, self.causal, self.norm = positions, causal, norm
        self.waves, self.first_position, self.head_units = waves, first_position, head_units or units // heads
        self.settings = {
            "layers": layers, "units": units, "heads": heads, "feed_forward_units": feed_forward_units,
            "activation": activation, "gated": gated, "norm": norm, "normalization": normalization,
            "positions": positions, "max_positions": max_positions, "dropout": dropout,
            "attention_dropout": attention_dropout, "feed_forward_dropout": feed_forward_dropout,
            "layer_drop": layer_drop, "head_units": head_units, "scale_attention": scale_attention,
            "use_bias": use_bias, "epsilon": epsilon, "waves": waves, "first_position": first_position,
            "num_buckets": num_buckets, "max_distance": max_distance, "normalize_embeddings": normalize_embeddings}
        self.remove_padding = True  # see `RealSteps`; a model that XLA compiles turns it off
        self.drop = Dropout(dropout, dtype=policy)
        self.layer_drop = LayerDrop(layer_drop, dtype=policy)
        self.learned = LearnedPositions(
            max_positions, units, name="positions", dtype=policy) if positions == "learned" else None
        self.relative = RelativeBias(
            heads, not causal, num_buckets, max_distance, name="relative_bias",
            dtype=policy) if positions == "relative" else None
        self.normalize_inputs = NORMALIZATIONS[normalization](
            epsilon, name="normalize_embeddings", dtype=policy) if normalize_embeddings else None
        self.blocks = [
            TransformerLayer(
                units, heads, feed_forward_units, activation, gated, norm, normalization, positions == "rotary",
                causal, dropout, attention_dropout, feed_forward_dropout, head_units, scale_attention, use_bias,
                epsilon, name=f"layer_{i}", dtype=policy)
            for i in range(layers)]
        # Post-norm layers end in a normalization of their own.
        self.normalize = NORMALIZATIONS[normalization](
            epsilon, name="normalize", dtype=policy) if norm == "pre" else None

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        self.enter = Linear(self.units, name="enter", dtype=self.dtype_policy) if width != self.units else None
        self.built = True

    def begin(self, inputs, positions, training):
        """[B, T, X] embedded steps to [B, T, units], with their positions [T] where these are added."""
        if not self.built:  # not called as a layer, which would do it
            self.build(inputs.shape)
        hidden = tf.cast(inputs, self.compute_dtype)
        if self.enter is not None:
            hidden = self.enter(hidden)
        if self.positions == "sinusoidal":
            positions = positions + self.first_position if self.first_position else positions
            hidden += tf.cast(sinusoids(positions, self.units, self.waves), hidden.dtype)
        elif self.learned is not None:
            hidden += self.learned(positions)
        if self.normalize_inputs is not None:
            hidden = self.normalize_inputs(hidden)
        return self.drop(hidden, training=training)

    def score_bias(self, query_positions, key_positions):
        """[1, heads, T, S] float32 from the distances, or 0."""
        if self.relative is None:
            return 0.0
        return tf.cast(self.relative(query_positions, key_positions), tf.float32)[None]

    def finish(self, rows):
        """The last normalization."""
        return rows if self.normalize is None else self.normalize(rows)
