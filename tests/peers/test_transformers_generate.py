"""Our search against `generate` of Transformers 5: the same token ids and scores, for hundreds of sources at once.

Marian's weights are copied into our model. BART, whose embeddings have a normalization of their own that ours lack, is
itself the step function, so that there the search alone is compared. What the two define differently is switched to
their rule (docs/decoding.md, "How others define it"); only outputs cut at the limit have no counterpart, as ours all
end, and the few sources that have one are left out.
"""

import importlib

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.decoding.processors import (
    block_ngrams,
    forbid_phrases,
    forbid_tokens,
    force_prefix,
    free_end_at,
    needs_past,
    penalize_repetition,
)
from tfseq2seq.structures import BOS, EOS, PAD

REASON = "needs PyTorch and Transformers: see tests/peers/README.md"
torch = pytest.importorskip("torch", reason=REASON)
pytest.importorskip("transformers", reason=REASON)
small = importlib.import_module("tests.peers.small")  # needs them too
pytestmark = pytest.mark.peers

SOURCES, BEAMS = 300, 4
STOPS = {False: "current", True: "first", "never": "bound"}  # their early_stopping: our stop
BAD = [[5], [6, 7], [8, 8], [9, 10, 11]]


@pytest.fixture(scope="module", params=["Marian", "BART"])
def models(request):
    """Their model, and our search with the same weights as a function of sources and options."""
    if request.param == "BART":
        bart = small.make_bart()
        return bart, lambda source, **options: small.search_theirs(bart, source, **options)
    marian = small.make_marian()
    model = small.make_ours(marian)
    return marian, lambda source, **options: small.search_ours(model, source, **options)


def generate(model, source, beams=BEAMS, **options):
    """For each source the ids of their hypotheses, and their scores (None of greedy search)."""
    options = {"max_new_tokens": small.LONGEST, **options}
    found = model.generate(
        **small.as_inputs(source), num_beams=beams, num_return_sequences=beams, do_sample=False,
        return_dict_in_generate=True, output_scores=True, **options)
    rows = found.sequences[:, 1:].reshape(len(source), beams, -1).tolist()  # without the start token
    scores = found.sequences_scores.reshape(len(source), beams).numpy() if beams > 1 else np.zeros([len(source), 1])
    tokens = [[row[: row.index(EOS) + 1] if EOS in row else row for row in each] for each in rows]
    return [list(zip(*parts, strict=True)) for parts in zip(tokens, scores.tolist(), strict=True)]


def beam(early_stopping=False, beams=BEAMS, length_penalty=1.0):
    """Our options for their beam search: only ends among the best extensions count, and all beams wait."""
    return {
        "beam_size": beams, "num_hypotheses": beams, "length_penalty": length_penalty,
        "length_penalty_kind": "length", "finish": "best", "stop": STOPS[early_stopping], "wait_for": beams}


def penalize_log_probabilities(factor):
    """A processor: their repetition penalty of a beam search, which leaves probabilities that do not sum to 1."""
    @needs_past
    def process(logits, past):
        normalizer = tf.reduce_logsumexp(logits, -1, keepdims=True)
        there = tf.reduce_any(tf.one_hot(past.tokens, logits.shape[2], True, False, dtype=tf.bool), 2)
        there &= tf.range(logits.shape[2]) > EOS
        return tf.where(there, normalizer + (logits - normalizer) * factor, logits)

    return process


@pytest.fixture(scope="module")
def source():
    return small.random_sources(100, SOURCES)


def test_outputs_are_worth_comparing(models, source):
    """They end, they differ, and a beam finds other ones than greedy search."""
    model, _ = models
    greedy, wide = generate(model, source, 1), generate(model, source)
    lengths = [len(tokens) for each in wide for tokens, _ in each]
    assert len({tuple(each[0][0]) for each in greedy}) > SOURCES / 2
    assert np.percentile(lengths, 10) < np.percentile(lengths, 90) - 3
    assert sum(one[0][0] != other[0][0] for one, other in zip(greedy, wide, strict=True)) > SOURCES / 10


def test_greedy_search_is_theirs(models, source):
    model, ours = models
    small.assert_same(ours(source, beam_size=1), generate(model, source, 1), scored=False)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
def test_beam_search_is_theirs(models, source, early_stopping, length_penalty):
    model, ours = models
    expected = generate(model, source, early_stopping=early_stopping, length_penalty=length_penalty)
    small.assert_same(ours(source, **beam(early_stopping, length_penalty=length_penalty)), expected, at_least=0.8)


@pytest.mark.parametrize("beams", [2, 7])
def test_other_beam_sizes_are_theirs(models, source, beams):
    model, ours = models
    small.assert_same(ours(source, **beam(beams=beams)), generate(model, source, beams), at_least=0.8)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_n_gram_blocking_is_theirs(models, source, size):
    model, ours = models
    for beams, options in ((1, {"beam_size": 1}), (BEAMS, beam())):
        expected = generate(model, source, beams, no_repeat_ngram_size=size)
        small.assert_same(ours(source, processors=[block_ngrams(size)], **options), expected, scored=beams > 1)


def test_forbidden_words_and_phrases_are_theirs(models, source):
    model, ours = models
    for beams, options in ((1, {"beam_size": 1}), (BEAMS, beam())):
        expected = generate(model, source, beams, bad_words_ids=BAD)
        small.assert_same(ours(source, processors=[forbid_phrases(BAD)], **options), expected, scored=beams > 1)
    expected = generate(model, source, suppress_tokens=[4, 12])
    small.assert_same(ours(source, processors=[forbid_tokens([4, 12], small.VOCABULARY)], **beam()), expected)


def test_least_lengths_are_theirs_which_do_not_count_the_end(models, source):
    model, ours = models
    small.assert_same(ours(source, min_length=7, **beam()), generate(model, source, min_new_tokens=6))


def test_a_forced_first_token_is_theirs_which_costs_nothing(models, source):
    model, ours = models
    expected = generate(model, source, forced_bos_token_id=7)
    prefix = tf.fill([SOURCES, 1], 7)
    small.assert_same(ours(source, reshapers=[force_prefix(prefix)], **beam()), expected)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_prefix_that_costs_its_probability_is_their_prefix_function(models, source, length_penalty):
    model, ours = models
    prefix = np.random.default_rng(1).integers(4, small.VOCABULARY, [SOURCES, 2]).astype(np.int32)
    everything = list(range(small.VOCABULARY))

    def allowed(row, tokens):
        return [int(prefix[row, len(tokens) - 1])] if len(tokens) < 3 else everything

    expected = generate(model, source, prefix_allowed_tokens_fn=allowed, length_penalty=length_penalty)
    found = ours(
        source, processors=[force_prefix(tf.constant(prefix))], **beam(length_penalty=length_penalty))
    small.assert_same(found, expected, at_least=0.8)


def test_a_prefix_given_to_their_decoder_costs_nothing(models, source):
    model, ours = models
    prefix = np.random.default_rng(2).integers(4, small.VOCABULARY, [SOURCES, 2]).astype(np.int32)
    begun = np.pad(prefix, [[0, 0], [1, 0]], constant_values=BOS)
    expected = generate(
        model, source, decoder_input_ids=torch.tensor(begun).long(), length_penalty=0.0,
        max_new_tokens=small.LONGEST - 2)
    found = ours(source, reshapers=[force_prefix(tf.constant(prefix))], **beam(length_penalty=0.0))
    small.assert_same(found, expected, at_least=0.8)


@pytest.mark.parametrize("limit", [4, 7])
def test_an_end_forced_at_the_limit_is_theirs_which_costs_nothing(models, source, limit):
    model, ours = models
    expected = generate(model, source, max_new_tokens=limit, forced_eos_token_id=EOS)
    found = ours(source, reshapers=[free_end_at(limit)], **{**beam(), "max_length": limit})
    assert sum(len(tokens) == limit for each in expected for tokens, _ in each) > SOURCES / 4
    small.assert_same(found, expected, at_least=1.0)


def test_repetition_penalties_are_theirs(models, source):
    """Of greedy search as the paper's; of beam search theirs is taken of log-probabilities."""
    model, ours = models
    expected = generate(model, source, 1, repetition_penalty=1.4)
    small.assert_same(ours(source, beam_size=1, reshapers=[penalize_repetition(1.4)]), expected, scored=False)
    expected = generate(model, source, repetition_penalty=1.4)
    small.assert_same(ours(source, processors=[penalize_log_probabilities(1.4)], **beam()), expected)


def test_options_work_together_as_theirs(models, source):
    model, ours = models
    expected = generate(
        model, source, early_stopping="never", length_penalty=0.6, no_repeat_ngram_size=2, bad_words_ids=BAD,
        min_new_tokens=3, max_new_tokens=9, forced_bos_token_id=7, forced_eos_token_id=EOS)
    prefix = tf.fill([SOURCES, 1], 7)
    found = ours(
        source, min_length=4, processors=[block_ngrams(2), forbid_phrases(BAD)],
        reshapers=[force_prefix(prefix), free_end_at(9)], **{**beam("never", length_penalty=0.6), "max_length": 9})
    small.assert_same(found, expected, at_least=1.0)


def test_a_source_alone_has_the_answer_that_it_has_in_a_batch(models, source):
    model, ours = models
    for row in range(5):
        alone = source[row : row + 1, : int((source[row] != PAD).sum())]
        small.assert_same(ours(alone, **beam()), generate(model, source[row : row + 1]), at_least=0.0)
