"""Embedding and bridge against what they say."""

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.layers.bridge import Bridge
from tfseq2seq.layers.embedding import Embedding


def test_embedding_looks_up_and_its_logits_are_products_with_every_vector():
    layer = Embedding(7, 3)
    ids = np.array([[1, 6], [0, 2]])
    vectors = layer(tf.constant(ids)).numpy()
    table = layer.table.numpy()
    np.testing.assert_array_equal(vectors, table[ids])
    np.testing.assert_allclose(layer.logits(tf.constant(vectors)).numpy(), vectors @ table.T, rtol=1e-5)


def test_embedding_gradient_flows_through_both_uses_of_the_table():
    layer = Embedding(4, 2)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer.logits(layer(tf.constant([[1]]))))
    gradient = tf.convert_to_tensor(tape.gradient(total, layer.table.value)).numpy()
    table = layer.table.numpy()
    expected = np.tile(table[1], (4, 1))  # as output: the hidden vector
    expected[1] += table.sum(0)  # as input: the sum of all rows
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
def test_embedding_refuses_sizes_below_one(sizes):
    with pytest.raises(ValueError, match="vocabulary_size >= 1 and units >= 1"):
        Embedding(*sizes)


STATE = ((tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 4.0]])),)


def test_dense_bridge_is_the_formula():
    bridge = Bridge("dense", [(3, 3)])
    (hidden, cell), = bridge(STATE, batch_size=1)
    joined = np.array([[1.0, 2.0, 3.0, 4.0]])
    first, second = bridge.projections
    np.testing.assert_allclose(hidden, np.tanh(joined @ first.kernel.numpy() + first.bias.numpy()), rtol=1e-5)
    np.testing.assert_allclose(cell, joined @ second.kernel.numpy() + second.bias.numpy(), rtol=1e-5)


def test_copy_bridge_copies_and_zero_bridge_gives_zeros():
    (hidden, cell), = Bridge("copy", [(2, 2)])(STATE, batch_size=1)
    np.testing.assert_array_equal(hidden, [[1.0, 2.0]])
    np.testing.assert_array_equal(cell, [[3.0, 4.0]])
    (zero,), = Bridge("zero", [(5,)])(STATE, batch_size=1)
    np.testing.assert_array_equal(zero, np.zeros((1, 5)))


def test_copy_bridge_refuses_another_shape():
    with pytest.raises(ValueError, match=r"Received: encoder \(\(2, 2\),\), decoder \(\(3, 3\),\)"):
        Bridge("copy", [(3, 3)])(STATE, batch_size=1)
