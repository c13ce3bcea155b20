"""Descriptions and code, as the data sets' own files have them."""

import re
import zipfile
from pathlib import Path

from pipelines.held_out import side
from pipelines.pairs import DataError, Splits
from pipelines.reading import read_lines

DJANGO_SPLIT = 16_000, 1_000  # train and valid, in the order of the file; the other 1,805 are test
_EXAMPLE = re.compile(r"^- (?P<purpose>.+?):?\s*\n+`(?P<command>[^`\n]+)`", re.M)
_OPTIONS = re.compile(r"\{\{\[([^|\]]+)\|([^\]]+)\]\}\}")  # a short and a long one, as {{[-r|--recursive]}}


def read_nl2bash(descriptions: Path, commands: Path, pair: str | None = None) -> Splits:
    """What a line of Bash is to do, and the line. Equal descriptions are on one side; about 8 % each are held out."""
    splits = Splits([], [], [])
    for description, command in zip(*_same_number(descriptions, commands)):
        text = " ".join(description.split())
        if text and command.strip():
            side(splits, text.lower(), valid=0.08, test=0.08).append((text, command.strip()))
    return splits


def read_django(annotations: Path, code: Path, pair: str | None = None) -> Splits:
    """Pseudo-code and the line of Python, in the usual split by position."""
    pairs = [
        (" ".join(annotation.split()), line.strip()) for annotation, line in zip(*_same_number(annotations, code))]
    train, valid = DJANGO_SPLIT
    return Splits(pairs[:train], pairs[train : train + valid], pairs[train + valid :])


def read_tldr(path: Path, pair: str | None = None) -> Splits:
    """"command: purpose" and the line to type, placeholders in double braces, from the English pages.

    Of a short and a long option the long one is taken. A command is on one side; about 4 % each are held out.
    """
    splits = Splits([], [], [])
    seen = set()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            folder = name.split("/")
            if not name.endswith(".md") or len(folder) < 3 or folder[-3] != "pages":
                continue
            page = archive.read(name).decode("utf-8")
            title = page.partition("\n")[0].removeprefix("#").strip()
            for found in _EXAMPLE.finditer(page):
                example = (
                    f"{title}: {found['purpose'].strip()}", _OPTIONS.sub(r"\2", found["command"]).strip())
                if example not in seen:
                    seen.add(example)
                    side(splits, title, valid=0.04, test=0.04).append(example)
    return splits


def _same_number(*paths: Path) -> list[list[str]]:
    lines = [read_lines(path) for path in paths]
    if len({len(each) for each in lines}) > 1:
        raise DataError(
            "Two files of a data set must have as many lines. Received: "
            + ", ".join(f"{path.name} with {len(each):,}" for path, each in zip(paths, lines)) + ".")
    return lines
