"""PredictionService and ModelService over gRPC: who may ask, which thread answers, what is told of it."""

import logging
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.answers import CALL, Answers, Call
from serving.errors import INTERNAL, RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNAVAILABLE, UNIMPLEMENTED, RequestError
from serving.records import REQUEST_ID, Records, read_request_id
from serving.workers import Workers

HEALTH = "grpc.health.v1.Health"
RELOAD = "HandleReloadConfigRequest"
QUICK = {"GetModelStatus", "GetModelMetadata"}  # answered even where all workers are busy
CODES = {code.value[0]: code for code in grpc.StatusCode}
_log = logging.getLogger(__name__)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Raises RequestError, which `Interceptor` turns into a status."""

    def __init__(self, answers: Answers):
        self._answers = answers

    def Predict(self, request, context):  # noqa: N802
        return self._answers.predict(request)

    def GetModelMetadata(self, request, context):  # noqa: N802
        return self._answers.metadata(request)

    def Classify(self, request, context):  # noqa: N802
        self._answers.classify(request)

    def Regress(self, request, context):  # noqa: N802
        self._answers.regress(request)

    def MultiInference(self, request, context):  # noqa: N802
        raise RequestError(UNIMPLEMENTED, "No signature here is for MultiInference.")


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Raises RequestError, which `Interceptor` turns into a status."""

    def __init__(self, answers: Answers):
        self._answers = answers

    def GetModelStatus(self, request, context):  # noqa: N802
        return self._answers.status(request)

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802
        return self._answers.reload(request)


class Pools:
    """Threads for what must not wait behind predictions, nor hold them up."""

    def __init__(self) -> None:
        self.quick = futures.ThreadPoolExecutor(4, thread_name_prefix="serving-quick")
        self.reloading = futures.ThreadPoolExecutor(1, thread_name_prefix="serving-reload")
        self.reflection = futures.ThreadPoolExecutor(2, thread_name_prefix="serving-reflection")

    def shutdown(self) -> None:
        """Gives the threads back when they are idle."""
        for pool in (self.quick, self.reloading, self.reflection):
            pool.shutdown(wait=False)


class Interceptor(grpc.ServerInterceptor):
    """Stands before every method.

    A request that may not be asked, or that cannot even wait, is refused before a worker is busy with it. Health,
    status and metadata do not wait behind predictions.

    Args:
        workers: answer predictions.
        pools: answer all else.
        records: what is counted and logged.
        is_allowed: whether a value of "authorization" lets in; health is open to all.
    """

    def __init__(self, workers: Workers, pools: Pools, records: Records, is_allowed: Callable[[str], bool]):
        self._workers, self._pools, self._records, self._is_allowed = workers, pools, records, is_allowed
        self._stopping = False

    def refuse_all(self) -> None:
        """From now on every request but health gets UNAVAILABLE, which clients take to another server.

        What reaches gRPC's own `stop` while it closes the connection would wait for the end of its grace instead.
        """
        self._stopping = True

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Called for each request in the one thread that takes them all, so it must not wait."""
        handler = continuation(details)
        if handler is None:
            return None
        _, service, method = details.method.split("/")
        if service == HEALTH:
            return _moved(handler, self._pools.quick)
        metadata = dict(details.invocation_metadata)
        call = Call(method, read_request_id(metadata.get(REQUEST_ID)), time.monotonic())
        if self._stopping:
            return self._refusal(call, RequestError(UNAVAILABLE, "The server stops."))
        if not self._is_allowed(metadata.get("authorization", "")):
            return self._refusal(call, RequestError(UNAUTHENTICATED, "A valid bearer token is needed."))
        if handler.unary_unary is None:
            return _moved(handler, self._pools.reflection)
        pool = self._pools.reloading if method == RELOAD else self._pools.quick if method in QUICK else None
        if pool is None and self._workers.is_full:
            return self._refusal(call, RequestError(RESOURCE_EXHAUSTED, "Too many requests wait; try again later."))
        return grpc.unary_unary_rpc_method_handler(
            self._behavior(call, handler.unary_unary, pool), handler.request_deserializer, handler.response_serializer)

    def _refusal(self, call: Call, error: RequestError) -> Any:
        def refuse(request: Any, context: Any) -> Any:
            raise error

        # Of one message each way, which a status alone answers as it does streams.
        return grpc.unary_unary_rpc_method_handler(self._behavior(call, refuse, self._pools.quick))

    def _behavior(self, call: Call, answer: Callable[..., Any], pool: futures.ThreadPoolExecutor | None) -> Any:
        def behavior(request: Any, context: grpc.ServicerContext) -> Any:
            remaining = context.time_remaining()
            call.deadline = None if remaining is None else time.monotonic() + remaining
            call.is_wanted = context.is_active
            context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
            token = CALL.set(call)
            try:
                return answer(request, context)
            except RequestError as error:
                call.code = error.code
                message = error.message
            except Exception:
                _log.exception("request %s failed", call.request_id)
                call.code, message = INTERNAL, "The server failed; its log says why."
            finally:
                CALL.reset(token)
                self._records.ended(call)
            return context.abort(CODES.get(call.code, grpc.StatusCode.UNKNOWN), message)

        if pool is not None:
            behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]  # gRPC's name
        return behavior


def _moved(handler: Any, pool: futures.ThreadPoolExecutor) -> Any:
    """The same method, answered by threads of `pool`."""
    kind = ("stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary")
    name = "_".join(kind)
    behavior = getattr(handler, name)

    def moved(*args: Any, **kwargs: Any) -> Any:
        return behavior(*args, **kwargs)

    moved.experimental_thread_pool = pool  # type: ignore[attr-defined]
    moved.experimental_non_blocking = getattr(behavior, "experimental_non_blocking", False)  # type: ignore[attr-defined]
    make = getattr(grpc, f"{name}_rpc_method_handler")
    return make(moved, handler.request_deserializer, handler.response_serializer)
