"""The JSON of TensorFlow Serving's REST API; expected values are those of its `json_tensor.cc`."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving import json_tensors
from serving.errors import RequestError
from serving.servables import _fill

TYPES = {
    "text": tf.string, "size": tf.int32, "seed": tf.int64, "weight": tf.float32, "exact": tf.float64, "is": tf.bool}


def infos(*names):
    return {name: meta_graph_pb2.TensorInfo(dtype=TYPES[name].as_datatype_enum) for name in names}


def read(document, *names):
    request = {name: tf.make_tensor_proto(0) for name in names}
    for proto in request.values():
        proto.Clear()
    kind = json_tensors.fill_inputs(json_tensors.parse(json.dumps(document).encode()), infos(*names), request)
    return kind, {name: tf.make_ndarray(proto).tolist() for name, proto in request.items()}


def write(kind, **arrays):
    protos = {name: tf.make_tensor_proto(0) for name in arrays}
    for name, array in arrays.items():
        protos[name].Clear()
        array = np.asarray(array)
        dtype = tf.string if array.dtype.kind in "SO" else tf.as_dtype(array.dtype)
        if dtype == tf.string:
            array = np.vectorize(lambda each: each.encode() if isinstance(each, str) else each, otypes="O")(array)
        _fill(protos[name], array, dtype)
    return json_tensors.write_outputs(protos, kind).decode()


def test_rows_of_one_input_are_plain_values_and_may_be_named():
    expected = ("instances", {"text": [b"a", "ä".encode()]})
    assert read({"instances": ["a", "ä"]}, "text") == expected
    assert read({"instances": [{"text": "a"}, {"text": "ä"}]}, "text") == expected


def test_rows_of_several_inputs_are_objects():
    rows = [{"text": "a", "seed": 2**40, "is": True}, {"text": {"b64": "/w=="}, "seed": -1, "is": False}]
    assert read({"instances": rows}, "text", "seed", "is") == (
        "instances", {"text": [b"a", b"\xff"], "seed": [2**40, -1], "is": [True, False]})


def test_columns_of_one_input_may_be_plain_and_of_several_are_named():
    assert read({"inputs": ["a", "b"]}, "text") == ("inputs", {"text": [b"a", b"b"]})
    assert read({"inputs": {"b64": "YQ"}}, "text") == ("inputs", {"text": b"a"})  # a scalar; padding may be left out
    assert read({"inputs": {"text": [["a"], ["b"]], "size": [1, 2], "more": 3}}, "text", "size") == (
        "inputs", {"text": [[b"a"], [b"b"]], "size": [1, 2]})
    assert read({"inputs": {"text": []}}, "text") == ("inputs", {"text": []})


def test_numbers_that_json_has_not_are_read_and_written():
    body = b'{"inputs": [NaN, Infinity, -Infinity, 1, 0.5]}'
    request = {"weight": tf.make_tensor_proto(0)}
    request["weight"].Clear()
    json_tensors.fill_inputs(json_tensors.parse(body), infos("weight"), request)
    np.testing.assert_array_equal(tf.make_ndarray(request["weight"]), [np.nan, np.inf, -np.inf, 1.0, 0.5])
    written = write("inputs", score=np.array([np.nan, np.inf, -np.inf], np.float32))
    assert written == '{"outputs": [NaN, Infinity, -Infinity]}'


@pytest.mark.parametrize(
    ("value", "text"),
    [  # by absl::StrCat (%.6g), or %.9g where that is another number; ".0" where it would look whole
        (0.2, "0.2"), (1.0, "1.0"), (-0.0, "-0.0"), (9e6, "9e+06"), (3e-5, "3e-05"), (1234567.0, "1234567.0"),
        (0.1 + 2**-27, "0.100000009"), (123456.789, "123456.789"), (16777216.0, "16777216.0"),
        (3.4028235e38, "3.40282347e+38"), (1e-45, "1.4013e-45"),
    ],
)
def test_single_numbers_are_written_without_noise(value, text):
    written = write("inputs", score=np.array([value], np.float32))
    assert written == f'{{"outputs": [{text}]}}'
    assert np.float32(json.loads(written)["outputs"][0]) == np.float32(value)


def test_double_numbers_are_written_to_the_last_bit():
    assert write("inputs", score=[0.1 + 2**-56]) == '{"outputs": [0.10000000000000002]}'


def test_answers_in_rows_are_objects_where_there_are_several_outputs():
    assert write("instances", text=np.array([["a", "é"]], object)) == '{"predictions": [["a", "é"]]}'
    written = write(
        "instances", text=np.array([["a"], ["b\n\""]], object), length=np.array([[[1, 2]], [[3, 4]]], np.int32))
    rows = ['{"length": [[1, 2]], "text": ["a"]}', '{"length": [[3, 4]], "text": ["b\\n\\""]}']
    assert written == f'{{"predictions": [{", ".join(rows)}]}}'


def test_answers_in_columns():
    assert write("inputs", text=np.array([[], []], object)) == '{"outputs": [[], []]}'
    written = write("inputs", a=np.array([True, False]), b=np.array([2**40]))
    assert written == '{"outputs": {"a": [true, false], "b": [1099511627776]}}'


def test_outputs_named_bytes_are_in_base64_and_others_that_are_no_utf8_stay_json():
    written = json.loads(write("inputs", raw_bytes=np.array([b"\xff"], object), text=np.array([b"a\xff"], object)))
    assert written == {"outputs": {"raw_bytes": [{"b64": "/w=="}], "text": ["a\ufffd"]}}


def test_rows_need_as_many_of_each_output():
    with pytest.raises(RequestError, match="Tensor name: b has inconsistent batch size: 1 expecting: 2"):
        write("instances", a=np.array([1, 2]), b=np.array([1]))
    with pytest.raises(RequestError, match="Tensor name: a has no shape information"):
        write("instances", a=np.array(1))
    with pytest.raises(RequestError, match="Failed to write JSON value for tensor type: float16"):
        write("inputs", a=np.array([1], np.float16))


@pytest.mark.parametrize(
    ("document", "names", "message"),
    [
        ({}, ["text"], "Missing 'inputs' or 'instances' key"),
        ({"inputs": 1, "instances": 1}, ["text"], "expecting only one of 'inputs' or 'instances' keys to exist"),
        ({"instances": "a"}, ["text"], "Excepting 'instances' to be an list/array"),
        ({"instances": []}, ["text"], "No values in 'instances' array"),
        ({"instances": ["a"]}, ["text", "size"], "instances is a plain list, but expecting list of objects"),
        ({"instances": [{"text": "a"}, "b"]}, ["text"], "Expecting object but got list at item 1 of input list"),
        ({"instances": ["a", {"text": "b"}]}, ["text"], "Expecting value/list but got object at item 1"),
        (
            {"instances": [{"text": "a", "other": 1}]},
            ["text"],
            "Failed to process element: 0 key: other of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does "
            "not have named input: other",
        ),
        ({"instances": [{"text": "a"}]}, ["text", "size"], "keys must be equal to: size,text"),
        ({"instances": ["a", ["b"]]}, ["text"], r"Expecting shape \[\] but got: \[1\]"),
        ({"instances": [[["a"], "b"]]}, ["text"], "found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ({"instances": [["a", ["b"]]]}, ["text"], "Encountered list at unexpected level: 1 expected < 1"),
        ({"inputs": [["a"], ["b", "c"]]}, ["text"], "unexpected size: 2 at level: 1 expected size: 1"),
        ({"inputs": {"text": ["a"]}}, ["text", "size"], "Missing named input: size in 'inputs' object."),
        ({"inputs": ["a"]}, ["text", "size"], "inputs is a plain value/list, but expecting an object"),
        ({"inputs": [1]}, ["text"], "JSON Value: 1 Type: Number is not of expected type: string"),
        ({"inputs": [None]}, ["text"], "JSON Value: null Type: Null is not of expected type: string"),
        ({"inputs": ["a"]}, ["size"], 'JSON Value: "a" Type: String is not of expected type: int32'),
        ({"inputs": [True]}, ["size"], "Type: True is not of expected type: int32"),
        ({"inputs": [1.0]}, ["seed"], "Type: Number is not of expected type: int64"),
        ({"inputs": [2**31]}, ["size"], "Type: Number is not of expected type: int32"),
        ({"inputs": [1]}, ["is"], "is not of expected type: bool"),
        ({"inputs": [{"a": 1}]}, ["weight"], "Type: Object is not of expected type: float"),
        ({"inputs": [2**24]}, ["weight"], "Cannot convert JSON value: 16777216 to float without loss of precision"),
        ({"inputs": [1e39]}, ["weight"], r"Cannot convert JSON value: 1e\+39 to float without loss of precision"),
        ({"inputs": [2**53]}, ["exact"], "to double without loss of precision"),
        ({"inputs": [{"b64": 1}]}, ["text"], "not formatted correctly for base64 data"),
        ({"inputs": [{"b64": "a", "c": 1}]}, ["text"], "not formatted correctly for base64 data"),
        ({"inputs": [{"b64": "*"}]}, ["text"], "Unable to base64 decode"),
        ({"inputs": ["\ud800"]}, ["text"], "The surrogate pair in string is invalid"),
    ],
)
def test_what_does_not_fit_is_refused(document, names, message):
    with pytest.raises(RequestError, match=message) as caught:
        read(document, *names)
    assert caught.value.code == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"{", "JSON Parse error: .* at offset: 1"),
        (b"[1]", r"JSON Value: \[1\] Is not object"),
        (b'"\xff"', "JSON Parse error: Invalid UTF-8; send such strings in base64. at offset: 1"),
        (b"[" * 100_000, "JSON Parse error"),
        (b"1" * 5000, "JSON Parse error"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body, message):
    with pytest.raises(RequestError, match=message):
        json_tensors.parse(body)


def test_a_deep_list_is_refused():
    deep = json_tensors.parse(b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}")
    request = {"text": tf.make_tensor_proto(0)}
    try:
        json_tensors.fill_inputs(deep, infos("text"), request)
    except RequestError as error:
        assert "nested too deeply" in error.message


def test_the_name_of_a_signature_is_a_string():
    assert json_tensors.read_signature({}) == ""
    assert json_tensors.read_signature({"signature_name": "beam"}) == "beam"
    with pytest.raises(RequestError, match="'signature_name' key must be a string value"):
        json_tensors.read_signature({"signature_name": 1})
