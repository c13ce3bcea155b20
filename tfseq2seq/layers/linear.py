"""The affine map, on rows."""

import keras
import tensorflow as tf

from tfseq2seq.layers.base import Layer
from tfseq2seq.layers.product import multiply


@keras.saving.register_keras_serializable("tfseq2seq")
class Linear(Layer):
    """x W + b on the last axis.

    As `keras.layers.Dense`, with a bias whose gradient is one operation, and with several maps of one input
    side by side: each of `parts` columns starts as a matrix of its own would (Glorot & Bengio, 2010).

    Args:
        units: Width of the output, at least 1.
        use_bias: Whether b is added.
        parts: Number of maps whose outputs stand side by side; divides units.
    Call arguments:
        inputs: [..., D] float.
    Returns:
        [..., units] float.
    """

    def __init__(self, units, use_bias=True, parts=1, **kwargs):
        super().__init__(**kwargs)
        self.units, self.use_bias, self.parts = units, use_bias, parts

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        limit = (6.0 / (width + self.units // self.parts)) ** 0.5
        self.kernel = self.add_weight(
            name="kernel", shape=(width, self.units), initializer=keras.initializers.RandomUniform(-limit, limit))
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros") if self.use_bias else None

    def call(self, inputs):
        rows = tf.reshape(inputs, [-1, inputs.shape[-1]]) if inputs.shape.rank != 2 else inputs
        output = multiply(rows, self.kernel)
        if self.bias is not None:
            output = tf.nn.bias_add(output, tf.convert_to_tensor(self.bias))
        if inputs.shape.rank == 2:
            return output
        output = tf.reshape(output, tf.concat([tf.shape(inputs)[:-1], [self.units]], 0))
        output.set_shape([*inputs.shape[:-1], self.units])
        return output

    def get_config(self):
        return {**super().get_config(), "units": self.units, "use_bias": self.use_bias, "parts": self.parts}
