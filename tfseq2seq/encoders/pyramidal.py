"""The pyramidal encoder: recurrent layers, each over half of the steps of the one below."""

import keras
import tensorflow as tf

from tfseq2seq.encoders.base import Encoder, zero_padding
from tfseq2seq.layers.recurrent_variants import CELLS
from tfseq2seq.layers.stack import Stack
from tfseq2seq.structures import EncoderOutput


@keras.saving.register_keras_serializable("tfseq2seq")
class PyramidalEncoder(Encoder):
    """Layers in both directions; above the lowest each reads the outputs of two steps below as one.

    h[j, t] = RNN(h[j, t - 1], [h[j - 1, 2t]; h[j - 1, 2t + 1]]) (Chan et al., 2016, arXiv:1508.01211, eq. 5). Behind a
    last step without a neighbour stand zeros. With L layers 2^(L - 1) steps become one; the paper's L is 4.

    Args:
        cell: A name of `layers.recurrent_variants.CELLS`.
        layers: L, at least 1.
        units: Width of one direction.
        normalization, dropout, dropout_per_sequence: See `Stack`.
        pooling: The fixed context: "last" is h of the top layer's last state; or "mean", "max" or "attentive" over the
            memory, see `Pooling`.
    Call arguments and results: see `Encoder`. The memory is [B, ceil(S / 2^(L - 1)), 2 * units]; final_state has one
        tuple a layer of [B, 2 * units] tensors: (h, c) for the LSTM, (h,) for the GRU.
    """

    def __init__(
        self, cell="lstm", layers=4, units=256, normalization="none", dropout=0.0, dropout_per_sequence=False,
        pooling="last", **kwargs,
    ):
        super().__init__(pooling, **kwargs)
        self.cell, self.layers, self.units = cell, layers, units
        policy = self.dtype_policy
        self.stack = Stack(layers, False, normalization, dropout, dropout_per_sequence, dtype=policy)
        self.forward = [CELLS[cell](units, name=f"forward_{i}", dtype=policy) for i in range(layers)]
        self.backward = [CELLS[cell](units, reverse=True, name=f"backward_{i}", dtype=policy) for i in range(layers)]

    @property
    def output_units(self):
        """Width of the memory."""
        return 2 * self.units

    def num_steps(self, source_steps):
        """See `Encoder.num_steps`."""
        return -(-source_steps // 2 ** (self.layers - 1))

    def call(self, source, mask, training=False):
        hidden, states = source, []
        for i in range(self.layers):
            if i:
                hidden, mask = join_pairs(zero_padding(hidden, mask), mask)
            inputs = self.stack.before(i, hidden, training)
            forward, state = self.forward[i](inputs, mask=mask, training=training)
            backward, backward_state = self.backward[i](inputs, mask=mask, training=training)
            states.append(tuple(tf.concat(pair, -1) for pair in zip(state, backward_state, strict=True)))
            hidden = self.stack.after(i, hidden, tf.concat([forward, backward], -1))  # [B, S / 2^i, 2 * units]
        memory = zero_padding(self.stack.finish(hidden, training), mask)
        context = states[-1][0] if self.pool is None else self.pool(memory, mask=mask)
        return EncoderOutput(memory, mask, tuple(states), context)

    def get_config(self):
        settings = self.stack.settings()
        for name in ("residual", "residual_layers"):
            settings.pop(name)
        return {
            **super().get_config(), **settings, "cell": self.cell, "layers": self.layers, "units": self.units}


def join_pairs(hidden, mask):
    """[B, S, D] to [B, ceil(S / 2), 2 D], steps 2t and 2t + 1 side by side; step t is real where step 2t was."""
    shape = tf.shape(hidden)
    padded = tf.pad(hidden, [[0, 0], [0, shape[1] % 2], [0, 0]])
    return tf.reshape(padded, [shape[0], (shape[1] + 1) // 2, 2 * hidden.shape[-1]]), mask[:, ::2]
