"""Shards of records: what TensorFlow reads of them, and what the reader refuses."""

import json

import pytest
import tensorflow as tf

from pipelines.pairs import AnnotatedPair, DataError, tags_of, weight_of
from pipelines.records import INDEX, OFFSETS_EVERY, Record, read_records, read_splits, to_example, write_shard
from pipelines.text import load_splits
from tfseq2seq.config import Data

NUM_PAIRS = OFFSETS_EVERY + 7  # of the first of two shards
RECORDS = [Record((f"source {n}", f"Ziel {'ä' * (n % 5)}"), [n, 5], [7] * (n % 3)) for n in range(NUM_PAIRS + 3)]


@pytest.fixture
def folder(tmp_path):
    """A folder whose train split has two shards, its valid split one, and its test split none."""
    splits = {"train": [RECORDS[:NUM_PAIRS], RECORDS[NUM_PAIRS:]], "valid": [RECORDS[3:5]], "test": []}
    index = {"format": 1, "offsets_every": OFFSETS_EVERY, "source_separator": None, "splits": {}}
    for split, parts in splits.items():
        shards, first = [], 0
        for number, records in enumerate(parts):
            name = f"{split}-{number}.tfrecord"
            entry = write_shard(tmp_path / name, map(to_example, records))
            shards.append({"file": name, "first": first, **entry})
            first += len(records)
        index["splits"][split] = {"pairs": first, "shards": shards}
    (tmp_path / INDEX).write_text(json.dumps(index))
    return tmp_path


def test_a_shard_is_what_tensorflow_reads(tmp_path):
    weighted = Record(AnnotatedPair("a", "b", weight=0.5), [4], [])
    entry = write_shard(tmp_path / "shard", map(to_example, [*RECORDS[:2], weighted]))
    data = list(tf.data.TFRecordDataset(str(tmp_path / "shard")).as_numpy_iterator())
    assert entry["bytes"] == (tmp_path / "shard").stat().st_size and entry["pairs"] == len(data) == 3
    ids = tf.io.RaggedFeature(tf.int64)
    text = tf.io.FixedLenFeature([], tf.string)
    parsed = tf.io.parse_example(data, {
        "source": text, "target": text, "source_ids": ids, "target_ids": ids,
        "weight": tf.io.FixedLenFeature([], tf.float32, 1.0)})
    assert parsed["source"].numpy().tolist() == [b"source 0", b"source 1", b"a"]
    assert parsed["target"].numpy().tolist() == [b"Ziel ", "Ziel ä".encode(), b"b"]
    assert parsed["source_ids"].to_list() == [[0, 5], [1, 5], [4]] and parsed["target_ids"].to_list() == [[], [7], []]
    assert parsed["weight"].numpy().tolist() == [1.0, 1.0, 0.5]


def test_records_come_back_in_order(folder):
    assert list(read_records(folder, "train")) == RECORDS
    assert list(read_records(folder, "valid")) == RECORDS[3:5]
    assert list(read_records(folder, "test")) == []


@pytest.mark.parametrize("start", [1, OFFSETS_EVERY - 1, OFFSETS_EVERY, NUM_PAIRS - 1, NUM_PAIRS, len(RECORDS), 9999])
def test_reading_begins_at_any_record(folder, start):
    assert list(read_records(folder, "train", start)) == RECORDS[start:]


def test_a_data_folder_may_be_one_of_records(folder):
    splits = load_splits(Data(folder=str(folder)))
    assert splits.train == [record.pair for record in RECORDS]
    assert splits.valid == [RECORDS[3].pair, RECORDS[4].pair] and splits.test == []


def test_a_weight_and_tags_come_back(tmp_path):
    kept = AnnotatedPair("<x> <y> a", "b", weight=0.5, tags=["<x>", "<y>"])
    entry = write_shard(tmp_path / "shard", [to_example(Record(kept, [], []))])
    (tmp_path / INDEX).write_text(json.dumps({
        "format": 1, "offsets_every": OFFSETS_EVERY, "source_separator": "|||", "splits": {
            "train": {"pairs": 1, "shards": [{"file": "shard", "first": 0, **entry}]}}}))
    (pair,) = read_splits(tmp_path, "|||").train
    assert pair == kept and weight_of(pair) == 0.5 and tags_of(pair) == ("<x>", "<y>")


def test_a_damaged_shard_is_named(folder):
    path = folder / "train-1.tfrecord"
    damaged = bytearray(path.read_bytes())
    damaged[20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"train-1.tfrecord: is not the file"):
        list(read_records(folder, "train"))
    path.unlink()
    with pytest.raises(DataError, match=r"train-1.tfrecord: cannot be read: No such file"):
        list(read_records(folder, "train"))


def test_another_separator_is_refused(folder):
    with pytest.raises(DataError, match=r"source_separator.*prepared with, None. Received: '\|\|\|'"):
        read_splits(folder, "|||")


@pytest.mark.parametrize(("text", "told"), [("", "no index"), ("[]", "no index"), ('{"format": 9}', "format 9")])
def test_what_is_no_index_is_named(tmp_path, text, told):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(DataError, match=told):
        read_splits(tmp_path)
