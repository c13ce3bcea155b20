"""An embedded gRPC server that a client cannot tell from TensorFlow Serving, for one model."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Literal, NoReturn

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving import servables
from serving.folders import find_versions
from serving.settings import BINARY, ServerError, address_of, cannot_listen, check_port, check_server, refuse_taken
from serving.signatures import DEFAULT_MODEL

GRPC_THREADS = 128  # of the binary: its default, 4 a CPU, refuses callers where batching holds each thread
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_OPTIONS = [
    ("grpc.so_reuseport", 0),  # else a second server on the same port starts, and takes half of the requests
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.max_send_message_length", 2**31 - 1)]
_INVALID, _NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
_State = get_model_status_pb2.ModelVersionStatus


class EmbeddedServer:
    """Answers PredictionService and ModelService for the SavedModels below one folder.

    As TensorFlow Serving without settings it serves the highest version; others answer NOT_FOUND.

    Args:
        folder: holds VERSION/ folders with a SavedModel each.
        port: to listen on; 0 takes a free one, which the attribute `port` names after `start`.
        host: address to listen on.
        model_name: the name clients ask for.
        versions: "latest", "all", or the numbers to serve; a request that names none goes to the highest.
        workers: requests worked on at once, at least 1; default: 4 a CPU. Others wait.
    Raises:
        ValueError: `folder` holds no SavedModel or not the versions asked for, or a setting is out of range.
    """

    def __init__(
        self, folder: str | os.PathLike[str], port: int = 0, host: str = "127.0.0.1",
        model_name: str = DEFAULT_MODEL, *, versions: Literal["latest", "all"] | Sequence[int] = "latest",
        workers: int | None = None,
    ):
        check_port(port)
        if workers is not None and workers < 1:
            raise ValueError(f"EmbeddedServer needs workers >= 1. Received: workers={workers}.")
        if not model_name:
            raise ValueError(f"EmbeddedServer needs a model_name. Received: {model_name!r}.")
        self.folder, self.host, self.port, self.model_name = Path(folder), host, port, model_name
        self._paths = _chosen(self.folder, versions)
        self._workers = workers or 4 * (os.cpu_count() or 1)
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        """The address clients use."""
        return address_of(self.host, self.port)

    def start(self) -> None:
        """Takes the port, loads and warms up the versions, then answers; returns when it does.

        Raises:
            ServerError: the port cannot be taken, or no version can be loaded.
        """
        if self._server is not None:
            raise ServerError(f"The server already answers at {self.address}; stop it first.")
        refuse_taken(self.host, self.port)
        pool = futures.ThreadPoolExecutor(self._workers, thread_name_prefix="serving")
        server = grpc.server(pool, options=_OPTIONS)
        try:
            # First of all: a port that is taken should not cost the time of loading.
            self.port = server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise cannot_listen(self.host, self.port, "it cannot be listened on") from error
        try:
            loaded, states = _load(self._paths)
            services = _Services(self.model_name, loaded, states)
            prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, server)
            model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
            server.start()
        except BaseException:
            server.stop(None)
            raise
        self._server = server

    def stop(self, grace: float = 30.0) -> None:
        """Takes no new request, lets those under way end for at most `grace` seconds, gives the port back."""
        if self._server is not None:
            self._server.stop(grace).wait()
            self._server = None

    def __enter__(self) -> "EmbeddedServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Services(
    prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer
):
    """Both services; codes and texts are TensorFlow Serving's."""

    def __init__(self, model_name: str, loaded: dict[int, servables.Servable], states: dict[int, Any]):
        self._name, self._loaded, self._states = model_name, loaded, states

    def Predict(self, request, context):  # noqa: N802
        servable = self._find(request, context)
        if not context.is_active():  # its deadline passed, or its caller left, while it waited for a worker
            context.abort(grpc.StatusCode.CANCELLED, "The caller is gone")
        try:
            return servable.predict(request)
        except servables.RequestError as error:
            context.abort(_CODES.get(error.code, grpc.StatusCode.UNKNOWN), error.message)

    def GetModelMetadata(self, request, context):  # noqa: N802
        if not request.HasField("model_spec"):
            context.abort(_INVALID, "Missing ModelSpec")
        if not request.metadata_field:
            context.abort(_INVALID, "GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                context.abort(_INVALID, f"Metadata field {field} is not supported")
        servable = self._find(request, context)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self._name
        response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    def GetModelStatus(self, request, context):  # noqa: N802
        if not request.HasField("model_spec"):
            context.abort(_INVALID, "Missing ModelSpec")
        spec = request.model_spec
        states = self._states if spec.name == self._name else {}
        if spec.HasField("version"):
            version = spec.version.value
            if version not in states:
                context.abort(_NOT_FOUND, f"Could not find version {version} of model {spec.name}")
            states = {version: states[version]}
        if not states:
            context.abort(_NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return get_model_status_pb2.GetModelStatusResponse(
            model_version_status=[states[version] for version in sorted(states, reverse=True)])

    def _unimplemented(self, request, context):
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

    Classify = Regress = MultiInference = HandleReloadConfigRequest = _unimplemented

    def _find(self, request: Any, context: grpc.ServicerContext) -> servables.Servable:
        spec = request.model_spec
        if not request.HasField("model_spec"):
            context.abort(_INVALID, "Missing ModelSpec")
        if not spec.name:
            context.abort(_INVALID, "ModelSpec has no name specified.")
        if spec.HasField("version_label"):
            context.abort(_INVALID, f"Unrecognized servable version label: {spec.version_label}")
        version = spec.version.value if spec.HasField("version") else max(self._loaded)
        if spec.name != self._name or version not in self._loaded:
            named = spec.HasField("version")
            wanted = f"Specific({spec.name}, {version})" if named else f"Latest({spec.name})"
            context.abort(_NOT_FOUND, f"Servable not found for request: {wanted}")
        return self._loaded[version]


def serve(
    folder: str | os.PathLike[str], port: int = 8500, host: str = "127.0.0.1",
    model_name: str = DEFAULT_MODEL, backend: str = "embedded", on_ready: Callable[[str], None] | None = None,
    op_threads: int | None = None,
) -> None:
    """Answers requests until SIGTERM or Ctrl-C, then lets those under way end; a second Ctrl-C does not wait.

    Args:
        folder: holds VERSION/ folders with a SavedModel each; the highest is served.
        port: to listen on; 0 takes a free one (embedded only).
        host: address to listen on. The binary listens on every address and wants to hear it: "0.0.0.0".
        model_name: the name clients ask for.
        backend: "embedded", or "tensorflow_model_server", which turns this process into that binary.
        on_ready: told the address once requests are answered; the binary says so itself.
        op_threads: threads that share one operation, at least 1; default: as many as there are cores. One is best
            where several searches go on at once (requests side by side, or the parts of a recipe's `decode.parts`)
            and for a search that XLA compiled.
    Raises:
        ValueError: a setting or the folder is wrong.
        ServerError: the server cannot start.
    """
    if op_threads is not None and op_threads < 1:
        raise ValueError(f"serve needs op_threads >= 1. Received: op_threads={op_threads}.")
    check_server(Path(folder), port, host, backend)
    if backend == BINARY:
        _exec_binary(Path(folder), port, model_name, op_threads)
    if op_threads is not None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(op_threads)
        except RuntimeError as error:
            raise ServerError(
                f"op_threads must be set before TensorFlow computes anything in this process: start the server first, "
                f"or leave it out. Received: op_threads={op_threads}.") from error
    server = EmbeddedServer(folder, port, host, model_name)
    server.start()
    stopping = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, lambda *_: stopping.set()) for each in signals]
    try:
        if on_ready:
            on_ready(server.address)
        stopping.wait()
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
        server.stop()


def _exec_binary(folder: Path, port: int, model_name: str, op_threads: int | None) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(shutil.which(BINARY) or BINARY, [
        BINARY, f"--port={port}", "--rest_api_port=0", f"--model_name={model_name}",
        f"--model_base_path={folder.resolve()}", f"--grpc_max_threads={GRPC_THREADS}",
        *([] if op_threads is None else [f"--tensorflow_intra_op_parallelism={op_threads}"]),
        "--xla_cpu_compilation_enabled=true",  # for models exported with decode.jit_compile; others do not ask for it
        "--max_num_load_retries=0"])  # a broken model fails at once, not after minutes


def _chosen(folder: Path, versions: Literal["latest", "all"] | Sequence[int]) -> dict[int, Path]:
    found = find_versions(folder)
    if versions == "all":
        return found
    if versions == "latest":
        return {max(found): found[max(found)]}
    if isinstance(versions, str) or not versions or not set(versions) <= set(found):
        raise ValueError(
            f"EmbeddedServer needs versions 'latest', 'all' or some of {sorted(found)}. "
            f"Received: {versions!r}.")
    return {int(version): found[int(version)] for version in versions}


def _load(paths: dict[int, Path]) -> tuple[dict[int, servables.Servable], dict[int, Any]]:
    loaded, states, reasons = {}, {}, []
    for version, path in paths.items():
        try:
            loaded[version] = servables.load(version, path)
            states[version] = _State(version=version, state=_State.AVAILABLE)
            states[version].status.SetInParent()  # error_code 0, said aloud as TensorFlow Serving does
        except ValueError as error:
            reasons.append(str(error))
            states[version] = _State(version=version, state=_State.END)
            states[version].status.error_code = servables.UNKNOWN
            states[version].status.error_message = str(error)
    if not loaded:
        raise ServerError(" ".join(reasons))
    return loaded, states
