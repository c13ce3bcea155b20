"""What stands between the layers of a recurrent stack."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.layers.stack import Stack

RANDOM = np.random.default_rng(0)
INPUTS, OUTPUT, WIDER = (tf.constant(RANDOM.normal(size=(2, 3, width)), tf.float32) for width in (4, 4, 6))


def test_with_nothing_asked_for_a_layer_follows_the_other():
    stack = Stack(2, False, "none", 0.0, False)
    np.testing.assert_array_equal(stack.before(0, INPUTS, True), INPUTS)
    np.testing.assert_array_equal(stack.after(0, INPUTS, OUTPUT), OUTPUT)
    np.testing.assert_array_equal(stack.finish(OUTPUT, True), OUTPUT)
    assert not stack.weights


@pytest.mark.parametrize("normalization", ["layer", "rms"])
def test_the_output_is_normalized_and_then_joined(normalization):
    stack = Stack(1, True, normalization, 0.0, False)
    stack.after(0, INPUTS, OUTPUT)
    twins.randomize(stack)
    expected = INPUTS.numpy() + twins.normalize(stack.normalize[0], OUTPUT.numpy().astype(float))
    np.testing.assert_allclose(stack.after(0, INPUTS, OUTPUT), expected, atol=1e-5)


def test_each_layer_has_a_normalization_of_its_own():
    stack = Stack(2, False, "layer", 0.0, False)
    for i, output in enumerate((OUTPUT, WIDER)):
        stack.after(i, INPUTS, output)
    assert [weight.shape for weight in stack.trainable_weights] == [(4,), (4,), (6,), (6,)]


def test_a_residual_joins_equal_widths_alone():
    stack = Stack(1, True, "none", 0.0, False)
    np.testing.assert_allclose(stack.after(0, INPUTS, OUTPUT), INPUTS + OUTPUT, atol=1e-6)
    np.testing.assert_array_equal(stack.after(0, INPUTS, WIDER), WIDER)


def test_dropout_stands_before_every_layer_and_at_the_end():
    stack = Stack(2, False, "none", 0.5, True)
    ones = tf.ones([2, 5, 64])
    for dropped in (stack.before(0, ones, True), stack.before(1, ones, True), stack.finish(ones, True)):
        values = dropped.numpy()
        assert set(np.unique(values)) == {0.0, 2.0}
        np.testing.assert_array_equal(values, np.repeat(values[:, :1], 5, 1))  # all steps alike
    np.testing.assert_array_equal(stack.before(0, ones, False), ones)
    np.testing.assert_array_equal(stack.finish(ones, False), ones)


def test_a_given_noise_is_multiplied_and_nothing_drawn():
    stack = Stack(1, False, "none", 0.5, True)
    noise = tf.constant([[0.0, 2.0, 0.0, 2.0]] * 2)
    np.testing.assert_array_equal(stack.before(0, INPUTS[:, 0], True, noise), INPUTS[:, 0] * noise)
    np.testing.assert_array_equal(stack.finish(INPUTS[:, 0], True, noise), INPUTS[:, 0] * noise)


def test_noises_are_one_mask_a_layer_and_one_for_the_end():
    stack = Stack(2, False, "none", 0.5, True)
    noises = stack.noises([40, 64, 32], 3)
    assert [noise.shape.as_list() for noise in noises] == [[3, 40], [3, 64], [3, 32]]
    for noise in noises:
        assert set(np.unique(noise)) == {0.0, 2.0}


def test_config_makes_the_same_layer():
    stack = Stack(2, True, "rms", 0.25, True, 1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(stack))
    assert again.get_config() == stack.get_config()
    assert again.settings() == {
        "residual": True, "residual_layers": 1, "normalization": "rms", "dropout": 0.25, "dropout_per_sequence": True}
