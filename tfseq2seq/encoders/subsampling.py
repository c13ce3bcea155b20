"""Convolutions that shorten the source, to stand before another encoder."""

import math

import keras

from tfseq2seq.encoders.base import Encoder, zero_padding
from tfseq2seq.layers.convolution import HalvingConvolution
from tfseq2seq.layers.dropout import Dropout
from tfseq2seq.structures import EncoderOutput


@keras.saving.register_keras_serializable("tfseq2seq")
class SubsamplingEncoder(Encoder):
    """Each layer is a `HalvingConvolution`: two of them leave a quarter of the steps.

    Args:
        layers: Number of layers, at least 1.
        units: Width of each.
        strides: Of each layer, 1 or 2; default 2 of all.
        activation: "relu" or "gelu".
        dropout: Share of the output set to 0 in training, in [0, 1).
        pooling: The fixed context: "mean", "max" or "attentive", see `Pooling`.
    Call arguments and results: see `Encoder`. There is no last state.
    """

    def __init__(
        self, layers=2, units=256, dropout=0.0, strides=None, activation="relu", pooling="mean", **kwargs,
    ):
        super().__init__(pooling, **kwargs)
        self.layers, self.units, self.dropout = layers, units, dropout
        self.strides, self.activation = list(strides or [2] * layers), activation
        self.convolutions = [
            HalvingConvolution(units, stride, activation, name=f"convolution_{i}", dtype=self.dtype_policy)
            for i, stride in enumerate(self.strides)]
        self.drop = Dropout(dropout, dtype=self.dtype_policy)

    @property
    def output_units(self):
        """Width of the memory."""
        return self.units

    def num_steps(self, source_steps):
        """See `Encoder.num_steps`."""
        return -(-source_steps // math.prod(self.strides))

    def call(self, source, mask, training=False):
        hidden = zero_padding(source, mask)
        for convolution in self.convolutions:
            hidden, mask = convolution(hidden, mask=mask)
        memory = self.drop(hidden, training=training)
        return EncoderOutput(memory, mask, (), self.pool(memory, mask=mask))

    def get_config(self):
        return {
            **super().get_config(), "layers": self.layers, "units": self.units, "dropout": self.dropout,
            "strides": self.strides, "activation": self.activation}
