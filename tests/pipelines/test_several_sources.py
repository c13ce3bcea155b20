"""A line may hold several sources: how files say so, and what becomes of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.checking import check, filter_pairs
from pipelines.pairs import DataError, Splits
from pipelines.prepare import check_data, load_prepared, prepare
from pipelines.reading import read_pairs, split_sources
from pipelines.tasks import TASKS
from pipelines.text import SeveralSources, encode_pairs, load_splits, source_ids
from tfseq2seq.config import Data, Tokenizer, parse_recipe
from tfseq2seq.structures import EOS, PAD
from tfseq2seq.tokenizers import load_tokenizer, train_tokenizer

TRANSLATION = TASKS["translation"]
JOINED = [("ein Haus ||| una casa", "a house"), (" ||| due case", "two houses")]


def write(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def quiet(*_):
    pass


# Files


def test_a_source_column_holds_the_separator(tmp_path):
    path = write(tmp_path / "a.tsv", "".join(f"{source}\t{target}\n" for source, target in JOINED))
    assert read_pairs(path, "|||") == JOINED


def test_all_files_but_the_last_are_sources(tmp_path):
    names = [
        write(tmp_path / "a.de", "ein Haus\n\n"), write(tmp_path / "a.it", "una casa\ndue case\n"),
        write(tmp_path / "a.en", "a house\ntwo houses\n")]
    assert read_pairs(names, "|||") == JOINED
    assert load_splits(Data(train=names, valid=names, source_separator="|||")).valid == JOINED


def test_a_json_source_may_be_a_list(tmp_path):
    rows = [
        {"source": ["ein Haus", "una casa"], "target": "a house"}, {"source": ["", "due case"], "target": "two houses"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_pairs(str(tmp_path / "train.jsonl"), "|||") == JOINED
    (tmp_path / "valid.jsonl").write_text('{"source": "a ||| b", "target": "c"}\n')
    splits = load_splits(Data(folder=str(tmp_path), source_separator="|||"))
    assert splits == Splits(JOINED, [("a ||| b", "c")], [])


@pytest.mark.parametrize(
    ("names", "separator", "message"),
    [
        (["a.de", "a.it", "a.en"], None, r"with data.source_separator of more.*Received: '.*a.de', '.*a.it', '.*a.en'"),
        (["a.de", "short", "a.en"], "|||", "short and .*a.en must have as many lines.*Received: 1 and 2 lines"),
        (["a.de", "a.bars", "a.en"], "|||", r"a.de:2: a source holds the separator '\|\|\|'.*Received: 'due"),
        (["list.jsonl"], None, r"list.jsonl:1: a list of sources needs data.source_separator.*Received: 2 sources"),
        (["bars.jsonl"], "|||", r"bars.jsonl:1: a source holds the separator"),
        (["none.jsonl"], "|||", r"none.jsonl:1: a column is missing"),
        (["mixed.jsonl"], "|||", r"mixed.jsonl:1: a column is missing"),
    ],
)
def test_files_whose_sources_cannot_be_told_apart_are_refused(tmp_path, names, separator, message):
    content = {
        "a.de": "uno\ndue\n", "a.it": "one\ntwo\n", "a.en": "un\ndeux\n", "short": "one\n", "a.bars": "one\nt|||wo\n",
        "list.jsonl": '{"source": ["a", "b"], "target": "c"}', "bars.jsonl": '{"source": ["a|||b"], "target": "c"}',
        "none.jsonl": '{"source": [], "target": "c"}', "mixed.jsonl": '{"source": ["a", 1], "target": "c"}'}
    for name in names:
        write(tmp_path / name, content[name])
    with pytest.raises(DataError, match=message) as raised:
        read_pairs([str(tmp_path / name) for name in names], separator)
    assert "\n" not in str(raised.value)


# Ids


@pytest.fixture(scope="module")
def characters():
    """a is 4, b is 5, c is 6."""
    return train_tokenizer(Tokenizer(kind="characters"), ["aaabbc"])


@pytest.fixture(scope="module")
def several(characters):
    return SeveralSources(characters, "|||")


@pytest.fixture(scope="module")
def ids_of(several):
    traced = tf.function(
        lambda strings: source_ids(strings, several, 6), input_signature=[tf.TensorSpec([None], tf.string)])

    def run(strings):
        ids, cut = traced(tf.constant(strings, tf.string, shape=[len(strings)]))
        return ids.numpy().tolist(), cut.numpy().tolist()

    return run


def test_each_source_is_ended_and_the_separator_is_no_token(ids_of):
    ids, cut = ids_of(["ab ||| c", "ab|||c", "ab", "|||c", "a|||", ""])
    assert ids == [
        [4, 5, EOS, 6, EOS], [4, 5, EOS, 6, EOS], [4, 5, EOS, PAD, PAD], [EOS, 6, EOS, PAD, PAD],
        [4, EOS, EOS, PAD, PAD], [EOS, PAD, PAD, PAD, PAD]]
    assert not any(cut)
    assert ids_of([]) == ([], [])


def test_a_row_that_is_cut_is_ended_wherever_the_cut_falls(ids_of):
    """At most 6 ids, the end included."""
    rows = {"abc|||ab": [4, 5, 6, EOS, 4, EOS], "abcab|||c": [4, 5, 6, 4, 5, EOS], "abca|||c": [4, 5, 6, 4, EOS, EOS]}
    assert ids_of(list(rows)) == (list(rows.values()), [True] * 3)


def test_pairs_have_all_their_sources_in_one_row(several):
    words = train_tokenizer(Tokenizer(kind="words"), ["x ||| y"])
    encoded = encode_pairs([("ab ||| c", "x ||| y"), ("b", "y")], several, words)
    assert encoded.source_ids.tolist() == [4, 5, EOS, 6, 5]
    assert encoded.source_offsets.tolist() == [0, 4, 5]
    assert EOS not in encoded.target_ids
    assert encoded.target_offsets.tolist() == [0, 3, 4]  # in a target the separator is text


def test_the_separator_is_looked_for_before_the_case_is_changed():
    lower = train_tokenizer(Tokenizer(kind="words", case="lower"), ["AND OR"])
    text = ["and OR x And x and"]
    assert SeveralSources(lower, "And").encode(tf.constant(text)).to_list() == [[4, 5, 1, EOS, 1, 4]]


def test_what_is_saved_is_the_tokenizer_of_one_source(several, tmp_path):
    several.save(tmp_path)
    assert load_tokenizer(tmp_path).vocabulary() == several.vocabulary()


def test_subwords_of_several_sources_go_along_in_a_saved_model(tmp_path):
    one = train_tokenizer(Tokenizer(kind="unigram", vocabulary_size=300), ["ein Haus und noch ein Haus", "una casa"])
    module = tf.Module()
    module.several = SeveralSources(one, "|||")
    module.ids = tf.function(
        lambda strings: source_ids(strings, module.several, 99)[0], input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path / "model"))
    expected = [[*one.encode(tf.constant([text])).to_list()[0], EOS] for text in ("ein Haus", "una casa")]
    found = tf.saved_model.load(str(tmp_path / "model")).ids(tf.constant(["ein Haus ||| una casa"]))
    assert found.numpy().tolist() == [[*expected[0], *expected[1]]]


@settings(deadline=None, max_examples=40)
@given(
    line=st.lists(st.sampled_from(["|||", "|", "a", " ", "\t", "\xa0", "\0", "é"]), max_size=12).map("".join),
    separator=st.sampled_from(["|||", "|", "\t", "é", " a "]))
def test_training_text_is_cut_as_the_graph_cuts(line, separator):
    """Bytes spell the text that the graph saw."""
    one = train_tokenizer(Tokenizer(kind="bytes"), [])
    ids = np.array(SeveralSources(one, separator).encode(tf.constant([line])).to_list()[0], int)
    sources = np.split(ids, np.flatnonzero(ids == EOS))
    found = [bytes((source[source != EOS] - 4).tolist()).decode() for source in sources]
    assert split_sources(line, separator) == found


# Checks


def test_a_pair_is_empty_only_where_all_its_sources_are():
    train = [("a ||| b", "x y"), ("|||b", "x"), (" ||| ", "x"), ("", "x"), ("a|||b", "")]
    splits, counts = filter_pairs(Splits(train, [("|||", "x"), ("a|||", "x")], []), TRANSLATION, "|||")
    assert splits.train == train[:2] and splits.valid == [("a|||", "x")]
    assert counts["empty"] == 4
    report = check(Splits(train, [], []), TRANSLATION, Data(source_separator="|||"))
    assert report.splits["train"]["empty"] == 3


def test_ratios_control_characters_and_lengths_leave_the_separator_out():
    """The usual ratio is (5 + 5) / (5 + 5); were the 20 characters of a separator counted, it would be 10 / 29."""
    separator = "=\x1f" * 10
    usual = [(f"a{i}{separator}b{i}", f"x {i}..") for i in range(9)]  # 5 letters, with a space between
    good = ("abcde", "y" * 12)  # 17 / 10 is within 4 times 1
    bad = (f"ab{separator}cd", "y" * 36)  # 41 / 10 is not
    splits, counts = filter_pairs(Splits([*usual, good, bad], [], []), TRANSLATION, separator)
    assert splits.train == [*usual, good]
    assert {reason: count for reason, count in counts.items() if count} == {"badly-ratioed": 1}
    found = check(Splits(usual, [], []), TRANSLATION, Data(source_separator=separator))
    assert found.lengths["train"]["source"]["100"] == 5


def test_a_row_is_over_long_by_all_its_sources(several):
    """ab EOS c EOS has 5 ids."""
    splits = Splits([("ab|||c", "x"), ("abc", "x"), ("|||abc", "x")], [], [])
    words = train_tokenizer(Tokenizer(kind="words"), ["x"])
    found = check(splits, TRANSLATION, Data(source_separator="|||", max_source_length=4), several, words)
    assert found.splits["train"]["over-long"] == 2
    assert found.lengths["train"]["source"] == {"50": 5, "90": 5, "99": 5, "100": 5}


# A prepared run


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "pairs").mkdir()
    write(tmp_path / "pairs" / "train.tsv", "ab ||| dc\tA B\nba|||c\tB A\nb\tB\n|||\tA\n")
    write(tmp_path / "pairs" / "valid.tsv", "a ||| c\tA\n")

    def make(**data):
        return parse_recipe({
            "name": "two", "task": "pronunciation",
            "data": {
                "folder": str(tmp_path / "pairs"), "source_separator": "|||",
                "source_tokenizer": {"kind": "characters"}, "target_tokenizer": {"kind": "characters"}, **data},
            "model": {"encoder": {"kind": "parallel", "encoders": [{}, {}]}}})

    return make


@pytest.mark.parametrize("shared", [False, True])
def test_the_separator_is_not_learned_as_text(recipe, tmp_path, shared):
    prepared = prepare(recipe(share_tokenizer=shared), tmp_path / "run", quiet)
    assert [source for source, _ in prepared.train] == ["ab ||| dc", "ba|||c", "b"]
    sources = set(prepared.source_tokenizer.vocabulary()[4:])
    assert sources == set("abcdAB ") if shared else sources == set("abcd")
    again = load_prepared(tmp_path / "run")
    line, target = tf.constant(["a ||| c"]), tf.constant(["A|B"])
    assert again.source_tokenizer.encode(line).to_list() == prepared.source_tokenizer.encode(line).to_list()
    assert EOS in again.source_tokenizer.encode(line).to_list()[0]
    assert EOS not in again.target_tokenizer.encode(target).to_list()[0]


def test_more_sources_than_encoders_are_refused(recipe, tmp_path):
    write(tmp_path / "pairs" / "valid.tsv", "a ||| c\tA\na ||| b ||| c\tA\n")
    message = r"valid pair 2 must have at most 2 sources.*Received: 3 sources between '\|\|\|': 'a \|\|\| b"
    with pytest.raises(DataError, match=message):
        prepare(recipe(), tmp_path / "run", quiet)
    with pytest.raises(DataError, match=message):
        check_data(recipe(), quiet)
    assert not (tmp_path / "run").exists()


def test_the_report_of_a_recipe_counts_no_separator_as_unknown(recipe):
    report = check_data(recipe(), quiet)
    assert report.unknown["train"]["source"] == 0
    assert report.lengths["train"]["source"]["100"] == 6  # ab EOS dc EOS
