"""What one sees of a training in TensorBoard, and the same figures as JSON lines.

`docs/training.md`, section "Watching", says what is written under which tag.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfseq2seq.callbacks import Progress
from tfseq2seq.plots import attention_png


class Log:
    """TensorBoard's events and metrics.jsonl, which get the same figures.

    Args:
        writer: TensorBoard writer.
        path: the JSON lines file, appended to; None where another host writes.
    """

    def __init__(self, writer: Any, path: Path | None):
        self.writer, self.path = writer, path

    def write(self, step: int, values: dict[str, float | str]) -> None:
        """A row: numbers as scalars, strings as text, both under the tag of their name, see `tag`."""
        if not values or self.path is None:
            return
        with self.writer.as_default(step=step):
            for name, value in values.items():
                if isinstance(value, str):
                    tf.summary.text(tag(name), f"`{value}`")
                else:
                    tf.summary.scalar(tag(name), value)
        self.writer.flush()
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def tag(name: str) -> str:
    """TensorBoard's tag of a figure: "valid_loss" is "valid/loss", and "loss" is "train/loss"."""
    return "valid/" + name.removeprefix("valid_") if name.startswith("valid_") else f"train/{name}"


class WriteScalars(keras.callbacks.Callback):
    """Figures of the steps since the row before, and of each evaluation.

    Args:
        progress: shared state.
        log: where they go.
        padding_share: padded share of all target and source positions, from the batching.
        every: steps between two rows.
    """

    def __init__(self, progress: Progress, log: Log, padding_share: float, every: int = 50):
        super().__init__()
        self.progress, self.log = progress, log
        self.padding_share, self.every = padding_share, every

    def on_epoch_begin(self, epoch, logs=None):
        self._started, self._tokens, self._sums = time.monotonic(), 0.0, {}

    def on_train_batch_end(self, batch, logs=None):
        if self.progress.step % self.every:
            return
        now, tokens = time.monotonic(), self.model.count_tokens()  # both since the epoch began
        self._write({
            **self._recent_means(), "gradient_norm": tf.convert_to_tensor(self.model.gradient_norm),
            "learning_rate": self.model.optimizer.learning_rate,
            "tokens_per_second": (tokens - self._tokens) / (now - self._started),
            "padding_share": self.padding_share, "traces": self.model.num_traces})
        self._started, self._tokens = now, tokens

    def on_epoch_end(self, epoch, logs=None):
        self._write({name: value for name, value in (logs or {}).items() if name.startswith("valid_")})

    def _write(self, values: dict[str, Any]) -> None:
        self.log.write(self.progress.step, {name: float(value) for name, value in values.items()})

    def _recent_means(self) -> dict[str, float]:
        """The metrics over the steps since the last row; Keras' own means begin with the epoch.

        Read here, outside the replicas, their sums are those of the global batch; `logs` has the mean of the
        replicas' own.
        """
        means = {}
        for metric in self.model.metrics:
            sums = [float(tf.convert_to_tensor(part)) for part in (metric.total, metric.count)]
            total, count = (now - before for now, before in zip(sums, self._sums.get(metric.name, (0.0, 0.0))))
            self._sums[metric.name] = sums
            mean = total / count if count else float("nan")
            means[metric.name] = math.exp(mean) if metric is self.model.perplexity else mean
        return means


class WriteTraces(keras.callbacks.Callback):
    """Which batch made TensorFlow trace the training step, or XLA compile it, at the step when it happened.

    Both take seconds to minutes, and happen once for some shapes. A row has

    - "trace_shape": [rows, source steps] -> [rows, target steps] of the global batch that was traced, and "traced_for"
      the same of the replica's rows that the trace is good for, where ? is any number; "traces", how many there are;
    - or, with `train.jit_compile`, "compiled_shape" for each shape that comes for the first time, as XLA compiles it.

    Args:
        progress: shared state.
        log: where the rows go.
        shape_at: (steps done before) -> (rows, source steps, target steps) of the global batch.
        num_shapes: distinct shapes there are.
    """

    def __init__(self, progress: Progress, log: Log, shape_at: Callable[[int], tuple[int, int, int]], num_shapes: int):
        super().__init__()
        self.progress, self.log, self.shape_at, self.num_shapes = progress, log, shape_at, num_shapes
        self._traces, self._compiled = 0, set[tuple[int, int, int]]()

    def on_train_batch_end(self, batch, logs=None):
        compiling = self.model.jit_compile and len(self._compiled) < self.num_shapes
        traced = self.model.num_traces != self._traces
        if not traced and not compiling:
            return
        shape = self.shape_at(self.progress.step - 1)
        rows, source, target = shape
        text = f"[{rows}, {source}] -> [{rows}, {target}]"
        values: dict[str, float | str] = {}
        if traced:
            self._traces = self.model.num_traces
            values |= {"traces": self._traces, "trace_shape": text, "traced_for": self.model.traced_for}
        if compiling and shape not in self._compiled:
            self._compiled.add(shape)
            values["compiled_shape"] = text
        self.log.write(self.progress.step, values)


class Profile(keras.callbacks.Callback):
    """Records what the devices do in some steps, for TensorBoard's profile tab.

    Evaluations between the steps are left out; the profile then has a part before and a part after. Each is recorded
    at most once, also where training diverges and goes back.

    Args:
        progress: shared state.
        steps: the first and the last one, counted from 1; None records nothing.
        folder: TensorBoard's folder; the profile goes to plugins/profile/ in it.
    """

    def __init__(self, progress: Progress, steps: Sequence[int] | None, folder: Path):
        super().__init__()
        self.progress, self.folder = progress, folder
        self._left = set() if steps is None else set(range(steps[0], steps[1] + 1))
        self._step: Any = None  # the step that is marked
        self._recording = False

    def on_train_batch_begin(self, batch, logs=None):
        step = self.progress.step + 1
        if step not in self._left:
            return
        if not self._recording:
            self._wait_for_devices()  # the steps before are no part of it
            tf.profiler.experimental.start(str(self.folder))
            self._recording = True
        self._step = tf.profiler.experimental.Trace("train", step_num=step, _r=1)
        self._step.__enter__()

    def on_train_batch_end(self, batch, logs=None):
        """To be called first of all callbacks, before `Progress` counts the step."""
        if not self._recording:
            return
        self._leave_step()
        self._left.discard(self.progress.step + 1)
        if self.progress.step + 2 not in self._left:
            self.stop()

    def on_epoch_end(self, epoch, logs=None):
        self.stop()

    def on_train_begin(self, logs=None):
        self.stop()  # of a `fit` that raised

    def stop(self) -> None:
        """Writes what was recorded; to be called when training ends, however it does."""
        if not self._recording:
            return
        self._recording = False
        try:
            self._leave_step()
            self._wait_for_devices()
        finally:
            tf.profiler.experimental.stop()

    def _leave_step(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def _wait_for_devices(self) -> None:
        float(tf.convert_to_tensor(self.model.gradient_norm))


class WriteSamples:
    """Answers beside their references as text, and attention as pictures.

    Args:
        generator: `Generator` over the model in training.
        writer: TensorBoard writer.
    """

    NUM_LINES, NUM_PICTURES = 10, 3

    def __init__(self, generator: Any, writer: Any):
        self.generator, self.writer = generator, writer

    def __call__(
        self, step: int, lines: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]],
    ) -> dict[str, float]:
        rows = ["| source | answer | reference |", "|---|---|---|"]
        rows += [
            "| " + " | ".join(text.replace("|", "\\|") for text in (line, answer, right[0])) + " |"
            for line, answer, right in list(zip(lines, answers, references, strict=True))[: self.NUM_LINES]]
        with self.writer.as_default(step=step):
            tf.summary.text("samples", "\n".join(rows))
            for i, line in enumerate(lines[: self.NUM_PICTURES]):
                source, target, weights = self.generator.attention(line)
                image = tf.io.decode_png(attention_png(source, target, weights), channels=3)
                tf.summary.image(f"attention/{i}", image[None])
        return {}
