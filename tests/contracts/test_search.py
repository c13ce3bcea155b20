"""Beam search with every pair of kinds and every decoder, in this process and from a SavedModel."""

import numpy as np
import pytest
import tensorflow as tf

from tests.contracts.cases import (
    DECODER_PAIRS,
    FEW_PAIRS,
    KIND_PAIRS,
    SEARCHED_PAIRS,
    SOURCE,
    TARGET_IDS,
    others_slowly,
    shared,
)
from tests.reference import log_softmax, penalty
from tfseq2seq.decoding import search
from tfseq2seq.structures import BOS, EOS, PAD, Hypotheses

BEAM, ANSWERS, ALPHA, LONGEST = 3, 2, 0.6, 5
SOURCES = np.vstack([SOURCE, np.zeros_like(SOURCE[:1])])  # the last is all padding


class Searcher(tf.Module):
    """A model with its beam search over ids, as `Generator` has it over strings, traced once for all shapes."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.beam = tf.function(
            self._beam, input_signature=[tf.TensorSpec([None, None], tf.int32, name="source")], autograph=False)

    def _beam(self, source):
        memory, state = self.model.start(self.model.encode(source))
        return search(
            self.model.stepper(), state, memory, batch_size=tf.shape(source)[0],
            vocabulary_size=TARGET_IDS, beam_size=BEAM, num_hypotheses=ANSWERS,
            length_penalty=ALPHA, max_length=LONGEST)._asdict()

    def answer(self, source):
        return read(self.beam(tf.constant(source)))


def read(outputs):
    """Hypotheses of NumPy arrays, the tokens padded to the longest that there can be."""
    found = Hypotheses(**{name: value.numpy() for name, value in outputs.items()})
    missing = LONGEST - found.tokens.shape[2]
    return found._replace(tokens=np.pad(found.tokens, [(0, 0), (0, 0), (0, missing)], constant_values=PAD))


@pytest.fixture(scope="module", params=others_slowly(SEARCHED_PAIRS, FEW_PAIRS + DECODER_PAIRS))
def searcher(request):
    return Searcher(shared(request.param))


@pytest.fixture(scope="module")
def found(searcher):
    return searcher.answer(SOURCES)


def test_a_source_gets_the_same_answer_alone_and_in_a_batch(searcher, found):
    for row, length in enumerate([6, 4]):
        alone = searcher.answer(SOURCE[row : row + 1, :length])
        np.testing.assert_array_equal(alone.tokens[0], found.tokens[row])
        np.testing.assert_allclose(alone.scores[0], found.scores[row], atol=1e-4)


def test_scores_are_those_of_the_returned_tokens(searcher, found):
    """Teacher forcing gives the same log-probability and the same attention."""
    tokens = found.tokens.reshape([-1, LONGEST])  # [B * H, T]
    lengths, rows = found.lengths.reshape(-1), np.arange(len(tokens))
    inputs = {
        "source": tf.constant(np.repeat(SOURCES, ANSWERS, 0)),
        "target": tf.constant(np.hstack([np.full([len(tokens), 1], BOS, np.int32), tokens[:, :-1]]))}
    logits, attention = searcher.model.call_with_attention(inputs)
    chosen = np.take_along_axis(log_softmax(logits.numpy()), tokens[:, :, None], -1)[:, :, 0]
    totals = np.where(np.arange(LONGEST) < lengths[:, None], chosen, 0.0).sum(1)
    np.testing.assert_allclose(found.log_probabilities.reshape(-1), totals, atol=1e-4)
    np.testing.assert_allclose(found.scores.reshape(-1), totals / penalty(lengths, ALPHA), atol=1e-4)
    for row in rows:
        inside = found.attention[row // ANSWERS, row % ANSWERS, : lengths[row]]
        np.testing.assert_allclose(inside, attention[row, : lengths[row]], atol=1e-5)
    assert (lengths > 0).all() and (tokens[rows, lengths - 1] == EOS).all()


def test_a_source_of_padding_is_answered_without_nan(found):
    assert np.isfinite(found.scores).all() and np.isfinite(found.attention).all()


@pytest.mark.parametrize("searcher", others_slowly(KIND_PAIRS, FEW_PAIRS), indirect=True)
def test_exported_and_loaded_it_answers_the_same(searcher, found, tmp_path):
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(searcher, tmp_path, signatures=searcher.beam, options=options)
    loaded = tf.saved_model.load(tmp_path).signatures["serving_default"]
    again = read(loaded(source=tf.constant(SOURCES)))
    np.testing.assert_array_equal(again.tokens, found.tokens)
    np.testing.assert_array_equal(again.lengths, found.lengths)
    for name in ("scores", "log_probabilities", "attention"):
        np.testing.assert_allclose(getattr(again, name), getattr(found, name), atol=1e-6)
    assert read(loaded(source=tf.zeros([0, 3], tf.int32))).tokens.shape == (0, ANSWERS, LONGEST)
