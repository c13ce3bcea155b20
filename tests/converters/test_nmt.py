"""Checkpoints of tensorflow/nmt, converted, against what it gave for them; and its architectures in NumPy."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.converters.words import Converted, ids_of
from tfseq2seq import converters
from tfseq2seq.converters import ConversionError
from tfseq2seq.structures import UNK


@pytest.fixture(scope="module", params=["bi_scaled_luong", "uni_normed_bahdanau"])
def converted(request):
    return Converted("nmt", f"nmt/{request.param}")


def test_the_logits_are_theirs(converted):
    arrays = converted.arrays
    lengths = arrays["target_length"]
    targets = [row[: n - 1] for row, n in zip(arrays["target_ids_out"], lengths, strict=True)]
    found = converted.logits(converted.expected["source"], targets)
    for row, expected, length in zip(found, arrays["logits"], lengths, strict=True):
        np.testing.assert_allclose(row[:length], expected[:length], atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["greedy", "beam4", "beam4_lp0.6_cp0.2"])
def test_the_search_finds_theirs(converted, name):
    decode = converted.expected["decode"][name]
    options, displaced = decode["options"], decode.get("rows_with_displaced_scores", [])
    lines = converted.expected["source"]
    found = converted.answers(
        lines, beam_size=options.get("beam_width", 1), finish="shared" if "beam_width" in options else "all",
        length_penalty=options.get("length_penalty_weight", 0.0),
        coverage_penalty=options.get("coverage_penalty_weight", 0.0),
        # Theirs is the same for all rows of a batch.
        max_length=2 * max(len(line.split()) for line in lines), max_length_ratio=None)
    compared, last = 0, max(each.get("length", 0) for row in decode["hypotheses"] for each in row)
    for i, expected in enumerate(decode["hypotheses"]):
        ours = [ids_of(found, i, j) for j in range(len(expected))]
        theirs = [converted.ours(each["ids"]) for each in expected]
        if not options.get("length_penalty_weight"):
            assert ours == theirs
            np.testing.assert_allclose(
                found.log_probabilities[i], [each["log_prob"] for each in expected], atol=1e-4)
            continue
        assert sorted(ours) == sorted(theirs)
        for j, (mine, each) in enumerate(zip(ours, expected, strict=True)):
            # With a penalty a score may stand beside another's ids, and one that ends in the last step of the batch has
            # no score with its end and its coverage counted.
            if i not in displaced and mine == theirs[j] and each["length"] < last and abs(
                    found.log_probabilities[i, j] - each["log_prob"]) < 1e-4:
                assert found.scores[i, j] == pytest.approx(each["score"], abs=1e-4)
                compared += 1
    assert compared >= 45 or "lp" not in name


def test_unknown_words_are_read_as_theirs(converted):
    ids = converted.source.encode(tf.constant(["a qqq b"])).to_list()[0]
    assert ids[1] == UNK and UNK not in (ids[0], ids[2])


# Architectures that the fixtures do not have, against the graphs of nmt's model.py and gnmt_model.py in NumPy

UNITS, WORDS = 4, ["<unk>", "<s>", "</s>", *"abcd"]
ROOT = "dynamic_seq2seq"


class Theirs:
    """nmt's graphs for one sentence; weights are drawn when they are asked for by their names."""

    def __init__(self, **hparams):
        self.hparams = {
            "num_units": UNITS, "num_layers": 2, "dropout": 0.0, "src_vocab_file": "vocab", "tgt_vocab_file": "vocab",
            "attention": "", "encoder_type": "uni", "unit_type": "lstm", "residual": False, "forget_bias": 1.0,
            "attention_architecture": "standard", **hparams}
        self.arrays, self.random = {}, np.random.default_rng(0)

    def weight(self, name, *shape):
        if name not in self.arrays:
            self.arrays[name] = self.random.normal(scale=0.5, size=shape).astype(np.float32)
        return self.arrays[name].astype(np.float64)

    def cell(self, scope, x, state):
        """One step of (h, c) or (h,)."""
        kind, inputs = self.hparams["unit_type"], np.concatenate([x, state[0]])
        if kind == "gru":
            scope += "gru_cell"
            gates = sigmoid(inputs @ self.weight(f"{scope}/gates/kernel", len(inputs), 2 * UNITS) + self.weight(
                f"{scope}/gates/bias", 2 * UNITS))
            r, u = np.split(gates, 2)
            candidate = np.tanh(np.concatenate([x, r * state[0]]) @ self.weight(
                f"{scope}/candidate/kernel", len(inputs), UNITS) + self.weight(f"{scope}/candidate/bias", UNITS))
            h = u * state[0] + (1 - u) * candidate
            return h, (h,)
        scope += "basic_lstm_cell" if kind == "lstm" else "layer_norm_basic_lstm_cell"
        gates = inputs @ self.weight(f"{scope}/kernel", len(inputs), 4 * UNITS)
        if kind == "lstm":
            i, j, f, o = np.split(gates + self.weight(f"{scope}/bias", 4 * UNITS), 4)
        else:
            i, j, f, o = (self.norm(f"{scope}/{name}", part) for name, part in zip(
                ("input", "transform", "forget", "output"), np.split(gates, 4), strict=True))
        c = state[1] * sigmoid(f + 1.0) + sigmoid(i) * np.tanh(j)
        if kind != "lstm":
            c = self.norm(f"{scope}/state", c)
        h = np.tanh(c) * sigmoid(o)
        return h, (h, c)

    def norm(self, scope, x):
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-12)
        return x * self.weight(f"{scope}/gamma", UNITS) + self.weight(f"{scope}/beta", UNITS)

    def zero(self):
        return (np.zeros(UNITS),) * (1 if self.hparams["unit_type"] == "gru" else 2)

    def stack(self, scope, layers, residual, inputs):
        """All layers over a sequence: outputs and last states."""
        states = [self.zero()] * layers
        outputs = []
        for x in inputs:
            for i in range(layers):
                inner = f"multi_rnn_cell/cell_{i}/" if layers > 1 else ""
                y, states[i] = self.cell(scope + inner, x, states[i])
                x = y + x if i >= layers - residual else y
            outputs.append(x)
        return np.array(outputs), states

    def encode(self, ids):
        kind, layers = self.hparams["encoder_type"], self.hparams["num_layers"]
        inputs = self.weight("embeddings/encoder/embedding_encoder", len(WORDS), UNITS)[ids]
        residual = layers - 1 if self.hparams["residual"] else 0
        if kind == "uni":
            return self.stack(f"{ROOT}/encoder/rnn/", layers, residual, inputs)
        both = 1 if kind == "gnmt" else layers // 2
        inner = 0 if kind == "gnmt" else residual // 2
        ways = [
            self.stack(f"{ROOT}/encoder/bidirectional_rnn/{way}/", both, inner, inputs[::step])
            for way, step in (("fw", 1), ("bw", -1))]
        outputs = np.concatenate([ways[0][0], ways[1][0][::-1]], -1)
        if kind == "bi":
            return outputs, [state for pair in zip(ways[0][1], ways[1][1], strict=True) for state in pair]
        residual = layers - 2 if self.hparams["residual"] else 0
        outputs, states = self.stack(f"{ROOT}/encoder/rnn/", layers - 1, residual, outputs)
        return outputs, [ways[1][1][0], *states]

    def attend(self, scope, query, memory):
        kind = self.hparams["attention"]
        keys = memory @ self.weight(f"{ROOT}/decoder/memory_layer/kernel", memory.shape[1], UNITS)
        if "luong" in kind:
            scores = keys @ query
            if "scaled" in kind:
                scores = scores * self.weight(f"{scope}luong_attention/attention_g")
        else:
            scope += "bahdanau_attention"
            v, b = self.weight(f"{scope}/attention_v", UNITS), 0.0
            if "normed" in kind:
                v = self.weight(f"{scope}/attention_g") * v / np.linalg.norm(v)
                b = self.weight(f"{scope}/attention_b", UNITS)
            scores = np.tanh(query @ self.weight(f"{scope}/query_layer/kernel", UNITS, UNITS) + keys + b) @ v
        weights = np.exp(scores - scores.max())
        return weights / weights.sum() @ memory

    def logits(self, source, target):
        """[T, V] of ids, without a start among the target's."""
        memory, states = self.encode(source)
        hparams, decoder = self.hparams, f"{ROOT}/decoder"
        layers = hparams["num_layers"]
        residual = (layers - 2 if hparams["encoder_type"] == "gnmt" else layers - 1) if hparams["residual"] else 0
        gnmt = hparams["attention_architecture"].startswith("gnmt")
        attention = np.zeros(memory.shape[1] if gnmt else UNITS)
        scope = f"{decoder}/{'multi_rnn_cell/cell_0_attention/' if gnmt else ''}attention/"
        output = self.weight(f"{decoder}/output_projection/kernel", UNITS, len(WORDS))
        rows = []
        for id_ in [1, *target]:
            x = self.weight("embeddings/decoder/embedding_decoder", len(WORDS), UNITS)[id_]
            if hparams["attention"]:
                x = np.concatenate([x, attention])
            before = attention
            for i in range(layers):
                inner = f"multi_rnn_cell/cell_{i}/" if layers > 1 else ""
                where = decoder + "/" + inner if not hparams["attention"] else scope + inner
                if gnmt:
                    where = f"{decoder}/multi_rnn_cell/cell_{i}/" if i else scope
                    beside = attention if hparams["attention_architecture"] == "gnmt_v2" else before
                    y, states[i] = self.cell(where, np.concatenate([x, beside]) if i else x, states[i])
                else:
                    y, states[i] = self.cell(where, x, states[i])
                x = y + x if i >= layers - residual else y
                if gnmt and i == 0:
                    attention = self.attend(scope, x, memory)
            if hparams["attention"] and not gnmt:
                kernel = self.weight(f"{scope}attention_layer/kernel", UNITS + memory.shape[1], UNITS)
                attention = np.concatenate([x, self.attend(scope, x, memory)]) @ kernel
                x = attention if hparams.get("output_attention", True) else x
            rows.append(x @ output)
        return np.array(rows)

    def save(self, folder):
        (folder / "vocab").write_text("\n".join(WORDS) + "\n")
        (folder / "hparams").write_text(json.dumps(self.hparams))
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            for name, value in self.arrays.items():
                tf.compat.v1.get_variable(name, initializer=value)
            tf.compat.v1.get_variable("beta1_power", initializer=np.float32(0.9))
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.train.Saver().save(session, str(folder / "translate.ckpt-1"), write_meta_graph=False)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("hparams", [
    {"encoder_type": "gnmt", "num_layers": 3, "attention": "normed_bahdanau", "attention_architecture": "gnmt",
     "residual": True},
    {"encoder_type": "gnmt", "attention": "scaled_luong", "attention_architecture": "gnmt_v2", "unit_type": "gru"},
    {"encoder_type": "bi", "num_layers": 4, "attention": "luong", "residual": True, "output_attention": False},
    {"attention": "bahdanau", "unit_type": "layer_norm_lstm", "residual": True},
    {"unit_type": "gru", "num_layers": 1},
], ids=str)
def test_every_architecture_is_read(hparams, tmp_path):
    theirs, source, target = Theirs(**hparams), [3, 4, 5, 3], [4, 6, 5]
    expected = theirs.logits(source, target)
    theirs.save(tmp_path)
    converted = Converted("nmt", tmp_path)
    found = converted.logits(["a b c a"], [target])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("change", "message"), [
    ({"unit_type": "nas"}, "unit_type must be one of 'lstm', 'gru', 'layer_norm_lstm' .* unit_type = 'nas'"),
    ({"language_model": True}, "language_model = True"),
    ({"num_layers": 3}, "rnn/multi_rnn_cell/cell_2/basic_lstm_cell/kernel is missing"),
    ({"num_layers": 1}, "rnn/basic_lstm_cell/kernel is missing"),
    ({"src_vocab_file": "nowhere"}, "put nowhere beside hparams"),
    ({"sos": "<go>"}, "must hold '<go>'"),
])
def test_what_does_not_fit_is_named(change, message, tmp_path):
    theirs = Theirs()
    theirs.logits([3], [4])
    theirs.hparams.update(change)
    theirs.save(tmp_path)
    with pytest.raises(ConversionError, match=message):
        converters.convert("nmt", str(tmp_path))


def test_a_weight_too_many_and_a_damaged_checkpoint_are_named(tmp_path):
    theirs = Theirs()
    theirs.logits([3], [4])
    theirs.weight("dynamic_seq2seq/decoder/more/kernel", 2)
    theirs.save(tmp_path)
    with pytest.raises(ConversionError, match="1 weights have no place .* dynamic_seq2seq/decoder/more/kernel"):
        converters.convert("nmt", str(tmp_path))
    data = next(tmp_path.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:-40])
    with pytest.raises(ConversionError, match="damaged or incomplete"):
        converters.convert("nmt", str(tmp_path))
    next(tmp_path.glob("*.index")).unlink()
    with pytest.raises(ConversionError, match="must hold a TensorFlow checkpoint"):
        converters.convert("nmt", str(tmp_path))
