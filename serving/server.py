"""An embedded server that a client cannot tell from TensorFlow Serving."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NoReturn

import tensorflow as tf
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from serving import security as security_
from serving.answers import CALL, Answers
from serving.batching import Batcher
from serving.errors import ServerError
from serving.grpc_server import GrpcServer
from serving.grpc_services import Pools, Services
from serving.http_server import HttpServer
from serving.records import Records, write_log
from serving.rest import Rest
from serving.settings import BATCHING, LIMITS, OPEN, POLL_SECONDS, Batching, Limits, Security, ServedModel
from serving.signatures import DEFAULT_MODEL
from serving.starting import (
    BINARY,
    address_of,
    cannot_listen,
    check_binary,
    check_port,
    check_server,
    refuse_taken,
)
from serving.versions import Models
from serving.workers import Workers

GRPC_THREADS = 128  # of the binary: its default, 4 a CPU, refuses callers where batching holds each thread
SECONDS_TO_END = 1.0  # of threads that have nothing more to do
SERVICES = [
    service.full_name for file in (prediction_service_pb2, model_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()]


class EmbeddedServer:
    """Answers PredictionService and ModelService for the SavedModels below one folder, or several.

    As TensorFlow Serving without settings it serves the highest version; others answer NOT_FOUND.

    Args:
        folder: holds VERSION/ folders with a SavedModel each.
        port: to listen on; 0 takes a free one, which the attribute `port` names after `start`.
        host: address to listen on.
        model_name: the name clients ask for.
        versions: "latest", "all", or the numbers to serve; a request that names none goes to the highest.
        models: what to serve instead of `folder`, `model_name` and `versions`.
        workers: requests worked on at once, at least 1; a request that waits for its batch counts, others wait for a
            worker. Default: 4 a core, and twice `batching.max_batch_size` at least, so that there is something to join.
        batching: how rows of several requests are joined; None computes each request by itself.
        limits: how much the server takes on.
        security: who may ask.
        poll_seconds: how often the folders are looked at for new versions; 0 is never.
        rest_port: of the REST API; 0 takes a free one; None has none.
    Raises:
        ValueError: a folder holds no SavedModel or not the versions asked for, or a setting is out of range.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, port: int = 0, host: str = "127.0.0.1",
        model_name: str = DEFAULT_MODEL, *, versions: Literal["latest", "all"] | Sequence[int] = "latest",
        models: Sequence[ServedModel] = (), workers: int | None = None, batching: Batching | None = BATCHING,
        limits: Limits = LIMITS, security: Security = OPEN, poll_seconds: float = POLL_SECONDS,
        rest_port: int | None = None,
    ):
        for each in (port, rest_port or 0):
            check_port(each)
        if workers is not None and workers < 1:
            raise ValueError(f"EmbeddedServer needs workers >= 1. Received: workers={workers}.")
        if (folder is None) == (not models):
            raise ValueError(f"EmbeddedServer needs a folder or models. Received: folder={folder}, models={models}.")
        if folder is not None:
            chosen = versions if isinstance(versions, str) else tuple(versions)
            models = [ServedModel(name=model_name, folder=Path(folder), versions=chosen)]
        self.host, self.port, self.rest_port = host, port, rest_port
        self._limits, self._security = limits, security
        self._num_workers = workers or max(4 * (os.cpu_count() or 1), 2 * batching.max_batch_size if batching else 0)
        self._records = Records(lambda: self.models.loaded(), lambda: self.num_waiting)
        batcher = Batcher(batching, self._records.batch, _check_call) if batching else None
        self._names: set[str] = set()  # of all models there were
        self.models = Models(models, batcher, poll_seconds, self._tell_health)
        self._workers: Workers | None = None
        self._grpc: GrpcServer | None = None
        self._is_serving = False
        self._http: HttpServer | None = None

    @property
    def address(self) -> str:
        """The address gRPC clients use."""
        return address_of(self.host, self.port)

    @property
    def rest_address(self) -> str:
        """The address REST clients and browsers use, as "http://127.0.0.1:8501", if there is a `rest_port`."""
        scheme = "http" if self._security.certificate is None else "https"
        return f"{scheme}://{address_of(self.host, self.rest_port or 0)}"

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a worker."""
        return self._workers.num_waiting if self._workers else 0

    def start(self) -> None:
        """Takes the ports, loads and warms up the versions, then answers; returns when it does.

        Raises:
            ServerError: a port cannot be taken, or no version can be loaded.
        """
        if self._is_serving:
            raise ServerError(f"The server already answers at {self.address}; stop it first.")
        self._workers = workers = Workers(self._num_workers, self._limits.max_waiting)
        self._pools = Pools()
        answers = Answers(self.models, self._limits)
        try:
            # First of all: a port that is taken should not cost the time of loading.
            self._grpc = self._take_port(answers, workers)
            self._take_rest_port(answers, workers)
            self.models.start()
            self._grpc.start()
            if self._http is not None:
                self._http.start()
        except BaseException:
            if self._grpc is not None:
                self._grpc.stop(0)
                self._grpc = None
            if self._http is not None:
                self._http.stop(0)
                self._http = None
            self._pools.shutdown()
            raise
        self._is_serving = True
        self._tell_health({name: bool(versions) for name, versions in self.models.loaded().items()})
        self._grpc.set_health(dict.fromkeys(("", *SERVICES), health_pb2.HealthCheckResponse.SERVING))

    def stop(self, grace: float | None = None) -> None:
        """Takes no new request, lets those under way end for at most `grace` seconds, gives the ports back.

        Health says NOT_SERVING meanwhile. What is computed or loaded then goes on in its threads, with nobody to wait
        for it. Default: `limits.grace`.
        """
        if self._grpc is None or self._workers is None:
            return
        self._grpc.refuse_all()
        self._is_serving = False
        seconds = self._limits.grace if grace is None else grace
        until = time.monotonic() + seconds
        if self._http is not None:
            self._http.stop(seconds)
            self._http = None
        self._grpc.stop(until - time.monotonic())
        self._grpc = None
        self._workers.wait_until_idle(until - time.monotonic())
        self.models.stop(max(0.0, until - time.monotonic()))
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._pools.shutdown()

    def __enter__(self) -> "EmbeddedServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_port(self, answers: Answers, workers: Workers) -> GrpcServer:
        credentials = security_.grpc_credentials(self._security)
        refuse_taken(self.host, self.port)
        services = Services(
            answers, workers, self._pools, self._records, lambda value: security_.is_allowed(self._security, value),
            SERVICES)
        try:
            server = GrpcServer(services, self.address, credentials, self._limits.max_request_bytes)
        except RuntimeError as error:
            raise cannot_listen(self.host, self.port, "it cannot be listened on") from error
        self.port = server.port
        return server

    def _take_rest_port(self, answers: Answers, workers: Workers) -> None:
        if self.rest_port is None:
            return
        self.rest = Rest(
            answers, workers, self._records, self._limits,
            lambda value: security_.is_allowed(self._security, value), lambda: self._is_serving)
        try:
            self._http = HttpServer(
                self.rest, self.host, self.rest_port, security_.rest_context(self._security),
                self._limits.max_request_bytes, self._limits.rest_timeout, self._records.refused)
        except OSError as error:
            raise cannot_listen(self.host, self.rest_port, (error.strerror or str(error)).lower()) from error
        self.rest_port = self._http.port

    def _tell_health(self, ready: dict[str, bool]) -> None:
        self._names |= ready.keys()
        status = health_pb2.HealthCheckResponse
        if self._grpc is not None:
            self._grpc.set_health({
                name: status.SERVING if ready.get(name) else status.NOT_SERVING for name in self._names})


def _check_call() -> None:
    call = CALL.get()
    if call is not None:  # as for warm-up requests
        call.check()


def serve(
    folder: str | os.PathLike[str] | None = None, port: int = 8500, host: str = "127.0.0.1",
    model_name: str = DEFAULT_MODEL, backend: str = "embedded", on_ready: Callable[[str], None] | None = None,
    op_threads: int | None = None, *, models: Sequence[ServedModel] = (), workers: int | None = None,
    batching: Batching | None = BATCHING, limits: Limits = LIMITS, security: Security = OPEN,
    poll_seconds: float = POLL_SECONDS, rest_port: int | None = None, log_format: str = "none",
) -> None:
    """Answers requests until SIGTERM or Ctrl-C, then lets those under way end; a second signal does not wait.

    Returns when all have ended. Where one still computes after `limits.grace`, or a version is still being loaded, the
    process ends here: Python would wait for such threads.

    Args:
        folder: holds VERSION/ folders with a SavedModel each; the highest is served.
        port: to listen on; 0 takes a free one (embedded only).
        host: address to listen on. The binary listens on every address and wants to hear it: "0.0.0.0".
        model_name: the name clients ask for.
        backend: "embedded", or "tensorflow_model_server", which turns this process into that binary. It gets `folder`,
            `port`, `rest_port`, `model_name` and `op_threads`; other settings are refused, and it joins no rows.
        on_ready: told the address once requests are answered; the binary says so itself.
        op_threads: threads that share one operation, at least 1; default: as many as there are cores. One is best
            where several searches go on at once (requests side by side, or the parts of a recipe's `decode.parts`)
            and for a search that XLA compiled.
        models, workers, batching, limits, security, poll_seconds, rest_port: see `EmbeddedServer`.
        log_format: "none", or lines of "text" or "json" on standard error, one for each request.
    Raises:
        ValueError: a setting or the folder is wrong.
        ServerError: the server cannot start.
    """
    if op_threads is not None and op_threads < 1:
        raise ValueError(f"serve needs op_threads >= 1. Received: op_threads={op_threads}.")
    where = None if folder is None else Path(folder)
    check_server(where, port, host, backend)
    if backend == BINARY and where is not None:
        check_binary(
            models=models, workers=workers, batching=batching, limits=limits, security=security,
            poll_seconds=poll_seconds, rest_port=rest_port, log_format=log_format)
        _exec_binary(where, port, model_name, op_threads, rest_port)
    if op_threads is not None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(op_threads)
        except RuntimeError as error:
            raise ServerError(
                f"op_threads must be set before TensorFlow computes anything in this process: start the server first, "
                f"or leave it out. Received: op_threads={op_threads}.") from error
    write_log(log_format)
    server = EmbeddedServer(
        folder, port, host, model_name, models=models, workers=workers, batching=batching, limits=limits,
        security=security, poll_seconds=poll_seconds, rest_port=rest_port)
    server.start()
    stopping = threading.Event()

    def stop(number: int, _: object) -> None:
        if stopping.is_set():
            os._exit(128 + number)  # as a shell says it
        stopping.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, stop) for each in signals]
    try:
        if on_ready:
            on_ready(server.address)
        stopping.wait()
    finally:
        stopping.set()
        server.stop()
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
        if not _ended([each for each in threading.enumerate() if each.name.startswith("serving-")]):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def _ended(threads: Sequence[threading.Thread]) -> bool:
    """Whether they have, after a moment for those that have nothing more to do."""
    until = time.monotonic() + SECONDS_TO_END
    for each in threads:
        each.join(max(0.0, until - time.monotonic()))
    return not any(each.is_alive() for each in threads)


def _exec_binary(folder: Path, port: int, model_name: str, op_threads: int | None, rest_port: int | None) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(shutil.which(BINARY) or BINARY, [
        BINARY, f"--port={port}", f"--rest_api_port={rest_port or 0}", f"--model_name={model_name}",
        f"--model_base_path={folder.resolve()}", f"--grpc_max_threads={GRPC_THREADS}",
        *([] if op_threads is None else [f"--tensorflow_intra_op_parallelism={op_threads}"]),
        "--xla_cpu_compilation_enabled=true",  # for models exported with decode.jit_compile; others do not ask for it
        "--max_num_load_retries=0"])  # a broken model fails at once, not after minutes
