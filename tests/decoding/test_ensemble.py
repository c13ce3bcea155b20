"""Several random models that answer as one, against plain Python."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import reference
from tests.decoding.machine import (
    NOISE,
    SOURCES,
    STEPS,
    VOCABULARY,
    all_tokens,
    assert_close,
    attention_of,
    log_probabilities_of,
    make_step,
    random_table,
)
from tfseq2seq.decoding import combine, search

WEIGHTS = [2.0, 1.0, 1.0]


def together(tables, source, combination):
    """The combined model from its definition."""
    models = [log_probabilities_of(table, source) for table in tables]

    def log_probabilities(tokens):
        rows = np.array([model(tokens) for model in models], np.float64)
        shares = np.array(WEIGHTS)[:, None] / 4
        if combination == "linear":
            return np.log((shares * np.exp(rows)).sum(0))
        return reference.log_softmax((shares * rows).sum(0))

    return log_probabilities


@pytest.mark.parametrize("combination", ["log_linear", "linear"])
def test_an_ensemble_searches_its_combined_distribution(combination):
    @tf.function(autograph=False)
    def run(tables):
        state = (tf.zeros([SOURCES], tf.int32), tf.zeros([SOURCES]))
        return search(
            combine([make_step(3)] * 3, WEIGHTS, combination), (state,) * 3, tuple(tables), batch_size=SOURCES,
            vocabulary_size=VOCABULARY, beam_size=3, num_hypotheses=3, max_length=STEPS)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 2**30))
    def check(seed):
        tables = [random_table(seed + i) for i in range(3)]
        found = run([tf.constant(table) for table in tables])
        found = type(found)(*(leaf.numpy() for leaf in found))
        for b in range(SOURCES):
            expected, closest = reference.textbook_beam(
                together(tables, b, combination), VOCABULARY, 3, 0.6, STEPS)
            assume(closest > NOISE)
            assert all_tokens(found, b) == [item[2] for item in expected[:3]]
            assert_close(found.scores[b], [item[0] for item in expected[:3]])
            # The three attend alike, so their mean is what each gives.
            assert_close(found.attention[b, 0, : found.lengths[b, 0]], attention_of(all_tokens(found, b)[0]))

    check()


def test_an_ensemble_with_a_model_without_attention_has_none():
    def without(tokens, state, memory):
        logits, state, attention = make_step(3)(tokens, state, memory)
        return logits, state, attention[:, :0]

    @tf.function(autograph=False)
    def run(table):
        state = (tf.zeros([SOURCES], tf.int32), tf.zeros([SOURCES]))
        return search(
            combine([make_step(3), without]), (state,) * 2, (table,) * 2, batch_size=SOURCES,
            vocabulary_size=VOCABULARY, beam_size=3, max_length=STEPS)

    found = run(tf.constant(random_table(1)))
    assert found.attention.shape[3] == 0 and np.isfinite(found.scores).all()


@pytest.mark.parametrize("arguments, text", [
    (([],), "at least one model"), (([1, 2], [1.0]), "one weight above 0 for each. Received: 2 models"),
    (([1, 2], [1.0, 0.0]), "one weight above 0"), (([1], None, "mean"), "one of log_linear, linear"),
])
def test_what_is_no_ensemble_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        combine(*arguments)
