"""Options of the Transformer that models of other systems need, against formulas in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.encoders import TransformerEncoder
from tfseq2seq.encoders.subsampling import SubsamplingEncoder
from tfseq2seq.layers.embedding import Embedding, OutputBias
from tfseq2seq.layers.multihead import SelfAttention, attend
from tfseq2seq.layers.positions import sinusoids
from tfseq2seq.layers.transformer import FeedForward
from tfseq2seq.model import Seq2Seq

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("units", [8, 7])
def test_halves_are_all_sines_then_all_cosines(units):
    positions = np.arange(20)[:, None]
    angles = positions / 10_000.0 ** (2 * np.arange((units + 1) // 2) / units)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], 1)[:, :units]
    np.testing.assert_allclose(sinusoids(tf.range(20), units, "halves"), expected, atol=1e-5)


@pytest.mark.parametrize("units", [8, 7])
def test_timing_reaches_both_ends_of_its_rates(units):
    half = units // 2
    angles = np.arange(20)[:, None] * 10_000.0 ** (-np.arange(half) / (half - 1))
    expected = np.concatenate([np.sin(angles), np.cos(angles), np.zeros([20, units % 2])], 1)
    np.testing.assert_allclose(sinusoids(tf.range(20), units, "timing"), expected, atol=1e-5)


def test_attention_may_leave_its_scores_as_they_are():
    query, keys, values = draw(1, 2, 3, 4), draw(1, 2, 5, 4), draw(1, 2, 5, 4)
    scores = np.exp(query @ keys.swapaxes(2, 3))
    expected = scores / scores.sum(-1, keepdims=True) @ values
    mixed, _ = attend(tf.constant(query), tf.constant(keys), tf.constant(values), tf.zeros([1, 1, 1, 5]), scale=False)
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


def test_heads_may_be_wider_than_a_share_of_the_units():
    attention = SelfAttention(6, heads=2, head_units=5, use_bias=False)
    rows = tf.constant(draw(3, 6))
    query, keys, values = attention.split(attention.project(rows)[None])
    assert query.shape == keys.shape == values.shape == (1, 2, 3, 5)
    kernel = attention.query_key_value.kernel.numpy()
    np.testing.assert_allclose(query[0, 1], rows @ kernel[:, 5:10], atol=1e-5)  # of the second head
    mixed, _ = attention.attend(query, keys, values, tf.zeros([1, 1, 1, 3]))
    assert attention.output(mixed[0]).shape == (3, 6)
    assert [weight.name for weight in attention.weights] == ["kernel", "kernel"]


def test_a_feed_forward_layer_may_have_no_bias():
    layer = FeedForward(4, 6, use_bias=False)
    layer(tf.constant(draw(2, 4)))
    assert [weight.name for weight in layer.weights] == ["kernel", "kernel"]


def test_embeddings_are_normalized_with_their_positions():
    encoder = TransformerEncoder(
        layers=1, units=8, heads=2, feed_forward_units=8, norm="post", normalize_embeddings=True, epsilon=0.1,
        waves="timing", first_position=2, dropout=0.0)
    embedded, mask = draw(1, 3, 8), tf.ones([1, 3], tf.bool)
    encoder(tf.constant(embedded), mask=mask)
    begun = encoder.stack.begin(tf.constant(embedded), tf.range(3), False)
    summed = embedded + sinusoids(tf.range(2, 5), 8, "timing").numpy()
    expected = (summed - summed.mean(-1, keepdims=True)) / np.sqrt(summed.var(-1, keepdims=True) + 0.1)
    np.testing.assert_allclose(begun, expected, atol=1e-5)


def test_tied_logits_have_a_scale_and_a_bias_in_training_and_in_search():
    table = {"kind": "transformer", "layers": 1, "units": 16, "heads": 2, "feed_forward_units": 8, "dropout": 0.0}
    config = {"embedding_units": 16, "share_embeddings": "all", "encoder": table, "decoder": table}
    model = Seq2Seq({**config, "output_bias": True, "scale_output": True}, 9, 9)
    plain = Seq2Seq(config, 9, 9)
    bias = draw(9)
    model.output_bias.bias.assign(bias)
    for weight, given in zip([each for each in model.weights if each is not model.output_bias.bias], plain.weights):
        given.assign(weight)
    inputs = {"source": tf.constant([[4, 5, 3]]), "target": tf.constant([[2, 6, 7]])}
    expected = plain(inputs).numpy() / 4 + bias
    np.testing.assert_allclose(model(inputs), expected, atol=1e-5)
    memory, state = model.start(model.encode(inputs["source"]))
    logits, _, _ = model.stepper()(tf.constant([2]), state, memory)
    np.testing.assert_allclose(logits[0], expected[0, 0], atol=1e-5)


def test_an_output_bias_is_of_a_tied_table_alone():
    with pytest.raises(ValueError, match="are of a tied output matrix"):
        Seq2Seq({"output_bias": True}, 9, 9)


def test_a_bias_is_added_to_each_id():
    table, bias = Embedding(5, 4), OutputBias(5)
    table(tf.constant([0]))
    hidden = tf.constant(draw(2, 4))
    logits = table.logits(hidden)
    biased = bias(logits)
    bias.bias.assign(np.arange(5, dtype=np.float32))
    np.testing.assert_allclose(bias(logits), logits + np.arange(5), atol=1e-5)
    np.testing.assert_array_equal(biased, logits)


@pytest.mark.parametrize("strides", [[1, 2], [2, 1], [1]])
def test_convolutions_may_keep_all_steps(strides):
    encoder = SubsamplingEncoder(layers=len(strides), units=3, strides=strides, activation="gelu", dropout=0.0)
    source = draw(1, 7, 2)
    output = encoder(tf.constant(source), mask=tf.ones([1, 7], tf.bool))
    expected = source[0]
    for convolution, stride in zip(encoder.convolutions, strides, strict=True):
        kernel = convolution.linear.kernel.numpy().reshape(3, expected.shape[1], 3)
        padded = np.pad(expected, [[1, 1], [0, 0]])
        steps = [sum(padded[t + i] @ kernel[i] for i in range(3)) for t in range(0, len(expected), stride)]
        expected = tf.nn.gelu(np.array(steps)).numpy()
    np.testing.assert_allclose(output.memory[0], expected, atol=1e-5)
    assert encoder.num_steps(7) == len(expected)
