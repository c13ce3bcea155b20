"""The recurrent encoder: a stack of LSTM or GRU layers over the source."""

import keras
import tensorflow as tf

from tfseq2seq.encoders.base import Encoder
from tfseq2seq.layers.recurrent import CELLS
from tfseq2seq.layers.stack import Stack
from tfseq2seq.structures import EncoderOutput


@keras.saving.register_keras_serializable("tfseq2seq")
class RecurrentEncoder(Encoder):
    """Reads the source step by step, in both directions if asked (Schuster & Paliwal, 1997).

    Args:
        cell: "lstm" or "gru".
        layers: Number of layers, at least 1.
        units: Width of one direction.
        bidirectional: Whether each layer also reads from right to left; its output is then 2 * units wide.
        merge_states: Whether one linear layer makes [forward; backward] last states `units` wide, the same for h and c.
        residual, normalization, dropout, dropout_per_sequence: See `Stack`.
        pooling: The fixed context: "last" is h of the top layer's last state; or "mean", "max" or "attentive" over
            the memory, see `Pooling`.
    Call arguments and results: see `Encoder`. The memory is [B, S, units * directions]; final_state has one tuple a
        layer of [B, units * directions], or merged [B, units], tensors: (h, c) for the LSTM, (h,) for the GRU.
    """

    def __init__(
        self, cell="lstm", layers=1, units=256, bidirectional=True, merge_states=False, residual=False,
        normalization="none", dropout=0.0, dropout_per_sequence=False, pooling="last", **kwargs,
    ):
        super().__init__(pooling, **kwargs)
        self.cell, self.layers, self.units = cell, layers, units
        self.bidirectional, self.merge_states = bidirectional, merge_states
        policy = self.dtype_policy
        self.stack = Stack(layers, residual, normalization, dropout, dropout_per_sequence, dtype=policy)
        make = CELLS[cell]
        self.forward = [make(units, name=f"forward_{i}", dtype=policy) for i in range(layers)]
        num_backward = layers if bidirectional else 0
        self.backward = [make(units, reverse=True, name=f"backward_{i}", dtype=policy) for i in range(num_backward)]
        self.merge = keras.layers.Dense(units, name="merge", dtype=policy) if merge_states else None

    @property
    def output_units(self):
        """Width of the memory."""
        return self.units * (2 if self.bidirectional else 1)

    def call(self, source, mask, training=False):
        hidden, states = source, []
        for i in range(self.layers):
            inputs = self.stack.before(i, hidden, training)
            output, state = self.forward[i](inputs, mask=mask, training=training)
            if self.bidirectional:
                backward, backward_state = self.backward[i](inputs, mask=mask, training=training)
                output = tf.concat([output, backward], -1)  # [B, S, 2 * units]
                state = tuple(tf.concat(pair, -1) for pair in zip(state, backward_state, strict=True))
            if self.merge is not None:
                state = tuple(self.merge(part) for part in state)
            hidden = self.stack.after(i, hidden, output)
            states.append(state)
        memory = self.stack.finish(hidden, training) * tf.cast(mask, self.compute_dtype)[:, :, None]
        context = states[-1][0] if self.pool is None else self.pool(memory, mask=mask)
        return EncoderOutput(memory, mask, tuple(states), context)

    def get_config(self):
        return {
            **super().get_config(), **self.stack.settings(), "cell": self.cell, "layers": self.layers,
            "units": self.units, "bidirectional": self.bidirectional, "merge_states": self.merge_states}
