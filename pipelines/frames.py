"""Features of a run's recordings, computed once and kept in its folder; of them batches gather rows."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipelines.audio import FrontEnd
from pipelines.pairs import DataError, Pair
from pipelines.recordings import read_recording
from pipelines.sides import EMPTY
from tfseq2seq.config import Audio

AT_ONCE = 32  # recordings that are computed together
PLAIN = 1.0  # speed

Progress = Callable[[str, float, float | None], None]


def front_end_of(audio: Audio) -> FrontEnd:
    """One that knows no mean of the training data yet."""
    return FrontEnd(audio.model_copy(update={"normalization": "none"}))


def write_frames(
    audio: Audio, train: Sequence[Pair], valid: Sequence[Pair], folder: Path, progress: Progress,
) -> FrontEnd:
    """Computes features, not normalized, of train at all speeds and of valid, and keeps them in `folder`.

    Of each speed there is a file of float32; index.json has the paths, and for each speed how many frames they have.

    Returns:
        The front end, with the mean and deviation of train where the recipe asks for them.
    Raises:
        DataError: a recording is missing or broken.
    """
    front_end = front_end_of(audio)
    folder.mkdir(parents=True)
    paths = list(dict.fromkeys(path for path, _ in [*valid, *train]))
    of_train = {path for path, _ in train}
    paths.sort(key=lambda path: path in of_train)  # stable; those of valid alone first
    rest = [path for path in paths if path in of_train]
    sums = np.zeros([3, audio.mel_bins])  # number of frames, sum, sum of squares
    index: dict[str, object] = {"paths": paths}
    frames: dict[str, list[int]] = {}
    plan = {speed: paths if speed == PLAIN else rest for speed in (PLAIN, *audio.speeds)}
    done, total = 0, sum(map(len, plan.values()))
    for speed, listed in plan.items():
        frames[_name(speed)] = [0] * (len(paths) - len(listed))
        with open(folder / _name(speed), "wb") as file:
            for start in range(0, len(listed), AT_ONCE):
                some = listed[start : start + AT_ONCE]
                for path, features in zip(some, _features(front_end, some, speed), strict=True):
                    frames[_name(speed)].append(len(features))
                    file.write(np.ascontiguousarray(features, np.float32).tobytes())
                    if path in of_train:
                        sums += [np.full(audio.mel_bins, len(features)), features.sum(0), np.square(features).sum(0)]
                done += len(some)
                progress("computing features", done, total)
    (folder / "index.json").write_text(json.dumps(index | {"frames": frames}), encoding="utf-8")
    if audio.normalization != "global":
        return FrontEnd(audio)
    mean = sums[1] / sums[0]
    deviation = np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 1e-5))
    return FrontEnd(audio, mean, deviation)


def _features(front_end: FrontEnd, paths: Sequence[str], speed: float) -> list[np.ndarray]:
    contents = [read_recording(path) for path in paths]
    try:
        return front_end.features(contents, speed)
    except ValueError:
        raise
    except Exception as error:
        for path, content in zip(paths, contents, strict=True):
            try:
                front_end.features([content], speed)
            except Exception as own:
                raise DataError(f"{path}: no WAV file that can be read: {_reason(own)}.") from own
        raise error


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "assertion failed" in line]
    return (lines[0] if lines else str(error).splitlines()[0]).rstrip(".")


def _name(speed: float) -> str:
    return f"{speed:.2f}"


class Frames:
    """What `write_frames` left in a folder.

    Args:
        folder: of the files.
        front_end: normalizes the features.
    """

    def __init__(self, folder: Path, front_end: FrontEnd):
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.front_end = front_end
        self.places = {path: place for place, path in enumerate(index["paths"])}
        width = front_end.vocabulary_size
        self.lengths = {name: np.array(lengths, np.int64) for name, lengths in index["frames"].items()}
        self.starts = {name: np.cumsum(lengths) - lengths for name, lengths in self.lengths.items()}
        self.values = {
            name: np.memmap(folder / name, np.float32, "r").reshape(-1, width) for name in self.lengths}

    def side(self, pairs: Sequence[Pair], for_training: bool) -> "FrameSide":
        """The recordings of some pairs, at the recipe's speeds or at their own."""
        speeds = self.front_end.audio.speeds if for_training else [PLAIN]
        return FrameSide(self, np.array([self.places[path] for path, _ in pairs]), [_name(speed) for speed in speeds])


class FrameSide:
    """The source side of pairs whose sources are recordings, each played at a speed that is drawn for each batch anew.

    Frames take the place of tokens, and the last of them that of the end token. One that is longer at the speed drawn
    than the batch has room for is played at the first of the speeds that fits, or as it is.

    Args:
        frames: of the run.
        places: [N] int, numbers of the pairs' recordings there.
        speeds: names of speeds there.
    Attributes:
        lengths: [N] int64, frames at the recordings' own speed without the last.
        num_features: of a frame, the one that says whether it is real not among them.
    """

    def __init__(self, frames: Frames, places: np.ndarray, speeds: Sequence[str]):
        self._frames, self._places, self._speeds = frames, np.append(places, -1), list(speeds)  # the last for EMPTY
        own = frames.lengths[_name(PLAIN)][places]
        self._of_speeds = np.array([frames.lengths[speed][places] for speed in self._speeds])  # [speeds, N]
        self.lengths, self.num_features = own - 1, frames.front_end.vocabulary_size

    def longest_below(self, limit: int) -> np.ndarray:
        """[N] int64, frames without the last that each recording has room for, at most limit - 1 where a speed fits."""
        room = np.where(self._of_speeds <= limit, self._of_speeds, 0).max(0)
        return np.where(room > 0, room - 1, self.lengths)

    def gather(self, rows: np.ndarray, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Features [R, length, mel_bins + 1] as `FrontEnd.read` gives them, and what is real [R, length] bool."""
        drawn = np.random.RandomState(seed).randint(len(self._speeds), size=len(rows))
        values, real = np.zeros([len(rows), length, self.num_features], np.float32), np.zeros([len(rows), length], bool)
        for i, row in enumerate(rows.tolist()):
            if row == EMPTY:
                continue
            fitting = [
                speed for speed, count in zip(self._speeds, self._of_speeds[:, row], strict=True) if count <= length]
            speed = self._speeds[drawn[i]]
            if speed not in fitting:
                speed = fitting[0] if fitting else _name(PLAIN)
            place = self._places[row]
            start, count = self._frames.starts[speed][place], self._frames.lengths[speed][place]
            values[i, :count], real[i, :count] = self._frames.values[speed][start : start + count], True
        normalized = self._frames.front_end.normalize(values, real)
        mask = real[:, :, None].astype(np.float32)
        return np.concatenate([np.asarray(normalized) * mask, mask], 2), real
