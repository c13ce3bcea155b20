"""Descriptions of Debian's packages, from the lists Translation-LANGUAGE that apt reads."""

import bz2
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipelines.held_out import side
from pipelines.pairs import Pair, Splits

LISTED = ("*", "-", "+", "o ", "·", "•")  # how the lines of a list begin
SHORTEST = 8  # words of a paragraph that is worth a summary


class Description(NamedTuple):
    """What is told of a package.

    Attributes:
        package: its name.
        digest: MD5 of the English description, which a translation is of.
        synopsis: a line.
        paragraphs: the text below it; None in the place of a list or a table.
    """

    package: str
    digest: str
    synopsis: str
    paragraphs: list[str | None]


def read_descriptions(english: Path, other: Path, pair: str | None) -> Splits:
    """Synopses and paragraphs in English and another language, or the other way round.

    Paragraphs are paired where a description has as many in both; what was left untranslated is left out. A package is
    on the side of its first paragraph, which those of one source have in common. About 3 % each are valid and test.
    """
    translated = {(each.package, each.digest): each for each in _read(other)}
    splits = Splits([], [], [])
    seen: set[Pair] = set()
    for each in _read(english):
        found = translated.get((each.package, each.digest))
        if found is None:
            continue
        texts: list[tuple[str | None, str | None]] = [(each.synopsis, found.synopsis)]
        if len(each.paragraphs) == len(found.paragraphs):
            texts += zip(each.paragraphs, found.paragraphs)
        chosen = side(splits, _group(each), valid=0.03, test=0.03)
        for one, two in texts:
            if one and two and one != two:
                aligned = (two, one) if (pair or "").endswith("-en") else (one, two)
                if aligned not in seen:
                    seen.add(aligned)
                    chosen.append(aligned)
    return splits


def read_synopses(english: Path, pair: str | None) -> Splits:
    """First paragraphs of at least 8 words, each once, and the synopsis. About 4 % each are valid and test."""
    splits = Splits([], [], [])
    seen = set()
    for each in _read(english):
        first = each.paragraphs[0] if each.paragraphs else None
        if first is None or len(first.split()) < SHORTEST or first in seen:
            continue
        seen.add(first)
        side(splits, first, valid=0.04, test=0.04).append((first, each.synopsis))
    return splits


def _group(each: Description) -> str:
    return next((text for text in each.paragraphs if text), each.package)


def _read(path: Path) -> Iterator[Description]:
    opened = bz2.open if path.suffix == ".bz2" else lzma.open
    with opened(path, "rt", encoding="utf-8") as file:
        fields: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in file:
            line = line.rstrip("\n")
            if not line:
                yield from _description(fields)
                fields = {}
            elif line[0] == " ":
                lines.append(line)
            else:
                key, _, value = line.partition(":")
                if key.startswith("Description-") and key != "Description-md5":
                    key = "Description"  # in whatever language
                lines = fields[key] = [value.strip()]
        yield from _description(fields)


def _description(fields: dict[str, list[str]]) -> Iterator[Description]:
    if {"Package", "Description-md5", "Description"} <= fields.keys():
        synopsis, *text = fields["Description"]
        yield Description(
            fields["Package"][0], fields["Description-md5"][0], " ".join(synopsis.split()), _paragraphs(text))


def _paragraphs(lines: list[str]) -> list[str | None]:
    parts: list[list[str]] = [[]]
    for line in lines:
        if line == " .":
            parts.append([])
        else:
            parts[-1].append(line[1:])
    return [_running(part) for part in parts if part]


def _running(lines: list[str]) -> str | None:
    """The lines as running text; None of a list, or of what is indented because its lines must stay."""
    if any(line.startswith((" ", "\t", *LISTED)) for line in lines):
        return None
    return " ".join(" ".join(lines).split())
