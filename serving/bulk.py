"""Bulk inference beyond one machine: an Apache Beam pipeline that answers the lines of files with a SavedModel.

A worker reads a file and cuts it into windows of lines; the lines of a window are batched by length, batches are
answered wherever there is a worker, windows are written as they are complete and joined at the end. What a batch holds
follows from the file alone, so that neither the number of workers nor a batch that is tried again changes an answer.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from tensorflow.core.protobuf import saved_model_pb2

from pipelines.batching import inference_batches
from pipelines.beam_files import (
    InputFile,
    Line,
    absolute,
    clearing_unfinished,
    describe_bad_line,
    find_files,
    join_files,
    local_copy,
    publish,
    read_lines,
    run_pipeline,
    unfinished_path,
    write_file,
)
from serving.folders import SAVED_MODEL
from serving.servables import load_model
from serving.signatures import SERVING_DEFAULT, SIGNATURES
from tfseq2seq.arguments import FORMATS
from tfseq2seq.generation import Answer, to_answers
from tfseq2seq.output import Window, packed, render

WINDOW = 10_000  # lines
MOST_CHARACTERS = 1 << 22  # of a window, however few lines that is
BATCH_CHARACTERS = 16_384  # padded characters of a batch: about 4,096 tokens of subwords
BATCH_ROWS = 512  # lines of a batch, however short
BAD_LINES = ".bad-lines.jsonl"  # after a file's name
LINES, BAD = "lines", "bad lines"  # counters

Place = tuple[str, int, int]  # a file's name, the number of a window in it, the number of its first line, from 1


@dataclasses.dataclass(frozen=True)
class BulkSettings:
    """How lines are answered and written.

    Attributes:
        signature: of the SavedModel, one that takes text alone: serving_default or greedy.
        n_best: hypotheses a line; at most those of the export.
        output_format: text, tsv or jsonl, see `tfseq2seq.output.render`.
        window: lines that are sorted and written together, at least 1.
        batch_characters: most padded characters of the lines answered at once.
        batch_rows: most lines answered at once.
        op_threads: threads of one operation in a worker's process; None for TensorFlow's own choice.
    Raises:
        ValueError: a setting is out of range.
    """

    signature: str = SERVING_DEFAULT
    n_best: int = 1
    output_format: str = "text"
    window: int = WINDOW
    batch_characters: int = BATCH_CHARACTERS
    batch_rows: int = BATCH_ROWS
    op_threads: int | None = None

    def __post_init__(self):
        takers = [
            name for name, signature in SIGNATURES.items()
            if list(signature.inputs) == ["text"] and {"text", "score"} <= set(signature.outputs)]
        if self.signature not in takers:
            raise ValueError(f"--signature must be one of {', '.join(takers)}. Received: {self.signature!r}.")
        if self.output_format not in FORMATS:
            raise ValueError(f"--format must be one of {', '.join(FORMATS)}. Received: {self.output_format!r}.")
        if self.output_format == "text" and self.n_best > 1:
            raise ValueError(
                f"--format text holds one hypothesis a line; give tsv or jsonl. Received: --n-best {self.n_best}.")
        for name in ("n_best", "window", "batch_characters", "batch_rows"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"--{name.replace('_', '-')} must be at least 1. Received: {getattr(self, name)}.")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Lines that are answered at once.

    Attributes:
        place: of their window.
        rows: of the lines in the window.
        lines: without their ends.
    """

    place: Place
    rows: list[int]
    lines: list[str]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Lines of a window with what is known of them.

    Attributes:
        rows, lines: as of a `Batch`.
        answers: of each line its hypotheses, best first; none of a bad line.
        errors: JSON lines, of each bad line; none of answered ones.
    """

    rows: list[int]
    lines: list[str]
    answers: list[list[Answer]]
    errors: list[str]


class SavedModelHandler(ModelHandler[Batch, PredictionResult, Any]):
    """Answers batches with a SavedModel, which each process loads once.

    Args:
        folder: the SavedModel, on any filesystem.
        settings: what is asked of it.
    """

    def __init__(self, folder: str, settings: BulkSettings):
        super().__init__(min_batch_size=1, max_batch_size=1)  # an example is a batch already
        self._folder, self._settings = folder, settings

    def load_model(self):
        if self._settings.op_threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(self._settings.op_threads)
        with local_copy(self._folder) as folder:
            return load_model(Path(folder))

    def run_inference(self, batch, model, inference_args=None):
        function = model.signatures[self._settings.signature]
        for each in batch:
            found = function(text=tf.constant(each.lines, tf.string, [len(each.lines)]))
            answers = [row[: self._settings.n_best] for row in to_answers(found)]
            yield PredictionResult(each, answers, self._folder)

    def get_num_bytes(self, batch):
        return sum(len(line) for each in batch for line in each.lines)

    def get_metrics_namespace(self):
        return "tfseq2seq"


class ReadWindows(beam.DoFn):
    """Cuts a file into windows: batches of its lines, and as "bad" those that cannot be answered."""

    def __init__(self, settings: BulkSettings):
        self._settings = settings
        self._lines, self._bad = Metrics.counter("tfseq2seq", LINES), Metrics.counter("tfseq2seq", BAD)

    def process(self, file):
        first = 1
        for number, window in enumerate(_windows(read_lines(file.path), self._settings.window)):
            place = (file.name, number, first)
            good = [row for row, line in enumerate(window) if not line.error]
            bad = [row for row, line in enumerate(window) if line.error]
            lengths = np.array([len(window[row].text) + 1 for row in good], np.int64)
            for batch in inference_batches(lengths, self._settings.batch_characters, self._settings.batch_rows):
                rows = [good[i] for i in batch]
                yield Batch(place, rows, [window[row].text for row in rows])
            # Also where there are none: a file without lines has a result too.
            errors = [describe_bad_line(first + row, window[row]) for row in bad]
            yield beam.pvalue.TaggedOutput(
                "bad", (place, Rows(bad, [window[row].text for row in bad], [[] for _ in bad], errors)))
            self._lines.inc(len(window))
            self._bad.inc(len(bad))
            first += len(window)


class WriteWindow(beam.DoFn):
    """Writes a window's answers, and its bad lines if it has any, to files that have no names yet."""

    def __init__(self, output: str, settings: BulkSettings):
        self._output, self._settings = output, settings

    def process(self, element):
        (name, number, first), parts = element
        found: dict[int, list[Any]] = {}
        errors: dict[int, str] = {}
        for part in parts:
            found |= {row: each for row, *each in zip(part.rows, part.lines, part.answers, strict=True)}
            errors |= dict(zip(part.rows, part.errors))
        lines, answers = [found[row][0] for row in sorted(found)], [found[row][1] for row in sorted(found)]
        text = render(self._settings.output_format, first, Window(lines, answers, 0, 0))
        yield self._write(result_name(name, self._settings.output_format), number, text)
        if errors:
            yield self._write(name + BAD_LINES, number, "".join(errors[row] for row in sorted(errors)))

    def _write(self, name, number, text):
        path = unfinished_path(self._output)
        write_file(path, packed(text.encode(), name))
        return name, (number, path)


class JoinWindows(beam.DoFn):
    """Joins the windows of a file, in order, and gives it its name."""

    def __init__(self, output: str):
        self._output = output

    def process(self, element):
        name, windows = element
        path = unfinished_path(self._output)
        join_files([part for _, part in sorted(windows)], path)
        publish(path, FileSystems.join(self._output, name))
        yield name


def _windows(lines: Iterable[Line], window: int) -> Iterator[list[Line]]:
    """Windows of so many lines, less where lines are long; at least one, which may be empty."""
    part: list[Line] = []
    num_characters, is_first = 0, True
    for line in lines:
        part.append(line)
        num_characters += len(line.text)
        if len(part) == window or num_characters >= MOST_CHARACTERS:
            yield part
            part, num_characters, is_first = [], 0, False
    if part or is_first:
        yield part


def result_name(name: str, output_format: str) -> str:
    """The name of the answers of a file: its own, with the format's before a .gz where that is not text."""
    if output_format == "text":
        return name
    suffix = ".gz" if name.endswith(".gz") else ""
    return f"{name.removesuffix(suffix)}.{output_format}{suffix}"


def answer_files(
    pipeline: beam.Pipeline, files: Sequence[InputFile], handler: Any, output: str, settings: BulkSettings,
) -> Any:
    """The pipeline's transforms, from files to the names of the results below `output`.

    Args:
        pipeline: what they are added to.
        files: what is read.
        handler: a `SavedModelHandler`, or another that answers batches.
        output: a folder on any filesystem, as `absolute` gives it.
        settings: how lines are answered and written.
    """
    read = (
        pipeline
        | "Files" >> beam.Create(list(files))
        | "Spread files" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadWindows(settings)).with_outputs("bad", main="batches"))
    answered = (
        read.batches
        | "Spread batches" >> beam.Reshuffle()
        | "Answer" >> RunInference(handler)
        | "By window" >> beam.Map(
            lambda result: (
                result.example.place, Rows(result.example.rows, result.example.lines, result.inference, []))))
    return (
        (answered, read.bad)
        | "All lines" >> beam.Flatten()
        | "Windows" >> beam.GroupByKey()
        | "Write windows" >> beam.ParDo(WriteWindow(output, settings))
        | "Results" >> beam.GroupByKey()
        | "Join windows" >> beam.ParDo(JoinWindows(output)))


def bulk(
    export: str, patterns: Sequence[str], output: str, settings: BulkSettings | None = None,
    flags: Sequence[str] = (),
) -> dict[str, int]:
    """Answers the lines of files with a SavedModel, on any runner of Apache Beam.

    `output`/NAME is the result of each file, see `result_name` and `find_files`, there as soon as it is whole; one that
    was there is replaced. `output`/NAME.bad-lines.jsonl are its lines that are no UTF-8, if there are any: in the
    result they have no answer. What was unfinished when a pipeline was killed is removed by the next one.

    Args:
        export: an export folder, of which the highest version is taken, or a version in it.
        patterns: of the files, see `find_files`.
        output: a folder.
        settings: how lines are answered and written.
        flags: of Beam, see `run_pipeline`.
    Returns:
        {"lines", "bad lines"}, where the runner tells them.
    Raises:
        DataError: a pattern has no file, or two files have one name.
        ValueError: there is no SavedModel, or none with what is asked for, or a result would replace a source.
        RuntimeError: the pipeline failed.
    """
    settings = settings or BulkSettings()
    output, files = absolute(output), find_files(patterns)
    model = _find_saved_model(export)
    _refuse_what_it_has_not(model, settings)
    handler = SavedModelHandler(model, settings)
    names = [name for file in files for name in (
        result_name(file.name, settings.output_format), file.name + BAD_LINES)]
    written = collections.Counter(FileSystems.join(output, name) for name in names)
    written.update(file.path for file in files)
    for path, count in written.items():
        if count > 1:
            raise ValueError(f"{path}: would be replaced by a result; name another output folder.")
    with clearing_unfinished(output):
        return run_pipeline(lambda pipeline: answer_files(pipeline, files, handler, output, settings), flags)


def _find_saved_model(folder: str) -> str:
    """The folder itself where it is a version, or the highest version in it."""
    folder = absolute(folder)
    if FileSystems.exists(FileSystems.join(folder, SAVED_MODEL)):
        return folder
    matched = FileSystems.match([FileSystems.join(folder, "*", SAVED_MODEL)])[0].metadata_list
    versions = {}
    for metadata in matched:
        path = metadata.path.removesuffix("/" + SAVED_MODEL)
        name = path.rpartition("/")[2]
        if name.isascii() and name.isdecimal():
            versions[int(name)] = path
    if not versions:
        raise ValueError(
            f"{folder}: a folder is needed that holds VERSION/{SAVED_MODEL}, as `tfseq2seq export` writes it. "
            "Received: no version.")
    return versions[max(versions)]


def _refuse_what_it_has_not(folder: str, settings: BulkSettings) -> None:
    """Raises ValueError where a SavedModel has no such signature, or fewer hypotheses."""
    opened = FileSystems.open(FileSystems.join(folder, SAVED_MODEL), compression_type=CompressionTypes.UNCOMPRESSED)
    with contextlib.closing(opened) as file:
        graph = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0]
    if settings.signature not in graph.signature_def:
        raise ValueError(
            f"{folder}: has no signature {settings.signature!r}. Received: {', '.join(sorted(graph.signature_def))}.")
    shape = graph.signature_def[settings.signature].outputs["text"].tensor_shape.dim
    if settings.n_best > shape[1].size:
        raise ValueError(
            f"{folder}: answers a line with {shape[1].size} hypotheses as {settings.signature}; export it with more "
            f"(export.num_hypotheses). Received: --n-best {settings.n_best}.")
