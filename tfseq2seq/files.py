"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Writes UTF-8 text beside `path`, syncs it and renames it into place."""
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent, files=False)


def sync_folder(folder: Path, files: bool = True) -> None:
    """Waits until the disk holds a folder's entries and, with `files`, everything below it."""
    paths = [folder]
    if files:
        paths = [*folder.rglob("*"), folder]
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
