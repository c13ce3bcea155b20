"""Where answers of many lines go: how they are written, and how an interrupted file is gone on with."""

import dataclasses
import fcntl
import gzip
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from tfseq2seq.files import sync_folder, write_atomically
from tfseq2seq.generation import Answer

_BLANKS = str.maketrans("\r\n", "  ")
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class PredictionError(ValueError):
    """An unfinished output cannot be gone on with."""


@dataclasses.dataclass
class Window:
    """Lines that are read, sorted and written together.

    Attributes:
        lines: as they stand in the source.
        answers: of each line its hypotheses, best first.
        num_cut: lines beyond `max_source_length`.
        missing: lines that have no answer yet.
    """

    lines: list[str]
    answers: list[list[Answer]]
    num_cut: int
    missing: int


def render(output_format: str, first: int, window: Window) -> str:
    """A window as it is written.

    text: the best hypothesis of each line, an empty line where there is none; line ends in it become blanks.
    tsv: line number, score and text of each hypothesis; in the text a tab, line feed, carriage return and backslash
    stand as \\t, \\n, \\r and \\\\. jsonl: {"line", "source", "hypotheses": [{"text", "score"}]} of each line.

    Args:
        output_format: one of `tfseq2seq.arguments.FORMATS`.
        first: number of its first line, from 1.
        window: lines and answers.
    """
    rows = []
    for number, (line, answers) in enumerate(zip(window.lines, window.answers, strict=True), start=first):
        if output_format == "text":
            rows.append(answers[0].text.translate(_BLANKS) if answers else "")
        elif output_format == "tsv":
            rows += [f"{number}\t{answer.score:.4f}\t{answer.text.translate(_ESCAPES)}" for answer in answers]
        else:
            hypotheses = [{"text": answer.text, "score": round(answer.score, 6)} for answer in answers]
            rows.append(json.dumps({"line": number, "source": line, "hypotheses": hypotheses}, ensure_ascii=False))
    return "".join(row + "\n" for row in rows)


def packed(data: bytes, name: str) -> bytes:
    """The data as they lie in a file of that name: a member of .gz, the same for the same data, or as they are."""
    return gzip.compress(data, mtime=0) if name.endswith(".gz") else data


class Output(Protocol):
    """Where windows go, in order."""

    num_lines: int  # of the source, that were written by now
    num_cut: int

    def append(self, text: str, num_lines: int, num_cut: int) -> None: ...

    def finish(self) -> None: ...


class StreamOutput:
    """Writes windows to an open binary file, such as standard output, at once; nothing can be gone on with."""

    def __init__(self, file: BinaryIO):
        self.num_lines, self.num_cut, self._file = 0, 0, file

    def append(self, text: str, num_lines: int, num_cut: int) -> None:
        self._file.write(text.encode())
        self._file.flush()
        self.num_lines, self.num_cut = self.num_lines + num_lines, self.num_cut + num_cut

    def finish(self) -> None:
        self._file.flush()


class FileOutput:
    """Grows `path`.part by whole windows and renames it to `path` at the end; any moment may be the last.

    `path`.part.json says how many bytes of `path`.part are whole windows, and of what; bytes beyond were being written
    when the process ended and are cut off. Where `path` ends with .gz, each window is a member of its own, as in
    `cat a.gz b.gz`.

    Args:
        path: the file to be.
        fingerprint: JSON values that all parts of the file must agree in; None where the source cannot be read
            again, then an unfinished file is not gone on with.
        restart: throw an unfinished file away.
    Attributes:
        num_lines: lines of the source that were written by now.
        num_cut: lines of those that were cut.
    Raises:
        PredictionError: another process is writing, or what lies there is of another fingerprint.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, fingerprint: dict[str, Any] | None, restart: bool = False):
        self.path, self._fingerprint = path, fingerprint
        self._part = path.with_name(f"{path.name}.part")
        self._state = path.with_name(f"{path.name}.part.json")
        self.num_lines = self.num_cut = 0
        self._file = open(self._part, "ab")  # `close` closes it
        try:
            self._lock()
            if restart:
                self._state.unlink(missing_ok=True)
            self._file.truncate(self._whole_windows())
            self._file.seek(0, os.SEEK_END)  # `tell` would go on from the old end
        except BaseException:
            self._file.close()
            raise

    @property
    def resumable(self) -> bool:
        """Whether a later call can go on with what is written by now."""
        return self._fingerprint is not None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PredictionError(
                f"{self._part}: another process is writing it; wait for it, or name another output.") from None

    def _whole_windows(self) -> int:
        """Takes up the state that was left; returns the bytes it speaks of."""
        if not self._state.exists():
            return 0
        again = "give --restart to throw it away and begin anew"
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            num_bytes, num_lines, num_cut, found = (state[key] for key in ("bytes", "lines", "cut", "of"))
        except (ValueError, KeyError, TypeError) as error:
            raise PredictionError(f"{self._state}: cannot be read; {again}. Received: {error!r}.") from error
        expected = self._fingerprint or {"source": "no file"}
        changed = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
        if changed:
            differences = ", ".join(f"{key} was {found.get(key)!r}, is {expected.get(key)!r}" for key in changed)
            raise PredictionError(
                f"{self._part}: {num_lines:,} lines of it were made otherwise; {again}, or give what was given "
                f"then. Received: {differences}.")
        if os.fstat(self._file.fileno()).st_size < num_bytes:
            if self.path.exists():  # the process ended between renaming the file and removing the state
                return 0
            raise PredictionError(f"{self._part}: shorter than {self._state.name} says; {again}.")
        self.num_lines, self.num_cut = num_lines, num_cut
        return num_bytes

    def append(self, text: str, num_lines: int, num_cut: int) -> None:
        data = text.encode()
        self._file.write(packed(data, self.path.name))
        self._file.flush()
        self.num_lines, self.num_cut = self.num_lines + num_lines, self.num_cut + num_cut
        if self._fingerprint is not None:
            os.fsync(self._file.fileno())  # before the state says that it is there
            write_atomically(self._state, json.dumps({
                "lines": self.num_lines, "cut": self.num_cut, "bytes": self._file.tell(),
                "of": self._fingerprint}, indent=2) + "\n")

    def finish(self) -> None:
        """Renames the file into place."""
        if self.path.suffix == ".gz" and not self._file.tell():
            self._file.write(packed(b"", self.path.name))
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._part, self.path)
        self._state.unlink(missing_ok=True)
        sync_folder(self.path.parent, files=False)

    def close(self) -> None:
        self._file.close()
