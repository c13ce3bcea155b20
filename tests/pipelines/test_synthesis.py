"""Corpora that espeak-ng speaks; a script that notes how it was called stands in where the real one is missing."""

import os
import shutil
import wave

import pytest

from pipelines import synthesis
from pipelines.pairs import DataError
from pipelines.sources import CORPORA
from pipelines.spoken_digits import DIGITS
from pipelines.synthesis import digit_strings, sentences, speak

STAND_IN = """#!/bin/sh
if [ "$1" = --version ]; then echo "eSpeak NG text-to-speech: 1.99  Data at: /there"; exit; fi
echo "$@" >> "$CALLS"
case "$2" in *whisper*) echo "no such voice" >&2; exit 1;; esac
cat > "$8"
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """What it was called with, a line a call."""
    program = tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("TFSEQ2SEQ_CACHE", str(tmp_path / "cache"))
    return lambda: (tmp_path / "calls").read_text().splitlines()


def test_strings_are_drawn_the_same_each_time_and_voices_take_turns():
    drawn = list(digit_strings(200))
    assert drawn == list(digit_strings(200)) != list(digit_strings(199))
    assert {len(each.text.split()) for each in drawn} == {2, 3, 4, 5}
    assert {word for each in drawn for word in each.text.split()} == set(DIGITS)
    assert len({each.voice for each in drawn}) == len(synthesis.ACCENTS) * len(synthesis.VARIANTS) == 91
    assert drawn[0].voice == drawn[91].voice


def test_a_voice_is_in_one_split_and_the_words_are_kept(stand_in):
    drawn, told = list(digit_strings(91)), []
    splits = speak("digits", drawn, lambda done, total: told.append((done, total)))
    assert [len(pairs) for pairs in splits] == [75, 5, 11]
    assert told == [(done, 91) for done in range(92)]
    with_path = {path: text for pairs in splits for path, text in pairs}
    assert sorted(with_path.values()) == sorted(each.text for each in drawn)
    for path, text in with_path.items():
        with open(path, encoding="utf-8") as file:
            assert file.read() == text  # what the stand-in was told to say
    voices = [
        {drawn[int(os.path.basename(path)[:5])].voice for path, _ in pairs} for pairs in splits]
    assert not voices[0] & voices[1] and not voices[0] & voices[2] and not voices[1] & voices[2]
    first = drawn[0]
    assert any(call.startswith(f"-v {first.voice} -s {first.speed} -p {first.pitch} -w ") for call in stand_in())


def test_what_the_cache_holds_is_not_spoken_again_and_another_set_is(stand_in):
    drawn = list(digit_strings(3))
    assert speak("digits", drawn) == speak("digits", drawn)
    assert len(stand_in()) == 3
    speak("digits", drawn[:2])
    assert len(stand_in()) == 5


def test_a_failure_is_told_and_leaves_nothing(stand_in, tmp_path):
    bad = [*digit_strings(2), synthesis.Utterance("one", "en+whisper", 150, 50)]
    with pytest.raises(DataError, match="cannot say 'one' as 'en.whisper': no such voice"):
        speak("digits", bad)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_the_program_an_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="install it, as by `apt-get install espeak-ng`"):
        CORPORA["espeak_digits"].read(None)


def test_sentences_are_clauses_of_a_few_words_each_once():
    verses = ["And God said, Let there be light: and there was light.", "Yes.", "And there was light; I am 7 years old"]
    found = list(sentences(verses))
    assert sorted(each.text for each in found) == ["and god said", "and there was light", "let there be light"]
    assert list(sentences(verses)) == found and len(list(sentences(verses, 2))) == 2


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_the_real_program_writes_the_same_samples_each_time(tmp_path, monkeypatch):
    contents = []
    for name in "ab":
        monkeypatch.setenv("TFSEQ2SEQ_CACHE", str(tmp_path / name))
        splits = speak("digits", list(digit_strings(14)))
        contents.append([open(path, "rb").read() for pairs in splits for path, _ in pairs])
    assert contents[0] == contents[1]
    path, text = splits.train[0]
    with wave.open(path) as file:
        assert 0.25 * len(text.split()) < file.getnframes() / file.getframerate() < len(text.split())
