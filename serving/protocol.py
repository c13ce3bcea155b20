"""The messages of TensorFlow Serving, as a client needs them, without TensorFlow.

`tensorflow_serving.apis` imports all of TensorFlow. These classes have the same bytes on the wire and lie
in a descriptor pool of their own, so that both can be loaded in one process. Fields that are left out here
survive as unknown fields.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
SIGNATURE_DEF = "signature_def"  # the one field of metadata there is

# DataType of tensorflow/core/framework/types.proto.
DATA_TYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 9: "int64",
    10: "bool", 14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64"}
STRING = 7

# ModelVersionStatus.State of get_model_status.proto.
STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}

# Message -> "type name = number" of its fields. Enums travel as int32. A type with a dot is a message.
_MESSAGES = {
    "tensorflow.TensorShapeProto": {
        "repeated tensorflow.TensorShapeProto.Dim dim": 2, "bool unknown_rank": 3},
    "tensorflow.TensorShapeProto.Dim": {"int64 size": 1, "string name": 2},
    "tensorflow.TensorProto": {
        "int32 dtype": 1, "tensorflow.TensorShapeProto tensor_shape": 2, "bytes tensor_content": 4,
        "repeated float float_val": 5, "repeated double double_val": 6, "repeated int32 int_val": 7,
        "repeated bytes string_val": 8, "repeated int64 int64_val": 10, "repeated bool bool_val": 11},
    "tensorflow.TensorInfo": {
        "string name": 1, "int32 dtype": 2, "tensorflow.TensorShapeProto tensor_shape": 3},
    "tensorflow.SignatureDef": {
        "map tensorflow.TensorInfo inputs": 1, "map tensorflow.TensorInfo outputs": 2,
        "string method_name": 3},
    "tensorflow.serving.ModelSpec": {
        "string name": 1, "oneof google.protobuf.Int64Value version": 2, "string signature_name": 3,
        "oneof string version_label": 4},
    "tensorflow.serving.PredictRequest": {
        "tensorflow.serving.ModelSpec model_spec": 1, "map tensorflow.TensorProto inputs": 2,
        "repeated string output_filter": 3},
    "tensorflow.serving.PredictResponse": {
        "map tensorflow.TensorProto outputs": 1, "tensorflow.serving.ModelSpec model_spec": 2},
    "tensorflow.serving.GetModelMetadataRequest": {
        "tensorflow.serving.ModelSpec model_spec": 1, "repeated string metadata_field": 2},
    "tensorflow.serving.GetModelMetadataResponse": {
        "tensorflow.serving.ModelSpec model_spec": 1, "map google.protobuf.Any metadata": 2},
    "tensorflow.serving.SignatureDefMap": {"map tensorflow.SignatureDef signature_def": 1},
    "tensorflow.serving.GetModelStatusRequest": {"tensorflow.serving.ModelSpec model_spec": 1},
    "tensorflow.serving.GetModelStatusResponse": {
        "repeated tensorflow.serving.ModelVersionStatus model_version_status": 1},
    "tensorflow.serving.ModelVersionStatus": {
        "int64 version": 1, "int32 state": 2, "tensorflow.serving.StatusProto status": 3},
    "tensorflow.serving.StatusProto": {"int32 error_code": 1, "string error_message": 2},
}
_FILES = {"tensorflow": "tfseq2seq/tensorflow.proto", "tensorflow.serving": "tfseq2seq/serving.proto"}
_NAMED_TYPES = {
    "double": 1, "float": 2, "int64": 3, "int32": 5, "bool": 8, "string": 9, "bytes": 12}
_MESSAGE_TYPE = 11
_OPTIONAL, _REPEATED = 1, 3


def _build_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    for package, name in _FILES.items():
        file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
        file.dependency.extend([any_pb2.DESCRIPTOR.name, wrappers_pb2.DESCRIPTOR.name])
        if package != "tensorflow":
            file.dependency.append(_FILES["tensorflow"])
        messages: dict[str, Any] = {}
        for full_name, fields in _MESSAGES.items():
            outer, _, last = full_name.rpartition(".")
            if outer == package:
                messages[full_name] = file.message_type.add(name=last)
            elif outer in messages:  # nested; its outer message stands before it
                messages[full_name] = messages[outer].nested_type.add(name=last)
            else:
                continue
            for field, number in fields.items():
                _add_field(messages[full_name], full_name, field, number)
        pool.Add(file)
    return pool


def _add_field(message: Any, full_name: str, field: str, number: int) -> None:
    *words, type_name, name = field.split()
    kind = words[0] if words else ""
    if kind == "map":  # on the wire: repeated messages of a key and a value
        entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry")
        entry.options.map_entry = True
        _add_field(entry, "", "string key", 1)
        _add_field(entry, "", f"{type_name} value", 2)
        type_name = f"{full_name}.{entry.name}"
    label = _REPEATED if kind in ("map", "repeated") else _OPTIONAL
    added = message.field.add(name=name, number=number, label=label)
    if "." in type_name:
        added.type, added.type_name = _MESSAGE_TYPE, f".{type_name}"
    else:
        added.type = _NAMED_TYPES[type_name]
    if kind == "oneof":
        if not message.oneof_decl:
            message.oneof_decl.add(name="version_choice")
        added.oneof_index = 0


_POOL = _build_pool()


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


TensorProto = _class("tensorflow.TensorProto")
TensorInfo = _class("tensorflow.TensorInfo")
SignatureDef = _class("tensorflow.SignatureDef")
ModelSpec = _class("tensorflow.serving.ModelSpec")
PredictRequest = _class("tensorflow.serving.PredictRequest")
PredictResponse = _class("tensorflow.serving.PredictResponse")
GetModelMetadataRequest = _class("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = _class("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap = _class("tensorflow.serving.SignatureDefMap")
GetModelStatusRequest = _class("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = _class("tensorflow.serving.GetModelStatusResponse")
ModelVersionStatus = _class("tensorflow.serving.ModelVersionStatus")

_VALUES = {
    "float32": "float_val", "float64": "double_val", "int32": "int_val", "int64": "int64_val",
    "bool": "bool_val"}


def strings_to_tensor(strings: Sequence[bytes]) -> Any:
    """The TensorProto of [N] strings."""
    return _tensor(STRING, "string_val", strings)


def numbers_to_tensor(numbers: Sequence[float], name: str) -> Any:
    """The TensorProto of [N] numbers of the type "float32", "float64", "int32" or "int64", each within its range."""
    return _tensor(next(key for key, each in DATA_TYPES.items() if each == name), _VALUES[name], numbers)


def _tensor(dtype: int, field: str, values: Sequence[Any]) -> Any:
    tensor = TensorProto(dtype=dtype)
    getattr(tensor, field).extend(values)
    tensor.tensor_shape.dim.add(size=len(values))
    return tensor


def tensor_to_array(tensor: Any) -> np.ndarray:
    """The values of a TensorProto; strings as an array of bytes objects.

    A sender may leave out values at the end that equal the last one it wrote, and may write numbers as raw
    bytes.

    Raises:
        ValueError: a type that is not among string, float32, float64, int32, int64, bool; or values that do
            not fit the shape.
    """
    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
    name = DATA_TYPES.get(tensor.dtype, str(tensor.dtype))
    if tensor.tensor_content and name in _VALUES:
        return np.frombuffer(tensor.tensor_content, np.dtype(name).newbyteorder("<")).reshape(shape)
    if name == "string":
        values = np.empty(len(tensor.string_val), object)  # not by np.array: it would cut NULs at the end
        values[:] = list(tensor.string_val)
    elif name in _VALUES:
        values = np.array(getattr(tensor, _VALUES[name]), name)
    else:
        raise ValueError(f"A tensor must be of type string or {', '.join(_VALUES)}. Received: {name}.")
    missing = math.prod(shape) - len(values)
    if missing > 0 and len(values):
        values = np.concatenate([values, np.repeat(values[-1:], missing)])
    return values.reshape(shape)
