"""Pairs and their ids as shards of TFRecords, with an index that says what is in them.

`index.json` comes last, so that where it stands the rest is whole: for each split its pairs and its shards in order, of
each shard "file", "pairs", "first" (the number of its first pair in the split, from 0), "bytes", "sha256", and
"offsets", the bytes before every `offsets_every`-th record. A record is a `tf.train.Example` of "source" and "target"
(UTF-8), "source_ids" and "target_ids" (without BOS and EOS), "weight" where it is not 1, and "tags" if any.
"""

import bisect
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tensorflow as tf

from pipelines.origins import INDEX
from pipelines.pairs import AnnotatedPair, DataError, Pair, Splits, tags_of, weight_of

FORMAT = 1
OFFSETS_EVERY = 1000  # records
_AROUND = 16  # bytes of a record beside its data: length and its checksum before, checksum of the data after


class Record(NamedTuple):
    """A pair as it was tokenised.

    Attributes:
        pair: source and target, with its weight where that is not 1, and its tags.
        source_ids, target_ids: int, without BOS and EOS.
    """

    pair: Pair
    source_ids: list[int]
    target_ids: list[int]


def to_example(record: Record) -> bytes:
    """The record as a serialized `tf.train.Example`; the same for the same record."""
    example = tf.train.Example()
    features = example.features.feature
    features["source"].bytes_list.value.append(record.pair[0].encode())
    features["target"].bytes_list.value.append(record.pair[1].encode())
    features["source_ids"].int64_list.value.extend(record.source_ids)
    features["target_ids"].int64_list.value.extend(record.target_ids)
    if (weight := weight_of(record.pair)) != 1:
        features["weight"].float_list.value.append(weight)
    if tags := tags_of(record.pair):
        features["tags"].bytes_list.value.extend(tag.encode() for tag in tags)
    return example.SerializeToString(deterministic=True)


def from_example(data: bytes) -> Record:
    """What `to_example` was given."""
    features = tf.train.Example.FromString(data).features.feature
    source, target = (features[name].bytes_list.value[0].decode() for name in ("source", "target"))
    weights, tags = features["weight"].float_list.value, [tag.decode() for tag in features["tags"].bytes_list.value]
    pair: Pair = (source, target)
    if weights or tags:
        pair = AnnotatedPair(source, target, weight=weights[0] if weights else 1.0, tags=tags)
    return Record(pair, *(list(features[name].int64_list.value) for name in ("source_ids", "target_ids")))


def write_shard(path: Path, examples: Iterable[bytes]) -> dict[str, Any]:
    """Writes a shard; returns its "pairs", "bytes", "sha256" and "offsets"."""
    sizes = []
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example)
            sizes.append(len(example) + _AROUND)
    starts = np.cumsum([0, *sizes], dtype=np.int64)
    return {
        "pairs": len(sizes), "bytes": int(starts[-1]), "sha256": _sha256(path),
        "offsets": starts[:-1:OFFSETS_EVERY].tolist()}


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder. Raises DataError where it is missing or of another format."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        found = index["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no index of records, as `tfseq2seq prepare-corpus` writes it: {error!r}.") from error
    if found != FORMAT:
        raise DataError(f"{path}: needed is format {FORMAT}; make the folder anew. Received: format {found}.")
    return index


def read_records(folder: Path, split: str, start: int = 0) -> Iterator[Record]:
    """The records of a split, in their order.

    Args:
        folder: with an index.
        split: "train", "valid" or "test"; one that is not there has no records.
        start: number of the first one that is wanted.
    Raises:
        DataError: there is no index, or a shard is missing, or not the one of the index.
    """
    index = read_index(folder)
    shards = index["splits"].get(split, {"shards": []})["shards"]
    at = max(bisect.bisect_right([shard["first"] for shard in shards], start) - 1, 0)
    for shard in shards[at:]:
        path = folder / shard["file"]
        try:
            if path.stat().st_size != shard["bytes"] or _sha256(path) != shard["sha256"]:
                raise DataError(f"{path}: is not the file that {INDEX} speaks of; make the folder anew.")
            with open(path, "rb") as file:
                skipped = max(start - shard["first"], 0)
                if skipped < shard["pairs"]:
                    place = skipped // index["offsets_every"]
                    file.seek(shard["offsets"][place])
                    skipped -= place * index["offsets_every"]
                    for number, data in enumerate(_frames(file)):
                        if number >= skipped:
                            yield from_example(data)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


def read_splits(folder: Path, separator: str | None = None) -> Splits:
    """The pairs of all splits.

    Args:
        folder: with an index.
        separator: of the sources of one line.
    Raises:
        DataError: as `read_records`, or the lines have another separator.
    """
    found = read_index(folder)["source_separator"]
    if found != separator:
        raise DataError(
            f"{folder}: data.source_separator must be the one that the corpus was prepared with, {found!r}. "
            f"Received: {separator!r}.")
    return Splits(*([record.pair for record in read_records(folder, split)] for split in Splits._fields))


def _frames(file: BinaryIO) -> Iterator[bytes]:
    """The data of records; their checksums are left alone, as the whole file's was compared."""
    while header := file.read(12):
        (length,) = struct.unpack("<Q4x", header)
        yield file.read(length)
        file.read(4)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
