"""Copying from the source beside generating from the vocabulary: the pointer-generator."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfseq2seq.layers.base import Layer
from tfseq2seq.layers.linear import Linear
from tfseq2seq.structures import SPECIAL_TOKENS

FLOOR = 1e-30  # probability of what can neither be generated nor copied, for a finite logarithm


class Copies(NamedTuple):
    """What copying needs of B sources at every step, computed once.

    Attributes:
        tokens: [B, S] int32, the id that each source step is copied as; the last id of all where it cannot be copied.
        first: [B, S] int32, the first step with the same id.
        gate: [B, S] float32, what attention on each step adds to the gate.
    """

    tokens: tf.Tensor
    first: tf.Tensor
    gate: tf.Tensor


class CopyMemory(NamedTuple):
    """A decoder's memory with what may be copied.

    Attributes:
        memory: the decoder's own.
        copies: Copies.
    """

    memory: Any
    copies: Copies


@keras.saving.register_keras_serializable("tfseq2seq")
class Copier(Layer):
    """Mixes the vocabulary's distribution with the attention (See et al., 2017, arXiv:1704.04368, eq. 8 and 9).

    p_gen = sigmoid(w_c c + w_s s + w_x x + b),
    P(w) = p_gen P_vocab(w) + (1 - p_gen) sum over source steps i of w of a[i],

    where c = sum of a[i] h[i] is the context, s the decoder's output (which is made of its state) and x the embedded
    input. w is any id: one of the vocabulary, or beyond it one of a source's own, see `CopyingTokenizer`. Attention on
    what cannot be copied, as the end token, counts as generating, so that all of P sums to 1.

    Args:
        num_copies: Ids beyond the vocabulary. The last of them stands for nothing.
    Call arguments:
        logits: [R, V] float32, of the vocabulary, for R rows.
        outputs: [R, D] float, the decoder's.
        embedded: [R, X] float, its inputs.
        attention: [R, S] float, its weights on the source, each row with a sum of 1.
        copies: Copies of B sources, from `start`.
        sources: [R] int32, which of them each row is of.
    Returns:
        [R, V + num_copies] float32, log P.
    """

    def __init__(self, num_copies, **kwargs):
        super().__init__(**kwargs)
        self.num_copies = num_copies
        self.of_context = Linear(1, use_bias=False, name="of_context", dtype="float32")
        self.of_step = Linear(1, name="of_step", dtype="float32")
        self.built = True  # the parts build themselves when they are first used

    def start(self, source, memory, vocabulary_size):
        """What depends on the source alone.

        Args:
            source: [B, S] int32 ids.
            memory: [B, S, E] float, the encoder's.
            vocabulary_size: V.
        Returns:
            Copies.
        """
        tokens = tf.where(source >= len(SPECIAL_TOKENS), source, vocabulary_size + self.num_copies - 1)
        equal = tokens[:, :, None] == tokens[:, None, :]
        first = tf.argmax(tf.cast(equal, tf.int8), -1, output_type=tf.int32)
        return Copies(tokens, first, self.of_context(tf.cast(memory, tf.float32))[:, :, 0])

    def call(self, logits, outputs, embedded, attention, copies, sources):
        attention = tf.cast(attention, tf.float32)
        tokens, first, gate = (tf.gather(part, sources) for part in copies)  # [R, S]
        num_rows, width = tf.unstack(tf.shape(tokens))
        step = tf.cast(tf.concat([outputs, embedded], -1), tf.float32)
        gate = self.of_step(step)[:, 0] + tf.reduce_sum(attention * gate, -1)
        generating, copying = tf.sigmoid(gate), tf.sigmoid(-gate)  # [R]
        nothing = tokens == logits.shape[-1] + self.num_copies - 1
        generating += copying * tf.reduce_sum(tf.where(nothing, attention, 0.0), -1)
        weights = copying[:, None] * tf.where(nothing, 0.0, attention)

        rows = tf.zeros_like(tokens) + tf.range(num_rows)[:, None]
        mass = tf.scatter_nd(tf.stack([rows, first], -1), weights, [num_rows, width])  # of an id, at its first step
        generated = tf.nn.log_softmax(logits) + _log(generating)[:, None]
        known = tf.concat([generated, tf.fill([num_rows, self.num_copies], tf.math.log(FLOOR))], 1)
        both = _log_sum(tf.gather(known, tokens, batch_dims=1), _log(mass))
        # Every step of an id writes what its first one does, and only that has the gradient.
        both = tf.where(first == tf.range(width), both, tf.stop_gradient(tf.gather(both, first, batch_dims=1)))
        both = tf.where(nothing, tf.math.log(FLOOR), both)
        return tf.tensor_scatter_nd_update(known, tf.stack([rows, tokens], -1), both)

    def get_config(self):
        return {**super().get_config(), "num_copies": self.num_copies}


def _log(values):
    return tf.math.log(tf.maximum(values, FLOOR))


def _log_sum(one, other):
    """log(exp(one) + exp(other))."""
    larger = tf.stop_gradient(tf.maximum(one, other))
    return larger + tf.math.log(tf.exp(one - larger) + tf.exp(other - larger))
