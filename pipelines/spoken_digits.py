"""The Free Spoken Digit Dataset: the recordings of its archive, unpacked beside it, and the official split."""

import hashlib
import io
import os
import re
import shutil
import wave
import zipfile
from pathlib import Path

from pipelines.pairs import DataError, Splits
from tfseq2seq.files import sync_folder

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHA256 = "9cf8f81a39143c0697c466f592e0b31bb59a78dad470e8cb97448667e650b3c7"  # of all recordings, see `checksum`
_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<number>\d+)\.wav")
_TEST, _VALID = 5, 8  # recordings of a speaker and a digit below these numbers; the first is the official test set


def read_spoken_digits(archive: Path, pair: str | None = None, sha256: str = SHA256) -> Splits:
    """Paths of recordings, and the digit's name.

    Args:
        archive: the repository as a .zip file; a folder beside it gets the recordings.
        pair: of no meaning here.
        sha256: of all recordings.
    Raises:
        DataError: the archive holds other recordings.
    """
    folder = archive.with_name("recordings")
    if not folder.is_dir():
        temporary = archive.with_name(".recordings.unpacking")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                if "/recordings/" in name and _NAME.fullmatch(Path(name).name):
                    (temporary / Path(name).name).write_bytes(packed.read(name))
        sync_folder(temporary)
        os.replace(temporary, folder)
    names = sorted(path.name for path in folder.iterdir())
    received = checksum(folder, names)
    if received != sha256:
        raise DataError(
            f"{archive}: holds {len(names):,} recordings, and not those of the data set's version 1.0.10. Remove "
            f"{archive.parent} to fetch it anew. Received: SHA-256 {received}.")
    return split(folder, names)


def split(folder: Path, names: list[str]) -> Splits:
    """The official test recordings, 0 to 4 of each speaker and digit; 5 to 7 are valid, the others train."""
    splits = Splits([], [], [])
    for name in names:
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        number = int(found["number"])
        side = splits.test if number < _TEST else splits.valid if number < _VALID else splits.train
        side.append((str(folder / name), DIGITS[int(found["digit"])]))
    return splits


def checksum(folder: Path, names: list[str]) -> str:
    """SHA-256 of names and samples, whatever else a file says of itself."""
    digest = hashlib.sha256()
    for name in names:
        with wave.open(io.BytesIO((folder / name).read_bytes())) as file:
            digest.update(f"{name} {file.getframerate()}\n".encode() + file.readframes(file.getnframes()))
    return digest.hexdigest()
