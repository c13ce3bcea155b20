"""Embedding and bridge against what they say."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.layers import embedding
from tfseq2seq.layers.bridge import Bridge
from tfseq2seq.layers.embedding import Embedding


@pytest.mark.parametrize("copied", [10_000, 0], ids=["transposed before", "the other way about"])
def test_logits_of_steps_are_products_with_every_vector(copied, monkeypatch):
    monkeypatch.setattr(embedding, "COPIED_VOCABULARY", copied)
    layer = Embedding(7, 3)
    layer(tf.constant([1]))
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    found = layer.logits_of_steps("float32")(tf.constant(rows))
    np.testing.assert_allclose(found, rows @ tf.convert_to_tensor(layer.table).numpy().T, rtol=1e-5, atol=1e-6)


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


STATE = ((tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 4.0]])),)  # h and c of one layer
CONTEXT = tf.constant([[5.0, -1.0, 0.5]])


def check_dense(bridge, state, joined):
    """s = tanh(W x + b) for h and W x + b for c, each with weights of its own."""
    bridge(state, CONTEXT)
    twins.randomize(bridge)
    leaves = [leaf for parts in bridge(state, CONTEXT) for leaf in parts]
    parts = [part for widths in bridge.widths for part in range(len(widths))]
    for leaf, part, projection in zip(leaves, parts, bridge.projections, strict=True):
        expected = twins.linear(projection, np.array(joined))
        np.testing.assert_allclose(leaf, expected if part else np.tanh(expected), atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "auto"])
def test_dense_bridge_maps_all_last_states(kind):
    check_dense(Bridge(kind, [(3, 3)]), STATE, [[1.0, 2.0, 3.0, 4.0]])
    two_layers = (*STATE, (tf.constant([[7.0]]),))
    check_dense(Bridge(kind, [(3, 3), (2, 2), (4,)]), two_layers, [[1.0, 2.0, 3.0, 4.0, 7.0]])


@pytest.mark.parametrize("kind, state", [("pooled", STATE), ("pooled", ()), ("auto", ())])
def test_pooled_bridge_maps_the_context(kind, state):
    check_dense(Bridge(kind, [(3, 3), (2,)]), state, CONTEXT.numpy())


def test_copy_bridge_copies():
    (hidden, cell), = Bridge("copy", [(2, 2)])(STATE, CONTEXT)
    np.testing.assert_array_equal(hidden, [[1.0, 2.0]])
    np.testing.assert_array_equal(cell, [[3.0, 4.0]])


@pytest.mark.parametrize("state", [STATE, ()])
def test_zero_bridge_gives_zeros(state):
    (hidden,), (first, second) = Bridge("zero", [(5,), (1, 2)])(state, CONTEXT)
    for leaf, width in ((hidden, 5), (first, 1), (second, 2)):
        np.testing.assert_array_equal(leaf, np.zeros((1, width)))


def test_copy_bridge_refuses_another_shape():
    with pytest.raises(ValueError, match=r"Received: encoder \(\(2, 2\),\), decoder \(\(3, 3\),\)"):
        Bridge("copy", [(3, 3)])(STATE, CONTEXT)


def test_dense_bridge_refuses_an_encoder_without_last_states():
    with pytest.raises(ValueError, match="use bridge = \"pooled\". Received: none"):
        Bridge("dense", [(3, 3)])((), CONTEXT)


@pytest.mark.parametrize("kind", ["auto", "dense", "copy", "pooled", "zero"])
def test_bridge_config_makes_the_same_layer_after_json(kind):
    bridge = Bridge(kind, [(3, 3), (2,)])
    again = Bridge.from_config(json.loads(json.dumps(bridge.get_config())))
    assert (again.kind, again.widths) == (kind, ((3, 3), (2,)))
    assert len(again.projections) == (0 if kind in ("copy", "zero") else 3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["dense", "pooled", "zero"])
def test_bridge_in_half_precision_gives_states_of_it(kind, policy):
    bridge = Bridge(kind, [(3, 3)], dtype=policy)
    for leaf in bridge(STATE, CONTEXT)[0]:
        assert leaf.dtype == bridge.compute_dtype
