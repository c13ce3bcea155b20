"""What is particular to each family of encoders; what all must keep is in tests/contracts."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.encoders import (
    ConvolutionalEncoder,
    ParallelEncoder,
    RecurrentEncoder,
    SequenceEncoder,
    TransformerEncoder,
)
from tfseq2seq.structures import EOS, PAD

RANDOM = np.random.default_rng(0)
MASK = np.array([[True] * 5, [True, True, True, False, False], [False] * 5])
SOURCE = (RANDOM.normal(size=(3, 5, 6)) * MASK[..., None]).astype(np.float32)  # [B, S, X]


def read(encoder, source=SOURCE, mask=MASK, training=False):
    return encoder(tf.constant(source), mask=tf.constant(mask), training=training)


def prepared(encoder):
    """Built, every weight drawn."""
    read(encoder)
    twins.randomize(encoder)
    return encoder


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(3)


# Recurrent


@pytest.mark.parametrize("residual, normalization", [(True, "none"), (True, "layer"), (False, "rms")])
def test_recurrent_layers_are_normalized_and_joined(residual, normalization):
    """x[i + 1] = x[i] + normalize([forward(x[i]); backward(x[i])]), where both are equally wide."""
    encoder = prepared(RecurrentEncoder(units=4, layers=2, residual=residual, normalization=normalization))
    memory = read(encoder).memory.numpy()
    for row in (0, 1):
        hidden = SOURCE[row, MASK[row]].astype(float)  # [T, 6]; the layers are 8 wide
        for i in range(2):
            output = np.concatenate(
                [run_lstm(encoder.forward[i], hidden), run_lstm(encoder.backward[i], hidden[::-1])[::-1]], -1)
            if normalization != "none":
                output = twins.normalize(encoder.stack.normalize[i], output)
            hidden = hidden + output if residual and i else output
        np.testing.assert_allclose(memory[row, : len(hidden)], hidden, atol=1e-5)
    np.testing.assert_array_equal(memory[~MASK], 0.0)


def run_lstm(layer, inputs, last=False):
    """Over one sentence [T, D]: outputs [T, units], or the last h and c."""
    state, outputs = (np.zeros(layer.units),) * 2, []
    for step in inputs:
        state = twins.lstm_step(layer, step, state)
        outputs.append(state[0])
    return state if last else np.array(outputs)


def test_one_linear_layer_merges_both_directions_of_h_and_of_c():
    encoder = prepared(RecurrentEncoder(units=4, layers=2, merge_states=True))
    output = read(encoder)
    for row in (0, 1):
        hidden = SOURCE[row, MASK[row]].astype(float)
        for i in range(2):
            forward = run_lstm(encoder.forward[i], hidden, last=True)
            backward = run_lstm(encoder.backward[i], hidden[::-1], last=True)
            for part in (0, 1):
                expected = twins.linear(encoder.merge, np.concatenate([forward[part], backward[part]]))
                np.testing.assert_allclose(output.final_state[i][part][row], expected, atol=1e-5)
            hidden = np.concatenate(
                [run_lstm(encoder.forward[i], hidden), run_lstm(encoder.backward[i], hidden[::-1])[::-1]], -1)
    np.testing.assert_array_equal(output.context, output.final_state[-1][0])
    assert [weight.shape for weight in encoder.merge.weights] == [(8, 4), (4,)]
    assert len(encoder.weights) == 2 * 2 * 3 + 2


def test_directions_apart_are_two_stacks_whose_states_alternate():
    encoder = prepared(RecurrentEncoder(
        units=6, layers=2, directions="apart", last_states="alternating", residual=True, residual_layers=1))
    output = read(encoder)
    assert [[part.shape[-1] for part in state] for state in output.final_state] == [[6, 6]] * 4
    for row in (0, 1):
        joined = []
        for way, cells in enumerate((encoder.forward, encoder.backward)):
            hidden = SOURCE[row, MASK[row]].astype(float)[:: 1 - 2 * way]
            for i, cell in enumerate(cells):
                last = run_lstm(cell, hidden, last=True)
                for part in (0, 1):
                    np.testing.assert_allclose(output.final_state[2 * i + way][part][row], last[part], atol=1e-5)
                # Both layers are as wide as their inputs; the lower one is joined to nothing.
                hidden = run_lstm(cell, hidden) + (hidden if i else 0)
            joined.append(hidden[:: 1 - 2 * way])
        np.testing.assert_allclose(output.memory[row, : len(hidden)], np.concatenate(joined, -1), atol=1e-5)
    np.testing.assert_array_equal(output.context, output.final_state[-1][0])


def test_the_lowest_layer_alone_may_read_both_ways():
    encoder = prepared(RecurrentEncoder(units=4, layers=3, bidirectional_layers=1, last_states="backward"))
    output, hidden = read(encoder), SOURCE[0].astype(float)
    assert (encoder.output_units, len(encoder.backward)) == (4, 1)
    for i, cell in enumerate([encoder.backward[0], *encoder.forward[1:]]):
        seen = hidden[::-1] if i == 0 else hidden
        for part, expected in zip(output.final_state[i], run_lstm(cell, seen, last=True), strict=True):
            np.testing.assert_allclose(part[0], expected, atol=1e-5)
        hidden = run_lstm(encoder.forward[i], hidden)
        if i == 0:
            hidden = np.concatenate([hidden, run_lstm(cell, seen)[::-1]], -1)
    np.testing.assert_allclose(output.memory[0], hidden, atol=1e-5)


@pytest.mark.parametrize("cell, parts", [("lstm", 2), ("gru", 1)])
@pytest.mark.parametrize("bidirectional, width", [(True, 8), (False, 4)])
def test_recurrent_last_states_are_one_tuple_a_layer(cell, parts, bidirectional, width):
    output = read(RecurrentEncoder(cell=cell, units=4, layers=2, bidirectional=bidirectional))
    assert [[part.shape[-1] for part in state] for state in output.final_state] == [[width] * parts] * 2
    np.testing.assert_array_equal(output.context, output.final_state[-1][0])
    if not bidirectional:  # the last state is the output of the last real step
        np.testing.assert_allclose(output.context[:2], [output.memory[0, 4], output.memory[1, 2]], atol=1e-6)


@pytest.mark.parametrize("per_sequence", [False, True])
def test_recurrent_dropout_masks_the_memory_in_training(per_sequence):
    encoder = RecurrentEncoder(units=32, dropout=0.5, dropout_per_sequence=per_sequence)
    kept = read(encoder, training=True).memory.numpy() != 0
    same = all((kept[0, 0] == kept[0, t]).all() for t in range(5))
    assert same == per_sequence and 0 < kept[0].mean() < 1
    np.testing.assert_array_equal(read(encoder).memory.numpy() != 0, np.broadcast_to(MASK[..., None], kept.shape))


# Fixed context


@pytest.mark.parametrize("pooling", ["mean", "max", "attentive"])
@pytest.mark.parametrize("make", [
    lambda pooling: RecurrentEncoder(units=4, pooling=pooling),
    lambda pooling: ConvolutionalEncoder(layers=1, units=8, pooling=pooling),
    lambda pooling: TransformerEncoder(layers=1, units=8, heads=2, feed_forward_units=8, pooling=pooling)],
    ids=["recurrent", "convolutional", "transformer"])
def test_the_fixed_context_is_the_pooled_memory(make, pooling):
    encoder = prepared(make(pooling))
    output = read(encoder)
    for row in (0, 1):
        memory = output.memory.numpy()[row, MASK[row]]
        expected = memory.max(0) if pooling == "max" else memory.mean(0)
        if pooling == "attentive":
            pool = encoder.pool
            hidden = np.tanh(memory @ pool.projection.numpy() + pool.bias.numpy())
            expected = twins.softmax(hidden @ pool.score_vector.numpy()[:, 0]) @ memory
        np.testing.assert_allclose(output.context[row], expected, atol=1e-5)
    np.testing.assert_array_equal(output.context[2], np.zeros(8))


# Convolutional


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_convolutional_is_its_formula_on_each_sentence_alone(kernel_size):
    encoder = prepared(ConvolutionalEncoder(layers=2, units=8, kernel_size=kernel_size, max_positions=5))
    output = read(encoder)
    for row in (0, 1):
        source = SOURCE[row, MASK[row]]
        entered = twins.linear(encoder.enter, source) + twins.array(encoder.positions.table)[: len(source)]
        hidden = entered
        for convolution in encoder.convolutions:
            hidden = twins.gated_convolution(convolution, hidden)
        expected = (twins.linear(encoder.leave, hidden) + entered) * np.sqrt(0.5)
        np.testing.assert_allclose(output.memory[row, : len(source)], expected, atol=1e-5)
    assert output.final_state == ()


def test_convolutional_refuses_a_source_longer_than_its_positions():
    with tf.device("CPU"), pytest.raises(tf.errors.InvalidArgumentError):
        read(ConvolutionalEncoder(layers=1, units=8, max_positions=4))


# Transformer

TRANSFORMERS = [
    {"layers": 2, "norm": "pre", "positions": "sinusoidal"},
    {"layers": 1, "norm": "post", "positions": "learned", "activation": "gelu", "max_positions": 5},
    {"layers": 2, "norm": "post", "normalization": "rms", "positions": "relative", "gated": True},
    {"layers": 2, "norm": "pre", "normalization": "rms", "positions": "rotary", "activation": "swish", "gated": True},
    {"layers": 1, "norm": "pre", "positions": "none", "units": 6},
]
TRANSFORMER_CASES = pytest.mark.parametrize(
    "options", TRANSFORMERS, ids=[f"{case['norm']}-{case['positions']}" for case in TRANSFORMERS])


def transformer(**options):
    return TransformerEncoder(**{"units": 8, "heads": 2, "feed_forward_units": 12, **options})


@TRANSFORMER_CASES
def test_transformer_is_its_formula_on_each_sentence_alone(options):
    encoder = prepared(transformer(**options))
    output = read(encoder)
    for row in (0, 1):
        expected, _ = twins.transformer(encoder.stack, SOURCE[row, MASK[row]].astype(float))
        np.testing.assert_allclose(output.memory[row, : len(expected)], expected, atol=1e-5)
    np.testing.assert_array_equal(output.memory.numpy()[~MASK], 0.0)
    assert output.final_state == ()


@TRANSFORMER_CASES
def test_transformer_with_padding_kept_gives_the_same_values_and_gradients(options):
    encoder, direction = prepared(transformer(**options)), None
    results = []
    for remove in (True, False):
        encoder.stack.remove_padding = remove
        source = tf.constant(SOURCE)
        with tf.GradientTape() as tape:
            tape.watch(source)
            output = encoder(source, mask=tf.constant(MASK))
            if direction is None:
                direction = tf.constant(RANDOM.normal(size=output.memory.shape), tf.float32)
            loss = tf.reduce_sum(output.memory * direction) + tf.reduce_sum(output.context)
        gradients = tape.gradient(loss, [source, *[weight.value for weight in encoder.stack.trainable_weights]])
        results.append([output.memory, *map(tf.convert_to_tensor, gradients)])
    for removed, kept in zip(*results, strict=True):
        np.testing.assert_allclose(removed, kept, atol=1e-5 * max(1, np.abs(kept).max()))
    np.testing.assert_array_equal(results[0][1].numpy()[~MASK], 0.0)  # no gradient on padding


# Composed


def test_sequence_is_its_parts_one_after_the_other():
    parts = [ConvolutionalEncoder(layers=1, units=8), RecurrentEncoder(units=4), transformer(layers=1, pooling="max")]
    encoder = prepared(SequenceEncoder(parts))
    output = read(encoder)
    first = read(parts[0])
    second = read(parts[1], first.memory)
    third = read(parts[2], second.memory)
    np.testing.assert_array_equal(output.memory, third.memory)
    np.testing.assert_array_equal(output.context, third.context)
    np.testing.assert_array_equal(output.mask, MASK)
    assert encoder.output_units == 8 and output.final_state == ()


def test_sequence_leaves_the_last_encoders_states():
    parts = [ConvolutionalEncoder(layers=1, units=8), RecurrentEncoder(units=4)]
    output = read(SequenceEncoder(parts))
    for part, expected in zip(output.final_state[0], read(parts[1], read(parts[0]).memory).final_state[0], strict=True):
        np.testing.assert_array_equal(part, expected)


TABLE = RANDOM.normal(size=(10, 6)).astype(np.float32)
# Two sources a row, each ended by EOS: both there; the second missing; the first empty; three, one too many; nothing.
IDS = np.array([
    [4, 5, EOS, 6, 7, 8, EOS, PAD],
    [4, 5, 6, 7, EOS, PAD, PAD, PAD],
    [EOS, 8, 9, EOS, PAD, PAD, PAD, PAD],
    [4, EOS, 5, EOS, 6, 7, EOS, PAD],
    [PAD] * 8], np.int32)
PARTS = [
    [[4, 5, EOS], [6, 7, 8, EOS]],
    [[4, 5, 6, 7, EOS], []],
    [[EOS], [8, 9, EOS]],
    [[4, EOS], [5, EOS]],
    [[], []]]


def embed(ids):
    return tf.gather(TABLE, ids)


def make_parallel():
    parts = [RecurrentEncoder(units=4), transformer(layers=1)]
    encoder = ParallelEncoder(parts)
    encoder.read(tf.constant(IDS), embed)
    twins.randomize(encoder)
    return encoder, parts


def test_parallel_gives_each_encoder_its_own_source_alone():
    encoder, parts = make_parallel()
    output = encoder.read(tf.constant(IDS), embed)
    widths = [max(len(row[i]) for row in PARTS) for i in range(2)]
    assert output.memory.shape == (5, sum(widths), 8) and encoder.output_units == 8
    start = 0
    for i, part in enumerate(parts):
        for row, sources in enumerate(PARTS):
            memory, mask = (x[row, start:start + widths[i]].numpy() for x in (output.memory, output.mask))
            np.testing.assert_array_equal(mask, np.arange(widths[i]) < len(sources[i]))
            np.testing.assert_array_equal(memory[~mask], 0.0)
            context = output.context[row, 8 * i:8 * (i + 1)]
            if sources[i]:
                alone = part.read(tf.constant([sources[i]]), embed)
                np.testing.assert_allclose(memory[mask], alone.memory[0], atol=1e-5)
                np.testing.assert_allclose(context, alone.context[0], atol=1e-5)
            else:
                np.testing.assert_array_equal(context, np.zeros(8))
        start += widths[i]


def test_parallel_leaves_the_states_and_contexts_of_all_encoders():
    parts = [RecurrentEncoder(units=4, layers=2), RecurrentEncoder(units=8, cell="gru", bidirectional=False)]
    output = ParallelEncoder(parts).read(tf.constant(IDS), embed)
    assert [[part.shape[-1] for part in state] for state in output.final_state] == [[8, 8], [8, 8], [8]]
    assert output.context.shape == (5, 16)
    alone = parts[1].read(tf.constant([[6, 7, 8, EOS]]), embed)
    np.testing.assert_allclose(output.final_state[2][0][0], alone.final_state[0][0][0], atol=1e-5)


def test_parallel_with_a_source_that_no_row_has_gives_no_nan():
    parts = [ConvolutionalEncoder(layers=1, units=8), RecurrentEncoder(units=4), transformer(layers=1)]
    encoder = ParallelEncoder(parts)
    ids = tf.constant([[4, 5, EOS], [6, EOS, PAD]])  # the second and third source are nowhere
    with tf.GradientTape() as tape:
        output = encoder.read(ids, embed, training=True)
        loss = tf.reduce_sum(output.memory) + tf.reduce_sum(output.context)
    assert np.isfinite(output.memory).all() and np.isfinite(output.context).all()
    np.testing.assert_array_equal(output.mask, [[True, True, True, False, False], [True, True, False, False, False]])
    gradients = tape.gradient(loss, encoder.trainable_weights)
    assert all(np.isfinite(tf.convert_to_tensor(gradient)).all() for gradient in gradients if gradient is not None)


# All


ENCODERS = [
    lambda **options: RecurrentEncoder(
        units=4, layers=2, residual=True, normalization="layer", merge_states=True, pooling="attentive", **options),
    lambda **options: ConvolutionalEncoder(layers=2, units=8, pooling="attentive", **options),
    lambda **options: transformer(layers=2, positions="relative", pooling="attentive", **options),
    lambda **options: transformer(
        layers=1, norm="post", normalization="rms", positions="rotary", gated=True, pooling="max", **options)]
EVERY = pytest.mark.parametrize(
    "make", ENCODERS, ids=["recurrent", "convolutional", "transformer-pre", "transformer-post"])


@EVERY
def test_dropout_changes_training_alone(make):
    dropped = make(dropout=0.5)
    still, again, trained = read(dropped), read(dropped), read(dropped, training=True)
    np.testing.assert_array_equal(still.memory, again.memory)
    assert np.any(still.memory.numpy() != trained.memory.numpy())
    np.testing.assert_array_equal(trained.memory.numpy()[~MASK], 0.0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@EVERY
def test_half_precision_is_close(make, policy):
    exact, encoder = make(), make(dtype=policy)
    read(exact), read(encoder)
    encoder.set_weights(exact.get_weights())
    expected, output = read(exact), read(encoder)
    assert output.memory.dtype == output.context.dtype == encoder.compute_dtype
    tolerance = 0.02 if policy == "mixed_float16" else 0.1
    np.testing.assert_allclose(tf.cast(output.memory, tf.float32), expected.memory, atol=tolerance)
    np.testing.assert_allclose(tf.cast(output.context, tf.float32), expected.context, atol=tolerance)
