"""Reads lines and pairs of local files; what is wrong with a file is said in one line.

Text is UTF-8, a byte order mark is taken off, lines end with "\\n" or "\\r\\n" and nothing else (so the
line counts are those of `wc -l`), and any file may be compressed as .gz.
"""

import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

from pipelines.pairs import DataError, Pair

Paths = str | list[str]
PAIR_FILES = (".tsv", ".jsonl")
_SNIFFED = 8192  # bytes in which a NUL says that a file is not text


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file, plain or .gz, without their ends.

    Raises:
        DataError: the file is missing, empty, binary, not UTF-8, or a damaged .gz.
    """
    path = Path(path)
    content = _read_bytes(path)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{path}: not UTF-8 but UTF-16 at byte 0, line 1; convert it with `iconv -f UTF-16 -t UTF-8`.")
    if content.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: compressed with gzip; give it a name that ends with .gz.")
    if b"\0" in content[:_SNIFFED]:
        offset = content.index(b"\0")
        raise DataError(f"{path}: a binary file; needed is UTF-8 text. Received: a NUL at byte {offset}.")
    start = 3 if content.startswith(b"\xef\xbb\xbf") else 0
    try:
        text = content[start:].decode()
    except UnicodeDecodeError as error:
        offset = start + error.start
        line = content.count(b"\n", 0, offset) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8; convert the file, for example with `iconv -f LATIN1 -t UTF-8`. "
            f"Received: byte 0x{content[offset]:02x} at offset {offset}.") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty; it needs at least one line.")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def read_pairs(paths: Paths) -> list[Pair]:
    """Pairs of one .tsv or .jsonl file, or of a source and a target file with as many lines.

    .tsv: source<TAB>target, further columns are ignored. .jsonl: objects with "source" and "target".

    Args:
        paths: the file, or [source file, target file].
    Raises:
        DataError: as `read_lines`, or a column is missing, or the line counts differ.
    """
    names = [paths] if isinstance(paths, str) else list(paths)
    kinds = [Path(name).name.removesuffix(".gz").rpartition(".")[2] for name in names]
    if len(names) == 1:
        if kinds == ["tsv"]:
            return _tsv(names[0], read_lines(names[0]))
        if kinds == ["jsonl"]:
            return _jsonl(names[0], read_lines(names[0]))
    elif len(names) == 2 and not {"tsv", "jsonl"} & set(kinds):
        source, target = read_lines(names[0]), read_lines(names[1])
        if len(source) != len(target):
            raise DataError(
                f"{names[0]} and {names[1]} must have as many lines: line n of one belongs to line n of "
                f"the other. Received: {len(source):,} and {len(target):,} lines.")
        return list(zip(source, target))
    raise DataError(
        "Pairs are read of one .tsv or .jsonl file (or .gz of it), or of two plain text files, as "
        f"[source, target]. Received: {', '.join(map(repr, names)) or 'no file'}.")


def find_split(folder: Path, name: str) -> str | None:
    """The one file of `folder` that holds a split, as train.tsv.gz; None where there is none."""
    candidates = [folder / f"{name}{kind}{packed}" for kind in PAIR_FILES for packed in ("", ".gz")]
    found = [path for path in candidates if path.exists()]
    if len(found) > 1:
        raise DataError(
            f"{folder}: one {name} file is needed. Received: {', '.join(path.name for path in found)}.")
    return str(found[0]) if found else None


def _read_bytes(path: Path) -> bytes:
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if not path.is_file() and not path.is_fifo():
        raise DataError(f"{path}: not a file.")
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole .gz file: {error}.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _tsv(name: str, lines: Iterable[str]) -> list[Pair]:
    pairs = []
    for number, line in enumerate(lines, start=1):
        columns = line.split("\t", 2)
        if len(columns) < 2:
            raise DataError(
                f"{name}:{number}: a column is missing; needed is source<TAB>target. "
                f"Received: {_short(line)}.")
        pairs.append((columns[0], columns[1]))
    return pairs


def _jsonl(name: str, lines: Iterable[str]) -> list[Pair]:
    pairs = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}:{number}: not JSON: {error}. Received: {_short(line)}.") from error
        source, target = (row.get("source"), row.get("target")) if isinstance(row, dict) else (None, None)
        if not isinstance(source, str) or not isinstance(target, str):
            raise DataError(
                f"{name}:{number}: a column is missing; needed is "
                f'{{"source": "...", "target": "..."}}. Received: {_short(line)}.')
        pairs.append((_whole(source), _whole(target)))
    return pairs


def _whole(text: str) -> str:
    """Half a surrogate pair, which JSON may hold but UTF-8 may not, becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")
