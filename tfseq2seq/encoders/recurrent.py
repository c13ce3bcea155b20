"""The recurrent encoder: a stack of LSTM or GRU layers over the source."""

import keras
import tensorflow as tf

from tfseq2seq.encoders.base import Encoder
from tfseq2seq.layers.base import check_name
from tfseq2seq.layers.recurrent_variants import CELLS
from tfseq2seq.layers.stack import Stack
from tfseq2seq.structures import EncoderOutput


@keras.saving.register_keras_serializable("tfseq2seq")
class RecurrentEncoder(Encoder):
    """Reads the source step by step, in both directions if asked (Schuster & Paliwal, 1997).

    Args:
        cell: A name of `layers.recurrent_variants.CELLS`.
        layers: Number of layers, at least 1.
        units: Width of one direction.
        bidirectional: Whether each layer also reads from right to left; its output is then 2 * units wide.
        bidirectional_layers: How many of the lowest layers that is done in (Wu et al., 2016, arXiv:1609.08144, section
            3.2, one); default all.
        directions: "joined": each layer reads what the one below it wrote in both directions; "apart": each direction
            is a stack of its own, and only their outputs are joined (Luong et al., 2017, "NMT tutorial").
        last_states: Of a layer in both directions: [forward; backward], "both"; as two layers after each other,
            "alternating"; or the "backward" one alone.
        merge_states: Whether one linear layer makes [forward; backward] last states `units` wide, the same for h and c.
        residual, residual_layers, normalization, dropout, dropout_per_sequence: See `Stack`.
        pooling: The fixed context: "last" is h of the top layer's last state; or "mean", "max" or "attentive" over
            the memory, see `Pooling`.
    Call arguments and results: see `Encoder`. The memory is [B, S, units * directions]; final_state has one tuple a
        layer of [B, units * directions], or merged [B, units], tensors: (h, c) for the LSTM, (h,) for the GRU.
    Raises:
        ValueError: an unknown name, or "apart" with normalization or with layers in one direction.
    """

    def __init__(
        self, cell="lstm", layers=1, units=256, bidirectional=True, merge_states=False, residual=False,
        normalization="none", dropout=0.0, dropout_per_sequence=False, pooling="last", residual_layers=None,
        bidirectional_layers=None, directions="joined", last_states="both", **kwargs,
    ):
        super().__init__(pooling, **kwargs)
        check_name("RecurrentEncoder", "directions", directions, ("joined", "apart"))
        check_name("RecurrentEncoder", "last_states", last_states, ("both", "alternating", "backward"))
        num_backward = min(layers, bidirectional_layers or layers) if bidirectional else 0
        if directions == "apart" and (normalization != "none" or num_backward < layers):
            raise ValueError(
                "RecurrentEncoder needs both directions in all layers and no normalization for directions = \"apart\". "
                f"Received: normalization={normalization!r}, {num_backward} of {layers} layers in both directions.")
        self.bidirectional_layers, self.directions, self.last_states = bidirectional_layers, directions, last_states
        self.cell, self.layers, self.units = cell, layers, units
        self.bidirectional, self.merge_states = bidirectional, merge_states
        policy = self.dtype_policy
        self.stack = Stack(
            layers, residual, normalization, dropout, dropout_per_sequence, residual_layers, dtype=policy)
        make = CELLS[cell]
        self.forward = [make(units, name=f"forward_{i}", dtype=policy) for i in range(layers)]
        self.backward = [make(units, reverse=True, name=f"backward_{i}", dtype=policy) for i in range(num_backward)]
        self.merge = keras.layers.Dense(units, name="merge", dtype=policy) if merge_states else None

    @property
    def output_units(self):
        """Width of the memory."""
        return self.units * (2 if len(self.backward) == self.layers else 1)

    def call(self, source, mask, training=False):
        if self.directions == "apart":
            ways = [self._read(cells, source, mask, training) for cells in (self.forward, self.backward)]
            hidden = tf.concat([hidden for hidden, _ in ways], -1)  # [B, S, 2 * units]
            layers = [list(pair) for pair in zip(*(states for _, states in ways), strict=True)]
        else:
            hidden, layers = source, []
            for i in range(self.layers):
                inputs, cells = self.stack.before(i, hidden, training), [self.forward[i], *self.backward[i : i + 1]]
                read = [cell(inputs, mask=mask, training=training) for cell in cells]
                hidden = self.stack.after(i, hidden, tf.concat([output for output, _ in read], -1))
                layers.append([state for _, state in read])
        states = [state for each in layers for state in self._last(each)]
        memory = self.stack.finish(hidden, training) * tf.cast(mask, self.compute_dtype)[:, :, None]
        context = states[-1][0] if self.pool is None else self.pool(memory, mask=mask)
        return EncoderOutput(memory, mask, tuple(states), context)

    def _read(self, cells, hidden, mask, training):
        """One direction from the lowest layer to the highest: its output and its last states."""
        states = []
        for i, cell in enumerate(cells):
            output, state = cell(self.stack.before(i, hidden, training), mask=mask, training=training)
            hidden = self.stack.after(i, hidden, output)
            states.append(state)
        return hidden, states

    def _last(self, states):
        """A layer's last states of one or two directions to those that the decoder is given."""
        if self.last_states == "alternating" or len(states) == 1:
            return states
        if self.last_states == "backward":
            return states[1:]
        joined = tuple(tf.concat(pair, -1) for pair in zip(*states, strict=True))
        return [joined if self.merge is None else tuple(self.merge(part) for part in joined)]

    def get_config(self):
        return {
            **super().get_config(), **self.stack.settings(), "cell": self.cell, "layers": self.layers,
            "units": self.units, "bidirectional": self.bidirectional, "merge_states": self.merge_states,
            "bidirectional_layers": self.bidirectional_layers, "directions": self.directions,
            "last_states": self.last_states}
