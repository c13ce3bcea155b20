"""Offline inference: files of any size in, answers out in their order, several batches at once.

Lines are read a window at a time, sorted by length and decoded in batches of like length by a pool of threads;
each finished window is written behind the one before. So memory holds two windows whatever the file's size,
and what was written is the whole of a number of windows, after which an interrupted command goes on.
"""

import collections
import collections.abc
import concurrent.futures
import contextlib
import datetime
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tfseq2seq.generation import Answer, Generator, to_answers
from tfseq2seq.output import FileOutput, Output, Window, render
from tfseq2seq.unknown import watch_unknown

WINDOW = 10_000  # lines
MOST_CHARACTERS = 1 << 24  # of a window, however few lines that is
TELL_EVERY = 60.0  # seconds between two lines of progress where there is no terminal

Decode = Callable[[list[list[str]]], list[list[list[Answer]]]]  # the lines of some batches to their answers
Render = Callable[[int, Window], str]  # the number of a window's first line, from 1, and the window, as it is written
_TEXT = tf.TensorSpec([None], tf.string)


class Replicas:
    """Decodes as many batches at once as a strategy has replicas, one on each device.

    Args:
        generator: `Generator` whose model was built under the strategy's scope.
        strategy: `tf.distribute.MirroredStrategy`.
    """

    def __init__(self, generator: Generator, strategy: tf.distribute.Strategy):
        self.count = strategy.num_replicas_in_sync
        self._generator, self._strategy = generator, strategy
        self._traced = tf.function(self._in_graph, input_signature=[[_TEXT] * self.count], autograph=False)

    def __call__(self, batches: list[list[str]]) -> list[list[list[Answer]]]:
        """Answers of at most `count` batches; replicas without one get no rows."""
        filled = batches + [[]] * (self.count - len(batches))
        results = self._traced([tf.constant(lines, tf.string, shape=[len(lines)]) for lines in filled])
        return [to_answers(result) for result in results[: len(batches)]]

    def _in_graph(self, batches):
        spread = self._strategy.experimental_distribute_values_from_function(
            lambda context: batches[context.replica_id_in_sync_group])
        results = self._strategy.run(lambda text: self._generator.answer_in_graph(text)[0], args=(spread,))
        values = {name: self._strategy.experimental_local_results(value) for name, value in results.items()}
        return [{name: value[replica] for name, value in values.items()} for replica in range(self.count)]


def predict(
    generator: Any, lines: Iterable[str], output: Output, output_format: str | Render,
    on_lines: Callable[[int], None] = lambda done: None, **settings: Any,
) -> None:
    """Answers lines and hands them on to `output`, in order; those that it holds already are passed over.

    Args:
        generator: `Generator`.
        lines: all lines of the source.
        output: where to.
        output_format: one of `tfseq2seq.arguments.FORMATS`, or a function that writes a window.
        on_lines: told after each batch how many lines of the source have an answer, those passed over included.
        **settings: of `answer_windows`.
    """
    start = output.num_lines
    left = itertools.islice(lines, start, None)
    windows = answer_windows(generator, left, on_lines=lambda done: on_lines(start + done), **settings)
    write = functools.partial(render, output_format) if isinstance(output_format, str) else output_format
    with contextlib.closing(windows):  # a disk that is full must not leave workers at work
        for part in windows:
            output.append(write(output.num_lines + 1, part), len(part.lines), part.num_cut)
    output.finish()


def predict_and_tell(
    generator: Generator, lines: Iterable[str], output: Output, output_format: str | Render, console: Console,
    total: int | None, **settings: Any,
) -> None:
    """As `predict`; shows the pace, and says what is unknown in the source and what is kept of an interrupted call.

    Args:
        generator, lines, output, output_format, **settings: of `predict`.
        console: where to.
        total: lines of the source; None where nobody knows.
    """
    lines = watch_unknown(lines, generator.tokenizers[0], lambda text: console.print(escape(text), highlight=False))
    file = output if isinstance(output, FileOutput) else None
    if file is not None and file.num_lines:
        console.print(f"{file.path}: going on after line {file.num_lines:,}", highlight=False)
    try:
        with show_pace(console, total) as on_lines:
            predict(generator, lines, output, output_format, on_lines, **settings)
    except BaseException:
        if file is not None and file.resumable and file.num_lines:
            console.print(
                f"{file.path}: {file.num_lines:,} lines are kept; the same command goes on after them", highlight=False)
        raise
    if output.num_cut:
        console.print(
            f"{output.num_cut:,} lines were longer than export.max_source_length = {generator.max_source_length} "
            "tokens and were cut there", highlight=False)


def answer_windows(
    generator: Any, lines: Iterable[str], *, window: int = WINDOW, batch_tokens: int | None = None, workers: int = 1,
    replicas: Replicas | None = None, read_ahead: bool = True, on_lines: Callable[[int], None] = lambda done: None,
) -> collections.abc.Generator[Window, None, None]:
    """Decodes lines of any number, several batches at once.

    Args:
        generator: `Generator`.
        lines: source lines.
        window: lines that are read and sorted together, at least 1.
        batch_tokens: most padded source tokens in a batch; default the generator's.
        workers: batches decoded at once.
        replicas: decodes the batches, in place of the generator.
        read_ahead: read the next window before the last one is answered, so that no worker waits. Not for a pipe,
            whose writer may wait for an answer.
        on_lines: told after each batch how many lines have an answer.
    Yields:
        Windows in the order of the lines.
    """
    batches_at_once = replicas.count if replicas else 1
    decode: Decode = replicas or (lambda batches: [generator.answer_batch(batches[0])])
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    pending: collections.deque[tuple[concurrent.futures.Future, Window, list[list[int]]]] = collections.deque()
    done, wait = 0, True
    decode([[]] * batches_at_once)  # traces; Keras keeps what it needs for that in the main thread
    on_lines(done)

    def collect() -> Iterator[Window]:
        nonlocal done
        future, owner, groups = pending.popleft()
        # A signal that comes in the moment before a wait is not seen until the wait ends: so it ends every second.
        while not concurrent.futures.wait([future], timeout=1).done:
            pass
        for rows, answers in zip(groups, future.result(), strict=True):
            for row, answer in zip(rows, answers, strict=True):
                owner.answers[row] = answer
            owner.missing -= len(rows)
            done += len(rows)
        on_lines(done)
        if not owner.missing:  # batches come back in the order they were handed out, so windows end in order
            yield owner

    try:
        for part in _windows(lines, window):
            batches, num_cut = generator.batches(part, batch_tokens, workers * batches_at_once)
            batches = batches[::-1]  # the longest first: the most memory at once, the least waiting at the end
            owner = Window(part, [[] for _ in part], num_cut, len(part))
            for start in range(0, len(batches), batches_at_once):
                groups = batches[start : start + batches_at_once]
                pending.append((pool.submit(decode, [[part[row] for row in rows] for rows in groups]), owner, groups))
                while len(pending) > 2 * workers:
                    yield from collect()
            while pending and not (read_ahead and pending[0][1] is owner):  # two windows in memory, not more
                yield from collect()
        while pending:
            yield from collect()
    except (KeyboardInterrupt, GeneratorExit):
        wait = False  # a batch under way may take minutes, and nothing stops it
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)


def count_gpus() -> int:
    """GPUs that TensorFlow sees; it is not started by the question."""
    return len(tf.config.list_physical_devices("GPU"))


def share_cores(workers: int | None) -> int:
    """Divides the cores among batches that are decoded at once; to be called before TensorFlow's first operation.

    Two batches at once with a thread each take 0.65 to 0.74 of the time of one after the other with two threads.

    Args:
        workers: batches decoded at once; default the cores, or 1 where there is a GPU.
    Returns:
        The workers.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or (1 if count_gpus() else cores)
    with contextlib.suppress(RuntimeError):  # TensorFlow runs already, for whoever called from Python
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // workers))
    return workers


def _windows(lines: Iterable[str], window: int) -> Iterator[list[str]]:
    part: list[str] = []
    num_characters = 0
    for line in lines:
        part.append(line)
        num_characters += len(line)
        if len(part) == window or num_characters >= MOST_CHARACTERS:
            yield part
            part, num_characters = [], 0
    if part:
        yield part


@contextlib.contextmanager
def show_pace(console: Console, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows lines, lines a second and time left: as a bar, or where there is no terminal as a line a minute.

    Args:
        console: where to.
        total: lines of the source; None where nobody knows.
    Returns:
        What to tell the number of lines done; the pace is counted from the first number on.
    """
    pace = Pace(total)
    columns = (
        TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, told = bar.add_task("", total=total, pace=""), time.monotonic()

        def on_lines(done: int) -> None:
            nonlocal told
            now = time.monotonic()
            words = pace.tell(done, now)
            bar.update(task, completed=done, pace=words)
            if not console.is_terminal and now - told >= TELL_EVERY:
                of = "" if total is None else f" of {total:,}"
                console.print(f"{done:,}{of} lines, {words}", highlight=False)
                told = now

        yield on_lines
    console.print(pace.summary(), highlight=False)


class Pace:
    """How fast lines are answered, and when the last one will be."""

    def __init__(self, total: int | None):
        self.total = total
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)

    def tell(self, done: int, now: float) -> str:
        """Lines a second and time left, in words, with `done` lines at `now` seconds."""
        self._first = self._first or (done, now)
        self._last = (done, now)
        rate = self._rate()
        if not rate:
            return ""
        left = "" if self.total is None else f", {_duration((self.total - done) / rate)} left"
        return f"{rate:,.1f} lines/s{left}"

    def summary(self) -> str:
        """What was done since the first `tell`, in words."""
        (first, started), (last, ended) = self._first or self._last, self._last
        return f"{last - first:,} lines in {_duration(ended - started)}, {self._rate():,.1f} lines/s"

    def _rate(self) -> float:
        (first, started), (last, ended) = self._first or self._last, self._last
        return (last - first) / (ended - started) if ended > started else 0.0


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
