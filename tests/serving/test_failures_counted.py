"""Each failure is counted and logged under the code that its caller gets."""

import contextlib
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving import http_server, servables
from serving.answers import Call
from serving.errors import CANCELLED, DEADLINE_EXCEEDED
from serving.grpc_services import code_of_end
from serving.server import EmbeddedServer
from serving.settings import Limits
from tests.serving.small import MODEL, a_request

PREDICT = "/tensorflow.serving.PredictionService/Predict"
LEFT = {"DEADLINE_EXCEEDED", "CANCELLED"}  # a caller's deadline and its leaving look alike from far away


@pytest.fixture
def server(small):
    limits = Limits(max_request_bytes=1000)
    with EmbeddedServer(small, workers=2, batching=None, poll_seconds=0, rest_port=0, limits=limits) as running:
        yield running


def counts(server, api, method="Predict"):
    """How often a request ended with each code."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    connection.request("GET", "/monitoring/prometheus/metrics")
    return counts_in(connection.getresponse().read(), api, method)


def counts_in(page, api, method="Predict"):
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for each in family.samples:
            if each.name == "tfseq2seq_requests_total" and each.labels["api"] == api:
                if each.labels["method"] == method:
                    found[each.labels["code"]] = int(each.value)
    return found


def counted_once(server, *where):
    """The one code that was counted; its caller may know it a moment before."""
    until = time.monotonic() + 60
    while not (found := counts(server, *where)):
        assert time.monotonic() < until
    ((code, times),) = found.items()
    assert times == 1
    return code


@contextlib.contextmanager
def held_up(monkeypatch):
    """A request is computed until the end of the block; gives what is set when it has begun."""
    entered, go_on, predict = threading.Event(), threading.Event(), servables.Servable.predict

    def slow(self, request):
        entered.set()
        assert go_on.wait(60)
        return predict(self, request)

    monkeypatch.setattr(servables.Servable, "predict", slow)
    yield entered
    go_on.set()


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_call_whose_caller_left_while_it_was_computed(server, monkeypatch, how):
    with grpc.insecure_channel(server.address) as channel, held_up(monkeypatch) as entered:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        call = stub.Predict.future(a_request("a"), timeout=1 if how == "deadline" else 60)
        assert entered.wait(60)
        if how == "cancel":
            call.cancel()
        with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
            call.result(60)
        assert counted_once(server, "grpc") in (LEFT if how == "deadline" else {"CANCELLED"})


def test_a_caller_that_leaves_about_its_deadline_left_for_it():
    call = Call("Predict", "id", arrived=100.0, deadline=110.0)
    assert [code_of_end(call, now) for now in (100.5, 109.0)] == [CANCELLED] * 2
    assert [code_of_end(call, now) for now in (109.9, 110.0, 111.0)] == [DEADLINE_EXCEEDED] * 3
    assert code_of_end(Call("Predict", "id", arrived=100.0), 1e9) == CANCELLED


@pytest.mark.parametrize(
    ("message", "told", "counted"),
    [
        (b"\xff\xff\xff", grpc.StatusCode.INTERNAL, "INTERNAL"),
        (b"x" * 2000, grpc.StatusCode.RESOURCE_EXHAUSTED, "CANCELLED"),  # gRPC itself refuses it
    ])
def test_a_message_that_cannot_be_read_or_is_too_large(server, message, told, counted):
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(PREDICT)(message, timeout=60)
    assert caught.value.code() == told
    assert counted_once(server, "grpc") == counted


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "INVALID_ARGUMENT"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n", 413, "RESOURCE_EXHAUSTED"),
        (b"POST / HTTP/1.1\r\n", 408, "DEADLINE_EXCEEDED"),
    ])
def test_what_the_rest_port_cannot_read(server, monkeypatch, sent, status, code):
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=60) as connection:
        connection.sendall(sent)
        assert connection.makefile("rb").readline().split()[1] == str(status).encode()
    assert counted_once(server, "rest", "Malformed") == code


def test_a_rest_request_that_the_end_of_the_server_cuts_off(small, monkeypatch):
    server = EmbeddedServer(small, workers=2, batching=None, poll_seconds=0, rest_port=0)
    server.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    with ThreadPoolExecutor(1) as pool, held_up(monkeypatch) as entered:
        pool.submit(connection.request, "POST", f"/v1/models/{MODEL}:predict", json.dumps({"instances": ["a"]}))
        assert entered.wait(60)
        server.stop(0.1)
        assert counts_in(server._records.page(), "rest") == {"CANCELLED": 1}
