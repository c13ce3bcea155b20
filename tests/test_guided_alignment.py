"""Guided alignment: attention learns where a word aligner says that a target token comes from."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tests.distribution import FAMILIES, make_alignment, make_batch
from tfseq2seq import runs
from tfseq2seq.config import Model, parse_recipe
from tfseq2seq.layers import multihead
from tfseq2seq.layers.attention import DotAttention
from tfseq2seq.losses import TokenCrossEntropy, alignment_cross_entropy
from tfseq2seq.model import build_model
from tfseq2seq.structures import PAD
from tfseq2seq.training import load_generator

ROOT = Path(__file__).parents[1]
FEEDING = {**FAMILIES["recurrent"], "decoder": {**FAMILIES["recurrent"]["decoder"], "input_feeding": True}}
TABLES = {**FAMILIES, "feeding": FEEDING}


SOURCE, TARGET, LABELS, ALIGNMENT = (tf.constant(each[2:]) for each in (*make_batch(), make_alignment()))
INPUTS = {"source": SOURCE, "target": TARGET, "alignment": ALIGNMENT}
REAL = LABELS.numpy() != PAD
WEIGHTS = tf.constant(REAL / np.float32(REAL.sum()))


def make_model(family, weight=0.7, precision="float32", **compiled):
    keras.utils.set_random_seed(1)
    model = build_model(Model(embedding_units=8, **TABLES[family]), 11, 10, precision)
    model.guided_alignment_weight = weight
    model.compile(keras.optimizers.SGD(1.0, momentum=0.5), loss=TokenCrossEntropy(0.1), **compiled)
    return model


def formula(model, weight=0.7):
    """The gradient of the whole loss by automatic differentiation, of padded logits and attention."""
    with tf.GradientTape() as tape:
        logits, attention = model.call_with_attention(INPUTS)
        smoothed = 0.9 * tf.one_hot(LABELS, 10) + 0.1 / 10
        losses = tf.nn.softmax_cross_entropy_with_logits(smoothed, logits)
        aligned = tf.reduce_sum(ALIGNMENT, -1) > 0
        nats = -tf.reduce_sum(ALIGNMENT * tf.math.log(tf.where(ALIGNMENT > 0, attention, 1.0)), -1)
        loss = tf.reduce_sum(WEIGHTS * (losses + weight * tf.where(aligned, nats, 0.0)))
    return [tf.convert_to_tensor(each).numpy() for each in tape.gradient(loss, model.trainable_variables)]


def assert_close(found, expected, share=1e-5):
    largest = max(np.abs(each).max() for each in expected)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=share * largest)


def test_the_loss_is_the_cross_entropy_of_aligned_tokens_over_all_real_ones():
    random = np.random.default_rng(0)
    attention = random.dirichlet(np.ones(6), [6, 6]).astype(np.float32)
    expected = 0.0
    for row in range(6):
        for t in range(6):
            for s in range(6):
                expected -= ALIGNMENT.numpy()[row, t, s] * np.log(attention[row, t, s]) / REAL.sum()
    found = alignment_cross_entropy(tf.math.log(attention), ALIGNMENT, WEIGHTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert ALIGNMENT.numpy().sum() < REAL.sum()  # some tokens are aligned with nothing


def nats(scores, mask):
    """-log of the mean over the heads [H, S] of softmax(scores) at 0, in float64, and its gradient."""
    scores = np.where(mask, scores, -np.inf).astype(np.float64)
    logs = scores - scores.max(-1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
    likeliest = logs[:, 0].max()
    shares = np.exp(logs[:, 0] - likeliest)  # of the heads in what is aligned
    gradient = -shares[:, None] / shares.sum() * ((np.arange(scores.shape[1]) == 0) - np.exp(logs))
    return -likeliest - np.log(shares.mean()), gradient


@pytest.mark.parametrize("gap", [1.0, 75.0, 120.0, 3000.0])
@pytest.mark.parametrize("heads", [1, 2])
def test_a_weight_of_zero_keeps_its_gradient(gap, heads):
    scores = np.array([[0.0, gap, 0.5, 9.0], [-2.0, gap - 1.0, 1.0, 9.0]], np.float32)[:heads]
    mask = np.array([True, True, True, False])
    expected, expected_gradient = nats(scores, mask)
    alignment, weights = tf.constant([[[1.0, 0.0, 0.0, 0.0]]]), tf.constant([[1.0]])
    # Queries of 1 and keys of the scores, in each head.
    query = tf.ones([1, heads, 1, 1])
    keys = tf.constant(scores[None, :, :, None])
    with tf.GradientTape() as tape, multihead.weights_in_logarithms():
        tape.watch(keys)
        _, found = multihead.attend(query, keys, tf.zeros_like(keys), multihead.padding_bias(tf.constant(mask[None])))
        loss = alignment_cross_entropy(multihead.mean_of_heads(found), alignment, weights)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, keys)[0, :, :, 0], expected_gradient, rtol=1e-5, atol=1e-6)
    if heads > 1:
        return
    attention = DotAttention(1)
    keys = keys[:, 0]
    with tf.GradientTape() as tape, multihead.weights_in_logarithms():
        tape.watch(keys)
        _, found = attention.call(query[:, 0], keys, keys, tf.constant(mask[None]))
        loss = alignment_cross_entropy(found, alignment, weights)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, keys)[0, :, 0], expected_gradient[0], rtol=1e-5, atol=1e-6)


def test_a_decoder_without_attention_is_refused():
    with pytest.raises(ValueError, match="needs a decoder with attention"):
        alignment_cross_entropy(tf.zeros([2, 3, 0]), tf.zeros([2, 3, 4]), tf.zeros([2, 3]))


@pytest.mark.parametrize("family", TABLES)
def test_the_gradient_is_that_of_the_formula(family):
    model = make_model(family)
    expected = formula(model)
    assert_close(model.gradients(INPUTS, LABELS, WEIGHTS), expected)
    plain = formula(model, 0.0)
    assert max(np.abs(one - two).max() for one, two in zip(plain, expected, strict=True)) > 1e-3


def test_two_passes_have_the_gradient_of_one():
    model = make_model("transformer")
    expected = formula(model)
    model.r_drop = 5.0
    assert_close(model.gradients(INPUTS, LABELS, WEIGHTS), expected)


@pytest.mark.parametrize("family, parts, precision, compiled", [
    ("recurrent", 3, "float32", {}), ("transformer", 2, "float32", {"jit_compile": True}),
    ("transformer", 2, "mixed_float16", {})])
def test_parts_of_a_batch_xla_and_half_precision_change_nothing(family, parts, precision, compiled):
    expected = formula(make_model(family))
    model = make_model(family, precision=precision, **compiled)
    model.accumulation_steps = parts
    model.fit(tf.data.Dataset.from_tensors((INPUTS, LABELS)), epochs=1, verbose=0, shuffle=False)
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert_close([-each.numpy() for each in optimizer.momentums], expected, 1e-5 if precision == "float32" else 0.03)


REPLICAS = """
import json
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.distribution import compare, make_alignment, take_step
more = {"alignment": make_alignment()}
def guide(model):
    model.guided_alignment_weight = 2.0
cases = {"alone": (1, 1, None), "one": (1, 1, guide), "parts": (2, 2, guide)}
found = {name: take_step("recurrent", *case[:2], False, None, case[2], more) for name, case in cases.items()}
print(json.dumps({name: compare(each, found["one"])["difference"] for name, each in found.items()}))
"""


def test_replicas_and_parts_have_the_gradient_of_one_device():
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parts"] <= 1e-6
    assert found["alone"] > 0.1  # without alignments it would be another one


def test_a_batch_without_alignments_is_refused():
    model = make_model("transformer")
    with pytest.raises(ValueError, match="alignment.*for each label.*Received: inputs source, target"):
        model.gradients({"source": SOURCE, "target": TARGET}, LABELS, WEIGHTS)


# A whole training, on words that a target holds in reverse.


@pytest.fixture(scope="module")
def reversing(tmp_path_factory):
    """Values of a recipe whose pairs are made so, with their alignments."""
    folder = tmp_path_factory.mktemp("reversing")
    random = np.random.default_rng(0)
    for name, count in (("train", 150), ("valid", 10)):
        rows = [random.choice(list("abcdefgh"), random.integers(2, 6)).tolist() for _ in range(count)]
        lines = [" ".join(row) + "\t" + " ".join(row[::-1]).upper() + "\n" for row in rows]
        links = [" ".join(f"{i}-{len(row) - 1 - i}" for i in range(len(row))) + "\n" for row in rows]
        (folder / f"{name}.tsv").write_text("".join(lines))
        (folder / f"{name}.align").write_text("".join(links))
    words = {"kind": "words"}
    tables = {
        side: {"kind": "transformer", "layers": 1, "units": 16, "heads": 2, "feed_forward_units": 32, "dropout": 0.0}
        for side in ("encoder", "decoder")}
    return {
        "name": "reversing", "data": {
            "folder": str(folder), "source_tokenizer": words, "target_tokenizer": words, "batch_tokens": 256,
            "num_lengths": 1, "filter": False},
        "model": {"embedding_units": 16, **tables},
        "train": {
            "steps": 150, "evaluate_every": 150, "schedule": "constant", "warmup_steps": 0, "learning_rate": 0.01,
            "valid_lines": 2},
        "decode": {"max_length": 12}}


def attention_where_aligned(values, folder):
    runs.train_run(parse_recipe(values), folder, Console(quiet=True))
    run, prepared = runs.open_run(folder)
    model, shares = load_generator(run, prepared, folder).model, []
    for source, target in prepared.valid:
        ids = [tokenizer.encode(tf.constant([text])).to_tensor() for tokenizer, text in (
            (prepared.source_tokenizer, source), (prepared.target_tokenizer, target))]
        inputs = {"source": tf.pad(ids[0], [[0, 0], [0, 1]], constant_values=3), "target": tf.pad(
            ids[1], [[0, 0], [1, 0]], constant_values=2)}
        attention = model.call_with_attention(inputs)[1][0].numpy()
        count = ids[1].shape[1]
        shares += [attention[t, count - 1 - t] for t in range(count)]
    return np.mean(shares)


def test_attention_comes_to_lie_where_the_aligner_says(reversing, tmp_path):
    guided = {
        **reversing, "data": {**reversing["data"], "alignments": f"{reversing['data']['folder']}/train.align"},
        "train": {**reversing["train"], "guided_alignment_weight": 1.0}}
    with_alignments = attention_where_aligned(guided, tmp_path / "guided")
    without = attention_where_aligned(reversing, tmp_path / "plain")
    assert with_alignments > 0.8 and without < with_alignments - 0.2, (with_alignments, without)
