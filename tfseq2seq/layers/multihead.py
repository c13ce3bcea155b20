"""Multi-head attention: projections on rows, and the attention between them."""

import contextlib
import contextvars
import math

import keras
import tensorflow as tf

from tfseq2seq.layers.base import check_heads
from tfseq2seq.layers.dropout import Dropout
from tfseq2seq.layers.linear import Linear

MASKED = -1e9  # added to the score of what must not be seen; finite, so that a row of padding stays finite


_in_logarithms = contextvars.ContextVar("in_logarithms", default=False)


@contextlib.contextmanager
def weights_in_logarithms():
    """Inside, what is traced gives the logarithms of attention weights in their place.

    They keep their gradient where a weight is 0 in float32, as it is from about 100 nats below the largest score on.
    """
    token = _in_logarithms.set(True)
    try:
        yield
    finally:
        _in_logarithms.reset(token)


def attention_weights(scores):
    """[..., S] float32 scores to the weights to use, and to those to give, see `weights_in_logarithms`."""
    weights = tf.nn.softmax(scores)
    return weights, tf.nn.log_softmax(scores) if _in_logarithms.get() else weights


def as_weights(given):
    """Weights that `attention_weights` gave as what they are, logarithms or not."""
    return tf.exp(given) if _in_logarithms.get() else given


def mean_of_heads(weights):
    """[B, heads, T, S] weights, as `attention_weights` gives them, to [B, T, S]."""
    if _in_logarithms.get():
        return tf.reduce_logsumexp(weights, 1) - math.log(weights.shape[1])
    return tf.reduce_mean(weights, 1)


def padding_bias(mask):
    """[B, S] bool, True on real steps, to the [B, 1, 1, S] float32 that is added to scores."""
    return tf.where(mask, 0.0, MASKED)[:, None, None]


def causal_bias(length):
    """[1, 1, T, T] float32, added to scores so that no step sees a later one."""
    return tf.where(tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0), 0.0, MASKED)[None, None]


def _sizes(tensor, *axes):
    """Sizes of some axes for a reshape: numbers where they are known, -1 for the first that is not.

    A decoding step of few rows is as long as its number of operations, and a shape of numbers needs none.
    """
    sizes, dynamic = [], None
    for axis in axes:
        size = tensor.shape[axis]
        if size is None and -1 in sizes:
            dynamic = tf.shape(tensor) if dynamic is None else dynamic
            size = dynamic[axis]
        sizes.append(-1 if size is None else size)
    return sizes


def split_heads(vectors, heads):
    """[B, T, heads * D] -> [B, heads, T, D]."""
    shape = [*_sizes(vectors, 0, 1), heads, vectors.shape[-1] // heads]
    return tf.transpose(tf.reshape(vectors, shape), [0, 2, 1, 3])


def join_heads(vectors):
    """[B, heads, T, D] -> [B, T, heads * D]."""
    shape = [*_sizes(vectors, 0, 2), vectors.shape[1] * vectors.shape[3]]
    return tf.reshape(tf.transpose(vectors, [0, 2, 1, 3]), shape)


def attend(query, keys, values, bias, dropout=None, training=False, scale=True):
    """softmax(Q K^T / sqrt(D) + bias) V in each head (Vaswani et al., 2017, arXiv:1706.03762, eq. 1).

    Args:
        query: [B, heads, T, D] float.
        keys: [B, heads, S, D] float.
        values: [B, heads, S, D] float.
        bias: [B or 1, heads or 1, T or 1, S] float32.
        dropout: `Dropout` of the weights, or None.
        training: Whether dropout is on.
        scale: Whether scores are divided by sqrt(D); T5's are not (Raffel et al., 2020, arXiv:1910.10683).
    Returns:
        [B, heads, T, D] and the weights [B, heads, T, S] float32 before dropout.
    """
    query = query * query.shape[-1] ** -0.5 if scale else query
    scores = tf.matmul(query, keys, transpose_b=True)  # [B, heads, T, S]
    weights, given = attention_weights(tf.cast(scores, tf.float32) + bias)
    used = tf.cast(weights, values.dtype)
    if dropout is not None:
        used = dropout(used, training=training)
    return tf.matmul(used, values), given


@keras.saving.register_keras_serializable("tfseq2seq")
class SelfAttention(keras.layers.Layer):
    """The projections of attention within one sequence: rows to queries, keys and values, and their mix to rows.

    Args:
        units: Width of rows, a multiple of `heads` unless `head_units` is given.
        heads: Number of heads.
        dropout: Share of the attention weights set to 0 in training, in [0, 1).
        head_units: Width of each head; default units / heads.
        scale: See `attend`.
        use_bias: Whether the projections add one.
    Raises:
        ValueError: `heads` does not divide `units`.
    """

    def __init__(self, units, heads, dropout=0.0, head_units=None, scale=True, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        if head_units is None:
            check_heads("SelfAttention", units, heads)
        self.units, self.heads, self.dropout = units, heads, dropout
        self.head_units, self.scale, self.use_bias = head_units or units // heads, scale, use_bias
        self.query_key_value = Linear(
            3 * heads * self.head_units, use_bias, parts=3, name="query_key_value", dtype=self.dtype_policy)
        self.output_projection = Linear(units, use_bias, name="output_projection", dtype=self.dtype_policy)
        self.drop = Dropout(dropout, dtype=self.dtype_policy)
        self.built = True  # the parts build themselves when they are first used

    def project(self, rows):
        """[R, units] -> [R, 3 * heads * D], queries, keys and values side by side."""
        return self.query_key_value(rows)

    def split(self, projected):
        """[B, T, 3 * heads * D] -> query, keys and values, each [B, heads, T, D]."""
        parts = tf.reshape(projected, [*_sizes(projected, 0, 1), 3, self.heads, self.head_units])
        return tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))

    def attend(self, query, keys, values, bias, training=False):
        """As the function `attend`, with heads joined: [B, T, heads * D] and weights."""
        mixed, weights = attend(query, keys, values, bias, self.drop, training, self.scale)
        return join_heads(mixed), weights

    def output(self, rows):
        """[R, heads * D] -> [R, units], the mix of the heads."""
        return self.output_projection(rows)

    def get_config(self):
        return {
            **super().get_config(), "units": self.units, "heads": self.heads, "dropout": self.dropout,
            "head_units": self.head_units, "scale": self.scale, "use_bias": self.use_bias}


@keras.saving.register_keras_serializable("tfseq2seq")
class CrossAttention(keras.layers.Layer):
    """The projections of attention from one sequence to another, whose keys and values are made once.

    Arguments as `SelfAttention`.
    """

    def __init__(self, units, heads, dropout=0.0, head_units=None, scale=True, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        if head_units is None:
            check_heads("CrossAttention", units, heads)
        self.units, self.heads, self.dropout = units, heads, dropout
        self.head_units, self.scale, self.use_bias = head_units or units // heads, scale, use_bias
        inner, policy = heads * self.head_units, self.dtype_policy
        self.query = Linear(inner, use_bias, name="query", dtype=policy)
        self.key_value = Linear(2 * inner, use_bias, parts=2, name="key_value", dtype=policy)
        self.output_projection = Linear(units, use_bias, name="output_projection", dtype=policy)
        self.drop = Dropout(dropout, dtype=self.dtype_policy)
        self.built = True  # the parts build themselves when they are first used

    def project(self, rows, steps):
        """Rows [R, E] of the source, and its `RealSteps`, to keys and values, each [B, heads, S, D]."""
        keys, values = tf.split(steps.unpack(self.key_value(rows)), 2, -1)
        return split_heads(keys, self.heads), split_heads(values, self.heads)

    def attend(self, query, keys, values, bias, training=False):
        """[B, T, heads * D] queries to their mix, as wide, and weights [B, heads, T, S]."""
        query = split_heads(query, self.heads)
        mixed, weights = attend(query, keys, values, bias, self.drop, training, self.scale)
        return join_heads(mixed), weights

    def output(self, rows):
        """[R, heads * D] -> [R, units], the mix of the heads."""
        return self.output_projection(rows)

    def get_config(self):
        return {
            **super().get_config(), "units": self.units, "heads": self.heads, "dropout": self.dropout,
            "head_units": self.head_units, "scale": self.scale, "use_bias": self.use_bias}
