"""The real steps alone: there, back, and the gradients."""

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.layers.padding import RealSteps

RANDOM = np.random.default_rng(0)
MASKS = {
    "usual": [[True, True, True, False], [True, False, False, False], [True] * 4],
    "an_empty_row": [[False] * 4, [True, True, False, False], [False] * 4],
    "holes": [[False, True, False, True], [True, False, True, False], [True] * 4],
    "all_padding": [[False] * 4] * 3,
    "no_padding": [[True] * 4] * 3,
    "no_rows": np.zeros((0, 4), bool),
}
CASES = pytest.mark.parametrize("mask", [np.array(mask) for mask in MASKS.values()], ids=list(MASKS))
REMOVE = pytest.mark.parametrize("remove", [True, False], ids=["removed", "kept"])


def values_for(mask):
    return RANDOM.normal(size=(*mask.shape, 2)).astype(np.float32)


@CASES
def test_removed_rows_are_the_real_steps_in_order(mask):
    steps, values = RealSteps(tf.constant(mask)), values_for(mask)
    np.testing.assert_array_equal(steps.pack(tf.constant(values)), values[mask])
    ids = np.arange(mask.size, dtype=np.int32).reshape(mask.shape)
    np.testing.assert_array_equal(steps.pack(tf.constant(ids)), ids[mask])


@CASES
def test_kept_rows_are_all_steps(mask):
    steps, values = RealSteps(tf.constant(mask), remove=False), values_for(mask)
    np.testing.assert_array_equal(steps.pack(tf.constant(values)), values.reshape(-1, 2))
    ids = np.arange(mask.size, dtype=np.int32).reshape(mask.shape)
    np.testing.assert_array_equal(steps.pack(tf.constant(ids)), ids.reshape(-1))


@REMOVE
@CASES
def test_back_again_real_steps_are_the_same_and_padding_is_0(mask, remove):
    steps, values = RealSteps(tf.constant(mask), remove), values_for(mask)
    np.testing.assert_array_equal(steps.unpack(steps.pack(tf.constant(values))), values * mask[..., None])


@REMOVE
@CASES
def test_gradients_reach_real_steps_and_no_padding(mask, remove):
    """loss = sum(weights * unpack(f(pack(values)))), f(x) = x^2: 2 * weights * values on real steps, else 0."""
    values, weights = tf.constant(values_for(mask)), values_for(mask)
    with tf.GradientTape() as tape:
        tape.watch(values)
        steps = RealSteps(tf.constant(mask), remove)
        loss = tf.reduce_sum(tf.constant(weights) * steps.unpack(tf.square(steps.pack(values))))
    expected = 2 * weights * values.numpy() * mask[..., None]
    np.testing.assert_allclose(tape.gradient(loss, values), expected, atol=1e-6)


def test_second_derivatives_are_right_too():
    values = tf.constant(values_for(np.array(MASKS["usual"])))
    with tf.GradientTape() as outer:
        outer.watch(values)
        with tf.GradientTape() as inner:
            inner.watch(values)
            steps = RealSteps(tf.constant(MASKS["usual"]))
            loss = tf.reduce_sum(steps.unpack(steps.pack(values) ** 3))
        first = inner.gradient(loss, values)
    second = outer.gradient(first, values)
    np.testing.assert_allclose(second, 6 * values.numpy() * np.array(MASKS["usual"])[..., None], atol=1e-5)


def test_a_graph_of_unknown_sizes_does_the_same():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 2]), tf.TensorSpec([None, None], tf.bool)])
    def doubled(values, mask):
        steps = RealSteps(mask)
        rows = steps.pack(values)
        padded = steps.unpack(2 * rows)
        return padded, tf.gradients(padded, values)[0]

    for mask in map(np.array, MASKS.values()):
        values = values_for(mask)
        padded, gradient = doubled(values, mask)
        np.testing.assert_array_equal(padded, 2 * values * mask[..., None])
        np.testing.assert_array_equal(gradient, 2 * np.ones_like(values) * mask[..., None])
