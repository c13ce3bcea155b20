"""TensorFlow Serving's REST API, the metrics page, and the playground's files."""

import asyncio
import contextvars
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    regression_pb2,
)

from serving import json_tensors
from serving.answers import CALL, SIGNATURE_DEF, Answers, Call
from serving.errors import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    FAILED_PRECONDITION,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    RequestError,
)
from serving.http_server import HttpRequest, HttpResponse, error_response
from serving.records import METRICS_TYPE, REQUEST_ID, Records, read_request_id
from serving.settings import Limits
from serving.workers import Workers

METRICS_PATH = "/monitoring/prometheus/metrics"
HEALTH_PATH = "/healthz"
PLAYGROUND = Path(__file__).parent / "playground"
STATUSES = {
    CANCELLED: 499, INVALID_ARGUMENT: 400, DEADLINE_EXCEEDED: 504, NOT_FOUND: 404, RESOURCE_EXHAUSTED: 429,
    FAILED_PRECONDITION: 400, UNIMPLEMENTED: 501, INTERNAL: 500, UNAVAILABLE: 503, UNAUTHENTICATED: 401}
_VERSION = r"(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_POST = re.compile(rf"(?i)/v1/models/([^/:]+){_VERSION}:(classify|regress|predict)", re.ASCII)
_GET = re.compile(rf"(?i)/v1/models(?:/([^/:]+))?{_VERSION}(?:/(metadata))?", re.ASCII)
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml", ".png": "image/png", ".ico": "image/x-icon", ".json": "application/json",
    ".webmanifest": "application/manifest+json", ".txt": "text/plain; charset=utf-8", ".woff2": "font/woff2"}
_PAGE_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-cache"))


class Rest:
    """Answers one HTTP request after the other; what takes time is done by `workers`.

    Args:
        answers: what is said.
        workers: answer predictions, gRPC's and these.
        records: what is counted and logged.
        limits: for the time of a request.
        is_allowed: whether a value of "authorization" lets in; health and the page are open to all.
        is_serving: whether the server takes requests.
        playground: folder of the page's files.
    """

    def __init__(
        self, answers: Answers, workers: Workers, records: Records, limits: Limits,
        is_allowed: Callable[[str], bool], is_serving: Callable[[], bool], playground: Path = PLAYGROUND,
    ):
        self._answers, self._workers, self._records, self._limits = answers, workers, records, limits
        self._is_allowed, self._is_serving, self._playground = is_allowed, is_serving, playground.resolve()

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """The answer to any request."""
        if request.path == HEALTH_PATH:
            if self._is_serving():
                return HttpResponse(200, b'{"status": "SERVING"}\n')
            return HttpResponse(503, b'{"status": "NOT_SERVING"}\n')
        is_api = request.path.lower().startswith("/v1/")
        if not is_api and request.path != METRICS_PATH:
            return self._file(request)
        call = Call(
            "Malformed", read_request_id(request.headers.get(REQUEST_ID)), request.arrived, api="rest",
            deadline=request.arrived + self._limits.rest_timeout)
        counted = is_api
        try:
            if not self._is_allowed(request.headers.get("authorization", "")):
                counted = True
                raise RequestError(UNAUTHENTICATED, "A valid bearer token is needed.")
            if not is_api:
                return HttpResponse(200, self._records.page(), METRICS_TYPE)
            body = await self._api(request, call)
            response = HttpResponse(200, body, headers=((REQUEST_ID, call.request_id),))
        except RequestError as error:
            call.code = error.code
            more = (("WWW-Authenticate", "Bearer"),) if error.code == UNAUTHENTICATED else ()
            response = error_response(
                STATUSES.get(error.code, 500), error.message, ((REQUEST_ID, call.request_id), *more))
        except asyncio.CancelledError:  # the server stops
            call.code = CANCELLED
            raise
        except Exception:
            call.code = INTERNAL
            raise
        finally:
            if counted:
                self._records.ended(call)
        return response

    async def _api(self, request: HttpRequest, call: Call) -> bytes:
        asked = None
        if request.method == "POST":
            asked = _POST.fullmatch(request.path)
        elif request.method == "GET":
            asked = _GET.fullmatch(request.path)
        if asked is None:
            raise RequestError(INVALID_ARGUMENT, f"Malformed request: {request.method} {request.path}"[:1000])
        name, version, label, what = asked.groups()
        if request.method == "GET":
            call.method = "GetModelMetadata" if what else "GetModelStatus"
            if not name:
                raise RequestError(INVALID_ARGUMENT, "Missing model name in request.")
            spec = _spec(name, version, label)
            return self._metadata(spec) if what else self._status(spec)
        call.method = {"classify": "Classify", "regress": "Regress", "predict": "Predict"}[what.lower()]
        spec = _spec(name, version, label)
        if call.method == "Predict":
            return await self._work(call, lambda: self._predict(spec, request.body))
        return await self._work(call, lambda: self._refuse(call.method, spec, request.body))

    async def _work(self, call: Call, answer: Callable[[], bytes]) -> bytes:
        if self._workers.is_full:
            raise RequestError(RESOURCE_EXHAUSTED, "Too many requests wait; try again later.")

        def run() -> bytes:
            CALL.set(call)
            call.check()
            return answer()

        try:
            async with asyncio.timeout_at(call.deadline):  # of the same clock
                context = contextvars.copy_context()
                return await asyncio.get_running_loop().run_in_executor(self._workers, context.run, run)
        except TimeoutError as error:
            raise RequestError(DEADLINE_EXCEEDED, "The answer did not come in time.") from error

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
        document = json_tensors.parse(body)
        spec.signature_name = json_tensors.read_signature(document)
        kind, response = self._answers.predict_filled(spec, functools.partial(json_tensors.fill_inputs, document))
        return json_tensors.write_outputs(response.outputs, kind) + b"\n"

    def _refuse(self, method: str, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
        document = json_tensors.parse(body)
        spec.signature_name = json_tensors.read_signature(document)
        json_tensors.check_examples(document)
        if method == "Classify":
            self._answers.classify(classification_pb2.ClassificationRequest(model_spec=spec))
        self._answers.regress(regression_pb2.RegressionRequest(model_spec=spec))
        return b""

    def _status(self, spec: model_pb2.ModelSpec) -> bytes:
        return _as_json(_as_dict(self._answers.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec))))

    def _metadata(self, spec: model_pb2.ModelSpec) -> bytes:
        response = self._answers.metadata(
            get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF]))
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[SIGNATURE_DEF].Unpack(signatures)
        return _as_json({
            "model_spec": _as_dict(response.model_spec), "metadata": {SIGNATURE_DEF: _as_dict(signatures)}})

    def _file(self, request: HttpRequest) -> HttpResponse:
        if request.method not in ("GET", "HEAD"):
            return error_response(405, "Only GET and HEAD are known here.", (("Allow", "GET, HEAD"),))
        name = unquote(request.path).removeprefix("/") or "index.html"
        path = Path("" if "\0" in name else name)
        found = (self._playground / path).resolve()
        hidden = any(part.startswith(".") for part in path.parts)
        if hidden or not found.is_relative_to(self._playground) or not found.is_file():
            return error_response(404, "Not found.")
        content_type = _CONTENT_TYPES.get(found.suffix, "application/octet-stream")
        return HttpResponse(200, found.read_bytes(), content_type, _PAGE_HEADERS)


def _spec(name: str, version: str | None, label: str | None) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec()
    try:
        spec.name = unquote(name, errors="strict")
        if label:
            spec.version_label = unquote(label, errors="strict")
    except UnicodeDecodeError as error:
        raise RequestError(INVALID_ARGUMENT, f"Failed to decode model name:{name}") from error
    if version:
        significant = version.lstrip("0") or "0"
        if len(significant) > 19 or int(significant) >= 1 << 63:
            raise RequestError(INVALID_ARGUMENT, f"Failed to convert version: {version[:100]} to numeric.")
        spec.version.value = int(significant)
    return spec


def _as_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
