"""What happens to the learning rate where the metric stays or the loss runs away."""

import io
import math

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tfseq2seq import callbacks, checkpoints, runs
from tfseq2seq.callbacks import Progress
from tfseq2seq.config import load_recipe
from tfseq2seq.distribution import Hosts, make_strategy
from tfseq2seq.rate_control import CutOnPlateau, Diverged, WatchForDivergence

SETTINGS = {"train.steps": 12, "train.evaluate_every": 12, "train.checkpoint_every": 4}
COUNT = callbacks.CountSteps.on_train_batch_end


def train(recipe, folder, monkeypatch, poisoned, **settings):
    """A training one of whose weights is no number any more after these steps, each once; and what was said."""
    poisoned, rates = set(poisoned), []

    def spoil(self, batch, logs=None):
        COUNT(self, batch, logs)
        rates.append(float(self.model.optimizer.learning_rate))
        if self.progress.step in poisoned:
            poisoned.remove(self.progress.step)
            self.model.weights[0].assign(self.model.weights[0] * math.nan)
            self.model.gradient_norm.assign(math.nan)

    monkeypatch.setattr(callbacks.CountSteps, "on_train_batch_end", spoil)
    said = io.StringIO()
    run = load_recipe(recipe, {**SETTINGS, **{f"train.{name}": value for name, value in settings.items()}})
    return runs.train_run(run, folder, Console(file=said, width=200)), rates, said


def test_a_diverged_training_goes_back_and_on_at_half_of_the_rate(tiny_recipe, tmp_path, monkeypatch):
    progress, rates, said = train(tiny_recipe, tmp_path / "run", monkeypatch, [6])
    assert (progress.step, progress.divergences, progress.rate_scale) == (12, 1, 0.5)
    assert "the loss is nan, the gradient's norm nan at step 8: going back to step 4, with the rate times 0.5" in (
        said.getvalue())
    # Steps 1 to 8, then 5 to 12 once more.
    np.testing.assert_allclose(rates[8:12], np.array(rates[4:8]) / 2, rtol=1e-6)
    state = {}
    for step in checkpoints.steps(tmp_path / "run" / "checkpoints"):
        reader = tf.train.load_checkpoint(str(tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "weights"))
        state[step] = [reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if "weights" in name]
    assert set(state) == {4, 8, 12}
    assert all(np.isfinite(value).all() for values in state.values() for value in values)


def test_a_gradient_that_spoils_the_weights_at_a_checkpoint_is_not_saved(tiny_recipe, tmp_path, monkeypatch):
    progress, _, said = train(tiny_recipe, tmp_path / "run", monkeypatch, [8])
    assert (progress.step, progress.divergences) == (12, 1)
    assert "the gradient's norm nan at step 8: going back to step 4" in said.getvalue() and "loss is nan" not in (
        said.getvalue())


def test_the_lower_rate_outlives_an_interruption(tiny_recipe, tmp_path, monkeypatch):
    train(tiny_recipe, tmp_path / "run", monkeypatch, [6], steps=8)
    progress, rates, _ = train(tiny_recipe, tmp_path / "run", monkeypatch, [])
    assert (progress.step, progress.divergences, progress.rate_scale) == (12, 1, 0.5)
    _, unbroken, _ = train(tiny_recipe, tmp_path / "other", monkeypatch, [])
    np.testing.assert_allclose(rates, np.array(unbroken[8:]) / 2, rtol=1e-6)


def test_a_training_that_diverges_too_often_ends_with_advice(tiny_recipe, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"diverged 2 times.*retries = 1 allows: lower train.learning_rate.*nan"):
        train(tiny_recipe, tmp_path / "run", monkeypatch, [5, 9], divergence_retries=1)
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [4, 8]


def test_without_a_checkpoint_it_ends_at_once(tiny_recipe, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="diverged before its first checkpoint: lower train.learning_rate"):
        train(tiny_recipe, tmp_path / "run", monkeypatch, [2])


class Tracker:
    total = count = 0.0

    def add(self, loss, tokens):
        self.total, self.count = self.total + loss * tokens, self.count + tokens


class Fake:
    gradient_norm, optimizer = 1.0, None

    def __init__(self):
        self.metrics = [Tracker()]


def test_a_loss_far_above_the_lowest_has_diverged():
    progress, model = Progress(), Fake()
    watch = WatchForDivergence(progress, 25, Hosts(make_strategy(1)))
    watch.set_model(model)
    watch.on_epoch_begin(0)

    def steps(number, loss):
        for _ in range(number):
            progress.step += 1
            model.metrics[0].add(loss, 100.0)
            watch.on_train_batch_end(0)

    steps(20, 4.0)
    steps(10, 1.5)
    assert progress.lowest_loss == pytest.approx(1.5)
    steps(10, 3.9)  # 2 x 1.5 + 1 = 4
    with pytest.raises(Diverged, match=r"the loss is 4.2, the gradient.s norm 1 at step 50"):
        steps(10, 4.2)


def test_the_rate_is_cut_after_so_many_evaluations_without_a_better_one():
    progress, scale = Progress(), tf.Variable(1.0)
    cut, scales = CutOnPlateau(progress, patience=2, factor=0.5, scale=scale), []
    for better in (True, False, True, False, False, False, False, True, False):
        progress.step += 10
        progress.evaluated_step = progress.step
        if better:
            progress.best_step = progress.step
        cut.on_epoch_end(0)
        scales.append(float(scale))
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert progress.rate_scale == 0.25
    progress.step += 1  # an epoch without an evaluation
    cut.on_epoch_end(0)
    assert progress.evaluations_since_cut == 1
