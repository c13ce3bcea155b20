"""Scores of summaries, replies and code, worked out by hand."""

import os
import sys

import pytest

from tfseq2seq.evaluation import METRICS, evaluate, order_metrics
from tfseq2seq.significance import compare
from tfseq2seq.syntax import is_bash, is_python


def value(metric, hypotheses, references):
    return evaluate([metric], hypotheses, hypotheses, references)[metric].value


def f1(precision, recall):
    return 100 * 2 * precision * recall / (precision + recall)


def test_rouge_is_f1_of_ngrams_and_of_the_longest_common_subsequence():
    # Of "the cat was on the mat" the hypothesis has the, cat, on, mat ("the" once): 4 of its 5 words, 4 of 6.
    hypothesis, references = ["The cat sat on mat."], [["the cat was on the mat"]]
    assert value("rouge1", hypothesis, references) == pytest.approx(f1(4 / 5, 4 / 6))
    assert value("rouge2", hypothesis, references) == pytest.approx(f1(1 / 4, 1 / 5))  # "the cat"
    assert value("rougeL", ["mat the cat"], references) == pytest.approx(f1(2 / 3, 2 / 6))  # in order: "the cat"


def test_rouge_is_a_mean_over_lines_of_the_best_reference():
    assert value("rougeL", ["a b", "c"], [["x", "a b"], ["d"]]) == pytest.approx(50)


def test_edit_similarity_is_the_share_of_characters_that_stay():
    # "find ." -> "find /": one of six; an empty answer shares nothing; two empty ones are equal.
    assert value("edit_similarity", ["find ."], [["find /"]]) == pytest.approx(100 * 5 / 6)
    assert value("edit_similarity", ["", ""], [["ls"], [""]]) == pytest.approx(50)
    assert value("edit_similarity", ["abcd"], [["x", "abc"]]) == pytest.approx(75)


def test_word_f1_minds_no_order_and_counts_a_word_as_often_as_it_stands():
    assert value("word_f1", ["so good, good"], [["Good so far"]]) == pytest.approx(f1(2 / 4, 2 / 3))
    assert value("word_f1", ["a"], [["b"]]) == value("word_f1", [""], [["b"]]) == 0


def test_distinct_ngrams_are_those_of_all_answers_together():
    # i, am, fine, i, am, ok: four of six; "i am" twice, "am fine", "am ok": three of four.
    answers = ["I am fine", "i am ok"]
    assert value("distinct_1", answers, [["x"], ["y"]]) == pytest.approx(100 * 4 / 6)
    assert value("distinct_2", answers, [["x"], ["y"]]) == pytest.approx(100 * 3 / 4)
    assert value("distinct_2", ["", "hi"], [["x"], ["y"]]) == 0


def test_length_is_words_an_answer_and_no_better_when_longer():
    assert value("length", ["a b c", ""], [["x"], ["y"]]) == 1.5
    assert METRICS["length"].maximize is None
    with pytest.raises(ValueError, match="train.metric must be one of which more or less is better.*'length'"):
        order_metrics(("bleu",), "length")


@pytest.mark.parametrize("text, valid", [
    ("find . -name '*.txt' | xargs rm {{file}}", True), ("for i in 1 2; do echo $i; done", True),
    ("find . -name '*.txt", False), ("if true; then", False), ("echo $(", False), ("ls )", False), ("", False),
    ("ls\0", False), ("\ud800", True), ("-c 'exit 3'", True)])  # a word, not an option of bash
def test_bash_is_what_bash_can_parse(text, valid):
    assert is_bash(text) is valid


def test_bash_runs_nothing_and_sees_no_environment(tmp_path, monkeypatch):
    made = tmp_path / "made"
    profile = tmp_path / "profile"
    profile.write_text(f"touch {made}\n")
    monkeypatch.setenv("BASH_ENV", str(profile))
    for text in (f"touch {made}", f"set +n\ntouch {made}", f"echo $(touch {made})", f"eval 'touch {made}'",
                 f": > {made}", f"x=$(<{made}) touch {made}; trap 'touch {made}' EXIT", f"cat <<E\n$(touch {made})\nE"):
        assert is_bash(text)
    assert not made.exists()
    os.system(f"BASH_ENV={profile} bash -c true")  # what would have run where the environment is seen
    assert made.exists()


@pytest.mark.parametrize("text, valid", [
    ("return self . x", True), ("if x :", True), ("elif x :", True), ("else :", True), ("try :", True),
    ("except E as e :", True), ("finally :", True), ("@ property", True), ("class A ( B ) :", True),
    ("from a import b", True), ("x = '\\d' is 'a'", True), ("if x", False), ("x = = 1", False), ("", False),
    ("(" * 500, False), ("\0", False), ("else", False)])
def test_python_is_what_its_parser_takes_as_a_line_of_a_block(text, valid):
    assert is_python(text) is valid


def test_python_is_not_run(tmp_path):
    assert is_python(f"open({str(tmp_path / 'made')!r}, 'w')")
    assert is_python("__import__('no_such_module_anywhere')") and "no_such_module_anywhere" not in sys.modules
    assert not (tmp_path / "made").exists()


def test_a_comparison_has_intervals_of_means_and_none_of_what_looks_at_all_lines():
    references = [[f"a b c {i}"] for i in range(20)]
    systems = {"one": [f"a b d {i}" for i in range(20)], "two": [f"a b c {i}" for i in range(20)]}
    found = compare(["rougeL", "distinct_1", "length"], systems, references, samples=50)
    assert found["two"]["rougeL"].value == pytest.approx(100) and found["two"]["rougeL"].p_value < 0.05
    assert found["one"]["rougeL"].interval == pytest.approx(0)
    assert (found["two"]["distinct_1"].interval, found["two"]["distinct_1"].p_value) == (None, None)
    assert found["one"]["distinct_1"].value == pytest.approx(100 * 23 / 80)
    assert found["one"]["length"].value == 4
