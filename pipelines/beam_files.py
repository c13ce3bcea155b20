"""What the Beam pipelines share: files of any filesystem that Beam knows, read by lines, and written whole or not.

A path with a scheme, as gs://bucket/file, is of the filesystem that Beam has for it; without one it is a local file.
"""

import base64
import codecs
import contextlib
import gzip
import json
import logging
import os
import re
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, WorkerOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from pipelines.pairs import DataError

UNFINISHED = ".unfinished"  # below an output folder: what is being written
LOCAL_RUNNERS = (None, "DirectRunner")
_WILDCARD = re.compile(r"[*?\[]")
_COPIED_AT_ONCE = 1 << 20  # bytes


class InputFile(NamedTuple):
    """A file to read.

    Attributes:
        path: where it is.
        name: its path below the folder before the pattern's first wildcard; of its own among the files found.
    """

    path: str
    name: str


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        text: without its end; with U+FFFD for what is not UTF-8.
        raw: its bytes where they are not UTF-8, else None.
        error: what is wrong with it; "" where nothing is.
    """

    text: str
    raw: bytes | None = None
    error: str = ""


def absolute(path: str) -> str:
    """The path as any worker understands it."""
    return os.path.abspath(os.path.expanduser(path)) if FileSystems.get_scheme(path) is None else path.rstrip("/")


def find_files(patterns: Sequence[str]) -> list[InputFile]:
    """The files of some patterns, sorted by path, each once.

    Args:
        patterns: paths in which * and ? stand for characters of a name, and ** for those of several.
    Raises:
        DataError: a pattern has no file, or two files have one name.
    """
    found: dict[str, str] = {}
    for given in patterns:
        pattern = absolute(given)
        wildcard = _WILDCARD.search(pattern)
        folder = pattern[: wildcard.start() if wildcard else len(pattern)].rpartition("/")[0] + "/"
        paths = [metadata.path for metadata in FileSystems.match([pattern])[0].metadata_list]
        if not paths:
            raise DataError(f"{given}: no such file; name files, or patterns as \"folder/*.txt\".")
        found |= {path: path.removeprefix(folder) for path in paths}
    by_name: dict[str, str] = {}
    for path, name in sorted(found.items()):
        if by_name.setdefault(name, path) != path:
            raise DataError(
                f"Files need names of their own below their folders, by which their results are told apart; give "
                f"them to calls of their own. Received: {by_name[name]} and {path}.")
    return [InputFile(path, name) for name, path in sorted(by_name.items(), key=lambda item: item[1])]


def read_lines(path: str) -> Iterator[Line]:
    """The lines of a file of UTF-8, as `pipelines.reading.decode_lines` cuts them; a .gz file is unpacked.

    Other endings that Beam knows, as .bz2 and .zst, are unpacked too.

    Raises:
        DataError: the file is missing or not a whole .gz file.
    """
    try:
        with contextlib.ExitStack() as stack:
            packed = path.endswith(".gz")  # by gzip itself: Beam takes half of a file for a whole one
            kind = CompressionTypes.UNCOMPRESSED if packed else CompressionTypes.AUTO
            file = stack.enter_context(contextlib.closing(FileSystems.open(path, compression_type=kind)))
            lines = stack.enter_context(gzip.open(file)) if packed else file
            for number, raw in enumerate(iter(lines.readline, b"")):
                raw = raw.removesuffix(b"\n").removesuffix(b"\r")
                yield _decoded(raw if number else raw.removeprefix(codecs.BOM_UTF8))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole .gz file: {error}.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}.") from error


def _decoded(raw: bytes) -> Line:
    try:
        return Line(raw.decode())
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start} of the line"
        return Line(raw.decode("utf-8", "replace"), raw, reason)


def describe_bad_line(number: int, line: Line, **where: Any) -> str:
    """A line of a file of bad lines, as JSON: "line", "error", and "base64" of its bytes where they are not UTF-8."""
    described = {**where, "line": number, "error": line.error}
    if line.raw is not None:
        described["base64"] = base64.b64encode(line.raw).decode()
    return json.dumps(described, ensure_ascii=False) + "\n"


def unfinished_path(output: str) -> str:
    """A path of its own for something that will be part of a folder, or a try at it."""
    return FileSystems.join(output, UNFINISHED, uuid.uuid4().hex)


def write_file(path: str, data: bytes) -> None:
    """Creates a file."""
    with contextlib.closing(FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)) as file:
        file.write(data)


def join_files(paths: Sequence[str], path: str) -> None:
    """Creates a file of what is in others, one after the other."""
    kind = CompressionTypes.UNCOMPRESSED  # copied as they are, whatever their names end with
    with contextlib.closing(FileSystems.create(path, compression_type=kind)) as target:
        for each in paths:
            with contextlib.closing(FileSystems.open(each, compression_type=kind)) as file:
                while block := file.read(_COPIED_AT_ONCE):
                    target.write(block)


def publish(temporary: str, path: str) -> None:
    """Gives a whole file its name; one that a try before this wrote is replaced."""
    with contextlib.suppress(OSError):  # it exists
        FileSystems.mkdirs(path.rpartition("/")[0])
    try:
        FileSystems.rename([temporary], [path])
    except BeamIOError:
        if not FileSystems.exists(path):
            raise
        FileSystems.delete([path])  # where renaming does not replace
        FileSystems.rename([temporary], [path])


@contextlib.contextmanager
def clearing_unfinished(output: str) -> Iterator[None]:
    """Removes what is unfinished below an output folder, of a pipeline that was killed and of the one inside."""
    _clear_unfinished(output)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # what cannot be removed now is by the next call
            _clear_unfinished(output)


def _clear_unfinished(output: str) -> None:
    folder = FileSystems.join(output, UNFINISHED)
    paths = [metadata.path for metadata in FileSystems.match([FileSystems.join(folder, "**")])[0].metadata_list]
    if paths:
        FileSystems.delete(paths)
    if FileSystems.get_scheme(output) is None:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """A local folder with the files of one of any filesystem; a local one itself."""
    if FileSystems.get_scheme(folder) is None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as local:
        for metadata in FileSystems.match([FileSystems.join(folder, "**")])[0].metadata_list:
            join_files([metadata.path], os.path.join(local, metadata.path.removeprefix(folder).lstrip("/")))
        yield local


def run_pipeline(build: Callable[[beam.Pipeline], object], flags: Sequence[str]) -> dict[str, int]:
    """Builds a pipeline, runs it and waits for its end.

    Args:
        build: told the pipeline.
        flags: of Beam, as ["--runner=FlinkRunner"]; default: this machine, in one process.
    Returns:
        The values of its counters, where the runner tells them.
    Raises:
        RuntimeError: it failed; the text is one line.
    """
    options = PipelineOptions(list(flags))
    is_local = options.view_as(StandardOptions).runner in LOCAL_RUNNERS
    try:
        pipeline = beam.Pipeline(_local_runner(options) if is_local else None, options)
        build(pipeline)
        result = pipeline.run()
        state = result.wait_until_finish()
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(f"the pipeline failed: {lines[-1].strip()}") from error
    if state not in (None, "DONE"):
        raise RuntimeError(f"the pipeline failed: it ended as {state}.")
    counters = result.metrics().query()["counters"]
    return {counter.key.metric.name: counter.result for counter in counters}


def _local_runner(options: PipelineOptions) -> FnApiRunner:
    """What Beam's DirectRunner comes to for such pipelines; that one looks first for Prism, a program to download."""
    worker = options.view_as(WorkerOptions)
    worker.default_sdk_harness_log_level = worker.default_sdk_harness_log_level or "ERROR"
    logging.getLogger(local_job_service.__name__).setLevel(logging.ERROR)  # it repeats what they say
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return FnApiRunner(provision_info=ExtendedProvisionInfo(provision))
