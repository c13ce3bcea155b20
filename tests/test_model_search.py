"""The search as XLA compiles it, and in several parts, against the same search in the plain graph."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq import config, model_search
from tfseq2seq.config import Decode, Model, Tokenizer
from tfseq2seq.generation import Generator
from tfseq2seq.model import build_model
from tfseq2seq.model_search import find_compiled
from tfseq2seq.options import BEAM_OPTIONS, ROW_OPTIONS
from tfseq2seq.structures import Hypotheses
from tfseq2seq.tokenizers import train_tokenizer

LINES = ["the cat runs", "a dog runs fast", "cats and dogs"]
SOURCES = ["the cat", "cats and dogs"]
RECURRENT = ({"kind": "recurrent"}, {"kind": "attentional", "dropout": 0.0})
ROTARY = ({"kind": "transformer"}, {"kind": "transformer", "positions": "rotary"})
RELATIVE = ({"kind": "convolutional", "layers": 1}, {"kind": "transformer", "positions": "relative"})


@pytest.fixture(scope="module")
def tokenizers():
    return [train_tokenizer(Tokenizer(kind="words"), LINES) for _ in range(2)]


@pytest.fixture(scope="module")
def model_of(tokenizers):
    made = {}

    def table(chosen):
        sizes = {"heads": 2, "layers": 2, "feed_forward_units": 12} if chosen["kind"] == "transformer" else {}
        return {"units": 8, "dropout": 0.0, **sizes, **chosen}

    def make(kinds, seed=3):
        key = (str(kinds), seed)
        if key not in made:
            keras.utils.set_random_seed(seed)
            encoder, decoder = map(table, kinds)
            made[key] = build_model(
                Model(embedding_units=8, encoder=encoder, decoder=decoder),
                *(each.vocabulary_size for each in tokenizers))
            for weights in made[key].trainable_variables:
                weights.assign(weights * 3.0)  # decided enough to have a best answer
        return made[key]

    return make


@pytest.fixture
def both(tokenizers):
    """A function (models, options of [decode]) -> generators of the plain graph and of the compiled search."""

    def make(models, **decode):
        settings = {"beam_size": 3, "num_hypotheses": 3, "max_length": 7, **decode}
        return [Generator(models, *tokenizers, Decode(**settings, jit_compile=jit), 40) for jit in (False, True)]

    return make


def assert_same(plain, compiled):
    for name, expected in plain.items():
        found = compiled[name].numpy()
        if expected.dtype.is_floating:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize(("kinds", "decode"), [
    (RECURRENT, {"coverage_penalty": 0.3, "block_ngrams": 2, "finish": "best", "stop": "first"}),
    (ROTARY, {"num_groups": 3}),
    (RELATIVE, {
        "repetition_penalty": 1.3, "forbidden": ["dog", "a cat"], "min_length": 3, "renormalize": True,
        "free_end": True, "replace_unknown": True}),
    (ROTARY, {"method": "sample", "top_k": 4, "min_p": 0.01}),
], ids=["recurrent", "groups", "constraints", "draws"])
def test_a_source_alone_has_the_answers_of_the_plain_graph(both, model_of, kinds, decode):
    plain, compiled = both(model_of(kinds), **decode)
    for source in SOURCES:
        (expected, _, one), (found, _, other) = (
            each.traced_answer(tf.constant([source])) for each in (plain, compiled))
        assert_same(expected, found)
        # All steps that there is room for; of the source what it has.
        assert other.attention.shape[2:] == (7, one.attention.shape[3])
        np.testing.assert_allclose(other.attention[:, :, : one.attention.shape[2]], one.attention, atol=1e-5)


def test_what_a_row_asks_for_is_done_and_several_models_answer_as_one(both, model_of):
    plain, compiled = both([model_of(ROTARY), model_of(RECURRENT)])
    asked = {
        "length_penalty": [1.2], "min_length": [3], "max_length": [5], "prefix": ["cats"], "phrases": ["dog\nruns"]}
    asked = {name: tf.constant(asked[name], ROW_OPTIONS[name]) for name in BEAM_OPTIONS}
    expected, found = (
        tf.function(each.beam_with, autograph=False)(tf.constant(SOURCES[:1]), 3, **asked)
        for each in (plain, compiled))
    assert_same(expected, found)
    texts = [text.split() for text in found["text"].numpy()[np.isfinite(found["score"])]]
    assert texts and all(text[0] == b"cats" and {b"dog", b"runs"} < set(text) for text in texts)


ROWS = ["the cat", "a dog runs fast", "cats", "dogs and cats and the dog", "the cat"]
# What each of these rows asks for; no two alike, or a row could take another's.
ASKED = {
    "length_penalty": [0.0, 0.4, 0.8, 1.2, 1.6], "min_length": [2, 3, 1, 4, 5], "max_length": [7, 6, 4, 5, 6],
    "prefix": ["cats", "", "a dog", "the", "dogs and"], "phrases": ["dog\nruns", "cat", "", "fast", "the"]}
DRAWN = {
    **{name: ASKED[name] for name in ("length_penalty", "min_length", "max_length", "prefix")}, "seed": [5, 4, 3, 2, 1],
    "temperature": [0.5, 1.0, 1.5, 2.0, 0.0], "top_k": [0, 3, 4, 5, 6], "top_p": [1.0, 0.9, 0.8, 0.7, 0.6],
    "min_p": [0.0, 0.1, 0.05, 0.01, 0.02]}


@pytest.mark.parametrize(("kinds", "decode", "asked"), [
    (RECURRENT, {"coverage_penalty": 0.3, "finish": "best", "max_length_ratio": 1.5}, {}),
    (ROTARY, {"num_groups": 3, "length_penalty": 0.0}, {}),
    (ROTARY, {}, ASKED),
    (RELATIVE, {"method": "sample"}, DRAWN),
    (RELATIVE, {"repetition_penalty": 1.3, "renormalize": True, "block_ngrams": 1, "replace_unknown": True}, {}),
], ids=["recurrent", "groups", "asked", "draws", "constraints"])
def test_a_batch_in_parts_has_the_answers_of_one_search(tokenizers, model_of, kinds, decode, asked):
    whole, parts = (
        Generator(
            model_of(kinds), *tokenizers,
            Decode(**{"beam_size": 3, "num_hypotheses": 3, "max_length": 7, **decode}, parts=parts), 40)
        for parts in (1, 2))
    specs = [tf.TensorSpec([None], tf.string), *(tf.TensorSpec([None], ROW_OPTIONS[name]) for name in asked)]
    answer = [
        tf.function(
            lambda text, *values, generator=generator: generator._answers(
                text, 3, **dict(zip(asked, values, strict=True))), input_signature=specs, autograph=False)
        for generator in (whole, parts)]
    for rows in ([0, 1, 2, 3, 4], [3], []):
        inputs = [ROWS, *asked.values()]
        inputs = [
            tf.constant([values[row] for row in rows], spec.dtype, shape=[len(rows)])
            for values, spec in zip(inputs, specs, strict=True)]
        (one, _, expected), (other, _, found) = (each(*inputs) for each in answer)
        assert_same({**one, **expected._asdict()}, {**other, **found._asdict()})


def test_parts_without_sources_and_more_parts_than_sources(tokenizers, model_of):
    generator = Generator(
        model_of(RECURRENT), *tokenizers, Decode(beam_size=2, num_hypotheses=2, max_length=7, parts=4), 40)
    alone = [generator.answer_batch([line])[0] for line in ROWS]
    for answers, expected in zip(generator.answer_batch(ROWS), alone, strict=True):
        assert [answer.text for answer in answers] == [answer.text for answer in expected]


def test_parts_are_traced_once(tokenizers, model_of):
    generator = Generator(model_of(RECURRENT), *tokenizers, Decode(beam_size=2, max_length=7, parts=3), 40)
    graph = generator.traced_answer.get_concrete_function().graph
    calls = [operation for operation in graph.get_operations() if "PartitionedCall" in operation.type]
    called = [operation.get_attr("f").name for operation in calls if "search_part" in operation.get_attr("f").name]
    assert len(called) == 3 and len(set(called)) == 1


def test_a_source_alone_is_compiled_and_several_are_not(both, model_of):
    answer = both(model_of(RECURRENT))[1].traced_answer.get_concrete_function()
    functions = [each.cached_definition for each in answer.graph._functions.values()]
    assert sum("_XlaMustCompile" in each.attr and each.attr["_XlaMustCompile"].b for each in functions) == 1
    alone, several = answer(tf.constant(["the cat"])), answer(tf.constant(["the cat", "a dog runs fast"]))
    assert alone[2].tokens.shape[2] == 7  # all steps there is room for
    assert alone[0]["text"][0, 0] == several[0]["text"][0, 0]


@pytest.mark.parametrize("width", [1, 16, 17])
def test_the_compiled_search_sees_few_lengths(model_of, width):
    def find(models, source, longest, **arguments):
        return Hypotheses(*(tf.zeros([1, 1, 1, tf.shape(source)[1]], tf.int32) for _ in Hypotheses._fields))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_search, "find", find)
        found = find_compiled([model_of(RECURRENT)], tf.ones([1, width], tf.int32), 7, beam_size=2)
    assert found.tokens.shape[3] == {1: 16, 16: 16, 17: 32}[width]
    assert found.attention.shape[3] == width


def test_what_xla_cannot_do_is_refused_beforehand(tmp_path):
    with pytest.raises(ValueError, match="jit_compile = true does not work with only_from.*Received: only_from="):
        Decode(jit_compile=True, only_from=str(tmp_path))
    with pytest.raises(ValueError, match="decode.jit_compile = true does not work with a parallel encoder"):
        config.Run(
            name="x", task="translation", data={"source_separator": "|||"}, decode={"jit_compile": True},
            model={"encoder": {"kind": "parallel", "encoders": [{"kind": "recurrent"}, {"kind": "recurrent"}]}})
