"""Callbacks that lower the learning rate: where the metric stays, and where the loss runs away."""

import math

import keras
import tensorflow as tf

from tfseq2seq.callbacks import Progress
from tfseq2seq.distribution import Hosts


class Diverged(Exception):
    """The loss or its gradient is no number any more, or the loss is far above what it was.

    Attributes:
        step: optimizer steps done.
        loss: mean per token of the last steps, in nats.
        norm: of the last gradient.
    """

    def __init__(self, step: int, loss: float, norm: float):
        super().__init__(f"the loss is {loss:.3g}, the gradient's norm {norm:.3g} at step {step}")
        self.step, self.loss, self.norm = step, loss, norm


class CutOnPlateau(keras.callbacks.Callback):
    """Multiplies the rate by a factor after so many evaluations without a better metric.

    To be called after `Evaluate` and before the checkpoint is written.

    Args:
        progress: shared state; `rate_scale` is what the schedule's rate is multiplied by.
        patience: evaluations, counted from the best one or the last cut.
        factor: in (0, 1).
        scale: the schedule's variable.
    """

    def __init__(self, progress: Progress, patience: int, factor: float, scale: tf.Variable):
        super().__init__()
        self.progress, self.patience, self.factor, self.scale = progress, patience, factor, scale

    def on_epoch_end(self, epoch, logs=None):
        progress = self.progress
        if progress.evaluated_step != progress.step:
            return
        progress.evaluations_since_cut = (
            0 if progress.best_step == progress.step else progress.evaluations_since_cut + 1)
        if progress.evaluations_since_cut >= self.patience:
            progress.evaluations_since_cut = 0
            progress.rate_scale *= self.factor
            self.scale.assign(progress.rate_scale)


class WatchForDivergence(keras.callbacks.Callback):
    """Raises `Diverged` out of `fit`, before a checkpoint of such weights is written.

    Training has diverged where the loss is not finite; or where its mean since the last look is above `FACTOR` times
    the lowest such mean so far, plus `MARGIN`; or where the last gradient is not finite, which spoils the weights while
    the loss is still fine. (An optimizer that scales the loss leaves such a step out, and goes on.)

    Args:
        progress: shared state.
        checkpoint_every: steps between two checkpoints, before which it looks besides.
        hosts: those that train together; they look at the same steps.
    """

    EVERY = 10  # steps between two looks, each of which waits for the device
    FACTOR, MARGIN = 2.0, 1.0  # nats a token

    def __init__(self, progress: Progress, checkpoint_every: int, hosts: Hosts):
        super().__init__()
        self.progress, self.checkpoint_every, self.hosts = progress, checkpoint_every, hosts

    def on_epoch_begin(self, epoch, logs=None):
        self._before = [0.0, 0.0]

    def on_train_batch_end(self, batch, logs=None):
        step = self.progress.step
        if step % self.EVERY == 0 or step % self.checkpoint_every == 0:
            self._look()

    def _look(self):
        tracker, lowest = self.model.metrics[0], self.progress.lowest_loss
        now = [float(tf.convert_to_tensor(part)) for part in (tracker.total, tracker.count)]
        total, count = (one - other for one, other in zip(now, self._before, strict=True))
        self._before = now
        if count == 0:
            return
        loss = total / count
        far = lowest is not None and loss > self.FACTOR * lowest + self.MARGIN
        norm = float(tf.convert_to_tensor(self.model.gradient_norm))
        spoiled = not math.isfinite(norm) and not isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)
        (bad,) = self.hosts.sum([far or spoiled or not math.isfinite(loss)])
        if bad:
            raise Diverged(self.progress.step, loss, norm)
        self.progress.lowest_loss = loss if lowest is None else min(lowest, loss)
