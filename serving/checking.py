"""Whether a version is still what was exported: its files, its answers, and those of a server that has it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.checksums import check_checksums
from serving.folders import REPLAY, find_version
from serving.replay import Outputs, replay
from serving.servables import load_model, short_message
from serving.signatures import DEFAULT_MODEL


class Checked(NamedTuple):
    """What was found to be right.

    Attributes:
        path: the folder of the version.
        files: files whose checksum is right.
        rows: rows that the SavedModel answers right, by signature.
        served_rows: rows that the server answers right, by signature; None where none was asked.
    """

    path: Path
    files: int
    rows: dict[str, int]
    served_rows: dict[str, int] | None


def check_export(
    folder: str | os.PathLike[str], version: str = "latest", address: str | None = None,
    model_name: str = DEFAULT_MODEL, timeout: float = 60.0,
) -> Checked:
    """Checks the files of a version against their checksums, and its answers to held-out lines against the exported.

    Strings must be equal, numbers up to `replay.TOLERANCE`.

    Args:
        folder: holds the versions.
        version: a number, a label or "latest".
        address: "host:port" of a gRPC server that has this very version; default: none is asked.
        model_name: what the server calls the model.
        timeout: seconds to wait for each of its answers.
    Raises:
        ValueError: anything is otherwise, or cannot be read or asked.
    """
    path = find_version(Path(folder), version)
    files = check_checksums(path)
    if not (path / REPLAY).is_file():
        raise ValueError(f"{path}: has no {REPLAY}; export it again.")
    rows = replay(path / REPLAY, "the SavedModel", _saved_model(path))
    if address is None:
        return Checked(path, files, rows, None)
    # A proxy cannot reach this machine's own loopback.
    local = address.startswith(("127.", "localhost:", "[::1]:"))
    options = [("grpc.enable_http_proxy", 0)] if local else []
    with grpc.insecure_channel(address, options) as channel:
        ask = _server(channel, address, model_name, int(path.name), timeout)
        return Checked(path, files, rows, replay(path / REPLAY, f"the server at {address}", ask))


def _saved_model(path: Path) -> Callable[[predict_pb2.PredictRequest], Outputs]:
    try:
        model = load_model(path)
    except Exception as error:  # a broken file raises whatever the broken part is read by
        raise ValueError(f"{path}: not a SavedModel that can be loaded: {short_message(error)}") from error

    def ask(request):
        tensors = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        try:
            outputs = model.signatures[request.model_spec.signature_name](**tensors)
        except tf.errors.OpError as error:
            raise ValueError(f"{path}: cannot answer: {short_message(error)}") from error
        return {name: values.numpy() for name, values in outputs.items()}

    return ask


def _server(
    channel: Any, address: str, model_name: str, version: int, timeout: float,
) -> Callable[[predict_pb2.PredictRequest], Outputs]:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def ask(request):
        request.model_spec.name, request.model_spec.version.value = model_name, version
        try:
            response = stub.Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            raise ValueError(
                f"{address}: version {version} of {model_name} cannot be asked: {error.code().name}: "
                f"{error.details()}") from error
        return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}

    return ask
