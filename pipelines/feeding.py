"""Batches that `tfseq2seq feed` makes in other processes and on other hosts, read in the order of a local training."""

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import grpc
import tensorflow as tf

from pipelines.batching import Batch, Batches
from pipelines.pairs import AnnotatedPair
from pipelines.prepare import Prepared
from pipelines.text import SeveralSources

HELLO = "tfseq2seq"  # the data set with one element, JSON: what a feed makes, and how to ask for it
STEPS = 2**62  # as good as without end
AHEAD = 8  # batches of each feed that wait here
FIRST_CHECK, LAST_CHECK = 2.0, 16.0  # seconds without a batch until a feed is asked whether it is there, doubling

_service = tf.data.experimental.service


class FeedError(RuntimeError):
    """A feed does not answer, or makes other batches; the text says why in one line."""


class _Lost(Exception):
    """A feed does not answer now; it may come back."""


def fingerprint(prepared: Prepared) -> str:
    """Differs between runs whose training batches may differ, whatever the number of replicas."""
    run = prepared.run
    settings = {
        "data": run.data.model_dump(mode="json"),
        "train": run.train.model_dump(mode="json", include={
            "seed", "source_subword_alpha", "target_subword_alpha", "guided_alignment_weight"}),
        "sentencepiece": importlib.metadata.version("sentencepiece")}
    digest = hashlib.sha256(json.dumps(settings).encode())
    for tokenizer in (prepared.source_tokenizer, prepared.target_tokenizer):
        digest.update(json.dumps(tokenizer.vocabulary()).encode())
        of_one_source = tokenizer.of_one_source if isinstance(tokenizer, SeveralSources) else tokenizer
        digest.update(of_one_source.content())
    for pair in prepared.train:
        digest.update(repr((*pair, pair.notes() if isinstance(pair, AnnotatedPair) else None)).encode())
    return digest.hexdigest()


class FeedReader:
    """Reads a run's batches from feeds, each of which makes every n-th one.

    A batch follows from its step alone, and each comes with its step; so nothing that is lost on the way, and no feed
    that is started anew, can change what is read.

    Args:
        addresses: of the feeds, as "grpc://host:port".
        batches: of the same run, made for the same replicas.
        fingerprint: of the run, from `fingerprint`.
        patience: seconds that a feed may be away before reading ends.
    Attributes:
        addresses: as a list.
    Raises:
        ValueError: no address.
    """

    def __init__(
        self, addresses: str | Sequence[str], batches: Batches, fingerprint: str, patience: float = 60.0,
    ):
        self.addresses = [addresses] if isinstance(addresses, str) else list(addresses)
        if not self.addresses:
            raise ValueError("FeedReader needs at least one address, as \"grpc://host:5050\". Received: none.")
        self.patience = patience
        self._batches, self._fingerprint = batches, fingerprint
        self._error: FeedError | None = None

    def check(self) -> None:
        """Raises FeedError at once where a feed does not answer, or is another run's."""
        for address in self.addresses:
            try:
                self._greet(address)
            except _Lost as reason:
                raise self._gone(address, reason) from None

    def read(self, start_step: int) -> Generator[Batch, None, None]:
        """The batches from a step on, without end: those of `Batches.batch_at`.

        A feed that goes away and comes back within `patience` only costs time.

        Raises:
            FeedError: it does not come back, or is another run's then.
        """
        streams: list[_Stream | None] = [None] * len(self.addresses)
        try:
            for step in itertools.count(start_step):
                yield self._next(streams, (step - start_step) % len(streams), step)
        except FeedError as error:
            self._error = error  # what TensorFlow makes of it is not for people
            raise
        finally:
            for stream in streams:
                if stream is not None:
                    stream.stop()

    @contextlib.contextmanager
    def explaining_loss(self) -> Iterator[None]:
        """Inside, TensorFlow's error is the FeedError that it comes from."""
        try:
            yield
        except tf.errors.OpError:
            if self._error is None:
                raise
            raise self._error from None

    def _next(self, streams: list["_Stream | None"], place: int, step: int) -> Batch:
        address, lost_at = self.addresses[place], None
        while True:
            stream = streams[place]
            try:
                if stream is None:
                    stream = streams[place] = self._open(address, step)
                found, *columns = stream.next()
                if found != step:
                    raise _Lost(f"it sent the batch of step {found} in the place of {step}")
                return tf.nest.pack_sequence_as(self._batches.signature, columns)
            except _Lost as reason:
                if stream is not None:
                    stream.stop()
                streams[place] = None
                lost_at = time.monotonic() if lost_at is None else lost_at
                if time.monotonic() - lost_at > self.patience:
                    raise self._gone(address, reason) from None
                time.sleep(0.5)

    def _open(self, address: str, step: int) -> "_Stream":
        """Every n-th batch from one on."""
        hello, types = self._greet(address), [tf.int64, *(each.dtype for each in self._specs())]

        def make(number):
            # A function of the feed's own process, where this graph is run.
            step, *columns = tf.raw_ops.PyFunc(
                input=[number, tf.constant(self._batches.replicas, tf.int64)], token=hello["token"], Tout=types)
            return tf.ensure_shape(step, []), *(
                tf.ensure_shape(column, each.shape) for column, each in zip(columns, self._specs(), strict=True))

        def dataset():
            numbers = tf.data.Dataset.range(step, STEPS, len(self.addresses))
            made = numbers.map(make, num_parallel_calls=hello["workers"], deterministic=True)
            return made.apply(_service.distribute(_service.ShardingPolicy.OFF, address))

        def same():
            if self._greet(address)["started"] != hello["started"]:
                raise _Lost("it was started anew")

        return _Stream(dataset, same)

    def _specs(self) -> list[Any]:
        return tf.nest.flatten(self._batches.signature)

    def _greet(self, address: str) -> dict[str, Any]:
        _ping(address)
        stream = _Stream(
            lambda: _service.from_dataset_id(
                _service.ShardingPolicy.OFF, address, HELLO, element_spec=tf.TensorSpec([], tf.string)),
            lambda: _ping(address))
        try:
            hello = json.loads(stream.next())
        finally:
            stream.stop()
        if hello["fingerprint"] != self._fingerprint:
            raise FeedError(
                f"{address} makes the batches of other data or settings: start `tfseq2seq feed` there with the run "
                f"that is trained, or a run of the same [data] and train.seed. Received: a feed of {hello['folder']}.")
        return hello

    def _gone(self, address: str, reason: _Lost) -> FeedError:
        return FeedError(
            f"train.data_service needs a feed at {address}: start `tfseq2seq feed RUN` there, and the same training "
            f"again; or leave train.data_service out. Received: {reason}.")


class _Stream:
    """What a data set of the service holds, read in a thread of its own.

    TensorFlow itself waits for a service that died, for ever or for minutes after it came back, and cannot be
    interrupted there.

    Args:
        make_dataset: called in the thread.
        check: called where nothing comes; raises _Lost where nothing will.
    """

    def __init__(self, make_dataset: Callable[[], tf.data.Dataset], check: Callable[[], None]):
        self._make_dataset, self._check = make_dataset, check
        self._read: queue.Queue[Any] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def next(self) -> Any:
        """The next element. Raises _Lost."""
        wait = FIRST_CHECK
        while True:
            try:
                found = self._read.get(timeout=wait)
            except queue.Empty:
                self._check()
                wait = min(2 * wait, LAST_CHECK)
                continue
            if isinstance(found, Exception):
                raise _Lost(_one_line(found))
            return found

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        try:
            for element in self._make_dataset().as_numpy_iterator():
                self._put(element)
                if self._stopped.is_set():
                    return
            self._put(EOFError("it has no more batches"))
        except Exception as error:
            self._put(error)

    def _put(self, item: Any) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._read.put(item, timeout=0.2)
                return


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0].strip().rstrip(".")


def _ping(address: str) -> None:
    """Raises _Lost where no dispatcher of a tf.data service answers."""
    target = address.removeprefix("grpc://")
    proxy = [("grpc.enable_http_proxy", 0)] if target.startswith(("localhost:", "127.")) else []
    with grpc.insecure_channel(target, proxy) as channel:
        version = channel.unary_unary(
            "/tensorflow.data.DispatcherService/GetVersion", request_serializer=bytes, response_deserializer=bytes)
        try:
            version(b"", timeout=5.0)
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.UNIMPLEMENTED:
                raise _Lost("a server that is no tf.data service") from None
            raise _Lost(f"{code.name}: {_one_line(Exception(error.details()))}") from None
