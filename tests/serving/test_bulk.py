"""Bulk inference on Apache Beam: the answers of `predict`, whatever the number of workers, and after one was killed."""

import base64
import gzip
import json
import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("apache_beam", reason="Apache Beam is not installed; pip install -e '.[test,beam]'")

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.localfilesystem import LocalFileSystem

from pipelines.beam_files import UNFINISHED, find_files, read_lines
from pipelines.pairs import DataError
from serving import bulk as module
from serving.bulk import BulkSettings, SavedModelHandler, bulk, result_name
from tests.beam_workers import kill_a_worker_of
from tests.test_cli import run as run_command
from tfseq2seq import runs

LINES = [("ab" * (1 + 7 * i % 13))[: 1 + 5 * i % 17] + f" {i}" for i in range(103)]
SMALL = {"window": 20, "batch_characters": 60, "batch_rows": 4}


class ElsewhereFileSystem(LocalFileSystem):
    """Files at "elsewhere://..." of the folder `root`: a filesystem that is not the local one."""

    root = ""

    @classmethod
    def scheme(cls):
        return "elsewhere"

    def _here(self, path):
        return path.replace("elsewhere:/", self.root, 1)

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def match(self, patterns, limits=None):
        found = super().match([self._here(pattern) for pattern in patterns], limits)
        for result in found:
            for metadata in result.metadata_list:
                metadata.path = metadata.path.replace(self.root, "elsewhere:/", 1)
        return found

    def mkdirs(self, path):
        super().mkdirs(self._here(path))

    def create(self, path, *arguments, **options):
        return super().create(self._here(path), *arguments, **options)

    def open(self, path, *arguments, **options):
        return super().open(self._here(path), *arguments, **options)

    def exists(self, path):
        return super().exists(self._here(path))

    def rename(self, source_file_names, destination_file_names):
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            if self.exists(destination):
                raise BeamIOError("not every filesystem replaces")
            os.rename(self._here(source), self._here(destination))

    def delete(self, paths):
        for path in paths:
            os.remove(self._here(path))


# `exported` answers in capitals, "one" by "un", with the score -0.5 a letter.


@pytest.fixture
def corpus(tmp_path):
    """Three files: lines, a packed one in two parts with a line that is not UTF-8, and one without lines."""
    folder = tmp_path / "corpus"
    (folder / "more").mkdir(parents=True)
    (folder / "lines.txt").write_text("".join(line + "\n" for line in LINES), encoding="utf-8")
    parts = [b"\xef\xbb\xbfone\r\n\xffno\n\n", b"last"]
    (folder / "more" / "packed.txt.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    (folder / "empty.txt").write_bytes(b"")
    return folder


def contents(folder):
    """Relative path -> bytes of all files below a folder, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_answers_lie_as_their_lines_do(exported, corpus, tmp_path):
    counts = bulk(str(exported), [f"{corpus}/**"], str(tmp_path / "out"), BulkSettings(**SMALL))
    found = contents(tmp_path / "out")
    assert sorted(found) == ["empty.txt", "lines.txt", "more/packed.txt.gz", "more/packed.txt.gz.bad-lines.jsonl"]
    assert found["lines.txt"].decode() == "".join(line.upper() + "\n" for line in LINES)
    assert found["empty.txt"] == b""
    assert gzip.decompress(found["more/packed.txt.gz"]) == b"un\n\n\nLAST\n"
    bad = json.loads(found["more/packed.txt.gz.bad-lines.jsonl"])
    assert (bad["line"], base64.b64decode(bad["base64"])) == (2, b"\xffno") and "0xff at offset 0" in bad["error"]
    assert counts == {"lines": len(LINES) + 4, "bad lines": 1} | {
        name: value for name, value in counts.items() if name not in ("lines", "bad lines")}


def test_hypotheses_with_scores(exported, corpus, tmp_path):
    bulk(str(exported / "1"), [f"{corpus}/more/*"], str(tmp_path / "out"), BulkSettings(n_best=2, output_format="tsv"))
    assert gzip.decompress((tmp_path / "out" / "packed.txt.tsv.gz").read_bytes()).decode() == (
        "1\t-1.0000\tun\n1\t-2.0000\tun!\n" "3\t-0.0000\t\n3\t-1.0000\t!\n" "4\t-2.0000\tLAST\n4\t-3.0000\tLAST!\n")
    settings = BulkSettings(output_format="jsonl", signature="greedy")
    bulk(str(exported), [f"{corpus}/more/*"], str(tmp_path / "out"), settings)
    rows = gzip.decompress((tmp_path / "out" / "packed.txt.jsonl.gz").read_bytes()).decode().splitlines()
    assert [json.loads(row) for row in rows[:2]] == [
        {"line": 1, "source": "one", "hypotheses": [{"text": "un", "score": -1.0}]},
        {"line": 2, "source": "�no", "hypotheses": []}]


def test_batches_keep_to_the_settings(exported, corpus, tmp_path, monkeypatch):
    batches = []

    def watched(handler, batch, model, inference_args=None):
        batches.extend(each.lines for each in batch)
        return original(handler, batch, model, inference_args)

    original = SavedModelHandler.run_inference
    monkeypatch.setattr(SavedModelHandler, "run_inference", watched)
    bulk(str(exported), [f"{corpus}/lines.txt"], str(tmp_path / "out"), BulkSettings(**SMALL))
    assert sorted(line for batch in batches for line in batch) == sorted(LINES)
    for batch in batches:
        assert len(batch) <= 4 and (len(batch) == 1 or len(batch) * (max(map(len, batch)) + 1) <= 60)
        assert [len(line) for line in batch] == sorted(map(len, batch))
    # Of each window as few as a greedy cut of its sorted lines makes.
    assert len(batches) == sum(_greedy(LINES[start : start + 20]) for start in range(0, len(LINES), 20))


def _greedy(lines):
    count, size = 0, 0
    for length in sorted(len(line) + 1 for line in lines):
        if not count or size == 4 or (size + 1) * length > 60:
            count, size = count + 1, 0
        size += 1
    return count


def test_four_threads_write_the_same(exported, corpus, tmp_path):
    for workers, flags in ((1, []), (4, ["--direct_running_mode=multi_threading", "--direct_num_workers=4"])):
        settings = BulkSettings(output_format="jsonl", **SMALL)
        bulk(str(exported), [f"{corpus}/**"], str(tmp_path / f"{workers}"), settings, flags)
    assert contents(tmp_path / "1") == contents(tmp_path / "4")


@pytest.mark.slow
def test_the_answers_are_those_of_predict(tiny_run, tmp_path, monkeypatch):
    run, prepared = runs.open_run(tiny_run)
    runs.export_run(run, prepared, tiny_run, tmp_path / "export", None, lambda *_: None)
    source = tmp_path / "source.txt"
    sources = [source for source, _ in prepared.train] + ["", "abcd" * 20]  # the last one is cut
    source.write_text("".join(line + "\n" for line in sources), encoding="utf-8")
    arguments = [source, "-o", tmp_path / "predicted.jsonl", "--format", "jsonl", "--n-best", 3]
    assert run_command(monkeypatch, "predict", tiny_run, *arguments) == 0
    arguments = [source, "-o", tmp_path / "bulk", "--format", "jsonl", "--n-best", 3, "--batch-rows", 16]
    assert run_command(monkeypatch, "bulk", tmp_path / "export", *arguments, "--", "--direct_num_workers=1") == 0
    expected, found = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (tmp_path / "predicted.jsonl", tmp_path / "bulk" / "source.txt.jsonl"))
    assert len(found) == len(sources)
    for wanted, received in zip(expected, found, strict=True):
        scores = [[hypothesis.pop("score") for hypothesis in row["hypotheses"]] for row in (wanted, received)]
        assert received == wanted
        assert scores[1] == pytest.approx(scores[0], rel=1e-4, abs=1e-4)


def test_any_filesystem_of_beam_does(exported, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(ElsewhereFileSystem, "root", str(tmp_path))
    shutil.copytree(exported, tmp_path / "model")
    shutil.copytree(exported / "1", tmp_path / "model" / "10")
    (tmp_path / "model" / "1" / "saved_model.pb").write_bytes(b"not of the highest version")
    for _ in range(2):  # the second time the results are there
        bulk("elsewhere://model", ["elsewhere://corpus/**"], "elsewhere://out")
    bulk(str(exported), [f"{corpus}/**"], str(tmp_path / "here"))
    assert contents(tmp_path / "out") == contents(tmp_path / "here") != {}


def test_an_answer_that_fails_leaves_no_half_file(exported, corpus, tmp_path, monkeypatch):
    def broken(self, element):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.JoinWindows, "process", broken)
    with pytest.raises(RuntimeError, match="No space left on device"):
        bulk(str(exported), [f"{corpus}/**"], str(tmp_path / "out"))
    assert contents(tmp_path / "out") == {}


# Processes.


def command(exported, source, output):
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=4"]
    return [
        sys.executable, "-c", "from tfseq2seq.cli import main; main()", "bulk", str(exported), str(source), "-o",
        str(output), "--window", "100", "--batch-rows", "1", "--", *flags]


@pytest.mark.slow
def test_after_a_worker_was_killed_the_same_command_gives_what_one_worker_does(exported, tmp_path):
    source = tmp_path / "lines.txt"
    source.write_text("".join(f"{line} {n}\n" for n in range(30) for line in LINES), encoding="utf-8")
    bulk(str(exported), [str(source)], str(tmp_path / "one"), BulkSettings(window=100, batch_rows=1))
    output = tmp_path / "four"
    four = command(exported, source, output)
    kill_a_worker_of(four, lambda: list((output / UNFINISHED).glob("*")), tmp_path / "told")
    assert contents(output) == {}  # no half file, and no part of one
    assert subprocess.run(four, check=False).returncode == 0
    assert contents(output) == contents(tmp_path / "one") != {}


def test_what_a_killed_command_left_is_removed_by_the_next_one(exported, corpus, tmp_path):
    output = tmp_path / "out"
    (output / UNFINISHED).mkdir(parents=True)
    (output / UNFINISHED / "half").write_text("half of a window")
    (output / "lines.txt").write_text("of another call")
    bulk(str(exported), [f"{corpus}/lines.txt"], str(output))
    assert contents(output) == {"lines.txt": "".join(line.upper() + "\n" for line in LINES).encode()}


# Files and refusals.


def test_files_are_named_by_what_is_below_the_wildcard(corpus):
    assert [file.name for file in find_files([f"{corpus}/*.txt", f"{corpus}/more/packed.txt.gz"])] == [
        "empty.txt", "lines.txt", "packed.txt.gz"]
    assert [file.name for file in find_files([f"{corpus}/**", f"{corpus}/lines.txt"])] == [
        "empty.txt", "lines.txt", "more/packed.txt.gz"]
    (corpus / "more" / "lines.txt").write_text("x")
    with pytest.raises(DataError, match=r"names of their own.*corpus/lines.txt and .*more/lines.txt"):
        find_files([f"{corpus}/lines.txt", f"{corpus}/more/lines.txt"])
    with pytest.raises(DataError, match=r"nowhere/\*: no such file"):
        find_files([f"{corpus}/nowhere/*"])


def test_half_of_a_packed_file_is_no_file(tmp_path):
    (tmp_path / "half.gz").write_bytes(gzip.compress(b"".join(b"%d\n" % n for n in range(9999)))[:-2000])
    with pytest.raises(DataError, match=r"half.gz: not a whole .gz file"):
        list(read_lines(str(tmp_path / "half.gz")))


@pytest.mark.parametrize(("name", "output_format", "expected"), [
    ("a.txt", "text", "a.txt"), ("a.gz", "text", "a.gz"), ("a.txt", "tsv", "a.txt.tsv"),
    ("a.gz", "jsonl", "a.jsonl.gz")])
def test_a_result_is_named_after_its_source(name, output_format, expected):
    assert result_name(name, output_format) == expected


@pytest.mark.parametrize(("settings", "told"), [
    ({"signature": "score"}, "one of serving_default, greedy. Received: 'score'"),
    ({"output_format": "xml"}, "one of text, tsv, jsonl. Received: 'xml'"),
    ({"n_best": 2}, "text holds one hypothesis"), ({"window": 0}, "--window must be at least 1")])
def test_settings_that_cannot_be_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        BulkSettings(**settings)


def test_what_would_replace_a_source_is_refused(exported, corpus):
    with pytest.raises(ValueError, match=r"corpus/empty.txt: would be replaced"):
        bulk(str(exported), [f"{corpus}/*.txt"], str(corpus))


def test_a_folder_without_a_model_is_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"holds VERSION/saved_model.pb.*no version"):
        bulk(str(tmp_path), [f"{corpus}/*.txt"], str(tmp_path / "out"))


def test_what_the_export_has_not_is_refused(exported, corpus, tmp_path):
    for signature, has in (("serving_default", 2), ("greedy", 1)):
        settings = BulkSettings(signature, has + 1, "tsv")
        with pytest.raises(ValueError, match=rf"with {has} hypotheses as {signature}.*Received: --n-best {has + 1}"):
            bulk(str(exported), [f"{corpus}/*.txt"], str(tmp_path / "out"), settings)


def test_flags_alone_are_no_files(monkeypatch, capsys):
    assert run_command(monkeypatch, "bulk", "export", "-o", "out", "--", "--runner=FlinkRunner") == 2
    assert "at least one file" in capsys.readouterr().err
