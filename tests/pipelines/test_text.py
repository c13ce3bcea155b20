"""A recipe's data become splits, and strings become ids."""

import gzip
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipelines import encoding, text
from pipelines.pairs import DataError, Splits
from pipelines.text import encode_pairs, load_splits, source_ids
from tfseq2seq.config import Data, Tokenizer
from tfseq2seq.structures import EOS
from tfseq2seq.tokenizers import train_tokenizer

TRAIN, VALID, TEST = [("a", "A"), ("b", "B")], [("c", "C")], [("d", "D")]


def write(path, pairs):
    content = "".join(f"{source}\t{target}\n" for source, target in pairs).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


# Splits


def test_a_folder_holds_the_splits(tmp_path):
    write(tmp_path / "train.tsv", TRAIN)
    write(tmp_path / "valid.tsv.gz", VALID)
    assert load_splits(Data(folder=str(tmp_path))) == Splits(TRAIN, VALID, [])
    (tmp_path / "test.jsonl").write_text('{"source": "d", "target": "D"}\n')
    assert load_splits(Data(folder=str(tmp_path))) == Splits(TRAIN, VALID, TEST)


def test_files_are_named_one_by_one_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "one.tsv", TRAIN)
    Path("valid.de").write_text("c\n")
    Path("valid.en").write_text("C\n")
    data = Data(train="one.tsv", valid=["valid.de", "valid.en"])
    assert load_splits(data) == Splits(TRAIN, VALID, [])


def test_a_corpus_is_obtained(monkeypatch):
    calls = []
    monkeypatch.setattr(text, "obtain", lambda *given: calls.append(given) or Splits(TRAIN, VALID, TEST))
    assert load_splits(Data(corpus="bible", pair="en-fr"), print) == Splits(TRAIN, VALID, TEST)
    assert calls == [("bible", "en-fr", print)]


def test_a_missing_valid_split_is_taken_out_of_train_and_told(tmp_path, caplog):
    pairs = [(f"{i // 2}", f"{i}") for i in range(200)]  # 100 sources with two answers each
    write(tmp_path / "train.tsv", pairs)
    with caplog.at_level(logging.WARNING):
        train, valid, test = load_splits(Data(train=str(tmp_path / "train.tsv")))
    assert sorted(train + valid) == sorted(pairs)
    assert len({source for source, _ in valid}) == 5  # 5 %
    assert not {source for source, _ in train} & {source for source, _ in valid}
    assert "there is no valid split, so 10 of 200 pairs were taken out of train" in caplog.text
    assert load_splits(Data(train=str(tmp_path / "train.tsv"))) == (train, valid, test)
    write(tmp_path / "train.tsv", pairs[::-1])  # the choice does not hang on the order
    assert sorted(load_splits(Data(train=str(tmp_path / "train.tsv"))).valid) == sorted(valid)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "needs exactly one of corpus .*, folder .* or train. Received: none of them"),
        ({"corpus": "bible", "train": "a.tsv"}, "Received: corpus, train"),
        ({"folder": ".", "pair": "en-fr"}, "data.pair has no meaning beside data.folder"),
        ({"folder": ".", "valid": "a.tsv"}, "data.valid has no meaning beside data.folder"),
        ({"corpus": "cmudict", "test": "a.tsv"}, "data.test has no meaning beside data.corpus"),
        ({"folder": "nowhere"}, "nowhere: no such folder"),
        ({"folder": "."}, "holds no train.tsv or train.jsonl"),
        ({"train": "nowhere.tsv"}, "nowhere.tsv: no such file"),
        ({"train": "single.tsv"}, "single.tsv|data.train.*fewer than 2 distinct sources.*Received: 1"),
        ({"folder": "double"}, "one train file is needed. Received: train.tsv, train.jsonl"),
    ],
)
def test_data_that_name_no_pairs_are_refused(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "single.tsv", TRAIN[:1])
    (tmp_path / "double").mkdir()
    write(tmp_path / "double" / "train.tsv", TRAIN)
    (tmp_path / "double" / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match=message):
        load_splits(Data(**data))


@pytest.mark.skipif("TFSEQ2SEQ_DATA" not in os.environ, reason="TFSEQ2SEQ_DATA does not name the data folder")
def test_the_standard_pronunciation_split_is_read_whole():
    splits = load_splits(Data(folder=os.path.join(os.environ["TFSEQ2SEQ_DATA"], "g2p_cmudict_std")))
    assert [len(pairs) for pairs in splits] == [110_622, 2_816, 12_753]
    assert splits.test[0] == ("ABADI", "AH B AE D IY")


# Ids


@pytest.fixture(scope="module")
def characters():
    """a is 4, b is 5, c is 6."""
    return train_tokenizer(Tokenizer(kind="characters"), ["aaabbc"])


@pytest.fixture(scope="module")
def ids_of(characters):
    traced = tf.function(
        lambda strings: source_ids(strings, characters, 4),
        input_signature=[tf.TensorSpec([None], tf.string)])

    def run(strings):
        ids, cut = traced(tf.constant(strings, tf.string, shape=[len(strings)]))
        return ids.numpy().tolist(), cut.numpy().tolist()

    return run


def test_source_ids_end_with_eos_and_are_padded(ids_of):
    assert ids_of(["ab", "c", ""]) == ([[4, 5, 3], [6, 3, 0], [3, 0, 0]], [False] * 3)


def test_a_row_that_is_too_long_is_cut_and_told(ids_of):
    assert ids_of(["abc", "abca", "b"]) == ([[4, 5, 6, 3], [4, 5, 6, 3], [5, 3, 0, 0]], [False, True, False])


def test_no_strings_and_empty_strings_have_one_step(ids_of):
    assert ids_of([""]) == ([[3]], [False])
    assert ids_of([]) == ([], [])


def test_no_strings_keep_two_axes(characters):
    ids, cut = source_ids(tf.constant([], tf.string), characters, 4)
    assert (tuple(ids.shape), tuple(cut.shape), ids.dtype) == ((0, 1), (0,), tf.int32)


def test_a_length_of_one_leaves_the_end_alone(characters):
    ids, cut = source_ids(tf.constant(["ab", ""]), characters, 1)
    assert (ids.numpy().tolist(), cut.numpy().tolist()) == ([[EOS], [EOS]], [True, False])


def test_pairs_are_laid_end_to_end(characters, monkeypatch):
    monkeypatch.setattr(encoding, "ENCODED_AT_ONCE", 2)  # three chunks
    words = train_tokenizer(Tokenizer(kind="words"), ["x x y"])
    encoded = encode_pairs([("ab", "x"), ("", "y x"), ("c", ""), ("bb", "z"), ("a", "x")], characters, words)
    assert encoded.source_ids.tolist() == [4, 5, 6, 5, 5, 4]
    assert encoded.source_offsets.tolist() == [0, 2, 2, 3, 5, 6]
    assert encoded.target_ids.tolist() == [4, 5, 4, 1, 4]
    assert encoded.target_offsets.tolist() == [0, 1, 3, 3, 4, 5]
    assert (encoded.source_ids.dtype, encoded.source_offsets.dtype) == (np.int32, np.int64)
    assert encode_pairs([], characters, words).source_offsets.tolist() == [0]
