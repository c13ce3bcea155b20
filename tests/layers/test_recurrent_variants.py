"""Cells of other systems, against Keras and the papers' formulas in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.layers.recurrent_variants import CELLS, LayerNormLSTM, ResetBeforeGRU

RANDOM = np.random.default_rng(0)
UNITS = 4
INPUTS = RANDOM.normal(size=(3, 5, 3)).astype(np.float32)
MASK = np.array([[True] * 5, [True, True, True, False, False], [False] * 5])
KINDS = sorted(set(CELLS) - {"lstm", "gru"})


def prepared(kind, **options):
    layer = CELLS[kind](UNITS, **options)
    layer.build((None, None, 3))
    twins.randomize(layer)
    return layer


@pytest.mark.parametrize("reverse", [False, True])
def test_the_gru_that_resets_before_the_product_is_kerass(reverse):
    layer = prepared("gru_reset_before", reverse=reverse)
    twin = keras.layers.GRU(
        UNITS, reset_after=False, return_sequences=True, return_state=True, go_backwards=reverse)
    twin.build((None, None, 3))
    twin.set_weights(layer.get_weights())
    outputs, (final,) = layer(tf.constant(INPUTS))
    expected, expected_final = twin(INPUTS)
    np.testing.assert_allclose(outputs, expected[:, ::-1] if reverse else expected, atol=1e-6)
    np.testing.assert_allclose(final, expected_final, atol=1e-6)
    assert isinstance(layer, ResetBeforeGRU)


def test_layer_norm_lstm_normalizes_each_gate_and_the_cell():
    layer = prepared("layer_norm_lstm")
    assert isinstance(layer, LayerNormLSTM)
    kernel, recurrent, bias, scale, state_scale, state_bias = (twins.array(weight) for weight in (
        layer.kernel, layer.recurrent_kernel, layer.bias, layer.scale, layer.state_scale, layer.state_bias))
    h = c = np.zeros((3, UNITS))

    def norm(x, scale, bias):
        return twins.layer_norm(x, scale, bias, epsilon=1e-12)

    for t in range(5):
        gates = zip(*(np.split(each, 4, -1) for each in (INPUTS[:, t] @ kernel + h @ recurrent, scale, bias)))
        i, f, g, o = (norm(*gate) for gate in gates)
        c = norm(twins.sigmoid(f) * c + twins.sigmoid(i) * np.tanh(g), state_scale, state_bias)
        h = twins.sigmoid(o) * np.tanh(c)
    outputs, (final_h, final_c) = layer(tf.constant(INPUTS))
    np.testing.assert_allclose(outputs[:, -1], h, atol=1e-5)
    np.testing.assert_allclose(final_h, h, atol=1e-5)
    np.testing.assert_allclose(final_c, c, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_carries_the_state_over_and_is_0(kind, reverse):
    layer = prepared(kind, reverse=reverse)
    state = tuple(tf.constant(RANDOM.normal(size=(3, UNITS)), tf.float32) for _ in range(layer.num_states))
    outputs, final = layer(tf.constant(INPUTS), tf.constant(MASK), initial_state=state)
    np.testing.assert_array_equal(outputs.numpy()[~MASK], 0.0)
    alone, alone_final = layer(
        tf.constant(INPUTS[1:2, :3]), initial_state=tuple(part[1:2] for part in state))
    np.testing.assert_allclose(outputs[1, :3], alone[0], atol=1e-6)
    for part, expected, first in zip(final, alone_final, state, strict=True):
        np.testing.assert_allclose(part[1], expected[0], atol=1e-6)
        np.testing.assert_array_equal(part[2], first[2])


@pytest.mark.parametrize("kind", KINDS)
def test_call_equals_a_loop_of_step(kind):
    layer = prepared(kind)
    outputs, final = layer(tf.constant(INPUTS))
    state = layer.get_initial_state(3)
    for t in range(5):
        output, state = layer.step(tf.constant(INPUTS[:, t]), state)
        np.testing.assert_allclose(output, outputs[:, t], atol=1e-6)
    for part, expected in zip(state, final, strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-6)
