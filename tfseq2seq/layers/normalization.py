"""Normalization of each vector by its own statistics."""

import keras
import tensorflow as tf

from tfseq2seq.layers.base import Layer


def _normalize(inputs, scale, epsilon, centered):
    """(x - mean) / sqrt(variance + epsilon) * scale over the last axis, without the mean unless `centered`.

    The gradient is written out: dx = r (g - mean(g) - y mean(g y)), g = scale * dy, r = 1 / sqrt(variance + epsilon)
    and y the normalized x. Autodiff takes three times the operations.
    """

    @tf.custom_gradient
    def normalize(inputs, scale):
        hidden = tf.cast(inputs, tf.float32)
        if centered:
            hidden -= tf.reduce_mean(hidden, -1, keepdims=True)
        inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(hidden), -1, keepdims=True) + epsilon)
        normalized = hidden * inverse

        def gradient(upstream):
            upstream = tf.cast(upstream, tf.float32)
            product = upstream * normalized
            scaled = upstream * scale
            inner = scaled - normalized * tf.reduce_mean(product * scale, -1, keepdims=True)
            if centered:
                inner -= tf.reduce_mean(scaled, -1, keepdims=True)
            scale_gradient = tf.reduce_sum(tf.reshape(product, [-1, inputs.shape[-1]]), 0)
            return tf.cast(inner * inverse, inputs.dtype), scale_gradient

        return tf.cast(normalized * scale, inputs.dtype), gradient

    return normalize(inputs, scale)


class _Normalization(Layer):
    """See the subclasses.

    Args:
        epsilon: Added to the variance, above 0.
    Call arguments:
        inputs: [..., D] float; the statistics are taken in float32.
    Returns:
        As the inputs.
    """

    centered: bool

    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, inputs_shape):
        self.scale = self.add_weight(
            name="scale", shape=(inputs_shape[-1],), initializer="ones", autocast=False)
        self.bias = self.add_weight(
            name="bias", shape=(inputs_shape[-1],), initializer="zeros") if self.centered else None

    def call(self, inputs):
        output = _normalize(inputs, tf.convert_to_tensor(self.scale), self.epsilon, self.centered)
        return output if self.bias is None else tf.nn.bias_add(output, tf.convert_to_tensor(self.bias))

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("tfseq2seq")
class LayerNorm(_Normalization):
    """(x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias (Ba et al., 2016, arXiv:1607.06450, eq. 4)."""

    centered = True


@keras.saving.register_keras_serializable("tfseq2seq")
class RMSNorm(_Normalization):
    """x / sqrt(mean(x^2) + epsilon) * scale (Zhang & Sennrich, 2019, arXiv:1910.07467, eq. 4)."""

    centered = False


NORMALIZATIONS = {"layer": LayerNorm, "rms": RMSNorm}
