"""The affine map and the normalizations against their formulas, Keras and differences in double precision."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.layers.linear import Linear
from tfseq2seq.layers.normalization import NORMALIZATIONS, LayerNorm, RMSNorm

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(loc=0.5, size=(2, 3, 4)).astype(np.float32)  # [B, T, D]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (1, 2, 3, 4)])
def test_linear_is_the_formula_on_any_number_of_axes(shape, use_bias):
    layer, inputs = Linear(5, use_bias), INPUTS.reshape(shape)
    layer.build(shape)
    twins.randomize(layer)
    outputs = layer(tf.constant(inputs))
    assert outputs.shape == (*shape[:-1], 5)
    np.testing.assert_allclose(outputs, twins.linear(layer, inputs), atol=1e-5)


def test_linear_gradients_are_the_formula():
    layer, inputs = Linear(5), tf.constant(INPUTS)
    upstream = RANDOM.normal(size=(2, 3, 5))
    layer.build(INPUTS.shape)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(layer(inputs) * tf.constant(upstream, tf.float32))
    d_inputs, d_kernel, d_bias = tape.gradient(loss, [inputs, layer.kernel.value, layer.bias.value])
    rows, d_rows = INPUTS.reshape(6, 4), upstream.reshape(6, 5)
    np.testing.assert_allclose(d_inputs, upstream @ layer.kernel.numpy().T, atol=1e-5)
    np.testing.assert_allclose(d_kernel, rows.T @ d_rows, atol=1e-5)
    np.testing.assert_allclose(d_bias, d_rows.sum(0), atol=1e-5)


@pytest.mark.parametrize("parts", [1, 3])
def test_each_part_starts_as_a_matrix_of_its_own(parts):
    """Glorot & Bengio, 2010, eq. 16: uniform up to sqrt(6 / (inputs + outputs)), here of 40 and 60."""
    keras.utils.set_random_seed(1)
    layer = Linear(60 * parts, parts=parts)
    layer.build((None, 40))
    kernel, limit = layer.kernel.numpy(), math.sqrt(6 / 100)
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.05)


def test_linear_in_a_graph_knows_its_shape():
    layer = Linear(5)
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec([None, None, 4]))
    assert graph.structured_outputs.shape.as_list() == [None, None, 5]


def test_layer_norm_is_the_papers_formula_and_keras():
    layer = LayerNorm()
    layer.build(INPUTS.shape)
    twins.randomize(layer)
    outputs = layer(tf.constant(INPUTS))
    np.testing.assert_allclose(outputs, twins.normalize(layer, INPUTS.astype(float)), atol=1e-5)
    peer = keras.layers.LayerNormalization(epsilon=1e-6)
    peer.build(INPUTS.shape)
    peer.set_weights(layer.get_weights())
    np.testing.assert_allclose(outputs, peer(INPUTS), atol=1e-5)


def test_rms_norm_is_the_papers_formula_and_keras():
    layer = RMSNorm()
    layer.build(INPUTS.shape)
    twins.randomize(layer)
    outputs = layer(tf.constant(INPUTS))
    np.testing.assert_allclose(outputs, twins.normalize(layer, INPUTS.astype(float)), atol=1e-5)
    peer = keras.layers.RMSNormalization(epsilon=1e-6)
    peer.build(INPUTS.shape)
    peer.set_weights(layer.get_weights())
    np.testing.assert_allclose(outputs, peer(INPUTS), atol=1e-5)


def differences(function, values, step=1e-5):
    """The gradient of a function of an array, by central differences."""
    gradient = np.zeros_like(values)
    for index in np.ndindex(*values.shape):
        change = np.zeros_like(values)
        change[index] = step
        gradient[index] = (function(values + change) - function(values - change)) / (2 * step)
    return gradient


@pytest.mark.parametrize("kind", sorted(NORMALIZATIONS))
def test_the_written_gradient_equals_differences_in_double_precision(kind):
    layer, inputs = NORMALIZATIONS[kind](), tf.constant(INPUTS)
    layer.build(INPUTS.shape)
    twins.randomize(layer)
    upstream = RANDOM.normal(size=INPUTS.shape)
    weights = [twins.array(weight) for weight in layer.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(layer(inputs) * tf.constant(upstream, tf.float32))
    gradients = tape.gradient(loss, [inputs, *[weight.value for weight in layer.trainable_weights]])

    formula = twins.layer_norm if kind == "layer" else twins.rms_norm
    arguments = [INPUTS.astype(float), *weights]
    for i, gradient in enumerate(gradients):
        def value(changed, i=i):
            return (formula(*[changed if j == i else other for j, other in enumerate(arguments)]) * upstream).sum()

        np.testing.assert_allclose(gradient, differences(value, arguments[i]), atol=1e-5)


@pytest.mark.parametrize("kind", sorted(NORMALIZATIONS))
def test_equal_values_give_finite_outputs_and_gradients(kind):
    layer = NORMALIZATIONS[kind]()
    for value, root_mean_square in ((0.0, 0.0), (3.0, 1.0)):
        inputs = tf.fill([1, 4], value)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs)
        expected = 0.0 if kind == "layer" else root_mean_square
        np.testing.assert_allclose(outputs, np.full((1, 4), expected), atol=1e-5)
        assert np.isfinite(tape.gradient(outputs, inputs)).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", sorted(NORMALIZATIONS))
def test_half_precision_takes_its_statistics_in_single(kind, policy):
    layer = NORMALIZATIONS[kind](dtype=policy)
    inputs = tf.cast(300 * INPUTS, layer.compute_dtype)  # their squares are no float16
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
    gradient = tape.gradient(outputs, inputs)
    assert outputs.dtype == gradient.dtype == layer.compute_dtype
    expected = twins.normalize(layer, tf.cast(inputs, tf.float64).numpy())
    np.testing.assert_allclose(tf.cast(outputs, tf.float64), expected, atol=0.01)
    assert np.isfinite(tf.cast(gradient, tf.float32)).all()


@pytest.mark.parametrize("layer", [Linear(6, use_bias=False, parts=2), LayerNorm(1e-5), RMSNorm(1e-5)])
def test_config_makes_the_same_layer(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
