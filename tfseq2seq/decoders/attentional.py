"""The recurrent decoder with attention."""

from typing import Any

import keras
import tensorflow as tf

from tfseq2seq.decoders.base import StackedDecoder
from tfseq2seq.layers.attention import make_attention
from tfseq2seq.layers.base import check_name
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
        attention_units, attention_bias: See `make_attention`.
        input_feeding: Whether a[t-1] is part of the next input.
        location_width: Source steps that each filter of "location" sees, odd.
        attending_layer: Whose state is h[t] in c[t] and a[t]: "top", or "bottom", and then all layers above read c as
            well (Wu et al., 2016, arXiv:1609.08144, section 3); needs input feeding.
        upper_context: What they read, c of the "previous" step, as in the paper, or of the "current" one.
        attentional_vector: a[t] as above, "combined"; or the bare "context" c[t].
        attentional_units: Width of a combined a[t]; default `units`.
        attentional_activation: "tanh", or "none": a[t] = W_c [c[t]; h[t]].
        attentional_bias: Whether a bias is added there.
        output: What is shown to the output layer: a[t], "attention", or the "state" of the top layer, which needs input
            feeding.
        output_units: Width of the output; default that of a[t] or of the state.
        All others: See `StackedDecoder`.
    Call arguments:
        inputs: [B, T, X] float, embedded target, BOS first.
        state: RecurrentState of B rows from `start`.
        memory: AttentionMemory from `start`.
        mask: [B, T] bool, True on real steps, or None; what stands on padding is of no use.
        training: Whether dropout is on.
    Returns:
        outputs [B, T, output_units] and attention weights [B, T, S] float32.
    Raises:
        ValueError: an unknown name, or options that do not go together.
    """

    def __init__(
        self, attention="general", heads=4, attention_units=None, attention_bias=False, input_feeding=False,
        location_width=31, attending_layer="top", upper_context="previous", attentional_vector="combined",
        attentional_units=None, attentional_activation="tanh", attentional_bias=False, output="attention", units=512,
        output_units=None, **kwargs,
    ):
        super().__init__(units=units, output_units=output_units, **kwargs)
        for argument, value, known in (
                ("attending_layer", attending_layer, ("top", "bottom")),
                ("upper_context", upper_context, ("previous", "current")),
                ("attentional_vector", attentional_vector, ("combined", "context")),
                ("attentional_activation", attentional_activation, ("tanh", "none")),
                ("output", output, ("attention", "state"))):
            check_name("AttentionalDecoder", argument, value, known)
        if not input_feeding and (attending_layer == "bottom" or output == "state"):
            raise ValueError(
                "AttentionalDecoder needs input_feeding for attending_layer = \"bottom\" and for output = \"state\". "
                f"Received: attending_layer={attending_layer!r}, output={output!r}.")
        self.settings = {
            "attention": attention, "heads": heads, "attention_units": attention_units,
            "attention_bias": attention_bias, "input_feeding": input_feeding, "location_width": location_width,
            "attending_layer": attending_layer, "upper_context": upper_context,
            "attentional_vector": attentional_vector, "attentional_units": attentional_units,
            "attentional_activation": attentional_activation, "attentional_bias": attentional_bias, "output": output,
            "output_units": output_units}
        self.attention_kind, self.input_feeding = attention, input_feeding
        self.attention = make_attention(
            attention, units, heads, location_width, attention_units, attention_bias, dtype=self.dtype_policy)
        shows_state = output == "state"
        if attentional_vector == "combined":
            self.vector_units = attentional_units or (not shows_state and output_units) or units
            self.combine = keras.layers.Dense(
                self.vector_units, activation=None if attentional_activation == "none" else attentional_activation,
                use_bias=attentional_bias, name="combine", dtype=self.dtype_policy)
        else:
            self.vector_units, self.combine = units if attention == "multi_head" else None, None  # see `start`
        self._set_output_units()

    def _set_output_units(self):
        """Of what the output layer sees, as soon as the width of the memory is known."""
        width = self.units if self.settings["output"] == "state" else self.vector_units
        wanted = self.settings["output_units"]
        if wanted and width and wanted != width:
            raise ValueError(
                f"AttentionalDecoder needs an output {wanted} wide, as tied embeddings have it: set embedding_units to "
                f"{width}, or leave share_embeddings out. Received: an output {width} wide.")
        self.output_units = width

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
        if self.vector_units is None:
            self.vector_units = encoded.memory.shape[-1]
            self._set_output_units()
        feed = tf.zeros([rows, self.vector_units], self.compute_dtype) if self.input_feeding else ()
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
        beam = num_rows // tf.maximum(num_sources, 1)  # 0 sources have 0 rows

        def attend(hidden):
            query = tf.reshape(hidden, [num_sources, beam, self.units])
            vector, weights = self._attend(query, memory, state.attended)
            return tf.reshape(vector, [num_rows, self.vector_units]), tf.reshape(
                weights, [num_rows, tf.shape(weights)[-1]])

        if self.settings["attending_layer"] == "top":
            hidden, recurrent = self.run_step(hidden, state.recurrent, training, noises)
            vector, weights = attend(hidden)
        else:
            hidden, bottom = self.run_layer(0, hidden, hidden, state.recurrent[0], training, noises)
            vector, weights = attend(hidden)
            beside, recurrent = state.feed if self.settings["upper_context"] == "previous" else vector, [bottom]
            for i in range(1, self.layers):
                hidden, cell_state = self.run_layer(
                    i, hidden, tf.concat([hidden, beside], -1), state.recurrent[i], training, noises)
                recurrent.append(cell_state)
            recurrent = tuple(recurrent)
        shows_state = self.settings["output"] == "state"
        output = self.stack.finish(hidden if shows_state else vector, training, noises[-1])
        feed: Any = (vector if shows_state else output) if self.input_feeding else ()
        attended: Any = ()
        if self.attention.reads_attended:
            attended = self.attention.remember(state.attended, as_weights(weights))
            attended = tf.ensure_shape(attended, state.attended.shape)
        return output, RecurrentState(recurrent, feed, attended), weights

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
        return context if self.combine is None else self.combine(tf.concat([context, query], -1)), weights

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
        return {**super().get_config(), **self.settings}
