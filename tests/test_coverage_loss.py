"""Coverage: attention that knows where it looked, and a loss where it falls twice."""

import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tests.test_guided_alignment import INPUTS, LABELS, REAL, WEIGHTS, assert_close, make_model
from tfseq2seq.layers.attention import CoverageAttention
from tfseq2seq.losses import coverage_loss


def test_attention_is_the_papers_equations():
    """Three steps of two sources, one after the other: weights by equation 11, coverage by equation 10."""
    random = np.random.default_rng(1)
    attention, mask = CoverageAttention(5), np.array([[True] * 4, [True, True, True, False]])
    memory, queries = random.normal(size=[2, 4, 3]), random.normal(size=[2, 3, 5])
    keys, values = attention.project(tf.constant(memory, tf.float32))
    attended = attention.begin(tf.constant(mask))
    attention(tf.constant(queries[:, :1], tf.float32), keys, values, mask, attended=attended[:, None])
    twins.randomize(attention)
    keys, values = attention.project(tf.constant(memory, tf.float32))
    kernel, bias = (twins.array(each) for each in (
        attention.coverage_projection.kernel, attention.coverage_projection.bias))
    coverage = np.zeros([2, 4])
    for t in range(3):
        query = tf.constant(queries[:, t : t + 1], tf.float32)
        _, weights = attention(query, keys, values, tf.constant(mask), attended=attended[:, None])
        attended = attention.remember(attended, weights[:, 0])
        for row, length in enumerate([4, 3]):
            scores = [
                np.tanh(
                    queries[row, t] @ twins.array(attention.query_projection.kernel)
                    + memory[row, s] @ twins.array(attention.key_projection.kernel)
                    + coverage[row, s] * kernel[0] + bias) @ twins.array(attention.score_vector)
                for s in range(length)]
            expected = twins.softmax(np.array(scores))
            np.testing.assert_allclose(weights[row, 0, :length], expected, atol=1e-5)
            coverage[row, :length] += expected
    np.testing.assert_allclose(attended, coverage, atol=1e-5)


def test_the_loss_is_that_of_the_paper():
    attention = np.random.default_rng(0).dirichlet(np.ones(6), [6, 6])
    expected = 0.0
    for row in range(6):
        coverage = np.zeros(6)
        for t in range(6):
            expected += np.minimum(attention[row, t], coverage).sum() * REAL[row, t] / REAL.sum()
            coverage += attention[row, t]
    np.testing.assert_allclose(coverage_loss(tf.constant(attention, tf.float32), WEIGHTS), expected, rtol=1e-5)


def test_looking_at_each_step_once_costs_nothing():
    weights = tf.fill([1, 4], 0.25)
    assert coverage_loss(tf.eye(4)[None], weights) == 0.0
    assert coverage_loss(tf.ones([1, 4, 1]), weights) == 0.75  # all but the first token


@pytest.mark.parametrize("family", ["recurrent", "transformer"])
def test_the_gradient_is_that_of_the_formula(family):
    model = make_model(family, weight=0.0)
    plain = model.gradients(INPUTS, LABELS, WEIGHTS)
    model.coverage_weight = 0.7
    with tf.GradientTape() as tape:
        attention = model.call_with_attention(INPUTS)[1]
        before = tf.stack([tf.reduce_sum(attention[:, :t], 1) for t in range(attention.shape[1])], 1)
        loss = 0.7 * tf.reduce_sum(WEIGHTS[:, :, None] * tf.minimum(attention, before))
    found = tape.gradient(loss, model.trainable_variables)
    added = [0.0 if each is None else tf.convert_to_tensor(each).numpy() for each in found]
    expected = [one.numpy() + two for one, two in zip(plain, added, strict=True)]
    assert max(np.abs(each).max() for each in added) > 1e-3
    assert_close(model.gradients(INPUTS, LABELS, WEIGHTS), expected)


def test_a_decoder_without_attention_is_refused():
    with pytest.raises(ValueError, match="needs a decoder with attention"):
        coverage_loss(tf.zeros([2, 3, 0]), tf.zeros([2, 3]))
