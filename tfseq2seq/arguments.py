"""What can be wrong with a command's arguments, told before TensorFlow, which takes seconds to load.

Whoever calls `tfseq2seq.runs` from Python is checked by the same functions there. What takes a part of a second to load
is imported where it is needed: `request` must not wait for it.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.folders import (
    holds_run,
    is_trained,
    refuse_another_config,
    refuse_file_above,
    refuse_no_checkpoint,
    refuse_no_run,
)
from tfseq2seq.config import ConfigError, Decode, Run, load_recipe, override

FORMATS = ("text", "tsv", "jsonl")
SPLITS = ("valid", "test")
DISTILLED = "train.jsonl.gz"
_OF_DISTILL = {DISTILLED, f"{DISTILLED}.part", f"{DISTILLED}.part.json", "valid.jsonl", "test.jsonl"}


def check_recipe(run: Run, where: str) -> None:
    """Raises ConfigError where a recipe, in the file `where`, names a task or metric that is not there."""
    from pipelines.tasks import find_task
    from tfseq2seq.evaluation import order_metrics

    try:
        order_metrics(find_task(run.task).metrics, run.train.metric)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_preparation(run: Run, folder: Path) -> None:
    """Raises ValueError where a recipe's data are not there, or cannot be kept in `folder`."""
    from pipelines.origins import check_origins

    if holds_run(folder):
        refuse_another_config(run, folder)
        return
    refuse_file_above(folder)
    if "TF_CONFIG" not in os.environ:  # of several hosts the first one alone needs the data
        check_origins(run.data)


def check_training(run: Run, folder: Path) -> None:
    """As `check_preparation`; raises ValueError too where a run that training reads is not there."""
    check_preparation(run, folder)
    named = [run.train.teacher, None if is_trained(folder) else run.train.start_from]
    for each in named:
        if each is not None:
            check_trained(Path(each).expanduser())


def check_trained(folder: Path, overrides: dict[str, Any] | None = None) -> Run:
    """The recipe of a run that is trained, its [decode] and [export] changed where `overrides` name keys of them.

    Raises:
        ConfigError: `folder` holds no run or no checkpoint, or a key is of another table or wrong.
        ValueError: what `[decode]` names is not there.
    """
    refuse_no_run(folder)
    run = override(load_recipe(folder / "config.json"), overrides or {}, ("decode", "export"))
    refuse_no_checkpoint(folder)
    _check_decode(run.decode)
    return run


def _check_decode(decode: Decode) -> None:
    for other in decode.others:
        refuse_no_run(Path(other))
        refuse_no_checkpoint(Path(other))
    if decode.only_from is not None and not Path(decode.only_from).expanduser().is_file():
        raise ConfigError(f"decode.only_from needs a file with a string a line. Received: {decode.only_from}.")


def check_split(split: str) -> None:
    """Raises ValueError where held-out pairs have no such name."""
    if split not in SPLITS:
        raise ValueError(f"--split must be valid or test. Received: {split!r}.")


def check_compared(folders: Sequence[Path]) -> None:
    """Raises ValueError where there is nothing to compare."""
    if len(set(folders)) < 2:
        raise ValueError(f"compare needs at least two runs. Received: {', '.join(map(str, folders))}.")


def check_average(output: Path, last: int | None, best: int | None) -> None:
    """Raises ValueError where neither or both of `last` and `best` are asked for, or `output` exists."""
    if (last is None) == (best is None):
        raise ValueError(f"average needs --last or --best, one of them. Received: --last {last} --best {best}.")
    if output.exists():
        raise ValueError(f"{output}: exists already; name another folder.")


def check_distilled(output: Path) -> None:
    """Raises ValueError where `output` is no folder for a student's data: new, empty, or left by an interruption."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: the output must be a folder. Received: a file.")
    for path in output.iterdir() if output.is_dir() else ():
        name = path.name.removeprefix(".").removesuffix(".writing")  # of a file that was half written
        if name not in _OF_DISTILL or path.name == DISTILLED:
            raise ValueError(
                f"{output}: must be an empty folder, or hold what an interrupted distill left; name another one. "
                f"Received: a folder with {path.name}.")


def with_hypotheses(run: Run, num_hypotheses: int) -> Run:
    """The recipe with so many answers a line. Raises ValueError where the beam holds fewer."""
    if not 1 <= num_hypotheses <= run.decode.beam_size:
        raise ValueError(
            f"--n-best must be from 1 to the recipe's decode.beam_size = {run.decode.beam_size}. "
            f"Received: {num_hypotheses}.")
    return run.model_copy(update={"decode": run.decode.model_copy(update={"num_hypotheses": num_hypotheses})})


def check_prediction(
    source: Path | None, output: Path | None, num_hypotheses: int, output_format: str, workers: int | None,
    replicas: int | None,
) -> None:
    """Raises ValueError where `predict` cannot do what it is asked for; arguments of `tfseq2seq.runs.predict_file`."""
    if output_format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}. Received: {output_format!r}.")
    if output_format == "text" and num_hypotheses > 1:
        raise ValueError(
            "--format text holds one hypothesis a line; give tsv or jsonl. "
            f"Received: --n-best {num_hypotheses}.")
    check_devices(workers, replicas)
    if output is not None and not output.parent.is_dir():
        raise ValueError(f"{output.parent}: no such folder for the output.")
    if output is not None and output.is_dir():
        raise ValueError(f"{output}: the output must be a file. Received: a folder.")
    if source is not None and (not source.exists() or source.is_dir()):
        raise ValueError(f"{source}: {'not a file' if source.exists() else 'no such file'}.")
    if source is not None and output is not None and output.exists() and source.samefile(output):
        raise ValueError(f"{output}: is the source too; name another output.")


def check_devices(workers: int | None, replicas: int | None) -> None:
    """Raises ValueError where both several batches on one device and several devices are asked for."""
    if (replicas or 1) > 1 and (workers or 1) > 1:
        raise ValueError(
            "--workers are batches at once on one device, --replicas one batch on each; leave one of them out. "
            f"Received: --workers {workers} --replicas {replicas}.")
