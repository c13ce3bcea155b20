"""What is particular to each family of decoders; what all must keep is in tests/contracts."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers import twins
from tfseq2seq.decoders import AttentionalDecoder, RecurrentDecoder, TransformerDecoder
from tfseq2seq.decoding import tile
from tfseq2seq.layers.attention import ATTENTIONS
from tfseq2seq.structures import EncoderOutput

RANDOM = np.random.default_rng(0)
UNITS = 4
MASK = np.array([[True] * 4, [True, True, False, False]])
MEMORY = (RANDOM.normal(size=(2, 4, UNITS)) * MASK[..., None]).astype(np.float32)  # [B, S, E]
CONTEXT = RANDOM.normal(size=(2, 3)).astype(np.float32)
FINAL = tuple(tf.constant(RANDOM.normal(size=(2, UNITS)), tf.float32) for _ in range(2))
ENCODED = EncoderOutput(tf.constant(MEMORY), tf.constant(MASK), (FINAL,), tf.constant(CONTEXT))
INPUTS = RANDOM.normal(size=(2, 5, 6)).astype(np.float32)  # [B, T, X]
TARGET_MASK = np.array([[True] * 5, [True, True, True, False, False]])


def write(decoder, inputs=INPUTS, mask=None, training=False, encoded=ENCODED):
    memory, state = decoder.start(encoded)
    return decoder(
        tf.constant(inputs), state, memory, mask=None if mask is None else tf.constant(mask), training=training)


def prepared(decoder):
    """Built, every weight drawn."""
    write(decoder)
    twins.randomize(decoder)
    return decoder


def first_states(decoder, row):
    """The state before the first step, by layer, of one source."""
    return [[part.numpy()[row] for part in parts] for parts in decoder.start(ENCODED)[1].recurrent]


def combine(layer, vector):
    output = vector @ twins.array(layer.kernel)
    return np.tanh(output if layer.bias is None else output + twins.array(layer.bias))


# Fixed context


@pytest.mark.parametrize("output_units", [None, 7])
def test_recurrent_reads_the_context_at_every_step_and_shows_it_to_the_output(output_units):
    """s[t] = LSTM([x[t]; c], s[t-1]), o[t] = [s[t]; x[t]; c], or tanh(W o[t] + b)."""
    decoder = prepared(RecurrentDecoder(units=UNITS, layers=2, output_units=output_units))
    outputs, weights = write(decoder)
    assert weights.shape == (2, 5, 0)
    for row in range(2):
        states = first_states(decoder, row)
        for t in range(5):
            hidden = np.concatenate([INPUTS[row, t], CONTEXT[row]])
            for i, cell in enumerate(decoder.cells):
                states[i] = twins.lstm_step(cell, hidden, states[i])
                hidden = states[i][0]
            expected = np.concatenate([hidden, INPUTS[row, t], CONTEXT[row]])
            if output_units:
                expected = combine(decoder.combine, expected)
            np.testing.assert_allclose(outputs[row, t], expected, atol=1e-5)


@pytest.mark.parametrize("residual, normalization", [(True, "layer"), (False, "rms")])
def test_recurrent_layers_are_normalized_and_joined(residual, normalization):
    decoder = prepared(RecurrentDecoder(units=UNITS, layers=2, residual=residual, normalization=normalization))
    outputs, _ = write(decoder)
    states = first_states(decoder, 0)
    for t in range(5):
        hidden = np.concatenate([INPUTS[0, t], CONTEXT[0]])  # 9 wide, the layers 4
        for i, cell in enumerate(decoder.cells):
            states[i] = twins.lstm_step(cell, hidden, states[i])
            output = twins.normalize(decoder.stack.normalize[i], states[i][0])
            hidden = hidden + output if residual and i else output
        np.testing.assert_allclose(outputs[0, t, :UNITS], hidden, atol=1e-5)


# Attention


@pytest.mark.parametrize("input_feeding", [False, True])
@pytest.mark.parametrize("output_units", [None, 7])
def test_attentional_is_the_papers_formula(input_feeding, output_units):
    """h[t] = LSTM([x[t]; a[t-1]], h[t-1]), a[t] = tanh(W_c [c[t]; h[t]]), c[t] = softmax(h[t] W m) m."""
    decoder = prepared(AttentionalDecoder(
        "general", input_feeding=input_feeding, units=UNITS, layers=2, output_units=output_units))
    outputs, weights = write(decoder)
    for row in range(2):
        memory, states = MEMORY[row, MASK[row]], first_states(decoder, row)
        keys = memory @ decoder.attention.key_projection.kernel.numpy()
        output = np.zeros(output_units or UNITS)
        for t in range(5):
            hidden = np.concatenate([INPUTS[row, t], output]) if input_feeding else INPUTS[row, t]
            for i, cell in enumerate(decoder.cells):
                states[i] = twins.lstm_step(cell, hidden, states[i])
                hidden = states[i][0]
            expected_weights = twins.softmax(keys @ hidden)
            output = combine(decoder.combine, np.concatenate([expected_weights @ memory, hidden]))
            np.testing.assert_allclose(outputs[row, t], output, atol=1e-5)
            np.testing.assert_allclose(weights[row, t][: len(memory)], expected_weights, atol=1e-5)
            np.testing.assert_array_equal(weights[row, t][len(memory):], 0.0)


@pytest.mark.parametrize("upper_context", ["previous", "current"])
def test_the_bottom_layer_attends_for_all_layers_above_it(upper_context):
    """h0 = LSTM([x; c[t-1]]), c[t] = attention(h0), hi = LSTM([h(i-1); c]) + h(i-1) at the top, which is shown."""
    decoder = prepared(AttentionalDecoder(
        "scaled_general", input_feeding=True, units=UNITS, layers=3, attending_layer="bottom",
        upper_context=upper_context, attentional_vector="context", output="state", residual=True, residual_layers=1))
    outputs, weights = write(decoder)
    memory, states = MEMORY[0], first_states(decoder, 0)
    keys = memory @ decoder.attention.key_projection.kernel.numpy() * decoder.attention.scale.numpy()
    context = np.zeros(UNITS)
    for t in range(5):
        states[0] = twins.lstm_step(decoder.cells[0], np.concatenate([INPUTS[0, t], context]), states[0])
        hidden, before = states[0][0], context
        expected_weights = twins.softmax(keys @ hidden)
        context = expected_weights @ memory
        for i in (1, 2):
            beside = before if upper_context == "previous" else context
            states[i] = twins.lstm_step(decoder.cells[i], np.concatenate([hidden, beside]), states[i])
            hidden = states[i][0] + (hidden if i == 2 else 0)
        np.testing.assert_allclose(outputs[0, t], hidden, atol=1e-5)
        np.testing.assert_allclose(weights[0, t], expected_weights, atol=1e-5)
    assert decoder.combine is None and decoder.output_units == UNITS


@pytest.mark.parametrize("output", ["attention", "state"])
def test_the_attentional_vector_may_be_linear_of_another_width_and_fed_alone(output):
    """a[t] = W [c[t]; h[t]] + b, additive attention with a bias in a space of its own."""
    decoder = prepared(AttentionalDecoder(
        "additive", attention_units=7, attention_bias=True, input_feeding=True, units=UNITS, attentional_units=3,
        attentional_activation="none", attentional_bias=True, output=output))
    outputs, _ = write(decoder)
    attention, vector = decoder.attention, np.zeros(3)
    keys, (state,) = MEMORY[0] @ attention.key_projection.kernel.numpy(), first_states(decoder, 0)
    for t in range(5):
        state = twins.lstm_step(decoder.cells[0], np.concatenate([INPUTS[0, t], vector]), state)
        hidden = np.tanh(keys + twins.linear(attention.query_projection, state[0]))
        context = twins.softmax(hidden @ attention.score_vector.numpy()) @ MEMORY[0]
        vector = twins.linear(decoder.combine, np.concatenate([context, state[0]]))
        np.testing.assert_allclose(outputs[0, t], vector if output == "attention" else state[0], atol=1e-5)


def test_without_a_context_the_source_is_the_first_state_alone():
    decoder = prepared(RecurrentDecoder(units=UNITS, reads_context=False))
    outputs, _ = write(decoder)
    (state,) = first_states(decoder, 0)
    for t in range(5):
        state = twins.lstm_step(decoder.cells[0], INPUTS[0, t], state)
        np.testing.assert_allclose(outputs[0, t], state[0], atol=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    ({"attending_layer": "bottom"}, "needs input_feeding .* attending_layer='bottom'"),
    ({"output": "state"}, "needs input_feeding .* output='state'"),
    ({"attentional_units": 3, "output_units": 5, "output": "state", "input_feeding": True}, "an output 5 wide"),
    ({"attentional_activation": "relu"}, "attentional_activation to be one of tanh, none"),
])
def test_options_of_the_attentional_decoder_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AttentionalDecoder(units=UNITS, **options)


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_every_attention_gives_the_same_in_one_go_and_step_by_step(kind):
    decoder = prepared(AttentionalDecoder(kind, heads=2, units=UNITS))
    outputs, weights = write(decoder)
    memory, state = decoder.start(ENCODED)
    for t in range(5):
        output, state, attention = decoder.step(tf.constant(INPUTS[:, t]), state, memory)
        np.testing.assert_allclose(output, outputs[:, t], atol=1e-5)
        np.testing.assert_allclose(attention, weights[:, t], atol=1e-5)


def test_the_bridge_of_the_recipe_makes_the_first_state():
    state = AttentionalDecoder("general", units=UNITS, bridge="copy").start(ENCODED)[1]
    for part, expected in zip(state.recurrent[0], FINAL, strict=True):
        np.testing.assert_array_equal(part, expected)
    decoder = RecurrentDecoder(units=UNITS, bridge="zero")
    for part in decoder.start(ENCODED)[1].recurrent[0]:
        np.testing.assert_array_equal(part, np.zeros((2, UNITS)))
    decoder = RecurrentDecoder(units=UNITS, cell="gru", bridge="pooled")
    (hidden,), = decoder.start(ENCODED)[1].recurrent
    np.testing.assert_allclose(hidden, combine(decoder.bridge.projections[0], CONTEXT), atol=1e-5)


# Dropout of the recurrent decoders

WIDE = 64
DROPPING = {
    "recurrent": lambda **options: RecurrentDecoder(units=WIDE, layers=2, output_units=WIDE, **options),
    "attentional": lambda **options: AttentionalDecoder("general", units=WIDE, layers=2, **options),
    "input-feeding": lambda **options: AttentionalDecoder(
        "general", input_feeding=True, units=WIDE, layers=2, **options),
}


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(3)


@pytest.mark.parametrize("per_sequence", [False, True])
@pytest.mark.parametrize("kind", DROPPING)
def test_one_mask_for_all_steps_is_the_same_at_every_step(kind, per_sequence):
    decoder = DROPPING[kind](dropout=0.5, dropout_per_sequence=per_sequence)
    still, _ = write(decoder)
    assert np.all(still.numpy() != 0)
    kept = write(decoder, training=True)[0].numpy() != 0  # the output's; a tanh is never 0 itself
    assert 0.4 < kept.mean() < 0.6
    assert len(np.unique(kept[0], axis=0)) == (1 if per_sequence else 5)
    assert np.any(kept[0] != kept[1])  # each sentence has its own


@pytest.mark.parametrize("per_sequence", [False, True])
@pytest.mark.parametrize("kind", DROPPING)
def test_the_masks_before_the_layers_are_shared_or_drawn_anew_in_a_loop_of_steps(kind, per_sequence, monkeypatch):
    decoder, inputs = DROPPING[kind](dropout=0.5, dropout_per_sequence=per_sequence), np.ones((2, 5, WIDE), np.float32)
    write(decoder, inputs)
    kept = {0: [], 1: []}
    for i, cell in enumerate(decoder.cells):
        def step(inputs, state, i=i, original=cell.step):
            kept[i].append(inputs.numpy() != 0)
            return original(inputs, state)

        monkeypatch.setattr(cell, "step", step)
    noises = decoder.noises(2, True)
    assert (noises is not None) == per_sequence
    if kind == "input-feeding":
        write(decoder, inputs, training=True)  # has the loop within
    else:
        memory, state = decoder.start(ENCODED)
        for t in range(5):
            _, state, _ = decoder.step(tf.constant(inputs[:, t]), state, memory, True, noises)
    for masks in map(np.array, kept.values()):  # [T, B, width]
        assert len(masks) == 5 and 0.2 < masks.mean() < 0.7  # a feed's zeros are those of its own mask beside
        after_first = masks[1:, 0]  # before, the feed is 0 whatever the mask
        assert len(np.unique(after_first, axis=0)) == (1 if per_sequence else 4)


@pytest.mark.parametrize("kind", DROPPING)
def test_there_are_no_shared_masks_without_dropout_or_training(kind):
    decoder = DROPPING[kind](dropout=0.5, dropout_per_sequence=True)
    write(decoder)
    assert decoder.noises(2, False) is None
    assert DROPPING[kind](dropout=0.0, dropout_per_sequence=True).noises(2, True) is None


# Transformer

TRANSFORMERS = [
    {"layers": 2, "norm": "pre", "positions": "sinusoidal"},
    {"layers": 1, "norm": "post", "positions": "learned", "activation": "gelu", "max_positions": 5},
    {"layers": 2, "norm": "post", "normalization": "rms", "positions": "relative", "gated": True, "output_units": 7},
    {"layers": 2, "norm": "pre", "normalization": "rms", "positions": "rotary", "activation": "swish"},
]
TRANSFORMER_CASES = pytest.mark.parametrize(
    "options", TRANSFORMERS, ids=[f"{case['norm']}-{case['positions']}" for case in TRANSFORMERS])


def transformer(**options):
    return TransformerDecoder(**{"units": 8, "heads": 2, "feed_forward_units": 12, **options})


@TRANSFORMER_CASES
def test_transformer_is_its_formula_on_each_sentence_alone(options):
    decoder = prepared(transformer(**options))
    outputs, weights = write(decoder, mask=TARGET_MASK)
    for row in range(2):
        length = TARGET_MASK[row].sum()
        expected, expected_weights = twins.transformer(
            decoder.stack, INPUTS[row, :length].astype(float), True, MEMORY[row, MASK[row]])
        if decoder.leave is not None:
            expected = twins.linear(decoder.leave, expected)
        np.testing.assert_allclose(outputs[row, :length], expected, atol=1e-5)
        np.testing.assert_allclose(weights.numpy()[row, :length, MASK[row]].T, expected_weights, atol=1e-5)
    np.testing.assert_array_equal(outputs.numpy()[~TARGET_MASK], 0.0)
    assert outputs.shape[-1] == decoder.output_units == options.get("output_units", 8)


@TRANSFORMER_CASES
def test_transformer_step_by_step_with_a_beam_is_its_formula(options):
    """Three hypotheses a source, each with inputs of its own, over two memories."""
    decoder, beam = prepared(transformer(**options)), 3
    inputs = RANDOM.normal(size=(2 * beam, 4, 6)).astype(np.float32)
    memory, state = decoder.start(ENCODED)
    state = tile(state, beam)
    outputs, weights = [], []
    for t in range(4):
        output, state, attention = decoder.step(tf.constant(inputs[:, t]), state, memory)
        outputs.append(output.numpy())
        weights.append(attention.numpy())
    for hypothesis in range(2 * beam):
        row = hypothesis // beam
        expected, expected_weights = twins.transformer(
            decoder.stack, inputs[hypothesis].astype(float), True, MEMORY[row, MASK[row]])
        if decoder.leave is not None:
            expected = twins.linear(decoder.leave, expected)
        np.testing.assert_allclose(np.array(outputs)[:, hypothesis], expected, atol=1e-5)
        np.testing.assert_allclose(np.array(weights)[:, hypothesis][:, MASK[row]], expected_weights, atol=1e-5)


@TRANSFORMER_CASES
def test_transformer_with_padding_kept_gives_the_same_values_and_gradients(options):
    decoder, results = prepared(transformer(**options)), []
    direction = tf.constant(RANDOM.normal(size=(2, 5, decoder.output_units)), tf.float32)
    for remove in (True, False):
        decoder.stack.remove_padding = remove
        inputs, vectors = tf.constant(INPUTS), tf.constant(MEMORY)
        with tf.GradientTape() as tape:
            tape.watch([inputs, vectors])
            memory, state = decoder.start(ENCODED._replace(memory=vectors))
            outputs, weights = decoder(inputs, state, memory, mask=tf.constant(TARGET_MASK))
            loss = tf.reduce_sum(outputs * direction)
        gradients = tape.gradient(
            loss, [inputs, vectors, *[weight.value for weight in decoder.trainable_weights]])
        gradients = map(tf.convert_to_tensor, gradients)
        results.append([outputs, weights.numpy()[TARGET_MASK], *gradients])
    for removed, kept in zip(*results, strict=True):
        np.testing.assert_allclose(removed, kept, atol=1e-5 * max(1, np.abs(kept).max()))
    _, _, d_inputs, d_memory = results[0][:4]
    np.testing.assert_array_equal(d_inputs.numpy()[~TARGET_MASK], 0.0)  # no gradient on padding
    np.testing.assert_array_equal(d_memory.numpy()[~MASK], 0.0)


# All


DECODERS = {
    "recurrent": lambda **options: RecurrentDecoder(
        units=UNITS, layers=2, residual=True, normalization="rms", output_units=7, **options),
    "attentional": lambda **options: AttentionalDecoder(
        "normed_additive", units=UNITS, layers=2, normalization="layer", **options),
    "input-feeding": lambda **options: AttentionalDecoder("multi_head", 2, True, units=UNITS, cell="gru", **options),
    "transformer-pre": lambda **options: transformer(layers=2, positions="relative", **options),
    "transformer-post": lambda **options: transformer(
        layers=1, norm="post", normalization="rms", positions="rotary", gated=True, output_units=7, **options),
}
EVERY = pytest.mark.parametrize("make", DECODERS.values(), ids=list(DECODERS))


@EVERY
def test_dropout_changes_training_alone(make):
    decoder = make(dropout=0.5)
    still, again, trained = write(decoder)[0], write(decoder)[0], write(decoder, training=True)[0]
    np.testing.assert_array_equal(still, again)
    assert np.any(still.numpy() != trained.numpy())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@EVERY
def test_half_precision_is_close(make, policy):
    exact, decoder = make(), make(dtype=policy)
    expected, expected_weights = write(exact)
    write(decoder)
    decoder.set_weights(exact.get_weights())
    outputs, weights = write(decoder, INPUTS.astype(decoder.compute_dtype))
    assert outputs.dtype == decoder.compute_dtype and weights.dtype == tf.float32
    tolerance = 0.02 if policy == "mixed_float16" else 0.1
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, atol=tolerance)
    np.testing.assert_allclose(weights, expected_weights, atol=tolerance)
