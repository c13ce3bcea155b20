"""Checkpoints that are whole or not there: written aside, synced, then renamed into place.

A run's `checkpoints/` holds one folder a step, `step-00001000/`, with the weights and everything else
that training needs to go on. `best_step` in its `state.json` names the best one so far by the metric.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfseq2seq.errors import first_line
from tfseq2seq.files import sync_folder, write_atomically

logger = logging.getLogger(__name__)

MEANS = "means"  # of the weights, where training keeps them; they answer then

# What TensorFlow's reader raises for files that are cut, missing or hold something else.
UNREADABLE = (OSError, ValueError, AssertionError, LookupError, RuntimeError, tf.errors.OpError)


class CheckpointError(ValueError):
    """There is no checkpoint to read, or none of them can be read."""


def parts(model: Any) -> dict[str, list[Any]]:
    """The variables of a compiled model that training goes on from, by what they are for.

    They are listed one by one: TensorFlow's own walk over a Keras model passes over whatever is kept in
    lists, layers and an optimizer's moments among them, and over the states of random generators.
    """
    found = {
        "weights": weights(model), "optimizer": [variable.value for variable in model.optimizer.variables],
        "random_states": [variable.value for variable in model.variables if "seed_generator" in variable.path]}
    return found if model.moving_average is None else {**found, MEANS: model.moving_average.means}


def weights(model: Any) -> list[Any]:
    """The weights of a model, compiled or not, in the order they were made."""
    return [variable.value for variable in model.weights]


def save(folder: Path, step: int, objects: dict[str, Any], state: dict[str, Any], keep: int) -> Path:
    """Writes one checkpoint and removes old ones.

    Args:
        folder: the run's `checkpoints/`.
        step: optimizer steps done.
        objects: variables by name, see `parts`.
        state: JSON values to go on from; the checkpoint of its `best_step` is kept.
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
    for old in steps(folder)[:-keep]:
        if old != state.get("best_step"):
            shutil.rmtree(folder / f"step-{old:08d}", ignore_errors=True)
    return path


def update_state(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Writes the state of a checkpoint anew; its weights stay."""
    write_atomically(folder / f"step-{step:08d}" / "state.json", json.dumps(state, indent=2))


def best_step(folder: Path) -> int | None:
    """The step of the best checkpoint, as the newest one knows it; None where it knows none or is gone."""
    found = steps(folder)
    for step in reversed(found):
        try:
            state = json.loads((folder / f"step-{step:08d}" / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return state["best_step"] if state.get("best_step") in found else None
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
            logger.warning("checkpoint %s is damaged and passed over: %s", path, first_line(error))
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
    best = best_step(folder)
    step = found[-1] if best is None else best
    restore(folder, step, model)
    return step


def restore(folder: Path, step: int, model: Any) -> None:
    """Reads the weights of one checkpoint, or their means where training kept them. Raises CheckpointError."""
    path = folder / f"step-{step:08d}"
    try:
        names = {name for name, _ in tf.train.list_variables(str(path / "weights"))}
        kind = MEANS if any(name.startswith(f"{MEANS}/") for name in names) else "weights"
        _read(path, {kind: weights(model)}, whole=False)
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: cannot be read: {first_line(error)}") from error


def _read(path: Path, objects: dict[str, Any], whole: bool) -> None:
    status = tf.train.Checkpoint(**objects).read(str(path / "weights"))
    if whole:
        status.assert_consumed()
    else:
        status.assert_existing_objects_matched().expect_partial()
