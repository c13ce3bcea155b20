"""Our layers against PyTorch's, with PyTorch's weights: outputs and the gradient of the inputs."""

import numpy as np
import pytest
import tensorflow as tf

from tests.peers import copying
from tfseq2seq.encoders import RecurrentEncoder
from tfseq2seq.layers.convolution import GatedConvolution
from tfseq2seq.layers.multihead import CrossAttention, SelfAttention, causal_bias, padding_bias
from tfseq2seq.layers.normalization import LayerNorm, RMSNorm
from tfseq2seq.layers.padding import RealSteps
from tfseq2seq.layers.transformer import TransformerLayer

torch = pytest.importorskip("torch", reason="needs PyTorch: see tests/peers/README.md")
pytestmark = pytest.mark.peers

HEADS, UNITS, INNER = 4, 16, 24
RANDOM = np.random.default_rng(0)
SOURCE = RANDOM.normal(size=(3, 7, UNITS)).astype(np.float32)  # [B, S, D]
SOURCE_LENGTHS = np.array([7, 3, 5])
TARGET = RANDOM.normal(size=(3, 6, UNITS)).astype(np.float32)  # [B, T, D]
TARGET_LENGTHS = np.array([6, 4, 1])
WEIGHTS = RANDOM.normal(size=(3, 7, 2 * UNITS)).astype(np.float32)  # of the outputs, in the loss that has gradients


def mask_of(lengths):
    """[B, T] bool, True on real steps."""
    return np.arange(lengths.max()) < lengths[:, None]


SOURCE_MASK, TARGET_MASK = mask_of(SOURCE_LENGTHS), mask_of(TARGET_LENGTHS)


def ours(function, *inputs):
    """function(*inputs) [B, T, D], and the gradients of its weighted sum."""
    variables = [tf.constant(one) for one in inputs]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        output = function(*variables)
        loss = tf.reduce_sum(output * WEIGHTS[:, :output.shape[1], :output.shape[2]])
    return [output.numpy(), *(gradient.numpy() for gradient in tape.gradient(loss, variables))]


def theirs(function, mask, *inputs):
    """As `ours`, of PyTorch; outputs on padding are made 0 as ours are."""
    variables = [torch.tensor(one, requires_grad=True) for one in inputs]
    output = function(*variables) * torch.tensor(mask)[..., None]
    (output * torch.tensor(WEIGHTS[:, :output.shape[1], :output.shape[2]])).sum().backward()
    return [output.detach().numpy(), *(variable.grad.numpy() for variable in variables)]


def assert_same(one, two):
    assert len(one) == len(two)
    for found, expected in zip(one, two, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def randomize(module):
    """Draws every weight anew: PyTorch's start at 0 and 1 in places, where a mistake would not show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(0.1, 0.3, generator=generator)
    return module


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_bidirectional_stack_is_pytorchs(kind):
    maker = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind]
    twin = randomize(maker(UNITS, UNITS, num_layers=2, bidirectional=True, batch_first=True))
    encoder, weights = RecurrentEncoder(kind, layers=2, units=UNITS), copying.named_arrays(twin)
    set_weights = {"lstm": copying.set_lstm, "gru": copying.set_gru}[kind]
    for number in range(2):
        set_weights(encoder.forward[number], weights, f"l{number}")
        set_weights(encoder.backward[number], weights, f"l{number}_reverse")
    last = []

    def run_twin(source):
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            source, SOURCE_LENGTHS, batch_first=True, enforce_sorted=False)
        output, states = twin(packed)
        last.extend(states if kind == "lstm" else [states])  # each [layers * 2, B, units], h before c
        return torch.nn.utils.rnn.pad_packed_sequence(output, batch_first=True)[0]

    mask = tf.constant(SOURCE_MASK)
    assert_same(
        ours(lambda source: encoder(source, mask=mask).memory, SOURCE), theirs(run_twin, SOURCE_MASK, SOURCE))
    final_state = encoder(tf.constant(SOURCE), mask=mask).final_state
    for number, parts in enumerate(final_state):
        for found, states in zip(parts, last, strict=True):
            expected = states.detach().numpy()[2 * number:2 * number + 2]
            np.testing.assert_allclose(found, np.concatenate(expected, -1), atol=1e-5)


def test_self_attention_is_multihead_attention():
    twin = randomize(torch.nn.MultiheadAttention(UNITS, HEADS, batch_first=True))
    attention = SelfAttention(UNITS, HEADS)
    copying.set_self_attention(attention, copying.torch_attention(copying.named_arrays(twin)))
    steps, found = RealSteps(tf.constant(SOURCE_MASK)), []

    def run(source):
        query, keys, values = attention.split(steps.unpack(attention.project(steps.pack(source))))
        mixed, weights = attention.attend(query, keys, values, padding_bias(steps.mask))
        found.append(weights)
        return steps.unpack(attention.output(steps.pack(mixed)))

    def run_twin(source):
        output, weights = twin(
            source, source, source, key_padding_mask=torch.tensor(~SOURCE_MASK), average_attn_weights=False)
        found.append(weights.detach())
        return output

    assert_same(ours(run, SOURCE), theirs(run_twin, SOURCE_MASK, SOURCE))
    real = np.broadcast_to(SOURCE_MASK[:, None, :, None], found[0].shape)
    np.testing.assert_allclose(found[0].numpy()[real], found[1].numpy()[real], atol=1e-6)


def test_cross_attention_is_multihead_attention():
    twin = randomize(torch.nn.MultiheadAttention(UNITS, HEADS, batch_first=True))
    attention = CrossAttention(UNITS, HEADS)
    copying.set_cross_attention(attention, copying.torch_attention(copying.named_arrays(twin)))
    steps, found = RealSteps(tf.constant(SOURCE_MASK)), []

    def run(target, source):
        keys, values = attention.project(steps.pack(source), steps)
        mixed, weights = attention.attend(attention.query(target), keys, values, padding_bias(steps.mask))
        found.append(weights)
        return attention.output(mixed)

    def run_twin(target, source):
        output, weights = twin(
            target, source, source, key_padding_mask=torch.tensor(~SOURCE_MASK), average_attn_weights=False)
        found.append(weights.detach())
        return output

    assert_same(ours(run, TARGET, SOURCE), theirs(run_twin, np.ones_like(TARGET_MASK), TARGET, SOURCE))
    np.testing.assert_allclose(found[0], found[1].numpy(), atol=1e-6)


def torch_options(norm, activation):
    return {
        "dim_feedforward": INNER, "dropout": 0.0, "activation": activation, "layer_norm_eps": 1e-6,
        "batch_first": True, "norm_first": norm == "pre"}


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_encoders_layer_is_pytorchs(norm, activation):
    twin = randomize(torch.nn.TransformerEncoderLayer(UNITS, HEADS, **torch_options(norm, activation)))
    layer = TransformerLayer(UNITS, HEADS, INNER, activation, norm=norm)
    copying.set_torch_layer(layer, copying.named_arrays(twin))
    steps = RealSteps(tf.constant(SOURCE_MASK))

    def run(source):
        rows, weights = layer.read(steps.pack(source), steps, padding_bias(steps.mask), tf.range(7))
        assert weights is None
        return steps.unpack(rows)

    assert_same(ours(run, SOURCE), theirs(
        lambda source: twin(source, src_key_padding_mask=torch.tensor(~SOURCE_MASK)), SOURCE_MASK, SOURCE))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_decoders_layer_is_pytorchs(norm, activation):
    twin = randomize(torch.nn.TransformerDecoderLayer(UNITS, HEADS, **torch_options(norm, activation)))
    layer = TransformerLayer(UNITS, HEADS, INNER, activation, norm=norm, cross_attention=True)
    copying.set_torch_layer(layer, copying.named_arrays(twin))
    steps, memory_steps = RealSteps(tf.constant(TARGET_MASK)), RealSteps(tf.constant(SOURCE_MASK))

    def run(target, source):
        memory = layer.cross_attention.project(memory_steps.pack(source), memory_steps)
        rows, _ = layer.read(
            steps.pack(target), steps, causal_bias(6), tf.range(6), memory, padding_bias(memory_steps.mask))
        return steps.unpack(rows)

    def run_twin(target, source):
        later = torch.ones(6, 6, dtype=torch.bool).triu(1)
        return twin(target, source, tgt_mask=later, memory_key_padding_mask=torch.tensor(~SOURCE_MASK))

    assert_same(ours(run, TARGET, SOURCE), theirs(run_twin, TARGET_MASK, TARGET, SOURCE))


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_normalization_is_pytorchs(kind):
    layer, maker = {"layer": (LayerNorm, torch.nn.LayerNorm), "rms": (RMSNorm, torch.nn.RMSNorm)}[kind]
    twin, layer = randomize(maker(UNITS, eps=1e-5)), layer(epsilon=1e-5)
    copying.set_normalization(layer, copying.named_arrays(twin))
    scaled = SOURCE * np.array([1.0, 1e-2, 30.0], np.float32)[:, None, None]  # small ones show epsilon
    found, gradient = ours(layer, scaled)
    expected, expected_gradient = theirs(twin, np.ones_like(SOURCE_MASK), scaled)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * np.abs(expected_gradient).max())


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_the_gated_convolution_is_conv1d_and_glu(kernel_size):
    twin = randomize(torch.nn.Conv1d(UNITS, 2 * UNITS, kernel_size, padding="same"))
    layer, weights = GatedConvolution(kernel_size), copying.named_arrays(twin)
    layer.build((None, None, UNITS))
    layer.kernel.assign(weights["weight"].transpose(2, 1, 0))
    layer.bias.assign(weights["bias"])
    source = SOURCE * SOURCE_MASK[..., None]  # the layer expects 0 on padding

    def run_twin(source):
        hidden = torch.nn.GLU(dim=1)(twin(source.transpose(1, 2))).transpose(1, 2)
        return (hidden + source) * 0.5**0.5

    mask = tf.constant(SOURCE_MASK)
    assert_same(ours(lambda source: layer(source, mask=mask), source), theirs(run_twin, SOURCE_MASK, source))
