"""SavedModels ready to answer: the part of a server that knows TensorFlow and no gRPC.

Checks, messages and their codes follow TensorFlow Serving's `predict_util.cc`.
"""

import logging
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  # registers the tokenizers' operations
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.batching import Batcher
from serving.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, RequestError
from serving.folders import SAVED_MODEL, WARM_UP
from serving.signatures import AS_EXPORTED, SERVING_DEFAULT, SIGNATURES

MAX_ELEMENTS = 1 << 24  # of one input; a few bytes can claim any shape
MAX_MESSAGE = 1000  # characters of an error; a long trailer would be refused by gRPC itself
_FIELDS = {
    tf.float32: "float_val", tf.float64: "double_val", tf.int32: "int_val", tf.int64: "int64_val",
    tf.bool: "bool_val", tf.string: "string_val"}


class Servable(NamedTuple):
    """One loaded version of a model.

    Attributes:
        version: its number.
        signature_defs: SignatureDef by name, as the SavedModel has them.
        functions: what runs, by the same names; together with rows of other requests where they can be joined.
        model: the loaded object; its variables live as long as it does.
    """

    version: int
    signature_defs: dict[str, Any]
    functions: dict[str, Any]
    model: Any

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Answers a request for this version; safe to be called from several threads.

        Raises:
            RequestError: the signature is not known, or an input or output is wrong.
        """
        name = request.model_spec.signature_name or SERVING_DEFAULT
        if name not in self.functions:
            raise RequestError(FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        definition = self.signature_defs[name]
        tensors = _inputs(definition, request)
        wanted = _outputs(definition, request)
        try:
            outputs = self.functions[name](**tensors)
        except tf.errors.OpError as error:
            raise RequestError(error.error_code, short_message(error)) from error
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = name
        response.model_spec.version.value = self.version
        for alias in wanted:
            _fill(response.outputs[alias], outputs[alias].numpy(), outputs[alias].dtype)
        return response


def load(version: int, folder: Path, batcher: Batcher | None = None) -> Servable:
    """Loads `folder`, a SavedModel, and answers its warm-up requests once, so that no client waits for it.

    With a batcher, rows of several requests are computed together. Without a file of warm-up requests each signature
    answers one row.

    Raises:
        ValueError: it cannot be loaded, or fails on a warm-up request.
    """
    try:
        saved = saved_model_pb2.SavedModel.FromString((folder / SAVED_MODEL).read_bytes())
        model = load_model(folder)
        functions = {
            name: (batcher and batcher.join(function)) or function for name, function in model.signatures.items()}
    except Exception as error:  # a broken file raises whatever the broken part is read by
        raise ValueError(f"{folder}: not a SavedModel that can be loaded: {short_message(error)}") from error
    definitions = {
        name: saved.meta_graphs[0].signature_def[name] for name in saved.meta_graphs[0].signature_def}
    servable = Servable(version, definitions, functions, model)
    try:
        for request in _warm_up_requests(folder, servable):
            servable.predict(request)
    except (RequestError, tf.errors.OpError, DecodeError) as error:
        raise ValueError(f"{folder}: fails on a warm-up request: {short_message(error)}") from error
    return servable


def load_model(folder: Path) -> Any:
    """The object `tf.saved_model.save` wrote, without a warning for each function that cannot be trained."""
    logger = logging.getLogger("absl")

    def is_of_use(record: logging.LogRecord) -> bool:
        return "unsaved custom gradients" not in record.getMessage()

    logger.addFilter(is_of_use)
    try:
        return tf.saved_model.load(str(folder))
    finally:
        logger.removeFilter(is_of_use)


def short_message(error: Exception) -> str:
    """One line of an error's text, without the graph's own account of where it arose."""
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    text = re.sub(r"\{\{(function_)?node [^}]*\}\} ?", "", text)
    noise = ("Graph execution error", "Detected at node", "<stack traces unavailable>", " ", "\t")
    lines = [line for line in text.splitlines() if line and not line.startswith(noise)]
    return " ".join(lines)[:MAX_MESSAGE] or type(error).__name__


def _warm_up_requests(folder: Path, servable: Servable) -> list[predict_pb2.PredictRequest]:
    if (folder / WARM_UP).is_file():
        logs = [
            prediction_log_pb2.PredictionLog.FromString(record.numpy())
            for record in tf.data.TFRecordDataset(str(folder / WARM_UP))]
        return [log.predict_log.request for log in logs if log.HasField("predict_log")]
    requests = []
    for name in servable.functions:
        known = SIGNATURES[name].inputs if name in SIGNATURES else {}
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = name
        for alias, info in servable.signature_defs[name].inputs.items():
            dtype = tf.as_dtype(info.dtype)
            shape = [max(1, each.size) for each in info.tensor_shape.dim]
            zero = b"" if dtype == tf.string else dtype.as_numpy_dtype(0)
            value = AS_EXPORTED[dtype.name] if alias in known else zero
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(np.full(shape, value), dtype))
        requests.append(request)
    return requests


def _inputs(definition: Any, request: predict_pb2.PredictRequest) -> dict[str, tf.Tensor]:
    sent, needed = set(request.inputs), set(definition.inputs)
    if len(sent) != len(needed):
        raise RequestError(
            INVALID_ARGUMENT,
            f"input size does not match signature: {len(sent)}!={len(needed)} len({_braces(sent)}) != "
            f"len({_braces(needed)}). Sent extra: {_braces(sent - needed)}. Missing but required: "
            f"{_braces(needed - sent)}.")
    if sent != needed:
        raise RequestError(
            INVALID_ARGUMENT,
            f"input tensor alias not found in signature: {','.join(sorted(sent - needed))}. "
            f"Inputs expected to be in the set {_braces(needed)}.")
    return {alias: _tensor(alias, info, request.inputs[alias]) for alias, info in definition.inputs.items()}


def _tensor(alias: str, info: Any, proto: Any) -> tf.Tensor:
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    elements = math.prod(shape)
    if proto.dtype != info.dtype:
        raise RequestError(
            INVALID_ARGUMENT,
            f"Expects input {alias} to be {_name(info.dtype)} but {_name(proto.dtype)} is provided")
    needed = info.tensor_shape
    fits = needed.unknown_rank or (
        len(shape) == len(needed.dim)
        and all(each.size in (-1, size) for each, size in zip(needed.dim, shape, strict=True)))
    if not fits:
        raise RequestError(
            INVALID_ARGUMENT,
            f"Cannot feed value of shape {_shape(shape)} for input {alias}, which has shape "
            f"{_shape([each.size for each in needed.dim])}")
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0 or elements > MAX_ELEMENTS:
        raise RequestError(INVALID_ARGUMENT, f"tensor parsing error: {alias}")
    if proto.dtype == tf.string.as_datatype_enum and elements and not 0 < len(proto.string_val) <= elements:
        raise RequestError(INVALID_ARGUMENT, f"tensor parsing error: {alias}")
    try:
        return tf.constant(tf.make_ndarray(proto), tf.as_dtype(proto.dtype), shape)
    except (TypeError, ValueError) as error:
        raise RequestError(INVALID_ARGUMENT, f"tensor parsing error: {alias}") from error


def _outputs(definition: Any, request: predict_pb2.PredictRequest) -> list[str]:
    wanted = list(request.output_filter)
    for position, alias in enumerate(wanted):
        if alias not in definition.outputs:
            raise RequestError(
                INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braces(definition.outputs)}.")
        if alias in wanted[:position]:
            raise RequestError(INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
    return wanted or list(definition.outputs)


def _fill(proto: Any, array: np.ndarray, dtype: tf.DType) -> None:
    """Writes values into the fields of their type, as TensorFlow Serving does, not as raw bytes."""
    if dtype not in _FIELDS:
        proto.CopyFrom(tf.make_tensor_proto(array, dtype))
        return
    proto.dtype = dtype.as_datatype_enum
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, _FIELDS[dtype]).extend(array.ravel().tolist())


def _braces(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _shape(sizes: list[int]) -> str:
    return "[" + ",".join("?" if size < 0 else str(size) for size in sizes) + "]"


def _name(dtype: int) -> str:
    try:
        return tf.as_dtype(dtype).name
    except TypeError:
        return f"type {dtype}"
