"""The embedded server, asked through tensorflow-serving-api's own stubs as any client would."""

import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving import servables
from serving.client import Client, VersionStatus
from serving.errors import ServerError
from serving.server import EmbeddedServer, serve
from serving.settings import Batching, Limits, Security, ServedModel

MODEL = "tfseq2seq"
CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def a_request(model=MODEL, signature="", version=None, output_filter=(), **inputs):
    request = predict_pb2.PredictRequest(output_filter=output_filter)
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = version
    for name, values in (inputs or {"text": ["one"]}).items():
        proto = values if hasattr(values, "tensor_shape") else tf.make_tensor_proto(values)
        request.inputs[name].CopyFrom(proto)
    return request


def a_tensor(dtype, shape, **values):
    proto = tf.make_tensor_proto(0)
    proto.Clear()
    proto.dtype = dtype.as_datatype_enum
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    for name, each in values.items():
        getattr(proto, name).extend(each)
    return proto


def without_spec():
    request = a_request()
    request.ClearField("model_spec")
    return request


def with_label():
    request = a_request()
    request.model_spec.version_label = "stable"
    return request


def test_the_official_stub_is_answered(prediction):
    response = prediction.Predict(a_request(text=["one", "two"]), timeout=30)
    assert tf.make_ndarray(response.outputs["text"]).tolist() == [[b"un", b"un!"], [b"TWO", b"TWO!"]]
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["score"]), [[-1.0, -2.0], [-1.5, -2.5]])
    assert (response.model_spec.name, response.model_spec.signature_name) == (MODEL, "serving_default")
    assert response.model_spec.version.value == 1


def test_numbers_travel_in_the_fields_of_their_type(prediction):
    score = prediction.Predict(a_request(text=["one"]), timeout=30).outputs["score"]
    assert list(score.float_val) == [-1.0, -2.0]
    assert not score.tensor_content


def test_only_the_outputs_asked_for_come_back(prediction):
    response = prediction.Predict(a_request(output_filter=["score"]), timeout=30)
    assert set(response.outputs) == {"score"}


def test_no_rows_are_answered_with_no_rows(prediction):
    response = prediction.Predict(a_request(text=a_tensor(tf.string, [0])), timeout=30)
    assert tf.make_ndarray(response.outputs["text"]).shape == (0, 2)
    assert tf.make_ndarray(response.outputs["score"]).shape == (0, 2)


def test_values_left_out_at_the_end_repeat_the_last(prediction):
    response = prediction.Predict(
        a_request(text=a_tensor(tf.string, [3], string_val=[b"a", b"b"])), timeout=30
    )
    assert tf.make_ndarray(response.outputs["text"])[:, 0].tolist() == [b"A", b"B", b"B"]


@pytest.mark.parametrize(
    ("request_", "code", "details"),
    [
        (without_spec(), CODE.INVALID_ARGUMENT, "Missing ModelSpec"),
        (a_request(model=""), CODE.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (a_request(model="foo"), CODE.NOT_FOUND, "Servable not found for request: Latest(foo)"),
        (a_request(version=9), CODE.NOT_FOUND, f"Servable not found for request: Specific({MODEL}, 9)"),
        (with_label(), CODE.INVALID_ARGUMENT, "Unrecognized servable version label: stable"),
        (a_request(signature="x"), CODE.FAILED_PRECONDITION, 'Serving signature key "x" not found.'),
        (
            a_request(signature="score", source=["a"]),
            CODE.INVALID_ARGUMENT,
            "input size does not match signature: 1!=2 len({source}) != len({source,target}). "
            "Sent extra: {}. Missing but required: {target}.",
        ),
        (
            a_request(text=["a"], beam=["b"]),
            CODE.INVALID_ARGUMENT,
            "input size does not match signature: 2!=1 len({beam,text}) != len({text}). Sent extra: {beam}. "
            "Missing but required: {}.",
        ),
        (a_request(txt=["a"]), CODE.INVALID_ARGUMENT, "alias not found in signature: txt"),
        (
            a_request(text=[1.0]),
            CODE.INVALID_ARGUMENT,
            "Expects input text to be string but float32 is provided",
        ),
        (
            a_request(text="a"),
            CODE.INVALID_ARGUMENT,
            "Cannot feed value of shape [] for input text, which has shape [?]",
        ),
        (a_request(text=[["a", "b"]]), CODE.INVALID_ARGUMENT, "Cannot feed value of shape [1,2]"),
        (a_request(text=a_tensor(tf.string, [2])), CODE.INVALID_ARGUMENT, "tensor parsing error: text"),
        (
            a_request(text=a_tensor(tf.string, [-1], string_val=[b"a"])),
            CODE.INVALID_ARGUMENT,
            "tensor parsing error",
        ),
        (
            a_request(text=a_tensor(tf.string, [1], string_val=[b"a", b"b"])),
            CODE.INVALID_ARGUMENT,
            "tensor parsing error",
        ),
        (
            a_request(text=a_tensor(tf.string, [2**40], string_val=[b"a"])),
            CODE.INVALID_ARGUMENT,
            f"holds at most 1024 rows; send it in parts. Received: {2**40} rows.",
        ),
        (
            a_request(output_filter=["x"]),
            CODE.INVALID_ARGUMENT,
            "output tensor alias not found in signature: x",
        ),
        (a_request(output_filter=["text"] * 2), CODE.INVALID_ARGUMENT, "duplicate output tensor alias: text"),
        (
            a_request(signature="score", source=["a"] * 2, target=["b"] * 3),
            CODE.INVALID_ARGUMENT,
            "ncompatible shapes",
        ),
    ],
)
def test_a_bad_request_gets_its_code_and_the_next_one_its_answer(prediction, request_, code, details):
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(request_, timeout=30)
    assert (caught.value.code(), details) == (code, details) and details in caught.value.details()
    assert "\n" not in caught.value.details()
    assert "execution error" not in caught.value.details()
    response = prediction.Predict(a_request(), timeout=30)
    assert response.outputs["text"].string_val[0] == b"un"


def test_metadata_holds_the_signatures_of_the_saved_model(prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = MODEL
    response = prediction.GetModelMetadata(request, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["score"].method_name == "tensorflow/serving/predict"
    assert set(signatures.signature_def["score"].inputs) == {"source", "target"}
    assert (response.model_spec.name, response.model_spec.version.value) == (MODEL, 1)


@pytest.mark.parametrize(
    ("fields", "details"),
    [([], "must specify at least one metadata_field"), (["x"], "Metadata field x is not supported")],
)
def test_wrong_metadata_requests_are_refused(prediction, fields, details):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = MODEL
    with pytest.raises(grpc.RpcError) as caught:
        prediction.GetModelMetadata(request, timeout=30)
    assert caught.value.code() == CODE.INVALID_ARGUMENT and details in caught.value.details()


@pytest.mark.parametrize(
    ("model", "version", "details"),
    [
        ("foo", None, "Could not find any versions of model foo"),
        (MODEL, 9, f"Could not find version 9 of model {MODEL}"),
    ],
)
def test_the_status_of_what_is_not_there_is_not_found(models, model, version, details):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = model
    if version:
        request.model_spec.version.value = version
    with pytest.raises(grpc.RpcError) as caught:
        models.GetModelStatus(request, timeout=30)
    assert (caught.value.code(), caught.value.details()) == (CODE.NOT_FOUND, details)


@pytest.mark.parametrize(
    ("method", "message", "name", "kind"),
    [
        ("Classify", classification_pb2.ClassificationRequest, "classify", "classification"),
        ("Regress", regression_pb2.RegressionRequest, "regress", "regression"),
    ],
)
def test_classify_and_regress_are_refused_as_the_signature_is_not_for_them(prediction, method, message, name, kind):
    request = message()
    with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
        getattr(prediction, method)(request, timeout=30)
    request.model_spec.name = MODEL
    with pytest.raises(grpc.RpcError) as caught:
        getattr(prediction, method)(request, timeout=30)
    assert (caught.value.code(), caught.value.details()) == (
        CODE.INVALID_ARGUMENT,
        f"Expected {kind} signature method_name to be tensorflow/serving/{name}. Was: tensorflow/serving/predict",
    )
    request.model_spec.signature_name = "x"
    with pytest.raises(grpc.RpcError, match="No signature was found with the name: x"):
        getattr(prediction, method)(request, timeout=30)


def test_inference_of_several_kinds_is_unimplemented(prediction):
    with pytest.raises(grpc.RpcError) as caught:
        prediction.MultiInference(inference_pb2.MultiInferenceRequest(), timeout=30)
    assert caught.value.code() == CODE.UNIMPLEMENTED


def test_callers_at_once_each_get_their_own_answer(client):
    texts = [f"caller {number}" for number in range(64)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: client.greedy([text])[0].text, texts))
    assert answers == [text.upper() for text in texts]


@pytest.fixture(scope="module")
def several(exported, tmp_path_factory):
    """Version 1 whole, version 2 whole, version 3 with a broken graph; a half-written one beside."""
    folder = tmp_path_factory.mktemp("several")
    for version in ("1", "2", "3"):
        shutil.copytree(exported / "1", folder / version)
    (folder / "3" / "saved_model.pb").write_bytes(b"broken")
    (folder / ".export-half").mkdir()
    return folder


def test_versions_are_told_apart(several):
    with EmbeddedServer(several, versions="all") as server, Client(server.address, timeout=30) as client:
        status = client.status()
        assert status[1:] == [VersionStatus(2, "AVAILABLE", 0, ""), VersionStatus(1, "AVAILABLE", 0, "")]
        assert (
            status[0][:3] == (3, "END", 2)
            and "not a SavedModel that can be loaded" in status[0].error_message
        )
        stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server.address))
        assert stub.Predict(a_request(), timeout=30).model_spec.version.value == 2
        assert stub.Predict(a_request(version=1), timeout=30).model_spec.version.value == 1
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            stub.Predict(a_request(version=3), timeout=30)


def test_the_highest_version_is_served_alone_by_default(several):
    with pytest.raises(ServerError, match="not a SavedModel that can be loaded"):
        EmbeddedServer(several).start()


def test_a_model_that_fails_its_warm_up_is_not_served(exported, tmp_path):
    shutil.copytree(exported / "1", tmp_path / "1")
    record = servables.prediction_log_pb2.PredictionLog()
    record.predict_log.request.CopyFrom(a_request(text=[1.0]))
    with tf.io.TFRecordWriter(str(tmp_path / "1" / servables.WARM_UP)) as writer:
        writer.write(record.SerializeToString())
    with pytest.raises(ServerError, match="fails on a warm-up request: Expects input text to be string"):
        EmbeddedServer(tmp_path).start()


def test_without_warm_up_requests_each_signature_answers_one_row(exported, tmp_path, monkeypatch):
    shutil.copytree(exported / "1", tmp_path / "1", ignore=shutil.ignore_patterns("assets.extra"))
    asked = {}
    predict = servables.Servable.predict
    monkeypatch.setattr(
        servables.Servable,
        "predict",
        lambda self, request: (
            asked.update({request.model_spec.signature_name: request.inputs}) or predict(self, request)
        ),
    )
    servables.load(1, tmp_path / "1")
    assert sorted(asked) == ["alternatives", "beam", "greedy", "sample", "score", "serving_default", "tokenize"]
    options = {name: tf.make_ndarray(each).tolist() for name, each in asked["beam"].items()}
    assert np.isnan(options.pop("length_penalty")).tolist() == [True]  # all is as exported
    assert options == {"text": [b""], "min_length": [-1], "max_length": [-1], "prefix": [b""], "phrases": [b""]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", "No such file or directory"),
        (lambda folder: folder, "Received: no version folder"),
        (lambda folder: (folder / "1").mkdir() or folder, "versions without a SavedModel: 1"),
        (lambda folder: (folder / "saved_model.pb").touch() or folder, "pass the folder above it"),
        (lambda folder: (folder / "file").touch() or folder / "file", "Not a directory"),
    ],
)
def test_a_folder_without_models_is_refused(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        EmbeddedServer(make(tmp_path))


def test_a_port_in_use_is_one_clear_line(server, exported):
    message = f"cannot listen on 127.0.0.1:{server.port}: address already in use"
    with pytest.raises(ServerError, match=message) as caught:
        EmbeddedServer(exported, port=server.port).start()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 70000}, "port from 0 to 65535"),
        ({"workers": 0}, "workers >= 1"),
        ({"model_name": ""}, "a model_name"),
        ({"versions": [5]}, r"some of \[1\]. Received: \[5\]"),
    ],
)
def test_wrong_settings_are_refused(exported, settings, message):
    with pytest.raises(ValueError, match=message):
        EmbeddedServer(exported, **settings)


def test_stop_waits_for_the_answer_under_way_and_frees_the_port(exported, monkeypatch):
    server = EmbeddedServer(exported)
    server.start()
    entered, predict = threading.Event(), servables.Servable.predict

    def slow(self, request):
        entered.set()
        time.sleep(0.5)
        return predict(self, request)

    monkeypatch.setattr(servables.Servable, "predict", slow)
    with Client(server.address, timeout=30) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.greedy, ["late"])
        assert entered.wait(10)
        server.stop()
        assert answer.result(10)[0].text == "LATE"
    again = EmbeddedServer(exported, port=server.port)
    again.start()
    again.stop()


@pytest.fixture
def binary(tmp_path, monkeypatch):
    """Its path, and the arguments that it was started with."""
    path, started = tmp_path / "tensorflow_model_server", []
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "execv", lambda *arguments: started.append(arguments) or sys.exit(0))
    return path, started


BINARY = {"host": "0.0.0.0", "backend": "tensorflow_model_server"}


def test_the_binary_is_started_in_this_process_with_the_folder(exported, binary):
    with pytest.raises(SystemExit):
        serve(exported, port=9000, op_threads=1, **BINARY)
    path, arguments = binary[1][0]
    assert path == str(binary[0])
    assert {
        "--port=9000", f"--model_base_path={exported}", f"--model_name={MODEL}", "--tensorflow_intra_op_parallelism=1",
        "--xla_cpu_compilation_enabled=true"} <= set(arguments)


@pytest.mark.parametrize(
    ("settings", "received"),
    [
        ({"security": Security(certificate="a.pem", key="a.key", client_ca="b.pem")}, "certificate, key, client_ca."),
        ({"security": Security(token="a secret")}, "token (of a file or of TFSEQ2SEQ_TOKEN)."),
        ({"batching": Batching(max_batch_size=8)}, "batching."),
        ({"limits": Limits(max_rows=5, grace=1.0)}, "max_rows, grace."),
        ({"workers": 3, "poll_seconds": 0.0, "log_format": "json"}, "workers, poll_seconds, log_format."),
        ({"rest_port": 0}, "rest_port=0."),
        ({"models": [ServedModel(name="a", folder="b")]}, "models."),
    ],
)
def test_the_binary_is_not_started_without_a_setting_that_was_given(exported, binary, settings, received):
    with pytest.raises(ValueError, match="gets the folder, the ports, .* serving-config") as caught:
        serve(exported, port=9000, **BINARY, **settings)
    assert str(caught.value).endswith(f"Received: {received}") and "secret" not in str(caught.value)
    assert not binary[1]
    with pytest.raises(SystemExit):
        serve(exported, port=9000, rest_port=9001, batching=None, **BINARY)


def test_threads_of_an_operation_are_set_before_a_model_is_loaded(exported, monkeypatch):
    told = []
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", told.append)
    monkeypatch.setattr(EmbeddedServer, "start", lambda server: sys.exit(len(told)))
    with pytest.raises(SystemExit, match="1"):
        serve(exported, op_threads=3)
    assert told == [3]
    monkeypatch.undo()
    tf.constant(1.0)  # TensorFlow runs
    with pytest.raises(ServerError, match="before TensorFlow computes.*Received: op_threads=3"):
        serve(exported, op_threads=3)
    with pytest.raises(ValueError, match="op_threads >= 1. Received: op_threads=0"):
        serve(exported, op_threads=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "tensorflow_model_server is not on PATH"),
        ({"host": "127.0.0.1"}, "listens on every address"),
        ({"host": "0.0.0.0", "port": 0}, "port from 1"),
    ],
)
def test_the_binary_needs_to_be_there_and_to_be_agreed_with(exported, monkeypatch, settings, message):
    monkeypatch.setenv("PATH", "")
    with pytest.raises((ServerError, ValueError), match=message):
        serve(exported, backend="tensorflow_model_server", **settings)


def test_an_unknown_backend_is_refused(exported):
    with pytest.raises(ValueError, match="backend 'embedded' or .*Received: backend='x'"):
        serve(exported, backend="x")
