"""Attention against the papers' formulas in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.layers.attention import (
    ATTENTIONS,
    AdditiveAttention,
    DotAttention,
    GeneralAttention,
    MultiHeadAttention,
    NormedAdditiveAttention,
    ScaledDotAttention,
    make_attention,
)

RANDOM = np.random.default_rng(0)
QUERY = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)  # [B, T, D]
VALUES = RANDOM.normal(size=(2, 5, 4)).astype(np.float32)  # [B, S, E]
MASK = np.array([[True] * 5, [True, True, False, False, False]])


def masked_softmax(scores, mask):
    exponents = np.exp(scores - scores.max(-1, keepdims=True)) * mask[:, None]
    return exponents / exponents.sum(-1, keepdims=True)


def call(layer, query=QUERY, values=VALUES, mask=MASK):
    """Context and weights, where every query is a first step."""
    memory, options = layer.project(tf.constant(values)), {}
    if layer.reads_attended:
        options["attended"] = tf.repeat(layer.begin(tf.constant(mask))[:, None], query.shape[1], axis=1)
    return layer(tf.cast(query, layer.compute_dtype), *memory, tf.constant(mask), **options)


def attend(layer, **arguments):
    return tuple(each.numpy() for each in call(layer, **arguments))


def test_dot_is_the_papers_formula():
    context, weights = attend(DotAttention(4))
    expected = masked_softmax(np.einsum("btd,bsd->bts", QUERY, VALUES), MASK)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    np.testing.assert_allclose(context, expected @ VALUES, atol=1e-6)


def test_general_is_the_papers_formula():
    layer = GeneralAttention(4)
    _, weights = attend(layer)
    projected = VALUES @ layer.key_projection.kernel.numpy()
    np.testing.assert_allclose(weights, masked_softmax(np.einsum("btd,bsd->bts", QUERY, projected), MASK), atol=1e-6)


def test_additive_is_the_papers_formula():
    layer = AdditiveAttention(6)
    _, weights = attend(layer)
    query, key = layer.query_projection.kernel.numpy(), layer.key_projection.kernel.numpy()
    scores = np.zeros((2, 3, 5))
    for b, t, s in np.ndindex(2, 3, 5):
        scores[b, t, s] = layer.score_vector.numpy() @ np.tanh(QUERY[b, t] @ query + VALUES[b, s] @ key)
    np.testing.assert_allclose(weights, masked_softmax(scores, MASK), atol=1e-6)


def test_scaled_dot_is_the_papers_formula():
    _, weights = attend(ScaledDotAttention(4))
    np.testing.assert_allclose(weights, masked_softmax(np.einsum("btd,bsd->bts", QUERY, VALUES) / 2, MASK), atol=1e-6)


def test_normed_additive_is_the_papers_formula():
    layer = NormedAdditiveAttention(6)
    attend(layer)
    assert layer.scale.numpy() == pytest.approx(6**-0.5)  # at the start, with a bias of 0
    np.testing.assert_array_equal(layer.bias, np.zeros(6))
    twins.randomize(layer)
    _, weights = attend(layer)
    query, key = layer.query_projection.kernel.numpy(), layer.key_projection.kernel.numpy()
    vector = layer.score_vector.numpy()
    vector = layer.scale.numpy() * vector / np.linalg.norm(vector)
    scores = np.zeros((2, 3, 5))
    for b, t, s in np.ndindex(2, 3, 5):
        scores[b, t, s] = vector @ np.tanh(QUERY[b, t] @ query + VALUES[b, s] @ key + layer.bias.numpy())
    np.testing.assert_allclose(weights, masked_softmax(scores, MASK), atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_multi_head_is_the_papers_formula_and_its_weights_the_mean(heads):
    layer = MultiHeadAttention(4, heads)
    attend(layer)
    twins.randomize(layer)
    context, weights = attend(layer)
    for b in range(2):
        keys, values = np.split(twins.linear(layer.attention.key_value, VALUES[b, MASK[b]]), 2, -1)
        mixed, expected = twins.attention(twins.linear(layer.attention.query, QUERY[b]), keys, values, heads)
        np.testing.assert_allclose(context[b], twins.linear(layer.attention.output_projection, mixed), atol=1e-5)
        np.testing.assert_allclose(weights[b][:, MASK[b]], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["additive", "normed_additive", "concat", "general", "multi_head"])
def test_memory_may_be_wider_than_the_query(kind):
    values = np.concatenate([VALUES, VALUES], -1)  # 8 wide, the query 4
    context, weights = attend(make_attention(kind, 4), values=values)
    assert context.shape == (2, 3, 4 if kind == "multi_head" else 8)
    if kind != "multi_head":
        np.testing.assert_allclose(context, weights @ values, atol=1e-5)


def test_only_multi_head_has_heads():
    assert make_attention("multi_head", 4, heads=2).heads == 2
    assert not hasattr(make_attention("general", 4, heads=2), "heads")


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_padding_never_reaches_the_context(kind):
    layer = ATTENTIONS[kind](4)
    context, weights = attend(layer)
    spoiled, _ = attend(layer, values=np.where(MASK[..., None], VALUES, 1e3).astype(np.float32))
    np.testing.assert_array_equal(weights[1, :, 2:], 0.0)
    np.testing.assert_array_equal(context, spoiled)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_a_row_of_padding_is_weighed_evenly(kind):
    context, weights = attend(ATTENTIONS[kind](4), mask=np.zeros_like(MASK))
    np.testing.assert_allclose(weights, 1 / 5, atol=1e-6)
    assert np.isfinite(context).all()
    if kind != "multi_head":  # whose context is a projection
        np.testing.assert_allclose(context, np.repeat(VALUES.mean(1, keepdims=True), 3, 1), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_half_precision_takes_the_softmax_in_single(kind, policy):
    exact, layer = ATTENTIONS[kind](4), ATTENTIONS[kind](4, dtype=policy)
    expected, _ = attend(exact)
    attend(layer)
    layer.set_weights(exact.get_weights())
    context, weights = call(layer)
    assert context.dtype == layer.compute_dtype and weights.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(weights, -1), 1.0, atol=1e-6)
    np.testing.assert_allclose(tf.cast(context, tf.float32), expected, atol=0.05)


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_config_makes_the_same_layer(kind):
    layer = ATTENTIONS[kind](4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.units == 4


def test_dot_refuses_other_widths():
    with pytest.raises(ValueError, match="set model.decoder.units to 4"):
        attend(DotAttention(3), query=QUERY[..., :3])


def test_units_below_one_are_refused():
    with pytest.raises(ValueError, match="units >= 1. Received: units=0"):
        GeneralAttention(0)
