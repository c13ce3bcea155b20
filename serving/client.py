"""Asks a server that speaks TensorFlow Serving's gRPC protocol; needs no TensorFlow."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import grpc
import numpy as np

from serving import protocol
from serving.signatures import DEFAULT_MODEL, GREEDY, SCORE, SERVING_DEFAULT

_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_LOOPBACK = ("127.", "localhost:", "[::1]:")


class Hypothesis(NamedTuple):
    """One answer for one text.

    Attributes:
        text: the answer.
        score: log-probability in nats, divided by the model's length penalty; higher is better.
    """

    text: str
    score: float


class TensorInfo(NamedTuple):
    """Type and shape of an input or output; None in `shape` is any size, `shape` None is any rank."""

    dtype: str
    shape: tuple[int | None, ...] | None


class SignatureInfo(NamedTuple):
    """What a signature takes and gives, by name."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


class VersionStatus(NamedTuple):
    """State of one version of the model.

    Attributes:
        version: its number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING", "END" or "UNKNOWN".
        error_code: gRPC's number, 0 if all is well.
        error_message: why it is not available.
    """

    version: int
    state: str
    error_code: int
    error_message: str


class ServingError(RuntimeError):
    """A request failed.

    Attributes:
        code: `grpc.StatusCode`.
        details: what the server, or gRPC where none answered, says of it.
    """

    def __init__(self, message: str, code: grpc.StatusCode, details: str):
        super().__init__(message)
        self.code = code
        self.details = details


class Client:
    """A connection to one model; may be shared by threads.

    Args:
        address: "host:port" of the server.
        model: the name the server gives the model.
        version: of the model; default: the one the server chooses, its highest.
        timeout: seconds to wait for each request, above 0.
        rows: largest number of rows in one request, at least 1; longer inputs are sent in pieces, one after
            another. A server with batching refuses more rows than its `max_batch_size`.
    Raises:
        ValueError: `timeout` or `rows` is out of range, or `address` is empty.
    """

    def __init__(
        self, address: str, model: str = DEFAULT_MODEL, timeout: float = 60.0, *, version: int | None = None,
        rows: int = 32,
    ):
        if not address:
            raise ValueError(f"Client needs an address as 'host:port'. Received: {address!r}.")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ValueError(f"Client needs a timeout above 0 seconds. Received: timeout={timeout}.")
        if rows < 1:
            raise ValueError(f"Client needs rows >= 1. Received: rows={rows}.")
        self.address, self.model, self.version = address, model, version
        self.timeout, self.rows = timeout, rows
        # A proxy cannot reach this machine's own loopback.
        proxy = [("grpc.enable_http_proxy", 0)] if address.startswith(_LOOPBACK) else []
        self._channel = grpc.insecure_channel(address, [*_OPTIONS, *proxy])
        self._predict = self._method(protocol.PREDICT, protocol.PredictResponse)
        self._metadata = self._method(protocol.GET_MODEL_METADATA, protocol.GetModelMetadataResponse)
        self._status = self._method(protocol.GET_MODEL_STATUS, protocol.GetModelStatusResponse)

    def predict(self, texts: Sequence[str], signature: str = SERVING_DEFAULT) -> list[list[Hypothesis]]:
        """Hypotheses for each text, best first, in the order of the texts.

        Args:
            texts: [N] source texts; none at all gives [] without asking the server, since TensorFlow Serving
                with batching never answers a request of 0 rows.
            signature: a signature with input "text" and outputs "text" and "score".
        Raises:
            ServingError: the server cannot be reached or refuses.
            ValueError: `texts` is one string.
        """
        answers: list[list[Hypothesis]] = []
        for outputs in self._in_pieces(signature, {"text": texts}, {"text": 2, "score": 2}):
            for row_texts, row_scores in zip(outputs["text"], outputs["score"], strict=True):
                answers.append([
                    Hypothesis(text.decode("utf-8", "replace"), float(score))
                    for text, score in zip(row_texts, row_scores, strict=True)
                    if np.isfinite(score)])  # -inf fills up where fewer hypotheses exist
        return answers

    def greedy(self, texts: Sequence[str]) -> list[Hypothesis]:
        """The answer of the likeliest token at each step, one a text. Raises as `predict`."""
        nothing = Hypothesis("", -math.inf)
        return [row[0] if row else nothing for row in self.predict(texts, GREEDY)]

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[float]:
        """log p(target | source) of each pair, end token included, in nats.

        Raises:
            ServingError: the server cannot be reached or refuses.
            ValueError: `sources` and `targets` differ in length, or are one string.
        """
        if len(sources) != len(targets):
            raise ValueError(
                "Client.score needs one target a source. "
                f"Received: {len(sources)} sources, {len(targets)} targets.")
        inputs = {"source": sources, "target": targets}
        return [
            float(value) for outputs in self._in_pieces(SCORE, inputs, {"log_probability": 1})
            for value in outputs["log_probability"]]

    def metadata(self) -> dict[str, SignatureInfo]:
        """The model's signatures by name. Raises ServingError."""
        request = protocol.GetModelMetadataRequest(
            model_spec=self._model_spec(), metadata_field=[protocol.SIGNATURE_DEF])
        response = self._call(self._metadata, request)
        signatures = protocol.SignatureDefMap()
        if not response.metadata[protocol.SIGNATURE_DEF].Unpack(signatures):
            raise self._malformed("the metadata holds no signatures")
        return {
            name: SignatureInfo(_infos(signature.inputs), _infos(signature.outputs))
            for name, signature in sorted(signatures.signature_def.items())}

    def status(self) -> list[VersionStatus]:
        """The versions the server knows of the model. Raises ServingError."""
        response = self._call(self._status, protocol.GetModelStatusRequest(model_spec=self._model_spec()))
        return [
            VersionStatus(
                each.version, protocol.STATES.get(each.state, str(each.state)), each.status.error_code,
                each.status.error_message)
            for each in response.model_version_status]

    def close(self) -> None:
        """Gives the connection back; the client cannot be used any more."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _method(self, name: str, response: Any) -> Callable[..., Any]:
        return self._channel.unary_unary(
            name, request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString)

    def _in_pieces(
        self, signature: str, inputs: dict[str, Sequence[str]], ranks: dict[str, int]
    ) -> list[dict[str, np.ndarray]]:
        encoded = {name: _encode(name, strings) for name, strings in inputs.items()}
        num_rows = len(next(iter(encoded.values())))
        return [
            self._piece(signature, {name: rows[at : at + self.rows] for name, rows in encoded.items()}, ranks)
            for at in range(0, num_rows, self.rows)]

    def _piece(
        self, signature: str, inputs: dict[str, list[bytes]], ranks: dict[str, int]
    ) -> dict[str, np.ndarray]:
        request = protocol.PredictRequest(model_spec=self._model_spec(signature))
        for name, rows in inputs.items():
            request.inputs[name].CopyFrom(protocol.strings_to_tensor(rows))
        response = self._call(self._predict, request)
        outputs = {}
        for name, rank in ranks.items():
            if name not in response.outputs:
                raise self._malformed(f"signature {signature!r} gave no output {name!r}")
            try:
                outputs[name] = protocol.tensor_to_array(response.outputs[name])
            except ValueError as error:
                raise self._malformed(f"output {name!r} cannot be read: {error}") from error
            shape = outputs[name].shape
            if len(shape) != rank or shape[0] != len(rows):
                raise self._malformed(f"output {name!r} has shape {shape} for {len(rows)} rows")
        return outputs

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            message = f"{self.address}: {code.name}: {details}"
            if code == grpc.StatusCode.UNAVAILABLE:
                message = f"{self.address}: no server answers; start one with `tfseq2seq serve`. {details}"
            elif code == grpc.StatusCode.DEADLINE_EXCEEDED:
                message = f"{self.address}: no answer within {self.timeout:g} seconds; raise the timeout."
            raise ServingError(message, code, details) from error

    def _malformed(self, details: str) -> ServingError:
        message = f"{self.address}: not an answer of such a model: {details}."
        return ServingError(message, grpc.StatusCode.INTERNAL, details)

    def _model_spec(self, signature: str = "") -> Any:
        spec = protocol.ModelSpec(name=self.model, signature_name=signature)
        if self.version is not None:
            spec.version.value = self.version
        return spec


def _encode(name: str, strings: Sequence[str]) -> list[bytes]:
    if isinstance(strings, str | bytes):
        raise ValueError(
            f"Client needs a list of strings as {name!r}; for one pass [text]. Received: {strings[:40]!r}.")
    # A lone surrogate is no valid UTF-8; the model cleans it, as it does in training.
    return [string.encode("utf-8", "surrogatepass") for string in strings]


def _infos(tensors: Any) -> dict[str, TensorInfo]:
    infos = {}
    for name, tensor in sorted(tensors.items()):
        shape = None
        if not tensor.tensor_shape.unknown_rank:
            shape = tuple(None if each.size < 0 else each.size for each in tensor.tensor_shape.dim)
        infos[name] = TensorInfo(protocol.DATA_TYPES.get(tensor.dtype, str(tensor.dtype)), shape)
    return infos
