"""The Conformer: self-attention and convolutions over the source."""

import keras
import tensorflow as tf

from tfseq2seq.encoders.base import Encoder
from tfseq2seq.layers.conformer import ConformerStack
from tfseq2seq.layers.multihead import padding_bias
from tfseq2seq.layers.padding import RealSteps
from tfseq2seq.structures import EncoderOutput


@keras.saving.register_keras_serializable("tfseq2seq")
class ConformerEncoder(Encoder):
    """Every step looks at all steps, and at its neighbours (Gulati et al., 2020, arXiv:2005.08100).

    Args:
        pooling: The fixed context: "mean", "max" or "attentive", see `Pooling`.
        All others: See `ConformerStack`.
    Call arguments and results: see `Encoder`. The memory is [B, S, units]; there is no last state.
    """

    def __init__(
        self, layers=16, units=256, heads=4, feed_forward_units=1024, kernel_size=31, positions="rotary", dropout=0.0,
        attention_dropout=0.0, pooling="mean", **kwargs,
    ):
        super().__init__(pooling, **kwargs)
        self.units = units
        self.stack = ConformerStack(
            layers, units, heads, feed_forward_units, kernel_size, positions, dropout, attention_dropout, name="stack",
            dtype=self.dtype_policy)

    @property
    def output_units(self):
        """Width of the memory."""
        return self.units

    def call(self, source, mask, training=False):
        positions = tf.range(tf.shape(source)[1])
        steps = RealSteps(mask, self.stack.remove_padding)
        bias = padding_bias(mask) + self.stack.score_bias(positions)
        rows = steps.pack(self.stack.begin(source, positions, training))
        for layer in self.stack.blocks:
            rows = layer.read(rows, steps, bias, positions, training)
        memory = steps.unpack(rows)
        return EncoderOutput(memory, mask, (), self.pool(memory, mask=mask))

    def get_config(self):
        return {**super().get_config(), **self.stack.settings}
