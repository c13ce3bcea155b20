"""Local files become lines and pairs, and what is wrong with a file is said in one line."""

import gzip
import io
import os

import pytest

from pipelines.pairs import DataError
from pipelines.reading import decode_lines, read_lines, read_pairs, stream_lines

PAIRS = [("ein Haus", "a house"), ("zwei “Häuser” 🏠", "two houses")]
TSV = "ein Haus\ta house\tignored\tand this\nzwei “Häuser” 🏠\ttwo houses\n"
JSONL = (
    '{"source": "ein Haus", "target": "a house", "more": 1}\n'
    '{"target": "two houses", "source": "zwei “Häuser” 🏠"}\n')
PACKED = gzip.compress(TSV.encode(), mtime=0)  # no clock in it: the names of tests are the same in every process


def write(path, content):
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_pairs_come_of_every_kind_of_file_plain_or_gz(tmp_path, packed):
    assert read_pairs(write(tmp_path / f"a.tsv{packed}", TSV)) == PAIRS
    assert read_pairs(write(tmp_path / f"a.jsonl{packed}", JSONL)) == PAIRS
    sources = write(tmp_path / f"a.de{packed}", "ein Haus\nzwei “Häuser” 🏠\n")
    assert read_pairs([sources, write(tmp_path / "a.en", "a house\ntwo houses")]) == PAIRS  # no end of line
    assert read_pairs([write(tmp_path / f"b.tsv{packed}", TSV)]) == PAIRS


def test_a_byte_order_mark_and_carriage_returns_are_taken_off(tmp_path):
    text = "\ufeffein Haus\ta house\r\nzwei “Häuser” 🏠\ttwo houses\r\n"
    assert read_pairs(write(tmp_path / "a.tsv", text)) == PAIRS


def test_only_line_feeds_end_a_line(tmp_path):
    """`str.splitlines` would also split at these, and the lines of two files would no longer match."""
    text = "a\u2028b\x0bc\x85d\re\n\n f \n"
    assert read_lines(write(tmp_path / "a.txt", text)) == ["a\u2028b\x0bc\x85d\re", "", " f "]


def test_half_a_surrogate_pair_in_json_becomes_a_replacement_character(tmp_path):
    path = write(tmp_path / "a.jsonl", r'{"source": "\ud83d\ude00", "target": "x\ud83d"}')
    assert read_pairs(path) == [("😀", "x\ufffd")]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.tsv", "", "a.tsv: the file is empty"),
        ("a.tsv.gz", "", "a.tsv.gz: the file is empty"),
        ("a.tsv", "\n\n \n", "a.tsv: the file is empty"),
        ("a.tsv", b"\xef\xbb\xbf", "a.tsv: the file is empty"),
        ("a.tsv", TSV + "one column\n", "a.tsv:3: a column is missing; .* source<TAB>target. Received: 'o"),
        ("a.jsonl", JSONL + '{"source": "x"}', "a.jsonl:3: a column is missing.*Received: '{\"source\": \"x"),
        ("a.jsonl", '{"source": 1, "target": "x"}', "a.jsonl:1: a column is missing"),
        ("a.jsonl", '["x", "y"]', "a.jsonl:1: a column is missing"),
        ("a.jsonl", JSONL + "nonsense", "a.jsonl:3: not JSON: Expecting value.*Received: 'nonsense'"),
        ("a.tsv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a.tsv: a binary file.*Received: a NUL at byte 8"),
        ("a.tsv", "a\tä\n".encode() + b"b\t\xdf\n", r"a.tsv:2: not UTF-8.*byte 0xdf at offset 7"),
        ("a.tsv", b"\xef\xbb\xbfa\t\xff", r"a.tsv:1: not UTF-8.*byte 0xff at offset 5"),
        ("a.tsv", TSV.encode("utf-16"), "a.tsv: not UTF-8 but UTF-16.*iconv"),
        ("a.tsv", PACKED, "a.tsv: compressed with gzip; give it a name .* .gz"),
        ("a.txt", "a\n", "Pairs are read of one .tsv or .jsonl file.*Received: .*a.txt"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path, name, content, text):
    with pytest.raises(DataError, match=text) as raised:
        read_pairs(write(tmp_path / name, content))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"plain text", PACKED[:-12], PACKED[:5]])
def test_a_damaged_gz_is_one_clear_line(tmp_path, content):
    (tmp_path / "a.tsv.gz").write_bytes(content)
    with pytest.raises(DataError, match="a.tsv.gz: not a whole .gz file"):
        read_pairs(str(tmp_path / "a.tsv.gz"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="a.tsv: no such file"):
        read_pairs(str(tmp_path / "a.tsv"))
    (tmp_path / "b.tsv").mkdir()
    with pytest.raises(DataError, match="b.tsv: not a file"):
        read_pairs(str(tmp_path / "b.tsv"))


def test_unequal_line_counts_are_told(tmp_path):
    paths = [write(tmp_path / "a.de", "x\ny\nz\n"), write(tmp_path / "a.en", "x\ny\n")]
    with pytest.raises(DataError, match="a.de and .*a.en must have as many lines.*Received: 3 and 2 lines"):
        read_pairs(paths)


@pytest.mark.parametrize("names", [[], ["a.de"], ["a.tsv", "b.tsv"], ["a.de", "a.en", "a.fr"]])
def test_files_that_make_no_pairs_are_refused(names):
    with pytest.raises(DataError, match="Pairs are read of one"):
        read_pairs(names)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_stream_keeps_every_line_and_takes_off_its_end(tmp_path, packed):
    text = "\ufeffein Haus\r\n\n  \nzwei\u2028“Häuser” 🏠\r\nno end"
    path = write(tmp_path / f"a.txt{packed}", text)
    assert list(stream_lines(path)) == ["ein Haus", "", "  ", "zwei\u2028“Häuser” 🏠", "no end"]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_a_stream_of_nothing_has_no_lines_and_one_of_an_empty_line_has_one(tmp_path, content):
    assert list(stream_lines(write(tmp_path / "a.txt.gz", content))) == []
    assert list(stream_lines(write(tmp_path / "b.txt", content + b"\n"))) == [""]


def test_a_stream_gives_lines_before_it_meets_what_is_broken(tmp_path):
    lines = stream_lines(write(tmp_path / "a.txt", "a\nä\n".encode() + b"b\xdf\n"))
    assert [next(lines), next(lines)] == ["a", "ä"]
    with pytest.raises(DataError, match=r"a.txt:3: not UTF-8.*byte 0xdf at offset 6"):
        next(lines)


def test_a_pipe_gives_a_line_before_its_writer_is_done():
    reading, writing = os.pipe()
    os.write(writing, b"first\nsec")
    with open(reading, "rb") as file:
        lines = decode_lines(file, "a pipe")
        assert next(lines) == "first"
        os.write(writing, b"ond\r\n")
        assert next(lines) == "second"
        os.close(writing)
        assert list(lines) == []


def test_an_open_file_is_called_by_its_name():
    packed = io.BufferedReader(io.BytesIO(gzip.compress(b"a")))
    with pytest.raises(DataError, match="standard input: compressed with gzip; .* `gzip -dc`"):
        next(decode_lines(packed, "standard input"))


def test_a_damaged_gz_gives_its_lines_up_to_the_damage(tmp_path):
    text = "".join(f"{number * 7919 % 100_003}\n" for number in range(400_000))
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(text.encode())[:-1000])
    lines = stream_lines(path)
    assert next(lines) == "0"
    with pytest.raises(DataError, match="a.txt.gz: not a whole .gz file"):
        list(lines)
