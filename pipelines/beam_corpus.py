"""Corpus preparation beyond one machine: an Apache Beam pipeline from files of pairs to shards of records.

Pairs are read, cleaned by the rules of `pipelines.checking`, freed of duplicates, split by a hash of the source,
tokenised with a run's tokenizers and written in the order of a hash of the pair. Which pairs are kept, where each lies,
and so every byte follows from the files alone, not from the number of workers.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

from pipelines.beam_files import (
    InputFile,
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
from pipelines.checking import EMPTY, broken, is_empty, ratio
from pipelines.held_out import split_of
from pipelines.pairs import AnnotatedPair, DataError, Pair, Splits, tags_of, untagged, weight_of
from pipelines.reading import PAIR_FILES, pair_kind, parse_pair
from pipelines.records import FORMAT, INDEX, OFFSETS_EVERY, Record, to_example, write_shard
from pipelines.tasks import find_task
from pipelines.text import SeveralSources
from tfseq2seq.config import Run
from tfseq2seq.tokenizers import load_tokenizer

BAD_LINES = "bad-lines.jsonl"
TOKENIZERS = "tokenizers"
DUPLICATES = ("pair", "source", "keep")


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """What becomes of the pairs.

    Attributes:
        valid, test: shares of all sources that are held out, 0 or more, below 1 together.
        duplicates: "pair": of equal pairs the first is kept; "source": of equal sources; "keep": all are.
        shard_pairs: about so many pairs a shard; a worker holds a shard in memory.
    Raises:
        ValueError: a setting is out of range.
    """

    valid: float = 0.01
    test: float = 0.01
    duplicates: str = "pair"
    shard_pairs: int = 100_000

    def __post_init__(self):
        if min(self.valid, self.test) < 0 or self.valid + self.test >= 1:
            raise ValueError(
                "--valid and --test must be shares of at least 0 that leave something to train on. "
                f"Received: {self.valid} and {self.test}.")
        if self.duplicates not in DUPLICATES:
            raise ValueError(f"--duplicates must be one of {', '.join(DUPLICATES)}. Received: {self.duplicates!r}.")
        if self.shard_pairs < 1:
            raise ValueError(f"--shard-pairs must be at least 1. Received: {self.shard_pairs}.")


class Row(NamedTuple):
    """A pair on its way.

    Attributes:
        place: number of its file and of its line; what is first has the least.
        source, target: strings.
        weight: of its tokens in the loss.
        split: where it belongs.
        tags: which its source begins with.
    """

    place: tuple[int, int]
    source: str
    target: str
    weight: float
    split: str
    tags: tuple[str, ...] = ()

    def pair(self) -> Pair:
        """The pair that it is."""
        if self.weight == 1 and not self.tags:
            return self.source, self.target
        return AnnotatedPair(self.source, self.target, weight=self.weight, tags=self.tags)

    def digest(self) -> bytes:
        """Says where it lies among all."""
        return hashlib.sha256(f"{self.source}\0{self.target}".encode()).digest()


class ReadRows(beam.DoFn):
    """Rows of a file of pairs, and as "bad" its lines that hold none, as JSON."""

    def __init__(self, separator: str | None, settings: CorpusSettings):
        self._separator, self._settings = separator, settings

    def process(self, numbered):
        file_number, file = numbered
        kind = pair_kind(file.path) or ""
        for number, line in enumerate(read_lines(file.path), start=1):
            if not line.error:
                try:
                    pair = parse_pair(kind, file.name, line.text, self._separator)
                except DataError as error:
                    line = line._replace(error=str(error).removeprefix(f"{file.name}: "))
            if line.error:
                place = (file_number, number)
                yield TaggedOutput("bad", (place, describe_bad_line(number, line, file=file.name)))
            else:
                split = split_of(untagged(pair)[0], self._settings.valid, self._settings.test)
                yield Row((file_number, number), *pair, weight_of(pair), split, tags_of(pair))


class Clean(beam.DoFn):
    """Leaves out what `pipelines.checking.filter_pairs` does, and names the reasons as "left out"."""

    def __init__(self, task: str, separator: str | None):
        self._task, self._separator = task, separator

    def process(self, row, usual):
        pair = row.pair()
        if row.split == "train":
            reason = broken(pair, usual, find_task(self._task), self._separator)
        else:
            reason = EMPTY if is_empty(pair, self._separator) else None
        yield row if reason is None else TaggedOutput("left out", reason)


class Tokenise(beam.DoFn):
    """Lists of rows as (split, digest, place, serialized record)."""

    def __init__(self, folder: str, separator: str | None):
        self._folder, self._separator = folder, separator

    def setup(self):
        with local_copy(self._folder) as folder:
            source, self._target = (load_tokenizer(Path(folder) / side) for side in ("source", "target"))
        self._source = source if self._separator is None else SeveralSources(source, self._separator)

    def process(self, rows):
        sources = self._source.encode(tf.constant([row.source for row in rows])).to_list()
        targets = self._target.encode(tf.constant([row.target for row in rows])).to_list()
        for row, *ids in zip(rows, sources, targets, strict=True):
            yield row.split, row.digest(), row.place, to_example(Record(row.pair(), *ids))


class WriteShard(beam.DoFn):
    """Writes the records of a shard in the order of their digests; gives (split, number, its entry in the index)."""

    def __init__(self, output: str):
        self._output = output

    def process(self, element):
        (split, number, count), records = element
        name = f"{split}-{number:05d}-of-{count:05d}.tfrecord"
        path = unfinished_path(self._output)
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / name
            entry = write_shard(local, (example for _, _, example in sorted(records)))
            join_files([str(local)], path)
        publish(path, FileSystems.join(self._output, name))
        yield split, number, {"file": name, **entry}


def prepare_files(
    pipeline: beam.Pipeline, files: Sequence[InputFile], run: Run, output: str, settings: CorpusSettings,
) -> Any:
    """The pipeline's transforms, from files to the index.

    Args:
        pipeline: what they are added to.
        files: what is read.
        run: its task, its `data.filter` and its `data.source_separator` say what is cleaned.
        output: a folder on any filesystem, as `absolute` gives it, with the tokenizers in it.
        settings: what becomes of the pairs.
    """
    separator = run.data.source_separator
    read = (
        pipeline
        | "Files" >> beam.Create(list(enumerate(files)))
        | "Spread files" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadRows(separator, settings)).with_outputs("bad", main="rows"))
    rows, left_out = read.rows | "Spread rows" >> beam.Reshuffle(), None
    if run.data.filter:
        usual = (
            rows
            | "Ratios" >> beam.ParDo(_ratios, run.task, separator)
            | "Count ratios" >> beam.combiners.Count.PerElement()
            | "All ratios" >> beam.combiners.ToDict()
            | "Usual ratio" >> beam.Map(_usual))
        cleaned = rows | "Clean" >> beam.ParDo(
            Clean(run.task, separator), AsSingleton(usual)).with_outputs("left out", main="rows")
        rows, left_out = cleaned.rows, cleaned["left out"] | "Reasons" >> beam.combiners.Count.PerElement()
    unique = rows
    if settings.duplicates != "keep":
        unique = (
            rows
            | "Key" >> beam.Map(lambda row: (_key(row, settings.duplicates), tuple(row)))
            | "First of each key" >> beam.CombinePerKey(min)
            | "Rows" >> beam.Map(lambda item: Row(*item[1])))
    counts = _count_splits("Count pairs", unique)
    shards = (
        unique
        | "Group rows" >> beam.BatchElements(min_batch_size=64, max_batch_size=1024)
        | "Tokenise" >> beam.ParDo(Tokenise(FileSystems.join(output, TOKENIZERS), separator))
        | "Shard of each" >> beam.Map(_with_shard, settings.shard_pairs, AsSingleton(counts))
        | "Shards" >> beam.GroupByKey()
        | "Write shards" >> beam.ParDo(WriteShard(output)))
    about = {
        "format": FORMAT, "offsets_every": OFFSETS_EVERY, "source_separator": separator,
        "settings": {"filter": run.data.filter, "task": run.task, **dataclasses.asdict(settings)}}
    return (
        pipeline
        | "Once" >> beam.Create([about])
        | "Write the index" >> beam.Map(
            _write_index, output, AsList(shards), AsSingleton(_count_splits("Count cleaned pairs", rows)),
            AsList(left_out) if left_out is not None else [], AsList(read.bad)))


def prepare_corpus(
    run: Run, folder: Path, patterns: Sequence[str], output: str, settings: CorpusSettings | None = None,
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """Makes shards of records of files of pairs, on any runner of Apache Beam; see `pipelines.records`.

    `output`/bad-lines.jsonl are the lines that hold no pair, if there are any. What was unfinished when a pipeline was
    killed is removed by the next one.

    Args:
        run: the recipe of `folder`.
        folder: of a prepared run, whose tokenizers are used, and copied to `output`/tokenizers.
        patterns: of .tsv and .jsonl files, or .gz of them, see `pipelines.beam_files.find_files`.
        output: a folder.
        settings: what becomes of the pairs.
        flags: of Beam, see `run_pipeline`.
    Returns:
        The index.
    Raises:
        DataError: a pattern has no file, or a file is of another kind, or the folder holds a corpus.
        ValueError: a setting is out of range.
        RuntimeError: the pipeline failed.
    """
    settings = settings or CorpusSettings()
    output, files = absolute(output), find_files(patterns)
    for file in files:
        if pair_kind(file.path) is None:
            raise DataError(f"{file.path}: needed are {' or '.join(PAIR_FILES)} files, or .gz of them.")
    index = FileSystems.join(output, INDEX)
    if FileSystems.exists(index):
        raise DataError(f"{output}: holds a corpus already; name another folder, or remove it.")
    with clearing_unfinished(output):
        _clear(output)
        for path in sorted((folder / TOKENIZERS).rglob("*")):
            if path.is_file():
                temporary = unfinished_path(output)
                join_files([str(path)], temporary)
                publish(temporary, FileSystems.join(output, *path.relative_to(folder).parts))
        run_pipeline(lambda pipeline: prepare_files(pipeline, files, run, output, settings), flags)
    with contextlib.closing(FileSystems.open(index)) as file:
        return json.loads(file.read())


def _clear(output: str) -> None:
    """Removes what a pipeline that was killed left: without an index the rest has no meaning."""
    patterns = [FileSystems.join(output, name) for name in (f"{split}-*.tfrecord" for split in Splits._fields)]
    matched = FileSystems.match([*patterns, FileSystems.join(output, BAD_LINES)])
    if paths := [metadata.path for result in matched for metadata in result.metadata_list]:
        FileSystems.delete(paths)


def _ratios(row: Row, task: str, separator: str | None) -> Iterator[float]:
    """What the usual ratio is made of."""
    pair = row.pair()
    if row.split == "train" and not is_empty(pair, separator):
        yield ratio(pair, find_task(task), separator)


def _usual(counts: dict[float, int]) -> dict[int, float]:
    """As `pipelines.checking.usual_ratios`, of ratios that were counted."""
    ends, total = [], 0
    ratios = sorted(counts)
    for each in ratios:
        total += counts[each]
        ends.append(total)
    if not total:
        return {}
    middles = {(total - 1) // 2, total // 2}
    return {0: statistics.median([next(r for r, end in zip(ratios, ends) if place < end) for place in middles])}


def _key(row: Row, duplicates: str) -> bytes:
    return row.digest() if duplicates == "pair" else hashlib.sha256(row.source.encode()).digest()


def _count_splits(label: str, rows: Any) -> Any:
    """How many rows there are of each split, as one dict."""
    return (
        rows
        | f"{label}: splits" >> beam.Map(lambda row: row.split)
        | label >> beam.combiners.Count.PerElement()
        | f"{label}: all" >> beam.combiners.ToDict())


def _with_shard(record, shard_pairs, counts):
    """The record under (split, number of its shard, number of shards); shards follow each other as digests do."""
    split, digest, place, example = record
    num_shards = math.ceil(counts[split] / shard_pairs)
    return (split, int.from_bytes(digest[:8], "big") * num_shards >> 64, num_shards), (digest, place, example)


def _write_index(about: dict, output: str, shards: list, cleaned: dict, left_out: list, bad: list) -> None:
    """Writes the bad lines, and then the index."""
    splits: dict[str, Any] = {name: {"pairs": 0, "shards": []} for name in Splits._fields}
    for split, _, entry in sorted(shards, key=lambda shard: shard[:2]):
        splits[split]["shards"].append({**entry, "first": splits[split]["pairs"]})
        splits[split]["pairs"] += entry["pairs"]
    index = {
        **about, "bad_lines": len(bad), "left_out": dict(sorted(left_out)),
        "duplicates": sum(cleaned.values()) - sum(each["pairs"] for each in splits.values()), "splits": splits}
    texts = {BAD_LINES: "".join(line for _, line in sorted(bad))} if bad else {}
    for name, text in {**texts, INDEX: json.dumps(index, indent=1) + "\n"}.items():
        path = unfinished_path(output)
        write_file(path, text.encode())
        publish(path, FileSystems.join(output, name))
