"""Convolutions over steps: gated, halving, and of each unit by itself."""

import keras
import tensorflow as tf

from tfseq2seq.layers.base import Layer
from tfseq2seq.layers.dropout import Dropout
from tfseq2seq.layers.linear import Linear


@keras.saving.register_keras_serializable("tfseq2seq")
class GatedConvolution(Layer):
    """(GLU(conv(x)) + x) * sqrt(0.5), GLU([a; b]) = a * sigmoid(b).

    (Gehring et al., 2017, arXiv:1705.03122, section 3.2; the GLU is Dauphin et al.'s, 2017.) Weights start with
    variance 4 (1 - dropout) / fan_in, which keeps the variance of the activations (section 3.5 of the paper).

    Args:
        kernel_size: Steps that each output sees, odd, itself in the middle.
        dropout: Share of the inputs set to 0 in training, in [0, 1).
    Call arguments:
        inputs: [B, S, D] float, 0 on padding.
        mask: [B, S] bool, True on real steps.
        training: Whether dropout is on.
    Returns:
        [B, S, D] float, 0 on padding.
    Raises:
        ValueError: `kernel_size` is even.
    """

    def __init__(self, kernel_size, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"GatedConvolution needs an odd kernel_size, with a middle. Received: kernel_size={kernel_size}.")
        self.kernel_size, self.dropout = kernel_size, dropout
        self.drop = Dropout(dropout, dtype=self.dtype_policy)

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        deviation = (4 * (1 - self.dropout) / (self.kernel_size * width)) ** 0.5
        self.kernel = self.add_weight(
            name="kernel", shape=(self.kernel_size, width, 2 * width),
            initializer=keras.initializers.RandomNormal(stddev=deviation))
        self.bias = self.add_weight(name="bias", shape=(2 * width,), initializer="zeros")

    def call(self, inputs, mask, training=False):
        kernel = tf.convert_to_tensor(self.kernel)
        hidden = tf.nn.conv1d(self.drop(inputs, training=training), kernel, stride=1, padding="SAME")
        hidden = tf.nn.bias_add(hidden, tf.convert_to_tensor(self.bias))
        # Of no rows TensorFlow's convolution has a wrong width on processors with AVX-512.
        hidden = tf.reshape(hidden, [tf.shape(inputs)[0], tf.shape(inputs)[1], 2 * inputs.shape[-1]])
        linear, gate = tf.split(hidden, 2, -1)
        output = (linear * tf.sigmoid(gate) + inputs) * 0.5**0.5
        return output * tf.cast(mask, output.dtype)[:, :, None]

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size, "dropout": self.dropout}


@keras.saving.register_keras_serializable("tfseq2seq")
class HalvingConvolution(Layer):
    """relu(W [x[2t - 1]; x[2t]; x[2t + 1]] + b): a convolution of three steps at every other one, zeros at the ends.

    (Of the features of speech, as before the Transformer of Dong et al., 2018, there over time and frequency.)

    Args:
        units: Width of the output.
        stride: Steps from one output to the next; 1 halves nothing.
        activation: "relu" or "gelu".
    Call arguments:
        inputs: [B, S, D] float, 0 on padding.
        mask: [B, S] bool, True on real steps.
    Returns:
        [B, ceil(S / stride), units] float, 0 on padding, and its mask: step t is real where step `stride` t was.
    """

    def __init__(self, units, stride=2, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.units, self.stride, self.activation = units, stride, activation
        self.linear = Linear(units, name="linear", dtype=self.dtype_policy)

    def call(self, inputs, mask):
        # Not a padding of "SAME", which stands elsewhere where the number of steps is even.
        padded = tf.pad(inputs, [[0, 0], [1, 1], [0, 0]])
        last = tf.shape(inputs)[1] - 1
        windows = tf.concat([padded[:, i : i + last + 1 : self.stride] for i in range(3)], -1)  # [B, S', 3 D]
        mask = mask[:, :: self.stride]
        output = self.linear(windows)
        output = tf.nn.gelu(output) if self.activation == "gelu" else tf.nn.relu(output)
        return output * tf.cast(mask, output.dtype)[:, :, None], mask

    def get_config(self):
        return {
            **super().get_config(), "units": self.units, "stride": self.stride, "activation": self.activation}


@tf.custom_gradient
def depthwise_convolution(inputs, kernel):
    """y[t] = sum over i of kernel[i] * x[t + i - r], r = (K - 1) / 2: each unit by itself, zeros at the ends.

    A sum of shifted products: of the gradient of TensorFlow's own a CPU makes a loop over single values.

    Args:
        inputs: [B, T, D] float.
        kernel: [K, D] float, K odd.
    Returns:
        [B, T, D] float.
    """
    size, length = kernel.shape[0], tf.shape(inputs)[1]

    def shifted(values):
        padded = tf.pad(values, [[0, 0], [size // 2, size // 2], [0, 0]])
        return [padded[:, i : i + length] for i in range(size)]

    def gradient(upstream):
        towards_kernel = tf.stack([tf.reduce_sum(part * upstream, [0, 1]) for part in shifted(inputs)])
        return depthwise_convolution(upstream, kernel[::-1]), towards_kernel

    return tf.add_n([part * kernel[i] for i, part in enumerate(shifted(inputs))]), gradient
