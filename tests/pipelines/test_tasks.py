"""What a task says, and the cheap answers that a model has to beat."""

import itertools
import math
import os

import pytest

from pipelines.tasks import TASKS, find_task
from pipelines.tasks.pronunciation import align, letters_in_context
from pipelines.text import load_splits
from tfseq2seq.config import ConfigError, Data
from tfseq2seq.evaluation import METRICS, TEACHER_FORCED


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_names_metrics_that_exist(task):
    assert set(task.metrics) <= {*METRICS, *TEACHER_FORCED}
    assert TASKS[task.name] is task


def test_an_unknown_task_is_refused_with_the_nearest():
    assert find_task("translation").name == "translation"
    text = "'task' must be one of translation, .*pronunciation, .*. Did you mean 'translation'.* Received: 'tr"
    with pytest.raises(ConfigError, match=text):
        find_task("translatoin")


def test_lengths_are_letters_characters_and_phones():
    assert TASKS["translation"].measure_target("zwei Häuser") == 11
    assert TASKS["pronunciation"].measure_source("ABBEY") == 5
    assert TASKS["pronunciation"].measure_target("AE B IY") == 3


def test_the_baseline_of_translation_copies():
    assert TASKS["translation"].baseline([("a", "b")], ["x", ""]) == ["x", ""]


def exhaustive(word, phones, score):
    """The best of all ways to cut `phones` into a piece of 0 to 2 for each letter."""
    best, found = -math.inf, []
    for sizes in itertools.product((0, 1, 2), repeat=len(word)):
        if sum(sizes) == len(phones):
            ends = list(itertools.accumulate(sizes, initial=0))
            chunks = [phones[start:end] for start, end in itertools.pairwise(ends)]
            if (total := sum(map(score, word, chunks))) > best:
                best, found = total, chunks
    return found


@pytest.mark.parametrize(
    ("word", "phones"), [("ABBEY", "qrs"), ("AB", "qrsq"), ("ABC", "q"), ("B", ""), ("AAB", "qrqrs")])
def test_the_alignment_is_the_best_of_all(word, phones):
    def score(letter, chunk):  # irregular, so that no two ways are equally good
        return -((ord(letter) * 7 + sum(map(ord, chunk)) * 13 + len(chunk) * 31) % 17) - len(chunk) / 7

    phones = tuple(phones)
    assert align(word, phones, score) == exhaustive(word, phones, score)


def test_too_many_phones_have_no_alignment():
    assert align("A", ("EY", "B", "IY"), lambda *_: 0.0) == []
    assert align("", (), lambda *_: 0.0) == []


def test_letters_are_read_by_their_neighbours():
    """C is K before A and S before E; E is silent at the end; X is two phones."""
    train = [
        ("CAT", "K AE T"), ("CAB", "K AE B"), ("ACE", "AE S"), ("ICE", "IH S"), ("BET", "B EH T"),
        ("BAT", "B AE T"), ("TAB", "T AE B"), ("BIT", "B IH T"), ("TAX", "T AE K S"), ("BOX", "B AA K S"),
        ("TOT", "T AA T"), ("LAB", "L AE B"), ("LIT", "L IH T")]
    assert letters_in_context(train, ["CABBAT", "LACE", "LAX", "?", ""]) == [
        "K AE B B AE T", "L AE S", "L AE K S", "", ""]


def test_the_baseline_never_varies_and_takes_any_words():
    train = [("", "A"), ("A", ""), ("AB", "X Y Z X Y Z"), ("BA", "X Y")]
    assert letters_in_context(train, ["AB"]) == letters_in_context(list(train), ["AB"])
    assert letters_in_context([], ["AB"]) == [""]


@pytest.mark.skipif("TFSEQ2SEQ_DATA" not in os.environ, reason="TFSEQ2SEQ_DATA does not name the data folder")
def test_the_baseline_gets_many_real_words_right():
    """Not the 20,000 words that it may take, but enough to beat the letters by far."""
    splits = load_splits(Data(folder=os.path.join(os.environ["TFSEQ2SEQ_DATA"], "g2p_cmudict_std")))
    references: dict[str, set[str]] = {}
    for word, phones in splits.test:
        references.setdefault(word, set()).add(phones)
    answers = letters_in_context(splits.train[::22], list(references))
    right = sum(answer in wanted for answer, wanted in zip(answers, references.values(), strict=True))
    assert right > 0.25 * len(references)
