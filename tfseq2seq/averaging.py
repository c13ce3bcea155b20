"""Means of weights: one that moves along in training, and one of several checkpoints."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfseq2seq import checkpoints


class MovingAverage:
    """The exponential moving average of weights.

    (After Polyak & Juditsky, 1992, SIAM Journal on Control and Optimization 30(4), who average all of them.)

    After optimizer step t, counted from 1: mean = d mean + (1 - d) weight, with d = min(decay, (1 + t) / (10 + t)), so
    that the weights of the start do not weigh for long.

    Args:
        weights: Keras variables.
        decay: In (0, 1); about the last 1 / (1 - decay) steps count.
    """

    def __init__(self, weights: Sequence[Any], decay: float):
        self.decay, self._weights = decay, [weight.value for weight in weights]
        self.means = [
            tf.Variable(
                tf.convert_to_tensor(weight), trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)  # the same on all of them
            for weight in self._weights]

    def restart(self) -> None:
        """Makes the means what the weights are."""
        for mean, weight in zip(self.means, self._weights, strict=True):
            mean.assign(tf.convert_to_tensor(weight))

    def update(self, step: tf.Tensor) -> None:
        """Takes the weights after so many optimizer steps in."""
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        for mean, weight in zip(self.means, self._weights, strict=True):
            mean.assign(mean + tf.cast(1.0 - decay, mean.dtype) * (weight - mean))

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Inside, the weights are their means."""
        kept = [tf.identity(weight) for weight in self._weights]
        try:
            for weight, mean in zip(self._weights, self.means, strict=True):
                weight.assign(tf.convert_to_tensor(mean))
            yield
        finally:
            for weight, before in zip(self._weights, kept, strict=True):
                weight.assign(before)


def average_checkpoints(folder: Path, steps: Sequence[int], model: Any) -> None:
    """Gives the model the mean of these checkpoints' weights (Vaswani et al., 2017, section 6.1).

    Args:
        folder: a run's checkpoints/.
        steps: which of them, at least one.
        model: takes the mean.
    Raises:
        CheckpointError: one of them cannot be read.
    """
    sums = [np.zeros(weight.shape, np.float64) for weight in checkpoints.weights(model)]
    for step in steps:
        checkpoints.restore(folder, step, model)
        for total, weight in zip(sums, checkpoints.weights(model), strict=True):
            total += weight.numpy()
    for total, weight in zip(sums, checkpoints.weights(model), strict=True):
        weight.assign((total / len(steps)).astype(weight.dtype.as_numpy_dtype))
