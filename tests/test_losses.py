"""The loss contract: cross-entropy per real token, padding counts nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.reference import log_softmax
from tfseq2seq.config import Model
from tfseq2seq.losses import (
    TokenCrossEntropy,
    ctc_loss,
    smoothed_cross_entropy,
    symmetric_divergence,
    teacher_cross_entropy,
)
from tfseq2seq.model import build_model
from tfseq2seq.structures import EOS, PAD

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


def test_the_divergence_of_two_passes_is_the_mean_of_both_directions():
    logits = RANDOM.normal(size=(8, 5)).astype(np.float32)
    weights = np.array([0.5, 0.25, 0.25, 0.0], np.float32)
    one, two = np.split(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), 2)
    both = (one * np.log(one / two)).sum(-1) + (two * np.log(two / one)).sum(-1)
    found = symmetric_divergence(tf.constant(logits), tf.constant(np.tile(weights, 2)))
    np.testing.assert_allclose(found, (weights * both).sum() / 2, rtol=1e-5)


TEACHER = RANDOM.normal(size=(3, 5)).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_teachers_loss_is_the_cross_entropy_with_its_distribution(temperature):
    logits = LOGITS.astype(np.float64)  # two passes over three tokens
    log = logits / temperature - np.log(np.exp(logits / temperature).sum(-1, keepdims=True))
    wanted = np.exp(TEACHER / temperature) / np.exp(TEACHER / temperature).sum(-1, keepdims=True)
    found = teacher_cross_entropy(tf.constant(LOGITS), tf.constant(TEACHER), tf.constant(temperature))
    np.testing.assert_allclose(found, -(temperature**2) * (wanted * log).sum(-1), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_its_gradient_equals_automatic_differentiation(temperature):
    logits, teacher = tf.constant(LOGITS), tf.constant(TEACHER)
    upstream = tf.constant(RANDOM.normal(size=(2, 3)).astype(np.float32))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([logits, teacher])
        ours = tf.reduce_sum(upstream * teacher_cross_entropy(logits, teacher, tf.constant(temperature)))
        wanted = tf.nn.softmax(tf.stop_gradient(tf.stack([teacher] * 2)) / temperature)
        losses = tf.nn.softmax_cross_entropy_with_logits(wanted, logits / temperature)
        plain = tf.reduce_sum(upstream * temperature**2 * losses)
    np.testing.assert_allclose(tape.gradient(ours, logits), tape.gradient(plain, logits), atol=1e-6)
    assert tape.gradient(ours, teacher) is None


def test_logits_far_apart_leave_the_teachers_loss_finite():
    logits = tf.constant([[[1e4, 0.0, -1e4]]])
    loss = teacher_cross_entropy(logits, tf.constant([[0.0, 0.0, -1e4]]), tf.constant(1.0))
    np.testing.assert_allclose(loss, [[5e3]], rtol=1e-6)  # half of the teacher's mass lies 1e4 nats away


BATCH = (
    {"source": tf.constant([[4, 5, 3], [6, 3, 0]]), "target": tf.constant([[2, 4, 5], [2, 6, 0]])},
    tf.constant([[4, 5, 3], [6, 3, 0]]), tf.constant([[0.2, 0.2, 0.2], [0.2, 0.2, 0.0]]))


def r_drop_model(alpha, dropout):
    keras.utils.set_random_seed(1)
    tables = {side: {"kind": kind, "units": 8, "dropout": dropout} for side, kind in (
        ("encoder", "recurrent"), ("decoder", "attentional"))}
    model = build_model(Model(embedding_units=6, **tables), 10, 10)
    model.compile("sgd", loss=TokenCrossEntropy(0.1))
    model.r_drop = alpha
    return model


def test_two_equal_passes_have_the_gradient_of_one():
    one, two = (r_drop_model(alpha, 0.0) for alpha in (0.0, 5.0))
    for a, b in zip(one.gradients(*BATCH), two.gradients(*BATCH), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for name, value in one.get_metrics_result().items():
        np.testing.assert_allclose(two.get_metrics_result()[name], value, rtol=1e-5)
    assert one.count_tokens() == two.count_tokens() == 5


def test_r_drop_is_the_mean_loss_of_two_passes_and_half_of_alpha_times_their_divergence(monkeypatch):
    model = r_drop_model(3.0, 0.3)
    seen, plain = [], model._real_logits
    monkeypatch.setattr(model, "_real_logits", lambda *each, **more: seen.append(plain(*each, **more)) or seen[-1])
    scaled = []
    monkeypatch.setattr(model.optimizer, "scale_loss", lambda loss: scaled.append(float(loss)) or loss)
    model.gradients(*BATCH)
    logits = seen[0][0][0].numpy().astype(np.float64)  # [10, 10]: five real tokens, twice
    assert np.abs(logits[:5] - logits[5:]).max() > 1e-3
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = 0.9 * np.eye(10)[[4, 5, 3, 6, 3] * 2] + 0.1 / 10
    one, two = np.split(log, 2)
    apart = ((np.exp(one) - np.exp(two)) * (one - two)).sum(-1) / 2
    expected = -(target * log).sum(-1).mean() + 3.0 / 2 * apart.mean()
    assert scaled[0] == pytest.approx(expected, rel=1e-5)


# CTC


def forward_algorithm(log_probabilities, labels):
    """-log p by summing over the frames, label by label (Graves et al., 2006, section 4.1)."""
    extended = [PAD]
    for label in labels:
        extended += [label, PAD]
    alpha = np.full(len(extended), -np.inf)
    alpha[:2] = log_probabilities[0, extended[:2]]
    for frame in log_probabilities[1:]:
        before, alpha = alpha, np.empty_like(alpha)
        for s, symbol in enumerate(extended):
            ways = [before[s]]
            if s:
                ways.append(before[s - 1])
            if s > 1 and symbol not in (PAD, extended[s - 2]):
                ways.append(before[s - 2])
            alpha[s] = np.logaddexp.reduce(ways) + frame[symbol]
    return -np.logaddexp.reduce(alpha[-2:])


def test_ctc_is_the_sum_over_all_ways_to_place_the_labels():
    random = np.random.default_rng(0)
    logits = random.normal(size=(5, 6, 8)).astype(np.float32)
    lengths = [6, 4, 5, 3, 6]
    labels = np.array([
        [4, 5, 4, EOS], [6, EOS, PAD, PAD], [5, 5, EOS, PAD], [4, 4, 5, EOS], [EOS, PAD, PAD, PAD]])
    weights = (labels != PAD) * np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)[:, None]
    mask = np.arange(6) < np.array(lengths)[:, None]
    expected = 0.0
    for row, length in enumerate(lengths):
        if row == 3:
            continue  # 4, blank, 4 and 5 need a fourth frame
        said = [label for label in labels[row] if label not in (PAD, EOS)]
        expected += weights[row, 0] * forward_algorithm(log_softmax(logits[row, :length]), said)
    values = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(values)
        found = ctc_loss(values, tf.constant(mask), tf.constant(labels, tf.int32), tf.constant(weights))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    gradient = tape.gradient(found, values).numpy()
    np.testing.assert_array_equal(gradient[~mask], 0.0)
    np.testing.assert_array_equal(gradient[3], 0.0)
    direction = random.normal(size=logits.shape) * mask[..., None]
    apart = [
        float(ctc_loss(values + sign * 1e-2 * direction, tf.constant(mask), tf.constant(labels, tf.int32), tf.constant(
            weights))) for sign in (1, -1)]
    assert (apart[0] - apart[1]) / 2e-2 == pytest.approx(float((gradient * direction).sum()), rel=1e-2)
    empty = ctc_loss(tf.zeros([1, 2, 8]), tf.zeros([1, 2], tf.bool), tf.zeros([1, 4], tf.int32), tf.zeros([1, 4]))
    assert float(empty) == 0.0
