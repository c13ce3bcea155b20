"""The Transformer's decoder."""

import keras
import tensorflow as tf

from tfseq2seq.layers.base import Layer
from tfseq2seq.layers.linear import Linear
from tfseq2seq.layers.multihead import MASKED, causal_bias, mean_of_heads, padding_bias
from tfseq2seq.layers.padding import RealSteps
from tfseq2seq.layers.transformer import TransformerStack
from tfseq2seq.structures import AttentionMemory, Cache, FixedCache, Shared


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
        feed_forward_dropout=0.0, layer_drop=0.0, head_units=None, scale_attention=True, use_bias=True, epsilon=1e-6,
        waves="interleaved", first_position=0, num_buckets=32, max_distance=128, normalize_embeddings=False,
        output_units=None, **kwargs,
    ):
        super().__init__(**kwargs)
        self.layers, self.units, self.heads = layers, units, heads
        self.output_units = output_units or units
        self.stack = TransformerStack(
            layers, units, heads, feed_forward_units, activation, gated, norm, normalization, positions, max_positions,
            True, dropout, attention_dropout, feed_forward_dropout, layer_drop, head_units, scale_attention, use_bias,
            epsilon, waves, first_position, num_buckets, max_distance, normalize_embeddings, name="stack",
            dtype=self.dtype_policy)
        self.leave = Linear(
            output_units, name="leave", dtype=self.dtype_policy) if self.output_units != units else None
        self.built = True  # the parts build themselves when they are first used

    def start(self, encoded, longest=None):
        """What depends on the source alone.

        Args:
            encoded: EncoderOutput of B sources.
            longest: L * K, an int, makes room for L steps of K hypotheses a source, so that no shape changes; default
                None: the cache grows.
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
        empty = tf.zeros([batch_size, self.heads, length, self.stack.head_units], self.compute_dtype)
        parts = (Shared((empty,) * self.layers),) * 2 + (tf.zeros([batch_size, length], tf.bool),)
        if longest is None:
            return memory, Cache(*parts)
        return memory, FixedCache(*parts, Shared(tf.zeros([batch_size], tf.int32)))

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
        num_rows, num_sources = tf.shape(inputs)[0], tf.shape(memory.mask)[0]
        beam = tf.maximum(num_rows // tf.maximum(num_sources, 1), 1)
        cached, number = state.keys.part[0], tf.range(num_rows) % beam  # of each hypothesis among those of its source
        if isinstance(state, Cache):
            size = tf.shape(cached)[2]
            position, entries = size // beam, tf.range(size + beam)
            ancestors = tf.concat([state.ancestors, tf.range(beam) == number[:, None]], 1)

            def extend(cached, new):
                return tf.concat([cached, new], 2)
        else:
            # Of no source the maximum is the least int32.
            position, entries = tf.maximum(tf.reduce_max(state.length.part), 0), tf.range(cached.shape[2])
            ancestors = state.ancestors | (entries == position * beam + number[:, None])
            here = (entries // beam == position)[:, None]

            def extend(cached, new):
                return tf.where(here, tf.tile(new, [1, 1, cached.shape[2] // beam, 1]), cached)

        bias = tf.where(tf.reshape(ancestors, [num_sources, 1, beam, tf.size(entries)]), 0.0, MASKED)
        bias += self.stack.score_bias(position[None], entries // beam)
        positions = tf.fill([beam], position)
        memory_bias = padding_bias(memory.mask)
        rows = self.stack.begin(inputs[:, None], position[None], training)[:, 0]
        keys, values, weights = [], [], None
        for i, layer in enumerate(self.stack.blocks):
            rows, (layer_keys, layer_values), weights = layer.step(
                rows, (state.keys.part[i], state.values.part[i]), extend, bias, positions,
                (memory.keys[i], memory.values[i]), memory_bias, training)
            keys.append(layer_keys)
            values.append(layer_values)
        weights = tf.reshape(mean_of_heads(weights), [num_rows, tf.shape(memory.mask)[1]])
        state = state._replace(keys=Shared(tuple(keys)), values=Shared(tuple(values)), ancestors=ancestors)
        if isinstance(state, FixedCache):
            state = state._replace(length=Shared(state.length.part + 1))
        return self._finish(rows), state, weights

    def call(self, inputs, state, memory, mask=None, training=False):
        shape = tf.shape(inputs)
        steps = RealSteps(tf.ones(shape[:2], tf.bool) if mask is None else mask, self.stack.remove_padding)
        positions = tf.range(shape[1])
        bias = causal_bias(shape[1]) + self.stack.score_bias(positions, positions)
        memory_bias, weights = padding_bias(memory.mask), None
        rows = steps.pack(self.stack.begin(inputs, positions, training))
        for i, layer in enumerate(self.stack.blocks):
            after, weights = layer.read(
                rows, steps, bias, positions, (memory.keys[i], memory.values[i]), memory_bias, training)
            rows = self.stack.layer_drop(rows, after, training=training)
        return steps.unpack(self._finish(rows)), mean_of_heads(weights)

    def _finish(self, rows):
        rows = self.stack.finish(rows)
        return rows if self.leave is None else self.leave(rows)

    def get_config(self):
        return {**super().get_config(), **self.stack.settings, "output_units": self.output_units}
