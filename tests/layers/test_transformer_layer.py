"""The Transformer's parts against the papers' formulas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.layers.multihead import causal_bias, padding_bias
from tfseq2seq.layers.padding import RealSteps
from tfseq2seq.layers.transformer import FeedForward, Residual, TransformerLayer, TransformerStack

RANDOM = np.random.default_rng(0)
UNITS, HEADS = 8, 2
ROWS = tf.constant(RANDOM.normal(size=(5, UNITS)), tf.float32)
MEMORY = RANDOM.normal(size=(2, 4, 6)).astype(np.float32)  # [B, S, E]
MEMORY_MASK = np.array([[True] * 4, [True, True, False, False]])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "swish"])
def test_feed_forward_is_the_papers_formula(activation, gated):
    layer = FeedForward(UNITS, 12, activation, gated)
    layer(ROWS)
    twins.randomize(layer)
    np.testing.assert_allclose(layer(ROWS), twins.feed_forward(layer, ROWS.numpy(), activation, gated), atol=1e-5)


def test_feed_forward_drops_inner_values():
    layer = FeedForward(1, 1000, dropout=0.5)
    layer(tf.ones([1, 1]))
    layer.expand.kernel.assign(tf.ones([1, 1000]))
    layer.contract.kernel.assign(tf.fill([1000, 1], 1 / 1000))
    dropped = layer(tf.ones([1, 1]), training=True).numpy().item()
    assert dropped != 1 and abs(dropped - 1) < 0.16  # the mean of 1,000 values of 0 or 2: five standard deviations
    np.testing.assert_allclose(layer(tf.ones([1, 1])), 1.0, atol=1e-5)


@pytest.mark.parametrize("normalization", ["layer", "rms"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_residual_stands_where_its_paper_has_it(norm, normalization):
    residual = Residual(norm, normalization)
    residual.normalize(ROWS)
    twins.randomize(residual)
    outputs = residual.after(ROWS, 3 * residual.before(ROWS), False)  # the sublayer is f(x) = 3 x
    rows = ROWS.numpy().astype(float)
    if norm == "pre":
        expected = rows + 3 * twins.normalize(residual.normalize, rows)
    else:
        expected = twins.normalize(residual.normalize, rows + 3 * rows)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_residual_drops_the_sublayers_output_alone():
    residual = Residual("pre", dropout=0.5)
    ones = tf.ones([50, 64])
    values = residual.after(10 * ones, ones, True).numpy()
    assert set(np.unique(values)) == {10.0, 12.0}


def decoder_layer(**options):
    layer = TransformerLayer(UNITS, HEADS, 12, cross_attention=True, **options)
    read(layer, np.zeros((2, 5, UNITS), np.float32), np.ones((2, 5), bool))
    twins.randomize(layer)
    return layer


def project(layer):
    steps = RealSteps(tf.constant(MEMORY_MASK))
    return layer.cross_attention.project(steps.pack(tf.cast(MEMORY, layer.compute_dtype)), steps)


def read(layer, inputs, mask, training=False):
    length, steps = inputs.shape[1], RealSteps(tf.constant(mask))
    rows, weights = layer.read(
        steps.pack(tf.cast(inputs, layer.compute_dtype)), steps, causal_bias(length), tf.range(length), project(layer),
        padding_bias(tf.constant(MEMORY_MASK)), training)
    return steps.unpack(rows).numpy(), weights.numpy()


CASES = [
    {"norm": "pre", "normalization": "layer", "activation": "relu", "gated": False, "rotary": False},
    {"norm": "post", "normalization": "rms", "activation": "gelu", "gated": True, "rotary": True},
]


@pytest.mark.parametrize("options", CASES, ids=["pre", "post"])
def test_a_decoder_layer_is_its_formula_on_each_sentence_alone(options):
    layer = decoder_layer(**options)
    inputs = RANDOM.normal(size=(2, 5, UNITS)).astype(np.float32)
    mask = np.array([[True] * 5, [True] * 3 + [False] * 2])
    outputs, weights = read(layer, inputs, mask)
    settings = {**options, "heads": HEADS, "positions": "rotary" if options["rotary"] else "none"}
    for b in range(2):
        length = mask[b].sum()
        hidden = np.where(np.tri(length, dtype=bool), 0.0, -np.inf)[None]
        expected, expected_weights = twins.transformer_layer(
            layer, inputs[b, :length], settings, hidden, MEMORY[b, MEMORY_MASK[b]])
        np.testing.assert_allclose(outputs[b, :length], expected, atol=1e-5)
        np.testing.assert_allclose(
            weights[b][:, :length, MEMORY_MASK[b]].mean(0), expected_weights, atol=1e-5)


@pytest.mark.parametrize("options", CASES, ids=["pre", "post"])
def test_one_step_after_the_other_gives_what_all_at_once_gives(options):
    layer, beam = decoder_layer(**options), 3
    inputs = RANDOM.normal(size=(2 * beam, 4, UNITS)).astype(np.float32)
    steps = RealSteps(tf.ones(inputs.shape[:2], tf.bool))
    memory, bias = project(layer), padding_bias(tf.constant(MEMORY_MASK))
    tiled = [tf.repeat(part, beam, 0) for part in memory]
    expected, _ = layer.read(
        steps.pack(tf.constant(inputs)), steps, causal_bias(4), tf.range(4), tiled, tf.repeat(bias, beam, 0))
    expected = steps.unpack(expected)
    cache = (tf.zeros([2, HEADS, 0, UNITS // HEADS]),) * 2
    for t in range(4):
        own = np.arange(beam * (t + 1)) % beam == np.arange(beam)[:, None]  # each goes on from itself
        rows, cache, weights = layer.step(
            tf.constant(inputs[:, t]), cache, lambda cached, new: tf.concat([cached, new], 2),
            tf.constant(np.where(own, 0.0, -1e9)[None, None], tf.float32), tf.fill([beam], t), memory, bias)
        np.testing.assert_allclose(rows, expected[:, t], atol=1e-5)
        assert weights.shape == (2, HEADS, beam, 4)


def test_dropout_changes_a_layer_in_training_alone():
    inputs, mask = RANDOM.normal(size=(2, 5, UNITS)).astype(np.float32), np.ones((2, 5), bool)
    exact = decoder_layer()
    for name in ("dropout", "attention_dropout", "feed_forward_dropout"):
        layer = decoder_layer(**{name: 0.5})
        layer.set_weights([*exact.get_weights(), *layer.get_weights()[len(exact.get_weights()):]])
        np.testing.assert_array_equal(read(layer, inputs, mask)[0], read(exact, inputs, mask)[0])
        assert np.any(read(layer, inputs, mask, training=True)[0] != read(exact, inputs, mask)[0])


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "none", "rotary", "relative"])
def test_the_way_in_maps_other_widths_and_adds_absolute_positions(positions):
    stack = TransformerStack(1, UNITS, HEADS, 12, positions=positions, max_positions=9)
    inputs = RANDOM.normal(size=(2, 3, 5)).astype(np.float32)
    stack.begin(tf.constant(inputs), tf.constant([4, 5, 6]), False)
    twins.randomize(stack)
    expected = twins.linear(stack.enter, inputs)
    if positions == "sinusoidal":
        expected += twins.sinusoids(7, UNITS)[4:]
    if positions == "learned":
        expected += stack.learned.table.numpy()[4:7]
    np.testing.assert_allclose(stack.begin(tf.constant(inputs), tf.constant([4, 5, 6]), False), expected, atol=1e-5)


def test_the_way_in_drops_the_sum_and_maps_no_equal_width():
    stack = TransformerStack(1, UNITS, HEADS, 12, positions="none", dropout=0.5)
    begun = stack.begin(tf.ones([4, 50, UNITS]), tf.range(50), True)
    assert set(np.unique(begun)) == {0.0, 2.0}
    assert stack.enter is None


def test_pre_norm_ends_in_a_normalization_and_post_norm_in_its_layers():
    pre, post = (TransformerStack(1, UNITS, HEADS, 12, norm=norm) for norm in ("pre", "post"))
    pre.finish(ROWS)
    twins.randomize(pre)
    np.testing.assert_allclose(
        pre.finish(ROWS), twins.normalize(pre.normalize, ROWS.numpy().astype(float)), atol=1e-5)
    np.testing.assert_array_equal(post.finish(ROWS), ROWS)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_close(policy):
    inputs, mask = RANDOM.normal(size=(2, 5, UNITS)).astype(np.float32), np.ones((2, 5), bool)
    exact, layer = decoder_layer(), decoder_layer(dtype=policy)
    outputs, weights = read(layer, inputs, mask)
    assert outputs.dtype == layer.compute_dtype and weights.dtype == np.float32
    expected, _ = read(exact, inputs, mask)
    np.testing.assert_allclose(outputs.astype(np.float32), expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("layer", [FeedForward(4, 8, "gelu", True, 0.1), Residual("post", "rms", 0.1)])
def test_config_makes_the_same_layer(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
