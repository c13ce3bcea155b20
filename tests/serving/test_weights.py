"""Weights in fewer bytes: the file is smaller, the formula is the one that is written down, the loss is bounded."""

import contextlib
import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving.export import ExportError, export
from serving.weights import CHANNELS, KINDS, PackedWeights, quantize, rounded
from tests.serving.fake import FakeGenerator
from tfseq2seq.config import Decode, Model, Tokenizer
from tfseq2seq.generation import Generator
from tfseq2seq.model import build_model
from tfseq2seq.tokenizers import train_tokenizer

LINES = ["the cat runs", "a dog runs", "cats and dogs", "die katze", "ein hund"] * 4
SOURCES, TARGETS = ["the cat", "a dog runs", "dogs"], ["die katze", "ein hund", "hunde"]


def make_generator(kind):
    keras.utils.set_random_seed(7)
    tokenizer = train_tokenizer(Tokenizer(kind="characters"), LINES)
    side = {"kind": kind, "units": 32, "dropout": 0.0} | ({"heads": 2, "layers": 1} if kind == "transformer" else {})
    decoder = side if kind == "transformer" else {**side, "kind": "attentional"}
    model = build_model(
        Model(embedding_units=32, encoder=side, decoder=decoder), *[tokenizer.vocabulary_size] * 2)
    model({"source": tf.constant([[5, 3]]), "target": tf.constant([[2, 5]])})
    for weights in model.trainable_variables:
        weights.assign(weights * 2.0)
    return Generator(model, tokenizer, tokenizer, Decode(beam_size=2, max_length=8), 20)


@pytest.fixture(scope="module")
def recurrent():
    return make_generator("recurrent")


@pytest.fixture(scope="module")
def transformer():
    return make_generator("transformer")


def logits_of(generator):
    source = tf.constant([[5, 6, 7, 3], [8, 9, 3, 0]])
    return generator.model({"source": source, "target": tf.constant([[2, 5, 6], [2, 9, 7]])}, training=False).numpy()


def size_of(folder):
    return sum(path.stat().st_size for path in (folder / "variables").iterdir())


@pytest.fixture(scope="module")
def saved(recurrent, tmp_path_factory):
    """kind -> a SavedModel of the signature "score" with weights of it, and what the rounded model scores."""
    text = tf.TensorSpec([None], tf.string)
    found = {}
    for kind in KINDS:
        with contextlib.ExitStack() as stack:
            module = tf.Module()
            module.tokenizers = recurrent.tokenizers
            if kind == "float32":
                packed, module.model = contextlib.nullcontext, recurrent
            else:
                packing = stack.enter_context(rounded(recurrent.models, kind))
                packed, module.weights = packing.in_graph, packing.module

            def score(source, target, packed=packed):
                with packed():
                    return recurrent.score(source, target)

            path = tmp_path_factory.mktemp(kind)
            options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
            function = tf.function(score).get_concrete_function(source=text, target=text)
            tf.saved_model.save(module, str(path), {"score": function}, options)
            found[kind] = path, scores_of(recurrent)
    return found


def scores_of(generator):
    return generator.score(tf.constant(SOURCES), tf.constant(TARGETS))["log_probability"].numpy()


def test_files_are_smaller(saved):
    size = {kind: size_of(path) for kind, (path, _) in saved.items()}
    rest = 4_000  # names, shapes and what has no channels
    assert size["float16"] < size["float32"] / 2 + rest and size["bfloat16"] < size["float32"] / 2 + rest
    assert size["int8"] < size["float32"] / 4 + 2 * rest
    assert size["float32"] > 20 * rest  # else the bounds above would say nothing


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_scores_as_the_rounded_weights(saved, kind):
    path, expected = saved[kind]
    found = tf.saved_model.load(str(path)).signatures["score"](
        source=tf.constant(SOURCES), target=tf.constant(TARGETS))
    np.testing.assert_allclose(found["log_probability"], expected, rtol=1e-5)
    if kind != "float32":
        assert not np.allclose(expected, saved["float32"][1], rtol=1e-7)


def twin(values, axis):
    """The formula, channel by channel in plain loops: what is stored, and what is computed with."""
    values = np.moveaxis(values.astype(np.float32), axis, 0)
    stored, computed = np.zeros(values.shape, np.int8), np.zeros(values.shape, np.float32)
    for channel, row in enumerate(values):
        scale = np.float32(max(abs(row.min()), abs(row.max()))) / np.float32(127)
        if scale:
            stored[channel] = np.round(row / scale)
            computed[channel] = stored[channel].astype(np.float32) * scale
    return np.moveaxis(stored, 0, axis), np.moveaxis(computed, 0, axis)


@pytest.mark.parametrize(("shape", "axis"), [((7, 5), -1), ((3, 7, 5), -1), ((7, 5), 0)])
def test_int8_is_the_written_formula(shape, axis):
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32) * 3
    np.moveaxis(values, axis, 0)[2] = 0.0
    stored, scale = quantize(values, axis)
    np.testing.assert_array_equal(stored, twin(values, axis)[0])
    np.testing.assert_allclose(stored * scale, twin(values, axis)[1], rtol=1e-6)
    assert (np.abs(stored * scale - values) <= scale / 2 * (1 + 1e-5)).all()
    assert np.abs(stored).max() == 127


@pytest.mark.parametrize("name", ["recurrent", "transformer"])
def test_rounded_logits_are_those_of_the_formula(request, name):
    generator = request.getfixturevalue(name)
    before = [variable.numpy() for variable in generator.model.weights]
    with rounded(generator.models, "int8"):
        found = logits_of(generator)
    for variable, values in zip(generator.model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)  # all is as it was
    float32 = logits_of(generator)
    channels = 0
    try:
        for variable, values in zip(generator.model.weights, before, strict=True):
            if variable.name in CHANNELS:
                variable.assign(twin(values, CHANNELS[variable.name])[1])
                channels += 1
        np.testing.assert_allclose(found, logits_of(generator), rtol=1e-5, atol=1e-5)
    finally:
        for variable, values in zip(generator.model.weights, before, strict=True):
            variable.assign(values)
    assert channels > 4 and np.abs(found - float32).max() > 1e-4


def test_logits_are_off_by_no_more_than_the_scales_imply(recurrent, monkeypatch):
    """|logit' - logit| <= scale / 2 * sum |hidden|, where the output layer alone is rounded."""
    output = recurrent.model.output_layer
    values = output.kernel.numpy()
    exact = logits_of(recurrent)
    stored, scale = quantize(values, -1)
    output.kernel.assign(stored * scale)
    try:
        rough = logits_of(recurrent)
    finally:
        output.kernel.assign(values)
    monkeypatch.setattr(type(recurrent.model), "_logits", lambda self, hidden: hidden)
    size = np.abs(logits_of(recurrent)).sum(-1, keepdims=True)  # [B, T, 1]
    bound = size * scale[0] / 2  # [B, T, V]
    assert (np.abs(rough - exact) <= bound + 1e-6).all()
    assert (np.abs(rough - exact) > bound / 100).any()


class FakeWithKerasWeight(FakeGenerator):
    """Its one weight is Keras', as those of real models are."""

    def __init__(self):
        super().__init__()
        self.weight = keras.Variable(0.3)
        self.models = [types.SimpleNamespace(weights=[self.weight])]


def test_an_export_answers_as_the_rounded_weights(tmp_path):
    generator = FakeWithKerasWeight()
    lines = {"check_sources": ["one", "three"], "check_targets": ["un", "trois"]}
    with rounded(generator.models, "float16") as packed:
        path = export(generator, tmp_path, packed=packed, config_json="{}", about={"weights": "float16"}, **lines)
    assert float(generator.weight) == np.float32(0.3)
    found = tf.saved_model.load(str(path)).signatures["greedy"](text=tf.constant(["one"]))
    assert found["score"].numpy()[0, 0] == -2 * np.float32(np.float16(0.3)) != -2 * np.float32(0.3)
    assert json.loads((path / "assets.extra" / "export.json").read_text())["weights"] == "float16"
    with rounded(generator.models, "float16") as packed:
        generator.weight.assign(0.35)  # the functions that are saved compute with something else then
        with pytest.raises(ExportError, match="the SavedModel gives score"):
            export(generator, tmp_path, packed=packed, config_json="{}", **lines)


@pytest.mark.slow
def test_a_transformer_is_exported_in_int8(transformer, tmp_path):
    with rounded(transformer.models, "int8") as packed:
        path = export(
            transformer, tmp_path, packed=packed, config_json="{}", check_sources=SOURCES, check_targets=TARGETS,
            about={"weights": "int8"})
    assert json.loads((path / "assets.extra" / "export.json").read_text())["weights"] == "int8"
    stored = {dtype for _, dtype in tf.train.load_checkpoint(
        str(path / "variables" / "variables")).get_variable_to_dtype_map().items()}
    assert tf.int8 in stored


def test_what_float16_cannot_hold_is_refused(recurrent):
    variable = recurrent.model.weights[0]
    values = variable.numpy()
    try:
        variable.assign(values * 0 + 1e6)
        with pytest.raises(ValueError, match=r'up to 65504; take "bfloat16". Received: .* with 1e\+06'):
            PackedWeights(recurrent.models, "float16")
        PackedWeights(recurrent.models, "bfloat16")
    finally:
        variable.assign(values)
    with pytest.raises(ValueError, match="needs a kind of float16, bfloat16, int8. Received: 'int4'"):
        PackedWeights(recurrent.models, "int4")
