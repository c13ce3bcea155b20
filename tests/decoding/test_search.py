"""The search contract over random step functions.

A random model's logits depend on the source, the last token and a number that the state carries over the
whole history, so that a state gathered from the wrong beam shows in the scores.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from tfseq2seq.decoding import search, tile
from tfseq2seq.decoding.beam import top_k
from tfseq2seq.decoding.scoring import length_penalty, score_targets
from tfseq2seq.structures import BOS, EOS, PAD

VOCABULARY, CYCLE, SOURCES, STEPS = 7, 5, 3, 4
SEEDS = st.integers(0, 2**32 - 1)


def random_table(seed, sources=SOURCES):
    """Logits [source, state, last token, next token]; sharp enough that float noise makes no ties."""
    return np.random.default_rng(seed).normal(size=(sources, CYCLE, VOCABULARY, VOCABULARY), scale=2.0).astype(np.float32)


def next_state(state, token):
    return (3 * state + token) % CYCLE


def log_probabilities_of(table, source):
    """The model as a function of the tokens so far, for the twins."""

    def log_probabilities(tokens):
        state = 0
        for token in tokens:
            state = next_state(state, token)
        return reference.log_softmax(table[source, state, tokens[-1]].astype(np.float64))

    return log_probabilities


@functools.cache
def searcher(**options):
    """One trace a set of options; the batch size stays open."""

    @tf.function(
        input_signature=[tf.TensorSpec([None, CYCLE, VOCABULARY, VOCABULARY], tf.float32)], autograph=False)
    def run(table):
        sources = tf.shape(table)[0]
        beam = options.get("beam_size", 4)

        def step(tokens, state):
            state = (3 * state + tokens) % CYCLE
            source = tf.range(tf.shape(tokens)[0]) // beam
            logits = tf.gather_nd(table, tf.stack([source, state, tokens], -1))
            return logits, state, tf.one_hot(state, CYCLE)  # "attention" that tells the history apart

        return search(
            step, tile(tf.zeros([sources], tf.int32), beam), batch_size=sources, vocabulary_size=VOCABULARY, **options)

    return run


def answers(table, **options):
    return [leaf.numpy() for leaf in searcher(**options)(tf.constant(table))]


def tokens_of(row, length):
    return row[:length].tolist()


BEAM = {"beam_size": 3, "num_hypotheses": 3, "length_penalty": 0.6, "max_length": STEPS}
WIDE = {"beam_size": 100, "num_hypotheses": 20, "length_penalty": 1.0, "max_length": STEPS}


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_a_returned_score_is_that_of_the_returned_tokens(seed):
    table = random_table(seed)
    tokens, scores, log_probabilities, lengths, attention = answers(table, **BEAM)
    for b, h in np.ndindex(*lengths.shape):
        model, found = log_probabilities_of(table, b), tokens_of(tokens[b, h], lengths[b, h])
        total = sum(model([BOS, *found[:i]])[token] for i, token in enumerate(found))
        assert found[-1] == EOS and EOS not in found[:-1] and PAD not in found and BOS not in found
        assert (tokens[b, h, lengths[b, h] :] == PAD).all()
        np.testing.assert_allclose(log_probabilities[b, h], total, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scores[b, h], total / reference.penalty(len(found), 0.6), rtol=1e-5, atol=1e-5)
        state = 0
        for i, token in enumerate([BOS, *found[:-1]]):
            state = next_state(state, token)
            np.testing.assert_array_equal(attention[b, h, i], np.eye(CYCLE)[state])
        assert (attention[b, h, len(found) :] == 0).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
@pytest.mark.parametrize("options", [BEAM, {**BEAM, "length_penalty": 0.0}, {**BEAM, "min_length": 3}], ids=str)
def test_it_finds_what_a_textbook_beam_finds(options, seed):
    table = random_table(seed)
    tokens, scores, _, lengths, _ = answers(table, **options)
    for b in range(SOURCES):
        expected = reference.textbook_beam(
            log_probabilities_of(table, b), VOCABULARY, 3, options["length_penalty"], STEPS,
            options.get("min_length", 1))[:3]
        np.testing.assert_allclose(scores[b], [item[0] for item in expected], rtol=1e-5, atol=1e-5)
        assert [tokens_of(*pair) for pair in zip(tokens[b], lengths[b])] == [item[2] for item in expected]
        assert (lengths[b] >= options.get("min_length", 1)).all()


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_beam_as_wide_as_the_space_equals_exhaustive_search(seed):
    table = random_table(seed, 1)
    tokens, scores, _, lengths, _ = answers(table, **WIDE)
    expected = reference.exhaustive(log_probabilities_of(table, 0), VOCABULARY, 1.0, STEPS)[:20]
    np.testing.assert_allclose(scores[0], [item[0] for item in expected], rtol=1e-5, atol=1e-5)
    assert [tokens_of(*pair) for pair in zip(tokens[0], lengths[0])] == [item[2] for item in expected]


@settings(max_examples=30, deadline=None)
@given(SEEDS)
@pytest.mark.parametrize("options", [BEAM, {"beam_size": 1, "max_length": STEPS}], ids=["beam", "greedy"])
def test_a_source_gets_the_same_answer_alone_and_in_a_batch(options, seed):
    table = random_table(seed)
    together = answers(table, **options)
    for b in range(SOURCES):
        alone = answers(table[b : b + 1], **options)
        steps = alone[0].shape[2]
        np.testing.assert_array_equal(together[0][b, :, :steps], alone[0][0])
        assert (together[0][b, :, steps:] == PAD).all()
        for in_batch, by_itself in zip(together[1:4], alone[1:4]):
            np.testing.assert_allclose(in_batch[b], by_itself[0], rtol=1e-5)  # vector lanes round differently


@settings(max_examples=40, deadline=None)
@given(SEEDS)
@pytest.mark.parametrize("options", [{}, {"min_length": 3}], ids=str)
def test_beam_size_one_takes_the_likeliest_token_at_each_step(options, seed):
    table = random_table(seed)
    tokens, scores, log_probabilities, lengths, attention = answers(
        table, beam_size=1, max_length=STEPS, length_penalty=0.6, **options)
    for b in range(SOURCES):
        total, expected = reference.greedy(log_probabilities_of(table, b), VOCABULARY, STEPS, **options)
        assert tokens_of(tokens[b, 0], lengths[b, 0]) == expected
        np.testing.assert_allclose(log_probabilities[b, 0], total, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scores[b, 0], total / reference.penalty(len(expected), 0.6), rtol=1e-5)
        assert (attention[b, 0, len(expected) :] == 0).all()


@pytest.mark.parametrize("options", [BEAM, {"beam_size": 1, "max_length": STEPS}], ids=["beam", "greedy"])
def test_an_empty_batch_gives_empty_answers(options):
    tokens, scores, *_ = answers(random_table(0, 0), **options)
    assert tokens.shape[0] == scores.shape[0] == 0


def test_hypotheses_that_do_not_exist_are_empty():
    # Two outputs exist within one step less than the beam holds: only EOS, and at most 4 words before it.
    tokens, scores, _, lengths, _ = answers(
        random_table(0, 1), beam_size=8, num_hypotheses=8, length_penalty=0.0, max_length=2)
    assert np.isfinite(scores[0, :5]).all() and (lengths[0, :5] > 0).all()  # "", and one of 4 words
    assert (scores[0, 5:] == -np.inf).all() and (lengths[0, 5:] == 0).all() and (tokens[0, 5:] == PAD).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_top_k_by_chunks_equals_a_stable_sort(seed, k):
    random = np.random.default_rng(seed)
    # Few distinct values: many ties, which go to the lowest index.
    values = random.integers(0, 4, size=(2, 3, 130)).astype(np.float32)
    offset = random.integers(0, 3, size=(2, 3)).astype(np.float32)
    found, index = top_k(tf.constant(values), tf.constant(offset), k)
    flat = (values + offset[:, :, None]).reshape(2, -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(found, np.take_along_axis(flat, order, 1))


def test_length_penalty_is_equation_14():
    np.testing.assert_allclose(length_penalty(tf.constant([1, 7]), 0.5), [1.0, 2.0**0.5], rtol=1e-6)
    np.testing.assert_array_equal(length_penalty(tf.constant([9]), 0.0), [1.0])


def test_score_of_a_target_leaves_padding_out():
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    labels = np.array([[4, 1, 3], [3, 0, 0]])
    rows = reference.log_softmax(logits)
    expected = [rows[0, 0, 4] + rows[0, 1, 1] + rows[0, 2, 3], rows[1, 0, 3]]
    np.testing.assert_allclose(score_targets(tf.constant(logits), tf.constant(labels)), expected, rtol=1e-5)


@pytest.mark.parametrize("options, text", [
    ({"beam_size": 0}, "Received: beam_size=0"),
    ({"beam_size": 2, "num_hypotheses": 3}, "num_hypotheses=3"),
    ({"length_penalty": -1.0}, "length_penalty=-1.0"),
    ({"min_length": 5, "max_length": 4}, "min_length=5, max_length=4"),
])
def test_numbers_out_of_range_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        search(None, None, batch_size=1, vocabulary_size=5, **options)


@pytest.mark.slow
def test_ten_thousand_random_models():
    for block in range(20):
        table = random_table(block, 500)
        tokens, scores, _, lengths, _ = answers(table, **BEAM)
        for b in range(500):
            best = reference.textbook_beam(log_probabilities_of(table, b), VOCABULARY, 3, 0.6, STEPS)[:3]
            np.testing.assert_allclose(scores[b], [item[0] for item in best], rtol=1e-4, atol=1e-4)
