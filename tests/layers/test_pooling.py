"""Pooling against its formulas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.layers.pooling import Pooling

KINDS = ["mean", "max", "attentive"]
RANDOM = np.random.default_rng(0)
MEMORY = RANDOM.normal(loc=-2, size=(3, 4, 5)).astype(np.float32)  # below 0: a max must not see the zeros of padding
MASK = np.array([[True] * 4, [True, True, False, False], [False] * 4])


def make(kind, **options):
    layer = Pooling(kind, **options)
    layer.build(MEMORY.shape)
    twins.randomize(layer)
    return layer


def formula(layer, memory):
    """Of one sentence [S, E] without padding."""
    if layer.kind == "mean":
        return memory.mean(0)
    if layer.kind == "max":
        return memory.max(0)
    projection, bias, vector = (twins.array(w) for w in (layer.projection, layer.bias, layer.score_vector))
    scores = [vector[:, 0] @ np.tanh(step @ projection + bias) for step in memory]
    return twins.softmax(np.array(scores)) @ memory


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_is_the_formula_over_the_real_steps(kind):
    layer = make(kind)
    pooled = layer(tf.constant(MEMORY), mask=tf.constant(MASK))
    for row in (0, 1):
        np.testing.assert_allclose(pooled[row], formula(layer, MEMORY[row, MASK[row]]), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_on_padding_changes_nothing(kind):
    layer = make(kind)
    spoiled = np.where(MASK[..., None], MEMORY, 1e3).astype(np.float32)
    first, second = (layer(tf.constant(memory), mask=tf.constant(MASK)) for memory in (MEMORY, spoiled))
    np.testing.assert_array_equal(first[:2], second[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_padding_gives_0_and_finite_gradients(kind):
    """Zeros on padding, as encoders write them, give 0 whatever the kind."""
    layer, memory = make(kind), tf.constant(MEMORY * MASK[..., None])
    with tf.GradientTape() as tape:
        tape.watch(memory)
        pooled = layer(memory, mask=tf.constant(MASK))
    np.testing.assert_array_equal(pooled[2], 0.0)
    assert np.isfinite(tape.gradient(pooled, memory)).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_close(kind, policy):
    layer, exact = make(kind, dtype=policy), make(kind)
    pooled = layer(tf.constant(MEMORY), mask=tf.constant(MASK))
    assert pooled.dtype == layer.compute_dtype
    expected = exact(tf.constant(MEMORY), mask=tf.constant(MASK))
    np.testing.assert_allclose(tf.cast(pooled, tf.float32), expected, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_config_makes_the_same_layer(kind):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(Pooling(kind)))
    assert again.kind == kind
