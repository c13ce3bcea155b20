"""The largest batch that fits: the search, and tries in processes with little memory."""

import dataclasses

import pytest
from rich.console import Console

from pipelines.prepare import make_batches
from tfseq2seq import largest_batch, runs
from tfseq2seq.config import load_recipe
from tfseq2seq.largest_batch import available_memory, find_for_run, rows_of, search

# About a MB of activations a token, beside few weights.
WIDE = {"kind": "transformer", "layers": 1, "units": 8, "heads": 2, "feed_forward_units": 2**16, "dropout": 0.0}
SETTINGS = {"model.encoder": WIDE, "model.decoder": {**WIDE}, "model.embedding_units": 8}


def silent(*_):
    pass


@pytest.mark.parametrize("limit", [7, 8, 63, 64, 65, 1000, 4095, 9999])
@pytest.mark.parametrize("start", [1, 64, 5000, 100_000])
def test_what_is_found_fits_and_little_more_does_not(limit, start):
    tried = []

    def fits(tokens):
        tried.append(tokens)
        return tokens <= limit

    found, too_many = search(fits, start, least=7, most=10_000)
    assert found <= limit < too_many <= found + max(1, 0.02 * found)
    assert {found, too_many} <= set(tried) and len(tried) == len(set(tried)) <= 24


def test_where_all_of_the_data_fit_in_one_batch_no_more_is_tried():
    tried = []
    assert search(lambda tokens: tried.append(tokens) or True, 300, least=7, most=1000) == (1000, None)
    assert tried == [300, 600, 1000]


def test_where_not_even_a_row_fits_it_says_what_to_change():
    with pytest.raises(ValueError, match=r"not even one row a replica.*Received: 7 tokens"):
        search(lambda tokens: False, 64, least=7, most=1000)


@pytest.mark.parametrize("replicas", [1, 2])
def test_tries_have_at_least_the_rows_of_the_batches(tiny_recipe, tmp_path, replicas):
    run = load_recipe(tiny_recipe)
    prepared = runs.prepare_run(run, tmp_path / "run", Console(quiet=True))
    for batch_tokens in (1, 40, 64, 500, 10**6):
        data = run.data.model_copy(update={"batch_tokens": batch_tokens})
        changed = dataclasses.replace(prepared, run=run.model_copy(update={"data": data}))
        batches = make_batches(changed, prepared.train, replicas, for_training=True)
        for rows, shape in zip(batches.rows, batches.shapes, strict=True):
            assert rows_of(batch_tokens, shape, replicas) >= rows


def test_free_memory_is_at_most_what_the_system_says(monkeypatch):
    words = dict(line.split(":") for line in open("/proc/meminfo"))
    total, free = (1024 * int(words[name].split()[0]) for name in ("MemTotal", "MemFree"))
    assert 0 < available_memory() <= total and available_memory() < 2**50
    assert free  # of what is free some may belong to others, in a control group


def test_a_process_with_little_memory_ends_with_no_answer_and_one_with_more_tells_its_peak(tiny_recipe, tmp_path):
    runs.prepare_run(load_recipe(tiny_recipe, SETTINGS), tmp_path / "run", Console(quiet=True))
    peak = largest_batch._try_elsewhere(tmp_path / "run", [(200, 6, 6)], 20 * 10**9)
    assert peak > 200 * 6 * 2**16 * 4  # one activation of one side, float32
    assert largest_batch._try_elsewhere(tmp_path / "run", [(200, 6, 6)], peak * 6 // 10) is None  # a peak varies
    assert largest_batch._try_elsewhere(tmp_path / "run", [(50, 6, 6)], peak - 300 * 10**6) < peak - 300 * 10**6


@pytest.mark.slow
def test_what_is_found_for_a_recipe_is_within_the_limit_and_more_is_beyond(tiny_recipe, tmp_path, monkeypatch):
    """What does not fit is tried once more without a limit: the system's own count must be above it."""
    run = load_recipe(tiny_recipe, SETTINGS)
    prepared = runs.prepare_run(run, tmp_path / "run", Console(quiet=True))
    shapes = make_batches(prepared, prepared.train, 1).shapes

    def peak(tokens):
        return largest_batch._try_elsewhere(
            tmp_path / "run", [(rows_of(tokens, shape, 1), *shape) for shape in shapes], 20 * 10**9)

    limit = (peak(64) + peak(800)) // 2
    monkeypatch.setattr(search, "__defaults__", (0.1,))  # fewer tries
    found = find_for_run(run, silent, memory=int(limit / 0.9), margin=0.1)
    assert abs(found.limit - limit) < 10 and found.peak <= limit
    assert 64 < found.batch_tokens < found.too_many < 800
    assert peak(found.batch_tokens) < limit * 1.05 and peak(found.too_many) > limit * 0.95
    assert f"data.batch_tokens = {found.batch_tokens} fits, with " in found.render()


def test_memory_and_margin_out_of_range_are_refused(tiny_recipe):
    with pytest.raises(ValueError, match="margin must be at least 0 and below 1"):
        find_for_run(load_recipe(tiny_recipe), silent, margin=1.0)
