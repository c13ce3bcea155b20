"""What the recurrent decoders share: the stack of cells, its first state, and the loop over steps."""


from tfseq2seq.layers.base import Layer
from tfseq2seq.layers.bridge import Bridge
from tfseq2seq.layers.recurrent_variants import CELLS
from tfseq2seq.layers.stack import Stack


class StackedDecoder(Layer):
    """A stack of LSTM or GRU layers; a subclass says what it reads and what comes out.

    Works on vectors: the embedding before and the output layer after belong to the model.

    Args:
        cell: A name of `layers.recurrent_variants.CELLS`.
        layers: Number of layers, at least 1.
        units: Width of each layer.
        residual, residual_layers, normalization, dropout, dropout_per_sequence: See `Stack`; the last dropout is on the
            output.
        bridge: "auto", "dense", "copy", "pooled" or "zero", see `Bridge`.
        output_units: Width of the output; the default is the subclass's.
    """

    def __init__(
        self, cell="lstm", layers=1, units=512, residual=False, normalization="none", dropout=0.0,
        dropout_per_sequence=False, residual_layers=None, bridge="auto", output_units=None, **kwargs,
    ):
        super().__init__(**kwargs)
        self.cell, self.layers, self.units = cell, layers, units
        self.bridge_kind, self.output_units = bridge, output_units
        policy = self.dtype_policy
        self.cells = [CELLS[cell](units, name=f"cell_{i}", dtype=policy) for i in range(layers)]
        self.stack = Stack(
            layers, residual, normalization, dropout, dropout_per_sequence, residual_layers, dtype=policy)
        parts = CELLS[cell].num_states
        self.bridge = Bridge(bridge, [(units,) * parts] * layers, dtype=policy)
        self.built = True  # the parts build themselves when they are first used

    def noises(self, batch_size, training):
        """What `step` multiplies where it must not draw dropout anew: one [batch_size, width] a layer and the output.

        None where every step draws a new mask.
        """
        if not (training and self.stack.dropout and self.stack.dropout_per_sequence):
            return None
        widths = [cell.kernel.shape[0] for cell in self.cells]
        return self.stack.noises([*widths, self.output_units or self.units + widths[0]], batch_size)

    def run(self, hidden, state, training):
        """The stack over all steps: [B, T, X] to [B, T, units]."""
        for i, cell in enumerate(self.cells):
            # Padding stands after the last real step, so no real step needs a mask here.
            output, _ = cell(self.stack.before(i, hidden, training), initial_state=state[i], training=training)
            hidden = self.stack.after(i, hidden, output)
        return hidden

    def run_step(self, hidden, state, training, noises):
        """The stack at one step: [N, X] to [N, units], and the next state."""
        next_state = []
        for i in range(self.layers):
            hidden, cell_state = self.run_layer(i, hidden, hidden, state[i], training, noises)
            next_state.append(cell_state)
        return hidden, tuple(next_state)

    def run_layer(self, i, hidden, inputs, state, training, noises):
        """One layer at one step: what comes out of it beside `hidden`, given what it reads; and its next state."""
        output, state = self.cells[i].step(self.stack.before(i, inputs, training, noises[i]), state)
        return self.stack.after(i, hidden, output), state

    def get_config(self):
        return {
            **super().get_config(), **self.stack.settings(), "cell": self.cell, "layers": self.layers,
            "units": self.units, "bridge": self.bridge_kind, "output_units": self.output_units}
