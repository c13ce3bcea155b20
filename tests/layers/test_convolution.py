"""The gated convolution against its formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.layers.convolution import GatedConvolution

RANDOM = np.random.default_rng(0)
MASK = np.array([[True] * 6, [True, True, True, False, False, False], [False] * 6])
INPUTS = (RANDOM.normal(size=(3, 6, 4)) * MASK[..., None]).astype(np.float32)  # [B, S, D], 0 on padding


def make(kernel_size, **options):
    layer = GatedConvolution(kernel_size, **options)
    layer.build(INPUTS.shape)
    twins.randomize(layer)
    return layer


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_it_is_the_papers_formula_on_each_sentence_alone(kernel_size):
    layer = make(kernel_size)
    outputs = layer(tf.constant(INPUTS), mask=tf.constant(MASK)).numpy()
    for row in (0, 1):
        expected = twins.gated_convolution(layer, INPUTS[row, MASK[row]])
        np.testing.assert_allclose(outputs[row, MASK[row]], expected, atol=1e-5)
    np.testing.assert_array_equal(outputs[~MASK], 0.0)


def test_a_step_sees_its_neighbours_and_no_further():
    layer, changed = make(3), INPUTS.copy()
    changed[0, 5] += 1
    before, after = (layer(tf.constant(x), mask=tf.constant(MASK)).numpy() for x in (INPUTS, changed))
    np.testing.assert_array_equal(np.any(before != after, -1)[0], [False] * 4 + [True] * 2)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_weights_start_with_the_papers_variance(dropout):
    keras.utils.set_random_seed(1)
    layer = GatedConvolution(3, dropout)
    layer.build((None, None, 64))
    kernel = layer.kernel.numpy()
    assert kernel.var() == pytest.approx(4 * (1 - dropout) / (3 * 64), rel=0.05)
    assert abs(kernel.mean()) < 0.01


def test_dropout_acts_on_what_is_convolved_and_not_on_the_residual():
    layer = make(3, dropout=0.5)
    layer.kernel.assign(tf.zeros_like(layer.kernel))
    layer.bias.assign(tf.zeros_like(layer.bias))
    outputs = layer(tf.constant(INPUTS), mask=tf.constant(MASK), training=True)
    np.testing.assert_allclose(outputs, INPUTS * np.sqrt(0.5), atol=1e-6)
    layer = make(3, dropout=0.5)
    trained, still = (layer(tf.constant(INPUTS), mask=tf.constant(MASK), training=t) for t in (True, False))
    assert np.any(trained.numpy() != still.numpy())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_close(policy):
    layer, exact = make(3, dtype=policy), make(3)
    outputs = layer(tf.constant(INPUTS), mask=tf.constant(MASK))
    assert outputs.dtype == layer.compute_dtype
    np.testing.assert_allclose(
        tf.cast(outputs, tf.float32), exact(tf.constant(INPUTS), mask=tf.constant(MASK)), atol=0.05)


@pytest.mark.parametrize("kernel_size", [0, 2])
def test_a_kernel_without_a_middle_is_refused(kernel_size):
    with pytest.raises(ValueError, match=f"odd kernel_size, with a middle. Received: kernel_size={kernel_size}"):
        GatedConvolution(kernel_size)


def test_config_makes_the_same_layer():
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(GatedConvolution(5, 0.2)))
    assert (again.kernel_size, again.dropout) == (5, 0.2)
