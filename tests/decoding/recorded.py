"""Trained models of tensorflow/nmt, tensorflow-addons and OpenNMT-tf as step functions in plain TensorFlow.

Each reads its own program's checkpoint from a folder of fixtures, and speaks that program's ids.
"""

import json
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Recorded(NamedTuple):
    """A model at the first step of B sources.

    Attributes:
        step: as `tfseq2seq.decoding.search` takes it; it always gives attention.
        state, memory: likewise.
        real: [B, S] bool NumPy array, the real source steps.
        vocabulary_size: V.
        start, end: ids.
    """

    step: Any
    state: Any
    memory: Any
    real: Any
    vocabulary_size: int
    start: int
    end: int


class Cell(NamedTuple):
    """LSTM with gates i, f, g, o and no bias beside this one: kernel [X + D, 4 D], bias [4 D]."""

    kernel: Any
    bias: Any

    def step(self, inputs, state):
        """[N, X] and (hidden, cell) [N, D] to the next two."""
        hidden, cell = state
        gates = tf.concat([inputs, hidden], 1) @ self.kernel + self.bias
        i, f, g, o = tf.split(gates, 4, 1)
        cell = tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(g)
        return tf.sigmoid(o) * tf.tanh(cell), cell


def read_layers(cells, inputs, lengths):
    """Layers of `Cell` over [B, S, X]: outputs, 0 on padding, and each layer's state after the last real step."""
    units = cells[0].bias.shape[0] // 4
    states = [(tf.zeros([len(inputs), units]),) * 2 for _ in cells]
    outputs = []
    for t in range(inputs.shape[1]):
        hidden, real = inputs[:, t], (t < lengths)[:, None]
        for i, cell in enumerate(cells):
            after = cell.step(hidden, states[i])
            states[i] = tuple(tf.where(real, new, old) for new, old in zip(after, states[i], strict=True))
            hidden = after[0]
        outputs.append(tf.where(real, hidden, 0.0))
    return tf.stack(outputs, 1), states


def read_both_ways(forward, backward, inputs, lengths):
    """The same in both directions: outputs side by side, and the states of each."""
    ahead, states = read_layers(forward, inputs, lengths)
    back, states_back = read_layers(backward, tf.reverse_sequence(inputs, lengths, 1), lengths)
    return tf.concat([ahead, tf.reverse_sequence(back, lengths, 1)], 2), states, states_back


def make_attentional(embedding, cells, memory, lengths, memory_kernel, score, combine, output, states, start, end):
    """A decoder as AttentionWrapper makes it: attention is fed to the next input, and to the output layer.

    Args:
        memory: [B, S, E].
        score: (query [N, D], keys [A, K, S, U] as [N, S, U]) -> [N, S].
        combine: [N, D + E], output of the cells and context, to attention [N, U].
        output: [N, U] to logits.
        states: of the cells, before the first step.
    """
    real = np.arange(memory.shape[1]) < np.asarray(lengths)[:, None]
    memory = tf.where(real[:, :, None], memory, 0.0)
    first = combine(tf.zeros([1, cells[-1].bias.shape[0] // 4 + memory.shape[2]]))

    def step(tokens, state, memory):
        attention, states = state
        keys, values, real = (tf.repeat(part, len(tokens) // len(part), 0) for part in memory)
        hidden, after = tf.concat([tf.gather(embedding, tokens), attention], 1), []
        for cell, before in zip(cells, states, strict=True):
            after.append(cell.step(hidden, before))
            hidden = after[-1][0]
        weights = tf.nn.softmax(tf.where(real, score(hidden, keys), -np.inf))  # [N, S]
        context = tf.einsum("ns,nse->ne", weights, values)
        attention = combine(tf.concat([hidden, context], 1))
        return output(attention), (attention, tuple(after)), weights

    state = (tf.zeros([len(real), first.shape[1]]), tuple(states))
    return Recorded(
        step, state, (memory @ memory_kernel, memory, tf.constant(real)), real, embedding.shape[0], start, end)


def luong(scale=1.0):
    return lambda query, keys: tf.einsum("nu,nsu->ns", query, keys) * scale


def bahdanau(query_kernel, v, g, b):
    """With the weight normalization of Salimans & Kingma, 2016, arXiv:1602.07868."""
    v = g * v / tf.norm(v)
    return lambda query, keys: tf.einsum("nsu,u->ns", tf.tanh(keys + (query @ query_kernel)[:, None] + b), v)


def load_addons(folder, name):
    """tensorflow-addons: a decoder of random weights over a random memory."""
    with np.load(folder / f"{name}.weights.npz") as arrays:
        w = {key: tf.constant(arrays[key]) for key in arrays}
    with np.load(folder / f"{name}.expected.npz") as arrays:
        expected = dict(arrays)
    options = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["options"]
    cell = Cell(tf.concat([w["cell0/kernel"], w["cell0/recurrent_kernel"]], 0), w["cell0/bias"])
    if options["attention"] == "luong":
        score = luong(w["attention/attention_g"])
    else:
        score = bahdanau(
            w["attention/query_layer/kernel"], *(w[f"attention/attention_{part}"] for part in "vgb"))
    state = tuple(tf.constant(expected[f"initial_state/cell0/{part}"]) for part in "hc")
    return make_attentional(
        w["embedding"], [cell], tf.constant(expected["memory"]), expected["memory_lengths"],
        w["attention/memory_layer/kernel"], score, lambda both: both @ w["attention_layer/kernel"],
        lambda attention: attention @ w["output/kernel"] + w["output/bias"], [state], options["start_id"],
        options["end_id"]), expected


def load_nmt(folder):
    """tensorflow/nmt, standard attention: a TensorFlow 1 checkpoint."""
    w = _checkpoint(folder)
    forced = _forced(folder)

    def cell(name):
        """Its gates are i, g, f, o; 1 is added to f when it runs."""
        def reorder(array, added=0.0):
            i, g, f, o = np.split(array, 4, -1)
            return tf.constant(np.concatenate([i, f + added, g, o], -1))

        return Cell(reorder(w(f"{name}/kernel")), reorder(w(f"{name}/bias"), 1.0))

    model = "dynamic_seq2seq"
    source = tf.gather(w("embeddings/encoder/embedding_encoder"), forced["source_ids"])
    lengths, attention = forced["source_length"], f"{model}/decoder/attention"
    if w.has(f"{model}/encoder/rnn/basic_lstm_cell/kernel"):
        memory, states = read_layers([cell(f"{model}/encoder/rnn/basic_lstm_cell")], source, lengths)
        cells = [cell(f"{attention}/basic_lstm_cell")]
        name = f"{attention}/bahdanau_attention"
        score = bahdanau(w(f"{name}/query_layer/kernel"), *(w(f"{name}/attention_{part}") for part in "vgb"))
    else:
        memory, *both = read_both_ways(
            *([cell(f"{model}/encoder/bidirectional_rnn/{way}/basic_lstm_cell")] for way in ("fw", "bw")), source,
            lengths)
        states = [both[0][0], both[1][0]]  # one direction for each layer of the decoder
        cells = [cell(f"{attention}/multi_rnn_cell/cell_{i}/basic_lstm_cell") for i in range(2)]
        score = luong(w(f"{attention}/luong_attention/attention_g"))
    return make_attentional(
        tf.constant(w("embeddings/decoder/embedding_decoder")), cells, memory, lengths,
        w(f"{model}/decoder/memory_layer/kernel"), score, lambda both: both @ w(f"{attention}/attention_layer/kernel"),
        lambda attended: attended @ w(f"{model}/decoder/output_projection/kernel"), states, 1, 2), forced


def load_opennmt_lstm(folder):
    """OpenNMT-tf's two-way LSTM encoder, whose directions meet at the top alone, and Luong decoder."""
    w, forced = _checkpoint(folder, "model/{}/.ATTRIBUTES/VARIABLE_VALUE"), _forced(folder)

    def cells(name):
        return [
            Cell(np.concatenate([w(f"{name}/cells/{i}/layer/{part}") for part in ("kernel", "recurrent_kernel")]),
                 w(f"{name}/cells/{i}/layer/bias")) for i in range(2)]

    source = tf.gather(w("examples_inputter/features_inputter/embedding"), forced["source_ids"])
    lengths = forced["source_length"]
    memory, *both = read_both_ways(
        *(cells(f"encoder/rnn/rnn/{way}_layer/cell") for way in ("forward", "backward")), source, lengths)
    states = [
        tuple(tf.concat(parts, 1) for parts in zip(*layer, strict=True)) for layer in zip(*both, strict=True)]
    return make_attentional(
        tf.constant(w("examples_inputter/labels_inputter/embedding")), cells("decoder/cell/_cell"), memory, lengths,
        w("decoder/attention_mechanism/memory_layer/kernel"), luong(),
        lambda both: tf.tanh(both @ w("decoder/cell/_attention_layers/0/kernel")),
        lambda attended: attended @ w("decoder/output_layer/kernel") + w("decoder/output_layer/bias"), states, 1,
        2), forced


def load_opennmt_transformer(folder, heads=4, layers=2):
    """OpenNMT-tf's Transformer: pre-norm, waves from position 1, first all sines; each step reads the whole history."""
    w, forced = _checkpoint(folder, "model/{}/.ATTRIBUTES/VARIABLE_VALUE"), _forced(folder)

    def linear(name, inputs):
        return inputs @ w(f"{name}/kernel") + w(f"{name}/bias")

    def normalize(name, inputs):
        mean, variance = tf.nn.moments(inputs, [-1], keepdims=True)
        return tf.nn.batch_normalization(inputs, mean, variance, w(f"{name}/beta"), w(f"{name}/gamma"), 1e-3)

    def embed(side, ids):
        vectors = tf.gather(w(f"examples_inputter/{side}_inputter/embedding"), ids)
        half = vectors.shape[2] // 2
        rates = tf.exp(tf.range(half, dtype=tf.float32) * (-math.log(10_000.0) / (half - 1)))
        angles = tf.range(1.0, vectors.shape[1] + 1.0)[:, None] * rates
        return vectors * (2.0 * half) ** 0.5 + tf.concat([tf.sin(angles), tf.cos(angles)], 1)

    def split(inputs):
        return tf.transpose(tf.reshape(inputs, [*inputs.shape[:2], heads, -1]), [0, 2, 1, 3])  # [B, heads, T, D]

    def attend(name, inputs, memory, mask):
        """`inputs` plus attention to `memory`, or of the normalized inputs to themselves; and the first head's."""
        hidden = normalize(f"{name}/input_layer_norm", inputs)
        memory = hidden if memory is None else memory
        query, key, value = (
            split(linear(f"{name}/layer/linear_{part}", each))
            for part, each in (("queries", hidden), ("keys", memory), ("values", memory)))
        scores = tf.matmul(query, key, transpose_b=True) * key.shape[3] ** -0.5
        weights = tf.nn.softmax(tf.where(mask[:, None], scores, -np.inf))
        mixed = tf.reshape(tf.transpose(weights @ value, [0, 2, 1, 3]), inputs.shape)
        return inputs + linear(f"{name}/layer/linear_output", mixed), weights[:, 0]

    def feed(name, inputs):
        hidden = normalize(f"{name}/input_layer_norm", inputs)
        return inputs + linear(f"{name}/layer/outer", tf.nn.relu(linear(f"{name}/layer/inner", hidden)))

    ids = forced["source_ids"]
    real = np.arange(ids.shape[1]) < forced["source_length"][:, None]
    memory = embed("features", ids)
    for i in range(layers):
        memory, _ = attend(f"encoder/layers/{i}/self_attention", memory, None, real[:, None])
        memory = feed(f"encoder/layers/{i}/ffn", memory)
    memory = normalize("encoder/layer_norm", memory)

    def step(tokens, history, memory):
        history = tf.concat([history, tokens[:, None]], 1)
        memory, real = (tf.repeat(part, len(history) // len(part), 0) for part in memory)
        past = tf.linalg.band_part(tf.ones([1, *[history.shape[1]] * 2], tf.bool), -1, 0)
        hidden = embed("labels", history)
        for i in range(layers):
            hidden, _ = attend(f"decoder/layers/{i}/self_attention", hidden, None, past)
            hidden, weights = attend(f"decoder/layers/{i}/attention/0", hidden, memory, real[:, None])
            hidden = feed(f"decoder/layers/{i}/ffn", hidden)
        logits = linear("decoder/output_layer", normalize("decoder/layer_norm", hidden[:, -1]))
        return logits, history, weights[:, -1]

    return Recorded(
        step, tf.zeros([len(ids), 0], tf.int32), (memory, tf.constant(real)), real,
        w("examples_inputter/labels_inputter/embedding").shape[0], 1, 2), forced


def _checkpoint(folder, form="{}"):
    """A function from a variable's name to its value."""
    reader = tf.train.load_checkpoint(str(folder))
    found = {}

    def get(name):
        if name not in found:
            found[name] = reader.get_tensor(form.format(name))
        return found[name]

    get.has = lambda name: reader.has_tensor(form.format(name))
    return get


def _forced(folder):
    with np.load(folder / "teacher_forced.npz") as arrays:
        return dict(arrays)
