"""Checksums of all files of a version, in the format of `sha256sum`."""

import hashlib
from pathlib import Path

from serving.folders import EXTRA

CHECKSUMS = Path(EXTRA) / "SHA256SUMS"  # `sha256sum --check assets.extra/SHA256SUMS`, in the version's folder


def write_checksums(folder: Path) -> None:
    """Writes `CHECKSUMS` over every other file below `folder`."""
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in _files(folder)]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: Path) -> int:
    """Reads every file.

    Returns:
        The number of files.
    Raises:
        ValueError: a file was changed, is missing or was added, or there are no checksums.
    """
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except FileNotFoundError:
        raise ValueError(f"{folder}: has no {CHECKSUMS}; it is of an older release: export it again.") from None
    except ValueError as error:
        raise ValueError(f"{folder / CHECKSUMS}: needs lines of a checksum, two spaces and a name.") from error
    found = _files(folder)
    problems = [
        *(f"{name} is missing" for name in expected if name not in found),
        *(f"{name} was added" for name in found if name not in expected),
        *(f"{name} was changed" for name in found if name in expected and _sha256(folder / name) != expected[name])]
    if problems:
        raise ValueError(f"{folder}: is not what was exported: {', '.join(problems)}. Copy or export it again.")
    return len(found)


def _files(folder: Path) -> list[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path != CHECKSUMS)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
