"""The messages without TensorFlow have the bytes of tensorflow_serving.apis."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from serving import protocol


def official_request():
    request = predict_pb2.PredictRequest(output_filter=["text", "score"])
    request.model_spec.name, request.model_spec.signature_name = "fake", "greedy"
    request.model_spec.version.value = 2**40
    for name, values in {"text": [b"a\0", "é".encode()], "number": np.float32([[1.5, -2], [3, 4]])}.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return request


def official_metadata():
    signatures = get_model_metadata_pb2.SignatureDefMap()
    definition = signatures.signature_def["greedy"]
    definition.method_name = "tensorflow/serving/predict"
    definition.inputs["text"].name = "text:0"
    definition.inputs["text"].dtype = types_pb2.DT_STRING
    definition.inputs["text"].tensor_shape.dim.add(size=-1)
    definition.outputs["any"].tensor_shape.unknown_rank = True
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = "fake"
    response.metadata["signature_def"].Pack(signatures)
    return response


def official_response():
    response = predict_pb2.PredictResponse()
    response.model_spec.version_label = "stable"
    for values in (np.float32([1.5]), np.int64([3]), np.array([True]), np.float64([0.25]), np.int32([-1])):
        response.outputs[str(values.dtype)].CopyFrom(tf.make_tensor_proto(values))
    return response


def official_status():
    response = get_model_status_pb2.GetModelStatusResponse()
    status = response.model_version_status.add(version=7, state=get_model_status_pb2.ModelVersionStatus.END)
    status.status.error_code, status.status.error_message = 3, "broken"
    return response


@pytest.mark.parametrize(
    ("ours", "official"),
    [
        (protocol.PredictRequest, official_request()),
        (protocol.PredictResponse, official_response()),
        (protocol.GetModelMetadataResponse, official_metadata()),
        (protocol.GetModelStatusResponse, official_status()),
    ],
    ids=lambda value: getattr(getattr(value, "DESCRIPTOR", None), "name", ""),
)
def test_messages_have_the_same_bytes_as_the_official_ones_both_ways(ours, official):
    read = ours.FromString(official.SerializeToString())
    assert plain(read) == plain(official)
    assert plain(type(official).FromString(ours(**arguments(read)).SerializeToString())) == plain(official)


def plain(value):
    """Names and values of all fields that are set; what a class does not know is not among them."""
    if hasattr(value, "ListFields"):
        return {field.name: plain(each) for field, each in value.ListFields()}
    if hasattr(value, "items"):
        return {key: plain(each) for key, each in value.items()}
    return (
        value
        if isinstance(value, str | bytes) or not hasattr(value, "__len__")
        else [plain(each) for each in value]
    )


def arguments(message):
    """What builds the message anew, so that nothing is handed through as an unknown field."""
    return {field.name: value for field, value in message.ListFields()}


def test_our_request_is_read_by_the_official_classes():
    request = protocol.PredictRequest(model_spec=protocol.ModelSpec(name="fake", signature_name="score"))
    request.model_spec.version.value = 3
    request.inputs["source"].CopyFrom(protocol.strings_to_tensor([b"a", b"", b"c\0"]))
    read = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    assert (read.model_spec.name, read.model_spec.signature_name, read.model_spec.version.value) == (
        "fake",
        "score",
        3,
    )
    assert tf.make_ndarray(read.inputs["source"]).tolist() == [b"a", b"", b"c\0"]


def test_our_signature_map_unpacks_from_the_official_any():
    read = protocol.GetModelMetadataResponse.FromString(official_metadata().SerializeToString())
    signatures = protocol.SignatureDefMap()
    assert read.metadata["signature_def"].Unpack(signatures)
    official = get_model_metadata_pb2.SignatureDefMap()
    official_metadata().metadata["signature_def"].Unpack(official)
    assert plain(signatures) == plain(official)
    assert signatures.signature_def["greedy"].inputs["text"].dtype == 7
    assert [each.size for each in signatures.signature_def["greedy"].inputs["text"].tensor_shape.dim] == [-1]


@pytest.mark.parametrize(
    "values",
    [
        np.float32([[1.5, -2.0]]),
        np.float64([]),
        np.int32([7]),
        np.int64([[1], [2]]),
        np.array([True, False]),
        np.array([[b"a\0", b""]], object),
    ],
    ids=lambda values: str(values.dtype),
)
def test_arrays_come_out_of_tensor_protos_as_tensorflow_put_them_in(values):
    proto = tf.make_tensor_proto(values, tf.string if values.dtype == object else None)
    read = protocol.tensor_to_array(protocol.TensorProto.FromString(proto.SerializeToString()))
    assert read.shape == values.shape
    assert read.tolist() == values.tolist()


def test_values_left_out_at_the_end_equal_the_last_one():
    tensor = protocol.TensorProto(dtype=1, float_val=[1.0, 2.0])
    tensor.tensor_shape.dim.add(size=4)
    assert protocol.tensor_to_array(tensor).tolist() == [1.0, 2.0, 2.0, 2.0]


def test_a_tensor_of_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="must be of type string or float32.*Received: float16"):
        protocol.tensor_to_array(protocol.TensorProto(dtype=types_pb2.DT_HALF))


def test_the_client_needs_no_tensorflow_and_lives_beside_it():
    code = (
        "import sys\nimport serving.client\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'tensorflow', 'tensorflow_serving', 'keras'}, loaded\n"
        "from tensorflow_serving.apis import predict_pb2\n"
        "from serving import protocol\n"
        "assert predict_pb2.PredictRequest is not protocol.PredictRequest\n"
        "predict_pb2.PredictRequest.FromString(protocol.PredictRequest(output_filter=['x']).SerializeToString())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
