"""The recipe of a run as TensorBoard's HPARAMS tab wants it, where runs are compared."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import api, api_pb2, metadata, summary

from tfseq2seq.config import Run, flatten

SUFFIX = ".v2.hparams"  # of the event file
LEFT_OUT = ("name", "export")  # they change no figure


def write_hparams(run: Run, tags: Sequence[str], folder: Path) -> None:
    """Writes the recipe's keys, and which scalars are to be compared, into an event file of their own.

    A resumed run leaves that file as it is, or replaces it where a key has changed: of several TensorBoard believes the
    one that it read first. To be called before the folder's other event file is made, as one of TensorBoard's loaders
    follows none but the newest.

    Args:
        run: the recipe. Of the model's and the training's keys those that are not at their default come first.
        tags: of the scalars, the most telling one first.
        folder: TensorBoard's folder of the run.
    """
    values = hparams_of(run)
    written = sorted(folder.glob(f"*{SUFFIX}"))
    if len(written) == 1 and _read(written[0]) == _normal(values):
        return
    for path in written:
        path.unlink()
    defaults = flatten(Run(name=run.name).model_dump(mode="json"))
    infos = [_info(key, value, defaults) for key, value in _recipe(run).items()]
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in tags]
    # Shown as the name of a row; runs of the same name and keys are repetitions, which share one.
    trial = f"{run.name} {hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]}"
    writer = tf.summary.create_file_writer(str(folder), filename_suffix=SUFFIX)
    with writer.as_default(step=0):
        for part in (summary.experiment_pb(infos, metrics), api.hparams_pb(values, trial_id=trial)):
            tf.summary.experimental.write_raw_pb(part.SerializeToString())
    writer.close()


def hparams_of(run: Run) -> dict[str, bool | float | str]:
    """The recipe's keys, as "train.learning_rate"; lists as JSON, and no key that is not set."""
    return {
        key: json.dumps(value) if isinstance(value, list) else value
        for key, value in _recipe(run).items() if value is not None}


def _recipe(run: Run) -> dict[str, Any]:
    values = flatten(run.model_dump(mode="json"))
    return {key: value for key, value in values.items() if key.split(".")[0] not in LEFT_OUT}


def _info(key: str, value: Any, defaults: dict[str, Any]) -> api_pb2.HParamInfo:
    # TensorBoard puts what "differs" first; data and search are mostly those of the other runs.
    differs = key.startswith(("model.", "train.")) and value != defaults.get(key)
    info = api_pb2.HParamInfo(name=key, differs=differs)
    if isinstance(value, bool):
        info.type = api_pb2.DATA_TYPE_BOOL
        info.domain_discrete.extend([False, True])
    elif isinstance(value, int | float):
        info.type = api_pb2.DATA_TYPE_FLOAT64
    elif value is not None:
        info.type = api_pb2.DATA_TYPE_STRING
    return info


def _read(path: Path) -> dict[str, bool | float | str] | None:
    """The keys that an event file holds."""
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.tag == metadata.SESSION_START_INFO_TAG:
                return _plain(metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content))
    return None


def _normal(values: dict[str, bool | float | str]) -> dict[str, bool | float | str]:
    """What `_read` gives of them."""
    content = api.hparams_pb(values).value[0].metadata.plugin_data.content
    return _plain(metadata.parse_session_start_info_plugin_data(content))


def _plain(info: Any) -> dict[str, bool | float | str]:
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in info.hparams.items()}
