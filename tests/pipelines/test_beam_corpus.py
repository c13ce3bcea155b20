"""Corpus preparation on Apache Beam: the rules of `filter_pairs`, in shards that no number of workers changes."""

import collections
import gzip
import json
import random
import subprocess
import sys

import pytest

pytest.importorskip("apache_beam", reason="Apache Beam is not installed; pip install -e '.[test,beam]'")

from pipelines.beam_corpus import CorpusSettings, ReadRows, prepare_corpus
from pipelines.beam_files import UNFINISHED, find_files
from pipelines.checking import filter_pairs
from pipelines.held_out import split_of
from pipelines.pairs import DataError, Splits, tags_of, weight_of
from pipelines.prepare import load_prepared, prepare
from pipelines.reading import read_pairs
from pipelines.records import read_index, read_records
from pipelines.tasks import find_task
from pipelines.text import SeveralSources
from tests.beam_workers import kill_a_worker_of
from tests.test_cli import run as run_command
from tfseq2seq.config import parse_recipe

SETTINGS = CorpusSettings(valid=0.2, test=0.1, shard_pairs=30)
FOUR = ["--direct_running_mode=multi_threading", "--direct_num_workers=4"]
RECIPE = {
    "name": "small", "task": "pronunciation",
    "data": {"source_tokenizer": {"kind": "characters"}, "target_tokenizer": {"kind": "words"}}}


def made_up(count):
    """Pairs of which some are double, some have the source of another, and some are broken."""
    draw = random.Random(1)
    pairs = []
    for _ in range(count):
        letters = "".join(draw.choices("abcde", k=draw.randint(1, 6)))
        pairs.append((letters, " ".join(letters.upper())))
        if draw.random() < 0.2:
            pairs.append(draw.choice(pairs))
        if draw.random() < 0.1:
            pairs.append((letters, "X"))
        if draw.random() < 0.2:
            pairs.append(draw.choice([("", "A"), (letters, " "), (f"{letters}\x07", "A"), (letters, "A B " * 40)]))
    return pairs


PAIRS = made_up(200)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The folder of a prepared run, with tokenizers of a few of the pairs."""
    folder = tmp_path_factory.mktemp("small")
    for name, pairs in (("train", PAIRS[:40]), ("valid", PAIRS[:2])):
        (folder / f"{name}.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in pairs), encoding="utf-8")
    run = parse_recipe({**RECIPE, "data": {**RECIPE["data"], "folder": str(folder)}})
    prepare(run, folder / "run", lambda *_: None)
    return run, folder / "run"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The pairs in three files of several kinds, with lines between that hold none. Tests must not change it."""
    folder = tmp_path_factory.mktemp("corpus")
    tsv = [f"{source}\t{target}\tignored\n".encode() for source, target in PAIRS]
    (folder / "a.tsv").write_bytes(b"".join(tsv[:100]) + b"no column\n" + b"\xffb\tB\n")
    (folder / "b.tsv.gz").write_bytes(gzip.compress(b"".join(tsv[100:150])))
    rows = [json.dumps({"source": source, "target": target}) for source, target in PAIRS[150:]]
    rows[3:3] = ["{", json.dumps({"source": "e", "target": "E", "weight": 0.5})]
    (folder / "c.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(small_run, corpus, tmp_path_factory):
    """The corpus as one worker prepares it: the folder and its index. Tests must not change it."""
    folder = tmp_path_factory.mktemp("made") / "out"
    return folder, prepare_corpus(*small_run, [f"{corpus}/*"], str(folder), SETTINGS)


def expected_splits(duplicates):
    """By the rules that were there, on everything at once."""
    pairs = [*PAIRS[:153], ("e", "E"), *PAIRS[153:]]
    splits = Splits([], [], [])
    for pair in pairs:
        getattr(splits, split_of(pair[0], 0.2, 0.1)).append(pair)
    kept, left_out = filter_pairs(splits, find_task("pronunciation"))
    keys = {"pair": lambda pair: pair, "source": lambda pair: pair[0], "keep": id}
    first = [list({keys[duplicates](pair): pair for pair in reversed(part)}.values()) for part in kept]
    if duplicates == "keep":
        first = list(kept)
    return Splits(*first), {reason: count for reason, count in left_out.items() if count}, sum(map(len, kept))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("duplicates", ["pair", "source", "keep"])
def test_pairs_are_those_that_the_rules_leave(small_run, corpus, tmp_path, duplicates):
    settings = CorpusSettings(valid=0.2, test=0.1, duplicates=duplicates, shard_pairs=30)
    index = prepare_corpus(*small_run, [f"{corpus}/*"], str(tmp_path / "out"), settings)
    splits, left_out, num_kept = expected_splits(duplicates)
    assert set(left_out) == {"empty", "control characters", "badly-ratioed"} and index["left_out"] == left_out
    found = Splits(*([record.pair for record in read_records(tmp_path / "out", name)] for name in Splits._fields))
    assert all(collections.Counter(found[i]) == collections.Counter(splits[i]) for i in range(3))
    assert min(map(len, splits)) > 0 and len(index["splits"]["train"]["shards"]) > 1
    assert index["duplicates"] == num_kept - sum(map(len, splits)) and index == read_index(tmp_path / "out")
    sources = [{source for source, _ in pairs} for pairs in found]
    assert not sources[0] & (sources[1] | sources[2]) and not sources[1] & sources[2]


def test_ids_are_those_of_the_runs_tokenizers(small_run, made):
    prepared = load_prepared(small_run[1])
    for record in read_records(made[0], "train"):
        source, target = record.pair
        assert prepared.source_tokenizer.encode([source]).to_list() == [record.source_ids]
        assert prepared.target_tokenizer.encode([target]).to_list() == [record.target_ids]
    assert contents(made[0] / "tokenizers") == contents(small_run[1] / "tokenizers") != {}


def test_tags_change_no_split(tmp_path):
    path = tmp_path / "tagged.jsonl"
    rows = [{"source": f"s{i // 2}", "target": "T", "tags": [f"<{i % 2}>"]} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = list(ReadRows(None, SETTINGS).process((0, find_files([str(path)])[0])))
    assert [row.pair() for row in found] == read_pairs(str(path)) and found[3].pair() == ("<1> s1", "T")
    assert {tags_of(row.pair()) for row in found} == {("<0>",), ("<1>",)}
    assert [row.split for row in found] == [split_of(row["source"], 0.2, 0.1) for row in rows]
    assert len({row.split for row in found}) > 1


def test_lines_without_a_pair_are_told(made):
    folder, index = made
    bad = [json.loads(line) for line in (folder / "bad-lines.jsonl").read_text().splitlines()]
    assert [(row["file"], row["line"], row["error"].split(":")[0]) for row in bad] == [
        ("a.tsv", 101, "a column is missing; needed is source<TAB>target. Received"), ("a.tsv", 102, "not UTF-8"),
        ("c.jsonl", 4, "not JSON")]
    assert "base64" in bad[1] and index["bad_lines"] == 3


def test_workers_and_the_cut_into_files_change_no_byte(small_run, corpus, made, tmp_path):
    prepare_corpus(*small_run, [f"{corpus}/*"], str(tmp_path / "four"), SETTINGS, FOUR)
    assert contents(tmp_path / "four") == contents(made[0])
    whole = tmp_path / "whole.jsonl"
    pairs = [pair for name in ("a.tsv", "b.tsv.gz", "c.jsonl") for pair in _readable_pairs(corpus / name, tmp_path)]
    whole.write_text("".join(
        json.dumps({"source": source, "target": target, "weight": weight}) + "\n"
        for source, target, weight in pairs), encoding="utf-8")
    prepare_corpus(*small_run, [str(whole)], str(tmp_path / "whole"), SETTINGS)
    shards = {name: data for name, data in contents(made[0]).items() if name.endswith(".tfrecord")}
    assert shards == {name: data for name, data in contents(tmp_path / "whole").items() if name in shards} != {}


def _readable_pairs(path, folder):
    """(source, target, weight) of the lines that hold a pair."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = [line for line in data.split(b"\n") if line not in (b"", b"{", b"no column") and b"\xff" not in line]
    clean = folder / path.name.removesuffix(".gz")
    clean.write_bytes(b"\n".join(lines))
    return [(*pair, weight_of(pair)) for pair in read_pairs(str(clean))]


def test_a_recipe_trains_on_what_was_prepared(made, tmp_path):
    run = parse_recipe({**RECIPE, "data": {**RECIPE["data"], "folder": str(made[0])}})
    prepared = prepare(run, tmp_path / "run", lambda *_: None)
    assert prepared.train == [record.pair for record in read_records(made[0], "train")]
    assert sum(prepared.left_out.values()) == 0 and prepared.valid and prepared.test


def test_several_sources_are_cut_and_cleaned_one_by_one(small_run, tmp_path):
    run, folder = small_run
    several = run.model_copy(update={"data": run.data.model_copy(update={"source_separator": "|||"})})
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"source": ["ab", "c"], "target": "A B C"}, {"source": ["", ""], "target": "A"}]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = prepare_corpus(several, folder, [str(pairs)], str(tmp_path / "out"), CorpusSettings(valid=0, test=0))
    (record,) = read_records(tmp_path / "out", "train")
    tokenizer = SeveralSources(load_prepared(folder).source_tokenizer, "|||")
    assert record.pair[0] == "ab ||| c" and [record.source_ids] == tokenizer.encode(["ab ||| c"]).to_list()
    assert index["left_out"] == {"empty": 1} and index["source_separator"] == "|||"


def test_without_the_filter_broken_pairs_stay(small_run, tmp_path):
    run, folder = small_run
    kept = run.model_copy(update={"data": run.data.model_copy(update={"filter": False})})
    (tmp_path / "pairs.tsv").write_text("\tA\na\x07\tA\na\tA\na\tA\n")
    index = prepare_corpus(kept, folder, [f"{tmp_path}/*.tsv"], str(tmp_path / "out"), CorpusSettings(valid=0, test=0))
    assert index["splits"]["train"]["pairs"] == 3 and index["left_out"] == {} and index["duplicates"] == 1


def test_the_command_tells_what_it_kept(small_run, corpus, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    options = ["-o", output, "--valid", 0.2, "--test", 0.1]
    arguments = [small_run[1], f"{corpus}/*", *options, "--", "--direct_num_workers=1"]
    assert run_command(monkeypatch, "prepare-corpus", *arguments) == 0
    told = " ".join(capsys.readouterr().err.split())
    splits, left_out, _ = expected_splits("pair")
    assert f"{len(splits.train)} train, {len(splits.valid)} valid, {len(splits.test)} test pairs" in told
    assert f"{left_out['badly-ratioed']} badly-ratioed" in told and "3 bad lines" in told
    assert run_command(monkeypatch, "prepare-corpus", *arguments) == 1  # it is there
    assert "holds a corpus already" in capsys.readouterr().err


@pytest.mark.slow
def test_after_a_worker_was_killed_the_same_command_gives_what_one_worker_does(small_run, corpus, tmp_path):
    def command(output, *flags):
        return [
            sys.executable, "-c", "from tfseq2seq.cli import main; main()", "prepare-corpus", str(small_run[1]),
            f"{corpus}/*", "-o", str(output), "--shard-pairs", "1", "--", *flags]

    four = command(tmp_path / "four", "--direct_running_mode=multi_processing", "--direct_num_workers=4")
    kill_a_worker_of(four, lambda: list((tmp_path / "four").glob("train-*")), tmp_path / "told")
    assert not (tmp_path / "four" / "index.json").exists() and not (tmp_path / "four" / UNFINISHED).exists()
    assert subprocess.run(four, check=False).returncode == 0
    assert subprocess.run(command(tmp_path / "one"), check=False).returncode == 0
    assert contents(tmp_path / "four") == contents(tmp_path / "one") != {}


def test_what_a_killed_pipeline_left_is_removed(small_run, corpus, made, tmp_path):
    output = tmp_path / "two"
    (output / UNFINISHED).mkdir(parents=True)
    for name in (f"{UNFINISHED}/half", "train-00000-of-00099.tfrecord", "bad-lines.jsonl"):
        (output / name).write_text("half")
    prepare_corpus(*small_run, [f"{corpus}/*"], str(output), SETTINGS)
    assert contents(output) == contents(made[0])


def test_what_cannot_be_is_refused(small_run, corpus, tmp_path):
    (tmp_path / "d.txt").write_text("text")
    with pytest.raises(DataError, match=r"d.txt: needed are .tsv or .jsonl"):
        prepare_corpus(*small_run, [f"{corpus}/*", f"{tmp_path}/d.txt"], str(tmp_path / "out"), SETTINGS)
    with pytest.raises(ValueError, match="leave something to train on"):
        CorpusSettings(valid=0.5, test=0.5)
    with pytest.raises(ValueError, match=r"--duplicates must be one of pair, source, keep. Received: 'none'"):
        CorpusSettings(duplicates="none")
    with pytest.raises(ValueError, match="--shard-pairs must be at least 1"):
        CorpusSettings(shard_pairs=0)
