"""The recurrent decoder with a fixed context."""

import keras
import tensorflow as tf

from tfseq2seq.decoders.base import StackedDecoder
from tfseq2seq.structures import RecurrentState


@keras.saving.register_keras_serializable("tfseq2seq")
class RecurrentDecoder(StackedDecoder):
    """A stack of LSTM or GRU layers that sees the source as one vector.

    s[t] = RNN([x[t]; c], s[t-1]), o[t] = [s[t]; x[t]; c]: the context c goes in at every step and, with the embedding
    x[t] of the token before, into the output layer, p(y[t]) = softmax(W o[t] + b) (Cho et al., 2014, arXiv:1406.1078,
    eq. 8 to 10, without the maxout there). With `output_units`, as tied embeddings need it, o[t] = tanh(W_o [...]).

    There is no attention: long sources do not fit into c (Cho et al., 2014, arXiv:1409.1259, section 4.2).

    Without `reads_context` the source is its first state alone: s[t] = RNN(x[t], s[t-1]), o[t] = s[t] (Sutskever et
    al., 2014, arXiv:1409.3215).

    Args:
        reads_context: Whether the context goes in at every step.
        output_units: Width of o[t]; default units + X + C, or units, nothing in between.
        All others: See `StackedDecoder`.
    Call arguments:
        inputs: [B, T, X] float, embedded target, BOS first.
        state: RecurrentState of B rows from `start`.
        memory: [B, C] float, the context, from `start`.
        mask: [B, T] bool, True on real steps, or None; what stands on padding is of no use.
        training: Whether dropout is on.
    Returns:
        outputs [B, T, output_units] and no weights, [B, T, 0] float32.
    """

    def __init__(self, reads_context=True, units=512, output_units=None, **kwargs):
        super().__init__(units=units, output_units=output_units or (None if reads_context else units), **kwargs)
        self.reads_context = reads_context
        combined = self.output_units is not None and (reads_context or self.output_units != units)
        self.combine = keras.layers.Dense(
            self.output_units, activation="tanh", name="combine", dtype=self.dtype_policy) if combined else None

    def start(self, encoded, longest=None):
        """What depends on the source alone.

        Args:
            encoded: EncoderOutput of B sources.
            longest: not needed; this state does not grow.
        Returns:
            The context [B, C] and the RecurrentState before the first step, both of B rows.
        """
        context = tf.cast(encoded.context, self.compute_dtype)
        if not self.reads_context:
            context = context[:, :0]
        return context, RecurrentState(self.bridge(encoded.final_state, context), ())

    def step(self, inputs, state, memory, training=False, noises=None):
        """One step of N = B * K hypotheses, those of one source side by side.

        Args:
            inputs: [N, X] float, embedded last tokens.
            state: RecurrentState of N rows.
            memory: [B, C] float.
            training: Whether dropout is on.
            noises: From `noises`, where all steps share their dropout.
        Returns:
            output [N, output_units], the next RecurrentState and no weights, [N, 0] float32.
        """
        noises = noises or [None] * (self.layers + 1)
        num_rows = tf.shape(inputs)[0]
        beam = num_rows // tf.maximum(tf.shape(memory)[0], 1)  # 0 sources have 0 rows
        context = tf.reshape(
            tf.tile(memory[:, None], [1, beam, 1]), [num_rows, memory.shape[-1]])  # [N, C], a vector each
        hidden, recurrent = self.run_step(tf.concat([inputs, context], -1), state.recurrent, training, noises)
        output = self.stack.finish(self._combine(hidden, inputs, context), training, noises[-1])
        return output, RecurrentState(recurrent, ()), tf.zeros([num_rows, 0])

    def call(self, inputs, state, memory, mask=None, training=False):
        steps = tf.shape(inputs)[1]
        context = tf.tile(memory[:, None], [1, steps, 1])  # [B, T, C]
        hidden = self.run(tf.concat([inputs, context], -1), state.recurrent, training)
        output = self.stack.finish(self._combine(hidden, inputs, context), training)
        return output, tf.zeros([tf.shape(inputs)[0], steps, 0])

    def _combine(self, hidden, inputs, context):
        joined = tf.concat([hidden, inputs, context], -1) if self.reads_context else hidden
        return joined if self.combine is None else self.combine(joined)

    def get_config(self):
        return {**super().get_config(), "reads_context": self.reads_context}
