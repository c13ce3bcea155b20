"""LSTM and GRU against Keras, against the formulas in NumPy and against differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.layers import recurrent_kernels
from tfseq2seq.layers.recurrent import CELLS, GRU, LSTM

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(3, 5, 4)).astype(np.float32)  # [B, T, D]
MASK = np.array([[True] * 5, [True, True, False, False, False], [True] * 4 + [False]])
UNITS = 6
KERAS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


def make(kind, **options):
    layer = CELLS[kind](UNITS, **options)
    layer.build(INPUTS.shape)
    layer.bias.assign(RANDOM.normal(size=layer.bias.shape))  # zeros would hide a bias in the wrong place
    return layer


def initial_state(kind):
    return tuple(
        tf.constant(RANDOM.normal(size=(3, UNITS)), tf.float32) for _ in range(CELLS[kind].num_states))


@pytest.mark.parametrize("rows", [512, 6], ids=["one_block", "blocks_of_2_steps"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_outputs_and_gradients_equal_keras(kind, reverse, masked, rows, monkeypatch):
    monkeypatch.setattr(recurrent_kernels, "ROWS_PER_WEIGHT_GRADIENT", rows)
    layer, state = make(kind, reverse=reverse), initial_state(kind)
    twin = KERAS[kind](
        UNITS, return_sequences=True, return_state=True, go_backwards=reverse, zero_output_for_mask=True)
    twin.build(INPUTS.shape)
    twin.set_weights(layer.get_weights())
    inputs, mask = tf.constant(INPUTS), tf.constant(MASK) if masked else None
    weights = tf.constant(RANDOM.normal(size=(3, 5, UNITS)), tf.float32)

    def loss(outputs, final):
        return tf.reduce_sum(outputs * weights) + sum(tf.reduce_sum(tf.sin(part)) for part in final)

    with tf.GradientTape(persistent=True) as tape:
        tape.watch([inputs, *state])
        outputs, final = layer(inputs, mask, initial_state=state)
        ours = loss(outputs, final)
        expected, *expected_final = twin(inputs, mask=mask, initial_state=list(state))
        expected = tf.reverse(expected, [1]) if reverse else expected
        theirs = loss(expected, expected_final)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    for part, expected_part in zip(final, expected_final, strict=True):
        np.testing.assert_allclose(part, expected_part, atol=1e-5)
    sources = [inputs, *state]
    for one, two in zip(
        tape.gradient(ours, [*sources, *layer.trainable_variables]),
        tape.gradient(theirs, [*sources, *twin.trainable_variables]), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_lstm_is_the_papers_formula():
    layer = make("lstm")
    kernel, recurrent, bias = layer.get_weights()
    h = c = np.zeros((3, UNITS))
    for t in range(5):
        i, f, g, o = np.split(INPUTS[:, t] @ kernel + h @ recurrent + bias, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    outputs, (final_h, final_c) = layer(tf.constant(INPUTS))
    np.testing.assert_allclose(outputs[:, -1], h, atol=1e-5)
    np.testing.assert_allclose(final_h, h, atol=1e-5)
    np.testing.assert_allclose(final_c, c, atol=1e-5)


def test_gru_is_the_papers_formula():
    layer = make("gru")
    kernel, recurrent, (input_bias, recurrent_bias) = layer.get_weights()
    h = np.zeros((3, UNITS))
    for t in range(5):
        x = np.split(INPUTS[:, t] @ kernel + input_bias, 3, -1)
        a = np.split(h @ recurrent + recurrent_bias, 3, -1)
        z, r = sigmoid(x[0] + a[0]), sigmoid(x[1] + a[1])
        h = z * h + (1 - z) * np.tanh(x[2] + r * a[2])
    outputs, (final,) = layer(tf.constant(INPUTS))
    np.testing.assert_allclose(outputs[:, -1], h, atol=1e-5)
    np.testing.assert_allclose(final, h, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_any_pattern_of_padding_reads_the_real_steps_alone(kind, reverse):
    layer, state = make(kind, reverse=reverse), initial_state(kind)
    mask = np.array([[True, False, True, False, True], [False, False, True, True, False], [False] * 5])
    outputs, final = layer(tf.constant(INPUTS), tf.constant(mask), initial_state=state)
    np.testing.assert_array_equal(outputs.numpy()[~mask], 0.0)
    for row in (0, 1):
        first = tuple(part[row:row + 1] for part in state)
        alone, alone_final = layer(tf.constant(INPUTS[row, mask[row]][None]), initial_state=first)
        np.testing.assert_allclose(outputs.numpy()[row, mask[row]], alone[0], atol=1e-6)
        for part, expected in zip(final, alone_final, strict=True):
            np.testing.assert_allclose(part[row], expected[0], atol=1e-6)
    for part, first in zip(final, state, strict=True):
        np.testing.assert_array_equal(part[2], first[2])  # carried over bit for bit


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradient_equals_differences_in_double_precision(kind):
    layer = make(kind, dtype="float64")
    inputs, mask = tf.constant(INPUTS, tf.float64), tf.constant(MASK)
    direction = tf.constant(RANDOM.normal(size=INPUTS.shape))

    def loss(inputs):
        outputs, final = layer(inputs, mask)
        return tf.reduce_sum(outputs**2) + tf.reduce_sum(final[-1] ** 3)

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = loss(inputs)
    slope = float(tf.reduce_sum(tape.gradient(value, inputs) * direction))
    step = 1e-5
    difference = float(loss(inputs + step * direction) - loss(inputs - step * direction)) / (2 * step)
    assert slope == pytest.approx(difference, rel=1e-7)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_call_equals_a_loop_of_step(kind):
    layer, state = make(kind), initial_state(kind)
    outputs, final = layer(tf.constant(INPUTS), initial_state=state)
    for t in range(5):
        output, state = layer.step(tf.constant(INPUTS[:, t]), state)
        np.testing.assert_allclose(output, outputs[:, t], atol=1e-6)
    for part, expected in zip(state, final, strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_padding_is_never_read(kind, reverse):
    layer = make(kind, reverse=reverse)
    outputs, final = layer(tf.constant(INPUTS), tf.constant(MASK))
    spoiled_inputs = tf.constant(np.where(MASK[..., None], INPUTS, 1e3), tf.float32)
    spoiled, spoiled_final = layer(spoiled_inputs, tf.constant(MASK))
    np.testing.assert_array_equal(outputs, spoiled)
    np.testing.assert_array_equal(final[0], spoiled_final[0])
    np.testing.assert_array_equal(outputs[1, 2:], 0.0)
    alone, alone_final = layer(tf.constant(INPUTS[1:2, :2]))
    np.testing.assert_allclose(outputs[1, :2], alone[0], atol=1e-6)
    np.testing.assert_allclose(final[0][1], alone_final[0][0], atol=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_row_of_padding_gives_zeros_and_finite_gradients(kind):
    layer, inputs = make(kind), tf.constant(INPUTS)
    with tf.GradientTape() as tape:
        outputs, final = layer(inputs, tf.zeros([3, 5], tf.bool))
        value = tf.reduce_sum(outputs) + tf.reduce_sum(final[0])
    np.testing.assert_array_equal(outputs, 0.0)
    for gradient in tape.gradient(value, layer.trainable_variables):
        np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradients_do_not_see_padding_even_if_it_is_not_a_number(kind, reverse):
    layer, weights = make(kind, reverse=reverse), tf.constant(RANDOM.normal(size=(3, 5, UNITS)), tf.float32)

    def gradients(padding):
        inputs = tf.constant(np.where(MASK[..., None], INPUTS, padding), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, final = layer(inputs, tf.constant(MASK))
            value = tf.reduce_sum(outputs * weights) + tf.reduce_sum(final[0])
        return tape.gradient(value, [inputs, *layer.trainable_variables])

    clean, spoiled = gradients(0.0), gradients(np.nan)
    for one, two in zip(clean, spoiled, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(spoiled[0].numpy()[~MASK], 0.0)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_row_of_padding_hands_the_gradient_of_its_state_through(kind):
    layer, state = make(kind), initial_state(kind)
    with tf.GradientTape() as tape:
        tape.watch(state)
        _, final = layer(tf.constant(INPUTS), tf.zeros([3, 5], tf.bool), initial_state=state)
        value = tf.add_n([tf.reduce_sum(part**2) for part in final])
    for gradient, part in zip(tape.gradient(value, state), state, strict=True):
        np.testing.assert_allclose(gradient, 2 * part, rtol=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_float16_gradients_are_close(kind):
    exact, mixed = make(kind), make(kind, dtype="mixed_float16")
    mixed.set_weights(exact.get_weights())
    found = []
    for layer in (exact, mixed):
        with tf.GradientTape() as tape:
            outputs, _ = layer(tf.constant(INPUTS), tf.constant(MASK))
            value = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
        found.append(tape.gradient(value, layer.trainable_variables))
    for one, two in zip(*found, strict=True):
        assert two.dtype == tf.float32
        np.testing.assert_allclose(one, two, atol=0.05)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_mixed_precision_is_close(kind, precision):
    exact, mixed = make(kind), make(kind, dtype=precision)
    mixed.set_weights(exact.get_weights())
    outputs, _ = mixed(tf.constant(INPUTS), tf.constant(MASK))
    expected, _ = exact(tf.constant(INPUTS), tf.constant(MASK))
    assert outputs.dtype == mixed.compute_dtype
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, atol=0.05)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_one_trace_serves_any_shape_and_an_empty_batch(kind):
    layer = make(kind)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None], tf.bool)])
    def run(inputs, mask):
        return layer(inputs, mask)[0]

    np.testing.assert_allclose(run(INPUTS, MASK), layer(tf.constant(INPUTS), tf.constant(MASK))[0], atol=1e-6)
    assert run(INPUTS[:0], MASK[:0]).shape == (0, 5, UNITS)


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradients_are_the_same_eagerly_in_a_graph_and_under_xla(kind, compiled, monkeypatch):
    monkeypatch.setattr(recurrent_kernels, "ROWS_PER_WEIGHT_GRADIENT", 6)
    layer = make(kind)

    def gradients(inputs, mask):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, final = layer(inputs, mask)
            value = tf.reduce_sum(outputs**2) + tf.reduce_sum(final[-1])
        return tape.gradient(value, [inputs, *layer.trainable_variables])

    signature = [tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None], tf.bool)]
    traced = tf.function(gradients, input_signature=signature, jit_compile=compiled)
    inputs, mask = tf.constant(INPUTS), tf.constant(MASK)
    for one, two in zip(traced(inputs, mask), gradients(inputs, mask), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    if not compiled:
        for part in traced(inputs[:0], mask[:0])[1:]:  # an empty batch, as a replica may get
            np.testing.assert_array_equal(part, 0.0)


@pytest.mark.parametrize("layer", [LSTM(3, reverse=True), GRU(3, right_padded=False)])
def test_config_round_trip(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (type(again), again.units, again.reverse) == (type(layer), layer.units, layer.reverse)
    assert again.right_padded == layer.right_padded


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_saved_model_is_the_same_after_loading(kind, tmp_path):
    inputs = keras.Input([None, 4])
    outputs, _ = make(kind, reverse=True)(inputs)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(INPUTS), model(INPUTS))


def test_the_forget_gate_starts_open_as_in_keras():
    ours, theirs = LSTM(3), keras.layers.LSTM(3)
    ours.build((None, None, 2))
    theirs.build((None, None, 2))
    np.testing.assert_array_equal(ours.bias, theirs.get_weights()[2])


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, None)])
def test_inputs_without_steps_or_a_known_width_are_refused(shape):
    with pytest.raises(ValueError, match="GRU needs inputs of shape .batch, steps, width.* Received"):
        GRU(3).build(shape)


def test_units_below_one_are_refused():
    with pytest.raises(ValueError, match="LSTM needs units >= 1. Received: units=0"):
        LSTM(0)
