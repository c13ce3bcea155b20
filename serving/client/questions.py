"""What can be asked, made ready to be sent and read, whichever way it is sent.

Each function checks its arguments and returns a `Question`; the clients have methods of the same names and arguments.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from serving.client.results import Hypothesis, Malformed, Tokens, hypotheses, split_tokens
from serving.signatures import (
    ALTERNATIVES,
    BEAM,
    BEAM_OPTIONS,
    GREEDY,
    SAMPLE,
    SAMPLE_OPTIONS,
    SCORE,
    SERVING_DEFAULT,
    SIGNATURES,
    TOKENIZE,
    Numbers,
    Phrases,
    Strings,
    join_phrases,
    option_columns,
)

Answer = TypeVar("Answer")

PIECE_BYTES = 2_900_000  # a server takes 4 MiB by default, and in Base64 strings are a third longer


class Output(NamedTuple):
    """Rank and type of an output; dimension 0 is the rows of the request."""

    rank: int
    dtype: str


_ANSWER_OUTPUTS = {
    "text": Output(2, "string"), "score": Output(2, "float32"), "log_probability": Output(2, "float32"),
    "length": Output(2, "int32"), "alignment": Output(2, "string"), "token_log_probability": Output(3, "float32"),
    "attention": Output(4, "float32"), "tokens": Output(2, "string"), "truncated": Output(1, "bool")}
_SCORE_OUTPUTS = {
    "log_probability": Output(1, "float32"), "length": Output(1, "int32"),
    "token_log_probability": Output(2, "float32")}
_TOKEN_OUTPUTS = {
    "tokens": Output(1, "string"), "ids": Output(2, "int32"), "length": Output(1, "int32"),
    "truncated": Output(1, "bool")}


class Piece(NamedTuple):
    """One request: some rows of a question.

    Attributes:
        signature: whom it goes to.
        columns: input -> a value a row; strings as bytes.
        dtypes: of the inputs.
        outputs: wanted ones.
    """

    signature: str
    columns: dict[str, list[Any]]
    dtypes: dict[str, str]
    outputs: dict[str, Output]

    def rows(self, arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Outputs row by row. Raises Malformed for a shape that does not fit."""
        num_rows = len(next(iter(self.columns.values())))
        for name, output in self.outputs.items():
            shape = arrays[name].shape
            if len(shape) != output.rank or shape[0] != num_rows:
                raise Malformed(f"output {name!r} has shape {shape} for {num_rows} rows")
        return [
            dict(zip(self.outputs, row, strict=True)) for row in zip(*map(arrays.get, self.outputs), strict=True)]


class Question(Generic[Answer]):
    """A question of any number of rows.

    Args:
        signature: whom it goes to.
        inputs: name -> a value a row.
        outputs: wanted ones.
        answer: makes the answer from the outputs of each row.
    Raises:
        ValueError: an input of strings is one string, or holds what is none.
    """

    def __init__(
        self, signature: str, inputs: Mapping[str, Sequence[Any]], outputs: dict[str, Output],
        answer: Callable[[list[dict[str, Any]]], Answer],
    ):
        types = SIGNATURES[signature].inputs if signature in SIGNATURES else {}
        self.signature, self.outputs, self.answer = signature, outputs, answer
        self._dtypes = {name: types.get(name, "string") for name in inputs}
        self._columns = {
            name: _encode(name, values) if self._dtypes[name] == "string" else list(values)
            for name, values in inputs.items()}

    def pieces(self, rows: int) -> Iterator[Piece]:
        """Requests of at most `rows` rows, in order, and of `PIECE_BYTES` where there are several; none for no row."""
        start, size = 0, 0.0
        sizes = [sum(_size(value) for value in row) for row in zip(*self._columns.values(), strict=True)]
        for row, added in enumerate([*sizes, math.inf]):
            size += added
            if row > start and (row - start == rows or size > PIECE_BYTES):
                columns = {name: values[start:row] for name, values in self._columns.items()}
                yield Piece(self.signature, columns, self._dtypes, self.outputs)
                start, size = row, added


def predict(
    texts: Sequence[str], signature: str | None = None, *, length_penalty: Numbers = None, min_length: Numbers = None,
    max_length: Numbers = None, prefix: Strings = None, phrases: Phrases = None, attention: bool = False,
) -> Question[list[list[Hypothesis]]]:
    """Hypotheses for each text, best first, in the order of the texts; [] where nothing permitted was found.

    Each option is one value for all texts, or one a text; None, for all or for a text, is as exported.

    Args:
        texts: [N] source texts, or of speech the bytes of WAV files; none at all gives [] without asking the server,
            since TensorFlow Serving with batching never answers a request of 0 rows.
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
        return _texts(BEAM, {"text": texts, **columns}, attention)
    if not plain:
        raise ValueError(
            f"Client.predict needs signature {BEAM!r} for options and attention. Received: {signature!r}.")
    return _texts(signature, {"text": texts})


def sample(
    texts: Sequence[str], *, seed: Numbers = None, temperature: Numbers = None, top_k: Numbers = None,
    top_p: Numbers = None, min_p: Numbers = None, length_penalty: Numbers = None, min_length: Numbers = None,
    max_length: Numbers = None, prefix: Strings = None, attention: bool = False,
) -> Question[list[list[Hypothesis]]]:
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
    return _texts(SAMPLE, {"text": texts, **columns}, attention)


def alternatives(
    texts: Sequence[str], prefixes: Strings, attention: bool = False,
) -> Question[list[list[Hypothesis]]]:
    """What else might stand after a prefix: its likeliest next tokens, each gone on with greedily, best first.

    Args and errors as `predict`; `prefixes` is one for all texts, or one a text.
    """
    columns = option_columns({"prefix": prefixes}, {"prefix": "string"}, len(texts))
    return _texts(ALTERNATIVES, {"text": texts, **columns}, attention)


def greedy(texts: Sequence[str]) -> Question[list[Hypothesis]]:
    """The answer of the likeliest token at each step, one a text. Raises as `predict`."""
    nothing = Hypothesis("", -math.inf)
    return Question(
        GREEDY, {"text": texts}, _answer_outputs(GREEDY, False),
        lambda rows: [next(iter(hypotheses(row)), nothing) for row in rows])


def score(sources: Sequence[str], targets: Sequence[str]) -> Question[list[float]]:
    """log p(target | source) of each pair, end token included, in nats.

    Raises:
        ServingError: the server cannot be reached or refuses.
        ValueError: `sources` and `targets` differ in length, or are one string.
    """
    return _pairs(sources, targets, lambda rows: [float(row["log_probability"]) for row in rows])


def score_tokens(sources: Sequence[str], targets: Sequence[str]) -> Question[list[list[float]]]:
    """log p of each token of the targets, end token included, in nats. Raises as `score`."""
    return _pairs(
        sources, targets, lambda rows: [row["token_log_probability"][: row["length"]].tolist() for row in rows])


def tokenize(texts: Sequence[str]) -> Question[list[Tokens]]:
    """What the model reads of each text. Raises as `predict`."""
    return Question(TOKENIZE, {"text": texts}, _TOKEN_OUTPUTS, lambda rows: [
        Tokens(split_tokens(row["tokens"]), row["ids"][: row["length"]].tolist(), bool(row["truncated"]))
        for row in rows])


def _texts(
    signature: str, inputs: Mapping[str, Sequence[Any]], attention: bool = False
) -> Question[list[list[Hypothesis]]]:
    return Question(
        signature, inputs, _answer_outputs(signature, attention), lambda rows: [hypotheses(row) for row in rows])


def _answer_outputs(signature: str, attention: bool) -> dict[str, Output]:
    known = SIGNATURES.get(signature, SIGNATURES[SERVING_DEFAULT])
    names = [name for name in known.outputs if name in _ANSWER_OUTPUTS and (attention or name != "attention")]
    return {name: _ANSWER_OUTPUTS[name] for name in names}


def _pairs(
    sources: Sequence[str], targets: Sequence[str], answer: Callable[[list[dict[str, Any]]], Answer]
) -> Question[Answer]:
    if len(sources) != len(targets):
        raise ValueError(
            "Client.score needs one target a source. "
            f"Received: {len(sources)} sources, {len(targets)} targets.")
    return Question(SCORE, {"source": sources, "target": targets}, _SCORE_OUTPUTS, answer)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, bytes) else 8


def _encode(name: str, strings: Sequence[str | bytes]) -> list[bytes]:
    if isinstance(strings, str | bytes):
        raise ValueError(
            f"Client needs a list of strings as {name!r}; for one pass [text]. Received: {strings[:40]!r}.")
    # A lone surrogate is no valid UTF-8; the model cleans it, as it does in training.
    return [string if isinstance(string, bytes) else string.encode("utf-8", "surrogatepass") for string in strings]
