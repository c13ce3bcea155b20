"""Recordings of speech into what is said."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.pairs import Pair
from pipelines.tasks.base import Task
from tfseq2seq.config import Audio

NUM_RECORDINGS = 3000  # training recordings that the baseline looks at
SEGMENTS = 16  # of a recording, each as long as the others
AT_ONCE = 32  # recordings whose features are computed together
AUDIO = Audio(sample_rate=8000, mel_bins=20)


def nearest_recording(train: Sequence[Pair], sources: Sequence[str]) -> list[str]:
    """What is said in the training recording that sounds most alike.

    A recording is cut into `SEGMENTS` parts of equal length; the mean log-mel features of each, to mean 0 and variance
    1 over the parts, are its coordinates.

    Args:
        train: (path, text) pairs.
        sources: N paths.
    Returns:
        N texts.
    """
    from pipelines.audio import FrontEnd  # which loads TensorFlow; a task's name is asked for before

    step = -(-len(train) // NUM_RECORDINGS)
    known = train[::step]
    front_end = FrontEnd(AUDIO.model_copy(update={"normalization": "none"}))
    places, wanted = (_places(front_end, paths) for paths in ([path for path, _ in known], sources))
    return [known[int(np.square(places - place).sum(1).argmin())][1] for place in wanted]


def _places(front_end: Any, paths: Sequence[str]) -> np.ndarray:
    """[N, coordinates] of recordings."""
    from pipelines.recordings import read_recording

    found = []
    for start in range(0, len(paths), AT_ONCE):
        contents = [read_recording(path) for path in paths[start : start + AT_ONCE]]
        for features in front_end.features(contents):
            edges = np.linspace(0, len(features), SEGMENTS + 1)
            parts = np.array([
                features[int(first) : max(int(first) + 1, int(last))].mean(0) for first, last in zip(edges, edges[1:])])
            found.append(((parts - parts.mean(0)) / (parts.std(0) + 1e-3)).ravel())
    return np.array(found)


def _tenths(path: str) -> int:
    """How long a recording is, in tenths of a second."""
    from pipelines.recordings import measure_recording

    num_samples, rate = measure_recording(path)
    return round(10 * num_samples / rate)


SPEECH = Task(
    name="speech",
    metrics=("token_error_rate", "character_error_rate"),
    multiple_references=False,
    max_ratio=float("inf"),
    measure_source=_tenths,
    measure_target=len,  # characters
    baseline=nearest_recording,
    baseline_name="nearest recording",
)
