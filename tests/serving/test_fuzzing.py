"""Requests that no client would send: each is answered or refused as what it is, and the server goes on.

Some hundred by default; 100,000 with `pytest -m slow`.
"""

import http.client
import json
import socket

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from serving.server import EmbeddedServer
from serving.settings import Limits
from tests.serving.small import MODEL, a_request, texts_of

FEW, MANY = 150, 25_000  # of each of four kinds
CODE = grpc.StatusCode
# INTERNAL and UNKNOWN are not among them: they would be a mistake of the server.
CODES = {CODE.OK, CODE.INVALID_ARGUMENT, CODE.NOT_FOUND, CODE.FAILED_PRECONDITION}
STATUSES = {200, 400, 404}
SMALL_INTEGERS = st.one_of(st.integers(-2, 6), st.sampled_from([2**24, 2**31 - 1, 2**40, 2**63 - 1, -(2**63)]))
BYTES = st.one_of(st.binary(max_size=20), st.text(max_size=10).map(lambda text: text.encode("utf-8", "replace")))


def all_of(*kinds):
    """Runs a test of (server, example of each kind) with few examples, or with many if slow tests are asked for."""

    def decorate(test):
        @pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
        def many_times(server, examples):
            @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(st.tuples(*kinds))
            def once(drawn):
                test(server, *drawn)

            once()
            assert server.still_answers()

        return many_times

    return decorate


class Served:
    """The server, and a connection of each kind to it."""

    def __init__(self, server):
        self.server = server
        self.channel = grpc.insecure_channel(server.address)
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.raw = {
            name: self.channel.unary_unary(f"/tensorflow.serving.PredictionService/{name}")
            for name in ("Predict", "GetModelMetadata", "Classify")}
        self.http = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)

    def code(self, method, message):
        try:
            self.raw[method](message, timeout=30)
            return CODE.OK
        except grpc.RpcError as error:
            return error.code()

    def status(self, method, path, body):
        self.http.request(method, path, body)
        response = self.http.getresponse()
        return response.status, response.read()

    def still_answers(self):
        return texts_of(self.stub.Predict(a_request("a"), timeout=30)) == ["a@2"]


@pytest.fixture(scope="module")
def server(small):
    with EmbeddedServer(small, poll_seconds=0, rest_port=0, limits=Limits(max_rows=40)) as running:
        served = Served(running)
        yield served
        served.channel.close()
        served.http.close()


@st.composite
def tensors(draw):
    tensor = tensor_pb2.TensorProto(dtype=draw(st.one_of(st.sampled_from([1, 3, 7, 9]), st.integers(0, 30))))
    for size in draw(st.lists(SMALL_INTEGERS, max_size=3)):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.unknown_rank = draw(st.booleans()) and draw(st.booleans())
    tensor.string_val.extend(draw(st.lists(BYTES, max_size=4)))
    tensor.int64_val.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)))
    tensor.float_val.extend(draw(st.lists(st.floats(width=32), max_size=2)))
    tensor.tensor_content = draw(st.one_of(st.just(b""), st.binary(max_size=20)))
    return tensor


@st.composite
def requests(draw):
    request = predict_pb2.PredictRequest()
    if draw(st.integers(0, 9)):
        spec = request.model_spec
        spec.name = draw(st.one_of(st.just(MODEL), st.text(st.characters(codec="utf-8"), max_size=5)))
        spec.signature_name = draw(st.sampled_from(["", "serving_default", "repeat", "x"]))
        choice = draw(st.integers(0, 3))
        if choice == 1:
            spec.version.value = draw(st.one_of(st.just(2), SMALL_INTEGERS))
        elif choice == 2:
            spec.version_label = draw(st.sampled_from(["", "stable"]))
    names = draw(st.sampled_from([["text"], ["text", "times"], ["times"], ["text", "x"], []]))
    for name in names:
        request.inputs[name].CopyFrom(draw(tensors()))
    request.output_filter.extend(draw(st.lists(st.sampled_from(["text", "score", "x"]), max_size=2)))
    return request


@all_of(requests())
def test_predict_requests_of_any_content_are_answered_or_refused(server, request):
    assert server.code("Predict", request.SerializeToString()) in CODES


@st.composite
def damaged(draw):
    """A valid message with bytes changed, left out and put in, or no message at all."""
    whole = bytearray(draw(st.one_of(st.just(a_request("a", "bb").SerializeToString()), st.binary(max_size=60))))
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, len(whole)))
        whole[position : position + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(whole)


MESSAGES = {"Predict": predict_pb2.PredictRequest, "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest}


@all_of(st.sampled_from(sorted(MESSAGES)), damaged())
def test_bytes_that_are_no_message_are_refused(server, method, message):
    try:
        MESSAGES[method].FromString(message)
        codes = CODES
    except DecodeError:
        codes = {CODE.INTERNAL}  # what gRPC says of bytes that it cannot read
    assert server.code(method, message) in codes


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.just({"b64": "YQ=="}), st.builds(lambda text: {"b64": text}, st.text(max_size=8))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["text", "times", "b64", "x", ""]), inner, max_size=3)),
    max_leaves=12)
DOCUMENTS = st.one_of(
    JSON,
    st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name", "examples", "x"]), JSON, max_size=3),
    st.builds(
        lambda texts, times: {"signature_name": "repeat", "inputs": {"text": texts, "times": times}},
        st.lists(st.text(max_size=5), max_size=3), st.lists(st.integers(), max_size=3)))
PATHS = st.sampled_from([
    f"/v1/models/{MODEL}:predict", f"/v1/models/{MODEL}/versions/2:predict", f"/v1/models/{MODEL}:classify",
    f"/v1/models/{MODEL}/labels/%C3%A4:predict", f"/v1/models/%{MODEL}:predict", "/v1/models/:predict", "/v1/"])


@all_of(PATHS, st.one_of(DOCUMENTS.map(lambda each: json.dumps(each).encode()), st.binary(max_size=40), damaged()))
def test_rest_requests_of_any_content_are_answered_or_refused(server, path, body):
    status, answer = server.status("POST", path, body)
    assert status in STATUSES
    assert status == 200 or set(json.loads(answer)) == {"error"}


@st.composite
def damaged_http(draw):
    body = b'{"instances": ["a"]}'
    lines = [f"POST /v1/models/{MODEL}:predict HTTP/1.1", "Host: a", "Connection: close"]
    lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""])
    whole = bytearray(draw(st.one_of(st.just(head.encode() + body), st.binary(max_size=60))))
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, len(whole)))
        whole[position : position + draw(st.integers(0, 8))] = draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"\r\n", b"\r\n\r\n", b": ", b"\0", b"99999999999"])))
    return bytes(whole)


@all_of(damaged_http())
def test_bytes_that_are_no_http_end_their_connection_alone(server, sent):
    with socket.create_connection(("127.0.0.1", server.server.rest_port), timeout=30) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)  # all there is
            answer = connection.makefile("rb").read()
        except ConnectionError:
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert not answer.startswith(b"HTTP/1.1 5") or answer.startswith(b"HTTP/1.1 501")  # as h11 says of an encoding
    assert server.status("GET", f"/v1/models/{MODEL}", None)[0] == 200
