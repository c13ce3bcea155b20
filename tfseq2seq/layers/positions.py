"""Where a step stands: added to the input, added to the attention's scores, or turned into its queries and keys."""

import math

import keras
import tensorflow as tf

WAVES = ("interleaved", "halves", "timing")


def sinusoids(positions, units, waves="interleaved"):
    """The sinusoidal position encoding.

    PE(p, 2i) = sin(p / 10000^(2i / units)), PE(p, 2i + 1) = cos(p / 10000^(2i / units))
    (Vaswani et al., 2017, arXiv:1706.03762, section 3.5).

    Args:
        positions: [T] int32, counted from 0.
        units: Width.
        waves: "interleaved", as above; "halves": all sines, then all cosines (Marian, Junczys-Dowmunt et al., 2018,
            arXiv:1804.00344); "timing": so too, with rates from 1 to 1 / 10000 and both reached (tensor2tensor, Vaswani
            et al., 2018, arXiv:1803.07416), and 0 in the last unit of an odd width.
    Returns:
        [T, units] float32.
    """
    if waves == "timing":
        half = units // 2
        rates = tf.exp(tf.range(half, dtype=tf.float32) * (-math.log(10_000.0) / max(half - 1, 1)))
    else:
        rates = tf.exp(tf.range(0, units, 2, dtype=tf.float32) * (-math.log(10_000.0) / units))
    angles = tf.cast(positions, tf.float32)[:, None] * rates  # [T, ceil(units / 2)]
    if waves == "interleaved":
        both = tf.stack([tf.sin(angles), tf.cos(angles)], -1)  # [T, ceil(units / 2), 2]
        return tf.reshape(both, [-1, 2 * rates.shape[0]])[:, :units]
    both = tf.concat([tf.sin(angles), tf.cos(angles)], -1)
    return tf.pad(both, [[0, 0], [0, 1]]) if waves == "timing" and units % 2 else both[:, :units]


def rotate(vectors, positions):
    """Rotary position embedding (Su et al., 2021, arXiv:2104.09864, eq. 34), of queries and of keys.

    Units i and i + D / 2 of a vector at position p are turned as a plane by the angle p / 10000^(2i / D), so that
    the product of a query and a key depends on the distance of their positions alone. The paper pairs units 2i and
    2i + 1, which is the same up to the order of the units.

    Args:
        vectors: [..., T, D] float, D even.
        positions: [T] int32.
    Returns:
        As `vectors`.
    """
    half = vectors.shape[-1] // 2
    rates = tf.exp(tf.range(half, dtype=tf.float32) * (-math.log(10_000.0) / half))
    angles = tf.cast(positions, tf.float32)[:, None] * rates  # [T, D / 2]
    sine, cosine = tf.cast(tf.sin(angles), vectors.dtype), tf.cast(tf.cos(angles), vectors.dtype)
    return _turn(vectors, sine, cosine)


@tf.custom_gradient
def _turn(vectors, sine, cosine):
    """Turns each plane; the gradient is turned back, where autodiff would add up slices that it fills with zeros."""

    def gradient(upstream):
        return _turn(upstream, -sine, cosine), None, None

    first, second = tf.split(vectors, 2, -1)
    return tf.concat([first * cosine - second * sine, second * cosine + first * sine], -1), gradient


@keras.saving.register_keras_serializable("tfseq2seq")
class LearnedPositions(keras.layers.Layer):
    """One learned vector a position (Gehring et al., 2017, arXiv:1705.03122, section 3.1).

    Args:
        max_positions: Number of positions.
        units: Width.
    Call arguments:
        positions: [T] int32, counted from 0.
    Returns:
        [T, units] float.
    Raises:
        InvalidArgumentError: a position is not below `max_positions`.
    """

    def __init__(self, max_positions, units, **kwargs):
        super().__init__(**kwargs)
        self.max_positions, self.units = max_positions, units

    def build(self, positions_shape):
        self.table = self.add_weight(
            name="table", shape=(self.max_positions, self.units),
            initializer=keras.initializers.RandomNormal(stddev=0.02))

    def call(self, positions):
        return tf.gather(tf.convert_to_tensor(self.table), positions)

    def get_config(self):
        return {**super().get_config(), "max_positions": self.max_positions, "units": self.units}


@keras.saving.register_keras_serializable("tfseq2seq")
class RelativeBias(keras.layers.Layer):
    """One learned scalar a head and a bucket of distances, added to the scores.

    (Raffel et al., 2020, arXiv:1910.10683, section 2.1.)

    Half of a direction's buckets hold one distance each; the others grow logarithmically up to `max_distance`, and the
    last one holds all beyond.

    Args:
        heads: Number of heads.
        bidirectional: Whether keys may stand after the query; then each direction has half of the buckets.
        num_buckets: Number of buckets.
        max_distance: Steps.
    Call arguments:
        query_positions: [T] int32.
        key_positions: [S] int32.
    Returns:
        [heads, T, S] float.
    """

    def __init__(self, heads, bidirectional, num_buckets=32, max_distance=128, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.bidirectional = heads, bidirectional
        self.num_buckets, self.max_distance = num_buckets, max_distance

    def build(self, query_positions_shape, key_positions_shape):
        self.table = self.add_weight(
            name="table", shape=(self.num_buckets, self.heads), initializer=keras.initializers.RandomNormal(stddev=0.1))

    def call(self, query_positions, key_positions):
        buckets = self.buckets(key_positions[None, :] - query_positions[:, None])  # [T, S]
        return tf.transpose(tf.gather(tf.convert_to_tensor(self.table), buckets), [2, 0, 1])

    def buckets(self, offsets):
        """[T, S] int32 key positions minus query positions -> bucket numbers."""
        number = self.num_buckets // 2 if self.bidirectional else self.num_buckets
        start = tf.where(offsets > 0, number, 0) if self.bidirectional else 0
        distance = tf.abs(offsets) if self.bidirectional else tf.maximum(-offsets, 0)
        exact = number // 2
        growth = tf.math.log(tf.cast(tf.maximum(distance, 1), tf.float32) / exact) / math.log(self.max_distance / exact)
        far = tf.minimum(exact + tf.cast(growth * (number - exact), tf.int32), number - 1)
        return start + tf.where(distance < exact, distance, far)

    def get_config(self):
        return {
            **super().get_config(), "heads": self.heads, "bidirectional": self.bidirectional,
            "num_buckets": self.num_buckets, "max_distance": self.max_distance}
