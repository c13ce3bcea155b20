"""PredictionService and ModelService over gRPC: who may ask, which thread answers, what is told of it."""

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.answers import CALL, Answers, Call
from serving.errors import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    RequestError,
)
from serving.health import Health
from serving.records import REQUEST_ID, Records, read_request_id
from serving.workers import Workers

PREDICTION, MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
HEALTH = "grpc.health.v1.Health"
CODES = {code.value[0]: code for code in grpc.StatusCode}
MESSAGE_SECONDS = 30.0  # from the head of a call to the end of its message
SECONDS_TO_BE_ENDED = 0.05  # between the end of a call's messages and word of the end of the call
_log = logging.getLogger(__name__)


class _Method(NamedTuple):
    """What is asked by a method, who answers it, and which threads: None for the workers."""

    request: Any
    answer: Callable[[Any], Any]
    pool: futures.ThreadPoolExecutor | None = None


class Pools:
    """Threads for what must not wait behind predictions, nor hold them up."""

    def __init__(self) -> None:
        self.quick = futures.ThreadPoolExecutor(2, thread_name_prefix="serving-quick")
        self.reloading = futures.ThreadPoolExecutor(1, thread_name_prefix="serving-reload")

    def shutdown(self) -> None:
        """Gives the threads back when they are idle."""
        for pool in (self.quick, self.reloading):
            pool.shutdown(wait=False, cancel_futures=True)


class Services(grpc.GenericRpcHandler):
    """All methods of the gRPC port.

    A call is read in the event loop and costs a thread when its message is there, not before: one that sends none
    holds up nobody. A request that may not be asked, or that cannot even wait, is refused before its message is read.
    Health, status and metadata do not wait behind predictions.

    Args:
        answers: what is said.
        workers: answer predictions.
        pools: answer all else.
        records: what is counted and logged.
        is_allowed: whether a value of "authorization" lets in; health is open to all.
        names: services that reflection tells of.
    """

    def __init__(
        self, answers: Answers, workers: Workers, pools: Pools, records: Records, is_allowed: Callable[[str], bool],
        names: Sequence[str],
    ):
        self._workers, self._records, self._is_allowed = workers, records, is_allowed
        self.health = Health()
        self._reflection = reflection.aio.ReflectionServicer([*names, HEALTH, reflection.SERVICE_NAME])
        self._methods = {
            f"/{PREDICTION}/Predict": _Method(predict_pb2.PredictRequest, answers.predict),
            f"/{PREDICTION}/Classify": _Method(classification_pb2.ClassificationRequest, answers.classify),
            f"/{PREDICTION}/Regress": _Method(regression_pb2.RegressionRequest, answers.regress),
            f"/{PREDICTION}/MultiInference": _Method(inference_pb2.MultiInferenceRequest, _refuse_inference),
            f"/{PREDICTION}/GetModelMetadata": _Method(
                get_model_metadata_pb2.GetModelMetadataRequest, answers.metadata, pools.quick),
            f"/{MODEL}/GetModelStatus": _Method(
                get_model_status_pb2.GetModelStatusRequest, answers.status, pools.quick),
            f"/{MODEL}/HandleReloadConfigRequest": _Method(
                model_management_pb2.ReloadConfigRequest, answers.reload, pools.reloading)}
        self._stopping = False
        self._answering: set[asyncio.Task[Any]] = set()

    def refuse_all(self) -> None:
        """From now on every request but health gets UNAVAILABLE, which clients take to another server.

        What reaches gRPC's own `stop` while it closes the connection would wait for the end of its grace instead.
        """
        self._stopping = True

    async def wait_until_answered(self, seconds: float) -> None:
        """Returns when the requests whose message is there are answered, at the latest after `seconds`."""
        if self._answering:
            await asyncio.wait(set(self._answering), timeout=max(0.0, seconds))

    def service(self, details: Any) -> Any:
        """The handler of a call. None takes a stream: a message is read by `_read`, under its limit of time."""
        if details.method == f"/{HEALTH}/Check":
            return grpc.stream_unary_rpc_method_handler(self._check_health)
        if details.method == f"/{HEALTH}/Watch":
            return grpc.stream_stream_rpc_method_handler(self._watch_health)
        method = self._methods.get(details.method)
        if method is None and details.method != f"/{reflection.SERVICE_NAME}/ServerReflectionInfo":
            return None
        metadata = dict(details.invocation_metadata)
        is_allowed = self._is_allowed(metadata.get("authorization", ""))
        if method is None and is_allowed and not self._stopping:
            return grpc.stream_stream_rpc_method_handler(
                self._reflection.ServerReflectionInfo, reflection_pb2.ServerReflectionRequest.FromString,
                reflection_pb2.ServerReflectionResponse.SerializeToString)
        call = Call(details.method.rpartition("/")[2], read_request_id(metadata.get(REQUEST_ID)), time.monotonic())

        async def behavior(_: Any, context: grpc.aio.ServicerContext) -> bytes:
            return await self._answer(call, method, is_allowed, context)

        return grpc.stream_unary_rpc_method_handler(behavior)  # a status alone answers a caller of streams too

    async def _answer(self, call: Call, method: _Method | None, is_allowed: bool, context: Any) -> bytes:
        remaining = context.time_remaining()
        call.deadline = None if remaining is None else call.arrived + remaining
        left = threading.Event()
        call.is_wanted = lambda: not left.is_set()
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        try:
            self._check_running()
            if method is None or not is_allowed:
                raise RequestError(UNAUTHENTICATED, "A valid bearer token is needed.")
            self._check_room(method)
            message = await _read(context)
            self._check_running()
            self._check_room(method)
            return await self._work(call, method, message)
        except RequestError as error:
            call.code, text = error.code, error.message
        except asyncio.CancelledError:
            left.set()
            call.code = code_of_end(call, time.monotonic())
            raise
        except grpc.aio.AbortError:
            call.code = DEADLINE_EXCEEDED
            raise
        except Exception:
            _log.exception("request %s failed", call.request_id)
            call.code, text = INTERNAL, "The server failed; its log says why."
        finally:
            self._records.ended(call)
        return await context.abort(CODES.get(call.code, grpc.StatusCode.UNKNOWN), text)

    def _check_running(self) -> None:
        if self._stopping:
            raise RequestError(UNAVAILABLE, "The server stops.")

    def _check_room(self, method: _Method) -> None:
        if method.pool is None and self._workers.is_full:
            raise RequestError(RESOURCE_EXHAUSTED, "Too many requests wait; try again later.")

    async def _work(self, call: Call, method: _Method, message: bytes) -> bytes:
        task = asyncio.current_task()
        if task is not None:  # always, but not for its type
            self._answering.add(task)  # it ends when the answer is sent
            task.add_done_callback(self._answering.discard)

        def run() -> bytes:
            CALL.set(call)
            try:
                request = method.request.FromString(message)
            except DecodeError as error:
                name = method.request.DESCRIPTOR.name
                raise RequestError(INTERNAL, f"The message cannot be read as a {name}.") from error
            return method.answer(request).SerializeToString()

        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(method.pool or self._workers, context.run, run)

    async def _check_health(self, _: Any, context: Any) -> bytes:
        try:
            request = await _read_health(context)
            response = self.health.check(request.service)
            if response is not None:
                return response.SerializeToString()
            code, text = NOT_FOUND, ""
        except RequestError as error:
            code, text = error.code, error.message
        return await context.abort(CODES[code], text)

    async def _watch_health(self, _: Any, context: Any) -> None:
        try:
            request = await _read_health(context)
        except RequestError as error:
            await context.abort(CODES[error.code], error.message)
        await self.health.watch(request.service, context)


def code_of_end(call: Call, now: float) -> int:
    """DEADLINE_EXCEEDED or CANCELLED, of a call that ended at `now` before its answer.

    A caller counts from when it sent, and gRPC rounds what it tells of its deadline up: it leaves a moment earlier
    than the deadline passes here.
    """
    if call.deadline is None:
        return CANCELLED
    slack = 0.1 + 0.02 * (call.deadline - call.arrived)
    return DEADLINE_EXCEEDED if now >= call.deadline - slack else CANCELLED


async def _read(context: Any) -> bytes:
    """The one message of a call.

    Raises:
        RequestError: there is none.
        grpc.aio.AbortError: it did not come in time, which the caller was told.
    """
    loop = asyncio.get_running_loop()
    ending = []

    def end() -> None:
        # Not by cancelling the reading: gRPC would write into the memory of what no longer waits.
        ending.append(loop.create_task(_abort_late(context)))

    limit = loop.call_later(MESSAGE_SECONDS, end)
    try:
        message = await context.read()
    finally:
        limit.cancel()
    if message is grpc.aio.EOF:
        # Of a call that gRPC has ended, for a message that is too large or a caller that left, word comes presently.
        await asyncio.sleep(SECONDS_TO_BE_ENDED)
        raise RequestError(UNIMPLEMENTED, "A request is exactly one message. Received: none.")
    return message


async def _abort_late(context: Any) -> None:
    with contextlib.suppress(grpc.aio.AbortError):
        await context.abort(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"The message did not come within {MESSAGE_SECONDS:g} seconds.")


async def _read_health(context: Any) -> Any:
    try:
        return health_pb2.HealthCheckRequest.FromString(await _read(context))
    except DecodeError as error:
        raise RequestError(INTERNAL, "The message cannot be read as a HealthCheckRequest.") from error


def _refuse_inference(request: Any) -> Any:
    raise RequestError(UNIMPLEMENTED, "No signature here is for MultiInference.")
