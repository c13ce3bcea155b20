"""The Transformer's decoder."""

import keras
import tensorflow as tf

from tfseq2seq.layers.base import Layer
from tfseq2seq.layers.linear import Linear
from tfseq2seq.layers.multihead import MASKED, causal_bias, padding_bias
from tfseq2seq.layers.padding import RealSteps
from tfseq2seq.layers.transformer import TransformerStack
from tfseq2seq.structures import AttentionMemory, Cache, FixedCache


@keras.saving.register_keras_serializable("tfseq2seq")
class TransformerDecoder(Layer):
    """Causal self-attention and attention to the source in each layer (Vaswani et al., 2017, arXiv:1706.03762).

    In search each step adds its keys and values to a cache; those of the source are made once, by `start`.

    Works on vectors: the embedding before and the output layer after belong to the model.

    Args:
        output_units: Width of the output; default `units`. Another one adds a linear map.
        All others: See `TransformerStack`.
    Call arguments:
        inputs: [B, T, X] float, embedded target, BOS first.
        state: Cache from `start`; all steps at once need nothing of it.
        memory: AttentionMemory from `start`.
        mask: [B, T] bool, True on real steps, or None for all; the output is 0 on padding.
        training: Whether dropout is on.
    Returns:
        outputs [B, T, output_units] and the last layer's attention weights, the mean over its heads, [B, T, S] float32.
    """

    def __init__(
        self, layers=6, units=512, heads=8, feed_forward_units=2048, activation="relu", gated=False, norm="pre",
        normalization="layer", positions="sinusoidal", max_positions=1024, dropout=0.0, attention_dropout=0.0,
        feed_forward_dropout=0.0, output_units=None, **kwargs,
    ):
        super().__init__(**kwargs)
        self.layers, self.units, self.heads = layers, units, heads
        self.output_units = output_units or units
        self.stack = TransformerStack(
            layers, units, heads, feed_forward_units, activation, gated, norm, normalization, positions, max_positions,
            True, dropout, attention_dropout, feed_forward_dropout, name="stack", dtype=self.dtype_policy)
        self.leave = Linear(
            output_units, name="leave", dtype=self.dtype_policy) if self.output_units != units else None
        self.built = True  # the parts build themselves when they are first used

    def start(self, encoded, longest=None):
        """What depends on the source alone.

        Args:
            encoded: EncoderOutput of B sources.
            longest: L, an int, makes room for so many steps, so that no shape changes; default None: the cache grows.
        Returns:
            AttentionMemory with keys and values of every layer, and the empty Cache or FixedCache, both of B rows.
        """
        steps = RealSteps(encoded.mask, self.stack.remove_padding)
        rows = steps.pack(tf.cast(encoded.memory, self.compute_dtype))
        projected = [layer.cross_attention.project(rows, steps) for layer in self.stack.blocks]
        keys, values = (tuple(part) for part in zip(*projected, strict=True))
        memory, batch_size = AttentionMemory(keys, values, encoded.mask), tf.shape(encoded.memory)[0]
        # Without room a length that only the running graph knows, since search goes on with a longer cache.
        length = batch_size * 0 if longest is None else longest
        empty = tf.zeros([batch_size, self.heads, length, self.units // self.heads], self.compute_dtype)
        parts = (empty,) * self.layers, (empty,) * self.layers
        if longest is None:
            return memory, Cache(*parts)
        return memory, FixedCache(*parts, tf.zeros([batch_size], tf.int32))

    def step(self, inputs, state, memory, training=False):
        """One step of N = B * K hypotheses, those of one source side by side.

        Args:
            inputs: [N, X] float, embedded last tokens.
            state: Cache or FixedCache of N rows.
            memory: AttentionMemory of B rows.
            training: Whether dropout is on.
        Returns:
            output [N, output_units], the cache with this step, attention weights [N, S] float32.
        """
        if isinstance(state, Cache):
            position = tf.shape(state.keys[0])[2]
            bias = self.stack.score_bias(position[None], tf.range(position + 1))

            def extend(cached, new):
                return tf.concat([cached, new], 2)
        else:
            position, steps = tf.maximum(tf.reduce_max(state.length), 0), tf.range(state.keys[0].shape[2])
            bias = self.stack.score_bias(position[None], steps) + tf.where(steps <= position, 0.0, MASKED)
            here = (steps == position)[:, None]

            def extend(cached, new):
                return tf.where(here, new, cached)
        memory_bias = padding_bias(memory.mask)
        rows = self.stack.begin(inputs[:, None], position[None], training)[:, 0]
        keys, values, weights = [], [], None
        for i, layer in enumerate(self.stack.blocks):
            rows, (layer_keys, layer_values), weights = layer.step(
                rows, (state.keys[i], state.values[i]), extend, bias, position, (memory.keys[i], memory.values[i]),
                memory_bias, training)
            keys.append(layer_keys)
            values.append(layer_values)
        weights = tf.reshape(tf.reduce_mean(weights, 1), [tf.shape(inputs)[0], tf.shape(memory.mask)[1]])
        state = state._replace(keys=tuple(keys), values=tuple(values))
        if isinstance(state, FixedCache):
            state = state._replace(length=state.length + 1)
        return self._finish(rows), state, weights

    def call(self, inputs, state, memory, mask=None, training=False):
        shape = tf.shape(inputs)
        steps = RealSteps(tf.ones(shape[:2], tf.bool) if mask is None else mask, self.stack.remove_padding)
        positions = tf.range(shape[1])
        bias = causal_bias(shape[1]) + self.stack.score_bias(positions, positions)
        memory_bias, weights = padding_bias(memory.mask), None
        rows = steps.pack(self.stack.begin(inputs, positions, training))
        for i, layer in enumerate(self.stack.blocks):
            rows, weights = layer.read(
                rows, steps, bias, positions, (memory.keys[i], memory.values[i]), memory_bias, training)
        return steps.unpack(self._finish(rows)), tf.reduce_mean(weights, 1)

    def _finish(self, rows):
        rows = self.stack.finish(rows)
        return rows if self.leave is None else self.leave(rows)

    def get_config(self):
        return {**super().get_config(), **self.stack.settings, "output_units": self.output_units}
