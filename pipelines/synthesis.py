"""Speech made by espeak-ng, of as many voices and words as one likes: digit strings, and sentences.

A voice is one of espeak-ng's accents of English with one of its variants; all that a voice says is in one split, so the
voices of valid and test are never heard in training.
"""

import concurrent.futures
import hashlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.fetching import cache_folder
from pipelines.held_out import split_of
from pipelines.pairs import DataError, Progress, Splits
from pipelines.spoken_digits import DIGITS
from tfseq2seq.files import sync_folder

PROGRAM = "espeak-ng"
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029")
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
VALID, TEST = 0.08, 0.12  # shares of the voices
STRINGS = 3000
SENTENCES = 6000
LONGEST_SENTENCE = 8  # words
_CLAUSE_END = re.compile(r"[^\w\s'-]+")
_NUMBER = re.compile(r"(\d+\.\d+(\.\d+)?)")


class Utterance(NamedTuple):
    """What is said, and how.

    Attributes:
        text: words.
        voice: as espeak-ng names it, "en-us+f3".
        speed: words a minute.
        pitch: 0 to 99.
    """

    text: str
    voice: str
    speed: int
    pitch: int


def digit_strings(count: int = STRINGS) -> Iterator[Utterance]:
    """Two to five digits each, the voices in turn; the same ones on every machine."""
    draw = random.Random("digits")
    for number in range(count):
        yield _utterance(" ".join(draw.choices(DIGITS, k=draw.randint(2, 5))), number, draw)


def sentences(verses: Sequence[str], count: int = SENTENCES) -> Iterator[Utterance]:
    """Clauses of three to `LONGEST_SENTENCE` words of the verses, each once, the voices in turn.

    Args:
        verses: text with its punctuation.
        count: at most so many.
    """
    draw = random.Random("sentences")
    clauses = {" ".join(clause.lower().split()): None for verse in verses for clause in _CLAUSE_END.split(verse)}
    fitting = [
        clause for clause in clauses
        if 3 <= len(clause.split()) <= LONGEST_SENTENCE and not any(letter.isdigit() for letter in clause)]
    draw.shuffle(fitting)
    for number, clause in enumerate(fitting[:count]):
        yield _utterance(clause, number, draw)


def speak(name: str, utterances: Sequence[Utterance], progress: Progress = lambda *_: None) -> Splits:
    """Has espeak-ng say what the cache does not hold yet; returns paths of WAV files, and the words.

    Args:
        name: of the folder in the cache.
        utterances: what is said.
        progress: told (utterances done, utterances).
    Raises:
        DataError: there is no espeak-ng, it fails, or the cache cannot be written.
    """
    folder = cache_folder() / f"{name}-{_key(utterances)}-{espeak_version()}"
    if not folder.is_dir():
        temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
        try:
            temporary.mkdir(parents=True)
            _speak_all(utterances, temporary, progress)
            sync_folder(temporary)
            if not folder.is_dir():  # another process may have been first
                temporary.rename(folder)
        except OSError as error:
            raise DataError(f"{folder}: cannot be written: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    splits = Splits([], [], [])
    for number, utterance in enumerate(utterances):
        split = getattr(splits, split_of(utterance.voice, VALID, TEST))
        split.append((str(folder / _file(number)), utterance.text))
    return splits


def read_digit_strings(pair: str | None = None, progress: Progress | None = None) -> Splits:
    """The corpus `espeak_digits`."""
    return speak("espeak-digits", list(digit_strings()), progress or (lambda *_: None))


def read_sentences(verses: Sequence[str], progress: Progress | None = None) -> Splits:
    """The corpus `espeak_sentences`, of clauses of these verses."""
    return speak("espeak-sentences", list(sentences(verses)), progress or (lambda *_: None))


def espeak_version() -> str:
    """As "1.51". Raises DataError where there is no espeak-ng."""
    try:
        told = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataError(
            f"This corpus is spoken by {PROGRAM} (1.50 or newer), which was not found: install it, as by "
            f"`apt-get install {PROGRAM}` or `brew install {PROGRAM}`. Received: {error}.") from error
    found = _NUMBER.search(told)
    return found[0] if found else "unknown"


def _utterance(text: str, number: int, draw: random.Random) -> Utterance:
    accent, variant = number % len(ACCENTS), number // len(ACCENTS) % len(VARIANTS)
    return Utterance(text, f"{ACCENTS[accent]}+{VARIANTS[variant]}", draw.randint(130, 200), draw.randint(25, 75))


def _speak_all(utterances: Sequence[Utterance], folder: Path, progress: Progress) -> None:
    progress(0, len(utterances))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        work = pool.map(_speak_one, utterances, [folder / _file(number) for number in range(len(utterances))])
        for done, _ in enumerate(work, 1):
            progress(done, len(utterances))


def _speak_one(utterance: Utterance, path: Path) -> None:
    text, voice, speed, pitch = utterance
    done = subprocess.run(
        [PROGRAM, "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(path)], input=text, capture_output=True,
        text=True)
    if done.returncode or not path.is_file():
        raise DataError(f"{PROGRAM} cannot say {text!r} as {voice!r}: {done.stderr.strip() or done.returncode}.")


def _file(number: int) -> str:
    return f"{number:05d}.wav"


def _key(utterances: Sequence[Utterance]) -> str:
    return hashlib.sha256(repr(list(utterances)).encode()).hexdigest()[:12]
