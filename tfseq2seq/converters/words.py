"""What systems have in common whose text is cut at white space: vocabularies, small files, TensorFlow's checkpoints."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfseq2seq.converters.base import Expected, Ids
from tfseq2seq.converters.weights import ConversionError, Weights
from tfseq2seq.tokenizers.simple import WordTokenizer

# What TensorFlow's reader raises for files that are cut or hold something else.
UNREADABLE = (tf.errors.OpError, ValueError, RuntimeError, LookupError)


class Side:
    """One side's vocabulary: another system's list of tokens, with our ids and our tokenizer.

    Args:
        tokens: in the order of its ids.
        unknown, start, end: its ids for these.
        pad: its id for padding; None where it has none.
        size: how many ids it has, where there are more than tokens.
    """

    def __init__(
        self, tokens: Sequence[str], unknown: int, start: int, end: int, pad: int | None = None,
        size: int | None = None,
    ):
        names = [*tokens, *(f"<id {id_}>" for id_ in range(len(tokens), size or 0))]
        self.ids = Ids(len(names), end if pad is None else pad, unknown, start, end)
        self.tokenizer = WordTokenizer("keep", self.ids.names(names)[4:])

    @property
    def table(self) -> dict[str, Any]:
        """Of a recipe."""
        return {"kind": "words", "vocabulary_size": max(self.tokenizer.vocabulary_size, 8)}

    def output(self, kernel: np.ndarray, bias: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The output layer of a kernel [D, V] and a bias [V] there."""
        return {"output_layer.kernel": self.ids.table(kernel.T).T, "output_layer.bias": self.ids.bias(bias)}

    def expect(self, source: str, tokens: Sequence[str], ids: Sequence[int]) -> Expected:
        """An answer of the other system, its ids without the end."""
        return Expected(source, " ".join(tokens), [int(self.ids.ours[id_]) for id_ in ids])


def read_lines(path: Path) -> list[str]:
    """The lines of a text file. Raises ConversionError where it cannot be read as UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path}: must be a text file in UTF-8, a token a line. Received: {error}.") from error
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ConversionError where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path}: must be a file of JSON. Received: {error}.") from error
    if not isinstance(found, dict):
        raise ConversionError(f"{path}: must hold a JSON object. Received: {type(found).__name__}.")
    return found


def check_options(system: str, options: Mapping[str, Any], supported: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises ConversionError for the first option whose value has no counterpart.

    Args:
        system: names it in the error.
        options: by name.
        supported: the values of an option that can be imported, the default first; None stands for "not given".
    """
    for name, values in supported.items():
        value = options.get(name, values[0])
        if value not in values:
            known = ", ".join(repr(value) for value in values if value is not None)
            raise ConversionError(
                f"{system}: {name} must be one of {known} to be imported. Received: {name} = {value!r}.")


def find_checkpoint(path: Path) -> Path:
    """A TensorFlow checkpoint without its ending: the path itself, or the latest one of a folder.

    Raises:
        ConversionError: there is none.
    """
    if path.is_dir():
        try:
            state = (path / "checkpoint").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            state = ""
        named = re.search(r'^model_checkpoint_path: "(.*)"$', state, re.MULTILINE)
        # The folder may have moved since: the name alone counts.
        names = [Path(named[1]).name] if named else [each.stem for each in path.glob("*.index")]
        if len(names) == 1 and (path / f"{names[0]}.index").is_file():
            return path / names[0]
        raise ConversionError(
            f"{path}: must hold a TensorFlow checkpoint, and of several a file `checkpoint` that names one; or name "
            f"one without .index. Received: {', '.join(names) or 'no .index file'}.")
    if path.with_name(f"{path.name}.index").is_file():
        return path
    raise ConversionError(f"{path}: must be a folder, or a checkpoint whose file {path.name}.index lies there.")


class _Checkpoint(Mapping[str, np.ndarray]):
    """Variables of a checkpoint, read when they are asked for."""

    def __init__(self, prefix: Path, ignored: str, ending: str):
        self._prefix, self._ending = prefix, ending
        try:
            self._reader = tf.train.load_checkpoint(str(prefix))
        except UNREADABLE as error:
            raise ConversionError(f"{prefix}: cannot be read, it is damaged or incomplete: {error}.") from error
        self._names = {
            name.removesuffix(ending): None for name in self._reader.get_variable_to_shape_map()
            if name.endswith(ending) and not re.fullmatch(ignored, name.removesuffix(ending))}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            values = self._reader.get_tensor(name + self._ending)
        except UNREADABLE as error:
            raise ConversionError(f"{self._prefix}: cannot be read, it is damaged or incomplete: {error}.") from error
        if not np.issubdtype(values.dtype, np.floating):
            raise ConversionError(f"{self._prefix}: the weight {name} must be of floats. Received: {values.dtype}.")
        return values


def read_checkpoint(path: Path, ignored: str, ending: str = "") -> Weights:
    """The weights of a TensorFlow checkpoint.

    Args:
        path: see `find_checkpoint`.
        ignored: a pattern of names that no model reads, as an optimizer's.
        ending: what the names of weights end in; it is cut off, and all others are ignored.
    """
    prefix = find_checkpoint(path)
    return Weights(_Checkpoint(prefix, ignored, ending), str(prefix))
