"""Attention against the papers' formulas in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.layers.attention import ATTENTIONS, AdditiveAttention, DotAttention, GeneralAttention

RANDOM = np.random.default_rng(0)
QUERY = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)  # [B, T, D]
VALUES = RANDOM.normal(size=(2, 5, 4)).astype(np.float32)  # [B, S, E]
MASK = np.array([[True] * 5, [True, True, False, False, False]])


def masked_softmax(scores, mask):
    exponents = np.exp(scores - scores.max(-1, keepdims=True)) * mask[:, None]
    return exponents / exponents.sum(-1, keepdims=True)


def attend(layer, query=QUERY, values=VALUES, mask=MASK):
    values = tf.constant(values)
    context, weights = layer(tf.constant(query), layer.project_keys(values), values, tf.constant(mask))
    return context.numpy(), weights.numpy()


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


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_padding_never_reaches_the_context(kind):
    layer = ATTENTIONS[kind](4)
    context, weights = attend(layer)
    spoiled, _ = attend(layer, values=np.where(MASK[..., None], VALUES, 1e3).astype(np.float32))
    np.testing.assert_array_equal(weights[1, :, 2:], 0.0)
    np.testing.assert_array_equal(context, spoiled)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_a_row_of_padding_gives_finite_numbers(kind):
    context, weights = attend(ATTENTIONS[kind](4), mask=np.zeros_like(MASK))
    assert np.isfinite(context).all() and np.isfinite(weights).all()


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
