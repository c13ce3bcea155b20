"""The recurrent decoder with attention."""

import keras
import tensorflow as tf

from tfseq2seq.layers.attention import ATTENTIONS
from tfseq2seq.layers.bridge import Bridge
from tfseq2seq.layers.recurrent import CELLS
from tfseq2seq.structures import AttentionMemory, DecoderState


@keras.saving.register_keras_serializable("tfseq2seq")
class AttentionalDecoder(keras.layers.Layer):
    """A stack of LSTM or GRU layers whose top state looks at the source before it speaks.

    h[t] = RNN(x[t], h[t-1]), c[t] = attention(h[t], memory), a[t] = tanh(W_c [c[t]; h[t]])
    (Luong et al., 2015, arXiv:1508.04025, eq. 5). With input feeding the RNN reads [x[t]; a[t-1]]
    (section 3.3), which chains the steps; without it all steps are computed at once in training.

    Works on vectors: the embedding before and the output layer after belong to the model.

    Args:
        cell: "lstm" or "gru".
        layers: Number of layers, at least 1.
        units: Width of each layer and of the attention.
        attention: "additive", "concat", "dot" or "general".
        input_feeding: Whether a[t-1] is part of the next input.
        dropout: Share set to 0 in training of each layer's inputs and of a[t], in [0, 1).
        bridge: "dense", "copy" or "zero", see `Bridge`.
        output_units: Width of a[t]; default `units`.
    Call arguments:
        inputs: [B, T, X] float, embedded target, BOS first.
        state: DecoderState of B rows from `start`.
        memory: AttentionMemory from `start`.
        training: Whether dropout is on.
    Returns:
        outputs [B, T, output_units] and attention weights [B, T, S] float32.
    """

    def __init__(
        self, cell="lstm", layers=1, units=512, attention="general", input_feeding=False, dropout=0.0,
        bridge="dense", output_units=None, **kwargs,
    ):
        super().__init__(**kwargs)
        self.cell, self.layers, self.units = cell, layers, units
        self.attention_kind, self.input_feeding, self.dropout = attention, input_feeding, dropout
        self.bridge_kind = bridge
        self.output_units = output_units or units
        policy = self.dtype_policy
        self.cells = [CELLS[cell](units, name=f"cell_{i}", dtype=policy) for i in range(layers)]
        self.attention = ATTENTIONS[attention](units, dtype=policy)
        self.combine = keras.layers.Dense(self.output_units, activation="tanh", use_bias=False, dtype=policy)
        parts = 2 if cell == "lstm" else 1
        self.bridge = Bridge(bridge, [(units,) * parts] * layers, dtype=policy)
        self.drop = [keras.layers.Dropout(dropout, dtype=policy) for _ in range(layers + 1)]

    def start(self, encoded):
        """What depends on the source alone.

        Args:
            encoded: EncoderOutput of B sources.
        Returns:
            AttentionMemory and the DecoderState before the first step, both of B rows.
        """
        batch_size = tf.shape(encoded.memory)[0]
        memory = AttentionMemory(self.attention.project_keys(encoded.memory), encoded.memory, encoded.mask)
        feed = tf.zeros([batch_size, self.output_units], self.compute_dtype) if self.input_feeding else ()
        return memory, DecoderState(self.bridge(encoded.final_state, batch_size), feed)

    def step(self, inputs, state, memory, training=False):
        """One step of N = B * K hypotheses, those of one source side by side.

        Args:
            inputs: [N, X] float, embedded last tokens.
            state: DecoderState of N rows.
            memory: AttentionMemory of B rows.
            training: Whether dropout is on.
        Returns:
            output [N, output_units], the next DecoderState and attention weights [N, S] float32.
        """
        num_rows, num_sources = tf.shape(inputs)[0], tf.shape(memory.values)[0]
        hidden = tf.concat([inputs, state.feed], -1) if self.input_feeding else inputs
        recurrent = []
        for i, cell in enumerate(self.cells):
            hidden, cell_state = cell.step(self.drop[i](hidden, training=training), state.recurrent[i])
            recurrent.append(cell_state)
        beam = num_rows // tf.maximum(num_sources, 1)  # 0 sources have 0 rows
        query = tf.reshape(hidden, [num_sources, beam, self.units])
        output, weights = self._attend(query, memory, training)
        output = tf.reshape(output, [num_rows, self.output_units])
        weights = tf.reshape(weights, [num_rows, tf.shape(weights)[-1]])
        return output, DecoderState(tuple(recurrent), output if self.input_feeding else ()), weights

    def call(self, inputs, state, memory, training=False):
        if self.input_feeding:
            return self._call_stepwise(inputs, state, memory, training)
        hidden = inputs
        for i, cell in enumerate(self.cells):
            # Padding stands after the last real step, so no real step needs a mask here.
            hidden, _ = cell(
                self.drop[i](hidden, training=training), initial_state=state.recurrent[i], training=training)
        return self._attend(hidden, memory, training)

    def _attend(self, query, memory, training):
        context, weights = self.attention(query, memory.keys, memory.values, memory.mask)
        output = self.combine(tf.concat([context, query], -1))  # [B, T, output_units]
        return self.drop[-1](output, training=training), weights

    def _call_stepwise(self, inputs, state, memory, training):
        num_steps = tf.shape(inputs)[1]
        steps = tf.TensorArray(inputs.dtype, num_steps).unstack(tf.transpose(inputs, [1, 0, 2]))
        outputs = tf.TensorArray(self.compute_dtype, num_steps, element_shape=[None, self.output_units])
        weights = tf.TensorArray(tf.float32, num_steps, element_shape=[None, None])

        def body(t, state, outputs, weights):
            output, state, attention = self.step(steps.read(t), state, memory, training)
            return t + 1, state, outputs.write(t, output), weights.write(t, attention)

        _, _, outputs, weights = tf.while_loop(
            lambda t, *_: t < num_steps, body, (tf.constant(0), state, outputs, weights),
            maximum_iterations=num_steps)
        return tf.transpose(outputs.stack(), [1, 0, 2]), tf.transpose(weights.stack(), [1, 0, 2])

    def get_config(self):
        return {
            **super().get_config(), "cell": self.cell, "layers": self.layers, "units": self.units,
            "attention": self.attention_kind, "input_feeding": self.input_feeding, "dropout": self.dropout,
            "bridge": self.bridge_kind, "output_units": self.output_units}
