"""What those who run the server see of it: health, reflection, metrics, logs, and its end."""

import contextlib
import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving import servables
from serving.records import write_log
from serving.server import EmbeddedServer
from serving.settings import ServedModel
from tests.serving.small import MODEL, a_request, copy_small, texts_of

STATUS = health_pb2.HealthCheckResponse
PREDICTION = "tensorflow.serving.PredictionService"


@pytest.fixture(scope="module")
def server(small):
    with EmbeddedServer(small, poll_seconds=0, rest_port=0) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def health_of(channel, service):
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status


@pytest.mark.parametrize("service", ["", PREDICTION, "tensorflow.serving.ModelService", MODEL])
def test_health_is_told_of_the_server_its_services_and_its_models(channel, service):
    assert health_of(channel, service) == STATUS.SERVING


def test_the_health_of_what_is_not_there_is_not_found(channel):
    with pytest.raises(grpc.RpcError) as caught:
        health_of(channel, "other")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_follows_models_and_the_end_of_the_server(small, tmp_path):
    copy_small(small, tmp_path, 1)
    models = [ServedModel(name=name, folder=folder) for name, folder in (("one", small), ("two", tmp_path))]
    server = EmbeddedServer(models=models, poll_seconds=0)
    server.start()
    with grpc.insecure_channel(server.address) as channel:
        assert health_of(channel, "one") == health_of(channel, "two") == STATUS.SERVING
        server.models.replace(models[:1])
        assert (health_of(channel, "one"), health_of(channel, "two")) == (STATUS.SERVING, STATUS.NOT_SERVING)
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="one"), timeout=30)
        assert next(watched).status == STATUS.SERVING
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(server.stop, 5.0)
            assert next(watched).status == STATUS.NOT_SERVING
            watched.cancel()
            stopped.result(30)


def test_reflection_names_the_services_and_describes_their_messages(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=PREDICTION),
    ]
    listed, described = stub.ServerReflectionInfo(iter(asked), timeout=30)
    assert {each.name for each in listed.list_services_response.service} >= {PREDICTION, "grpc.health.v1.Health"}
    file = descriptor_pb2.FileDescriptorProto.FromString(
        described.file_descriptor_response.file_descriptor_proto[0])
    assert "Predict" in [method.name for method in file.service[0].method]


def metrics_of(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    connection.request("GET", "/monitoring/prometheus/metrics")
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.read().decode())
    return {(each.name, *sorted(each.labels.items())): each.value for family in families for each in family.samples}


def counted(metrics, name, **labels):
    return metrics.get((name, *sorted(labels.items())), 0.0)


def test_metrics_count_requests_by_what_was_asked_and_answered(small):
    with EmbeddedServer(small, poll_seconds=0, rest_port=0) as server:
        with grpc.insecure_channel(server.address) as channel:
            prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for _ in range(3):
                prediction.Predict(a_request("a", "b"), timeout=30)
            for request in (a_request(b"\xff"), a_request("a", model="made up")):
                with pytest.raises(grpc.RpcError):
                    prediction.Predict(request, timeout=30)
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
        connection.request("POST", f"/v1/models/{MODEL}:predict", '{"instances": ["a"]}')
        assert connection.getresponse().status == 200
        metrics = metrics_of(server)
        known = {"api": "grpc", "method": "Predict", "model": MODEL, "version": "2"}
        assert counted(metrics, "tfseq2seq_requests_total", **known, code="OK") == 3
        assert counted(metrics, "tfseq2seq_requests_total", **known, code="INVALID_ARGUMENT") == 1
        # A name that a caller made up is no label: it would fill the memory.
        unknown = known | {"model": "", "version": ""}
        assert counted(metrics, "tfseq2seq_requests_total", **unknown, code="NOT_FOUND") == 1
        assert counted(metrics, "tfseq2seq_requests_total", **known | {"api": "rest"}, code="OK") == 1
        assert counted(metrics, "tfseq2seq_request_seconds_count", api="grpc", method="Predict", model=MODEL) == 4
        # Three of two rows, one of one, and those of warming up: one row for each of two signatures.
        assert counted(metrics, "tfseq2seq_batch_rows_count") == 3 + 1 + 2
        assert counted(metrics, "tfseq2seq_batch_rows_sum") == 3 * 2 + 1 + 2
        assert counted(metrics, "tfseq2seq_waiting_requests") == 0
        assert counted(metrics, "tfseq2seq_loaded_version", model=MODEL, version="2") == 1
        assert counted(metrics, "tfseq2seq_loaded_version", model=MODEL, version="1") == 0


def test_the_request_id_of_the_caller_comes_back(prediction):
    def ids(request, *metadata):
        try:
            _, call = prediction.Predict.with_call(request, timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            call = error
        return [value for name, value in call.trailing_metadata() if name == "x-request-id"]

    assert ids(a_request("a"), ("x-request-id", "mine-1")) == ["mine-1"]
    assert ids(a_request(b"\xff"), ("x-request-id", "mine-2")) == ["mine-2"]
    (made,), (other,) = ids(a_request("a")), ids(a_request("a"), ("x-request-id", "no id \\ of ours"))
    assert len(made) == len(other) == 32 and made != other


@pytest.fixture
def no_log():
    yield
    logger = logging.getLogger("serving")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


def test_each_request_is_a_line_of_json_without_its_text(prediction, capfd, no_log):
    write_log("json")
    prediction.Predict(a_request("a secret"), timeout=30, metadata=[("x-request-id", "line-1")])
    with pytest.raises(grpc.RpcError):
        prediction.Predict(a_request("a secret", version=9), timeout=30, metadata=[("x-request-id", "line-2")])
    written = [line for line in capfd.readouterr().err.splitlines() if "line-" in line]
    one, two = (json.loads(line) for line in written)
    assert one.pop("milliseconds") >= 0 and one.pop("time").endswith("Z") and one.pop("message")
    assert one == {
        "level": "INFO", "logger": "serving.records", "request_id": "line-1", "api": "grpc", "method": "Predict",
        "code": "OK", "model": MODEL, "version": 2, "rows": 1}
    assert (two["code"], two["version"], two["model"]) == ("NOT_FOUND", None, "")
    assert "secret" not in "".join(written)


def test_a_log_of_another_format_is_refused():
    with pytest.raises(ValueError, match="none, text or json. Received: 'xml'"):
        write_log("xml")


SERVE = """
import sys, threading
from serving import servables
from serving.server import serve
from serving.settings import Limits
predict, load = servables.Servable.predict, servables.load
go_on = threading.Event()

def slow(self, request):
    if request.inputs["text"].string_val[0] in (b"slow", b"for ever"):
        print("entered", flush=True)
        if request.inputs["text"].string_val[0] == b"for ever":
            go_on.wait()
        sys.stdin.readline()
    return predict(self, request)

def slow_load(version, *args):
    if version == 3:
        print("entered", flush=True)
        go_on.wait()
    return load(version, *args)

servables.Servable.predict, servables.load = slow, slow_load
serve(
    sys.argv[1], port=0, rest_port=0, log_format="json", on_ready=lambda address: print(address, flush=True),
    limits=Limits(grace=float(sys.argv[2])), poll_seconds=0.1)
print("ended", flush=True)
"""


@contextlib.contextmanager
def serving(folder, grace):
    """A server of its own; a request "slow" ends when a line is written to it, "for ever" and loading 3 do not."""
    started = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder), str(grace)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@pytest.fixture
def process(small):
    with serving(small, grace=30) as started:
        yield started


def test_sigterm_lets_the_request_under_way_end_and_takes_no_new_one(process):
    address = process.stdout.readline().strip()
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(1) as pool:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = pool.submit(prediction.Predict, a_request("slow"), timeout=60)
        assert process.stdout.readline() == "entered\n"
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watched).status == STATUS.SERVING
        process.send_signal(signal.SIGTERM)
        assert next(watched).status == STATUS.NOT_SERVING
        watched.cancel()
        refused = None
        while refused is None:  # as soon as the port is closed
            with grpc.insecure_channel(address) as other:
                try:
                    prediction_service_pb2_grpc.PredictionServiceStub(other).Predict(a_request("new"), timeout=60)
                except grpc.RpcError as error:
                    refused = error.code()
        assert refused == grpc.StatusCode.UNAVAILABLE
        process.stdin.write("\n")
        process.stdin.flush()
        assert texts_of(answer.result(60)) == ["slow@2"]
        assert process.stdout.readline() == "ended\n"
        assert process.wait(60) == 0


def test_a_second_signal_does_not_wait(process):
    address = process.stdout.readline().strip()
    with grpc.insecure_channel(address) as channel:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = prediction.Predict.future(a_request("for ever"), timeout=60)
        assert process.stdout.readline() == "entered\n"
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watched).status == STATUS.SERVING
        process.send_signal(signal.SIGTERM)
        assert next(watched).status == STATUS.NOT_SERVING
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert answer.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("what", ["a request", "a load"])
def test_the_process_ends_after_its_grace_whatever_is_under_way(small, tmp_path, what):
    copy_small(small, tmp_path, 1)
    with serving(tmp_path, grace=0.1) as process:
        address = process.stdout.readline().strip()
        with grpc.insecure_channel(address) as channel:
            if what == "a request":
                prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                answer = prediction.Predict.future(a_request("for ever"), timeout=120)
            else:
                copy_small(small, tmp_path, 3)
            assert process.stdout.readline() == "entered\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            if what == "a request":
                assert answer.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_a_server_can_be_started_again(small):
    server = EmbeddedServer(small, poll_seconds=0)
    for _ in range(2):
        with server, grpc.insecure_channel(server.address) as channel:
            assert health_of(channel, MODEL) == STATUS.SERVING
            assert texts_of(prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(
                a_request("a"), timeout=30)) == ["a@2"]


def test_threads_end_with_the_server(small):
    before = set(threading.enumerate())
    with EmbeddedServer(small, rest_port=0) as server, grpc.insecure_channel(server.address) as channel:
        health_of(channel, "")
        started = {each for each in threading.enumerate() if each.name.startswith("serving")} - before
        assert {each.name for each in started} >= {"serving-versions", "serving-rest", "serving-grpc"}
    for thread in started:
        thread.join(30)
    assert not any(thread.is_alive() for thread in started)


def test_a_load_that_fails_while_serving_is_logged(small, tmp_path, caplog, monkeypatch):
    copy_small(small, tmp_path, 1)
    with EmbeddedServer(tmp_path, poll_seconds=0) as server, caplog.at_level(logging.INFO, "serving"):
        copy_small(small, tmp_path, 2)

        def fail(*_):
            raise ValueError("no memory")

        monkeypatch.setattr(servables, "load", fail)
        server.models.poll()
        server.models.poll()
    assert f"version 2 of model {MODEL} cannot be loaded: no memory" in caplog.text
