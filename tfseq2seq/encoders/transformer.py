"""The Transformer's encoder: self-attention over the source."""

import keras
import tensorflow as tf

from tfseq2seq.encoders.base import Encoder
from tfseq2seq.layers.multihead import padding_bias
from tfseq2seq.layers.padding import RealSteps
from tfseq2seq.layers.transformer import TransformerStack
from tfseq2seq.structures import EncoderOutput


@keras.saving.register_keras_serializable("tfseq2seq")
class TransformerEncoder(Encoder):
    """Every step looks at all steps: A = softmax(Q K^T / sqrt(d_k)) (Vaswani et al., 2017, arXiv:1706.03762).

    Args:
        pooling: The fixed context, c = Pool(A V): "mean", "max" or "attentive", see `Pooling`.
        All others: See `TransformerStack`.
    Call arguments and results: see `Encoder`. The memory is [B, S, units]; there is no last state.
    """

    def __init__(
        self, layers=6, units=512, heads=8, feed_forward_units=2048, activation="relu", gated=False, norm="pre",
        normalization="layer", positions="sinusoidal", max_positions=1024, dropout=0.0, attention_dropout=0.0,
        feed_forward_dropout=0.0, layer_drop=0.0, head_units=None, scale_attention=True, use_bias=True, epsilon=1e-6,
        waves="interleaved", first_position=0, num_buckets=32, max_distance=128, normalize_embeddings=False,
        pooling="mean", **kwargs,
    ):
        super().__init__(pooling, **kwargs)
        self.units = units
        self.stack = TransformerStack(
            layers, units, heads, feed_forward_units, activation, gated, norm, normalization, positions, max_positions,
            False, dropout, attention_dropout, feed_forward_dropout, layer_drop, head_units, scale_attention, use_bias,
            epsilon, waves, first_position, num_buckets, max_distance, normalize_embeddings, name="stack",
            dtype=self.dtype_policy)

    @property
    def output_units(self):
        """Width of the memory."""
        return self.units

    def call(self, source, mask, training=False):
        positions = tf.range(tf.shape(source)[1])
        steps = RealSteps(mask, self.stack.remove_padding)
        bias = padding_bias(mask) + self.stack.score_bias(positions, positions)
        rows = steps.pack(self.stack.begin(source, positions, training))
        for layer in self.stack.blocks:
            after, _ = layer.read(rows, steps, bias, positions, training=training)
            rows = self.stack.layer_drop(rows, after, training=training)
        memory = steps.unpack(self.stack.finish(rows))
        return EncoderOutput(memory, mask, (), self.pool(memory, mask=mask))

    def get_config(self):
        return {**super().get_config(), **self.stack.settings}
