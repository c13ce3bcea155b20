"""Penalties, groups, alternatives, settings of rows and ends of a search, against plain Python."""


import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, example, given, settings

from tests import reference
from tests.decoding.machine import (
    BEAM,
    NOISE,
    SEEDS,
    SOURCES,
    STEPS,
    VOCABULARY,
    WIDE,
    all_tokens,
    answers,
    assert_close,
    attention_of,
    check_scores,
    log_probabilities_of,
    logits_of,
    of_each_row,
    random_table,
    search_all,
)
from tfseq2seq.decoding import search
from tfseq2seq.decoding.processors import (
    penalize_repetition,
)
from tfseq2seq.structures import BOS, EOS


def test_a_penalty_beyond_all_numbers_leaves_what_cannot_end_out():
    table = random_table(3)
    options = {"beam_size": 3, "num_hypotheses": 3, "max_length": STEPS, "min_length": 3}
    found = answers(table, of_each_row, {"length_penalty": np.full(SOURCES, 1e6, np.float32)}, **options)
    assert (found.lengths >= 3).all() and not np.isnan(found.scores).any()


@pytest.mark.parametrize("finish", ["all", "best"])
@pytest.mark.parametrize("kind, alpha", [("gnmt", 0.6), ("length", 1.0), ("none", 1.0), ("length", 0.3)])
def test_each_length_penalty_and_way_to_finish_is_that_of_the_textbook(kind, alpha, finish):
    options = {**BEAM, "length_penalty": alpha, "length_penalty_kind": kind, "finish": finish}

    @settings(max_examples=25, deadline=None)
    @given(SEEDS)
    def run(seed):
        table = random_table(seed)
        found = answers(table, **options)
        for b in range(SOURCES):
            expected, closest = reference.textbook_beam(
                log_probabilities_of(table, b), VOCABULARY, 3, alpha, STEPS, kind=kind, finish=finish)
            assume(closest > NOISE)
            assert all_tokens(found, b) == [item[2] for item in expected[:3]]
            assert_close(found.scores[b][: len(expected)], [item[0] for item in expected[:3]])

    run()


def covered(tensors):
    """Source steps 0 to 3 are real."""
    return {"source_mask": tf.zeros_like(tensors["sources"], tf.bool)[:, None] | (tf.range(5) < 4)}


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_the_coverage_penalty_is_added_to_what_ends(seed):
    table = random_table(seed, 1)
    found = search_all(table, covered, **WIDE, coverage_penalty=0.4)
    expected = reference.exhaustive(
        log_probabilities_of(table, 0), VOCABULARY, 1.0, STEPS,
        added=lambda tokens: 0.4 * reference.coverage_penalty(attention_of(tokens)[:, :4]))
    assume(reference.gap([item[0] for item in expected], 20) > NOISE)
    assert all_tokens(found, 0) == [item[2] for item in expected[:20]]
    assert_close(found.scores[0], [item[0] for item in expected[:20]])
    assert_close(found.log_probabilities[0], [item[1] for item in expected[:20]])


def penalized(table, b, factor):
    """Log-probabilities under the repetition penalty, from the definition."""
    logits = logits_of(table, b)

    def log_probabilities(tokens):
        row = logits(tokens).astype(np.float64)
        for token in set(tokens[1:]):
            row[token] = row[token] / factor if row[token] > 0 else row[token] * factor
        return reference.log_softmax(row)

    return log_probabilities


def less_repetition(_):
    return {"reshapers": [penalize_repetition(1.7)]}


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_the_repetition_penalty_ranks_by_the_changed_and_tells_the_model_s_own(seed):
    table = random_table(seed)
    found = search_all(table, less_repetition, **BEAM)
    for b in range(SOURCES):
        expected, closest = reference.textbook_beam(penalized(table, b, 1.7), VOCABULARY, 3, 0.6, STEPS)
        assume(closest > NOISE)
        assert all_tokens(found, b) == [item[2] for item in expected[:3]]
        assert_close(found.scores[b], [item[0] for item in expected[:3]])
        model = log_probabilities_of(table, b)
        for h, tokens in enumerate(all_tokens(found, b)):
            each = [model([BOS, *tokens[:i]])[token] for i, token in enumerate(tokens)]
            assert_close(found.log_probabilities[b, h], sum(each))
            assert_close(found.token_log_probabilities[b, h, : len(tokens)], each)


@settings(max_examples=20, deadline=None)
@example(1375382)  # the likeliest live hypothesis of a steered group is not its first
@example(315)  # a group that is done goes on steering
@given(SEEDS)
def test_diverse_groups_are_those_of_the_paper(seed):
    table = random_table(seed)
    found = answers(
        table, beam_size=6, num_groups=3, num_hypotheses=6, diversity_strength=0.8, length_penalty=0.6,
        max_length=STEPS)
    for b in range(SOURCES):
        groups, closest = reference.diverse_beam(log_probabilities_of(table, b), VOCABULARY, 3, 2, 0.8, 0.6, STEPS)
        assume(closest > NOISE)
        expected = sorted((item for group in groups for item in group[:2]), key=lambda item: -item[0])
        assert sorted(all_tokens(found, b)) == sorted(item[2] for item in expected)
        assert_close(found.scores[b], [item[0] for item in expected])
    check_scores(table, found, 0.6)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_alternatives_are_the_likeliest_tokens_at_a_step_each_gone_on_with_greedily(seed):
    table, at = random_table(seed), np.array([0, 1, 1], np.int32)
    found = answers(
        table, lambda_alternatives, {"at": at}, beam_size=3, num_hypotheses=3, length_penalty=0.0, max_length=STEPS)
    for b in range(SOURCES):
        model, before, total = log_probabilities_of(table, b), [], 0.0
        for _ in range(at[b]):
            row = model([BOS, *before])
            assume(row[EOS] < max(row[4:]))  # else there is no such step
            token = max([1, *range(4, VOCABULARY)], key=lambda word: row[word])
            before, total = [*before, token], total + row[token]
            assume(reference.gap(row[[1, *range(3, VOCABULARY)]], 1) > NOISE and token != EOS)
        row = model([BOS, *before])
        assume(reference.gap(row[[1, *range(3, VOCABULARY)]], 4) > NOISE)
        expected = []
        for token in sorted([1, *range(3, VOCABULARY)], key=lambda word: -row[word])[:3]:
            tokens, value = [*before, token], total + row[token]
            while tokens[-1] != EOS:
                after = model([BOS, *tokens])
                allowed = [EOS] if len(tokens) == STEPS - 1 else [1, *range(3, VOCABULARY)]
                assume(reference.gap(after[allowed], 1) > NOISE)
                following = max(allowed, key=lambda word: after[word])
                tokens, value = [*tokens, following], value + after[following]
            expected.append((value, tokens))
        expected.sort(reverse=True)
        assert all_tokens(found, b) == [tokens for _, tokens in expected]
        assert_close(found.scores[b], [value for value, _ in expected])


def lambda_alternatives(tensors):
    return {"alternatives_at": tensors["at"]}


def test_settings_can_differ_from_row_to_row():
    table = np.concatenate([random_table(seed) for seed in range(4)])
    random = np.random.default_rng(0)
    tensors = {
        "length_penalty": random.choice([0.0, 0.6, 2.0], len(table)).astype(np.float32),
        "max_length": random.integers(2, 6, len(table)).astype(np.int32),
        "min_length": random.integers(1, 3, len(table)).astype(np.int32)}
    together = answers(table, of_each_row, tensors, beam_size=3, num_hypotheses=3)
    assert len({tuple(together.lengths[b]) for b in range(len(table))}) > 3
    for b in range(len(table)):
        expected, closest = reference.textbook_beam(
            log_probabilities_of(table, b), VOCABULARY, 3, *(tensors[name][b] for name in tensors))
        assert closest > NOISE
        assert all_tokens(together, b) == [item[2] for item in expected[:3]]
        assert_close(together.scores[b][: len(expected)], [item[0] for item in expected[:3]])


def test_no_row_is_no_trouble():
    found = answers(random_table(0, 0), of_each_row, {"max_length": np.zeros(0, np.int32)}, beam_size=3)
    assert found.tokens.shape[0] == 0


def test_stopping_at_the_first_answers_is_earlier_and_never_better():
    table = np.concatenate([random_table(seed) for seed in range(20)])
    options = {"beam_size": 3, "num_hypotheses": 2, "length_penalty": 2.0, "max_length": 12}
    best, first, current = (answers(table, **options, stop=stop) for stop in ("bound", "first", "current"))
    assert (first.scores <= best.scores + 1e-6).all() and (first.scores < best.scores - 1e-3).any()
    assert (current.scores <= best.scores + 1e-6).all()
    assert first.lengths.mean() < best.lengths.mean()
    assert np.isfinite(first.scores).all()


def test_sources_that_are_done_do_not_cost_the_step_function_anything():
    seen = []

    def step(tokens, state, memory):
        seen.append((len(tokens), memory.shape[0]))
        ends = state >= tf.repeat(memory, 2)
        return tf.where(ends[:, None], tf.one_hot(EOS, 7, 50.0, 0.0), tf.one_hot(5, 7, 50.0, 0.0)), state + 1, None

    last = tf.constant([0, 4, 2, 0])
    found = search(
        step, tf.zeros([4], tf.int32), last, batch_size=4, vocabulary_size=7, beam_size=2, length_penalty=0.0,
        max_length=9)
    assert found.lengths[:, 0].numpy().tolist() == [1, 5, 3, 1]
    assert seen == [(8, 4), (4, 2), (4, 2), (2, 1), (2, 1)]


@pytest.mark.parametrize("options, text", [
    ({"length_penalty_kind": "linear"}, "length_penalty_kind to be one of gnmt, length, none"),
    ({"num_groups": 3}, "num_groups that divides beam_size. Received: num_groups=3, beam_size=4"),
    ({"diversity_strength": -1.0}, "diversity_strength >= 0"),
    ({"coverage_penalty": 0.2}, "source_mask"),
    ({"finish": "some"}, "finish to be one of all, best"),
    ({"stop": "never"}, "stop to be one of bound, current, first"),
    ({"num_groups": 2, "alternatives_at": 1}, "alternatives_at and num_groups"),
    ({"beam_size": 1, "phrases": tf.zeros([1, 1, 1], tf.int32)}, "beam_size >= 2 for phrases"),
    ({"phrases": tf.zeros([1, 1], tf.int32)}, "phrases of shape"),
])
def test_options_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        search(None, None, batch_size=1, vocabulary_size=5, **options)
