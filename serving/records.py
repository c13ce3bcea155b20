"""What is counted and written down of the requests: Prometheus metrics and log lines."""

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import prometheus_client
from prometheus_client.core import GaugeMetricFamily

from serving.answers import Call
from serving.errors import DEADLINE_EXCEEDED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE, UNIMPLEMENTED

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_ID = "x-request-id"
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_CODES_OF_HTTP = {408: DEADLINE_EXCEEDED, 413: RESOURCE_EXHAUSTED, 501: UNIMPLEMENTED, 503: UNAVAILABLE}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_PERMITTED_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_log = logging.getLogger(__name__)


class Records:
    """Counts requests and writes a log line for each.

    Args:
        loaded: gives model -> versions that take requests.
        num_waiting: gives the number of requests that wait for a worker.
    """

    def __init__(self, loaded: Callable[[], dict[str, list[int]]], num_waiting: Callable[[], int]):
        self._registry = prometheus_client.CollectorRegistry()
        common: dict[str, Any] = {"namespace": "tfseq2seq", "registry": self._registry}
        self._requests = prometheus_client.Counter(
            "requests", "Requests that ended.", ["api", "method", "model", "version", "code"], **common)
        self._seconds = prometheus_client.Histogram(
            "request_seconds", "From a request's arrival to its answer.", ["api", "method", "model"], buckets=_SECONDS,
            **common)
        self._batch_rows = prometheus_client.Histogram(
            "batch_rows", "Rows of the batches that were computed.", buckets=_ROWS, **common)
        waiting = prometheus_client.Gauge("waiting_requests", "Requests that wait for a worker.", **common)
        waiting.set_function(num_waiting)
        self._registry.register(_Loaded(loaded))

    def batch(self, rows: int) -> None:
        """A batch of so many rows was computed."""
        self._batch_rows.observe(rows)

    def ended(self, call: Call) -> None:
        """The call was answered."""
        seconds, code = time.monotonic() - call.arrived, _CODE_NAMES[call.code]
        version = "" if call.version is None else str(call.version)
        self._requests.labels(call.api, call.method, call.model, version, code).inc()
        self._seconds.labels(call.api, call.method, call.model).observe(seconds)
        fields = {
            "request_id": call.request_id, "api": call.api, "method": call.method, "code": code,
            "milliseconds": round(1e3 * seconds, 3), "model": call.model, "version": call.version, "rows": call.rows}
        _log.info("%s %s in %.1f ms", call.method, code, 1e3 * seconds, extra={"fields": fields})

    def refused(self, status: int, arrived: float) -> None:
        """A request over HTTP got this status before it was known what it asks."""
        code = _CODES_OF_HTTP.get(status, INVALID_ARGUMENT)
        self.ended(Call("Malformed", read_request_id(None), arrived, api="rest", code=code))

    def page(self) -> bytes:
        """All metrics, as Prometheus reads them."""
        return prometheus_client.generate_latest(self._registry)


class _Loaded:
    """A metric of what is loaded at the moment of the question."""

    def __init__(self, loaded: Callable[[], dict[str, list[int]]]):
        self._loaded = loaded

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "tfseq2seq_loaded_version", "1 for each version that takes requests.", labels=["model", "version"])
        for model, versions in self._loaded().items():
            for version in versions:
                family.add_metric([model, str(version)], 1.0)
        yield family


def read_request_id(received: Any) -> str:
    """The caller's own id where it is one, else a new one."""
    if isinstance(received, str) and _PERMITTED_ID.fullmatch(received):
        return received
    return uuid.uuid4().hex


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname, "logger": record.name, "message": record.getMessage(),
            **getattr(record, "fields", {})}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def write_log(log_format: str) -> None:
    """Has the server's log written to standard error; "none" leaves logging as it is.

    Raises:
        ValueError: another format.
    """
    if log_format not in ("none", "text", "json"):
        raise ValueError(f"The log format needs to be none, text or json. Received: {log_format!r}.")
    if log_format == "none":
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonLines() if log_format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("serving")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
