"""The recurrent decoder with attention."""

from typing import Any

import keras
import tensorflow as tf

from tfseq2seq.decoders.base import StackedDecoder
from tfseq2seq.layers.attention import make_attention
from tfseq2seq.layers.multihead import as_weights
from tfseq2seq.structures import AttentionMemory, RecurrentState


@keras.saving.register_keras_serializable("tfseq2seq")
class AttentionalDecoder(StackedDecoder):
    """A stack of LSTM or GRU layers whose top state looks at the source before it speaks.

    h[t] = RNN(x[t], h[t-1]), c[t] = attention(h[t], memory), a[t] = tanh(W_c [c[t]; h[t]])
    (Luong et al., 2015, arXiv:1508.04025, eq. 5). With input feeding the RNN reads [x[t]; a[t-1]]
    (section 3.3), which chains the steps, as does an attention that reads where it looked before; without both
    all steps are computed at once in training.

    Args:
        attention: A name of `layers.attention.ATTENTIONS`.
        heads: Number of heads of "multi_head"; divides units.
        input_feeding: Whether a[t-1] is part of the next input.
        location_width: Source steps that each filter of "location" sees, odd.
        output_units: Width of a[t]; default `units`.
        All others: See `StackedDecoder`.
    Call arguments:
        inputs: [B, T, X] float, embedded target, BOS first.
        state: RecurrentState of B rows from `start`.
        memory: AttentionMemory from `start`.
        mask: [B, T] bool, True on real steps, or None; what stands on padding is of no use.
        training: Whether dropout is on.
    Returns:
        outputs [B, T, output_units] and attention weights [B, T, S] float32.
    """

    def __init__(
        self, attention="general", heads=4, input_feeding=False, location_width=31, units=512, output_units=None,
        **kwargs,
    ):
        super().__init__(units=units, output_units=output_units or units, **kwargs)
        self.attention_kind, self.heads, self.input_feeding = attention, heads, input_feeding
        self.location_width = location_width
        self.attention = make_attention(attention, units, heads, location_width, dtype=self.dtype_policy)
        self.combine = keras.layers.Dense(
            self.output_units, activation="tanh", use_bias=False, name="combine", dtype=self.dtype_policy)

    def start(self, encoded, longest=None):
        """What depends on the source alone.

        Args:
            encoded: EncoderOutput of B sources.
            longest: not needed; this state does not grow.
        Returns:
            AttentionMemory and the RecurrentState before the first step, both of B rows.
        """
        keys, values = self.attention.project(encoded.memory)
        rows = tf.shape(encoded.memory)[0]
        feed = tf.zeros([rows, self.output_units], self.compute_dtype) if self.input_feeding else ()
        attended: Any = ()
        if self.attention.reads_attended:
            attended = self.attention.begin(encoded.mask)
        state = RecurrentState(self.bridge(encoded.final_state, encoded.context), feed, attended)
        return AttentionMemory(keys, values, encoded.mask), state

    def step(self, inputs, state, memory, training=False, noises=None):
        """One step of N = B * K hypotheses, those of one source side by side.

        Args:
            inputs: [N, X] float, embedded last tokens.
            state: RecurrentState of N rows.
            memory: AttentionMemory of B rows.
            training: Whether dropout is on.
            noises: From `noises`, where all steps share their dropout.
        Returns:
            output [N, output_units], the next RecurrentState and attention weights [N, S] float32.
        """
        noises = noises or [None] * (self.layers + 1)
        num_rows, num_sources = tf.shape(inputs)[0], tf.shape(memory.mask)[0]
        hidden = tf.concat([inputs, state.feed], -1) if self.input_feeding else inputs
        hidden, recurrent = self.run_step(hidden, state.recurrent, training, noises)
        beam = num_rows // tf.maximum(num_sources, 1)  # 0 sources have 0 rows
        query = tf.reshape(hidden, [num_sources, beam, self.units])
        output, weights = self._attend(query, memory, state.attended)
        output = tf.reshape(output, [num_rows, self.output_units])
        output = self.stack.finish(output, training, noises[-1])
        weights = tf.reshape(weights, [num_rows, tf.shape(weights)[-1]])
        attended: Any = ()
        if self.attention.reads_attended:
            attended = self.attention.remember(state.attended, as_weights(weights))
            attended = tf.ensure_shape(attended, state.attended.shape)
        return output, RecurrentState(recurrent, output if self.input_feeding else (), attended), weights

    def call(self, inputs, state, memory, mask=None, training=False):
        if self.input_feeding or self.attention.reads_attended:
            return self._call_stepwise(inputs, state, memory, training)
        output, weights = self._attend(self.run(inputs, state.recurrent, training), memory, ())
        return self.stack.finish(output, training), weights

    def _attend(self, query, memory, attended):
        """What is said of [B, T, units] queries; `attended` [B * T, S] is what the attention remembers, or ()."""
        options = {}
        if self.attention.reads_attended:
            shape = tf.shape(query)
            options["attended"] = tf.reshape(attended, [shape[0], shape[1], tf.shape(memory.mask)[1]])
        context, weights = self.attention(query, memory.keys, memory.values, memory.mask, **options)
        return self.combine(tf.concat([context, query], -1)), weights  # [B, T, output_units]

    def _call_stepwise(self, inputs, state, memory, training):
        num_steps = tf.shape(inputs)[1]
        noises = self.noises(tf.shape(inputs)[0], training)
        steps = tf.TensorArray(inputs.dtype, num_steps).unstack(tf.transpose(inputs, [1, 0, 2]))
        outputs = tf.TensorArray(self.compute_dtype, num_steps, element_shape=[None, self.output_units])
        weights = tf.TensorArray(tf.float32, num_steps, element_shape=[None, None])

        def body(t, state, outputs, weights):
            output, state, attention = self.step(steps.read(t), state, memory, training, noises)
            return t + 1, state, outputs.write(t, output), weights.write(t, attention)

        _, _, outputs, weights = tf.while_loop(
            lambda t, *_: t < num_steps, body, (tf.constant(0), state, outputs, weights),
            maximum_iterations=num_steps)
        return tf.transpose(outputs.stack(), [1, 0, 2]), tf.transpose(weights.stack(), [1, 0, 2])

    def get_config(self):
        return {
            **super().get_config(), "attention": self.attention_kind, "heads": self.heads,
            "input_feeding": self.input_feeding, "location_width": self.location_width}
