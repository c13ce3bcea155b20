"""What a client hands back, whichever server and protocol it asked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
import numpy as np

from serving.signatures import TOKEN_SEPARATOR


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
        tokens: `length` of them, spaces in them as "▁", "</s>" at the end; to be looked at.
        truncated: whether the text was longer than the exported limit, and only its beginning was read.
    """

    text: str
    score: float
    log_probability: float | None = None
    length: int | None = None
    alignment: list[tuple[int, int]] | None = None
    token_log_probabilities: list[float] | None = None
    attention: np.ndarray | None = None
    tokens: list[str] | None = None
    truncated: bool = False


class Tokens(NamedTuple):
    """What the model reads of a text.

    Attributes:
        tokens: spaces in them as "▁", "</s>" at the end; to be looked at.
        ids: of the tokens.
        truncated: whether the text was longer than the exported limit, and only its beginning is read.
    """

    tokens: list[str]
    ids: list[int]
    truncated: bool


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
        code: `grpc.StatusCode`; of an answer over REST the one that its HTTP status stands for.
        details: what the server, or the connection where none answered, says of it.
        request_id: under which the server may have logged it.
    """

    def __init__(self, message: str, code: grpc.StatusCode, details: str, request_id: str = ""):
        super().__init__(message)
        self.code, self.details, self.request_id = code, details, request_id


def failure(address: str, code: grpc.StatusCode, details: str, timeout: float, request_id: str) -> ServingError:
    """The error of a request that got the status `code`, after at most `timeout` seconds."""
    message = f"{address}: {code.name}: {details}"
    if code == grpc.StatusCode.UNAVAILABLE:
        message = f"{address}: no server answers; start one with `tfseq2seq serve`. {details}"
    elif code == grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"{address}: no answer within {timeout:g} seconds; raise the timeout."
    return ServingError(message, code, details, request_id)


class Malformed(ValueError):
    """An answer that no such model gives; the text says what is wrong with it."""


def hypotheses(outputs: Mapping[str, Any]) -> list[Hypothesis]:
    """Those of a row; -inf fills up where fewer exist."""
    return [_hypothesis(outputs, h) for h in range(len(outputs["score"])) if np.isfinite(outputs["score"][h])]


def _hypothesis(outputs: Mapping[str, Any], h: int) -> Hypothesis:
    """Number h of a row."""
    text, score = outputs["text"][h].decode("utf-8", "replace"), float(outputs["score"][h])
    truncated = bool(outputs["truncated"])
    if "length" not in outputs:
        return Hypothesis(text, score, truncated=truncated)
    pairs = [pair.split("-") for pair in outputs["alignment"][h].decode().split()]
    length = int(outputs["length"][h])
    attention = None
    if "attention" in outputs:
        looked_at = np.flatnonzero(outputs["attention"].any((0, 1)))
        attention = outputs["attention"][h, :length, : looked_at[-1] + 1 if looked_at.size else 0]
    return Hypothesis(
        text, score, float(outputs["log_probability"][h]), length,
        [(int(target), int(source)) for target, source in pairs], outputs["token_log_probability"][h][:length].tolist(),
        attention, split_tokens(outputs["tokens"][h]), truncated)


def split_tokens(joined: bytes) -> list[str]:
    """The tokens of an output of that name."""
    return joined.decode("utf-8", "replace").split(TOKEN_SEPARATOR)
