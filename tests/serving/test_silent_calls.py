"""Calls whose message does not come hold up nobody, with a token or without."""

import contextlib
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving import grpc_services
from serving.server import EmbeddedServer
from serving.settings import Limits, Security
from tests.serving.small import a_request, texts_of

TOKEN = [("authorization", "Bearer secret")]
PREDICT, CHECK = "/tensorflow.serving.PredictionService/Predict", "/grpc.health.v1.Health/Check"
STATUS, RELOAD = "/tensorflow.serving.ModelService/GetModelStatus", (
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest")
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture(scope="module")
def server(small):
    settings = {"limits": Limits(max_waiting=2), "security": Security(token="secret")}
    with EmbeddedServer(small, workers=2, poll_seconds=0, **settings) as running:
        yield running


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@contextlib.contextmanager
def silent_calls(server, method, metadata, count=12):
    """Calls that send their head, and no message until the block ends; gives their futures."""
    end = threading.Event()

    def nothing():
        end.wait()
        yield from ()

    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = channel.stream_unary(method)
        try:
            yield [stub.future(nothing(), metadata=metadata, timeout=120) for _ in range(count)]
        finally:
            end.set()


def is_answered(channel):
    """All kinds of methods, asked on one connection after the silent calls on another."""
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    assert list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter(asked), timeout=20, metadata=TOKEN))
    prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(a_request("a"), timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    return texts_of(prediction.Predict(a_request("a"), timeout=20, metadata=TOKEN)) == ["a@2"]


@pytest.mark.parametrize(
    ("method", "metadata"),
    [(PREDICT, []), (PREDICT, TOKEN), (CHECK, []), (STATUS, TOKEN), (RELOAD, TOKEN), (REFLECT, TOKEN)],
    ids=["no token", "predict", "health", "status", "reload", "reflection"])
def test_calls_without_a_message_hold_up_nobody(server, channel, method, metadata):
    with silent_calls(server, method, metadata) as calls:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert is_answered(channel)
        if method == PREDICT and not metadata:  # refused before there is a message
            assert {call.exception(20).code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}


@pytest.mark.parametrize(("method", "metadata"), [(PREDICT, TOKEN), (CHECK, [])])
def test_a_message_has_limited_time_to_come(server, channel, method, metadata, monkeypatch):
    monkeypatch.setattr(grpc_services, "MESSAGE_SECONDS", 0.2)
    with silent_calls(server, method, metadata, 1) as (call,):
        error = call.exception(60)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.details() == "The message did not come within 0.2 seconds."
        assert is_answered(channel)


def test_a_call_that_ends_without_a_message_is_refused(channel):
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(PREDICT)(iter([]), metadata=TOKEN, timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "exactly one message" in caught.value.details()
