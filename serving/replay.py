"""Held-out lines as requests: to warm a server up, and with the right answers to be asked again later."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.signatures import ALL_SIGNATURES, AS_EXPORTED, DEFAULT_MODEL

TOLERANCE = 1e-4  # of a score, times 1 nat + its size: near 0 rounding is not relative to it
ROWS, BYTES = 8, 2_000_000  # of a request: no server refuses as many
MOST_WARM_UP = 1000  # records; TensorFlow Serving refuses a model with more
UNTOLD = {"attention"}  # outputs that are not kept: 100 times as large as all others together

Rows = dict[str, list[Any]]  # input of a signature -> its rows
Outputs = Mapping[str, np.ndarray]


def write_warm_up(path: Path, inputs: Mapping[str, Rows], num_lines: int, alone: bool) -> None:
    """Writes a TFRecord file of requests, for the lengths that are really used.

    Args:
        path: `folders.WARM_UP` of a version.
        inputs: of each signature.
        num_lines: how many lines a signature is warmed up with, from the shortest to the longest.
        alone: whether each line is asked alone too; a search that is compiled for a line alone is compiled when the
            first of its length comes.
    Raises:
        ValueError: there would be more than `MOST_WARM_UP` requests.
    """
    requests = []
    for signature, by_input in inputs.items():
        lengths = [len(row) for row in next(iter(by_input.values()))]
        rows = _spread(lengths, num_lines)
        groups = _groups(rows, by_input)
        groups += [[row] for row in rows] if alone else []
        requests += [request_of(signature, by_input, group) for group in groups]
    if len(requests) > MOST_WARM_UP:
        raise ValueError(
            f"A server takes at most {MOST_WARM_UP} requests to warm up with; lower export.warm_up_lines. "
            f"Received: {len(requests)} requests of {num_lines} lines.")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def write_replay(path: Path, inputs: Mapping[str, Rows], answers: Mapping[str, Outputs]) -> None:
    """Writes a TFRecord file of requests with the right responses.

    Args:
        path: `folders.REPLAY` of a version.
        inputs: of each signature, without rows whose answers are drawn.
        answers: the outputs for all those rows.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, by_input in inputs.items():
            kept = [name for name in answers[signature] if name not in UNTOLD]
            num_rows = len(next(iter(by_input.values())))
            for rows in _groups(range(num_rows), by_input):
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(request_of(signature, by_input, rows))
                log.predict_log.request.output_filter.extend(kept)
                for name in kept:
                    values = answers[signature][name][rows]
                    log.predict_log.response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
                writer.write(log.SerializeToString())


def replay(path: Path, who: str, ask: Callable[[predict_pb2.PredictRequest], Outputs]) -> dict[str, int]:
    """Asks again what `write_replay` wrote.

    Args:
        path: the file.
        who: is asked, as in "the server".
        ask: a request to its outputs.
    Returns:
        Rows with the right answer, by signature.
    Raises:
        ValueError: an answer differs: a string, or a score by more than `TOLERANCE`.
    """
    rows: dict[str, int] = {}
    for log in _read(path):
        request = log.predict_log.request
        signature = request.model_spec.signature_name
        by_input = {name: tf.make_ndarray(tensor).tolist() for name, tensor in request.inputs.items()}
        expected = {name: tf.make_ndarray(tensor) for name, tensor in log.predict_log.response.outputs.items()}
        difference = find_difference(
            signature, who, by_input, expected, ask(request), at=0, reference="as it was exported it was")
        if difference:
            raise ValueError(difference)
        rows[signature] = rows.get(signature, 0) + len(next(iter(expected.values())))
    return rows


def request_of(signature: str, by_input: Rows, rows: Sequence[int]) -> predict_pb2.PredictRequest:
    """A request of some of the rows."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = DEFAULT_MODEL, signature
    for name, values in by_input.items():
        request.inputs[name].CopyFrom(
            tf.make_tensor_proto([values[row] for row in rows], ALL_SIGNATURES[signature].inputs[name]))
    return request


def find_difference(
    signature: str, who: str, by_input: Rows, expected: Outputs, received: Outputs, at: int, reference: str,
) -> str | None:
    """The first row that is answered otherwise, in words; None where all are the same.

    Args:
        signature, by_input: what was asked.
        who: answered `received`.
        expected: outputs of the rows from `at` on; what else `received` holds is overlooked.
        reference: the words before the expected answer.
    """
    for output, wanted in expected.items():
        found = received.get(output, np.zeros(0))
        for row in range(len(wanted)):
            if found.shape == wanted.shape and is_same(wanted[row], found[row]):
                continue
            line = {
                name: _shortened(value) for name, value in (
                    (name, values[at + row]) for name, values in by_input.items())
                if value == value and value not in (*AS_EXPORTED.values(), b"")}
            answer = _printable(found[row]) if row < len(found) else "nothing"
            return (
                f"signature {signature}, line {at + row + 1} {line}: {who} gives {output} {answer}, {reference} "
                f"{_printable(wanted[row])}")
    return None


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return f"{len(value)} numbers"
    return value.decode("utf-8", "replace")[:80] if isinstance(value, bytes) else value


def is_same(wanted: Any, found: Any) -> bool:
    """Equal; of floats, up to `TOLERANCE`. -inf equals -inf, NaN equals nothing."""
    wanted, found = np.asarray(wanted), np.asarray(found)
    if wanted.dtype.kind == "f":
        return bool(np.all(np.isclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)))
    return bool(np.all(wanted == found))


def _groups(rows: Sequence[int], by_input: Rows) -> list[list[int]]:
    """The rows, in their order, as requests of at most `ROWS` rows and, where there are several, `BYTES`."""
    groups: list[list[int]] = []
    size = 0
    for row in rows:
        added = sum(4 * len(values[row]) if isinstance(values[row], list) else len(values[row]) if isinstance(
            values[row], bytes) else 8 for values in by_input.values())
        size += added
        if not groups or len(groups[-1]) == ROWS or size > BYTES:
            groups.append([])
            size = added
        groups[-1].append(row)
    return groups


def _spread(lengths: Sequence[int], count: int) -> list[int]:
    """At most so many of the rows, spread evenly over the order of their lengths, shortest and longest included."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [order[place] for place in dict.fromkeys(places.tolist())]


def _read(path: Path) -> Iterator[Any]:
    for record in tf.data.TFRecordDataset(str(path)):
        yield prediction_log_pb2.PredictionLog.FromString(record.numpy())


def _printable(values: Any) -> str:
    items = np.ravel(values).tolist()
    return repr([item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in items])
