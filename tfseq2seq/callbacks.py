"""What happens between the steps of `fit`: evaluation, checkpoints, stopping, and what the console shows of it.

All of them share one `Progress`, which a checkpoint stores and a resumed run reads back.
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tfseq2seq import checkpoints
from tfseq2seq.console import progress_bar
from tfseq2seq.distribution import Hosts
from tfseq2seq.evaluation import evaluate, maximizes
from tfseq2seq.interruption import Interrupted


@dataclasses.dataclass
class Progress:
    """How far a run is; everything a checkpoint must know beside the weights."""

    step: int = 0  # optimizer steps done
    seconds: float = 0.0  # time spent training, over all resumptions
    evaluated_step: int = -1  # step of the last evaluation
    best_value: float | None = None
    best_step: int = -1
    evaluations_without_better: int = 0
    rate_scale: float = 1.0  # what the schedule's rate is multiplied by
    evaluations_since_cut: int = 0  # of the rate, or since the best evaluation
    lowest_loss: float | None = None  # nats a token, over a few steps
    divergences: int = 0  # times that training went back to a checkpoint
    alarms: dict[str, str] = dataclasses.field(default_factory=dict)  # that the last evaluation gave, by figure
    alarms_said: dict[str, str] = dataclasses.field(default_factory=dict)  # those of them that the user knows


class StopOnSignal(keras.callbacks.Callback):
    """Ends training at the next step after Ctrl-C or SIGTERM; a second Ctrl-C ends it at once.

    It also makes hosts end together, whichever of them was asked to stop, or chose to.

    Args:
        hosts: those that train together.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, hosts: Hosts):
        super().__init__()
        self.hosts = hosts
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self):
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def raise_if_received(self):
        if self.received is not None:
            raise Interrupted(self.received)

    def agree(self):
        """Lets every host know what signal one of them has received; where one ends training, all do."""
        stopping, *received = self.hosts.sum([
            self.model.stop_training, *(self.received == number for number in self.SIGNALS)])
        for number, hosts in zip(self.SIGNALS, received, strict=True):
            if hosts and self.received is None:
                self.received = number
        self.model.stop_training = bool(stopping) or self.received is not None

    def on_train_batch_end(self, batch, logs=None):
        self.agree()


class CountSteps(keras.callbacks.Callback):
    """Keeps `Progress` up to date and ends training when its time is up."""

    def __init__(self, progress: Progress, max_minutes: float | None):
        super().__init__()
        self.progress, self.max_minutes = progress, max_minutes

    def on_train_begin(self, logs=None):
        self._last = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        self.progress.step += 1
        self.progress.seconds += now - self._last
        self._last = now
        if self.max_minutes is not None and self.progress.seconds >= 60 * self.max_minutes:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        self._last = time.monotonic()  # evaluation between epochs counts in the time of the next step


class Evaluate(keras.callbacks.Callback):
    """Decodes held-out lines at the end of every `fit` epoch and keeps the best metric.

    Args:
        progress: shared state.
        generator: `Generator` over the model in training.
        lines: held-out source lines.
        references: their references, one list a line.
        metrics: names of metrics of the answers.
        best: the one of them, or of `evaluation.TEACHER_FORCED`, that chooses the best checkpoint.
        patience: evaluations without a better value before training stops; None never stops.
        valid_batches: dataset for the teacher-forced loss.
        num_valid_batches: how many of them there are.
        stop: whose `raise_if_received` ends a long evaluation; of several hosts the chief decodes.
        show: rich console.
        watchers: each is called with the step, lines, answers and references, and returns more figures by name.
    """

    def __init__(
        self, progress: Progress, generator, lines: list[str], references: list[list[str]], metrics: tuple[str, ...],
        best: str, patience: int | None, valid_batches, num_valid_batches: int, stop: StopOnSignal, show: Console,
        watchers: Sequence[Callable[..., dict[str, float]]],
    ):
        super().__init__()
        self.progress, self.generator, self.patience = progress, generator, patience
        self.lines, self.references, self.metrics, self.best = lines, references, metrics, best
        self.valid_batches, self.num_valid_batches = valid_batches, num_valid_batches
        self.stop, self.show, self.watchers = stop, show, watchers

    def on_epoch_end(self, epoch, logs=None):
        self.stop.agree()
        if self.stop.received is not None or self.progress.evaluated_step == self.progress.step:
            return
        started, average = time.monotonic(), self.model.moving_average
        with contextlib.nullcontext() if average is None else average.in_place_of_weights():
            teacher_forced, values, more = self._evaluate()
        if values is None:  # the steps are saved; this evaluation is made on resumption
            return
        logs = {} if logs is None else logs
        best_value = {f"best_{self.best}": self.progress.best_value}
        logs.update({f"valid_{name}": value for name, value in (teacher_forced | values | best_value | more).items()})
        parts = [f"{name} {value:.2f}" for name, value in values.items()]
        best = " [bold green]best[/]" if self.progress.best_step == self.progress.step else ""
        self.show.print(
            f"step {self.progress.step}: valid loss {teacher_forced['loss']:.3f}, {', '.join(parts)}{best} "
            f"({time.monotonic() - started:.0f} s)", highlight=False)

    def _evaluate(self) -> tuple[dict[str, float], dict[str, float] | None, dict[str, float]]:
        """Teacher-forced metrics, those of the answers, None where a signal came, the watchers'; keeps the best."""
        with progress_bar(self.show) as report:
            report("decoding held-out lines", 0, len(self.lines))
            teacher_forced = self.model.evaluate(
                self.valid_batches, steps=self.num_valid_batches, verbose=0, return_dict=True)
            hypotheses = self._decode(report) if self.stop.hosts.is_chief else []
        values = self._score(hypotheses)
        more: dict[str, float] = {}
        if values is not None:
            self.progress.evaluated_step = self.progress.step
            self._keep_best((teacher_forced | values)[self.best])
            if hypotheses:
                for watch in self.watchers:
                    more |= watch(self.progress.step, self.lines, hypotheses, self.references)
        return teacher_forced, values, more

    def _decode(self, report) -> list[str] | None:
        """The answers, or None where a signal came."""

        def on_batch(done):
            report("decoding held-out lines", done, len(self.lines))
            self.stop.raise_if_received()

        try:
            on_batch(0)
            answers = self.generator.answer(self.lines, on_batch=on_batch)
        except Interrupted:
            return None
        return [best[0].text if best else "" for best in answers]

    def _score(self, hypotheses: list[str] | None) -> dict[str, float] | None:
        """The chief's metrics on every host, or None where it was interrupted, which ends training."""
        values = [0.0] * len(self.metrics)
        if hypotheses:
            scores = evaluate(self.metrics, self.lines, hypotheses, self.references)
            values = [scores[name].value for name in self.metrics]
        interrupted, *values = self.stop.hosts.from_chief([hypotheses is None, *values])
        self.stop.agree()
        return None if interrupted else dict(zip(self.metrics, values, strict=True))

    def _keep_best(self, value: float) -> None:
        maximize, best = maximizes(self.best), self.progress.best_value
        if best is None or (value > best if maximize else value < best):
            self.progress.best_value, self.progress.best_step = value, self.progress.step
            self.progress.evaluations_without_better = 0
            return
        self.progress.evaluations_without_better += 1
        if self.patience is not None and self.progress.evaluations_without_better >= self.patience:
            self.show.print(f"stopping: {self.patience} evaluations without a better {self.best}")
            self.model.stop_training = True


class SaveCheckpoints(keras.callbacks.Callback):
    """Writes a checkpoint every so many steps, after each evaluation and when training ends."""

    def __init__(self, folder: Path, progress: Progress, every: int, keep: int):
        super().__init__()
        self.folder, self.progress, self.every, self.keep = folder, progress, every, keep
        self._saved_step: int = -1
        self._saved_state: dict[str, Any] = {}

    def on_train_batch_end(self, batch, logs=None):
        if self.progress.step % self.every == 0:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        self._save()

    def _save(self):
        step, state = self.progress.step, dataclasses.asdict(self.progress)
        if step != self._saved_step:
            checkpoints.save(self.folder, step, checkpoints.parts(self.model), state, self.keep)
        elif state != self._saved_state:  # evaluated since; the weights are the same
            checkpoints.update_state(self.folder, step, state)
        self._saved_step, self._saved_state = step, state


class ShowProgress(keras.callbacks.Callback):
    """A bar with loss, tokens a second and the time left."""

    def __init__(self, progress: Progress, steps: int, max_minutes: float | None, show: Console):
        super().__init__()
        self.progress, self.steps, self.max_minutes = progress, steps, max_minutes
        self.bar = Bar(
            TextColumn("training"), BarColumn(), TextColumn("{task.fields[step]}/{task.fields[steps]}"),
            TextColumn("{task.fields[figures]}"), TimeElapsedColumn(), TimeRemainingColumn(), console=show,
            transient=True)
        self.task = self.bar.add_task(
            "", total=1.0, completed=self._share(), step=progress.step, steps=steps, figures="")

    def _share(self):
        """How much of the training is done, in [0, 1]."""
        by_time = 0.0 if self.max_minutes is None else self.progress.seconds / (60 * self.max_minutes)
        return max(self.progress.step / self.steps, by_time)

    def on_epoch_begin(self, epoch, logs=None):
        self._started, self._tokens, self._step = time.monotonic(), 0.0, self.progress.step
        self.bar.start()

    def on_train_batch_end(self, batch, logs=None):
        seconds = time.monotonic() - self._started
        if seconds < 1.0:
            return
        tokens = self.model.count_tokens()
        figures = [f"{(tokens - self._tokens) / seconds:,.0f} tokens/s"]
        if logs and "loss" in logs:
            figures.insert(0, f"loss {float(logs['loss']):.3f}")
        self.bar.update(
            self.task, completed=self._share(), step=self.progress.step, figures="  ".join(figures))
        self._started, self._tokens = time.monotonic(), tokens

    def on_epoch_end(self, epoch, logs=None):
        self.bar.stop()
