"""Utilities of answers among themselves, against sacreBLEU."""

import numpy as np
import pytest
import tensorflow as tf
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tfseq2seq.decoding import expected_utility

ANSWERS = [
    ["the cat sat on the mat", "a cat sat on the mat .", "the the the cat", "ein Hund läuft", "", "mat"],
    ["ab", "a b", "abc abd abe", "straße straße", "x", "the cat sat on the mat and then the cat sat"],
]


@pytest.mark.parametrize("utility, metric", [
    ("chrf", CHRF()), ("bleu", BLEU(tokenize="none", effective_order=True))])
def test_utilities_are_those_of_sacrebleu(utility, metric):
    expected = [
        [np.mean([metric.sentence_score(one, [other]).score for other in answers]) for one in answers]
        for answers in ANSWERS]
    found = tf.function(expected_utility)(tf.constant(ANSWERS), utility)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_weights_say_how_much_an_answer_counts_as_a_reference():
    metric, weights = CHRF(), np.array([[1, 2, 0, 0, 1, 0]] * 2, np.float32)
    found = expected_utility(tf.constant(ANSWERS), "chrf", tf.constant(weights))
    scores = [[metric.sentence_score(one, [other]).score for other in ANSWERS[0]] for one in ANSWERS[0]]
    np.testing.assert_allclose(found[0], np.array(scores) @ weights[0] / 4, rtol=1e-4, atol=1e-3)


def test_no_source_is_no_trouble():
    run = tf.function(expected_utility, input_signature=[tf.TensorSpec([None, 3], tf.string)])
    assert run(tf.zeros([0, 3], tf.string)).shape == (0, 3)


def test_an_unknown_utility_is_refused():
    with pytest.raises(ValueError, match="one of chrf, bleu. Received: utility='rouge'"):
        expected_utility(tf.constant(ANSWERS), "rouge")
