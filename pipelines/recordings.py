"""Recordings on the disk: their bytes as WAV, how long they are, and the manifests that name them."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.audio import FrontEnd
from pipelines.pairs import AnnotatedPair, DataError, Pair
from pipelines.reading import Paths, read_lines, read_pairs
from pipelines.wav import encode_wav


def read_recording(path: str | Path) -> bytes:
    """The bytes of a WAV file, or those of another format (FLAC, Ogg, MP3) made a WAV file of floats.

    Raises:
        DataError: there is no such file, it cannot be read, or the package soundfile is needed and missing.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such recording.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if content[:4] == b"RIFF":
        return content
    soundfile = _soundfile(path)
    try:
        return encode_wav(*soundfile.read(str(path), dtype="float32"))
    except soundfile.SoundFileError as error:
        raise DataError(f"{path}: no recording that can be read: {error}") from error


def measure_recording(path: str | Path) -> tuple[int, int]:
    """Samples of each channel, and their rate in Hz, by the header. Raises as `read_recording`."""
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"RIFF":
                found = _measure_wav(file)
                if found is None:
                    raise DataError(f"{path}: not a whole WAV file: it has no format or no samples.")
                return found
    except FileNotFoundError:
        raise DataError(f"{path}: no such recording.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    soundfile = _soundfile(Path(path))
    try:
        about = soundfile.info(str(path))
    except soundfile.SoundFileError as error:
        raise DataError(f"{path}: no recording that can be read: {error}") from error
    return about.frames, about.samplerate


def num_frames(front_end: FrontEnd, path: str) -> int:
    """Frames of a recording, by its header. Raises as `read_recording`."""
    num_samples, rate = measure_recording(path)
    return front_end.num_frames(-(-num_samples * front_end.audio.sample_rate // rate))


def read_manifest(paths: Paths) -> list[Pair]:
    """(path of a recording, text) pairs of a .tsv or .jsonl file, plain or .gz.

    .tsv: path<TAB>text, further columns are ignored. .jsonl: objects with "audio" and "text", or with "source" and
    "target". A path is seen from the manifest's folder, or else from the one above it.

    Raises:
        DataError: as `read_pairs`, there are several files, or a recording is missing.
    """
    names = [paths] if isinstance(paths, str) else list(paths)
    if len(names) != 1:
        raise DataError(f"A manifest of recordings is one .tsv or .jsonl file (or .gz of it). Received: {names}.")
    name, kind = names[0], names[0].removesuffix(".gz").rpartition(".")[2]
    pairs = _jsonl(name) if kind == "jsonl" else read_pairs(name)
    folder, found = Path(name).parent, []
    for number, pair in enumerate(pairs, start=1):
        path = next((each for each in (folder / pair[0], folder.parent / pair[0]) if each.is_file()), None)
        if path is None:
            raise DataError(
                f"{name}:{number}: no such recording; its path is seen from the manifest's folder. Received: "
                f"{pair[0]!r}.")
        row = str(path.resolve()), pair[1]
        found.append(AnnotatedPair(*row, **pair.notes()) if isinstance(pair, AnnotatedPair) else row)
    return found


def filter_durations(
    pairs: Iterable[Pair], shortest: float, longest: float | None,
) -> tuple[list[Pair], int]:
    """Leaves out recordings of fewer or more seconds.

    Returns:
        What is left, and how many pairs were left out.
    """
    found, left_out = [], 0
    for pair in pairs:
        num_samples, rate = measure_recording(pair[0])
        fits = shortest <= num_samples / rate <= (float("inf") if longest is None else longest)
        left_out += not fits
        if fits:
            found.append(pair)
    return found, left_out


def _jsonl(name: str) -> list[Pair]:
    """As `read_pairs`, where the objects may also name "audio" and "text"."""
    lines = read_lines(name)
    try:
        rows = [json.loads(line) for line in lines]
    except ValueError:
        return read_pairs(name)  # which says where
    if not all(isinstance(row, dict) and "audio" in row for row in rows):
        return read_pairs(name)
    pairs: list[Pair] = []
    for number, row in enumerate(rows, start=1):
        pair: Any = (row["audio"], row.get("text"))
        if not all(isinstance(each, str) for each in pair):
            raise DataError(
                f'{name}:{number}: needed is {{"audio": "path", "text": "..."}}. Received: {lines[number - 1][:60]!r}.')
        pairs.append(pair)
    return pairs


def _measure_wav(file: BinaryIO) -> tuple[int, int] | None:
    """As `decode_wav` finds the chunks of a file whose first 4 bytes were read."""
    size = file.seek(0, 2)
    file.seek(12)
    form = b""
    while len(head := file.read(8)) == 8:
        name, inside = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"fmt ":
            form = file.read(inside)
            file.seek(inside % 2, 1)
        elif name == b"data" and len(form) >= 16:
            channels, rate, bits = struct.unpack("<2xHI6xH", form[:16])
            if not channels * rate * (bits // 8):
                return None
            return min(inside, size - file.tell()) // (channels * (bits // 8)), rate
        else:
            file.seek(inside + inside % 2, 1)
    return None


def _soundfile(path: Path) -> Any:
    try:
        import soundfile
    except ImportError:
        raise DataError(
            f"{path}: not a WAV file; others, as FLAC, need the package soundfile: pip install 'tfseq2seq[audio]'."
        ) from None
    return soundfile
