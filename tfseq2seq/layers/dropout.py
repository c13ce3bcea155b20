"""Dropout with cheap random bits, and of whole layers."""

from typing import Any

import keras
import tensorflow as tf

from tfseq2seq.layers.base import Layer

_LEVELS = 65536  # of 16 random bits a value


@keras.saving.register_keras_serializable("tfseq2seq")
class Dropout(Layer):
    """Sets a share of the inputs to 0 in training, and divides the others by 1 - rate.

    (Srivastava et al., 2014, JMLR 15; with one mask for all steps Gal & Ghahramani, 2016, arXiv:1512.05287.)
    The rate is rounded to 1 / 65,536: 16 bits a value take half the time of the 32 that Keras draws.

    Args:
        rate: Share, in [0, 1).
        per_sequence: Whether all steps of a row share one mask.
    Call arguments:
        inputs: [..., D] float; with `per_sequence` [B, T, D].
        training: Whether anything is dropped.
    Returns:
        As the inputs.
    Raises:
        ValueError: the rate is out of range; with `per_sequence`, one step alone.
    """

    def __init__(self, rate, per_sequence=False, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"Dropout needs 0 <= rate < 1. Received: rate={rate}.")
        self.rate, self.per_sequence = rate, per_sequence
        self.seed_generator: Any = keras.random.SeedGenerator() if rate else None

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        shape = tf.shape(inputs)
        if self.per_sequence:
            if inputs.shape.rank != 3:
                raise ValueError(
                    "Dropout with per_sequence needs all steps at once, [batch, steps, width]; for one step multiply "
                    f"by a `noise` drawn once. Received: {tuple(inputs.shape)}.")
            shape = tf.stack([shape[0], 1, shape[2]])
        return inputs * self.noise(shape)

    def noise(self, shape):
        """What inputs of this shape are multiplied by: 0, or 1 / (1 - rate)."""
        size, threshold = tf.reduce_prod(shape), round(self.rate * _LEVELS)
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        bits = tf.random.stateless_uniform([(size + 1) // 2], seed, minval=None, maxval=None, dtype=tf.int32)
        values = tf.reshape(tf.bitcast(bits, tf.uint16), [-1])[:size]
        kept = tf.constant(_LEVELS / (_LEVELS - threshold), self.compute_dtype)
        return tf.where(tf.reshape(values, shape) >= threshold, kept, tf.zeros([], self.compute_dtype))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "per_sequence": self.per_sequence}


@keras.saving.register_keras_serializable("tfseq2seq")
class LayerDrop(Layer):
    """Leaves a layer out now and then in training (LayerDrop, Fan et al., 2020, arXiv:1909.11556, section 3.2).

    The layer is computed in any case: this saves no time. When it answers, a model uses all of its layers, and needs no
    other scale.

    Args:
        rate: Share of the training steps that a layer is left out of, in [0, 1).
    Call arguments:
        before: [..., D] float, what the layer reads.
        after: [..., D] float, what it gives.
        training: Whether it may be left out.
    Returns:
        One of the two.
    Raises:
        ValueError: the rate is out of range.
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"LayerDrop needs 0 <= rate < 1. Received: rate={rate}.")
        self.rate = rate
        self.seed_generator: Any = keras.random.SeedGenerator() if rate else None

    def call(self, before, after, training=False):
        if not training or not self.rate:
            return after
        draw = tf.random.stateless_uniform([], tf.cast(self.seed_generator.next(), tf.int32))
        return tf.where(draw < self.rate, before, after)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}
