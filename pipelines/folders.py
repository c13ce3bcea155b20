"""A run's folder, as far as it can be judged without TensorFlow: whether it holds a run, and of which recipe."""

import json
from pathlib import Path

from tfseq2seq.config import ConfigError, Run, flatten, load_recipe

# Keys one may change between two calls of the same run; all others shape what is already there.
FREE_KEYS = (
    "train.steps", "train.max_minutes", "train.patience", "train.keep_checkpoints", "train.divergence_retries",
    "train.profile_steps", "train.data_service", "decode", "export")
UNTRAINED_KEYS = ("train.", "model.")  # and these as long as there is no checkpoint: they do not shape the data


def holds_run(folder: Path) -> bool:
    """Whether a run is prepared in `folder`."""
    return (folder / "config.json").exists()


def is_trained(folder: Path) -> bool:
    """Whether the run in `folder` has a checkpoint."""
    return any(folder.glob("checkpoints/step-*"))


def refuse_no_run(folder: Path) -> None:
    """Raises ConfigError where `folder` holds no prepared run."""
    if not holds_run(folder):
        raise ConfigError(f"{folder}: holds no run (no config.json); make one with `tfseq2seq train RECIPE`.")


def refuse_no_checkpoint(folder: Path) -> None:
    """Raises ConfigError where the run in `folder` is not trained."""
    if not is_trained(folder):
        raise ConfigError(f"{folder}: holds no checkpoint; train first with `tfseq2seq train`.")


def refuse_another_config(run: Run, folder: Path) -> None:
    """Raises ConfigError where what lies in `folder` was made with other keys than `run` has."""
    old, new = (flatten(json.loads(config.model_dump_json())) for config in (load_recipe(folder / "config.json"), run))
    free = FREE_KEYS if is_trained(folder) else FREE_KEYS + UNTRAINED_KEYS
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and not key.startswith(free):
            raise ConfigError(
                f"{folder}: holds a run of another config. Give this one another name, or remove the folder. "
                f"Received: {key} = {new.get(key)!r}, the folder has {old.get(key)!r}.")


def refuse_file_above(folder: Path) -> None:
    """Raises ConfigError where `folder` cannot be made, since it or what it is to lie in is a file."""
    for path in (folder, *folder.parents):
        if path.exists():
            if not path.is_dir():
                raise ConfigError(f"{path}: needed is a folder. Received: a file.")
            return
