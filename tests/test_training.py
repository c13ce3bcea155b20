"""Training from a recipe: what it leaves, and that it goes on where it stopped."""

import io
import json
import os
import signal
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tfseq2seq import checkpoints, runs
from tfseq2seq.callbacks import Progress, ShowProgress
from tfseq2seq.config import ConfigError, load_recipe
from tfseq2seq.distribution import make_strategy
from tfseq2seq.generation import Generator
from tfseq2seq.interruption import Interrupted
from tfseq2seq.training import load_generator
from tfseq2seq.watching import Log, WriteScalars

QUIET = Console(quiet=True)
COMMAND = [sys.executable, "-c", "from tfseq2seq.cli import main; main()"]


def weights_of(folder):
    run, prepared = runs.open_run(folder)
    step = checkpoints.steps(folder / "checkpoints")[-1]
    checkpoints.update_state(folder / "checkpoints", step, {})  # the newest is to be read, whatever its metric
    return step, load_generator(run, prepared, folder).model.get_weights()


def test_the_bar_shows_a_loss_once_there_is_one():
    console = Console(file=io.StringIO(), width=120)
    shown = ShowProgress(Progress(step=3), 10, None, console)
    shown.set_model(types.SimpleNamespace(count_tokens=lambda: 500.0))

    def text():
        console.print(shown.bar.get_renderable())
        return console.file.getvalue().splitlines()[-1]

    assert "3/10" in text() and "loss" not in text() and "nan" not in text()
    shown.on_epoch_begin(0)
    shown._started -= 10
    shown.on_train_batch_end(0, {"loss": 2.5})
    assert "loss 2.500  50 tokens/s" in text()
    shown.bar.stop()


def test_a_run_leaves_all_that_is_promised(tiny_run):
    assert {path.name for path in tiny_run.iterdir()} >= {
        "config.json", "data", "tokenizers", "checkpoints", "logs", "metrics.jsonl"}
    assert load_recipe(tiny_run / "config.json").train.steps == 24
    assert checkpoints.steps(tiny_run / "checkpoints") == [12, 24]
    assert checkpoints.best_step(tiny_run / "checkpoints") in (12, 24)
    rows = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if "valid_word_error_rate" in row]
    assert [row["step"] for row in evaluations] == [12, 24]
    assert evaluations[1]["valid_loss"] < evaluations[0]["valid_loss"]


def test_a_row_of_scalars_tells_of_the_steps_since_the_one_before(tmp_path):
    class Metric:
        def __init__(self, name):
            self.name, self.total, self.count = name, 0.0, 0.0

    class Fake:
        loss, perplexity = Metric("loss"), Metric("perplexity")
        metrics = [loss, perplexity]
        gradient_norm = optimizer = num_traces = 0.0

        @staticmethod
        def count_tokens():
            return Fake.loss.count

    Fake.optimizer = type("Optimizer", (), {"learning_rate": 0.5})
    writer = tf.summary.create_file_writer(str(tmp_path / "logs"))
    scalars = WriteScalars(Progress(step=10), Log(writer, tmp_path / "metrics.jsonl"), 0.25, every=10)
    scalars.set_model(Fake)
    scalars.on_epoch_begin(0)
    for total, count in ((30.0, 10.0), (40.0, 20.0)):  # means 3, then (40 - 30) / (20 - 10) = 1
        for metric in Fake.metrics:
            metric.total, metric.count = total, count
        scalars.on_train_batch_end(0)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [3.0, 1.0]
    assert [row["perplexity"] for row in rows] == pytest.approx([np.exp(3.0), np.exp(1.0)])


def test_tensorboard_gets_scalars_samples_and_attention(tiny_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tiny_run / "logs"), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {"valid/loss", "valid/word_error_rate", "samples", "attention/0"} <= tags
    samples = events.Tensors("samples")[-1].tensor_proto.string_val[0].decode()
    assert samples.startswith("| source | answer | reference |")


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(tiny_recipe, tmp_path, capsys):
    def train(name, steps, show=QUIET):
        run = load_recipe(tiny_recipe, {"train.steps": steps, "train.evaluate_every": 6, "train.checkpoint_every": 4})
        return runs.train_run(run, tmp_path / name, show)

    assert train("unbroken", 14).step == 14
    assert train("resumed", 8).step == 8
    assert train("resumed", 14).step == 14
    capsys.readouterr()
    assert train("resumed", 14, Console(width=200)).step == 14  # nothing is left to do
    told = capsys.readouterr().out
    assert "finished already, by train.steps = 14: 14 steps in" in told and "--set train.steps=28" in told
    assert "going on" not in told and "done" not in told
    unbroken, resumed = weights_of(tmp_path / "unbroken"), weights_of(tmp_path / "resumed")
    assert unbroken[0] == resumed[0] == 14
    for one, two in zip(unbroken[1], resumed[1], strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_interrupted_evaluation_is_made_up_for(tiny_recipe, tmp_path, monkeypatch):
    run = load_recipe(tiny_recipe, {"train.steps": 8, "train.evaluate_every": 4})
    answer = Generator.answer

    def interrupt(self, lines, batch_tokens=None, on_batch=None):
        os.kill(os.getpid(), signal.SIGINT)
        return answer(self, lines, batch_tokens, on_batch)

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "answer", interrupt)
        with pytest.raises(Interrupted, match="SIGINT"):
            runs.train_run(run, tmp_path / "run", QUIET)
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [4]
    progress = runs.train_run(run, tmp_path / "run", QUIET)
    assert (progress.step, progress.evaluated_step) == (8, 8)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "valid_loss" in row] == [4, 8]


@pytest.mark.parametrize("metric, best", [("loss", min), ("exact_match", max)])
def test_any_metric_chooses_the_best_and_ends_training(tiny_recipe, tmp_path, metric, best):
    # At such a rate nothing is learned for long.
    run = load_recipe(tiny_recipe, {
        "train.steps": 40, "train.evaluate_every": 2, "train.metric": metric, "train.patience": 2,
        "train.learning_rate": 2.0, "train.divergence_retries": 99})
    progress = runs.train_run(run, tmp_path / "run", QUIET)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    values = {row["step"]: row[f"valid_{metric}"] for row in rows if f"valid_{metric}" in row}
    assert progress.step < 40 and list(values)[-3:] == [progress.step - 4, progress.step - 2, progress.step]
    assert progress.best_value == best(values.values()) and progress.best_step == progress.step - 4


def test_a_folder_of_another_config_is_refused(tiny_recipe, tiny_run):
    run = load_recipe(tiny_recipe, {"model.embedding_units": 13})
    with pytest.raises(ConfigError, match=r"another config.*model.embedding_units = 13, the folder has 12"):
        runs.train_run(run, tiny_run, QUIET)


def test_more_replicas_than_devices_are_refused():
    with pytest.raises(ValueError, match="train.replicas = 99 needs as many devices"):
        make_strategy(99)
