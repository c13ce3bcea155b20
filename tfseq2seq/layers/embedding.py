"""Ids or features to vectors, and vectors to logits; one table may do both."""

import keras
import tensorflow as tf

from tfseq2seq.layers.linear import Linear
from tfseq2seq.layers.product import cut, widen

COPIED_VOCABULARY = 16_000  # ids; see `logits_of_steps`


@keras.saving.register_keras_serializable("tfseq2seq")
class Embedding(keras.layers.Layer):
    """One vector an id; `logits` uses the same table the other way (Press & Wolf, 2017, arXiv:1608.05859).

    Args:
        vocabulary_size: Number of ids, at least 1.
        units: Width of a vector, at least 1.
    Call arguments:
        ids: [...] int32, each in [0, vocabulary_size).
    Returns:
        [..., units] float.
    Raises:
        ValueError: a size is below 1.
    """

    def __init__(self, vocabulary_size, units, **kwargs):
        super().__init__(**kwargs)
        if vocabulary_size < 1 or units < 1:
            raise ValueError(
                "Embedding needs vocabulary_size >= 1 and units >= 1. "
                f"Received: vocabulary_size={vocabulary_size}, units={units}.")
        self.vocabulary_size = vocabulary_size
        self.units = units

    def build(self, ids_shape):
        # Variance 1 / units keeps tied logits of order 1 at the start.
        initializer = keras.initializers.RandomNormal(stddev=self.units**-0.5)
        self.table = self.add_weight(
            name="table", shape=(self.vocabulary_size, self.units), initializer=initializer)

    def call(self, ids):
        return tf.gather(tf.convert_to_tensor(self.table), ids)

    def logits(self, hidden):
        """[..., units] -> [..., vocabulary_size], the product with every vector of the table."""
        table = tf.cast(self.table, hidden.dtype)
        rows = tf.reshape(hidden, [-1, self.units])
        logits = tf.matmul(rows, table, transpose_b=True)
        return tf.reshape(logits, tf.concat([tf.shape(hidden)[:-1], [self.vocabulary_size]], 0))

    def logits_of_steps(self, dtype, num_rows=None):
        """A function as `logits`, for the few rows [N, units] of each of many decoding steps.

        For few rows TensorFlow multiplies by the transpose of a large matrix many times slower than by a matrix: 4 rows
        and 8,000 tokens of 256 take 5 ms, or 0.4 when the table was transposed before. A larger table is not copied:
        the product is taken the other way about, which for 32,000 tokens of 512 is as fast for 4 rows, and for 128 rows
        57 ms instead of 83.

        Args:
            dtype: of the rows.
            num_rows: about how many rows there will be, for `product.widen`; None leaves the kernel as it is.
        """
        table = tf.cast(self.table, dtype)
        if self.vocabulary_size > COPIED_VOCABULARY:
            return lambda rows: tf.transpose(tf.matmul(table, rows, transpose_b=True))
        kernel = tf.transpose(table)
        if num_rows is not None:
            kernel = widen(kernel, num_rows)
        return lambda rows: cut(tf.matmul(rows, kernel), self.vocabulary_size)

    def get_config(self):
        return {**super().get_config(), "vocabulary_size": self.vocabulary_size, "units": self.units}


@keras.saving.register_keras_serializable("tfseq2seq")
class OutputBias(keras.layers.Layer):
    """b of tied logits, E h + b (as Marian's, Junczys-Dowmunt et al., 2018, arXiv:1804.00344).

    Args:
        vocabulary_size: Number of ids.
    Call arguments:
        logits: [..., vocabulary_size] float.
    Returns:
        As the logits.
    """

    def __init__(self, vocabulary_size, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size

    def build(self, logits_shape):
        self.bias = self.add_weight(name="bias", shape=(self.vocabulary_size,), initializer="zeros")

    def call(self, logits):
        return tf.nn.bias_add(logits, tf.cast(self.bias, logits.dtype))

    def get_config(self):
        return {**super().get_config(), "vocabulary_size": self.vocabulary_size}


@keras.saving.register_keras_serializable("tfseq2seq")
class FeatureProjection(keras.layers.Layer):
    """x W + b of each frame's features: what an embedding is to tokens.

    Args:
        units: Width of a vector; None leaves the features as they are.
    Call arguments:
        features: [B, S, F + 1] float; the last one, which says whether the frame is real, is not read.
    Returns:
        [B, S, units] float.
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.linear = None if units is None else Linear(units, name="linear", dtype=self.dtype_policy)

    def call(self, features):
        features = tf.cast(features[:, :, :-1], self.compute_dtype)
        return features if self.linear is None else self.linear(features)

    def get_config(self):
        return {**super().get_config(), "units": self.units}
