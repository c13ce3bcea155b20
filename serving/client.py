"""Asks a server that speaks TensorFlow Serving's gRPC protocol; needs no TensorFlow."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import grpc
import numpy as np

from serving import protocol
from serving.signatures import (
    ALTERNATIVES,
    BEAM,
    BEAM_OPTIONS,
    DEFAULT_MODEL,
    GREEDY,
    SAMPLE,
    SAMPLE_OPTIONS,
    SCORE,
    SERVING_DEFAULT,
    SIGNATURES,
    Numbers,
    Phrases,
    Strings,
    join_phrases,
    option_columns,
)

_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_LOOPBACK = ("127.", "localhost:", "[::1]:")
_RANKS = {
    "text": 2, "score": 2, "log_probability": 2, "length": 2, "alignment": 2, "token_log_probability": 3,
    "attention": 4}
_SCORE_RANKS = {"log_probability": 1, "length": 1, "token_log_probability": 2}


class Hypothesis(NamedTuple):
    """One answer for one text.

    Attributes:
        text: the answer.
        score: log-probability in nats, divided by the length penalty, or what else the recipe ranks by; higher is
            better.
        log_probability: in nats; this and all below is None where the signature does not tell it, as
            serving_default and greedy.
        length: tokens, end token included.
        alignment: pairs (target token, source token with the most attention), both from 0, the end left out.
        token_log_probabilities: of each token in nats, end token included.
        attention: [length, source tokens] float32, the weights of each token on those of the source, end tokens
            included; no column is there for source tokens at the end that no hypothesis looks at, so a model without
            attention has none. None where it was not asked for.
    """

    text: str
    score: float
    log_probability: float | None = None
    length: int | None = None
    alignment: list[tuple[int, int]] | None = None
    token_log_probabilities: list[float] | None = None
    attention: np.ndarray | None = None


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

    def predict(
        self, texts: Sequence[str | bytes], signature: str | None = None, *, length_penalty: Numbers = None,
        min_length: Numbers = None, max_length: Numbers = None, prefix: Strings = None, phrases: Phrases = None,
        attention: bool = False,
    ) -> list[list[Hypothesis]]:
        """Hypotheses for each text, best first, in the order of the texts; [] where nothing permitted was found.

        Each option is one value for all texts, or one a text; None, for all or for a text, is as exported.

        Args:
            texts: [N] source texts, or of speech the bytes of WAV files; none at all gives [] without asking the
                server, since TensorFlow Serving with batching never answers a request of 0 rows.
            signature: one with input "text" and outputs "text" and "score". Default: serving_default without
                options, else beam, which tells more of an answer and costs a little more.
            length_penalty: alpha, at least 0.
            min_length: tokens, end token included, from 1.
            max_length: tokens, end token included, from 1 to the exported one.
            prefix: what an answer begins with; shorter than max_length.
            phrases: what an answer contains, at most 8 of at most 16 tokens: strings that hold for all texts,
                or one list of strings a text.
            attention: whether the answers come with their weights on the source: much to send, as many numbers a
                hypothesis as the export's longest answer times its longest source.
        Raises:
            ServingError: the server cannot be reached or refuses; INVALID_ARGUMENT for a value out of its range.
            ValueError: `texts` is one string, or an option has another number of values than there are texts.
        """
        asked = {
            "length_penalty": length_penalty, "min_length": min_length, "max_length": max_length, "prefix": prefix,
            "phrases": join_phrases(phrases)}
        plain = all(value is None for value in asked.values()) and not attention
        if signature is None:
            signature = SERVING_DEFAULT if plain else BEAM
        if signature == BEAM:
            columns = option_columns(asked, BEAM_OPTIONS, len(texts))
            return self._answers(BEAM, {"text": texts, **columns}, attention)
        if not plain:
            raise ValueError(
                f"Client.predict needs signature {BEAM!r} for options and attention. Received: {signature!r}.")
        return self._answers(signature, {"text": texts})

    def sample(
        self, texts: Sequence[str], *, seed: Numbers = None, temperature: Numbers = None, top_k: Numbers = None,
        top_p: Numbers = None, min_p: Numbers = None, length_penalty: Numbers = None, min_length: Numbers = None,
        max_length: Numbers = None, prefix: Strings = None, attention: bool = False,
    ) -> list[list[Hypothesis]]:
        """Answers drawn from the model for each text, best first; the same seed gives a text the same ones again.

        Args and errors as `predict`, and:
            seed: a whole number, not -1.
            temperature: at least 0; 0 takes the likeliest token.
            top_k: how many tokens may be drawn; 0 is all.
            top_p: share of the probability that may be drawn, above 0 and at most 1.
            min_p: least probability, as a share of the likeliest token's, from 0 to 1.
        """
        asked = {
            "length_penalty": length_penalty, "min_length": min_length, "max_length": max_length,
            "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed, "prefix": prefix}
        columns = option_columns(asked, SAMPLE_OPTIONS, len(texts))
        return self._answers(SAMPLE, {"text": texts, **columns}, attention)

    def alternatives(
        self, texts: Sequence[str], prefixes: Strings, attention: bool = False,
    ) -> list[list[Hypothesis]]:
        """What else might stand after a prefix: its likeliest next tokens, each gone on with greedily, best first.

        Args and errors as `predict`; `prefixes` is one for all texts, or one a text.
        """
        columns = option_columns({"prefix": prefixes}, {"prefix": "string"}, len(texts))
        return self._answers(ALTERNATIVES, {"text": texts, **columns}, attention)

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
        return [float(outputs["log_probability"]) for outputs in self._scores(sources, targets)]

    def score_tokens(self, sources: Sequence[str], targets: Sequence[str]) -> list[list[float]]:
        """log p of each token of the targets, end token included, in nats. Raises as `score`."""
        return [
            outputs["token_log_probability"][: outputs["length"]].tolist()
            for outputs in self._scores(sources, targets)]

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

    def _answers(
        self, signature: str, inputs: dict[str, Sequence[Any]], attention: bool = False,
    ) -> list[list[Hypothesis]]:
        known = SIGNATURES.get(signature, SIGNATURES[SERVING_DEFAULT])
        ranks = {
            name: _RANKS[name] for name in known.outputs if name in _RANKS and (attention or name != "attention")}
        rows = self._rows(signature, inputs, ranks)
        # -inf fills up where fewer hypotheses exist.
        return [
            [_hypothesis(outputs, h) for h in range(len(outputs["score"])) if np.isfinite(outputs["score"][h])]
            for outputs in rows]

    def _scores(self, sources: Sequence[str], targets: Sequence[str]) -> list[dict[str, Any]]:
        if len(sources) != len(targets):
            raise ValueError(
                "Client.score needs one target a source. "
                f"Received: {len(sources)} sources, {len(targets)} targets.")
        return self._rows(SCORE, {"source": sources, "target": targets}, _SCORE_RANKS)

    def _rows(
        self, signature: str, inputs: dict[str, Sequence[Any]], ranks: dict[str, int]
    ) -> list[dict[str, Any]]:
        """Outputs of each row, from as many requests as needed."""
        types = SIGNATURES[signature].inputs if signature in SIGNATURES else {}
        dtypes = {name: types.get(name, "string") for name in inputs}
        encoded = {
            name: _encode(name, values) if dtypes[name] == "string" else list(values)
            for name, values in inputs.items()}
        num_rows = len(next(iter(encoded.values())))
        rows: list[dict[str, Any]] = []
        for at in range(0, num_rows, self.rows):
            piece = {name: values[at : at + self.rows] for name, values in encoded.items()}
            outputs = self._piece(signature, piece, dtypes, ranks)
            rows += [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
        return rows

    def _piece(
        self, signature: str, inputs: dict[str, list[Any]], dtypes: dict[str, str], ranks: dict[str, int]
    ) -> dict[str, np.ndarray]:
        request = protocol.PredictRequest(model_spec=self._model_spec(signature), output_filter=list(ranks))
        for name, rows in inputs.items():
            request.inputs[name].CopyFrom(
                protocol.strings_to_tensor(rows) if dtypes[name] == "string"
                else protocol.numbers_to_tensor(rows, dtypes[name]))
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


def _encode(name: str, strings: Sequence[str | bytes]) -> list[bytes]:
    if isinstance(strings, str | bytes):
        raise ValueError(
            f"Client needs a list of strings as {name!r}; for one pass [text]. Received: {strings[:40]!r}.")
    # A lone surrogate is no valid UTF-8; the model cleans it, as it does in training.
    return [string if isinstance(string, bytes) else string.encode("utf-8", "surrogatepass") for string in strings]


def _hypothesis(outputs: Mapping[str, Any], h: int) -> Hypothesis:
    """Number h of a row."""
    text, score = outputs["text"][h].decode("utf-8", "replace"), float(outputs["score"][h])
    if "length" not in outputs:
        return Hypothesis(text, score)
    pairs = [pair.split("-") for pair in outputs["alignment"][h].decode().split()]
    length = int(outputs["length"][h])
    attention = None
    if "attention" in outputs:
        looked_at = np.flatnonzero(outputs["attention"].any((0, 1)))
        attention = outputs["attention"][h, :length, : looked_at[-1] + 1 if looked_at.size else 0]
    return Hypothesis(
        text, score, float(outputs["log_probability"][h]), length,
        [(int(target), int(source)) for target, source in pairs], outputs["token_log_probability"][h][:length].tolist(),
        attention)


def _infos(tensors: Any) -> dict[str, TensorInfo]:
    infos = {}
    for name, tensor in sorted(tensors.items()):
        shape = None
        if not tensor.tensor_shape.unknown_rank:
            shape = tuple(None if each.size < 0 else each.size for each in tensor.tensor_shape.dim)
        infos[name] = TensorInfo(protocol.DATA_TYPES.get(tensor.dtype, str(tensor.dtype)), shape)
    return infos
