"""Dropout: how much, where, and when nothing."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.encoders.transformer import TransformerEncoder
from tfseq2seq.layers.dropout import Dropout, LayerDrop

RATES = [0.1, 0.5, 0.9]
SIZE = 40_001  # odd: the random bits come in pairs
SIGMAS = 5  # one test in two million fails by chance; the seed is fixed besides


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(3)


@pytest.mark.parametrize("rate", RATES)
def test_the_share_of_zeros_is_the_rate(rate):
    dropped = Dropout(rate)(tf.ones([SIZE]), training=True).numpy() == 0
    assert abs(dropped.sum() - SIZE * rate) < SIGMAS * math.sqrt(SIZE * rate * (1 - rate))


@pytest.mark.parametrize("rate", RATES)
def test_neighbours_are_dropped_independently(rate):
    dropped = Dropout(rate)(tf.ones([SIZE]), training=True).numpy() == 0
    for distance in (1, 2):  # two values may come of one random number
        both, share = (dropped[:-distance] & dropped[distance:]).mean(), rate**2
        assert abs(both - share) < 2 * SIGMAS * math.sqrt(share * (1 - share) / SIZE)


@pytest.mark.parametrize("rate", RATES)
def test_the_mean_is_kept(rate):
    mean = Dropout(rate)(tf.ones([SIZE]), training=True).numpy().mean()
    assert abs(mean - 1) < SIGMAS * math.sqrt(rate / (1 - rate) / SIZE)


@pytest.mark.parametrize("rate", RATES)
def test_the_others_are_divided_by_what_is_left(rate):
    inputs = tf.random.normal([SIZE])
    outputs = Dropout(rate)(inputs, training=True).numpy()
    kept = outputs != 0
    # The rate is a multiple of 1 / 65,536: half of one away at most.
    np.testing.assert_allclose(outputs[kept], inputs.numpy()[kept] / (1 - rate), rtol=1e-4)


@pytest.mark.parametrize("per_sequence", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_inference_is_untouched(rate, per_sequence):
    inputs = tf.random.normal([2, 3, 4])
    np.testing.assert_array_equal(Dropout(rate, per_sequence)(inputs), inputs)


def test_rate_0_is_untouched_in_training():
    inputs = tf.random.normal([2, 3, 4])
    np.testing.assert_array_equal(Dropout(0.0)(inputs, training=True), inputs)


def test_per_sequence_all_steps_of_a_row_share_one_mask():
    dropped = Dropout(0.5, per_sequence=True)(tf.ones([4, 6, 64]), training=True).numpy() == 0
    np.testing.assert_array_equal(dropped, np.repeat(dropped[:, :1], 6, axis=1))
    assert len(np.unique(dropped[:, 0], axis=0)) == 4  # each row has its own
    assert abs(dropped[:, 0].sum() - 128) < SIGMAS * 8


def test_otherwise_every_step_has_its_own():
    dropped = Dropout(0.5)(tf.ones([1, 6, 64]), training=True).numpy() == 0
    assert len(np.unique(dropped[0], axis=0)) == 6


def test_each_call_draws_anew_in_a_graph_too_and_the_seed_repeats_them():
    def draws():
        keras.utils.set_random_seed(5)
        layer = Dropout(0.5)
        graph = tf.function(lambda inputs: layer(inputs, training=True))
        return np.stack([graph(tf.ones([64])).numpy() for _ in range(3)])

    first = draws()
    assert len(np.unique(first, axis=0)) == 3
    np.testing.assert_array_equal(first, draws())


def test_the_gradient_is_the_mask():
    layer, inputs = Dropout(0.5), tf.random.normal([3, 8])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
    gradient = tape.gradient(outputs, inputs).numpy()
    np.testing.assert_array_equal(gradient, np.where(outputs.numpy() != 0, 2.0, 0.0))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_keeps_type_rate_and_scale(policy):
    layer = Dropout(0.5, dtype=policy)
    outputs = layer(tf.ones([SIZE]), training=True)
    assert outputs.dtype == layer.compute_dtype
    values = tf.cast(outputs, tf.float32).numpy()
    assert set(np.unique(values)) == {0.0, 2.0}
    assert abs((values == 0).sum() - SIZE / 2) < SIGMAS * math.sqrt(SIZE / 4)


def test_no_values_give_no_values():
    assert Dropout(0.5)(tf.ones([0, 4]), training=True).shape == (0, 4)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match=f"0 <= rate < 1. Received: rate={rate}"):
        Dropout(rate)


def test_config_makes_the_same_layer():
    again = Dropout.from_config(Dropout(0.25, per_sequence=True).get_config())
    assert (again.rate, again.per_sequence) == (0.25, True)


def test_layers_are_left_out_each_by_itself():
    rate, draws = 0.3, 400
    encoder = TransformerEncoder(2, 8, 2, 8, norm="post", positions="none", layer_drop=rate)
    source, mask = tf.random.normal([1, 3, 8]), tf.ones([1, 3], tf.bool)
    whole = encoder(source, mask).memory.numpy()
    blocks = encoder.stack.blocks
    outputs = {}
    for kept in ((), (0,), (1,), (0, 1)):
        encoder.stack.blocks = [blocks[i] for i in kept]
        outputs[kept] = encoder(source, mask).memory.numpy()
    encoder.stack.blocks = blocks
    np.testing.assert_allclose(outputs[0, 1], whole, atol=1e-6)
    run = tf.function(lambda: encoder(source, mask, training=True).memory)
    counts = dict.fromkeys(outputs, 0)
    for _ in range(draws):
        found = run().numpy()
        (kept,) = [kept for kept, output in outputs.items() if np.abs(output - found).max() < 1e-5]
        counts[kept] += 1
    for kept, count in counts.items():
        share = rate ** (2 - len(kept)) * (1 - rate) ** len(kept)
        assert abs(count - draws * share) < SIGMAS * math.sqrt(draws * share * (1 - share))


def test_all_layers_cannot_be_left_out_and_none_is_when_it_answers():
    with pytest.raises(ValueError, match="0 <= rate < 1. Received: rate=1"):
        LayerDrop(1)
    before, after = tf.zeros([2]), tf.ones([2])
    np.testing.assert_array_equal(LayerDrop(0.0)(before, after, training=True), after)
    np.testing.assert_array_equal(LayerDrop(0.9)(before, after), after)
