"""Answers that are cut at the greatest length, and beginnings that do not count, against all there are."""

import itertools

import numpy as np
import tensorflow as tf
from hypothesis import assume, given, settings

from tests import reference
from tests.decoding.machine import (
    NOISE,
    SEEDS,
    VOCABULARY,
    all_tokens,
    assert_close,
    log_probabilities_of,
    random_table,
    search_all,
)
from tfseq2seq.decoding.processors import forbid_first, forbid_tokens, force_prefix, free_end_at, from_step
from tfseq2seq.structures import BOS, EOS

LONGEST, ALPHA = 3, 0.7
WORDS = [token for token in range(VOCABULARY) if token not in (0, BOS, EOS)]
ALL = {"beam_size": 100, "num_hypotheses": 20, "length_penalty": ALPHA, "length_penalty_kind": "length"}


def everything(table, begun=(), counted_from=0, cut=False):
    """(score, tokens), best first: answers of up to `LONGEST` words after what is given, which costs nothing."""
    log_probabilities, found = log_probabilities_of(table, 0), []
    for length in range(LONGEST + 1):
        for words in itertools.product(WORDS, repeat=length):
            tokens = [*begun, *words]
            total = sum(
                log_probabilities([BOS, *tokens[:i]])[tokens[i]] for i in range(len(begun), len(tokens)))
            if length < LONGEST:
                ended = total + log_probabilities([BOS, *tokens])[EOS]
                found.append((ended / (len(tokens) + 1 - counted_from) ** ALPHA, [*tokens, EOS]))
            elif cut:
                found.append((total / (len(tokens) - counted_from) ** ALPHA, [*tokens, EOS]))
    return sorted(found, reverse=True)


def compare(found, expected):
    assume(reference.gap([score for score, _ in expected], 20) > NOISE)
    assert all_tokens(found, 0) == [tokens for _, tokens in expected[:20]]
    assert_close(found.scores[0], [score for score, _ in expected[:20]])


def free_end(_):
    return {"reshapers": [free_end_at(LONGEST + 1)]}


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_an_answer_that_is_cut_counts_no_end(seed):
    table = random_table(seed, 1)
    found = search_all(table, free_end, **ALL, max_length=LONGEST + 1, count_forced_end=False)
    compare(found, everything(table, cut=True))


def begun_with_4(tensors):
    return {"reshapers": [force_prefix(tf.fill([tf.shape(tensors["sources"])[0], 1], 4))], "processors": [
        from_step(1, forbid_tokens([4], VOCABULARY)), forbid_first([5, EOS], VOCABULARY, 1)]}


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_given_beginning_costs_and_counts_nothing_and_may_be_what_is_forbidden_later(seed):
    table = random_table(seed, 1)
    found = search_all(table, begun_with_4, **ALL, max_length=LONGEST + 1, num_uncounted=1)
    expected = [
        (score, tokens) for score, tokens in everything(table, begun=[4], counted_from=1)
        if 4 not in tokens[1:] and tokens[1] not in (5, EOS)]
    kept = [score for score, _ in expected]
    number = min(20, len(kept))
    assume(reference.gap(kept, number) > NOISE)
    assert all_tokens(found, 0)[:number] == [tokens for _, tokens in expected[:number]]
    assert_close(found.scores[0][:number], kept[:number])
    assert np.isfinite(found.scores[0][:number]).all()
