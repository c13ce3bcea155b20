"""The loss contract: cross-entropy per real token, padding counts nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.losses import TokenCrossEntropy, smoothed_cross_entropy

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(2, 3, 5)).astype(np.float32)
LABELS = np.array([[2, 4, 3], [3, 0, 0]], np.int32)  # 4 real tokens


def expected_losses(smoothing):
    log_probabilities = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    target = (1 - smoothing) * np.eye(5)[LABELS] + smoothing / 5
    return -(target * log_probabilities).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_mean_over_real_tokens(smoothing):
    mask = (LABELS != 0).astype(np.float32)
    loss = TokenCrossEntropy(smoothing)(LABELS, LOGITS, sample_weight=mask / mask.sum())
    np.testing.assert_allclose(loss, (expected_losses(smoothing) * mask).sum() / 4, rtol=1e-5)


def test_padding_is_left_out_without_weights():
    mask = LABELS != 0
    np.testing.assert_allclose(TokenCrossEntropy()(LABELS, LOGITS), (expected_losses(0) * mask).sum(), rtol=1e-5)


def test_gradient_equals_automatic_differentiation_of_the_formula():
    rows, labels = tf.constant(LOGITS.reshape(-1, 5)), tf.constant(LABELS.reshape(-1))
    upstream = tf.constant(RANDOM.normal(size=6).astype(np.float32))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(rows)
        ours = tf.reduce_sum(upstream * smoothed_cross_entropy(rows, labels, tf.constant(0.1))[0])
        target = 0.9 * tf.one_hot(labels, 5) + 0.1 / 5
        plain = tf.reduce_sum(upstream * tf.nn.softmax_cross_entropy_with_logits(target, rows))
    np.testing.assert_allclose(tape.gradient(ours, rows), tape.gradient(plain, rows), atol=1e-6)


def test_likelihood_and_hits_come_without_smoothing():
    _, nats, correct = TokenCrossEntropy(0.1).per_token(LABELS, LOGITS)
    mask = LABELS != 0
    np.testing.assert_allclose(nats, np.where(mask, expected_losses(0), 0), rtol=1e-5)
    np.testing.assert_array_equal(correct, mask & (LOGITS.argmax(-1) == LABELS))


def test_config_round_trip_and_range():
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(TokenCrossEntropy(0.2)))
    assert again.label_smoothing == 0.2
    with pytest.raises(ValueError, match="Received: label_smoothing=1"):
        TokenCrossEntropy(1.0)
