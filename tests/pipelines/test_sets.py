"""Several sets of pairs: tags, weights in the loss, and how often each set comes."""

import collections
import json

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from pipelines import prepare as prepare_module
from pipelines.alignments import align
from pipelines.batching import EMPTY, Batches
from pipelines.checking import check, filter_pairs
from pipelines.pairs import AnnotatedPair, DataError, Splits, set_of, tags_of, untagged, weight_of
from pipelines.prepare import make_batches, prepare
from pipelines.reading import read_pairs
from pipelines.tasks import find_task
from pipelines.text import load_splits
from tests.pipelines.test_batching import encode, made_up
from tfseq2seq import runs
from tfseq2seq.config import ConfigError, Data, parse_recipe
from tfseq2seq.structures import PAD, UNK


def write(folder, language, count, valid=0):
    """A folder of pairs with numbers, and how they are said in a made-up language."""
    folder.mkdir(parents=True)
    lines = [f"number {i}\t{language} {i}\n" for i in range(count + valid)]
    (folder / "train.tsv").write_text("".join(lines[:count]))
    if valid:
        (folder / "valid.tsv").write_text("".join(lines[count:]))
    return str(folder)


@pytest.fixture
def sets(tmp_path):
    back = tmp_path / "back.jsonl"
    rows = [{"source": f"machine {i}", "target": f"de {i}", "weight": i % 3} for i in range(9)]
    back.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        {"folder": write(tmp_path / "de", "de", 40, 4), "source_tag": "<2de>"},
        {"folder": write(tmp_path / "fr", "fr", 10, 2), "source_tag": "<2fr>"},
        {"train": str(back), "source_tag": "<bt>", "weight": 0.5}]


def test_sets_are_tagged_weighted_and_laid_side_by_side(sets):
    splits = load_splits(Data(sets=sets))
    assert [len(pairs) for pairs in splits] == [59, 6, 0]
    assert splits.train[0] == ("<2de> number 0", "de 0") and splits.train[40] == ("<2fr> number 0", "fr 0")
    assert splits.train[51] == ("<bt> machine 1", "de 1")
    assert [weight_of(pair) for pair in splits.train[48:]] == [1, 1, 0, 0.5, 1, 0, 0.5, 1, 0, 0.5, 1]
    assert [set_of(pair) for pair in splits.train] == [0] * 40 + [1] * 10 + [2] * 9
    assert splits.valid[-1] == ("<2fr> number 11", "fr 11") and set_of(splits.valid[-1]) == 1


def test_where_no_set_brings_a_valid_split_each_gives_a_part(tmp_path):
    sets = [{"folder": write(tmp_path / name, name, 60)} for name in ("de", "fr")]
    splits = load_splits(Data(sets=sets))
    assert collections.Counter(set_of(pair) for pair in splits.valid) == {0: 3, 1: 3}
    assert len(splits.train) == 114


def test_what_one_set_holds_out_is_held_out_of_all(tmp_path):
    folders = [tmp_path / name for name in ("de", "fr")]
    write(folders[0], "de", 60)
    folders[1].mkdir()
    # Half of the sources are those of the other set, so that each would choose other ones.
    (folders[1] / "train.tsv").write_text("".join(f"number {i}\tfr {i}\n" for i in range(30, 90)))
    splits = load_splits(Data(sets=[
        {"folder": str(folder), "source_tag": f"<2{folder.name}>"} for folder in folders]))
    alone = [load_splits(Data(folder=str(folder))).valid for folder in folders]
    held_out = {source for valid in alone for source, _ in valid}
    assert any(30 <= int(source.split()[1]) < 60 for source in held_out)
    assert {untagged(pair)[0] for pair in splits.valid} == held_out
    assert not held_out & {untagged(pair)[0] for pair in splits.train}
    assert len(splits.train) + len(splits.valid) == 120


def test_tags_of_a_file_come_after_those_of_its_set(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"source": f"text {i}", "target": "x", "tags": ["<bt>"]} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_pairs(str(path))[2] == ("<bt> text 2", "x")
    splits = load_splits(Data(sets=[{"train": str(path), "valid": str(path), "source_tag": "<2de>"}]))
    assert splits.train[1] == ("<2de> <bt> text 1", "x") and untagged(splits.train[1]) == ("text 1", "x")
    words = {"source_tokenizer": {"kind": "words"}}
    alone = load_splits(Data(train=str(path), valid=str(path)))
    source, _ = prepare_module._tokenizers(parse_recipe({"name": "x", "data": words}), alone)
    assert source.vocabulary()[4] == "<bt>"  # more frequent or not
    (tmp_path / "links").write_text("0-0\n" * 3)
    with pytest.raises(DataError, match="links:1: data.alignments needs pairs without tags.*Received: <bt>"):
        align(alone.train, str(tmp_path / "links"))
    for tags in ("<bt>", ["a b"], [1], [""]):
        path.write_text(json.dumps({"source": "a", "target": "b", "tags": tags}))
        with pytest.raises(DataError, match="pairs.jsonl:1: tags must be a list of strings without white space"):
            read_pairs(str(path))


def test_tags_hide_no_leak():
    train = [
        AnnotatedPair("<2de> Hello", "Hallo", tags=["<2de>"]), AnnotatedPair("<2fr> Hello", "Salut", tags=["<2fr>"]),
        AnnotatedPair("<2de> <bt> Yes", "Ja", tags=["<2de>", "<bt>"]), ("<2de> No", "Nein"), ("Good", "Gut")]
    splits = Splits(train, [AnnotatedPair("<2fr> Yes", "Oui", tags=["<2fr>"]), ("Hello", "Hallo")], [("No", "Nein")])
    assert check(splits, find_task("translation"), Data()).leakage == {
        "valid": {"source": 2, "pair": 1}, "test": {"source": 0, "pair": 0}}  # in plain text a tag is text
    kept, counts = filter_pairs(splits, find_task("translation"))
    assert kept.train == train[3:] and counts["leaked"] == 3


def test_what_was_prepared_is_read_back(sets, tmp_path):
    run = parse_recipe({
        "name": "sets", "data": {"sets": sets, "source_tokenizer": {"vocabulary_size": 330}, "target_tokenizer": {
            "kind": "words", "vocabulary_size": 99}}})
    prepared = prepare(run, tmp_path / "run", lambda *_: None)
    expected, _ = filter_pairs(load_splits(run.data), find_task("translation"))
    for name in ("train", "valid"):
        found = getattr(prepared, name)
        assert found == getattr(expected, name)
        assert [(weight_of(pair), set_of(pair), tags_of(pair)) for pair in found] == [
            (weight_of(pair), set_of(pair), tags_of(pair)) for pair in getattr(expected, name)]
    vocabulary = prepared.source_tokenizer.vocabulary()
    assert {"<2de>", "<2fr>", "<bt>"} <= set(vocabulary)
    assert "<2de>" not in prepared.target_tokenizer.vocabulary()


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_a_set_of_several_tags_has_a_token_for_each(sets, kind):
    sets = [sets[0], {**sets[2], "source_tag": ["<2de>", "<bt>"]}]
    splits = load_splits(Data(sets=sets))
    pair = next(pair for pair in splits.train if set_of(pair) == 1)
    assert pair[0].startswith("<2de> <bt> machine ") and tags_of(pair) == ("<2de>", "<bt>")
    size = {"words": 8, "bpe": 300}[kind]  # of words: 4 special ones, 2 tags and the 2 most frequent
    values = {"sets": sets, "source_tokenizer": {"kind": kind, "vocabulary_size": size}}
    without_back = splits._replace(train=splits.train[:40])  # "<bt>" is nowhere
    source, _ = prepare_module._tokenizers(parse_recipe({"name": "sets", "data": values}), without_back)
    ids = source.encode(tf.constant(["<2de> <bt> number"])).to_list()[0]
    found = [source.vocabulary()[id_] for id_ in ids]
    assert [token for token in found if token.startswith("<")] == ["<2de>", "<bt>"] and UNK not in ids


@pytest.mark.parametrize("temperature, shares", [
    (1.0, [40, 10, 9]), (5.0, [59 * 40**0.2, 59 * 10**0.2, 59 * 9**0.2]), (1e9, [59, 59, 59])])
def test_temperature_sets_the_shares_of_an_epoch(sets, tmp_path, temperature, shares):
    run = parse_recipe({
        "name": "sets", "data": {
            "sets": sets, "temperature": temperature, "filter": False, "batch_tokens": 64, "num_lengths": 2,
            **{f"{side}_tokenizer": {"kind": "words", "vocabulary_size": 200} for side in ("source", "target")}}})
    prepared = prepare(run, tmp_path / "run", lambda *_: None)
    batches, held_out = (make_batches(prepared, prepared.train, 1, for_training=each) for each in (True, False))
    assert sorted(np.concatenate([rows[rows != EMPTY] for _, rows in held_out.plan(0)])) == list(range(59))
    expected = 59 * np.array(shares) / sum(shares)
    for epoch in range(2):
        drawn = np.concatenate([rows[rows != EMPTY] for _, rows in batches.plan(epoch)])
        times = np.bincount(drawn, minlength=59)
        found = [times[:40].sum(), times[40:50].sum(), times[50:].sum()]
        np.testing.assert_allclose(found, expected, atol=1)  # each set in each of two shapes is rounded
        for part, share, size in zip((times[:40], times[40:50], times[50:]), expected, (40, 10, 9), strict=True):
            assert np.ptp(part) <= 2 and abs(part.mean() - share / size) < 0.2
    assert 0 <= batches.padding_share < 1


def test_weights_share_the_loss_of_a_batch():
    pairs = made_up(60)
    weights = np.random.default_rng(0).integers(0, 3, 60).astype(np.float32)
    options = {"batch_tokens": 160, "num_lengths": 2, "seed": 3}
    plain, weighted = Batches(encode(pairs), **options), Batches(encode(pairs), weights=weights, **options)
    for index, rows in weighted.plan(0):
        labels, found = weighted.batch(index, rows)[1:]
        by_hand = (labels != PAD) * np.where(rows == EMPTY, 0, weights[rows])[:, None]
        np.testing.assert_allclose(found, by_hand / by_hand.sum(), rtol=1e-6)
        np.testing.assert_array_equal(labels, plain.batch(index, rows)[1])
    nothing = Batches(encode(pairs), weights=np.zeros(60), **options)
    assert not nothing.batch(*nothing.plan(0)[0])[2].any()


def test_the_usual_ratio_is_that_of_a_pairs_own_set():
    short = [AnnotatedPair("a " * 30, "b " * 30, number_of_set=0) for _ in range(5)]
    long = [AnnotatedPair("a " * 3, "b " * 60, number_of_set=1) for _ in range(4)]
    held_out = [("x", "y")]
    kept, left_out = filter_pairs(Splits(short + long, held_out, []), find_task("translation"))
    assert len(kept.train) == 9 and not left_out["badly-ratioed"]
    in_one = [tuple(pair) for pair in short + long]
    assert filter_pairs(Splits(in_one, held_out, []), find_task("translation"))[1]["badly-ratioed"] == 4


def test_a_run_of_several_sets_trains_and_answers(sets, tmp_path):
    tokenizer = {"kind": "unigram", "vocabulary_size": 330}
    run = parse_recipe({
        "name": "sets",
        "data": {
            "sets": sets, "temperature": 2, "source_tokenizer": tokenizer, "target_tokenizer": tokenizer,
            "share_tokenizer": True, "num_lengths": 1, "batch_tokens": 256},
        "model": {"embedding_units": 8, "encoder": {"units": 6}, "decoder": {"units": 8}},
        "train": {"steps": 3, "evaluate_every": 3, "warmup_steps": 1, "source_subword_alpha": 0.2},
        "decode": {"max_length": 12}})
    progress = runs.train_run(run, tmp_path / "run", Console(quiet=True))
    assert progress.step == progress.evaluated_step == 3


def test_wrong_sets_are_refused(sets, tmp_path):
    with pytest.raises(DataError, match=r"data.folder belongs into one of data.sets"):
        load_splits(Data(sets=sets, folder="x"))
    with pytest.raises(DataError, match=r"data.sets\[1\] needs exactly one of corpus.*Received: none of them"):
        load_splits(Data(sets=[sets[0], {"source_tag": "<x>"}]))
    for tag in ("two words", "", ["<a>", "b "]):
        with pytest.raises(ConfigError, match=r"'data.sets.0': source_tag needs a tag without white space.*Received: "):
            parse_recipe({"name": "x", "data": {"sets": [{"folder": "x", "source_tag": tag}]}})
    for weight in (-1, "much", True, float("inf")):
        path = tmp_path / "pairs.jsonl"
        path.write_text(json.dumps({"source": "a", "target": "b", "weight": weight}))
        with pytest.raises(DataError, match=r"pairs.jsonl:1: a weight must be a number of at least 0"):
            read_pairs(str(path))
