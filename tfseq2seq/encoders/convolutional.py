"""The convolutional encoder: gated convolutions over the source."""

import keras
import tensorflow as tf

from tfseq2seq.encoders.base import Encoder
from tfseq2seq.layers.convolution import GatedConvolution
from tfseq2seq.layers.dropout import Dropout
from tfseq2seq.layers.linear import Linear
from tfseq2seq.layers.positions import LearnedPositions
from tfseq2seq.structures import EncoderOutput


@keras.saving.register_keras_serializable("tfseq2seq")
class ConvolutionalEncoder(Encoder):
    """Reads all steps at once, each with its neighbours (Gehring et al., 2017, arXiv:1705.03122, section 3).

    e = embedding + position, z = the stack of gated convolutions over W e, memory = (W' z + e) * sqrt(0.5): what the
    decoder averages in section 3.3, z and e, scaled as all sums there.

    Args:
        layers: Number of convolutions, at least 1.
        units: Width of the convolutions and of the memory.
        kernel_size: Steps each layer sees, odd.
        max_positions: Number of learned positions; a longer source is an InvalidArgumentError.
        dropout: Share of e and of each layer's inputs set to 0 in training, in [0, 1).
        pooling: The fixed context: "mean", "max" or "attentive", see `Pooling`.
    Call arguments and results: see `Encoder`. There is no last state.
    """

    def __init__(
        self, layers=4, units=256, kernel_size=3, max_positions=1024, dropout=0.0, pooling="mean", **kwargs,
    ):
        super().__init__(pooling, **kwargs)
        self.layers, self.units, self.kernel_size = layers, units, kernel_size
        self.max_positions, self.dropout = max_positions, dropout
        policy = self.dtype_policy
        self.enter = Linear(units, name="enter", dtype=policy)
        self.leave = Linear(units, name="leave", dtype=policy)
        self.positions = LearnedPositions(max_positions, units, name="positions", dtype=policy)
        self.drop = Dropout(dropout, dtype=policy)
        self.convolutions = [
            GatedConvolution(kernel_size, dropout, name=f"convolution_{i}", dtype=policy) for i in range(layers)]

    @property
    def output_units(self):
        """Width of the memory."""
        return self.units

    def call(self, source, mask, training=False):
        real = tf.cast(mask, self.compute_dtype)[:, :, None]
        entered = (self.enter(source) + self.positions(tf.range(tf.shape(source)[1]))) * real  # [B, S, units]
        entered = self.drop(entered, training=training)
        hidden = entered
        for convolution in self.convolutions:
            hidden = convolution(hidden, mask=mask, training=training)
        memory = (self.leave(hidden) + entered) * 0.5**0.5 * real
        return EncoderOutput(memory, mask, (), self.pool(memory, mask=mask))

    def get_config(self):
        return {
            **super().get_config(), "layers": self.layers, "units": self.units, "kernel_size": self.kernel_size,
            "max_positions": self.max_positions, "dropout": self.dropout}
