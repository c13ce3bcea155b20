"""The largest `data.batch_tokens` whose training steps fit in memory, found by trying them in other processes."""

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console

from pipelines.batching import signature_of
from pipelines.prepare import load_prepared, make_batches, prepare
from tfseq2seq import cpu, quiet
from tfseq2seq.config import Run
from tfseq2seq.console import Report
from tfseq2seq.distribution import distribute, make_strategy
from tfseq2seq.errors import first_line
from tfseq2seq.optimization import check_optimizer
from tfseq2seq.structures import BOS, EOS, SPECIAL_TOKENS
from tfseq2seq.training import make_model

STEPS = 2  # of each shape: what the first one traces and makes stays for the second
WATCH_EVERY = 0.005  # seconds between two looks at how much memory a try holds; a core writes some 50 MB meanwhile
PRECISION = 0.02  # what fits and what does not are at most so far apart, as a share
QUIET = Console(quiet=True)


@dataclasses.dataclass(frozen=True)
class Largest:
    """What was found.

    Attributes:
        batch_tokens: padded tokens of the wider side in a global batch; with accumulation, of all its parts.
        too_many: the fewest that were tried and did not fit; None where all of the data fit in one batch.
        peak: bytes that the process held at most with `batch_tokens`, its data and libraries included; on GPUs None,
            as it is the device's memory that counts there.
        limit: bytes that it was given; on GPUs None.
        parts: `train.accumulation_steps`.
    """

    batch_tokens: int
    too_many: int | None
    peak: int | None
    limit: int | None
    parts: int

    def render(self) -> str:
        """A few lines for people."""
        lines = [f"data.batch_tokens = {self.batch_tokens} fits"]
        if self.peak is not None and self.limit is not None:
            lines[0] += f", with {self.peak / 1e9:.2f} GB of {self.limit / 1e9:.2f} GB"
        lines[0] += "; all of the data are in one batch then" if self.too_many is None else (
            f"; {self.too_many} does not")
        if self.too_many is not None:
            lines.append(
                f"a larger batch needs train.accumulation_steps above {self.parts}: activations are those of one part, "
                "the step is that of the whole batch")
        return "\n".join(lines)


def find_for_run(run: Run, report: Report, memory: int | None = None, margin: float = 0.1) -> Largest:
    """Tries real training steps of a recipe, with growing batches, until one does not fit; then between the two.

    Each try is a process of its own, which makes full batches of every padded shape of the data. On CPUs one
    that grows beyond the limit is ended at once, so that nothing is swapped; on a GPU memory is what the device has.

    Args:
        run: the recipe; its `data.batch_tokens` is tried first.
        report: told (stage, done, total).
        memory: bytes that a training process may hold, on CPUs; default: what is free now.
        margin: share of the memory that is left. On a GPU it is taken off the tokens.
    Raises:
        ValueError: one row a replica does not fit, `memory` is given for a GPU or must be given, or as of `train`.
        DataError: the data are missing or broken.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin must be at least 0 and below 1. Received: {margin}.")
    check_optimizer(run.train)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    if on_gpu and memory is not None:
        raise ValueError(f"--memory is for CPUs; on a GPU leave it out. Received: {memory / 1e9:g} GB.")
    limit = None if on_gpu else int((memory or available_memory()) * (1 - margin))
    with tempfile.TemporaryDirectory() as temporary:
        # Not the run's own folder, which belongs to one data.batch_tokens.
        folder = Path(temporary) / "run"
        prepared = prepare(run, folder, report)
        replicas = run.train.replicas or max(1, len(tf.config.list_physical_devices("GPU")))
        everything = run.data.model_copy(update={"batch_tokens": 2**62})
        whole = make_batches(
            dataclasses.replace(prepared, run=run.model_copy(update={"data": everything})), prepared.train, replicas,
            for_training=True, progress=report)
        most = max(rows * max(shape) for rows, shape in zip(whole.rows, whole.shapes, strict=True))
        peaks: dict[int, int | None] = {}

        def fits(batch_tokens: int) -> bool:
            report(f"trying {batch_tokens:,} tokens", len(peaks), None)
            batches = [(rows_of(batch_tokens, shape, replicas), *shape) for shape in whole.shapes]
            outcome = _try_elsewhere(folder, batches, limit)
            if outcome is not None:
                peaks[batch_tokens] = outcome or None
            return outcome is not None

        least = max(max(shape) for shape in whole.shapes) * replicas
        found, too_many = search(fits, run.data.batch_tokens, least, max(most, least))
    if on_gpu and too_many is not None:
        found = max(least, int(found * (1 - margin)))
    return Largest(found, too_many, peaks.get(found), limit, run.train.accumulation_steps)


def search(
    fits: Callable[[int], bool], start: int, least: int, most: int, precision: float = PRECISION,
) -> tuple[int, int | None]:
    """The largest number found to fit, and the least found not to: None where `most` fits.

    Doubles, or halves, from `start`, then bisects until the two are at most `precision` apart, as a share.

    Raises:
        ValueError: `least` does not fit.
    """
    low, high = None, None
    tried = min(max(start, least), most)
    while low is None or high is None:
        if fits(tried):
            low = tried
            if tried == most:
                return most, None
            tried = min(2 * tried, most) if high is None else tried
        else:
            high = tried
            if tried == least:
                raise ValueError(
                    "not even one row a replica of the longest sentences fits: make the model smaller, lower "
                    "data.max_source_length and data.max_target_length, or give it more memory. Received: "
                    f"{least} tokens.")
            tried = max(tried // 2, least) if low is None else tried
    while high - low > max(1, precision * low):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, high


def rows_of(batch_tokens: int, shape: Sequence[int], replicas: int) -> int:
    """The most rows that `Batches` makes of a padded shape."""
    return max(1, batch_tokens // max(shape) // replicas) * replicas


def available_memory() -> int:
    """Bytes that can be taken without swapping, of the machine and of the control group that this runs in.

    Raises:
        ValueError: the system does not say.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")][0]
    except (OSError, IndexError):
        raise ValueError("this system does not say how much memory is free: give --memory, in GB.") from None
    for most, used in (
            ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes")):
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
            found = min(found, int(Path(most).read_text()) - int(Path(used).read_text()))
    return found


def _try_elsewhere(folder: Path, batches: list[tuple[int, int, int]], limit: int | None) -> int | None:
    """Bytes at the most, 0 where they are not known, or None where the batches do not fit.

    Args:
        folder: a prepared run.
        batches: rows, source and target steps of each.
        limit: bytes that the process may hold.
    """
    context = multiprocessing.get_context("spawn")
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=quiet.call, args=(__name__, _try.__name__, tell, folder, batches, limit))
    process.start()
    tell.close()
    try:
        # Not by the system's own limits: those count what was asked for and never used, with `cpu.prepare` over 500 MB.
        while limit is not None and not told.poll(WATCH_EVERY):
            if _status("VmRSS", str(process.pid)) > limit:
                return None
        outcome = told.recv()
    except EOFError:
        outcome = None  # what cannot take a failed allocation ends the process
    finally:
        process.kill()
        process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _try(tell: Any, folder: Path, batches: list[tuple[int, int, int]], limit: int | None) -> None:
    """What the other process does: steps of the batches, and how much memory they took."""
    os.environ.pop("TF_CONFIG", None)  # one host finds its own limit
    cpu.prepare()  # as training does: what is freed stays, and counts
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)  # an allocation that fails is what is looked for, not an error to show
    try:
        if limit is not None:
            # Where another process takes what was free, the system should end this one.
            Path("/proc/self/oom_score_adj").write_text("1000")
        prepared = load_prepared(folder)
        run = prepared.run
        strategy = make_strategy(run.train.replicas)
        replicas = strategy.num_replicas_in_sync
        training = make_batches(prepared, prepared.train, replicas, for_training=True)  # is in memory too
        model, _ = make_model(run, prepared, strategy, QUIET)
        random = np.random.default_rng(0)
        make = functools.partial(_full_batch, random, model, aligned=run.train.guided_alignment_weight > 0)

        def step(shapes):
            data = tf.data.Dataset.from_generator(
                lambda: (make(*shape) for shape in shapes), output_signature=training.signature)
            options = tf.data.Options()
            options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
            data = data.with_options(options).prefetch(tf.data.AUTOTUNE)
            model.fit(
                distribute(strategy, lambda replicas: data), steps_per_epoch=len(shapes), epochs=1, verbose=0,
                shuffle=False)

        step(list(itertools.chain.from_iterable([batches] * STEPS)))
        peak = 0 if limit is None else _status("VmHWM")
        tell.send(None if limit is not None and peak > limit else peak)
    except Exception as error:
        # Keras gives what went wrong with TensorFlow another type, and XLA and the C++ library have words of their own.
        of_memory = isinstance(error, tf.errors.ResourceExhaustedError | MemoryError) or any(
            word in str(error).lower() for word in ("out of memory", "oom when", "bad_alloc", "resource_exhausted"))
        told = error if isinstance(error, ValueError | OSError) else RuntimeError(first_line(error))
        tell.send(None if of_memory else told)


def _full_batch(
    random: np.random.Generator, model: Any, rows: int, source_length: int, target_length: int, aligned: bool,
) -> Any:
    """A batch without padding, as it takes the most memory."""
    first = len(SPECIAL_TOKENS)
    source: np.ndarray
    labels: np.ndarray
    source, labels = (
        random.integers(first, vocabulary, [rows, length], np.int32) for vocabulary, length in (
            (model.source_vocabulary_size, source_length), (model.target_vocabulary_size, target_length)))
    source[:, -1] = labels[:, -1] = EOS
    if model.config.source == "features":
        source = np.ones([rows, source_length, model.source_vocabulary_size + 1], np.float32)
    target = np.concatenate([np.full([rows, 1], BOS, np.int32), labels[:, :-1]], 1)
    inputs = {"source": source, "target": target}
    if aligned:
        inputs["alignment"] = np.full([rows, target_length, source_length], 1 / source_length, np.float32)
    batch = inputs, labels, np.full([rows, target_length], 1 / (rows * target_length), np.float32)
    tf.nest.assert_same_structure(batch, signature_of(aligned))
    return batch


def _status(name: str, process: str = "self") -> int:
    """Bytes of a process, by their name in /proc; 0 where it has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
