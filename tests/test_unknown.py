"""A source of tokens that the model does not know is told once, with what would be known."""

import itertools

import pytest

from tfseq2seq import unknown
from tfseq2seq.config import Tokenizer
from tfseq2seq.tokenizers import train_tokenizer
from tfseq2seq.unknown import watch_unknown


@pytest.fixture(scope="module")
def letters():
    """Knows the characters a, b, c and E."""
    return train_tokenizer(Tokenizer(kind="characters", vocabulary_size=16), ["abc", "E"])


def told_of(lines, tokenizer):
    told = []
    assert list(watch_unknown(iter(lines), tokenizer, told.append)) == lines
    return told


def test_the_share_an_example_and_the_case_that_would_be_known(letters):
    (told,) = told_of(["cab", "CAB", "[b]"], letters)  # 5 of 9
    assert told.startswith("56% of the source's tokens are unknown to the model") and told.count("as in 'CAB'.") == 1
    assert "In lower case it would be 22%" in told and 'data.source_tokenizer.case = "lower"' in told
    (told,) = told_of(["eeea"], letters)
    assert "75%" in told and "In upper case it would be 25%" in told
    (told,) = told_of(["xyz" * 30], letters)
    assert told.endswith("as in '" + "xyz" * 20 + "…'.")  # no case is better


@pytest.mark.parametrize("lines", [[], [""], ["abc"], ["abcabcabca" * 3, "x"]])
def test_few_unknown_tokens_are_not_worth_a_word(letters, lines):
    assert told_of(lines, letters) == []


def test_it_is_told_once_and_not_only_at_the_end(letters, monkeypatch):
    monkeypatch.setattr(unknown, "LOOKED_AT", 3)
    told = []
    lines = watch_unknown(itertools.cycle(["ab", "xy"]), letters, told.append)
    for number in range(20):
        assert len(told) == (number > 3)  # when the fourth was asked for
        next(lines)


def test_recordings_have_no_tokens():
    assert told_of(["a.wav", "b.wav"], object()) == []
