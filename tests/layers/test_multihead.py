"""Multi-head attention against the formula head by head, and against Keras' layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.layers.multihead import (
    CrossAttention,
    SelfAttention,
    attend,
    causal_bias,
    join_heads,
    padding_bias,
    split_heads,
)
from tfseq2seq.layers.padding import RealSteps

RANDOM = np.random.default_rng(0)
HEADS, UNITS = 2, 6
QUERY = RANDOM.normal(size=(2, 3, UNITS)).astype(np.float32)  # [B, T, units]
MEMORY = RANDOM.normal(size=(2, 5, 4)).astype(np.float32)  # [B, S, E]
MASK = np.array([[True] * 5, [True, True, False, False, False]])


def test_heads_are_blocks_of_units_and_join_undoes_split():
    split = split_heads(tf.constant(QUERY), HEADS)
    np.testing.assert_array_equal(split[:, 0], QUERY[..., :3])
    np.testing.assert_array_equal(split[:, 1], QUERY[..., 3:])
    np.testing.assert_array_equal(join_heads(split), QUERY)


def test_attend_is_the_papers_formula_in_each_head():
    query, keys, values = (RANDOM.normal(size=(2, HEADS, steps, 3)) for steps in (4, 5, 5))
    bias = RANDOM.normal(size=(1, HEADS, 4, 5))
    mixed, weights = attend(*(tf.constant(x, tf.float32) for x in (query, keys, values, bias)))
    for b, h in np.ndindex(2, HEADS):
        expected = twins.softmax(query[b, h] @ keys[b, h].T / np.sqrt(3) + bias[0, h])
        np.testing.assert_allclose(weights[b, h], expected, atol=1e-5)
        np.testing.assert_allclose(mixed[b, h], expected @ values[b, h], atol=1e-5)


def test_the_biases_hide_padding_and_later_steps():
    np.testing.assert_array_equal(padding_bias(tf.constant(MASK))[:, 0, 0] == 0, MASK)
    np.testing.assert_array_equal(causal_bias(4)[0, 0] == 0, np.tri(4, dtype=bool))
    query = tf.constant(RANDOM.normal(size=(2, HEADS, 5, 3)), tf.float32)
    bias = padding_bias(tf.constant(MASK)) + causal_bias(5)
    _, weights = attend(query, query, query, bias)
    seen = np.broadcast_to(MASK[:, None, None] & np.tri(5, dtype=bool), weights.shape)
    np.testing.assert_array_equal(weights.numpy() > 0, seen)
    np.testing.assert_allclose(tf.reduce_sum(weights, -1), 1.0, atol=1e-6)


def cross(layer, query, memory, mask):
    """The layer's parts in their order: output and weights."""
    steps = RealSteps(tf.constant(mask))
    keys, values = layer.project(steps.pack(tf.constant(memory)), steps)
    mixed, weights = layer.attend(layer.query(tf.constant(query)), keys, values, padding_bias(tf.constant(mask)))
    return layer.output(mixed), weights


@pytest.fixture(scope="module")
def cross_attention():
    layer = CrossAttention(UNITS, HEADS)
    cross(layer, QUERY, MEMORY, MASK)
    twins.randomize(layer)
    return layer


def test_cross_attention_is_the_formula(cross_attention):
    output, weights = cross(cross_attention, QUERY, MEMORY, MASK)
    assert weights.shape == (2, HEADS, 3, 5)
    for b in range(2):
        keys, values = np.split(twins.linear(cross_attention.key_value, MEMORY[b, MASK[b]]), 2, -1)
        mixed, expected = twins.attention(twins.linear(cross_attention.query, QUERY[b]), keys, values, HEADS)
        np.testing.assert_allclose(output[b], twins.linear(cross_attention.output_projection, mixed), atol=1e-5)
        np.testing.assert_allclose(weights.numpy()[b][..., MASK[b]].mean(0), expected, atol=1e-5)
        np.testing.assert_array_equal(weights.numpy()[b][..., ~MASK[b]], 0.0)


def keras_weights(projection, parts):
    """A kernel [D, parts * heads * size] as Keras has it, [D, heads, size] a part, and the biases likewise."""
    kernels, biases = (np.split(w.numpy(), parts, -1) for w in (projection.kernel, projection.bias))
    size = kernels[0].shape[-1] // HEADS
    return [
        part.reshape(shape) for kernel, bias in zip(kernels, biases)
        for part, shape in ((kernel, (-1, HEADS, size)), (bias, (HEADS, size)))]


def keras_output(projection):
    return [projection.kernel.numpy().reshape(HEADS, UNITS // HEADS, UNITS), projection.bias.numpy()]


def test_cross_attention_equals_keras(cross_attention):
    peer = keras.layers.MultiHeadAttention(HEADS, UNITS // HEADS)
    peer.build(QUERY.shape, MEMORY.shape)
    peer.set_weights([
        *keras_weights(cross_attention.query, 1), *keras_weights(cross_attention.key_value, 2),
        *keras_output(cross_attention.output_projection)])
    expected, scores = peer(QUERY, MEMORY, attention_mask=MASK[:, None], return_attention_scores=True)
    output, weights = cross(cross_attention, QUERY, MEMORY, MASK)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    np.testing.assert_allclose(weights, scores, atol=1e-5)


def test_causal_self_attention_equals_the_formula_and_keras():
    layer = SelfAttention(UNITS, HEADS)
    for part in (layer.query_key_value, layer.output_projection):
        part.build((None, UNITS))
    twins.randomize(layer)
    query, keys, values = layer.split(layer.project(tf.constant(QUERY)))
    mixed, weights = layer.attend(query, keys, values, causal_bias(3))
    output = layer.output(mixed)
    hidden = np.where(np.tri(3, dtype=bool), 0.0, -np.inf)[None]
    for b in range(2):
        parts = np.split(twins.linear(layer.query_key_value, QUERY[b]), 3, -1)
        mixed, expected = twins.attention(*parts, HEADS, hidden)
        np.testing.assert_allclose(output[b], twins.linear(layer.output_projection, mixed), atol=1e-5)
        np.testing.assert_allclose(tf.reduce_mean(weights[b], 0), expected, atol=1e-5)
    peer = keras.layers.MultiHeadAttention(HEADS, UNITS // HEADS)
    peer.build(QUERY.shape, QUERY.shape)
    peer.set_weights([*keras_weights(layer.query_key_value, 3), *keras_output(layer.output_projection)])
    np.testing.assert_allclose(output, peer(QUERY, QUERY, use_causal_mask=True), atol=1e-5)


@pytest.mark.parametrize("make", [SelfAttention, CrossAttention])
def test_dropout_acts_on_the_weights_used_and_leaves_those_returned(make):
    layer = make(UNITS, HEADS, dropout=0.5)
    keras.utils.set_random_seed(1)
    values = tf.reshape(tf.eye(64), [1, 1, 64, 64])  # each value marks its step, so the mix is the weights
    query = tf.zeros([1, 1, 64, 64])
    mixed, weights = attend(query, query, values, 0.0, layer.drop, True)
    np.testing.assert_allclose(weights, 1 / 64, atol=1e-6)
    kept = mixed.numpy() != 0
    assert 0.4 < kept.mean() < 0.6  # 4,096 weights: ten standard deviations
    np.testing.assert_allclose(mixed.numpy()[kept], 2 / 64, atol=1e-6)
    same, _ = attend(query, query, values, 0.0, layer.drop, False)
    np.testing.assert_allclose(same, 1 / 64, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_takes_the_softmax_in_single(policy, cross_attention):
    layer = CrossAttention(UNITS, HEADS, dtype=policy)
    query, memory = (tf.cast(x, layer.compute_dtype) for x in (QUERY, MEMORY))
    cross(layer, query, memory, MASK)
    layer.set_weights(cross_attention.get_weights())
    output, weights = cross(layer, query, memory, MASK)
    assert output.dtype == layer.compute_dtype and weights.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(weights, -1), 1.0, atol=1e-6)
    exact, _ = cross(cross_attention, QUERY, MEMORY, MASK)
    np.testing.assert_allclose(tf.cast(output, tf.float32), exact, atol=0.1)


@pytest.mark.parametrize("make", [SelfAttention, CrossAttention])
def test_config_makes_the_same_layer(make):
    layer = make(UNITS, HEADS, 0.1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
