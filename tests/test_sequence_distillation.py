"""Sequence-level distillation: a data folder of what a run answers."""

import dataclasses
import gzip
import json

import pytest
import sacrebleu
from rich.console import Console

from pipelines.pairs import AnnotatedPair, tags_of, weight_of
from pipelines.text import load_splits
from tests.test_cli import run as run_command
from tfseq2seq import runs
from tfseq2seq.config import Data
from tfseq2seq.generation import Answer, Generator
from tfseq2seq.output import PredictionError
from tfseq2seq.sequence_distillation import closest_answer, distill_run
from tfseq2seq.training import load_generator

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def opened(tiny_run):
    return runs.open_run(tiny_run)


@pytest.fixture(scope="module")
def beams(opened, tiny_run):
    """All four answers to each train source, best first."""
    sources = [source for source, _ in opened[1].train]
    found = load_generator(*opened, tiny_run).beam(sources, 4)["text"].numpy()
    return [[text.decode() for text in row] for row in found]


@pytest.fixture(scope="module")
def best(opened, tiny_run, tmp_path_factory):
    """A folder of best answers, made in one go."""
    folder = tmp_path_factory.mktemp("distilled") / "best"
    assert distill_run(*opened, tiny_run, folder, window=50, console=QUIET) == len(opened[1].train)
    return folder


def test_train_targets_are_what_the_run_answers_and_the_rest_stays(opened, best, beams):
    prepared = opened[1]
    read = load_splits(Data(folder=str(best)))
    assert read.train == [(source, row[0]) for (source, _), row in zip(prepared.train, beams, strict=True)]
    assert read.train != prepared.train
    assert (read.valid, read.test) == (prepared.valid, prepared.test)
    assert {path.name for path in best.iterdir()} == {"train.jsonl.gz", "valid.jsonl", "test.jsonl"}


def test_the_closest_of_all_answers_is_found_by_trying_each(monkeypatch, capsys, opened, tiny_run, tmp_path, beams):
    expected = []
    for (source, target), row in zip(opened[1].train, beams, strict=True):
        scores = [sacrebleu.sentence_bleu(text, [target]).score for text in row]
        expected.append((source, row[scores.index(max(scores))]))
    assert any(target != row[0] for (_, target), row in zip(expected, beams, strict=True))
    assert run_command(monkeypatch, "distill", tiny_run, tmp_path / "closest", "--closest", "--workers", 2) == 0
    assert load_splits(Data(folder=str(tmp_path / "closest"))).train == expected
    assert "180 train pairs; next: tfseq2seq train RECIPE --data" in capsys.readouterr().err


def test_of_equally_close_answers_the_likelier_one_is_taken():
    answers = [Answer("a b x d", -1.0), Answer("a b c d", -2.0), Answer("a b c d ", -3.0)]
    assert closest_answer(answers, "a b c d") == "a b c d"
    assert closest_answer(answers[:1], "z") == "a b x d"


def test_without_spaces_the_closest_answer_is_that_of_chrf():
    reference = "今天天气很好我们去公园散步"
    texts = ["明日は雨", "今天天气不好", "今天天气很好我们去散步", "今天天气很好"]
    answers = [Answer(text, -float(i)) for i, text in enumerate(texts)]
    assert closest_answer(answers, reference) == texts[0]  # all of them are one word and score 0
    scores = [sacrebleu.sentence_chrf(text, [reference]).score for text in texts]
    assert closest_answer(answers, reference, spaced=False) == texts[2] == texts[scores.index(max(scores))]


@pytest.mark.parametrize("spaced", [True, False])
def test_weights_and_tags_stay_and_targets_say_what_close_means(opened, tiny_run, tmp_path, monkeypatch, spaced):
    run, prepared = opened
    target = "A B C D" if spaced else "ABCDEFGH"
    pairs = [
        AnnotatedPair("<2x> <bt> ab", target, weight=0.5, number_of_set=1, tags=["<2x>", "<bt>"]),
        AnnotatedPair("abc", target, weight=0.25), ("abcd", target)]
    prepared = dataclasses.replace(prepared, train=pairs, valid=pairs[:1], test=[])
    far, near = ("X B C D", "A B C D E") if spaced else ("ZZ", "ABCDEF")
    beam = [Answer(far, 0.0), Answer(near, -1.0)]
    monkeypatch.setattr(Generator, "answer_batch", lambda self, lines: [beam] * len(lines))
    assert distill_run(run, prepared, tiny_run, tmp_path, closest=True, console=QUIET) == 3
    read = load_splits(Data(folder=str(tmp_path)))
    assert read.train == [(source, near) for source, _ in pairs] and read.valid == pairs[:1]
    for one, two in zip([*read.train, *read.valid], [*pairs, pairs[0]], strict=True):
        assert (weight_of(one), tags_of(one)) == (weight_of(two), tags_of(two))


def test_it_goes_on_where_it_was_interrupted(opened, tiny_run, tmp_path, monkeypatch, best):
    answer, calls = Generator.answer_batch, []

    def stop_at_the_fourth(self, lines):
        calls.extend([len(lines)] if lines else [])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return answer(self, lines)

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "answer_batch", stop_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            distill_run(*opened, tiny_run, tmp_path, window=50, console=QUIET)
    (tmp_path / ".train.jsonl.gz.part.json.writing").write_text("{")  # as kill -9 may leave it
    done = json.loads((tmp_path / "train.jsonl.gz.part.json").read_text())["lines"]
    assert 0 < done < 180
    with pytest.raises(PredictionError, match="--restart.*format was 'best answers', is 'closest answers'"):
        distill_run(*opened, tiny_run, tmp_path, closest=True, window=50, console=QUIET)
    seen = []
    monkeypatch.setattr(
        Generator, "answer_batch", lambda self, lines: (seen.extend(lines), answer(self, lines))[1])
    (tmp_path / "train.jsonl.gz.part").open("ab").write(b"half a window")
    distill_run(*opened, tiny_run, tmp_path, window=50, console=QUIET)
    assert len(seen) == 180 - done
    names = ("train.jsonl.gz", "valid.jsonl", "test.jsonl")
    assert [(tmp_path / name).read_bytes() for name in names] == [(best / name).read_bytes() for name in names]


def test_sources_without_an_answer_are_left_out(opened, tiny_run, tmp_path, monkeypatch):
    empty = {source for source, _ in opened[1].train[:30]}
    nothing = {source for source, _ in opened[1].train[10:20]}
    monkeypatch.setattr(Generator, "answer_batch", lambda self, lines: [
        [] if line in nothing else [Answer(" " if line in empty else "A", 0.0)] for line in lines])
    assert distill_run(*opened, tiny_run, tmp_path, console=QUIET) == 150
    rows = [json.loads(row) for row in gzip.decompress((tmp_path / "train.jsonl.gz").read_bytes()).splitlines()]
    assert [row["source"] for row in rows] == [source for source, _ in opened[1].train[30:]]


@pytest.mark.parametrize("name", ["train.tsv", "train.jsonl.gz", "notes.txt"])
def test_a_folder_with_other_files_is_refused(opened, tiny_run, tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=f"must be an empty folder.*Received: a folder with {name}"):
        distill_run(*opened, tiny_run, tmp_path, console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == [name]
