"""The parsers of requests, led by coverage to the bytes that break them: python -m tests.serving.fuzz_requests

    python -m tests.serving.fuzz_requests -runs=200000 [-max_len=300] [FOLDER of examples]

The arguments are libFuzzer's; `pip install atheris` before. The first byte says what the rest is: a PredictRequest,
choices of what stands in one, or the JSON of the REST API. It must be answered or refused with a `RequestError`;
anything else that is raised ends the run with the bytes at fault.
"""

import sys
import tempfile
from pathlib import Path

import atheris
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

with atheris.instrument_imports(include=["serving"]):
    from serving import json_tensors
    from serving.errors import RequestError
    from serving.servables import Servable

MODEL, SIGNATURE = "small", "serving_default"
INPUTS = {
    "text": (tf.string, [None]), "times": (tf.int64, [None]), "scales": (tf.float32, [None, 2]),
    "flags": (tf.bool, [None]), "bytes": (tf.uint8, [None]), "one": (tf.int32, [])}


def make_servable(inputs):
    """Answers with its inputs."""
    definition = meta_graph_pb2.SignatureDef()
    for infos in (definition.inputs, definition.outputs):
        for name in inputs:
            dtype, shape = INPUTS[name]
            infos[name].dtype = dtype.as_datatype_enum
            infos[name].tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return Servable(1, {SIGNATURE: definition}, {SIGNATURE: lambda **tensors: tensors}, None)


SERVABLES = [make_servable(["text"]), make_servable(list(INPUTS))]


def answer(data):
    """One request of either kind to both models."""
    for servable in SERVABLES:
        try:
            if data[:1] == b"{":
                _rest(servable, data)
            elif data[:1] == b"\1":
                servable.predict(_chosen(atheris.FuzzedDataProvider(data[1:])))
            else:
                servable.predict(predict_pb2.PredictRequest.FromString(data[1:]))
        except (RequestError, DecodeError):
            pass


def _chosen(choices):
    """A PredictRequest whose parts fit each other more or less."""
    request = predict_pb2.PredictRequest()
    for _ in range(choices.ConsumeIntInRange(0, 6)):
        tensor = request.inputs[choices.PickValueInList([*INPUTS, "x"])]
        tensor.dtype = choices.PickValueInList([1, 3, 4, 7, 9, 10, 20, choices.ConsumeIntInRange(0, 130)])
        for _ in range(choices.ConsumeIntInRange(0, 3)):
            tensor.tensor_shape.dim.add(size=choices.PickValueInList([0, 1, 2, choices.ConsumeInt(8)]))
        tensor.tensor_shape.unknown_rank = choices.ConsumeProbability() < 0.1
        tensor.string_val.extend(choices.ConsumeBytes(3) for _ in range(choices.ConsumeIntInRange(0, 3)))
        for values in (tensor.int_val, tensor.int64_val):
            values.extend(choices.ConsumeIntListInRange(choices.ConsumeIntInRange(0, 2), -(2**31), 2**31 - 1))
        tensor.float_val.extend(choices.ConsumeFloatList(choices.ConsumeIntInRange(0, 4)))
        tensor.bool_val.extend([choices.ConsumeBool()] * choices.ConsumeIntInRange(0, 2))
        tensor.tensor_content = choices.ConsumeBytes(choices.ConsumeIntInRange(0, 16))
    for _ in range(choices.ConsumeIntInRange(0, 2)):
        request.output_filter.append(choices.PickValueInList([*INPUTS, "x"]))
    request.model_spec.signature_name = choices.PickValueInList(["", SIGNATURE, "x"])
    return request


def _rest(servable, body):
    request = predict_pb2.PredictRequest()
    document = json_tensors.parse(body)
    request.model_spec.signature_name = json_tensors.read_signature(document)
    kind = json_tensors.fill_inputs(document, servable.signature_defs[SIGNATURE].inputs, request.inputs)
    outputs = servable.predict(request).outputs
    json_tensors.write_outputs(outputs, kind)


def examples():
    """Good requests of both kinds, to begin with."""
    values = {
        "text": ["a", "é"], "times": [1, -2], "scales": [[1.5, float("nan")], [0, 1e30]], "flags": [True, False],
        "bytes": [0, 255], "one": 3}
    for names in (["text"], list(INPUTS)):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODEL
        for name in names:
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values[name], INPUTS[name][0]))
        request.output_filter.append("text")
        yield b"\0" + request.SerializeToString()
    yield b"\1" + bytes(range(60))
    yield b'{"instances": ["a", {"b64": "YQ=="}]}'
    yield b'{"signature_name": "serving_default", "inputs": {"text": ["a"], "times": [9223372036854775807]}}'
    yield (
        b'{"inputs": {"text": ["a"], "times": [1], "scales": [[1.5, NaN]], "flags": [true], "bytes": [1], "one": 3}}')
    yield b'{"instances": [{"text": "a", "times": 1, "scales": [1e3, 2], "flags": false, "bytes": 1, "one": 3}]}'


def main():
    """Runs until the runs are done or something breaks."""
    with tempfile.TemporaryDirectory() as folder:
        for number, example in enumerate(examples()):
            (Path(folder) / str(number)).write_bytes(example)
        atheris.Setup([*sys.argv, folder], answer)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
