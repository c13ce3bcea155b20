"""Means of weights against NumPy's."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tfseq2seq import callbacks, checkpoints, runs
from tfseq2seq.averaging import MovingAverage
from tfseq2seq.config import load_recipe
from tfseq2seq.training import load_generator

QUIET = Console(quiet=True)
SETTINGS = {"train.evaluate_every": 6, "train.checkpoint_every": 4, "train.average_decay": 0.7}


def saved(folder, step, kind):
    reader = tf.train.load_checkpoint(str(folder / "checkpoints" / f"step-{step:08d}" / "weights"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith(f"{kind}/")]
    return [reader.get_tensor(name) for name in sorted(names, key=lambda name: int(name.split("/")[1]))]


def assert_equal(one, two, **tolerance):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.fixture(scope="module")
def averaged(tiny_recipe, tmp_path_factory):
    """A run of 14 steps with a moving average, and the weights after each step."""
    folder, seen = tmp_path_factory.mktemp("averaged") / "run", []
    count = callbacks.CountSteps.on_train_batch_end

    def look(self, batch, logs=None):
        count(self, batch, logs)
        seen.append([weight.value.numpy() for weight in self.model.weights])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.CountSteps, "on_train_batch_end", look)
        runs.train_run(load_recipe(tiny_recipe, {**SETTINGS, "train.steps": 14}), folder, QUIET)
    return folder, seen


def test_the_moving_average_is_that_of_the_formula(averaged):
    folder, seen = averaged
    means = None
    for t, weights in enumerate(seen, start=1):
        decay = min(0.7, (1 + t) / (10 + t))
        # The first weights are those of the start, which step 1 has left behind; the checkpoints tell the rest.
        means = weights if means is None else [decay * m + (1 - decay) * w for m, w in zip(means, weights, strict=True)]
    found = saved(folder, 14, checkpoints.MEANS)
    # What the unknown start still weighs after 14 steps: the product of the decays.
    weight_of_start = np.prod([min(0.7, (1 + t) / (10 + t)) for t in range(1, 15)])
    assert weight_of_start < 1e-3
    assert_equal(found, means, atol=2 * weight_of_start)
    assert_equal(saved(folder, 14, "weights"), seen[-1])
    assert max(np.abs(a - b).max() for a, b in zip(found, seen[-1], strict=True)) > 1e-3


def test_one_step_of_the_moving_average():
    weight = keras.Variable([1.0, 2.0])
    average = MovingAverage([weight], 0.9)
    weight.assign([3.0, 6.0])
    average.update(tf.constant(1))  # (1 + 1) / (10 + 1) of the old
    np.testing.assert_allclose(average.means[0], [2 / 11 + 27 / 11, 4 / 11 + 54 / 11], rtol=1e-6)
    with pytest.raises(RuntimeError), average.in_place_of_weights():
        np.testing.assert_array_equal(weight, average.means[0])
        raise RuntimeError
    np.testing.assert_array_equal(weight, [3.0, 6.0])


def test_the_mean_is_what_answers(averaged):
    folder, _ = averaged
    run, prepared = runs.open_run(folder)
    generator = load_generator(run, prepared, folder)
    means = saved(folder, generator.step, checkpoints.MEANS)
    assert_equal([weight.value.numpy() for weight in generator.model.weights], means)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["step"] == generator.step and "valid_loss" in row]
    sources = [source for source, _ in prepared.valid]
    answers = [best[0].text for best in generator.answer(sources)]
    from tfseq2seq.evaluation import evaluate

    metric = prepared.task.metrics[0]
    references = [[target] for _, target in prepared.valid]
    assert row[f"valid_{metric}"] == pytest.approx(evaluate((metric,), sources, answers, references)[metric].value)


def test_an_interrupted_training_keeps_its_mean(averaged, tiny_recipe, tmp_path):
    folder, _ = averaged
    for steps in (8, 14):
        runs.train_run(load_recipe(tiny_recipe, {**SETTINGS, "train.steps": steps}), tmp_path / "run", QUIET)
    for kind in ("weights", checkpoints.MEANS):
        assert_equal(saved(folder, 14, kind), saved(tmp_path / "run", 14, kind), rtol=0)


def test_several_checkpoints_are_averaged_into_a_run(tiny_run, tmp_path):
    steps = checkpoints.steps(tiny_run / "checkpoints")
    output = tmp_path / "mean"
    assert runs.average_run(tiny_run, output, last=2) == steps == [12, 24]
    one, two = (saved(tiny_run, step, "weights") for step in steps)
    assert_equal(saved(output, 24, "weights"), [(a + b) / 2 for a, b in zip(one, two, strict=True)], rtol=1e-6)
    run, prepared = runs.open_run(output)
    assert runs.system_name(run, output) == "mean"
    together, _ = runs.open_run(output, {"decode.others": [str(tiny_run)]})
    assert runs.system_name(together, output) == "mean + tiny"
    assert runs.predict_lines(run, prepared, output, ["abc"], 1, lambda *_: None)[0][0].text is not None
    with pytest.raises(ValueError, match="holds a mean of checkpoints, from which no training goes on"):
        runs.train_run(run, output, QUIET)


def test_the_best_ones_are_those_of_the_metric(tiny_run, tmp_path):
    best = checkpoints.best_step(tiny_run / "checkpoints")
    assert runs.average_run(tiny_run, tmp_path / "best", best=1) == [best]
    assert_equal(saved(tmp_path / "best", best, "weights"), saved(tiny_run, best, "weights"), rtol=1e-6)


@pytest.mark.parametrize("arguments, text", [
    ({}, "needs --last or --best, one of them"), ({"last": 1, "best": 1}, "one of them"),
    ({"last": 3}, r"Received: 3, where .* has 2"), ({"best": 5}, "evaluated checkpoints")])
def test_what_cannot_be_averaged_is_refused(tiny_run, tmp_path, arguments, text):
    with pytest.raises(ValueError, match=text):
        runs.average_run(tiny_run, tmp_path / "none", **arguments)
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        runs.average_run(tiny_run, tmp_path / "there", last=1)
