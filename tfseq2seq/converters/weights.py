"""Weights of other systems: read from safetensors files, and each used exactly once."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import safetensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")


class ConversionError(ValueError):
    """What lies there cannot be converted; the text says what is wrong and, where possible, how to mend it."""


class Weights:
    """Arrays by their names, of which each is taken once.

    Args:
        arrays: float arrays by name; of a lazy mapping each is read when it is taken.
        where: names them in errors.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], where: str):
        self._arrays, self.where = arrays, where
        self.taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def take(self, name: str) -> np.ndarray:
        """The array in float32. Raises ConversionError where it is not there, was taken, or holds no finite numbers."""
        if name not in self._arrays:
            raise ConversionError(f"{self.where}: the weight {name} is missing; the architecture needs it.")
        if name in self.taken:
            raise ConversionError(f"{self.where}: the weight {name} is used twice.")
        self.taken.add(name)
        values = np.asarray(self._arrays[name], np.float32)
        if not np.isfinite(values).all():
            raise ConversionError(f"{self.where}: the weight {name} holds NaN or infinity; the file is damaged.")
        return values

    def take_copy(self, name: str, original: np.ndarray) -> None:
        """Takes a weight, if it is there, that must be equal to another one or to what is computed."""
        if name not in self:
            return
        values = self.take(name)
        if values.shape != original.shape or not np.allclose(values, original, rtol=1e-5, atol=1e-5):
            raise ConversionError(
                f"{self.where}: the weight {name} must be a copy of what is used in its place. Received: other values "
                f"of shape {values.shape}, expected {original.shape}.")

    def leave(self, names: Iterable[str]) -> None:
        """Takes weights, where they are there, that the architecture never reads."""
        self.taken.update(name for name in names if name in self)

    def refuse_leftovers(self) -> None:
        """Raises ConversionError where a weight was not taken."""
        left = [name for name in self._arrays if name not in self.taken]
        if left:
            more = f" and {len(left) - 8} more" if len(left) > 8 else ""
            raise ConversionError(
                f"{self.where}: {len(left)} weights have no place in the architecture that its config describes: "
                f"{', '.join(sorted(left)[:8])}{more}.")


class _Lazy(Mapping[str, np.ndarray]):
    """Tensors of several files, read when they are asked for."""

    def __init__(self, files: dict[str, Path]):
        self._files = files
        self._open: dict[Path, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, name: str) -> np.ndarray:
        path = self._files[name]
        try:
            if path not in self._open:
                self._open[path] = safetensors.safe_open(path, framework="numpy")
            dtype = self._open[path].get_slice(name).get_dtype()
            if dtype not in DTYPES:
                raise ConversionError(
                    f"{path}: the weight {name} must be stored as one of {', '.join(DTYPES)}. Received: {dtype}.")
            return self._open[path].get_tensor(name)
        except safetensors.SafetensorError as error:
            raise ConversionError(f"{path}: cannot be read, it is damaged: {error}.") from error


def read_weights(folder: Path) -> Weights:
    """The weights in a folder: model.safetensors, or the files that model.safetensors.index.json names.

    Raises:
        ConversionError: there are none, or a file is missing, damaged or outside the folder.
    """
    if (folder / INDEX).exists():
        files = _files_of_index(folder)
    elif (folder / SINGLE).exists():
        files = dict.fromkeys(_names(folder / SINGLE), folder / SINGLE)
    else:
        pickles = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
        hint = f" {pickles} may be a pickle, which is never read: save it as safetensors." if pickles else ""
        raise ConversionError(f"{folder}: needs {SINGLE} or {INDEX}.{hint} Received: neither.")
    return Weights(_Lazy(files), str(folder))


def read_files(paths: Iterable[Path], where: str) -> Weights:
    """The weights of several safetensors files together. Raises as `read_weights`, and where two hold the same name."""
    files = dict[str, Path]()
    for path in paths:
        for name in _names(path):
            if name in files:
                raise ConversionError(f"{path}: holds the weight {name}, which {files[name].name} holds too.")
            files[name] = path
    return Weights(_Lazy(files), where)


def _files_of_index(folder: Path) -> dict[str, Path]:
    path = folder / INDEX
    try:
        weight_map = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{path}: must be JSON with a weight_map. Received: {error!r}.") from error
    held: dict[str, set[str]] = {}
    for file in dict.fromkeys(weight_map.values()):
        place = PurePosixPath(str(file))
        if place.is_absolute() or ".." in place.parts or "\\" in str(file) or not str(file).endswith(".safetensors"):
            raise ConversionError(
                f"{path}: may name .safetensors files inside its folder alone. Received: {file!r}.")
        if not (folder / place).is_file():
            raise ConversionError(f"{path}: names {file}, which is missing: fetch it into {folder}.")
        held[file] = set(_names(folder / place))
    for name, file in weight_map.items():
        if name not in held[file]:
            raise ConversionError(f"{folder / file}: does not hold the weight {name} that {INDEX} promises.")
    unnamed = {name: file for file, names in held.items() for name in sorted(names) if name not in weight_map}
    return {name: folder / file for name, file in {**weight_map, **unnamed}.items()}


def _names(path: Path) -> list[str]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except (safetensors.SafetensorError, OSError) as error:
        raise ConversionError(f"{path}: cannot be read, it is damaged: {error}.") from error
