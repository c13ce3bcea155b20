"""tensorflow-addons on TensorFlow 2.15: Keras' LSTM, `AttentionWrapper`, `BasicDecoder` and `BeamSearchDecoder`."""

import math

import numpy as np

from tests.benchmarks import weights
from tests.benchmarks.rivals.side import LENGTH_PENALTY, MAX_LENGTH, TensorFlowSide
from tests.benchmarks.sizes import BOS, EOS, PAD


class Addons(TensorFlowSide):
    """The recurrent model as the tutorials of tensorflow-addons put it together, in a traced function for any batch."""

    def __init__(self, size, path, streams):
        super().__init__(streams)
        import tensorflow as tf
        import tensorflow_addons as tfa

        self.seq2seq = tfa.seq2seq
        arrays = weights.load(path)
        self.source_table, self.target_table = (tf.Variable(arrays[f"{side}_table"]) for side in ("source", "target"))
        layers = tf.keras.layers
        self.encoder = [
            layers.Bidirectional(layers.LSTM(size.units // 2, return_sequences=True, return_state=True))
            for _ in range(size.layers)]
        cells = [layers.LSTMCell(size.units) for _ in range(size.layers)]
        self.mechanism = tfa.seq2seq.LuongAttention(size.units)
        combine = layers.Dense(size.units, activation="tanh", use_bias=False)
        self.cell = tfa.seq2seq.AttentionWrapper(
            layers.StackedRNNCells(cells), self.mechanism, attention_layer=combine)
        self.output_layer = layers.Dense(size.vocabulary_size)
        self._search(tf.constant([[EOS]]), 2)  # makes the weights

        def set_cell(layer, name):
            layer.set_weights([arrays[f"{name}.{key}"] for key in ("kernel", "recurrent_kernel", "bias")])

        for number, layer in enumerate(self.encoder):
            set_cell(layer.forward_layer, f"encoder.{number}.forward")
            set_cell(layer.backward_layer, f"encoder.{number}.backward")
            set_cell(cells[number], f"decoder.{number}")
        self.mechanism.memory_layer.set_weights([arrays["attention.kernel"]])
        context, query = np.split(arrays["combine.kernel"], 2)
        combine.set_weights([np.concatenate([query, context])])
        self.output_layer.set_weights([arrays["output.kernel"], arrays["output.bias"]])

    def _search(self, source, beam_size):
        tf, seq2seq = self.tf, self.seq2seq
        mask, memory, states = source != PAD, tf.gather(self.source_table, source), []
        for layer in self.encoder:
            memory, *parts = layer(memory, mask=mask)
            states.append([tf.concat([parts[i], parts[i + 2]], -1) for i in range(2)])  # h and c, both directions
        lengths, batch_size = tf.reduce_sum(tf.cast(mask, tf.int32), 1), tf.shape(source)[0]
        if beam_size > 1:
            memory, lengths, states = tf.nest.map_structure(
                lambda part: seq2seq.tile_batch(part, beam_size), (memory, lengths, states))
        self.mechanism.setup_memory(memory, memory_sequence_length=lengths)
        initial = self.cell.get_initial_state(batch_size=batch_size * beam_size, dtype=tf.float32)
        initial = initial.clone(cell_state=tuple(states))
        options = {"output_layer": self.output_layer, "maximum_iterations": MAX_LENGTH}
        arguments = {"start_tokens": tf.fill([batch_size], BOS), "end_token": EOS, "initial_state": initial}
        if beam_size == 1:
            decoder = seq2seq.BasicDecoder(self.cell, seq2seq.GreedyEmbeddingSampler(), **options)
            outputs, _, _ = decoder(self.target_table, **arguments)
            return outputs.sample_id, tf.fill([batch_size], math.nan)
        decoder = seq2seq.BeamSearchDecoder(self.cell, beam_size, length_penalty_weight=LENGTH_PENALTY, **options)
        outputs, state, _ = decoder(self.target_table, **arguments)
        return outputs.predicted_ids[:, :, 0], state.log_probs[:, 0]
