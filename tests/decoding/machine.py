"""Random models for tests of the search.

Logits depend on the source, the last token and two numbers that the state carries over the whole history, a hash and a
count, so that a state gathered from the wrong beam shows in the scores. Models that must choose between likelihoods
closer than float noise are passed over: either is right.
"""

import functools

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from tests import reference
from tfseq2seq.decoding import search

VOCABULARY, CYCLE, SOURCES, STEPS = 7, 5, 3, 4
SEEDS = st.integers(0, 2**32 - 1)
NOISE = 2e-5  # nats; of float32 sums of this size

BEAM = {"beam_size": 3, "num_hypotheses": 3, "length_penalty": 0.6, "max_length": STEPS}
WIDE = {"beam_size": 100, "num_hypotheses": 20, "length_penalty": 1.0, "max_length": STEPS}

def random_table(seed, sources=SOURCES):
    """Logits [source, hash, last token, next token]."""
    shape = (sources, CYCLE, VOCABULARY, VOCABULARY)
    return np.random.default_rng(seed).normal(size=shape, scale=2.0).astype(np.float32)


def next_state(state, token):
    return (3 * state + token) % CYCLE


def sharpness(count):
    """Of the logits after so many tokens; without it two orders of the same tokens could tie."""
    return 1 + count / 16


def logits_of(table, source):
    """The model as a function of the tokens so far, BOS first, for the twins."""

    def logits(tokens):
        state = 0
        for token in tokens:
            state = next_state(state, token)
        return table[source, state, tokens[-1]] * sharpness(len(tokens))

    return logits


def log_probabilities_of(table, source):
    logits = logits_of(table, source)
    return lambda tokens: reference.log_softmax(logits(tokens))


def attention_of(tokens):
    """[T, CYCLE], the "attention" of each token, one-hot on the state that it was chosen in."""
    state, rows = 0, []
    for token in [reference.BOS, *tokens[:-1]]:
        state = next_state(state, token)
        rows.append(np.eye(CYCLE)[state] * 0.9 + 0.02)
    return np.array(rows)


def make_step(beam_size):
    def step(tokens, state, table):
        state, count = next_state(state[0], tokens), state[1] + 1.0
        source = tf.range(tf.shape(tokens)[0]) // beam_size
        logits = tf.gather_nd(table, tf.stack([source, state, tokens], -1)) * sharpness(count)[:, None]
        return logits, (state, count), tf.one_hot(state, CYCLE) * 0.9 + 0.02

    return step


@functools.cache
def searcher(make_options=None, **options):
    """One trace a set of options; the batch size stays open.

    Args:
        make_options: function of tensors [B, ...] by name, given to the call, to more options; cached by identity.
    """
    beam_size = options.get("beam_size", 4)

    @tf.function(autograph=False, reduce_retracing=True)
    def run(table, tensors):
        sources = tf.shape(table)[0]
        state = (tf.zeros([sources], tf.int32), tf.zeros([sources]))
        more = make_options(tensors) if make_options else {}
        return search(
            make_step(beam_size), state, table, batch_size=sources, vocabulary_size=VOCABULARY, **options, **more)

    return run


def answers(table, make_options=None, tensors=None, **options):
    """Hypotheses of NumPy arrays."""
    tensors = {name: tf.constant(value) for name, value in (tensors or {}).items()}
    found = searcher(make_options, **options)(tf.constant(table), tensors)
    return type(found)(*(leaf.numpy() for leaf in found))


def tokens_of(found, b, h):
    return found.tokens[b, h, : found.lengths[b, h]].tolist()


def all_tokens(found, b):
    """The hypotheses of a source that exist."""
    return [tokens_of(found, b, h) for h in range(found.lengths.shape[1]) if np.isfinite(found.scores[b, h])]


def assert_close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def search_all(table, make_options, **options):
    return answers(table, make_options, {"sources": np.zeros(len(table), np.int32)}, **options)


def check_scores(table, found, alpha):
    """Of every answer that exists: the model's, whatever was forbidden."""
    for b, h in np.argwhere(np.isfinite(found.scores)):
        tokens, model = tokens_of(found, b, h), log_probabilities_of(table, b)
        each = [model([reference.BOS, *tokens[:i]])[token] for i, token in enumerate(tokens)]
        assert_close(found.token_log_probabilities[b, h, : len(tokens)], each)
        assert_close(found.log_probabilities[b, h], sum(each))
        assert_close(found.scores[b, h], sum(each) / reference.penalty(len(tokens), alpha))


def of_each_row(tensors):
    return dict(tensors)
