"""Positions against the papers' formulas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.layers.positions import LearnedPositions, RelativeBias, rotate, sinusoids

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("units", [8, 7])
def test_sinusoids_are_the_papers_formula(units):
    np.testing.assert_allclose(sinusoids(tf.range(50), units), twins.sinusoids(50, units), atol=1e-5)


def test_sinusoids_of_one_position_are_its_row():
    np.testing.assert_allclose(sinusoids(tf.constant([9]), 8), twins.sinusoids(10, 8)[9:], atol=1e-5)


def test_rotary_is_a_product_of_complex_numbers():
    vectors, positions = RANDOM.normal(size=(5, 8)), np.array([0, 1, 2, 7, 40])
    turned = rotate(tf.constant(vectors, tf.float32), tf.constant(positions))
    np.testing.assert_allclose(turned, twins.rotate(vectors, positions), atol=1e-5)
    np.testing.assert_array_equal(turned[0], vectors[0].astype(np.float32))  # position 0 turns nothing


def test_the_gradient_of_rotary_is_turned_back():
    vectors, upstream = (tf.constant(RANDOM.normal(size=(5, 8)), tf.float32) for _ in range(2))
    positions = np.array([0, 1, 2, 7, 40])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([vectors, upstream])
        turned = rotate(vectors, tf.constant(positions))
        gradient = tape.gradient(turned, vectors, output_gradients=upstream)
        total = tf.reduce_sum(gradient * vectors)
    np.testing.assert_allclose(gradient, twins.rotate(upstream.numpy(), -positions), atol=1e-5)
    # The second derivative, as an optimizer by curvature needs it.
    np.testing.assert_allclose(tape.gradient(total, upstream), twins.rotate(vectors.numpy(), positions), atol=1e-5)


def test_rotary_products_depend_on_the_distance_alone():
    query, key = (tf.constant(np.tile(RANDOM.normal(size=(1, 8)), (20, 1)), tf.float32) for _ in range(2))
    products = tf.matmul(rotate(query, tf.range(20)), rotate(key, tf.range(20)), transpose_b=True).numpy()
    for distance in range(-19, 20):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert np.ptp(products[0]) > 0.1  # and on the distance they do depend


def test_rotary_turns_every_head_and_row_alike():
    vectors = tf.constant(RANDOM.normal(size=(2, 3, 5, 4)), tf.float32)  # [B, heads, T, D]
    turned = rotate(vectors, tf.range(5))
    for row, head in np.ndindex(2, 3):
        np.testing.assert_allclose(turned[row, head], rotate(vectors[row, head], tf.range(5)), atol=1e-6)


@pytest.mark.parametrize("sizes", [(32, 128), (8, 20)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_the_published_rule(bidirectional, sizes):
    offsets = np.arange(-300, 301, dtype=np.int32)
    expected = [twins.bucket(int(offset), bidirectional, *sizes) for offset in offsets]
    layer = RelativeBias(2, bidirectional, *sizes)
    np.testing.assert_array_equal(layer.buckets(tf.constant(offsets)), expected)
    # All are in use but, in two directions, the one of later keys at distance 0.
    assert len(set(expected)) == sizes[0] - bidirectional


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_bias_is_the_entry_of_each_bucket(bidirectional):
    layer = RelativeBias(2, bidirectional)
    query, key = np.array([0, 3, 40], np.int32), np.array([0, 1, 3, 90], np.int32)
    bias = layer(tf.constant(query), tf.constant(key)).numpy()
    table = layer.table.numpy()
    assert bias.shape == (2, 3, 4)
    for head, t, s in np.ndindex(*bias.shape):
        assert bias[head, t, s] == table[twins.bucket(int(key[s] - query[t]), bidirectional), head]


def test_learned_positions_are_rows_and_longer_sequences_are_refused():
    layer = LearnedPositions(6, 4)
    np.testing.assert_array_equal(layer(tf.constant([0, 5, 2])), layer.table.numpy()[[0, 5, 2]])
    with tf.device("CPU"), pytest.raises(tf.errors.InvalidArgumentError):
        layer(tf.constant([6]))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_keeps_distant_positions_apart(policy):
    """Angles of 1,000 radians have no fraction in bfloat16: they must be taken in single precision."""
    dtype = keras.DTypePolicy(policy).compute_dtype
    vectors, positions = RANDOM.normal(size=(2, 8)), np.array([1000, 1001])
    turned = rotate(tf.cast(vectors, dtype), tf.constant(positions))
    assert turned.dtype == dtype
    np.testing.assert_allclose(tf.cast(turned, tf.float32), twins.rotate(vectors, positions), atol=0.05)
    assert LearnedPositions(3, 4, dtype=policy)(tf.range(3)).dtype == dtype
    assert RelativeBias(2, True, dtype=policy)(tf.range(3), tf.range(3)).dtype == dtype


@pytest.mark.parametrize("layer", [LearnedPositions(6, 4), RelativeBias(2, False, 16, 64)])
def test_config_makes_the_same_layer(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
