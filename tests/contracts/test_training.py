"""Training with every pair: `fit`, mixed precision, XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.contracts.cases import FEW_PAIRS, KIND_PAIRS, LABELS, PAIRS, SOURCE, TARGET, make, shared
from tests.reference import log_softmax
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.structures import PAD

MIXED = {"mixed_float16": 2**-10, "mixed_bfloat16": 2**-7}  # the distance from 1 to the next number


def batch():
    """A dataset of one batch whose shapes no graph knows beforehand."""
    ids = tf.TensorSpec([None, None], tf.int32)
    return tf.data.Dataset.from_generator(
        lambda: iter([({"source": SOURCE, "target": TARGET}, LABELS)]),
        output_signature=({"source": ids, "target": ids}, ids))


def train(model, steps, **settings):
    """Losses of the steps in nats per token, and the norm of the first gradient."""
    model.compile(keras.optimizers.Adam(0.02, global_clipnorm=1.0), loss=TokenCrossEntropy(), **settings)
    losses, norms = [], []
    for _ in range(steps):
        losses.append(model.fit(batch(), verbose=0).history["loss"][0])
        norms.append(float(tf.convert_to_tensor(model.gradient_norm)))
    return losses, norms[0]


def logits_of(model):
    return model({"source": tf.constant(SOURCE), "target": tf.constant(TARGET)}).numpy()


def nats_per_token(model):
    """The mean over the 6 real tokens, in NumPy."""
    real = LABELS != PAD
    return -np.take_along_axis(log_softmax(logits_of(model)), LABELS[:, :, None], -1)[:, :, 0][real].mean()


def gradient_norm(model):
    """Of the mean over the 6 real tokens."""
    with tf.GradientTape() as tape:
        logits = model({"source": tf.constant(SOURCE), "target": tf.constant(TARGET)})
        loss = TokenCrossEntropy()(tf.constant(LABELS), logits) / 6
    return float(tf.linalg.global_norm(tape.gradient(loss, model.trainable_variables)))


@pytest.mark.parametrize("pair", PAIRS)
def test_fit_changes_every_weight_and_lowers_the_loss(pair):
    model = make(pair)
    before = model.get_weights()
    # A graph takes seconds to trace, a step without one a tenth of that.
    losses, _ = train(model, steps=3, run_eagerly=pair not in FEW_PAIRS)
    assert losses[-1] < losses[0]
    if pair in KIND_PAIRS:  # without dropout
        assert losses[0] == pytest.approx(nats_per_token(shared(pair)), rel=1e-5)
    for variable, old in zip(model.trainable_variables, before):
        assert np.isfinite(variable).all() and (variable.numpy() != old).any(), variable.path


@pytest.mark.parametrize("precision", MIXED)
@pytest.mark.parametrize("pair", KIND_PAIRS)
def test_mixed_precision_is_close_and_trains(pair, precision):
    exact, mixed = shared(pair), make(pair, precision)
    assert mixed.encode(tf.constant(SOURCE)).memory.dtype == precision.removeprefix("mixed_")
    expected, found = logits_of(exact), logits_of(mixed)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * MIXED[precision] * np.abs(expected).max())
    (loss,), norm = train(mixed, steps=1, run_eagerly=True)
    assert loss == pytest.approx(nats_per_token(exact), rel=8 * MIXED[precision])
    assert norm == pytest.approx(gradient_norm(exact), rel=16 * MIXED[precision])
    assert all(np.isfinite(weight).all() for weight in mixed.get_weights())
    assert (mixed.get_weights()[0] != exact.get_weights()[0]).any()  # a step too large for float16 would be left out


def test_xla_compiles_a_transformer_that_learns_the_same():
    pair = "transformer+transformer"
    (loss, after), norm = train(make(pair), steps=2, jit_compile=True)
    assert loss == pytest.approx(nats_per_token(shared(pair)), rel=1e-5)
    assert norm == pytest.approx(gradient_norm(shared(pair)), rel=1e-4)
    assert after < loss


def test_a_loss_that_does_not_sum_is_refused():
    model = make(PAIRS[0])
    model.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="compile with loss=tfseq2seq.TokenCrossEntropy"):
        model.fit(batch(), verbose=0)
