"""Requests and answers of TensorFlow Serving's REST API, as its `json_tensor.cc` reads and writes them."""

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from serving.errors import INVALID_ARGUMENT, RequestError

ROWS, COLUMNS = "instances", "inputs"  # the formats, by the key of their input
_ANSWER_KEYS = {ROWS: "predictions", COLUMNS: "outputs"}
_MAX_SHOWN = 200  # characters of a value in an error
_BYTES = "_bytes"  # how the name of an output ends whose strings are written in base64
_LARGEST = float(np.finfo(np.float32).max)
_INTEGERS = {
    tf.int32: ("int_val", -(1 << 31), 1 << 31), tf.int16: ("int_val", -(1 << 31), 1 << 31),
    tf.int8: ("int_val", -(1 << 31), 1 << 31), tf.uint8: ("int_val", -(1 << 31), 1 << 31),
    tf.int64: ("int64_val", -(1 << 63), 1 << 63), tf.uint32: ("uint32_val", 0, 1 << 32),
    tf.uint64: ("uint64_val", 0, 1 << 64)}


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a request; NaN, Infinity and -Infinity are numbers.

    Raises:
        RequestError: it is none.
    """
    if not body:
        raise _error("JSON Parse error: The document is empty")
    try:
        document = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = "Invalid UTF-8; send such strings in base64."
        raise _error(f"JSON Parse error: {message} at offset: {error.start}") from error
    except json.JSONDecodeError as error:
        raise _error(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; or a whole number of too many digits
        raise _error(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise _error(f"JSON Value: {_shown(document)} Is not object")
    return document


def read_signature(document: Mapping[str, Any]) -> str:
    """The signature's name, "" if none is given. Raises RequestError."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _error(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value.")
    return _encoded(name).decode("utf-8")


def fill_inputs(document: Mapping[str, Any], infos: Mapping[str, Any], inputs: Any) -> str:
    """Writes the tensors of a request into `inputs`, a map of TensorProto; returns `ROWS` or `COLUMNS`.

    Args:
        document: of `parse`.
        infos: TensorInfo of each input of the signature.
    Raises:
        RequestError: they do not fit each other.
    """
    if ROWS in document and COLUMNS in document:
        raise _error(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist ")
    try:
        if ROWS in document:
            _fill_rows(document, infos, inputs)
            return ROWS
        if COLUMNS in document:
            _fill_columns(document[COLUMNS], infos, inputs)
            return COLUMNS
    except RecursionError as error:
        raise _error("JSON Value: lists are nested too deeply") from error
    raise _error("Missing 'inputs' or 'instances' key")


def check_examples(document: Mapping[str, Any]) -> None:
    """Raises RequestError if a Classify or Regress request holds no examples."""
    examples = document.get("examples")
    if "examples" not in document:
        raise _error(
            f"JSON Value: {_shown(document)} When method is classify, key 'examples' is expected and was not found")
    if not isinstance(examples, list):
        raise _error(f"JSON Value: {_shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise _error(f"JSON Value: {_shown(document)} 'examples' value is an empty array")


def write_outputs(outputs: Mapping[str, Any], kind: str) -> bytes:
    """The answer with these TensorProtos, in the format `kind`.

    Raises:
        RequestError: a type that JSON has not, or tensors without the same number of rows.
    """
    shapes = {name: [each.size for each in outputs[name].tensor_shape.dim] for name in sorted(outputs)}
    values = {name: iter(_words(name, outputs[name])) for name in shapes}
    if kind == COLUMNS:
        columns = {name: _nested(values[name], shape) for name, shape in shapes.items()}
        text = _object(columns) if len(columns) > 1 else next(iter(columns.values()))
    else:
        for name, shape in shapes.items():
            if not shape:
                raise _error(f"Tensor name: {name} has no shape information ")
            if shape[0] != next(iter(shapes.values()))[0]:
                raise _error(
                    f"Tensor name: {name} has inconsistent batch size: {shape[0]} expecting: "
                    f"{next(iter(shapes.values()))[0]}")
        rows = []
        for _ in range(next(iter(shapes.values()))[0]):
            row = {name: _nested(values[name], shape[1:]) for name, shape in shapes.items()}
            rows.append(_object(row) if len(row) > 1 else next(iter(row.values())))
        text = f"[{', '.join(rows)}]"
    return _object({_ANSWER_KEYS[kind]: text}).encode()


def _fill_rows(document: Mapping[str, Any], infos: Mapping[str, Any], inputs: Any) -> None:
    rows = document[ROWS]
    if not isinstance(rows, list):
        raise _error(f"JSON Value: {_shown(document)} Excepting 'instances' to be an list/array")
    if not rows:
        raise _error(f"JSON Value: {_shown(document)} No values in 'instances' array")
    if not isinstance(rows[0], dict) and len(infos) > 1:
        raise _error(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map")
    named = _is_named(rows[0])
    shapes: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        if named != _is_named(row):
            expected = "object but got list" if named else "value/list but got object"
            raise _error(f"Expecting {expected} at item {position} of input list")
        items = row if named else {next(iter(infos)): row}
        for name, item in items.items():
            try:
                _add_row(name, item, infos, inputs, shapes)
            except RequestError as error:
                key = f" key: {name}" if named else ""
                raise _error(
                    f"Failed to process element: {position}{key} of 'instances' list. Error: INVALID_ARGUMENT: "
                    f"{error.message}") from error
        if named and items.keys() != infos.keys():
            raise _error(
                f"Failed to process element: {position} of 'instances' list. JSON object: {_shown(row)} keys must be "
                f"equal to: {','.join(sorted(infos))}")
    for name, shape in shapes.items():
        _set_type(inputs[name], infos[name].dtype, [len(rows), *shape])


def _add_row(
    name: str, item: Any, infos: Mapping[str, Any], inputs: Any, shapes: dict[str, list[int]],
) -> None:
    if name not in infos:
        raise _error(f"JSON object: does not have named input: {name}")
    shape = _shape(item)
    _add(item, shape, 0, tf.as_dtype(infos[name].dtype), inputs[name])
    if shapes.setdefault(name, shape) != shape:
        raise _error(f"Expecting shape {_listed(shapes[name])} but got: {_listed(shape)}")


def _fill_columns(value: Any, infos: Mapping[str, Any], inputs: Any) -> None:
    if not _is_named(value):
        if len(infos) > 1:
            raise _error(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map")
        value = {next(iter(infos)): value}
    for name, info in infos.items():
        if name not in value:
            raise _error(f"Missing named input: {name} in 'inputs' object.")
        shape = _shape(value[name])
        _add(value[name], shape, 0, tf.as_dtype(info.dtype), inputs[name])
        _set_type(inputs[name], info.dtype, shape)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: dict[str, Any]) -> bool:
    return list(value) == ["b64"] and isinstance(value["b64"], str)


def _shape(value: Any) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _set_type(proto: Any, dtype: int, shape: list[int]) -> None:
    proto.dtype = dtype
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)


def _add(value: Any, shape: list[int], level: int, dtype: tf.DType, proto: Any) -> None:
    """Adds a value, or all in a list at `level` of a tensor of that shape."""
    if not isinstance(value, list):
        if level != len(shape):
            raise _error(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}")
        _add_one(value, dtype, proto)
        return
    if level >= len(shape):
        raise _error(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise _error(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}")
    for each in value:
        _add(each, shape, level + 1, dtype, proto)


def _add_one(value: Any, dtype: tf.DType, proto: Any) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if dtype == tf.string and isinstance(value, str):
        proto.string_val.append(_encoded(value))
    elif dtype == tf.string and isinstance(value, dict):
        proto.string_val.append(_from_base64(value))
    elif dtype == tf.bool and isinstance(value, bool):
        proto.bool_val.append(value)
    elif dtype in (tf.float32, tf.float64) and (is_whole or isinstance(value, float)):
        single = dtype == tf.float32
        if is_whole:
            lossy = abs(value) >= 1 << (24 if single else 53)
        else:
            lossy = single and math.isfinite(value) and abs(value) > _LARGEST
        if lossy:
            raise _error(
                f"Cannot convert JSON value: {_shown(value)} to {'float' if single else 'double'} without loss of "
                "precision.")
        getattr(proto, "float_val" if single else "double_val").append(value)
    elif dtype in _INTEGERS and is_whole and _INTEGERS[dtype][1] <= value < _INTEGERS[dtype][2]:
        getattr(proto, _INTEGERS[dtype][0]).append(value)
    else:
        raise _error(f"JSON Value: {_shown(value)} Type: {_kind(value)} is not of expected type: {dtype.name}")


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _error("JSON Parse error: The surrogate pair in string is invalid.") from error


def _from_base64(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise _error(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = value["b64"]
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _error("Unable to base64 decode") from error


def _words(name: str, proto: Any) -> list[str]:
    """Each value of a tensor as JSON."""
    dtype = tf.as_dtype(proto.dtype)
    if dtype == tf.string and name.endswith(_BYTES):
        return [_object({"b64": _quoted(base64.b64encode(each).decode())}) for each in proto.string_val]
    if dtype == tf.string:
        return [_quoted(each.decode("utf-8", "replace")) for each in proto.string_val]
    if dtype == tf.float32:
        return [_decimal(each, np.float32, 9) for each in proto.float_val]
    if dtype == tf.float64:
        return [_decimal(each, np.float64, 17) for each in proto.double_val]
    if dtype == tf.bool:
        return ["true" if each else "false" for each in proto.bool_val]
    if dtype in (tf.int32, tf.int64):
        return [str(each) for each in (proto.int_val if dtype == tf.int32 else proto.int64_val)]
    raise _error(f"Failed to write JSON value for tensor type: {dtype.name}")


def _decimal(value: float, dtype: Any, digits: int) -> str:
    """Six digits, or as many as tell the value from others; with a point or an exponent, unlike whole numbers."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:  # most of an attention matrix, whose rows are as long as the longest
        return "-0.0" if math.copysign(1.0, value) < 0 else "0.0"
    text = f"{value:.6g}"
    if dtype(text) != dtype(value):
        text = f"{value:.{digits}g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _nested(values: Iterator[str], shape: list[int]) -> str:
    if not shape:
        return next(values)
    return "[" + ", ".join(_nested(values, shape[1:]) for _ in range(shape[0])) + "]"


def _object(members: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_quoted(name)}: {value}" for name, value in members.items()) + "}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _kind(value: Any) -> str:
    names = {type(None): "Null", bool: str(value), dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:_MAX_SHOWN]
    except RecursionError:  # read it was, but writing takes a frame more
        return "(nested too deeply to be shown)"


def _listed(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _error(message: str) -> RequestError:
    return RequestError(INVALID_ARGUMENT, message)
