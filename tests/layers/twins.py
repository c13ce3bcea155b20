"""Layers written once more from the papers' formulas, in NumPy, in double precision, for one sentence without padding.

They read the weights of our layers and share nothing else with them.
"""

import math

import numpy as np


def randomize(layer, seed=0):
    """Draws every weight: zeros and ones would hide a bias or a scale in the wrong place."""
    random = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(random.normal(scale=0.5, size=weight.shape))


def array(weight):
    return weight.numpy().astype(np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(scores):
    exponents = np.exp(scores - scores.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    """Hendrycks & Gimpel, 2016, the approximation of section 2."""
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0), "gelu": gelu, "gelu_tanh": gelu_tanh, "swish": lambda x: x * sigmoid(x)}


def linear(layer, x):
    return x @ array(layer.kernel) + (0 if layer.bias is None else array(layer.bias))


def layer_norm(x, scale, bias, epsilon=1e-6):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias


def rms_norm(x, scale, epsilon=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def normalize(layer, x):
    """By the kind of the layer: only layer normalization has a bias."""
    scale = array(layer.scale)
    return rms_norm(x, scale) if layer.bias is None else layer_norm(x, scale, array(layer.bias))


def sinusoids(length, units):
    table = np.zeros((length, units))
    for p, i in np.ndindex(length, units):
        angle = p / 10_000 ** (2 * (i // 2) / units)
        table[p, i] = math.cos(angle) if i % 2 else math.sin(angle)
    return table


def rotate(x, positions):
    """Each plane as a complex number, times e^(i p theta): [T, D]."""
    half = x.shape[-1] // 2
    planes = x[:, :half] + 1j * x[:, half:]
    angles = np.outer(positions, 10_000.0 ** (-2 * np.arange(half) / x.shape[-1]))
    turned = planes * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], -1)


def bucket(relative_position, bidirectional, num_buckets=32, max_distance=128):
    """The rule that Raffel et al. published with the paper: memory position minus query position to a bucket."""
    result, n = 0, -relative_position
    if bidirectional:
        num_buckets //= 2
        if n < 0:
            result += num_buckets
        n = abs(n)
    else:
        n = max(n, 0)
    max_exact = num_buckets // 2
    if n < max_exact:
        return result + n
    large = max_exact + int(
        math.log(n / max_exact) / math.log(max_distance / max_exact) * (num_buckets - max_exact))
    return result + min(large, num_buckets - 1)


def attention(query, keys, values, heads, bias=0.0, rotary=False):
    """Every head by itself: query [T, D], keys and values [S, D], bias [heads or 1, T, S]."""
    bias = np.broadcast_to(bias, (heads, len(query), len(keys)))
    mixed, weights = [], []
    for head, (q, k, v) in enumerate(zip(*(np.split(x, heads, -1) for x in (query, keys, values)))):
        if rotary:
            q, k = rotate(q, np.arange(len(q))), rotate(k, np.arange(len(k)))
        weights.append(softmax(q @ k.T / math.sqrt(q.shape[-1]) + bias[head]))
        mixed.append(weights[-1] @ v)
    return np.concatenate(mixed, -1), np.mean(weights, 0)


def feed_forward(layer, x, activation, gated):
    inner = linear(layer.expand, x)
    if gated:
        gate, other = np.split(inner, 2, -1)
        return linear(layer.contract, ACTIVATIONS[activation](gate) * other)
    return linear(layer.contract, ACTIVATIONS[activation](inner))


def transformer_layer(layer, x, settings, bias=0.0, memory=None):
    """x [T, D], memory [S, E] or None, settings as `TransformerStack.settings`: the next x and the source weights."""
    heads, weights = settings["heads"], None

    def sublayer(residual, x, function):
        if settings["norm"] == "pre":
            return x + function(normalize(residual.normalize, x))
        return normalize(residual.normalize, x + function(x))

    def self_attention(x):
        query, keys, values = np.split(linear(layer.self_attention.query_key_value, x), 3, -1)
        mixed, _ = attention(query, keys, values, heads, bias, settings["positions"] == "rotary")
        return linear(layer.self_attention.output_projection, mixed)

    def cross_attention(x):
        nonlocal weights
        keys, values = np.split(linear(layer.cross_attention.key_value, memory), 2, -1)
        mixed, weights = attention(linear(layer.cross_attention.query, x), keys, values, heads)
        return linear(layer.cross_attention.output_projection, mixed)

    x = sublayer(layer.self_residual, x, self_attention)
    if memory is not None:
        x = sublayer(layer.cross_residual, x, cross_attention)
    x = sublayer(
        layer.feed_residual, x,
        lambda x: feed_forward(layer.feed_forward, x, settings["activation"], settings["gated"]))
    return x, weights


def transformer(stack, x, causal=False, memory=None):
    """A whole `TransformerStack` over x [T, X]: its output and the last layer's weights on the source."""
    settings, length = stack.settings, len(x)
    if stack.enter is not None:
        x = linear(stack.enter, x)
    if settings["positions"] == "sinusoidal":
        x = x + sinusoids(length, settings["units"])
    if settings["positions"] == "learned":
        x = x + array(stack.learned.table)[:length]
    bias = np.zeros((1, length, length))
    if settings["positions"] == "relative":
        table = array(stack.relative.table)
        offsets = np.arange(length)[None, :] - np.arange(length)[:, None]
        bias = table[np.vectorize(lambda offset: bucket(offset, not causal))(offsets)].transpose(2, 0, 1)
    if causal:
        bias = np.where(np.tri(length, dtype=bool), bias, -np.inf)
    weights = None
    for layer in stack.blocks:
        x, weights = transformer_layer(layer, x, settings, bias, memory)
    return (x if stack.normalize is None else normalize(stack.normalize, x)), weights


def gated_convolution(layer, x):
    """x [T, D]: (GLU(conv(x)) + x) * sqrt(0.5), zeros around the sentence."""
    kernel, bias, width = array(layer.kernel), array(layer.bias), x.shape[-1]
    reach = len(kernel) // 2
    padded = np.pad(x, ((reach, reach), (0, 0)))
    output = np.zeros_like(x)
    for t in range(len(x)):
        hidden = bias + sum(padded[t + k] @ kernel[k] for k in range(len(kernel)))
        output[t] = hidden[:width] * sigmoid(hidden[width:])
    return (output + x) * math.sqrt(0.5)


def lstm_step(layer, x, state):
    """x [N, D] and (h, c): the next h and c."""
    h, c = state
    i, f, g, o = np.split(x @ array(layer.kernel) + h @ array(layer.recurrent_kernel) + array(layer.bias), 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c
