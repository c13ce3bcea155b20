"""Broken, doubled and leaked pairs are counted and taken out."""

import io
import json
import os

import pytest
from rich.console import Console

from pipelines.checking import check, filter_pairs
from pipelines.pairs import Splits
from pipelines.tasks import TASKS
from pipelines.text import load_splits
from tfseq2seq.config import Data, Tokenizer
from tfseq2seq.tokenizers import train_tokenizer

GOOD = [(f"source {i}", f"target {i}") for i in range(9)]
SPLITS = Splits(
    train=[
        *GOOD,
        GOOD[0],  # duplicated
        (" ", "target"), ("source", ""),  # empty
        ("bell \x07", "bell"), ("half", "decod\ufffd"), ("c1", "\x9f"),  # control characters
        ("tab\tand\nline", "tab\tand\nline"),  # white space is none
        ("x" * 95, "y" * 8),  # (8 + 5) / (95 + 5) = 0.13, below 1 / 4
        ("x" * 8, "y" * 60),  # (60 + 5) / (8 + 5) = 5
        ("x" * 8, "y" * 47),  # (47 + 5) / (8 + 5) = 4, just allowed
        ("held out", "otherwise said"), ("also held out", "the same"),  # leaked
    ],
    valid=[("held out", "once said"), ("valid", ""), ("x" * 95, "y")],
    test=[("also held out", "the same"), ("test", "test")],
)
TRANSLATION = TASKS["translation"]


@pytest.fixture(scope="module")
def report():
    return check(SPLITS, TRANSLATION, Data())


def test_problems_are_counted_in_every_split(report):
    assert report.splits == {
        "train": {"pairs": 21, "empty": 2, "control characters": 3, "badly-ratioed": 2, "duplicated": 1},
        "valid": {"pairs": 3, "empty": 1, "control characters": 0, "badly-ratioed": 1, "duplicated": 0},
        "test": {"pairs": 2, "empty": 0, "control characters": 0, "badly-ratioed": 0, "duplicated": 0}}


def test_leaks_are_counted_by_source_and_by_pair(report):
    """The 95 letters of valid's last pair stand in train too."""
    assert report.leakage == {"valid": {"source": 2, "pair": 0}, "test": {"source": 1, "pair": 1}}


def test_lengths_are_percentiles(report):
    assert report.unit == "characters"
    assert report.lengths["test"] == {
        "source": {"50": 4, "90": 13, "99": 13, "100": 13}, "target": {"50": 4, "90": 8, "99": 8, "100": 8}}


def test_with_tokenizers_long_pairs_and_unknown_tokens_are_counted():
    splits = Splits([("aaab", "x y"), ("ab", "x x x"), ("a", "x")], [("abcc", "z x")], [])
    characters = train_tokenizer(Tokenizer(kind="characters"), [source for source, _ in splits.train])
    words = train_tokenizer(Tokenizer(kind="words"), [target for _, target in splits.train])
    found = check(splits, TRANSLATION, Data(max_source_length=4, max_target_length=3), characters, words)
    assert found.unit == "tokens, end token included"
    assert found.splits["train"]["over-long"] == 2  # 4 + 1 letters; 3 + 1 words
    assert found.splits["valid"]["over-long"] == 1
    assert found.lengths["train"]["source"] == {"50": 3, "90": 5, "99": 5, "100": 5}
    assert found.unknown == {"train": {"source": 0, "target": 0}, "valid": {"source": 0.5, "target": 0.5}}


def test_the_report_is_plain_values_and_tables(report):
    assert json.loads(json.dumps(report.as_dict()))["splits"] == report.splits
    console = Console(file=io.StringIO(), width=80)
    console.print(report.render())
    shown = [line.split() for line in console.file.getvalue().replace("│", " ").splitlines()]
    assert ["control", "characters", "3", "0", "0"] in shown
    assert ["source", "in", "train", "2", "1"] in shown
    assert ["test", "source", "4", "13", "13", "13"] in shown


def test_the_filter_takes_broken_and_leaked_pairs_out_of_train_alone():
    splits, counts = filter_pairs(SPLITS, TRANSLATION)
    assert counts == {"empty": 3, "control characters": 3, "badly-ratioed": 2, "leaked": 2}
    assert splits.train == [
        *GOOD, GOOD[0], ("tab\tand\nline", "tab\tand\nline"), ("x" * 8, "y" * 47)]
    assert splits.valid == [("held out", "once said"), ("x" * 95, "y")]
    assert splits.test == SPLITS.test


def test_filtered_data_have_no_leak_and_nothing_broken_left():
    splits, _ = filter_pairs(SPLITS, TRANSLATION)
    found = check(splits, TRANSLATION, Data())
    assert all(leaks == {"source": 0, "pair": 0} for leaks in found.leakage.values())
    assert filter_pairs(splits, TRANSLATION) == (splits, dict.fromkeys(
        ("empty", "control characters", "badly-ratioed", "leaked"), 0))


def test_ratios_are_measured_against_the_usual_one():
    """A language that needs three times the letters is not broken for it."""
    pairs = [(f"{i:02}" + "字" * 28, "y" * 100) for i in range(20)]  # 105 / 35 = 3
    # 25 / 35 is below 3 / 4, 27 / 35 above, and 421 / 35 above 3 * 4
    odd = [("字" * 30, "y" * 20), ("字" * 30, "y" * 22), ("字" * 30, "y" * 416)]
    splits, counts = filter_pairs(Splits([*pairs, *odd], [], []), TRANSLATION)
    assert splits.train == [*pairs, odd[1]]
    assert counts["badly-ratioed"] == 2


def test_several_pronunciations_of_a_word_are_no_problem():
    splits = Splits([("A", "EY"), ("A", "AH"), ("AAA", "T R IH P AH L EY")], [("B", "B IY")], [])
    assert filter_pairs(splits, TASKS["pronunciation"])[0] == splits


def test_no_split_may_be_empty_but_the_report_still_renders():
    found = check(Splits([], [], []), TRANSLATION, Data())
    assert found.splits == {}
    Console(file=io.StringIO()).print(found.render())


@pytest.mark.skipif("TFSEQ2SEQ_DATA" not in os.environ, reason="TFSEQ2SEQ_DATA does not name the data folder")
@pytest.mark.parametrize(
    ("folder", "task"), [("g2p_cmudict_std", "pronunciation"), ("mt_multi30k_en_de", "translation")])
def test_good_data_lose_next_to_nothing(folder, task):
    splits = load_splits(Data(folder=os.path.join(os.environ["TFSEQ2SEQ_DATA"], folder)))
    left, _ = filter_pairs(splits, TASKS[task])
    assert len(left.train) > 0.999 * len(splits.train)
