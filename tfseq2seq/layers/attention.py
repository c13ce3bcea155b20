"""Attention of decoder states over encoder states, one formula a class.

Every class splits its work in two: `project(memory)` depends on the source alone and is done once
a source; `call(query, keys, values, mask)` is done at every step. The query axis T holds target steps
in training and the K hypotheses of one source in search, so nothing of the source is ever tiled.
"""

import keras
import tensorflow as tf

from tfseq2seq.layers.multihead import CrossAttention, attention_weights, mean_of_heads, padding_bias
from tfseq2seq.layers.padding import RealSteps


class Attention(keras.layers.Layer):
    """Averages encoder states, weighted by their match with the query.

    weights[t] = softmax over the unmasked s of score(query[t], values[s]). A subclass gives
    `project_keys(values)`, [B, S, E] -> [B, S, D'], what the scores need of the source, and
    `score(query, keys)`, [B, T, D] and [B, S, D'] -> [B, T, S].

    Args:
        units: Width of the query, at least 1.
    Call arguments:
        query: [B, T, D] float, decoder states.
        keys, values: from `project(memory)`, memory [B, S, E] float.
        mask: [B, S] bool, True on real steps.
    Returns:
        context [B, T, E] and weights [B, T, S] float32; each weights[b, t] sums to 1, and is 0 on padding
        unless the whole row is padding (then it is uniform, and the context the mean of the values).
    Raises:
        ValueError: `units` is below 1.
    """

    reads_attended = False  # whether `call` takes where earlier steps looked

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"{type(self).__name__} needs units >= 1. Received: units={units}.")
        self.units = units

    def project(self, memory):
        """[B, S, E] encoder states -> keys and values, for every step to come."""
        memory = tf.cast(memory, self.compute_dtype)
        return self.project_keys(memory), memory

    def call(self, query, keys, values, mask, attended=None):
        return self.average(tf.cast(self.score(query, keys), tf.float32), values, mask)

    def average(self, scores, values, mask):
        """The context, and what `attention_weights` gives of scores [B, T, S] float32."""
        weights, given = attention_weights(tf.where(mask[:, None], scores, scores.dtype.min))
        return tf.matmul(tf.cast(weights, values.dtype), values), given

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tfseq2seq")
class DotAttention(Attention):
    """score[t, s] = query[t] . values[s] (Luong et al., 2015, arXiv:1508.04025, eq. 8 "dot").

    Raises:
        ValueError: the encoder states are not as wide as the query.
    """

    def project_keys(self, values):
        if values.shape[-1] != self.units:
            raise ValueError(
                f"Dot attention needs encoder states as wide as the decoder's: set model.decoder.units to "
                f"{values.shape[-1]}, or use attention = \"general\". Received: encoder {values.shape[-1]}, "
                f"decoder {self.units}.")
        return values

    def score(self, query, keys):
        return tf.matmul(query, keys, transpose_b=True)


@keras.saving.register_keras_serializable("tfseq2seq")
class GeneralAttention(Attention):
    """score[t, s] = query[t] . W values[s] (Luong et al., 2015, arXiv:1508.04025, eq. 8 "general")."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.key_projection = keras.layers.Dense(units, use_bias=False, dtype=self.dtype_policy)

    def project_keys(self, values):
        return self.key_projection(values)

    def score(self, query, keys):
        return tf.matmul(query, keys, transpose_b=True)


@keras.saving.register_keras_serializable("tfseq2seq")
class ScaledGeneralAttention(GeneralAttention):
    """score[t, s] = g query[t] . W values[s], g learned, 1 at first: "general" as TensorFlow's scaled Luong has it."""

    def build(self, query_shape, keys_shape, values_shape):
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def score(self, query, keys):
        return super().score(query * tf.cast(self.scale, query.dtype), keys)


@keras.saving.register_keras_serializable("tfseq2seq")
class AdditiveAttention(Attention):
    """score[t, s] = v . tanh(W_q query[t] + W_k values[s]) (Bahdanau et al., 2015, arXiv:1409.0473, A.1.2).

    Luong's "concat", v . tanh(W [query; values]), is the same with W = [W_q W_k], so both names lead here.
    `keras.layers.AdditiveAttention` has neither W_q nor W_k, hence this layer.

    Args:
        units: Width of the space where query and keys meet, at least 1.
        use_bias: Whether a bias is added there.
    """

    def __init__(self, units, use_bias=False, **kwargs):
        super().__init__(units, **kwargs)
        self.use_bias = use_bias
        self.query_projection = keras.layers.Dense(units, use_bias=use_bias, dtype=self.dtype_policy)
        self.key_projection = keras.layers.Dense(units, use_bias=False, dtype=self.dtype_policy)

    def build(self, query_shape, keys_shape, values_shape):
        self.score_vector = self.add_weight(name="score_vector", shape=(self.units,), initializer="glorot_uniform")

    def project_keys(self, values):
        return self.key_projection(values)

    def score(self, query, keys):
        hidden = tf.tanh(self.query_projection(query)[:, :, None] + keys[:, None])  # [B, T, S, units]
        return tf.einsum("btsd,d->bts", hidden, tf.cast(self.score_vector, hidden.dtype))

    def get_config(self):
        return {**super().get_config(), "use_bias": self.use_bias}


@keras.saving.register_keras_serializable("tfseq2seq")
class ScaledDotAttention(DotAttention):
    """score[t, s] = query[t] . values[s] / sqrt(units) (Vaswani et al., 2017, arXiv:1706.03762, eq. 1, one head)."""

    def score(self, query, keys):
        return super().score(query * self.units**-0.5, keys)


@keras.saving.register_keras_serializable("tfseq2seq")
class NormedAdditiveAttention(AdditiveAttention):
    """score[t, s] = g v / |v| . tanh(W_q query[t] + W_k values[s] + b): additive, with weight normalization.

    (Salimans & Kingma, 2016, arXiv:1602.07868, eq. 2; as in Luong's and Britz' systems, g starts at sqrt(1 / units).)
    """

    def build(self, query_shape, keys_shape, values_shape):
        super().build(query_shape, keys_shape, values_shape)
        self.scale = self.add_weight(
            name="scale", shape=(), initializer=keras.initializers.Constant(self.units**-0.5))
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def score(self, query, keys):
        vector = tf.cast(self.score_vector, tf.float32)
        vector *= tf.cast(self.scale, tf.float32) * tf.math.rsqrt(tf.reduce_sum(tf.square(vector)))
        hidden = tf.tanh(
            self.query_projection(query)[:, :, None] + keys[:, None] + tf.cast(self.bias, query.dtype))
        return tf.einsum("btsd,d->bts", hidden, tf.cast(vector, hidden.dtype))


class AttendedAttention(AdditiveAttention):
    """score[t, s] = v . tanh(W_q query[t] + W_k values[s] + f[t, s]), f made of where earlier steps looked.

    A subclass says what is remembered of them, and what f is.

    Args:
        units: Width of the query, at least 1.
    Call arguments:
        attended: [B, T, S] float32, what is remembered before each query.
        All others, and results: see `Attention`.
    """

    reads_attended = True

    def begin(self, mask):
        """What is remembered before the first step, [B, S] float32; mask is [B, S] bool, True on real steps."""
        raise NotImplementedError

    def remember(self, attended, weights):
        """What is remembered after a step: of [N, S] float32 before it and its weights, the same."""
        raise NotImplementedError

    def describe(self, attended):
        """f [B, T, S, units] of what is remembered [B, T, S]."""
        raise NotImplementedError

    def call(self, query, keys, values, mask, attended=None):
        looked = self.describe(tf.cast(attended, keys.dtype))
        hidden = tf.tanh(self.query_projection(query)[:, :, None] + keys[:, None] + looked)  # [B, T, S, units]
        scores = tf.einsum("btsd,d->bts", hidden, tf.cast(self.score_vector, hidden.dtype))
        return self.average(tf.cast(scores, tf.float32), values, mask)


@keras.saving.register_keras_serializable("tfseq2seq")
class LocationAttention(AttendedAttention):
    """f[t] = U (F * weights[t - 1]) + b (Chorowski et al., 2015, arXiv:1506.07503, eq. 8 and 9).

    The convolution F over the weights of the step before tells each source step whether it, or one beside it, was
    looked at; before the first step all were alike.

    Args:
        units: Width of the query, at least 1.
        filters: Number of convolutions over the weights.
        width: Source steps that each sees, odd.
    Raises:
        ValueError: `width` is even.
    """

    def __init__(self, units, filters=10, width=31, **kwargs):
        super().__init__(units, **kwargs)
        if width % 2 == 0:
            raise ValueError(f"LocationAttention needs an odd width, with a middle. Received: width={width}.")
        self.filters, self.width = filters, width
        self.location_projection = keras.layers.Dense(units, dtype=self.dtype_policy)  # U, and b

    def build(self, query_shape, keys_shape, values_shape):
        super().build(query_shape, keys_shape, values_shape)
        self.convolution = self.add_weight(
            name="convolution", shape=(self.width, 1, self.filters), initializer="glorot_uniform")

    def begin(self, mask):
        real = tf.cast(mask, tf.float32)
        return tf.math.divide_no_nan(real, tf.reduce_sum(real, 1, keepdims=True))

    def remember(self, attended, weights):
        return weights

    def describe(self, attended):
        shape = tf.shape(attended)
        rows = tf.reshape(attended, [-1, shape[2], 1])
        found = tf.nn.conv1d(rows, tf.convert_to_tensor(self.convolution), stride=1, padding="SAME")
        # Of no rows TensorFlow's convolution has a wrong width on processors with AVX-512.
        return self.location_projection(tf.reshape(found, [shape[0], shape[1], shape[2], self.filters]))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "width": self.width}


@keras.saving.register_keras_serializable("tfseq2seq")
class CoverageAttention(AttendedAttention):
    """f[t, s] = w_c c[t, s] + b, the coverage c[t] being the sum of the weights of all steps before t.

    (See et al., 2017, arXiv:1704.04368, eq. 10 and 11.) With `train.coverage_weight` it learns not to look twice.

    Args:
        units: Width of the query, at least 1.
    """

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.coverage_projection = keras.layers.Dense(units, dtype=self.dtype_policy)  # w_c, and b

    def begin(self, mask):
        return tf.zeros(tf.shape(mask))

    def remember(self, attended, weights):
        return attended + weights

    def describe(self, attended):
        return self.coverage_projection(attended[..., None])


@keras.saving.register_keras_serializable("tfseq2seq")
class MultiHeadAttention(Attention):
    """Several scaled dot attentions side by side, with projections of their own (Vaswani et al., 2017, 3.2.2).

    The weights are the mean over the heads.

    Args:
        units: Width of the query and of the context.
        heads: Number of heads; divides units.
    """

    def __init__(self, units, heads=4, **kwargs):
        super().__init__(units, **kwargs)
        self.heads = heads
        self.attention = CrossAttention(units, heads, name="attention", dtype=self.dtype_policy)

    def project(self, memory):
        """[B, S, E] encoder states -> keys and values, each [B, heads, S, D]."""
        steps = RealSteps(tf.ones(tf.shape(memory)[:2], tf.bool), remove=False)
        return self.attention.project(steps.pack(tf.cast(memory, self.compute_dtype)), steps)

    def call(self, query, keys, values, mask, attended=None):
        mixed, weights = self.attention.attend(self.attention.query(query), keys, values, padding_bias(mask))
        return self.attention.output(mixed), mean_of_heads(weights)

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}


ATTENTIONS = {
    "additive": AdditiveAttention,
    "normed_additive": NormedAdditiveAttention,
    "concat": AdditiveAttention,
    "dot": DotAttention,
    "scaled_dot": ScaledDotAttention,
    "general": GeneralAttention,
    "scaled_general": ScaledGeneralAttention,
    "multi_head": MultiHeadAttention,
    "location": LocationAttention,
    "coverage": CoverageAttention,
}


def make_attention(kind, units, heads=4, location_width=31, attention_units=None, use_bias=False, **kwargs):
    """The attention of a name for queries `units` wide.

    Only "multi_head" has several heads, only "location" a width; the additive ones meet in a space `attention_units`
    wide, default `units`, and "additive" and "concat" may have a bias there.
    """
    options = {"multi_head": {"heads": heads}, "location": {"width": location_width}}.get(kind, {})
    if issubclass(ATTENTIONS[kind], AdditiveAttention):
        units = attention_units or units
        if use_bias:
            options["use_bias"] = True
    return ATTENTIONS[kind](units, **options, **kwargs)
