"""The recurrent encoder: a stack of LSTM or GRU layers over the source."""

import keras
import tensorflow as tf

from tfseq2seq.layers.recurrent import CELLS
from tfseq2seq.structures import EncoderOutput


@keras.saving.register_keras_serializable("tfseq2seq")
class RecurrentEncoder(keras.layers.Layer):
    """Reads the source step by step, in both directions if asked (Schuster & Paliwal, 1997).

    Args:
        cell: "lstm" or "gru".
        layers: Number of layers, at least 1.
        units: Width of one direction.
        bidirectional: Whether each layer also reads from right to left; its output is then 2 * units wide.
        dropout: Share of each layer's inputs, and of the memory, set to 0 in training, in [0, 1).
    Call arguments:
        source: [B, S, E] float, embedded source.
        mask: [B, S] bool, True on real steps; padding stands at the end of a row.
        training: Whether dropout is on.
    Returns:
        EncoderOutput with memory [B, S, units * directions] and, as final_state, one tuple a layer of
        [B, units * directions] tensors: (h, c) for the LSTM, (h,) for the GRU.
    """

    def __init__(self, cell="lstm", layers=1, units=256, bidirectional=True, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.cell, self.layers, self.units = cell, layers, units
        self.bidirectional, self.dropout = bidirectional, dropout
        make = CELLS[cell]
        policy = self.dtype_policy
        self.forward = [make(units, name=f"forward_{i}", dtype=policy) for i in range(layers)]
        num_backward = layers if bidirectional else 0
        self.backward = [make(units, reverse=True, name=f"backward_{i}", dtype=policy) for i in range(num_backward)]
        self.supports_masking = True
        self.drop = [keras.layers.Dropout(dropout, dtype=policy) for _ in range(layers + 1)]

    def compute_mask(self, source, previous_mask):
        """None: the mask is part of the output; Keras would hang it on tensors unseen."""
        return None

    @property
    def output_units(self):
        """Width of the memory."""
        return self.units * (2 if self.bidirectional else 1)

    @property
    def state_widths(self):
        """Widths of final_state, layer by layer."""
        parts = 2 if self.cell == "lstm" else 1
        return [(self.output_units,) * parts] * self.layers

    def call(self, source, mask, training=False):
        hidden, states = source, []
        for i in range(self.layers):
            hidden = self.drop[i](hidden, training=training)
            output, state = self.forward[i](hidden, mask=mask, training=training)
            if self.bidirectional:
                backward, backward_state = self.backward[i](hidden, mask=mask, training=training)
                output = tf.concat([output, backward], -1)  # [B, S, 2 * units]
                state = tuple(tf.concat(pair, -1) for pair in zip(state, backward_state, strict=True))
            hidden = output
            states.append(state)
        return EncoderOutput(self.drop[-1](hidden, training=training), mask, tuple(states))

    def get_config(self):
        return {
            **super().get_config(), "cell": self.cell, "layers": self.layers, "units": self.units,
            "bidirectional": self.bidirectional, "dropout": self.dropout}
