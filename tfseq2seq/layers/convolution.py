"""The gated convolution."""

import keras
import tensorflow as tf

from tfseq2seq.layers.base import Layer
from tfseq2seq.layers.dropout import Dropout


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
        # A matrix product over windows: on some processors TensorFlow's convolution of no rows has a wrong width.
        size, steps, width = self.kernel_size, tf.shape(inputs)[1], inputs.shape[-1]
        padded = tf.pad(self.drop(inputs, training=training), [[0, 0], [size // 2, size // 2], [0, 0]])
        windows = tf.concat([padded[:, i : i + steps] for i in range(size)], -1)  # [B, S, size * D]
        kernel = tf.reshape(tf.convert_to_tensor(self.kernel), [size * width, 2 * width])
        hidden = tf.matmul(tf.reshape(windows, [-1, size * width]), kernel)
        hidden = tf.nn.bias_add(hidden, tf.convert_to_tensor(self.bias))
        hidden = tf.reshape(hidden, [tf.shape(inputs)[0], steps, 2 * width])
        linear, gate = tf.split(hidden, 2, -1)
        output = (linear * tf.sigmoid(gate) + inputs) * 0.5**0.5
        return output * tf.cast(mask, output.dtype)[:, :, None]

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size, "dropout": self.dropout}
