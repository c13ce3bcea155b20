"""A model in numbers: against counts by hand from the papers' formulas."""

import importlib.util
import io
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tfseq2seq import cli
from tfseq2seq.config import Model, parse_recipe
from tfseq2seq.decoders import DECODERS
from tfseq2seq.description import count_operations, count_while, describe, list_parts, measure_activations
from tfseq2seq.encoders import ENCODERS
from tfseq2seq.model import build_model

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY, LENGTH = 20, 5
RECURRENT = {"kind": "recurrent", "layers": 2, "units": 4}  # 8 wide, as all others here
CONVOLUTIONAL = {"kind": "convolutional", "layers": 2, "units": 8, "max_positions": 256}
TRANSFORMER = {"kind": "transformer", "layers": 2, "units": 8, "heads": 2, "feed_forward_units": 12}
TABLES = {
    "recurrent": RECURRENT, "convolutional": CONVOLUTIONAL, "transformer": TRANSFORMER,
    "pyramidal": {"kind": "pyramidal", "units": 4, "layers": 2},
    "conformer": {"kind": "conformer", "units": 8, "layers": 1, "heads": 2, "feed_forward_units": 12},
    "subsampling": {"kind": "subsampling", "units": 8},
    "sequence": {"kind": "sequence", "encoders": [CONVOLUTIONAL, RECURRENT]},
    "parallel": {
        "kind": "parallel", "encoders": [{"kind": "sequence", "encoders": [RECURRENT, TRANSFORMER]}, RECURRENT]},
}


def make(encoder, decoder, **settings):
    table = {"embedding_units": 6, "encoder": encoder, "decoder": decoder, **settings}
    return build_model(Model.model_validate(table), VOCABULARY, VOCABULARY)


def recipe(model=None, **tables):
    tokenizers = {
        "source_tokenizer": {"kind": "bpe", "vocabulary_size": VOCABULARY},
        "target_tokenizer": {"kind": "bpe", "vocabulary_size": VOCABULARY}}
    data = tokenizers | tables.pop("data", {})
    small = {"embedding_units": 6, "encoder": RECURRENT, "decoder": {"kind": "attentional", "units": 8}}
    return parse_recipe({"name": "made-up", "data": data, "model": model or small, **tables})


def walk(parts):
    for part in parts:
        yield part
        yield from walk(part.parts)


def test_operations_of_a_recurrent_model_with_attention():
    x, e, d = 6, 4, 8  # embedding, encoder and decoder units
    model = make(
        {"kind": "recurrent", "units": e, "bidirectional": False},
        {"kind": "attentional", "units": d, "attention": "general"})
    # An LSTM step is four gates of [input; state]; our kernels add the bias and, with a mask, the padding as inputs.
    source = LENGTH * 4 * e * (x + e + 2)
    source += 2 * (2 * e * d)  # the bridge: both states of the encoder to both of the decoder
    source += LENGTH * e * d  # keys
    # Cell, scores, context, and what joins context and state.
    decoder = LENGTH * (4 * d * (x + d + 1) + LENGTH * d + LENGTH * e + (e + d) * d)
    assert count_operations(model, LENGTH) == (2 * source, 2 * decoder, 2 * LENGTH * d * VOCABULARY)


def test_operations_of_a_convolutional_model_with_a_fixed_context():
    x, d, kernel, layers = 6, 8, 5, 3
    model = make(
        {"kind": "convolutional", "units": d, "layers": layers, "kernel_size": kernel},
        {"kind": "recurrent", "cell": "gru", "units": d})
    source = LENGTH * (x * d + layers * kernel * d * 2 * d + d * d)  # way in, convolutions with their gates, way out
    source += LENGTH * d + d * d  # the mean over the steps, and the decoder's first state
    decoder = LENGTH * 3 * d * (x + d + d + 1)  # a GRU's three gates of [token; context; state; 1]
    output = LENGTH * (d + x + d) * VOCABULARY  # of [state; token; context]
    assert count_operations(model, LENGTH) == (2 * source, 2 * decoder, 2 * output)


def test_operations_of_a_transformer():
    d, inner, layers = 8, 12, 2
    model = make(TRANSFORMER, TRANSFORMER, embedding_units=d)
    attention = 2 * LENGTH * LENGTH * d  # scores and mix
    source = layers * (LENGTH * (4 * d * d + 2 * d * inner) + attention) + LENGTH * d  # and the mean over the steps
    source += layers * LENGTH * 2 * d * d  # keys and values that the decoder looks at
    decoder = layers * (LENGTH * (4 * d * d + 2 * d * d + 2 * d * inner) + 2 * attention)
    assert count_operations(model, LENGTH) == (2 * source, 2 * decoder, 2 * LENGTH * d * VOCABULARY)


def test_operations_of_additive_attention_within_a_loop():
    d, attentional = 8, {"kind": "attentional", "units": 8, "attention": "additive"}
    fed, plain = (make(RECURRENT, {**attentional, "input_feeding": feeding}) for feeding in (True, False))
    (source, fed_operations, _), (_, operations, _) = (count_operations(model, LENGTH) for model in (fed, plain))
    # Every step reads the last attentional vector; `step` adds the bias without a product.
    assert fed_operations - operations == 2 * LENGTH * (4 * d * d - 4 * d)
    other = make(RECURRENT, {**attentional, "attention": "dot"})
    # Queries are projected, and each pair of a target and a source step costs one product with a vector, as in "dot".
    assert operations - count_operations(other, LENGTH)[1] == 2 * LENGTH * d * d
    assert source - count_operations(other, LENGTH)[0] == 2 * LENGTH * d * d  # keys


def test_operations_follow_the_shapes():
    a, b, c = tf.ones([2, 7, 3]), tf.ones([2, 7, 5]), tf.ones([3, 5])
    cases = {
        2 * 2 * 3 * 7 * 5: lambda: tf.matmul(a, b, transpose_a=True),
        2 * 7 * 3 * 5: lambda: tf.matmul(a[0], c),
        2 * 7 * 3 * 6: lambda: tf.matmul(a[0], tf.ones([7, 6]), transpose_a=True),
        2 * 2 * 7 * 3 * 5: lambda: tf.einsum("btd,de->bte", a, c),
        2 * 2 * 4 * 3 * 3 * 9: lambda: tf.nn.conv1d(a, tf.ones([3, 3, 9]), stride=2, padding="SAME"),
        0: lambda: tf.nn.softmax(a * 2.0)}
    for operations, function in cases.items():
        counted, result = count_while(function)
        assert counted == operations
        np.testing.assert_array_equal(result, function())
    assert count_while(lambda: [tf.matmul(c, c, transpose_b=True) for _ in range(4)])[0] == 4 * 2 * 3 * 5 * 3


def test_the_base_transformer_has_the_parameters_of_the_paper():
    table = {"kind": "transformer", "norm": "post"}
    model = build_model(Model.model_validate(
        {"preset": "base", "share_embeddings": "all", "encoder": table, "decoder": table}), 37_000, 37_000)
    d, inner = 512, 2048
    attention, feed_forward, norm = 4 * (d * d + d), 2 * d * inner + inner + d, 2 * d
    encoder = 6 * (attention + feed_forward + 2 * norm)
    decoder = 6 * (2 * attention + feed_forward + 3 * norm)
    parts = list_parts(model)
    # Vaswani et al., 2017, table 3, say 65 million, with about 37,000 ids.
    assert sum(part.parameters for part in parts) == 37_000 * d + encoder + decoder == 63_082_496
    assert [(part.name, part.parameters) for part in parts] == [
        ("source_embedding", 37_000 * d), ("encoder", encoder), ("target_embedding", 0), ("decoder", decoder)]
    layers = parts[3].parts[0]
    assert (layers.name, layers.count, layers.type) == ("layer_0 … layer_5", 6, "TransformerLayer")
    assert {part.type: part.parameters for part in layers.parts} == {
        "SelfAttention": 6 * attention, "CrossAttention": 6 * attention, "FeedForward": 6 * feed_forward,
        "Residual": 18 * norm}


@pytest.mark.parametrize("encoder, decoder", list(zip(ENCODERS, itertools.cycle(DECODERS))))
def test_every_kind_can_be_described(encoder, decoder):
    model = {"embedding_units": 6, "encoder": TABLES[encoder], "decoder": {**TRANSFORMER, "kind": "transformer"}}
    if decoder != "transformer":
        model["decoder"] = {"kind": decoder, "units": 8}
    separator = {"source_separator": "|||"} if encoder == "parallel" else {}
    run = recipe(model, data=separator, export={"max_source_length": 128})
    description = describe(run, LENGTH)
    built = build_model(run.model, VOCABULARY, VOCABULARY)
    assert description.parameters == built.count_parameters() == sum(part.parameters for part in description.parts)
    for part in walk(description.parts):
        assert not part.parts or part.parameters == sum(each.parameters for each in part.parts)
    inner = {"sequence": ("convolutional", "recurrent"), "parallel": ("sequence", "recurrent", "transformer")}
    types = {ENCODERS[kind].__name__ for kind in (encoder, *inner.get(encoder, ()))} | {DECODERS[decoder].__name__}
    assert types < {part.type for part in walk(description.parts)}
    assert min(
        description.source_operations, description.target_operations - description.output_operations,
        description.output_operations, description.activation_bytes) > 0
    console = Console(width=100, file=io.StringIO())
    console.print(description.render())
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    for part in walk(description.parts):  # on one line, with nothing cut off
        cells = {*part.name.split(), part.type, f"{part.parameters:,}"}
        assert any(cells < set(line) for line in lines)


@pytest.fixture(scope="module")
def plain():
    return describe(recipe(data={"batch_tokens": 100}), LENGTH)


def test_memory_is_four_numbers_a_weight_with_adam_and_two_with_sgd(plain):
    sgd = describe(recipe(data={"batch_tokens": 700}, train={"optimizer": "sgd"}), LENGTH)
    assert plain.weight_bytes == sgd.weight_bytes == 4 * plain.parameters
    assert plain.training_bytes == 4 * plain.weight_bytes and sgd.training_bytes == 2 * sgd.weight_bytes
    one = measure_activations(build_model(recipe().model, VOCABULARY, VOCABULARY), LENGTH)
    assert plain.activation_bytes == one * (100 // LENGTH) and sgd.activation_bytes == one * (700 // LENGTH)


def test_activations_hold_the_logits_and_grow_with_them():
    decoder, ids = {"kind": "attentional", "units": 8}, 100
    model = Model.model_validate({"embedding_units": 6, "encoder": RECURRENT, "decoder": decoder})
    few, many = (
        measure_activations(build_model(model, VOCABULARY, size), LENGTH) for size in (VOCABULARY, VOCABULARY + ids))
    arrays, rest = divmod(many - few, 4 * LENGTH * ids)  # as wide as the vocabulary
    assert rest == 0 and 2 <= arrays <= 3  # logits, exponentials, one in between; another shape of them is not another
    gates = 5 * LENGTH * (4 * 4 + 8)  # and cells: two layers in two directions, and the decoder
    assert few > 4 * (LENGTH * VOCABULARY * arrays + gates)


def test_vocabularies_and_sentences_are_as_large_as_the_recipe_allows():
    data = {
        "source_tokenizer": {"kind": "bytes"}, "target_tokenizer": {"kind": "words", "vocabulary_size": 33},
        "max_source_length": 3, "max_target_length": 9}
    description = describe(recipe(data=data))
    assert (description.source_vocabulary_size, description.target_vocabulary_size) == (260, 33)
    assert description.length == 3
    shared = describe(recipe(data=data | {"share_tokenizer": True}), 2)
    assert (shared.source_vocabulary_size, shared.target_vocabulary_size, shared.length) == (260, 260, 2)


def test_sentences_without_tokens_are_refused():
    with pytest.raises(ValueError, match="at least 1 token"):
        describe(recipe(), 0)


def test_the_command_needs_no_data(monkeypatch, capsys, tmp_path):
    path = tmp_path / "made-up.toml"
    path.write_text('name = "made-up"\n[data]\nfolder = "nowhere"\n[model]\nembedding_units = 6\n')
    monkeypatch.setattr(sys, "argv", [
        "tfseq2seq", "describe", str(path), "--json", "--length", "3", "--set", "model.encoder.units=4",
        "--set", "model.decoder.units=8"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "made-up" and told["length"] == 3
    assert [part["name"] for part in told["parts"]] == [
        "source_embedding", "encoder", "target_embedding", "decoder", "output_layer"]
    assert told["parts"][0]["parameters"] == 8000 * 6
    assert told["training_operations"] == pytest.approx(
        3 * (told["source_operations"] + told["target_operations"]), abs=6)  # each is rounded down


def test_the_page_about_models_says_what_the_code_says():
    path = ROOT / "scripts" / "write_models_page.py"
    specification = importlib.util.spec_from_file_location("write_models_page", path)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert script.write(page) == page, "run scripts/write_models_page.py"
    for side, kinds in (("encoder", ENCODERS), ("decoder", DECODERS)):
        for kind in kinds:
            assert f"### `{kind}`\n" in page and f"<!-- generated: keys of {side} {kind} -->" in page
    with pytest.raises(ValueError, match="each of these parts once"):
        script.write(page.replace("generated: presets", "generated: sizes"))
