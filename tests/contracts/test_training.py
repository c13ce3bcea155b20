"""Training with every pair: `fit`, mixed precision, XLA."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.contracts.cases import FEW_PAIRS, KIND_PAIRS, LABELS, PAIRS, SOURCE, TARGET, make, others_slowly, shared
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


def train(model, **settings):
    """One step of `fit`: its loss in nats per token, and the norm of its gradient."""
    model.compile(keras.optimizers.SGD(0.1, global_clipnorm=1.0), loss=TokenCrossEntropy(), **settings)
    loss = model.fit(batch(), steps_per_epoch=1, shuffle=False, verbose=0).history["loss"][0]
    return loss, float(tf.convert_to_tensor(model.gradient_norm))


def logits_of(model):
    return model({"source": tf.constant(SOURCE), "target": tf.constant(TARGET)}).numpy()


def nats_per_token(logits):
    """The mean over the 6 real tokens."""
    return -np.take_along_axis(log_softmax(logits), LABELS[:, :, None], -1)[:, :, 0][LABELS != PAD].mean()


@functools.cache
def reference(pair):
    """Logits, and the norm of the gradient of the mean over the 6 real tokens."""
    model = shared(pair)
    with tf.GradientTape() as tape:
        logits = model({"source": tf.constant(SOURCE), "target": tf.constant(TARGET)})
        loss = TokenCrossEntropy()(tf.constant(LABELS), logits) / 6
    # Tensors: the norm of a sparse gradient would count its rows before they are added up.
    gradients = [tf.convert_to_tensor(each) for each in tape.gradient(loss, model.trainable_variables)]
    return logits.numpy(), float(tf.linalg.global_norm(gradients))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_step_of_fit_lowers_the_loss(pair):
    model, (logits, expected_norm) = make(pair), reference(pair)
    # A graph takes seconds to trace, a step without one a tenth of that.
    loss, norm = train(model, run_eagerly=pair not in FEW_PAIRS)
    if pair in KIND_PAIRS:  # without dropout
        assert loss == pytest.approx(nats_per_token(logits), rel=1e-5)
        assert norm == pytest.approx(expected_norm, rel=1e-4)
    assert np.isfinite([loss, norm]).all()
    assert nats_per_token(logits_of(model)) < nats_per_token(logits)


# float16 has the narrow range, bfloat16 the coarse steps.
@pytest.mark.parametrize("pair", others_slowly(KIND_PAIRS, FEW_PAIRS))
@pytest.mark.parametrize("precision", MIXED)
def test_mixed_precision_is_close_and_trains(pair, precision):
    mixed, (expected, expected_norm), unit = make(pair, precision), reference(pair), MIXED[precision]
    assert mixed.encode(tf.constant(SOURCE)).memory.dtype == precision.removeprefix("mixed_")
    found = logits_of(mixed)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * unit * np.abs(expected).max())
    loss, norm = train(mixed, run_eagerly=True)
    assert loss == pytest.approx(nats_per_token(expected), rel=8 * unit)
    assert norm == pytest.approx(expected_norm, rel=16 * unit)
    # A gradient too large for float16 would leave the step out.
    assert nats_per_token(logits_of(mixed)) < nats_per_token(found)


def test_metrics_count_tokens_however_they_are_batched():
    model = make("recurrent+attentional")
    model.compile("sgd", loss=TokenCrossEntropy(0.1), run_eagerly=True)
    inputs = {"source": SOURCE, "target": TARGET}
    apart = model.evaluate(inputs, LABELS, batch_size=1, verbose=0, return_dict=True)  # of 4 and of 2 tokens
    assert model.count_tokens() == np.count_nonzero(LABELS)
    together = model.evaluate(inputs, LABELS, batch_size=2, verbose=0, return_dict=True)
    assert apart == pytest.approx(together, rel=1e-5)


def test_xla_compiles_a_transformer_that_learns_the_same():
    pair = "transformer+transformer"
    model, (logits, expected_norm) = make(pair), reference(pair)
    loss, norm = train(model, jit_compile=True)
    assert model.jit_compile
    assert loss == pytest.approx(nats_per_token(logits), rel=1e-5)
    assert norm == pytest.approx(expected_norm, rel=1e-4)
    assert nats_per_token(logits_of(model)) < nats_per_token(logits)


def test_a_loss_that_does_not_sum_is_refused():
    model = make(PAIRS[0])
    model.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="compile with loss=tfseq2seq.TokenCrossEntropy"):
        model.fit(batch(), steps_per_epoch=1, shuffle=False, verbose=0)


def test_weights_of_rows_are_refused():
    model = make(PAIRS[0])
    model.compile("adam", loss=TokenCrossEntropy(), run_eagerly=True)
    inputs = {"source": SOURCE, "target": TARGET}
    with pytest.raises(ValueError, match=r"sample weights of \[B, T\].* leave them out .* Received: shape \(2,"):
        model.train_on_batch(inputs, LABELS, sample_weight=np.ones(len(SOURCE)))
