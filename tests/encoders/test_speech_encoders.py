"""The encoders of speech, from their papers' formulas, for one source without padding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.encoders import ConformerEncoder, PyramidalEncoder, SubsamplingEncoder
from tfseq2seq.layers.attention import LocationAttention
from tfseq2seq.layers.conformer import ConvolutionModule
from tfseq2seq.layers.convolution import depthwise_convolution
from tfseq2seq.structures import source_mask

RANDOM = np.random.default_rng(0)
LENGTHS = (7, 4, 1)
MASK = np.arange(7) < np.array(LENGTHS)[:, None]
SOURCE = (RANDOM.normal(size=(3, 7, 6)) * MASK[..., None]).astype(np.float32)  # [B, S, X]


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(3)


def read(encoder, mask=MASK):
    return encoder(tf.constant(SOURCE), mask=tf.constant(mask))


def prepared(encoder):
    """Built, every weight drawn."""
    read(encoder)
    twins.randomize(encoder)
    return encoder


def of_each_row(output):
    """The real steps of the memory, row by row; padding is 0."""
    memory, mask = output.memory.numpy(), output.mask.numpy()
    np.testing.assert_array_equal(memory[~mask], 0.0)
    return [row[real] for row, real in zip(memory, mask, strict=True)]


def run_lstm(layer, inputs):
    state, outputs = (np.zeros(layer.units),) * 2, []
    for step in inputs:
        state = twins.lstm_step(layer, step, state)
        outputs.append(state[0])
    return np.array(outputs), state


@pytest.mark.parametrize("normalization", ["none", "layer"])
def test_each_pyramidal_layer_reads_two_steps_as_one(normalization):
    encoder = prepared(PyramidalEncoder(layers=3, units=4, normalization=normalization))
    output = read(encoder)
    for row, memory in enumerate(of_each_row(output)):
        hidden = SOURCE[row, : LENGTHS[row]].astype(float)
        for i in range(3):
            if i:
                hidden = np.concatenate([hidden, np.zeros((len(hidden) % 2, hidden.shape[1]))])
                hidden = np.array([np.concatenate(pair) for pair in zip(hidden[::2], hidden[1::2])])
            (forward, last), (backward, first) = (
                run_lstm(layer, steps) for layer, steps in (
                    (encoder.forward[i], hidden), (encoder.backward[i], hidden[::-1])))
            for part in (0, 1):
                np.testing.assert_allclose(
                    output.final_state[i][part][row], np.concatenate([last[part], first[part]]), atol=1e-5)
            hidden = np.concatenate([forward, backward[::-1]], 1)
            if normalization == "layer":
                hidden = twins.normalize(encoder.stack.normalize[i], hidden)
        assert len(memory) == {7: 2, 4: 1, 1: 1}[LENGTHS[row]]
        np.testing.assert_allclose(memory, hidden, atol=1e-5)


def test_subsampling_convolves_every_other_step():
    encoder = prepared(SubsamplingEncoder(units=8))
    for row, memory in enumerate(of_each_row(read(encoder))):
        hidden = SOURCE[row, : LENGTHS[row]].astype(float)
        for convolution in encoder.convolutions:
            padded = np.pad(hidden, ((1, 2), (0, 0)))
            hidden = np.maximum(0, np.array([
                twins.linear(convolution.linear, np.concatenate(padded[t : t + 3])) for t in range(0, len(hidden), 2)]))
        assert len(memory) == {7: 2, 4: 1, 1: 1}[LENGTHS[row]]
        np.testing.assert_allclose(memory, hidden, atol=1e-5)


def convolution_module(module, x):
    linear, gate = np.split(twins.linear(module.enter, x), 2, -1)
    gated, kernel = linear * twins.sigmoid(gate), twins.array(module.kernel)
    reach = len(kernel) // 2
    padded = np.pad(gated, ((reach, reach), (0, 0)))
    hidden = twins.array(module.bias) + np.array([(padded[t : t + len(kernel)] * kernel).sum(0) for t in range(len(x))])
    normalized = twins.normalize(module.normalize, hidden)
    return twins.linear(module.leave, normalized * twins.sigmoid(normalized))


def conformer(stack, x):
    """Gulati et al., 2020, the equations of section 2.4."""
    settings, offsets = stack.settings, np.arange(len(x))[None, :] - np.arange(len(x))[:, None]
    bias = 0.0
    if stack.relative is not None:
        buckets = np.vectorize(lambda offset: twins.bucket(offset, True))(offsets)
        bias = twins.array(stack.relative.table)[buckets].transpose(2, 0, 1)
    if stack.enter is not None:
        x = twins.linear(stack.enter, x)
    if settings["positions"] == "sinusoidal":
        x = x + twins.sinusoids(len(x), settings["units"])
    for layer in stack.blocks:
        def feed(part, residual, x):
            return twins.feed_forward(part, twins.normalize(residual.normalize, x), "swish", False)

        x = x + 0.5 * feed(layer.first_feed_forward, layer.first_residual, x)
        hidden = twins.normalize(layer.self_residual.normalize, x)
        parts = np.split(twins.linear(layer.self_attention.query_key_value, hidden), 3, -1)
        mixed, _ = twins.attention(*parts, settings["heads"], bias, settings["positions"] == "rotary")
        x = x + twins.linear(layer.self_attention.output_projection, mixed)
        x = x + convolution_module(layer.convolution, twins.normalize(layer.convolution_residual.normalize, x))
        x = x + 0.5 * feed(layer.last_feed_forward, layer.last_residual, x)
        x = twins.normalize(layer.normalize, x)
    return x


@pytest.mark.parametrize("positions", ["rotary", "relative", "sinusoidal"])
def test_the_conformer_is_its_papers_equations(positions):
    encoder = prepared(ConformerEncoder(
        layers=2, units=8, heads=2, feed_forward_units=12, kernel_size=3, positions=positions))
    for row, memory in enumerate(of_each_row(read(encoder))):
        expected = conformer(encoder.stack, SOURCE[row, : LENGTHS[row]].astype(float))
        np.testing.assert_allclose(memory, expected, atol=1e-4)


def test_the_depthwise_convolution_and_its_gradient_are_those_of_tensorflow():
    inputs, upstream = (tf.constant(RANDOM.normal(size=(2, 9, 4)), tf.float32) for _ in range(2))
    kernel = tf.constant(RANDOM.normal(size=(5, 4)), tf.float32)

    def reference(inputs, kernel):
        return tf.nn.depthwise_conv2d(
            inputs[:, :, None], kernel[:, None, :, None], strides=[1, 1, 1, 1], padding="SAME")[:, :, 0]

    results = []
    for function in (depthwise_convolution, reference):
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel])
            output = function(inputs, kernel)
        results.append([output, *tape.gradient(output, [inputs, kernel], upstream)])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_location_attention_is_its_papers_equations():
    """Two queries of each source, their last weights beside them."""
    attention = LocationAttention(5, filters=3, width=3)
    query, previous = RANDOM.normal(size=(3, 2, 4)), RANDOM.dirichlet(np.ones(7), size=(3, 2)) * MASK[:, None]
    arguments = [tf.constant(each, tf.float32) for each in (query, SOURCE)]
    keys, values = attention.project(arguments[1])
    options = {"mask": tf.constant(MASK), "attended": tf.constant(previous, tf.float32)}
    attention(arguments[0], keys, values, **options)
    twins.randomize(attention)
    keys, values = attention.project(arguments[1])
    context, weights = attention(arguments[0], keys, values, **options)
    kernel = twins.array(attention.convolution)[:, 0]  # [width, filters]
    for row, t in np.ndindex(3, 2):
        steps = SOURCE[row, : LENGTHS[row]].astype(float)
        padded = np.pad(previous[row, t], 1)
        scores = []
        for s, step in enumerate(steps):
            location = padded[s : s + 3] @ kernel
            hidden = (
                query[row, t] @ twins.array(attention.query_projection.kernel)
                + step @ twins.array(attention.key_projection.kernel)
                + location @ twins.array(attention.location_projection.kernel)
                + twins.array(attention.location_projection.bias))
            scores.append(np.tanh(hidden) @ twins.array(attention.score_vector))
        expected = twins.softmax(np.array(scores))
        np.testing.assert_allclose(weights[row, t, : len(steps)], expected, atol=1e-5)
        np.testing.assert_allclose(context[row, t], expected @ steps, atol=1e-5)


def test_ids_and_features_say_what_is_real():
    ids = tf.constant([[4, 3, 0], [3, 0, 0]])
    np.testing.assert_array_equal(source_mask(ids), [[True, True, False], [True, False, False]])
    features = tf.constant([[[0.0, 1.0], [0.0, 0.0]]])
    np.testing.assert_array_equal(source_mask(features), [[True, False]])


@pytest.mark.parametrize(("make", "text"), [
    (lambda: ConvolutionModule(8, 4), "odd kernel_size"), (lambda: LocationAttention(4, width=2), "odd width"),
    (lambda: ConformerEncoder(positions="learned"), "positions to be one of sinusoidal, relative, rotary, none")])
def test_what_does_not_fit_is_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
