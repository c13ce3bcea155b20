"""Random weights whose outputs are worth timing: they differ between sources, do not tie, and end after about as many
tokens as the source has.

The end is no accident. One unit of the residual stream (or of the LSTM's cell) is a clock: it holds how far the target
has come, less the length of the source. What the clock says reaches the end token's logit alone, steeply: the end is
unlikely before that length and near certain after it. All other weights are drawn at random, and the logits are
sharpened until a step's best token has about half of the probability, as that of a trained model.

A side reads them as a dict of NumPy arrays, from a file that `save` wrote.
"""

import numpy as np

from tests.benchmarks.sizes import BOS, EOS, PAD, UNK, Size, waves

NUM_POSITIONS = 128


def save(path, size, seed=0):
    """Draws the weights of a `Size` or a `RecurrentSize` into an .npz file."""
    draw = transformer_weights if isinstance(size, Size) else recurrent_weights
    np.savez(path, **draw(size, np.random.default_rng(seed)))


def load(path):
    """What `save` wrote, as a dict."""
    with np.load(path) as arrays:
        return dict(arrays)


def transformer_weights(size, random):
    """Under the names of `MarianMTModel` in Transformers: post-norm, one table for source, target and output.

    The clock is a unit in which the position's wave is slow and to which nothing else is added. At the first decoder
    layer, a head that looks at all source steps alike gives the mean of the source's clock, from which its last value
    follows, to be taken off; at the last layer the feed-forward copies what is left to the unit that the end token
    reads.
    """
    units, inner = size.units, size.feed_forward_units
    period = 10_000.0 ** (np.arange(0, units, 2) / units) * 2 * np.pi
    clock = 2 * int(np.argmin(np.abs(period - 300.0)))  # sine of about 300 steps a turn: it rises up to 75
    end = units - 2  # sine so slow that it is nearly 0
    reserved = [clock, end]
    free = np.setdiff1d(np.arange(units), reserved)

    def linear(outputs, inputs, scale=1.0):
        return random.normal(0.0, scale * inputs**-0.5, [outputs, inputs]).astype(np.float32)

    def center(rows):
        """Adds nothing to the reserved units and to the mean over the others, which a norm takes off the clock."""
        rows[reserved] = 0.0
        rows[free] -= rows[free].mean(0)

    weights = {"model.shared.weight": random.normal(0.0, 2.0 * units**-0.5, [size.vocabulary_size, units])}
    table = weights["model.shared.weight"]
    table[[PAD, UNK, BOS]] = 0.0  # their logit is 0, far below the best
    center(table.T)
    table[EOS] = 0.0
    table[EOS, end] = units**-0.5

    def add_attention(name, gain, value_scale=1.0):
        for part, scale in (("q", 2.0), ("k", 1.0), ("v", value_scale), ("out", 1.0)):
            weights[f"{name}.{part}_proj.weight"] = linear(units, units, scale)
            weights[f"{name}.{part}_proj.bias"] = random.normal(0.0, 0.1, units)
        add_output(f"{name}.out_proj", f"{name}_layer_norm", gain)

    def add_feed_forward(name, scale, gain):
        weights[f"{name}.fc1.weight"], weights[f"{name}.fc1.bias"] = linear(inner, units), np.zeros(inner)
        contract = weights[f"{name}.fc2.weight"] = linear(units, inner, scale)
        # Takes off what a ReLU gives on average, or every step would prefer the same few tokens.
        weights[f"{name}.fc2.bias"] = -((2 * np.pi) ** -0.5) * contract.sum(1)
        add_output(f"{name}.fc2", f"{name}.final_layer_norm", gain)

    def add_output(linear_name, norm_name, gain):
        center(weights[f"{linear_name}.weight"])
        center(weights[f"{linear_name}.bias"])
        weights[f"{norm_name}.weight"], weights[f"{norm_name}.bias"] = np.ones(units), np.zeros(units)
        weights[f"{norm_name}.weight"][clock] = gain  # about what the norm divides by

    for layer in range(size.layers):
        # A norm divides the clock by what stands beside it, and values weigh more where there are few to average: at
        # the first steps and in short sources. So before the clocks meet, values are small. Embeddings have a variance
        # of 4.4.
        first = layer == 0
        add_attention(f"model.encoder.layers.{layer}.self_attn", 2.15 if first else 1.05, 0.4)
        add_feed_forward(f"model.encoder.layers.{layer}", 0.8, 1.1)
        # In the decoder the feed-forward outweighs the rest, or the tied table would repeat the last token.
        add_attention(f"model.decoder.layers.{layer}.self_attn", 2.15 if first else 1.2, 0.4 if first else 1.0)
        add_attention(f"model.decoder.layers.{layer}.encoder_attn", 1.3)
        add_feed_forward(f"model.decoder.layers.{layer}", 3.5, 2.6)

    slope, offset = _fit_clock(waves(NUM_POSITIONS, units), clock)
    first, last = "model.decoder.layers.0.encoder_attn", f"model.decoder.layers.{size.layers - 1}"
    head = slice(0, units // size.heads)
    weights[f"{first}.q_proj.weight"][head] = 0.0  # so that the head's scores are alike
    weights[f"{first}.q_proj.bias"][head] = 0.0
    weights[f"{first}.v_proj.weight"][0] = np.eye(units)[clock]
    weights[f"{first}.v_proj.bias"][0] = 0.0
    weights[f"{first}.out_proj.weight"][clock, 0] = -slope
    weights[f"{first}.out_proj.bias"][clock] = -offset
    for row, sign in enumerate((1.0, -1.0)):  # x = relu(x) - relu(-x)
        weights[f"{last}.fc1.weight"][row] = 10.0 * sign * np.eye(units)[clock]
        weights[f"{last}.fc2.weight"][:, row] = sign * np.eye(units)[end]
    weights[f"{last}.final_layer_norm.weight"][:] = 4.0
    weights[f"{last}.final_layer_norm.weight"][end] = 35.0 * units**0.5
    weights["positions"] = waves(NUM_POSITIONS, units)
    return {name: value.astype(np.float32) for name, value in weights.items()}


def _fit_clock(positions, clock):
    """Slope and offset that make the clock of a source's last step of the mean over its steps.

    A norm takes the mean over the units off the clock, and nearly all of that mean is the positions' own.
    """
    values = positions[:, clock] - positions.mean(1)
    lengths = np.arange(5, 41)
    means = np.cumsum(values)[lengths - 1] / lengths
    return np.polyfit(means, values[lengths - 1], 1)


def recurrent_weights(size, random):
    """Names of our own; gates stand in the order i, f, g, o, and kernels are [inputs, outputs].

    The clock is a cell of the top layer. In the encoder, read from left to right, it falls by the same amount at every
    step; the decoder starts from the encoder's last states and lets it rise.
    """
    units, half = size.units, size.units // 2
    per_step = 0.02  # of the clock
    weights = {
        "source_table": random.normal(0.0, 1.0, [size.vocabulary_size, units]),
        "target_table": random.normal(0.0, 1.0, [size.vocabulary_size, units])}

    def add_cell(name, inputs, width, rise=None):
        kernel = random.normal(0.0, 1.5 * inputs**-0.5, [inputs, 4 * width])
        recurrent = random.normal(0.0, width**-0.5, [width, 4 * width])
        bias = random.normal(0.0, 0.1, 4 * width)
        if rise is not None:  # of cell 0, whatever it reads
            kernel[:, ::width] = recurrent[:, ::width] = 0.0
            bias[::width] = [20.0, 20.0, np.arctanh(rise), 20.0]
        weights.update({f"{name}.kernel": kernel, f"{name}.recurrent_kernel": recurrent, f"{name}.bias": bias})

    for layer in range(size.layers):
        top = layer == size.layers - 1
        add_cell(f"encoder.{layer}.forward", units, half, -per_step if top else None)
        add_cell(f"encoder.{layer}.backward", units, half)
        # The first layer reads the embedding and the attentional vector of the step before.
        add_cell(f"decoder.{layer}", units if layer else 2 * units, units, per_step if top else None)
    weights["attention.kernel"] = random.normal(0.0, 4.0 * units**-0.5, [units, units])
    combine = random.normal(0.0, 3.0 * (2 * units) ** -0.5, [2 * units, units])  # of [context; state]
    combine[:, 0] = 0.0
    combine[units, 0] = 10.0
    weights["combine.kernel"] = combine
    output = random.normal(0.0, 14.0 * units**-0.5, [units, size.vocabulary_size])
    output[0] = 0.0
    output[0, EOS] = 60.0
    output[:, [PAD, UNK, BOS]] = 0.0
    weights.update({"output.kernel": output, "output.bias": np.zeros(size.vocabulary_size)})
    return {name: value.astype(np.float32) for name, value in weights.items()}
