"""TensorFlow Serving's REST protocol: requests made, responses read, nothing sent.

As its servers do, NaN and Infinity stand in JSON as they are, and a string that is not UTF-8 as {"b64": "..."}.
"""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import grpc
import numpy as np

from serving import protocol
from serving.client.methods import Answer, Exchange
from serving.client.questions import Output, Piece
from serving.client.results import Malformed, SignatureInfo, TensorInfo, VersionStatus
from serving.client.settings import Settings

_CODES = {code.name: code.value[0] for code in grpc.StatusCode}
# Of an HTTP status, as TensorFlow Serving and proxies use them; others are UNKNOWN.
_STATUS_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND, 409: grpc.StatusCode.ABORTED,
    412: grpc.StatusCode.FAILED_PRECONDITION, 413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED, 499: grpc.StatusCode.CANCELLED, 500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED, 502: grpc.StatusCode.UNAVAILABLE, 503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED}


class RestWire:
    """Exchanges of JSON."""

    def __init__(self, settings: Settings):
        version = ""
        if settings.version is not None:
            version = f"/versions/{settings.version}"
        elif settings.label is not None:
            version = f"/labels/{quote(settings.label, safe='')}"
        self._path = f"/v1/models/{quote(settings.model, safe='')}{version}"

    def predict(self, piece: Piece) -> Exchange[list[dict[str, Any]]]:
        body = {
            "signature_name": piece.signature,
            "inputs": {
                name: [_string(value) for value in values] if piece.dtypes[name] == "string" else values
                for name, values in piece.columns.items()}}
        return Exchange(
            ("POST", f"{self._path}:predict"), json.dumps(body, ensure_ascii=False).encode(),
            _reader(lambda response: piece.rows(_arrays(response, piece))))

    def metadata(self) -> Exchange[dict[str, SignatureInfo]]:
        return Exchange(("GET", f"{self._path}/metadata"), None, _reader(_signatures))

    def status(self) -> Exchange[list[VersionStatus]]:
        return Exchange(("GET", self._path), None, _reader(lambda response: [
            VersionStatus(
                int(each["version"]), _name(each.get("state", 0), protocol.STATES),
                _number(each.get("status", {}).get("error_code", 0)), each.get("status", {}).get("error_message", ""))
            for each in response["model_version_status"]]))


def refusal(status: int, body: bytes) -> tuple[grpc.StatusCode, str]:
    """gRPC's code for an HTTP status that is not 200, and what the server says."""
    try:
        details = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):  # of a proxy
        details = f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}"
    return _STATUS_CODES.get(status, grpc.StatusCode.UNKNOWN), details


def _string(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _reader(read: Callable[[Any], Answer]) -> Callable[[bytes], Answer]:
    def read_json(body: bytes) -> Answer:
        try:
            return read(json.loads(body.decode("utf-8", "replace")))
        except Malformed:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Malformed(f"the JSON cannot be read: {type(error).__name__}: {error}") from error

    return read_json


def _arrays(response: Any, piece: Piece) -> dict[str, np.ndarray]:
    outputs = response["outputs"]
    if not isinstance(outputs, dict):  # so a signature's only output is written
        outputs = dict.fromkeys(piece.outputs, outputs)
    for name in piece.outputs:
        if name not in outputs:
            raise Malformed(f"signature {piece.signature!r} gave no output {name!r}")
    return {name: _array(name, outputs[name], output) for name, output in piece.outputs.items()}


def _array(name: str, values: Any, output: Output) -> np.ndarray:
    try:
        if output.dtype != "string":
            return np.array(values, output.dtype)
        strings = np.array(values, object)
    except (ValueError, OverflowError) as error:
        raise Malformed(f"output {name!r} cannot be read: {error}") from error
    return np.vectorize(_bytes, otypes=[object])(strings) if strings.size else strings


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    if not isinstance(value, str):
        raise Malformed(f"a string cannot be read: {value!r}")
    return value.encode("utf-8", "surrogatepass")


def _signatures(response: Any) -> dict[str, SignatureInfo]:
    signatures = response["metadata"][protocol.SIGNATURE_DEF][protocol.SIGNATURE_DEF]
    return {
        name: SignatureInfo(_infos(signature.get("inputs", {})), _infos(signature.get("outputs", {})))
        for name, signature in sorted(signatures.items())}


def _infos(tensors: Mapping[str, Any]) -> dict[str, TensorInfo]:
    infos = {}
    for name, tensor in sorted(tensors.items()):
        sizes = [int(each.get("size", 0)) for each in tensor["tensor_shape"].get("dim", [])]
        shape = None if tensor["tensor_shape"].get("unknown_rank") else tuple(
            None if size < 0 else size for size in sizes)
        infos[name] = TensorInfo(_DATA_TYPES.get(tensor["dtype"], tensor["dtype"]), shape)
    return infos


# Of tensorflow/core/framework/types.proto; the names in JSON.
_DATA_TYPES = {
    "DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16",
    **{f"DT_{name.upper()}": name for name in protocol.DATA_TYPES.values()}}


def _name(value: Any, names: Mapping[int, str]) -> str:
    """Of an enum's value, which JSON holds by name or number."""
    return names.get(value, str(value)) if isinstance(value, int) else value


def _number(code: Any) -> int:
    return code if isinstance(code, int) else _CODES.get(code, _CODES["UNKNOWN"])
