"""Checkpoints that are whole or not there: written aside, synced, then renamed into place.

A run's `checkpoints/` holds one folder a step, `step-00001000/`, with the weights and everything else
that training needs to go on, and `best.json`, which names the best of them by the metric.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfseq2seq.files import sync_folder, write_atomically

logger = logging.getLogger(__name__)

# What TensorFlow's reader raises for files that are cut, missing or hold something else.
UNREADABLE = (OSError, ValueError, AssertionError, LookupError, RuntimeError, tf.errors.OpError)


class CheckpointError(ValueError):
    """There is no checkpoint to read, or none of them can be read."""


def parts(model: Any) -> dict[str, list[Any]]:
    """The variables of a compiled model that training goes on from, by what they are for.

    They are listed one by one: TensorFlow's own walk over a Keras model passes over whatever is kept in
    lists, layers and an optimizer's moments among them, and over the states of random generators.
    """
    return {
        "weights": weights(model), "optimizer": [variable.value for variable in model.optimizer.variables],
        "random_states": [variable.value for variable in model.variables if "seed_generator" in variable.path]}


def weights(model: Any) -> list[Any]:
    """The weights of a model, compiled or not, in the order they were made."""
    return [variable.value for variable in model.weights]


def save(folder: Path, step: int, objects: dict[str, Any], state: dict[str, Any], keep: int) -> Path:
    """Writes one checkpoint and removes old ones.

    Args:
        folder: the run's `checkpoints/`.
        step: optimizer steps done.
        objects: variables by name, see `parts`.
        state: JSON values to go on from.
        keep: newest checkpoints to keep, beside the best.
    Returns:
        The checkpoint's folder.
    Raises:
        OSError: the disk is full or the folder not writable; older checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = folder / f"step-{step:08d}", folder / f".writing-{step:08d}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        try:
            tf.train.Checkpoint(**objects).write(str(temporary / "weights"))
        except tf.errors.OpError as error:
            raise OSError(f"cannot write a checkpoint to {folder}: {error.message}") from error
        (temporary / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        sync_folder(temporary)
        shutil.rmtree(path, ignore_errors=True)  # a damaged one of the same step
        temporary.rename(path)
        sync_folder(folder, files=False)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    best = best_step(folder)
    for old in steps(folder)[:-keep]:
        if old != best:
            shutil.rmtree(folder / f"step-{old:08d}", ignore_errors=True)
    return path


def mark_best(folder: Path, step: int, metric: str, value: float) -> None:
    """Names the checkpoint of `step` the best so far."""
    write_atomically(folder / "best.json", json.dumps({"step": step, "metric": metric, "value": value}))


def best_step(folder: Path) -> int | None:
    """The step of the best checkpoint, None where none is marked."""
    try:
        return int(json.loads((folder / "best.json").read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError):
        return None


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def restore_latest(folder: Path, objects: dict[str, Any]) -> dict[str, Any] | None:
    """Reads the newest checkpoint that can be read into `objects`.

    A damaged one is passed over with a warning.

    Returns:
        Its state, or None where there is no checkpoint.
    Raises:
        CheckpointError: there are checkpoints and none can be read.
    """
    found = steps(folder)
    for step in reversed(found):
        path = folder / f"step-{step:08d}"
        try:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            _read(path, objects, whole=True)
            return state
        except UNREADABLE as error:
            logger.warning("checkpoint %s is damaged and passed over: %s", path, str(error).splitlines()[0])
    if found:
        raise CheckpointError(
            f"{folder}: none of its {len(found)} checkpoints can be read; remove the folder to start anew.")
    return None


def restore_best(folder: Path, model: Any) -> int:
    """Reads the best checkpoint's weights, or the newest's where none is marked.

    Returns:
        Its step.
    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
    """
    found = steps(folder)
    if not found:
        raise CheckpointError(f"{folder}: holds no checkpoint; train first with `tfseq2seq train`.")
    step = best_step(folder)
    step = step if step in found else found[-1]
    path = folder / f"step-{step:08d}"
    try:
        _read(path, {"weights": weights(model)}, whole=False)
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    return step


def _read(path: Path, objects: dict[str, Any], whole: bool) -> None:
    status = tf.train.Checkpoint(**objects).read(str(path / "weights"))
    if whole:
        status.assert_consumed()
    else:
        status.assert_existing_objects_matched().expect_partial()


