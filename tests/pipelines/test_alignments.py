"""Alignments of words: read, brought to tokens, and kept beside their pairs all the way to a batch."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text

from pipelines.alignments import NO_WORD, Alignments, word_numbers
from pipelines.batching import EMPTY, Batches
from pipelines.pairs import AnnotatedPair, DataError
from pipelines.prepare import load_prepared, prepare
from pipelines.text import encode_pairs, load_splits
from tfseq2seq.config import Data, Tokenizer, parse_recipe
from tfseq2seq.tokenizers import train_tokenizer

TEXTS = [
    "the  house\tis small", "", "  lead and trail ", "naïve\u3000日本語 \u00a0 x", "one", " ", "\u2581 a \ufdd0b",
    "rare ☃☃ thing, isn't it?", "tab\x1cgroup \x85 next"]
LEARNED = ["the house is small", "lead and trail", "rare thing, isn't it?", "one house", "the small naïve thing"] * 3


def numbers(kind, texts, case="keep", size=300):
    tokenizer = train_tokenizer(Tokenizer(kind=kind, vocabulary_size=size, case=case), LEARNED)
    found, splits = word_numbers(texts, tokenizer)
    ids = tokenizer.encode(tf.constant(texts))
    np.testing.assert_array_equal(splits, ids.row_splits)
    return tokenizer, [found[a:b].tolist() for a, b in zip(splits[:-1], splits[1:])]


def words_of_characters(text):
    """The number of each character's word, by `str.split` of what stands before it."""
    return [NO_WORD if each.isspace() else len((text[:place] + "x").split()) - 1 for place, each in enumerate(text)]


def words_of_bytes(text):
    """The same of each byte."""
    return [number for each, number in zip(text, words_of_characters(text), strict=True) for _ in each.encode()]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_pieces_word_is_that_of_its_first_letter_as_sentencepiece_places_it(kind):
    tokenizer, found = numbers(kind, TEXTS)
    plain, several = tensorflow_text.SentencepieceTokenizer(model=tokenizer.content()), 0
    for text, row in zip(TEXTS, found, strict=True):
        spaced = " " + text if text else text
        of_bytes, offsets = words_of_bytes(spaced), plain.tokenize_with_offsets(spaced)[1:]
        # All bytes of a letter but the last one begin and end where the letter begins.
        inside = [of_bytes[begin : max(end, begin + 1)] for begin, end in np.stack(offsets, 1)]
        expected = [min((each for each in row if each >= 0), default=NO_WORD) for row in inside]
        assert row == expected, text
        several += len(row) > max(row, default=0) + 1
    assert several > 3  # rows with more tokens than words


def test_a_characters_word_is_counted_by_the_white_space_before_it():
    _, found = numbers("characters", TEXTS)
    assert found == [words_of_characters(text) for text in TEXTS]


def test_all_bytes_of_a_letter_belong_to_its_word():
    _, found = numbers("bytes", TEXTS)
    assert found == [words_of_bytes(text) for text in TEXTS]
    _, found = numbers("bytes", ["\u0130 a"], "lower")  # two bytes become the one of "i"
    assert found == [[0, NO_WORD, 1]]


def test_words_are_their_own():
    _, found = numbers("words", TEXTS)
    assert found == [list(range(len(text.split()))) for text in TEXTS]
    assert numbers("characters", ["", ""])[1] == [[], []]


PAIRS = [
    AnnotatedPair(source, target, alignment=links)
    for source, target, links in (("ab c d", "x yz", "0-1 2-1 1-0"), ("a b", "zz y", "0-1"), ("c", "x", ""))]


def make_alignments():
    tokenizers = [
        train_tokenizer(Tokenizer(kind="characters"), [pair[side] for pair in PAIRS]) for side in (0, 1)]
    return Alignments(PAIRS, *tokenizers), tokenizers


def test_a_target_token_is_spread_over_the_tokens_of_all_words_its_word_is_aligned_with():
    found = make_alignments()[0].distributions(np.array([1, EMPTY, 0, 2]), 8, 5)
    assert found.shape == (4, 5, 8) and found.dtype == np.float32
    expected = np.zeros([4, 5, 8])
    expected[0, 3, 0] = 1  # "y", the word after "zz", comes from "a"
    expected[2, 0, 3] = 1  # "x" from "c" of "ab c d"
    expected[2, 2:4] = [[1 / 3, 1 / 3, 0, 0, 0, 1 / 3, 0, 0]] * 2  # "y" and "z" from "a", "b" and "d"
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_pairs_that_know_no_alignment_are_refused():
    with pytest.raises(DataError, match="read with data.alignments. Received: 1 of 4 pairs without"):
        Alignments([*PAIRS, ("a", "b")], *make_alignments()[1])


def test_batches_hold_the_distributions_of_their_rows():
    alignments, tokenizers = make_alignments()
    encoded = encode_pairs(PAIRS, *tokenizers)
    batches = Batches(encoded, batch_tokens=40, num_lengths=1, replicas=2, alignments=alignments)
    (batch,) = batches.dataset(repeat=False, shuffle=False)
    assert batch[0]["alignment"].shape == (4, 5, 7)
    np.testing.assert_array_equal(batch[0]["alignment"], alignments.distributions(np.array([0, 1, 2, EMPTY]), 7, 5))
    parts = list(batches.dataset(replicas=[1, 0], repeat=False, shuffle=False))
    np.testing.assert_array_equal(parts[0][0]["alignment"], batch[0]["alignment"][2:])
    plain = next(iter(Batches(encoded, batch_tokens=40).dataset()))
    assert plain[0].keys() == {"source", "target"}


# From a file to a prepared run.


def write(folder, lines, valid=True):
    """Nine good pairs of words and one empty one, and their alignments."""
    targets = ["A B", "C", "D E F"]
    rows = [f"w{i} a b\t{targets[i % 3]}\n" for i in range(9)]
    rows.insert(4, "broken\t\n")
    (folder / "train.tsv").write_text("".join(rows))
    (folder / "train.align").write_text("".join(line + "\n" for line in lines))
    if valid:
        (folder / "valid.tsv").write_text("w2 a b\tD E F\nw77 a b\tA B\n")  # w2 leaves train, where it would leak
    return Data(
        folder=str(folder), alignments=str(folder / "train.align"), source_tokenizer=Tokenizer(kind="words"),
        target_tokenizer=Tokenizer(kind="words"))


LINES = ["0-0 1-1", "2-0", "0-0 1-1 2-2", "1-1", "", "2-0", "0-2", "", "0-0", "1-1 1-2"]


def test_alignments_stay_with_their_pairs_through_filter_and_store(tmp_path):
    data = write(tmp_path, LINES)
    recipe = {"name": "aligned", "data": data.model_dump(), "train": {"guided_alignment_weight": 1.0}}
    for each in (prepare(parse_recipe(recipe), tmp_path / "run", lambda *_: None), load_prepared(tmp_path / "run")):
        assert each.left_out["empty"] == 1 and each.left_out["leaked"] == 1
        found = {pair[0]: pair.alignment for pair in each.train}
        assert found == {
            f"w{i} a b": line for i, line in enumerate(LINES[:4] + LINES[5:]) if i != 2}
    assert each.valid == [("w2 a b", "D E F"), ("w77 a b", "A B")]


def test_they_are_those_of_the_file_where_valid_is_taken_out_of_train(tmp_path):
    splits = load_splits(write(tmp_path, LINES, valid=False))
    assert len(splits.train) == 9 and len(splits.valid) == 1
    expected = dict(zip([f"w{i} a b" for i in range(4)] + ["broken"] + [f"w{i} a b" for i in range(4, 9)], LINES))
    assert {pair[0]: pair.alignment for pair in [*splits.train, *splits.valid]} == expected


@pytest.mark.parametrize("lines, text", [
    (LINES[:-1], "one line for each train pair.*Received: 9 lines for 10 pairs"),
    ([*LINES[:-1], "0-0 1:1"], "train.align:10: .*links as 0-0 1-2.*Received: '1:1'"),
    ([*LINES[:-1], "3-0"], "train.align:10: .*the source's come first.*3-0, where the source has 3 and the target 3"),
    (["0-0", "2-1", *LINES[2:]], "train.align:2: .*2-1, where the source has 3 and the target 1 words"),
])
def test_a_file_that_does_not_fit_the_pairs_is_refused(tmp_path, lines, text):
    with pytest.raises(DataError, match=text):
        load_splits(write(tmp_path, lines))


def test_an_aligned_pair_is_its_tuple():
    pair = AnnotatedPair("a", "b", alignment="0-0")
    assert pair == ("a", "b") and hash(pair) == hash(("a", "b"))


def test_a_linked_word_without_a_token_of_its_own_is_aligned_with_nothing():
    # One piece may span words that white space parts: here the source has two tokens of word 0 and none of word 5.
    alignments = next(each for each in make_alignments() if isinstance(each, Alignments))
    alignments._links, alignments._splits = np.array([[5, 0], [0, 0], [2, 6]], np.int32), np.array([0, 3, 3, 3])
    found = alignments.distributions(np.array([0, -1]), 6, 5)
    assert found.shape == (2, 5, 6) and not found[1].any()
    assert not found[0, -1].any() and not found[0, :, -1].any()  # neither end tokens nor padding
