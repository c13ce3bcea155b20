"""Where the versions of a model lie, as TensorFlow Serving looks for them: `FOLDER/VERSION/`, and their labels."""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tfseq2seq.files import write_atomically

SAVED_MODEL = "saved_model.pb"
EXTRA = "assets.extra"
WARM_UP = Path(EXTRA) / "tf_serving_warmup_requests"  # a TFRecord file of PredictionLog
REPLAY = Path(EXTRA) / "held_out_answers.tfrecord"  # likewise, with the responses that are right
TOKENIZERS = Path(EXTRA) / "tokenizers"
CONFIG, ABOUT = Path(EXTRA) / "config.json", Path(EXTRA) / "export.json"
LABELS = "labels.json"  # beside the versions; TensorFlow Serving overlooks what is no number
LATEST = "latest"  # the highest version, whatever it is: what a server takes when a request names none
_LABEL = re.compile(r"(?!\d+$)[A-Za-z0-9][A-Za-z0-9._-]*")


def list_versions(folder: Path) -> dict[int, Path]:
    """The versions below `folder`, lowest first: every entry whose name is a whole number.

    Raises:
        OSError: `folder` cannot be read.
    """
    named = [path for path in folder.iterdir() if path.name.isascii() and path.name.isdecimal()]
    found = {int(path.name): path for path in named}
    return dict(sorted(found.items()))


def find_versions(folder: Path) -> dict[int, Path]:
    """The versions below `folder` that hold a SavedModel; there is at least one.

    Raises:
        ValueError: `folder` cannot be read or holds no version with a SavedModel.
    """
    needed = f"a server needs a folder that holds VERSION/{SAVED_MODEL}, as `tfseq2seq export` writes it"
    try:
        entries = list_versions(folder)
        versions = {version: path for version, path in entries.items() if (path / SAVED_MODEL).is_file()}
    except OSError as error:
        raise ValueError(f"{folder}: {needed}. Received: {error.strerror}.") from error
    if not versions:
        inside = "no version folder"
        if (folder / SAVED_MODEL).is_file():
            inside = "one version itself; pass the folder above it"
        elif entries:
            inside = f"versions without a SavedModel: {', '.join(map(str, entries))}"
        raise ValueError(f"{folder}: {needed}. Received: {inside}.")
    return versions


def find_version(folder: Path, which: str = LATEST) -> Path:
    """The folder of one version: a number, a label, or `LATEST`.

    Raises:
        ValueError: there is none.
    """
    versions, labels = find_versions(folder), read_labels(folder)
    if which == LATEST:
        return versions[max(versions)]
    number = int(which) if which.isascii() and which.isdecimal() else labels.get(which)
    if number not in versions:
        raise ValueError(
            f"{folder}: name one of the versions {', '.join(map(str, versions))}, '{LATEST}'"
            f"{''.join(f' or {label!r}' for label in labels)}. Received: {which!r}.")
    return versions[number]


def read_labels(folder: Path) -> dict[str, int]:
    """Label -> version, in the order of the labels; empty where there is no file of them.

    A label whose version was removed is none any more; it harms no other.

    Raises:
        ValueError: the file is broken, or `folder` holds no version.
    """
    path = folder / LABELS
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
        fine = isinstance(labels, dict) and all(
            _is_label(label) and isinstance(version, int) for label, version in labels.items())
    except FileNotFoundError:
        return {}
    except ValueError:
        fine = False
    if not fine:
        raise ValueError(
            f"{path}: needs an object of labels with their versions, as {{\"stable\": 3}}; mend it, or remove it and "
            f"give the labels anew. Received: {path.read_text(encoding='utf-8', errors='replace')[:100]!r}.")
    versions = find_versions(folder)
    return {label: version for label, version in sorted(labels.items()) if version in versions}


def change_labels(folder: Path, give: dict[str, int], remove: list[str] | None = None) -> dict[str, int]:
    """Gives labels to versions, each to one at a time, and takes others away; all of it or nothing.

    Returns:
        The labels as they are then.
    Raises:
        ValueError: a name cannot be a label, a version is not there, or a label to be removed; or the file is broken.
    """
    versions = find_versions(folder)
    for label, version in give.items():
        check_label(label)
        if version not in versions:
            raise ValueError(
                f"{folder}: label {label!r} needs one of the versions {', '.join(map(str, versions))}. "
                f"Received: {version}.")
    with _locked(folder):
        labels = read_labels(folder)
        for label in remove or ():
            if label not in labels:
                raise ValueError(f"{folder / LABELS}: has no label {label!r}; it has: {', '.join(labels) or 'none'}.")
            del labels[label]
        labels = dict(sorted({**labels, **give}.items()))
        write_atomically(folder / LABELS, json.dumps(labels, indent=2) + "\n")
    return labels


def check_label(label: str) -> None:
    """Raises ValueError where a version cannot be called so."""
    if not _is_label(label):
        raise ValueError(
            f"A label needs letters, digits, '.', '_' and '-', not digits alone and not {LATEST!r}, which is the "
            f"highest version. Received: {label!r}.")


def _is_label(label: object) -> bool:
    return isinstance(label, str) and label != LATEST and _LABEL.fullmatch(label) is not None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
