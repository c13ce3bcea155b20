"""A tf.data service whose one worker makes the batches of a run, in the order that trainings ask for."""

import contextlib
import functools
import json
import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Callable
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.batching import signature_of
from pipelines.feeding import HELLO, fingerprint
from pipelines.folders import refuse_no_run
from pipelines.prepare import Prepared, load_prepared, make_batches
from tfseq2seq import quiet
from tfseq2seq.ports import why_taken

_service = tf.data.experimental.service


class Feed:
    """The service, in a process of its own; it runs from when it is made until `close`.

    A graph that a training sends names a Python function of that process, which makes the batch of any step: by
    itself, or by several processes, each of which reads the run's data.

    Args:
        folder: a prepared run.
        port: of the dispatcher; the worker's is the next one. 0 takes free ones.
        host: name or address by which trainings reach this machine.
        workers: processes that make batches, at least 1; 1 is the service's own.
    Attributes:
        address: as "grpc://host:port".
        process: the service's.
    Raises:
        ConfigError: `folder` holds no prepared run.
        ValueError: a port is taken.
        RuntimeError: the process died before it was ready.
    """

    def __init__(self, folder: Path, port: int = 5050, host: str = "localhost", workers: int = 1):
        if workers < 1:
            raise ValueError(f"Feed needs workers of at least 1. Received: workers={workers}.")
        refuse_no_run(folder)
        for each in (port, port + 1) if port else ():
            if (reason := why_taken("", each)) is not None:  # else each of two servers gets half of the requests
                raise ValueError(
                    f"port {each} cannot be listened on; give another --port, of which the next one is taken too, or "
                    f"0. Received: {reason}.")
        # Not in this process: TensorFlow holds Python's lock while it waits for the service's last batches to be made,
        # which need that lock, so that it cannot be stopped but by the end of its process.
        context = multiprocessing.get_context("spawn")
        told, tell = context.Pipe(duplex=False)
        self.process = context.Process(
            target=quiet.call, args=(__name__, _serve.__name__, tell, folder, port, host, workers))
        self.process.start()
        tell.close()
        try:
            found = told.recv()
        except EOFError:
            found = RuntimeError(
                "the feed's process died before it was ready; it needs memory for the run's data. "
                f"Received: {folder}.")
        if isinstance(found, Exception):
            self.close()
            raise found
        self.address: str = found

    def close(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.join()


def serve_feed(folder: Path, port: int, host: str, workers: int, on_ready: Callable[[str], None]) -> None:
    """Feeds until SIGTERM or Ctrl-C. Arguments and errors as of `Feed`; `on_ready` is told its address.

    Raises:
        RuntimeError: one of the processes died.
    """
    stopping = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    feed = Feed(folder, port, host, workers)
    before = [signal.signal(each, lambda *_: stopping.set()) for each in signals]
    try:
        on_ready(feed.address)
        while not stopping.wait(0.5):
            if not feed.process.is_alive():
                raise RuntimeError(
                    "a process that makes batches died: start the feed again, with fewer --workers if memory ran out. "
                    f"Received: --workers {workers}.")
    finally:
        feed.close()
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def _serve(tell: Any, folder: Path, port: int, host: str, workers: int) -> None:
    """What the service's process does, until it is killed."""
    _begin()
    try:
        prepared = load_prepared(folder)
        make = _maker(prepared) if workers == 1 else _pool_of(folder, workers)
        types = [tf.int64, *(each.dtype for each in tf.nest.flatten(
            signature_of(prepared.run.train.guided_alignment_weight > 0)))]
        number = tf.TensorSpec([], tf.int64)

        def numbered(step, replicas):
            return [np.int64(step), *make(int(step), int(replicas))]

        # TensorFlow knows the function by its token, as long as this is here.
        traced = tf.function(
            lambda step, replicas: tf.numpy_function(numbered, [step, replicas], types), autograph=False,
        ).get_concrete_function(number, number)
        (token,) = (each.get_attr("token") for each in traced.graph.get_operations() if each.type == "PyFunc")
        dispatcher = _service.DispatchServer(_service.DispatcherConfig(port=port))
        local = dispatcher.target.removeprefix("grpc://")
        worker = _service.WorkerServer(_service.WorkerConfig(
            dispatcher_address=local, worker_address=f"{host}:%port%", port=port and port + 1))
        hello = {
            "token": token.decode(), "workers": workers, "fingerprint": fingerprint(prepared),
            "folder": str(folder.resolve()), "started": uuid.uuid4().hex}
        _service.register_dataset(
            dispatcher.target, tf.data.Dataset.from_tensors(json.dumps(hello)), dataset_id=HELLO)
        tell.send(f"grpc://{host}:{local.rpartition(':')[2]}")
    except Exception as error:
        tell.send(error if isinstance(error, ValueError | OSError) else RuntimeError(str(error)))
        return
    worker.join()


def _maker(prepared: Prepared) -> Callable[[int, int], list[np.ndarray]]:
    """A function of (step, replicas): the batch's columns, in the order of its signature."""
    of_replicas = functools.cache(
        lambda replicas: make_batches(prepared, prepared.train, replicas, for_training=True))
    return lambda step, replicas: tf.nest.flatten(of_replicas(replicas).batch_at(step))


def _pool_of(folder: Path, workers: int) -> Callable[[int, int], list[np.ndarray]]:
    """As `_maker`, but other processes make them."""
    pool = futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), quiet.call, (__name__, _begin.__name__, folder))

    def make(step: int, replicas: int) -> list[np.ndarray]:
        try:
            return pool.submit(_make_here, step, replicas).result()
        except BrokenProcessPool:
            os._exit(1)  # nothing mends it; the first process says so

    return make


_make_in_process: Any = None  # of a process of the pool


def _begin(folder: Path | None = None) -> None:
    """What each process does first; one of the pool reads the run."""
    global _make_in_process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")  # a training needs all of it
    if folder is not None:
        _make_in_process = _maker(load_prepared(folder))


def _end_with_parent() -> None:
    """Who is killed ends no other process, and those would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make_here(step: int, replicas: int) -> list[np.ndarray]:
    return _make_in_process(step, replicas)
