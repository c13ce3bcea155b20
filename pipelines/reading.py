"""Reads lines and pairs of local files; what is wrong with a file is said in one line.

Text is UTF-8, a byte order mark is taken off, lines end with "\\n" or "\\r\\n" and nothing else (so the
line counts are those of `wc -l`), and any file may be compressed as .gz.
"""

import codecs
import gzip
import io
import json
import math
import string
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.pairs import AnnotatedPair, DataError, Pair

Paths = str | list[str]
PAIR_FILES = (".tsv", ".jsonl")
_SNIFFED = 8192  # bytes in which a NUL says that a file is not text
_BUFFER = 1 << 20  # bytes read at once


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file, plain or .gz, without their ends.

    Raises:
        DataError: the file is missing, empty, binary, not UTF-8, or a damaged .gz.
    """
    lines = list(stream_lines(path))
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: the file is empty; it needs at least one line.")
    return lines


def stream_lines(path: str | Path) -> Iterator[str]:
    """The lines of a text file one by one, plain or .gz, so that a file of any size takes little memory.

    An empty file has no lines, which is no error here.

    Raises:
        DataError: the file is missing, binary, not UTF-8, or a damaged .gz.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if path.is_dir():
        raise DataError(f"{path}: not a file.")
    try:
        with io.BufferedReader(io.FileIO(path), _BUFFER) as file:
            if path.suffix == ".gz":
                with gzip.open(file) as unpacked:
                    yield from decode_lines(io.BufferedReader(unpacked, _BUFFER), str(path))
            else:
                yield from decode_lines(file, str(path))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole .gz file: {error}.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


def decode_lines(file: Any, name: str) -> Iterator[str]:
    """The lines of an open file, such as `sys.stdin.buffer`, without their ends; each as soon as it is whole.

    Args:
        file: `io.BufferedReader` of UTF-8 text.
        name: what errors call it.
    Raises:
        DataError: the bytes are compressed, binary or not UTF-8.
    """
    start = file.peek(_SNIFFED)[:_SNIFFED]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{name}: not UTF-8 but UTF-16 at byte 0, line 1; convert it with `iconv -f UTF-16 -t UTF-8`.")
    if start.startswith(b"\x1f\x8b"):
        raise DataError(
            f"{name}: compressed with gzip; give it a name that ends with .gz, or unpack it with `gzip -dc`.")
    if b"\0" in start:
        offset = start.index(b"\0")
        raise DataError(f"{name}: a binary file; needed is UTF-8 text. Received: a NUL at byte {offset}.")
    offset = 0
    if start.startswith(codecs.BOM_UTF8):
        offset = len(file.read(len(codecs.BOM_UTF8)))
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}:{number}: not UTF-8; convert the file, for example with `iconv -f LATIN1 -t UTF-8`. "
                f"Received: byte 0x{line[error.start]:02x} at offset {offset + error.start}.") from error
        offset += len(line)
        yield text.removesuffix("\n").removesuffix("\r")


def split_sources(line: str, separator: str | None) -> list[str]:
    """The sources of one line, without the white space around them; the line itself where there is no separator."""
    if separator is None:
        return [line]
    # The white space of `tf.strings.strip`: training and the served graph must cut alike.
    return [source.strip(string.whitespace) for source in line.split(separator)]


def read_pairs(paths: Paths, separator: str | None = None) -> list[Pair]:
    """Pairs of one .tsv or .jsonl file, or of source files and a target file with as many lines.

    .tsv: source<TAB>target, further columns are ignored. .jsonl: objects with "source", a string or a list of
    strings, "target", and perhaps "weight", of the pair in the loss, and "tags", a list of words that are put before
    the source. Several sources become one line, with the separator between them.

    Args:
        paths: the file, or [source file, target file], or [source file, source file, ..., target file].
        separator: what stands between the sources of one line; None where every line is one source.
    Raises:
        DataError: as `read_lines`, or a column is missing, or the line counts differ, or there are several
            sources and no separator, or one of them holds it.
    """
    names = [paths] if isinstance(paths, str) else list(paths)
    kinds = [pair_kind(name) for name in names]
    if len(names) == 1:
        if kinds[0] is not None:
            return [
                parse_pair(kinds[0], f"{names[0]}:{number}", line, separator)
                for number, line in enumerate(read_lines(names[0]), start=1)]
    elif (len(names) == 2 or len(names) > 2 and separator is not None) and not any(kinds):
        return _line_by_line(names, separator)
    raise DataError(
        "Pairs are read of one .tsv or .jsonl file (or .gz of it), or of two plain text files, as [source, target], "
        "or with data.source_separator of more, as [source, source, target]. "
        f"Received: {', '.join(map(repr, names)) or 'no file'}.")


def pair_kind(path: str) -> str | None:
    """"tsv" or "jsonl", by the ending of a file's name; None of other files."""
    ending = path.removesuffix(".gz").rpartition("/")[2].rpartition(".")[2]
    return ending if f".{ending}" in PAIR_FILES else None


def find_split(folder: Path, name: str) -> str | None:
    """The one file of `folder` that holds a split, as train.tsv.gz; None where there is none."""
    candidates = [folder / f"{name}{kind}{packed}" for kind in PAIR_FILES for packed in ("", ".gz")]
    found = [path for path in candidates if path.exists()]
    if len(found) > 1:
        raise DataError(
            f"{folder}: one {name} file is needed. Received: {', '.join(path.name for path in found)}.")
    return str(found[0]) if found else None


def _line_by_line(names: list[str], separator: str | None) -> list[Pair]:
    *sources, target = (read_lines(name) for name in names)
    for name, lines in zip(names, sources):
        if len(lines) != len(target):
            raise DataError(
                f"{name} and {names[-1]} must have as many lines: line n of one belongs to line n of "
                f"the other. Received: {len(lines):,} and {len(target):,} lines.")
    if len(sources) == 1:
        return list(zip(sources[0], target))
    return [
        (_joined(f"{names[0]}:{number}", columns, separator), text)
        for number, (*columns, text) in enumerate(zip(*sources, target), start=1)]


def _joined(where: str, sources: Sequence[str], separator: str | None) -> str:
    """One line of which `split_sources` gives back the sources."""
    if separator is None:
        raise DataError(
            f"{where}: a list of sources needs data.source_separator, which then stands between them. "
            f"Received: {len(sources)} sources.")
    line = f" {separator} ".join(sources)
    if split_sources(line, separator) != [source.strip(string.whitespace) for source in sources]:
        raise DataError(
            f"{where}: a source holds the separator {separator!r}; set another data.source_separator. "
            f"Received: {_short(line)}.")
    return line


def parse_pair(kind: str, where: str, line: str, separator: str | None) -> Pair:
    """The pair of one line.

    Args:
        kind: "tsv" or "jsonl", see `read_pairs`.
        where: the line is, for errors.
        line: without its end.
        separator: as of `read_pairs`.
    Raises:
        DataError: as `read_pairs`.
    """
    return (_tsv if kind == "tsv" else _jsonl)(where, line, separator)


def _tsv(where: str, line: str, separator: str | None) -> Pair:
    columns = line.split("\t", 2)
    if len(columns) < 2:
        raise DataError(
            f"{where}: a column is missing; needed is source<TAB>target. Received: {_short(line)}.")
    return columns[0], columns[1]


def _jsonl(where: str, line: str, separator: str | None) -> Pair:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}. Received: {_short(line)}.") from error
    source, target = (row.get("source"), row.get("target")) if isinstance(row, dict) else (None, None)
    if isinstance(source, list) and source and all(isinstance(each, str) for each in source):
        source = _joined(where, source, separator)
    if not isinstance(source, str) or not isinstance(target, str):
        raise DataError(
            f"{where}: a column is missing; needed is "
            f'{{"source": "...", "target": "..."}}. Received: {_short(line)}.')
    pair: Pair = (_whole(source), _whole(target))
    weight = row.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise DataError(f"{where}: a weight must be a number of at least 0. Received: {_short(line)}.")
    tags = row.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.split() == [tag] for tag in tags):
        raise DataError(f"{where}: tags must be a list of strings without white space. Received: {_short(line)}.")
    if weight == 1 and not tags:
        return pair
    return AnnotatedPair(" ".join([*tags, pair[0]]), pair[1], weight=float(weight), tags=tags)


def _whole(text: str) -> str:
    """Half a surrogate pair, which JSON may hold but UTF-8 may not, becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")
