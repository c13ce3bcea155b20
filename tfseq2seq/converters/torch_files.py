"""PyTorch's .pt files without PyTorch: a zip of a pickle and of raw numbers. The pickle may build plain values alone.

A pickle can call anything that it names. Here it can name what stands in `_KNOWN` and nothing else; every other name is
an error before anything of it is imported or called.
"""

import collections
import io
import math
import pickle
import zipfile
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np

from tfseq2seq.converters.weights import ConversionError

# Storage of PyTorch -> how its numbers lie, little end first. The bits of a bfloat16 are the upper half of float32's.
_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8", "IntStorage": "<i4", "ByteStorage": "|u1", "BoolStorage": "|b1"}


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *unused: Any) -> np.ndarray:
    """What torch._utils._rebuild_tensor_v2 makes: a view of a storage, here copied."""
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    last = int(offset) + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if not isinstance(storage, np.ndarray) or min((int(offset), *size, *stride)) < 0 or max(
            last + 1, math.prod(size)) > max(len(storage), 1):
        raise pickle.UnpicklingError(f"a tensor of shape {size} reaches beyond its numbers")
    part = np.lib.stride_tricks.as_strided(
        storage[int(offset):], size, tuple(step * storage.itemsize for step in stride), writeable=False)
    return part.copy()


_KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *unused: data,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("argparse", "Namespace"): SimpleNamespace,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    **{("torch", name): name for name in _STORAGES}}


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, root: str):
        super().__init__(file)
        self._archive, self._root, self._read = archive, root, dict[str, np.ndarray]()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of plain weights and options")
        found = _KNOWN[module, name]
        # A pickle may write to what it is given: a function is a new one each time.
        return (lambda *arguments: found(*arguments)) if isinstance(found, FunctionType) else found

    def persistent_load(self, reference: Any) -> np.ndarray:
        """A storage, ("storage", its type, its file, where it was, its length)."""
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage" or reference[
                1] not in _STORAGES:
            raise pickle.UnpicklingError(f"it refers to {reference!r}, which is no storage")
        _, kind, key, _, length = reference
        if key not in self._read:
            content = self._archive.read(f"{self._root}/data/{key}")
            if kind == "BFloat16Storage":
                values = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(content, _STORAGES[kind])
            if len(values) < length:
                raise pickle.UnpicklingError(f"data/{key} holds {len(values)} of {length} numbers")
            self._read[key] = values
        return self._read[key]


def read_torch(path: Path) -> dict[str, Any]:
    """The dict that torch.save wrote: plain values, NumPy arrays for tensors, SimpleNamespace for argparse's.

    Raises:
        ConversionError: it is damaged, of PyTorch before 1.6, or names anything but weights and options.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ConversionError(f"{path}: must hold one data.pkl, as torch.save writes it. Received: {names}.")
            root = names[0].removesuffix("/data.pkl")
            if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
                raise ConversionError(f"{path}: must be written with the little end first.")
            found = _PlainUnpickler(io.BytesIO(archive.read(names[0])), archive, root).load()
    except (OSError, zipfile.BadZipFile, KeyError, NotImplementedError) as error:
        raise ConversionError(
            f"{path}: must be a .pt file, a zip as torch.save writes since PyTorch 1.6. Received: {error}.") from error
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, IndexError, ImportError,
            MemoryError, RecursionError) as error:
        raise ConversionError(f"{path}: cannot be read safely: {error}.") from error
    if not isinstance(found, dict):
        raise ConversionError(f"{path}: must hold a dict. Received: {type(found).__name__}.")
    return found
