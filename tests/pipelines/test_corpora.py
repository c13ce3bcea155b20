"""The data sets of the applications become pairs as their readers say."""

import bz2
import gzip
import hashlib
import json
import lzma
import zipfile

import pytest

from pipelines import sources
from pipelines.chitchat import read_chitchat
from pipelines.code_corpora import read_django, read_nl2bash, read_tldr
from pipelines.debian import read_descriptions, read_synopses
from pipelines.fetching import TRUST, WebFile
from pipelines.pairs import DataError
from pipelines.sources import CORPORA, obtain, read_conll2018, read_multi30k
from tests.pipelines.test_fetching import server  # noqa: F401  # a fixture


def together(splits):
    return [pair for pairs in splits for pair in pairs]


def conversations(path, count=1):
    def block(sender, *texts):
        return [{"text": text, "timestamp": "", "sender": sender} for text in texts]

    blocks = [
        block("a", "Hello", "How are  you? "), block("b", "fine"), block("a", " "), block("a", "what <turn> now"),
        block("b", "word " * 50), block("a", "long " * 81), block("b", "ok"), block("a", "bye")]
    data = {f"conversation {i}": {"messages": blocks, "ratings": {}} for i in range(count)}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_replies_have_the_turns_before_them(tmp_path):
    pairs = together(read_chitchat(conversations(tmp_path / "dataset.json")))
    assert pairs == [
        ("Hello How are you?", "fine"),
        ("Hello How are you? <turn> fine", "what now"),
        # a turn of 50 words is no reply; what comes after one of 81 words has no context
        ("ok", "bye")]


def test_a_conversation_is_in_one_split(tmp_path):
    splits = read_chitchat(conversations(tmp_path / "dataset.json", 400))
    assert [len(pairs) % 3 for pairs in splits] == [0, 0, 0]
    # 400 conversations: 3.5 % are 14, with a deviation of 4, and 4 % are 16
    assert 3 <= len(splits.valid) // 3 <= 26 and 4 <= len(splits.test) // 3 <= 28


ENGLISH = """\
Package: game
Description-md5: 1
Description-en: a game  of war
 Game is a game that can be played by
 several people at once.
 .
  * a list
 .
 More.

Package: game-data
Description-md5: 2
Description-en: a game of war (data)
 Game is a game that can be played by several people at once.

Package: other
Description-md5: 3
Description-en: other
"""
FRENCH = """\
Package: game
Description-md5: 1
Description-fr: un jeu de guerre
 Jeu à plusieurs.
 .
  * une liste
 .
 More.

Package: game-data
Description-md5: 9
Description-fr: d'une autre version

Package: other
Description-md5: 3
Description-fr: autre
 Plus de paragraphes.
"""


@pytest.fixture
def lists(tmp_path):
    (tmp_path / "en.xz").write_bytes(lzma.compress(ENGLISH.encode()))
    (tmp_path / "fr.bz2").write_bytes(bz2.compress(FRENCH.encode()))
    return tmp_path / "en.xz", tmp_path / "fr.bz2"


def test_descriptions_are_paired_paragraph_by_paragraph(lists):
    expected = [
        ("Game is a game that can be played by several people at once.", "Jeu à plusieurs."),
        ("a game of war", "un jeu de guerre"), ("other", "autre")]
    assert sorted(together(read_descriptions(*lists, "en-fr"))) == expected
    assert sorted(together(read_descriptions(*lists, "fr-en"))) == sorted((two, one) for one, two in expected)


def test_a_synopsis_is_a_summary_of_the_first_paragraph(lists):
    paragraph = "Game is a game that can be played by several people at once."
    assert together(read_synopses(lists[0], None)) == [(paragraph, "a game of war")]  # once, of the first package


def test_lines_of_nl2bash_and_of_django_belong_together(tmp_path):
    (tmp_path / "nl").write_text("List  files\nlist files\n\nshow\n")
    (tmp_path / "cm").write_text("ls\nls -a\nx\nls | \n")
    splits = read_nl2bash(tmp_path / "nl", tmp_path / "cm")
    assert sorted(together(splits)) == [("List files", "ls"), ("list files", "ls -a"), ("show", "ls |")]
    assert any({("List files", "ls"), ("list files", "ls -a")} <= set(pairs) for pairs in splits)
    (tmp_path / "cm").write_text("ls\n")
    with pytest.raises(DataError, match="as many lines. Received: nl with 4, cm with 1."):
        read_nl2bash(tmp_path / "nl", tmp_path / "cm")
    (tmp_path / "anno").write_text("".join(f"call f{i} .\n" for i in range(18_805)))
    (tmp_path / "code").write_text("".join(f"    f{i}()\n" for i in range(18_805)))
    splits = read_django(tmp_path / "anno", tmp_path / "code")
    assert [len(pairs) for pairs in splits] == [16_000, 1_000, 1_805]
    assert splits.test[0] == ("call f17000 .", "f17000()")


def test_examples_of_tldr_are_found_in_the_english_pages(tmp_path):
    page = (
        "# rm\n\n> Remove files.\n> More information: <https://example.com>.\n\n- Remove files from [r]ead-only:\n\n"
        "`rm {{path/to/file1 path/to/file2 ...}}`\n\n- Remove a directory:\n\n"
        "`rm {{[-r|--recursive]}} {{directory}}`\n")
    with zipfile.ZipFile(tmp_path / "tldr.zip", "w") as archive:
        archive.writestr("tldr-2.3/pages/common/rm.md", page)
        archive.writestr("tldr-2.3/pages/osx/rm.md", page)
        archive.writestr("tldr-2.3/pages.de/common/rm.md", page.replace("Remove", "Entferne"))
        archive.writestr("tldr-2.3/README.md", page)
    assert together(read_tldr(tmp_path / "tldr.zip")) == [
        ("rm: Remove files from [r]ead-only", "rm {{path/to/file1 path/to/file2 ...}}"),
        ("rm: Remove a directory", "rm --recursive {{directory}}")]


def test_multi30k_and_conll2018_keep_their_splits(tmp_path):
    paths = []
    for part in ("train", "val", "test"):
        for language in ("en", "fr"):
            paths.append(tmp_path / f"{part}.{language}.gz")
            paths[-1].write_bytes(gzip.compress(f"{part} {language}\n".encode()))
    assert read_multi30k(*paths, "en-fr") == (
        [("train en", "train fr")], [("val en", "val fr")], [("test en", "test fr")])
    for part in ("train", "dev", "test"):
        (tmp_path / part).write_text(f"stodge\tstodges\tV;3;{part}\n")
    splits = read_conll2018(*(tmp_path / part for part in ("train", "dev", "test")), "english")
    assert together(splits) == [("stodge V;3;train", "stodges"), ("stodge V;3;dev", "stodges"),
                                ("stodge V;3;test", "stodges")]


@pytest.mark.parametrize("name", CORPORA)
def test_every_file_on_the_web_says_its_checksum_or_has_none(name):
    for file in CORPORA[name].files(CORPORA[name].example):
        if isinstance(file, WebFile):
            assert file.url.startswith("https://")
            assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32 and file.size


def test_files_without_a_recorded_checksum_are_used_when_they_are_trusted(monkeypatch, tmp_path, server):  # noqa: F811
    monkeypatch.setenv("TFSEQ2SEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(TRUST, raising=False)
    server.content = b"x\n" * 18_805
    files = [WebFile(url=f"http://127.0.0.1:{server.server_port}/{name}") for name in ("all.anno", "all.code")]
    monkeypatch.setitem(sources.CORPORA, "django", sources.Corpus(
        files=lambda pair: files, read=read_django, license="made up"))
    received = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(DataError, match=(
            f"all.anno: nobody has recorded the SHA-256 .* {TRUST}={received} in the environment. Received: 37,610 b"
            f".* All files of this corpus together: {TRUST}=\"{received} {received}\"")):
        obtain("django")
    monkeypatch.setenv(TRUST, f"{'0' * 64} {received}")
    assert len(obtain("django").test) == 1_805
    assert server.ranges == [None, None, "bytes=37610-", "bytes=37610-"]  # what was fetched is not fetched again
    monkeypatch.delenv(TRUST)
    assert len(obtain("django").test) == 1_805  # what was trusted once is kept
