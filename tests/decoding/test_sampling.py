"""Drawn answers: frequencies against exact probabilities, and the same draws for the same seed."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests import reference
from tests.decoding.machine import (
    STEPS,
    VOCABULARY,
    all_tokens,
    answers,
    assert_close,
    log_probabilities_of,
    logits_of,
    random_table,
    tokens_of,
)
from tfseq2seq.decoding import Sampling, search
from tfseq2seq.decoding.processors import block_ngrams, forbid_tokens
from tfseq2seq.decoding.sampling import uniform
from tfseq2seq.structures import BOS, EOS, UNK

DRAWS = 40  # of a source; sources that are alike and differ in their seed make more
WORDS = [UNK, *range(EOS, VOCABULARY)]


def by_rows(tensors):
    return {"sampling": Sampling(**tensors)}


def same_settings(**fixed):
    """Settings of all rows, known when the graph is made; the seed is each row's."""
    return lambda tensors: {"sampling": Sampling(**fixed, seed=tensors["seed"])}


def kept(row, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The distribution over `WORDS` that is drawn from, from the definitions."""
    probabilities = np.exp(reference.log_softmax(row[WORDS].astype(np.float64) / temperature))
    order = np.argsort(-probabilities)
    order = order[: top_k or None]
    inside = probabilities[order] / probabilities[order].sum()
    before = np.cumsum(inside) - inside
    order = order[before < top_p]
    order = order[probabilities[order] >= min_p * probabilities[order[0]]]
    found = np.zeros(len(WORDS))
    found[order] = probabilities[order] / probabilities[order].sum()
    return found


def exact(logits, longest, **options):
    """Probability of every output, as a dict of tuples."""
    found = {}

    def go_on(tokens, probability):
        if len(tokens) == longest - 1:
            found[(*tokens, EOS)] = probability
            return
        for word, part in zip(WORDS, kept(logits([BOS, *tokens]), **options), strict=True):
            if part == 0:
                continue
            if word == EOS:
                found[(*tokens, EOS)] = probability * part
            else:
                go_on([*tokens, word], probability * part)

    go_on([], 1.0)
    return found


def p_value(counts, probabilities):
    """Chi-squared test; outcomes expected fewer than 5 times are put together."""
    outcomes = sorted(probabilities, key=lambda outcome: -probabilities[outcome])
    total = sum(counts.values())
    assert set(counts) <= set(probabilities)
    often = [outcome for outcome in outcomes if probabilities[outcome] * total >= 5]
    observed = [counts.get(outcome, 0) for outcome in often]
    expected = [probabilities[outcome] * total for outcome in often]
    if total - sum(expected) >= 5:
        observed.append(total - sum(observed))
        expected.append(total - sum(expected))
    else:  # too few to stand alone
        observed[-1] += total - sum(observed)
        expected[-1] += total - sum(expected)
    return stats.chisquare(observed, expected).pvalue if len(observed) > 1 else 1.0


@pytest.mark.parametrize("options", [
    {}, {"temperature": 0.7}, {"temperature": 1.5, "top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2},
    {"temperature": 1.3, "top_k": 4, "top_p": 0.9, "min_p": 0.05},
], ids=str)
def test_answers_come_as_often_as_they_should(options):
    table = np.repeat(random_table(5, 1), 250, 0)
    tensors = {name: np.full(len(table), value, np.int32 if name == "top_k" else np.float32)
               for name, value in options.items()}
    tensors["seed"] = np.arange(len(table))
    found = answers(
        table, by_rows, tensors, beam_size=DRAWS, num_hypotheses=DRAWS, length_penalty=0.0, max_length=3)
    counts: dict[tuple, int] = {}
    for b in range(len(table)):
        for tokens in all_tokens(found, b):
            counts[tuple(tokens)] = counts.get(tuple(tokens), 0) + 1
    assert sum(counts.values()) == 250 * DRAWS
    assert p_value(counts, exact(logits_of(table, 0), 3, **options)) > 1e-4
    assert p_value(counts, exact(logits_of(table, 0), 3, temperature=2.5)) < 1e-4, "the test would see a wrong one"


def test_settings_known_beforehand_draw_the_same_as_those_of_rows():
    table, seed = random_table(6, 8), np.arange(8)
    options = {"beam_size": 5, "num_hypotheses": 5, "max_length": STEPS}
    fixed = answers(table, same_settings(temperature=0.8, top_k=3), {"seed": seed}, **options)
    rows = answers(table, by_rows, {
        "seed": seed, "temperature": np.full(8, 0.8, np.float32), "top_k": np.full(8, 3, np.int32)}, **options)
    np.testing.assert_array_equal(fixed.tokens, rows.tokens)


def test_the_same_seed_gives_the_same_draws_in_any_company():
    table = np.concatenate([random_table(seed) for seed in range(3)])
    seed = np.arange(len(table)) * 7919
    options = {"beam_size": 6, "num_hypotheses": 6, "max_length": 6, "length_penalty": 0.6}
    together = answers(table, by_rows, {"seed": seed}, **options)
    for b in range(len(table)):
        alone = answers(table[b : b + 1], by_rows, {"seed": seed[b : b + 1]}, **options)
        assert all_tokens(alone, 0) == all_tokens(together, b)
    again = answers(table, by_rows, {"seed": seed + 1}, **options)
    assert sum(all_tokens(again, b) != all_tokens(together, b) for b in range(len(table))) > 6
    assert len({str(all_tokens(together, b)[0]) for b in range(len(table))}) > 4


def test_drawn_answers_have_the_model_s_scores_best_first():
    table = random_table(8)
    found = answers(
        table, by_rows, {"seed": np.arange(3), "temperature": np.full(3, 2.0, np.float32)}, beam_size=8,
        num_hypotheses=8, length_penalty=1.0, max_length=5)
    for b, h in np.ndindex(found.lengths.shape):
        tokens, model = tokens_of(found, b, h), log_probabilities_of(table, b)
        each = [model([BOS, *tokens[:i]])[token] for i, token in enumerate(tokens)]
        assert tokens[-1] == EOS
        assert_close(found.token_log_probabilities[b, h, : len(tokens)], each)
        assert_close(found.scores[b, h], sum(each) / reference.penalty(len(tokens), 1.0))
    assert (np.diff(found.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
def test_no_choice_is_greedy_search(setting):
    table = random_table(9)
    tensors = {name: np.full(3, value, np.int32 if name == "top_k" else np.float32) for name, value in setting.items()}
    drawn = answers(table, by_rows, {**tensors, "seed": np.arange(3)}, beam_size=1, max_length=6)
    greedy = answers(table, beam_size=1, max_length=6)
    for b in range(3):
        assert all_tokens(drawn, b) == all_tokens(greedy, b)


def constrained(tensors):
    return {"sampling": Sampling(seed=tensors["seed"]), "processors": [
        block_ngrams(1), forbid_tokens([5], VOCABULARY)]}


def test_draws_obey_constraints_and_lengths():
    table = np.repeat(random_table(4), 20, 0)
    found = answers(
        table, constrained, {"seed": np.arange(60)}, beam_size=4, num_hypotheses=4, max_length=6, min_length=3)
    lengths = set()
    for b in range(60):
        for tokens in all_tokens(found, b):
            assert 5 not in tokens and len(set(tokens)) == len(tokens) and 3 <= len(tokens) <= 4
            lengths.add(len(tokens))
    assert lengths == {3, 4}  # three words are left, so no answer is longer


@settings(max_examples=20, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_uniform_numbers_are_spread_and_repeatable(seed):
    seeds = tf.fill([20_000], tf.constant(seed, tf.int64))
    numbers = uniform(seeds, tf.range(20_000), 3).numpy()
    assert (numbers >= 0).all() and (numbers < 1).all()
    assert stats.kstest(numbers, "uniform").pvalue > 1e-6
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.05
    other = uniform(seeds, tf.range(20_000), 4).numpy()
    assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.05
    np.testing.assert_array_equal(numbers[:5], uniform(seeds[:5], tf.range(5), 3))


def test_uniform_numbers_are_those_of_splitmix():
    def mix(value):
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF  # the first number of Java's SplittableRandom(0)
    expected = (mix((mix((mix(42) + 7) % 2**64) + 3) % 2**64) >> 40) / 2**24
    assert uniform(tf.constant([42], tf.int64), tf.constant([7]), 3).numpy().tolist() == [expected]


@pytest.mark.parametrize("setting, text", [
    ({"temperature": -1.0}, "temperature 0 or more"), ({"top_k": -1}, "top_k 0"), ({"top_p": 0.0}, "top_p above 0"),
    ({"min_p": 1.5}, "min_p from 0 to 1"),
])
def test_settings_out_of_range_are_refused(setting, text):
    with pytest.raises(ValueError, match=text):
        search(None, None, batch_size=1, vocabulary_size=5, sampling=Sampling(**setting))
