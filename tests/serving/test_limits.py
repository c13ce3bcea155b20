"""What the server does when there is too much to do, or when nobody waits for the answer any more."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, prediction_service_pb2_grpc

from serving import batching, servables
from serving.errors import CANCELLED, DEADLINE_EXCEEDED, RequestError
from serving.server import EmbeddedServer
from serving.settings import Limits
from tests.serving.small import MODEL, a_request, texts_of

CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def server(small):
    limits = Limits(max_waiting=1, max_request_bytes=10_000, max_rows=5)
    with EmbeddedServer(small, workers=1, limits=limits, poll_seconds=0) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@contextlib.contextmanager
def slow_requests(monkeypatch, server):
    """A request "slow" takes its worker until the end of the block; gives what was computed."""
    entered, go_on, computed, predict = threading.Event(), threading.Event(), [], servables.Servable.predict

    def slow(self, request):
        text = request.inputs["text"].string_val[0]
        computed.append(text.decode())
        if text == b"slow":
            entered.set()
            assert go_on.wait(30)
        return predict(self, request)

    monkeypatch.setattr(servables.Servable, "predict", slow)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server.address))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(stub.Predict, a_request("slow"), timeout=30)
        assert entered.wait(30)
        yield computed
        go_on.set()
        assert texts_of(answer.result(30)) == ["slow@2"]


def is_serving(channel):
    """Asked on the connection of another request that ended, its answer comes after the server knows of that end."""
    check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    return check.status == health_pb2.HealthCheckResponse.SERVING


def test_a_request_whose_deadline_passed_while_it_waited_is_not_computed(server, channel, prediction, monkeypatch):
    with slow_requests(monkeypatch, server) as computed:
        with pytest.raises(grpc.RpcError) as caught:
            prediction.Predict(a_request("late"), timeout=0.1)
        assert caught.value.code() == CODE.DEADLINE_EXCEEDED and is_serving(channel)
    assert texts_of(prediction.Predict(a_request("next"), timeout=30)) == ["next@2"]
    assert computed == ["slow", "next"]


def test_a_request_whose_caller_left_while_it_waited_is_not_computed(server, channel, prediction, monkeypatch):
    with slow_requests(monkeypatch, server) as computed:
        left = prediction.Predict.future(a_request("left"), timeout=30)
        while not server.num_waiting:
            assert is_serving(channel)
        left.cancel()
        assert is_serving(channel)
    assert texts_of(prediction.Predict(a_request("next"), timeout=30)) == ["next@2"]
    assert computed == ["slow", "next"]


def test_a_request_whose_deadline_passed_on_its_way_to_the_batch_is_not_computed(
    channel, prediction, monkeypatch
):
    late, passed, joined = threading.Event(), threading.Event(), []
    inputs, call = servables._inputs, batching.JoinedFunction.__call__

    def slow(definition, request):
        tensors = inputs(definition, request)
        if request.inputs["text"].string_val[0] == b"late":
            late.set()
            assert passed.wait(30)
        return tensors

    def told(self, **tensors):
        try:
            return call(self, **tensors)
        except RequestError as error:
            joined.append(error.code)
            raise

    monkeypatch.setattr(servables, "_inputs", slow)
    monkeypatch.setattr(batching.JoinedFunction, "__call__", told)
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(a_request("late"), timeout=1)
    assert caught.value.code() == CODE.DEADLINE_EXCEEDED and late.is_set() and is_serving(channel)
    passed.set()
    assert texts_of(prediction.Predict(a_request("next"), timeout=30)) == ["next@2"]  # by the one worker
    assert joined and set(joined) <= {DEADLINE_EXCEEDED, CANCELLED}


def test_one_more_request_than_may_wait_is_refused_at_once_and_health_and_status_are_not(
    server, channel, prediction, monkeypatch
):
    with slow_requests(monkeypatch, server):
        waits = prediction.Predict.future(a_request("waits"), timeout=30)
        while not server.num_waiting:
            assert is_serving(channel)
        with pytest.raises(grpc.RpcError) as caught:
            prediction.Predict(a_request("too many"), timeout=30)
        assert (caught.value.code(), caught.value.details()) == (
            CODE.RESOURCE_EXHAUSTED, "Too many requests wait; try again later.")
        assert is_serving(channel)
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = MODEL
        status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=30)
        assert status.model_version_status[0].state == 30
    assert texts_of(waits.result(30)) == ["waits@2"]
    assert server.num_waiting == 0


def test_requests_of_too_many_bytes_or_rows_are_refused(prediction):
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(a_request("x" * 10_000), timeout=30)
    assert caught.value.code() == CODE.RESOURCE_EXHAUSTED and "larger than max" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(a_request(*"abcdef"), timeout=30)
    assert caught.value.code() == CODE.INVALID_ARGUMENT
    assert caught.value.details() == "A request holds at most 5 rows; send it in parts. Received: 6 rows."
    assert texts_of(prediction.Predict(a_request(*"abcde"), timeout=30)) == [f"{each}@2" for each in "abcde"]


def test_a_mistake_of_the_server_is_told_without_its_text(prediction, monkeypatch):
    def broken(self, request):
        raise KeyError("a secret")

    with monkeypatch.context() as patch:
        patch.setattr(servables.Servable, "predict", broken)
        with pytest.raises(grpc.RpcError) as caught:
            prediction.Predict(a_request("a"), timeout=30)
    assert (caught.value.code(), caught.value.details()) == (
        CODE.INTERNAL, "The server failed; its log says why.")
    assert texts_of(prediction.Predict(a_request("a"), timeout=30)) == ["a@2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_waiting": -1}, "Limits needs max_waiting >= 0. Received: max_waiting=-1"),
        ({"max_request_bytes": 0}, "max_request_bytes >= 1"),
        ({"max_rows": 0}, "max_rows >= 1"),
        ({"rest_timeout": 0}, "rest_timeout >= 0.001"),
        ({"grace": -1}, "grace >= 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Limits(**settings)
