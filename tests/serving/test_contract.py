"""Contract 6: the model in process, its SavedModel and the served answer are one and the same."""

import importlib.metadata
import json
import math
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import signatures
from serving.client import Client, ServingError
from serving.export import export
from serving.server import EmbeddedServer
from tfseq2seq import options
from tfseq2seq.config import Decode, Model, Tokenizer
from tfseq2seq.generation import Generator
from tfseq2seq.model import build_model
from tfseq2seq.tokenizers import train_tokenizer

SOURCES = ["the cat", "a dog runs", "cats and dogs", "é 猫", "x" * 300]
TARGETS = ["die katze", "ein hund", "", "katzen und hunde", "y"]


@pytest.fixture(scope="module")
def generator():
    keras.utils.set_random_seed(3)
    lines = ["the cat runs", "a dog runs", "cats and dogs", "die katze", "ein hund"] * 4
    tokenizers = [
        train_tokenizer(Tokenizer(kind="unigram", vocabulary_size=300), lines),
        train_tokenizer(Tokenizer(kind="characters"), lines),
    ]
    small = {"units": 8, "dropout": 0.0}
    model = build_model(
        Model(embedding_units=8, encoder=small, decoder=small), *(each.vocabulary_size for each in tokenizers)
    )
    for weights in model.trainable_variables:
        weights.assign(weights * 4.0)  # decided enough to have a best answer
    return Generator(model, *tokenizers, Decode(beam_size=3, num_hypotheses=2, max_length=12), 20)


@pytest.fixture(scope="module")
def folder(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    export(
        generator,
        folder,
        config_json="{}",
        check_sources=SOURCES[:3],
        check_targets=TARGETS[:3],
        num_hypotheses=2,
    )
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with EmbeddedServer(folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with Client(server.address, rows=2) as connected:
        yield connected


@pytest.fixture(scope="module")
def together(server):
    """Sends all rows in one request."""
    with Client(server.address) as connected:
        yield connected


def test_served_hypotheses_are_those_of_the_model(generator, client):
    expected, served = generator.answer(SOURCES), client.predict(SOURCES)
    texts = [[[each.text for each in row] for row in rows] for rows in (expected, served)]
    assert texts[0] == texts[1]
    for one, other in zip(expected, served, strict=True):
        np.testing.assert_allclose([each.score for each in one], [each.score for each in other], rtol=1e-4)


ODD = [b"the cat", b"x" * 10_000, b"", b"\xff\xfe \xc3(", b"a dog runs", b"cats and dogs"]


def ask_raw(stub, rows):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "tfseq2seq", "serving_default"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(rows, tf.string))
    outputs = stub.Predict(request, timeout=60).outputs
    return {name: tf.make_ndarray(outputs[name]) for name in outputs}


def test_odd_rows_are_answered_and_neither_their_request_nor_those_beside_it_change(server):
    # One of 10,000 characters among short ones, and bytes that are no text: in one request, and each in its own.
    channels = [grpc.insecure_channel(server.address) for _ in ODD]
    stubs = [prediction_service_pb2_grpc.PredictionServiceStub(channel) for channel in channels]
    alone = [ask_raw(stubs[0], [row]) for row in ODD]
    together = ask_raw(stubs[0], ODD)
    with ThreadPoolExecutor(len(ODD)) as pool:
        beside = list(pool.map(lambda stub, row: ask_raw(stub, [row]), stubs, ODD))
    assert together["truncated"].tolist() == [False, True, False, False, False, False]
    for row, one in enumerate(alone):
        for name in one:
            for other in (together[name][row], beside[row][name][0]):
                if one[name].dtype.kind == "f":
                    np.testing.assert_allclose(one[name][0], other, rtol=1e-4, atol=1e-5)
                else:
                    np.testing.assert_array_equal(one[name][0], other)
    for channel in channels:
        channel.close()


def test_served_scores_are_those_of_the_model(generator, client):
    expected = generator.score(tf.constant(SOURCES), tf.constant(TARGETS))["log_probability"]
    np.testing.assert_allclose(client.score(SOURCES, TARGETS), expected, rtol=1e-4)


def test_served_greedy_answers_are_those_of_the_model(generator, client):
    expected = tf.function(generator.greedy)(tf.constant(SOURCES))
    served = client.greedy(SOURCES)
    assert [each.text.encode() for each in served] == expected["text"][:, 0].numpy().tolist()
    np.testing.assert_allclose([each.score for each in served], expected["score"][:, 0], rtol=1e-4)


# One value for each of `SOURCES`; None is as exported.
BEAM_ROWS = {
    "length_penalty": [None, 0.0, 2.0, None, 1.0],
    "min_length": [None, 4, None, 2, None],
    "max_length": [3, None, 6, None, None],
    "prefix": [None, "die", None, "k", ""],
    "phrases": [None, None, ["a"], ["hu", "d"], None],
}
SAMPLE_ROWS = {
    "length_penalty": [None, 0.0, None, 2.0, None],
    "min_length": [None, None, 3, None, None],
    "max_length": [None, 5, None, None, 2],
    "temperature": [None, 0.0, 0.5, 2.0, None],
    "top_k": [None, None, 2, 0, 5],
    "top_p": [None, 0.5, None, 0.9, None],
    "min_p": [0.1, None, None, 0.0, 0.5],
    "seed": [None, 3, -(2**40), 2**62, 0],
    "prefix": [None, "die", None, None, "e"],
}


def of_the_model(function, client_options, dtypes):
    """What the model itself answers, step by step in eager mode."""
    columns = signatures.option_columns(client_options, dtypes, len(SOURCES))
    inputs = {name: tf.constant(values, dtypes[name]) for name, values in columns.items()}
    return {name: values.numpy() for name, values in function(tf.constant(SOURCES), **inputs).items()}


def check_equal(expected, served):
    """Equal in all that is told of a hypothesis."""
    for row, answers in enumerate(served):
        there = np.isfinite(expected["score"][row])
        texts = [answer.text.encode() for answer in answers]
        assert texts == expected["text"][row][there].tolist()
        np.testing.assert_allclose([each.score for each in answers], expected["score"][row][there], rtol=1e-4)
        for h, answer in enumerate(answers):
            assert answer.length == expected["length"][row][h]
            assert answer.log_probability == pytest.approx(expected["log_probability"][row][h], rel=1e-4)
            pairs = " ".join(f"{target}-{source}" for target, source in answer.alignment)
            assert pairs.encode() == expected["alignment"][row][h]
            assert len(answer.alignment) == answer.length - 1
            tokens = expected["token_log_probability"][row][h]
            np.testing.assert_allclose(answer.token_log_probabilities, tokens[: answer.length], rtol=1e-3, atol=1e-4)
            np.testing.assert_array_equal(tokens[answer.length :], 0.0)


def test_options_of_the_signatures_are_those_of_the_model():
    beam, sample = signatures.BEAM_OPTIONS, signatures.SAMPLE_OPTIONS
    assert (tuple(beam), tuple(sample)) == (options.BEAM_OPTIONS, options.SAMPLE_OPTIONS)
    assert {**beam, **sample} == {name: dtype.name for name, dtype in options.ROW_OPTIONS.items()}
    assert signatures.AS_EXPORTED["int32"] == signatures.AS_EXPORTED["int64"] == options.DEFAULT_NUMBER
    assert signatures.PHRASE_SEPARATOR == options.PHRASE_SEPARATOR


def test_a_served_beam_with_options_of_each_row_answers_as_the_model(generator, together):
    asked = {**BEAM_ROWS, "phrases": signatures.join_phrases(BEAM_ROWS["phrases"])}
    expected = of_the_model(
        lambda text, **each: generator.beam_with(text, 2, **each), asked, signatures.BEAM_OPTIONS)
    check_equal(expected, together.predict(SOURCES, **BEAM_ROWS))


def test_served_attention_is_that_of_the_model(generator, together):
    expected = generator.beam_with(
        tf.constant(SOURCES), 2, **{
            name: tf.constant(values, signatures.BEAM_OPTIONS[name])
            for name, values in signatures.option_columns(
                dict.fromkeys(signatures.BEAM_OPTIONS), signatures.BEAM_OPTIONS, len(SOURCES)).items()})
    expected = {name: values.numpy() for name, values in expected.items()}
    check_equal(expected, together.predict(SOURCES, signature="beam"))
    for row, answers in enumerate(together.predict(SOURCES, attention=True)):
        source_tokens = min(len(generator.tokenizers[0].encode([SOURCES[row]])[0]) + 1, 20)  # and the end; cut at 20
        for h, answer in enumerate(answers):
            assert answer.attention.shape == (answer.length, source_tokens)
            np.testing.assert_allclose(answer.attention.sum(1), 1.0, rtol=1e-5)  # a softmax, none of it cut off
            np.testing.assert_allclose(
                answer.attention, expected["attention"][row, h, : answer.length, :source_tokens], atol=1e-4)
            assert [np.argmax(weights[:-1]) for weights in answer.attention[:-1]] == [
                source for _, source in answer.alignment]


def test_served_draws_with_options_of_each_row_are_those_of_the_model(generator, together):
    expected = of_the_model(
        lambda text, **each: generator.sample_with(text, 2, **each), SAMPLE_ROWS, signatures.SAMPLE_OPTIONS)
    check_equal(expected, together.sample(SOURCES, **SAMPLE_ROWS))


def test_served_alternatives_are_those_of_the_model(generator, together):
    prefixes = ["", "die", "k", "e", "hund"]
    expected = of_the_model(
        lambda text, prefix: generator.alternatives(text, prefix, 2), {"prefix": prefixes}, {"prefix": "string"})
    check_equal(expected, together.alternatives(SOURCES, prefixes))


def test_served_token_scores_are_those_of_the_model(generator, client):
    expected = generator.score(tf.constant(SOURCES), tf.constant(TARGETS))
    served = client.score_tokens(SOURCES, TARGETS)
    assert [len(each) for each in served] == [len(target) + 1 for target in TARGETS]  # characters, and the end
    for row, tokens in enumerate(served):
        np.testing.assert_allclose(tokens, expected["token_log_probability"][row, : len(tokens)], rtol=1e-4)
        assert sum(tokens) == pytest.approx(float(expected["log_probability"][row]), rel=1e-4)


def same(one, other):
    return [[each.text for each in row] for row in one] == [[each.text for each in row] for row in other]


def test_each_row_gets_what_it_gets_when_asked_alone(together):
    beams, draws = together.predict(SOURCES, **BEAM_ROWS), together.sample(SOURCES, **SAMPLE_ROWS)
    for row, source in enumerate(SOURCES):
        alone = {name: values[row : row + 1] for name, values in BEAM_ROWS.items()}
        assert same(together.predict([source], **alone), beams[row : row + 1])
        alone = {name: values[row : row + 1] for name, values in SAMPLE_ROWS.items()}
        assert same(together.sample([source], **alone), draws[row : row + 1])


def test_without_options_the_beam_gives_the_default_answers(client):
    plain, described = client.predict(SOURCES), client.predict(SOURCES, signatures.BEAM)
    assert same(plain, described)
    for one, other in zip(plain, described, strict=True):
        np.testing.assert_allclose([each.score for each in one], [each.score for each in other], rtol=1e-5)


def test_a_score_is_the_log_probability_of_the_answer_over_its_length_penalty(client):
    for alpha in (0.0, 1.5):
        for row in client.predict(SOURCES, length_penalty=alpha):
            for each in row:
                assert each.score == pytest.approx(each.log_probability / ((5 + each.length) / 6) ** alpha, rel=1e-5)
                assert each.log_probability == pytest.approx(sum(each.token_log_probabilities), rel=1e-5)


def test_lengths_are_kept_to(client):
    for row in client.predict(SOURCES, min_length=4, max_length=5):
        assert row and all(4 <= each.length <= 5 for each in row)
    for row in client.sample(SOURCES, min_length=3, max_length=3):
        assert row and all(each.length == 3 for each in row)


def test_an_answer_begins_with_its_prefix(client):
    prefixes = ["die katze", "e", "", "hund", "zz"]
    for answers in (client.predict(SOURCES, prefix=prefixes), client.sample(SOURCES, prefix=prefixes)):
        assert all(each.text.startswith(prefix) for row, prefix in zip(answers, prefixes, strict=True) for each in row)
        assert all(answers)


def test_an_answer_contains_its_phrases(client):
    phrases = [["katze"], ["hu", "nd"], [], ["d", "i", "e"], ["zz"]]
    for row, needed in zip(client.predict(SOURCES, phrases=phrases), phrases, strict=True):
        assert row and all(phrase in each.text for each in row for phrase in needed)


def test_phrases_come_after_a_prefix(client):
    for row in client.predict(SOURCES, prefix="die", phrases=["katze"]):
        assert row and all(each.text.startswith("die") and "katze" in each.text[3:] for each in row)


def test_alternatives_differ_in_the_token_after_the_prefix_and_are_the_likeliest(generator, client):
    ends = ["", "猫", *generator.tokenizers[1].vocabulary()[4:]]  # the end, an unknown character, and all others
    for prefix in ("", "die"):
        for source, row in zip(SOURCES, client.alternatives(SOURCES, prefix), strict=True):
            assert len(row) == 2
            following = [each.text[len(prefix) : len(prefix) + 1] for each in row]  # "" is the end
            assert following[0] != following[1] and all(each.text.startswith(prefix) for each in row)
            # Their probabilities are those of the two likeliest of all, asked one by one.
            found = sorted((each.token_log_probabilities[len(prefix)] for each in row), reverse=True)
            scored = client.score_tokens([source] * len(ends), [prefix + end for end in ends])
            likeliest = sorted((each[len(prefix)] for each in scored), reverse=True)[:2]
            np.testing.assert_allclose(found, likeliest, rtol=1e-3)


def test_the_same_seed_draws_the_same_and_another_one_others(client):
    assert same(client.sample(SOURCES, seed=5), client.sample(SOURCES, seed=5))
    assert not same(client.sample(SOURCES, seed=5), client.sample(SOURCES, seed=6))
    assert same(client.sample(SOURCES), client.sample(SOURCES, seed=1))  # the exported one


def test_draws_without_a_choice_are_the_greedy_answer(client):
    greedy = [[each.text] * 2 for each in client.greedy(SOURCES)]
    for setting in ({"temperature": 0}, {"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1}):
        assert [[each.text for each in row] for row in client.sample(SOURCES, **setting)] == greedy


@pytest.mark.parametrize(
    ("signature", "asked", "reason"),
    [
        ("beam", {"length_penalty": [0.6, -0.5]}, r"length_penalty needs numbers of at least 0, finite.*\[-0.5\]"),
        ("beam", {"length_penalty": math.inf}, r"length_penalty needs .*\[inf inf\]"),
        ("beam", {"min_length": 0}, r"min_length needs numbers from 1 to 12. Received:\] \[0 0\]"),
        ("beam", {"max_length": [None, 13]}, r"max_length needs numbers from 1 to 12. Received:\] \[13\]"),
        ("beam", {"max_length": -2}, r"max_length needs numbers from 1 to 12"),
        ("beam", {"min_length": 5, "max_length": [4, 6]}, r"min_length needs .* up to max_length.*\[5 5\].*\[4 6\]"),
        ("beam", {"prefix": ["d" * 12, ""]}, r"prefix needs fewer tokens than max_length.*\[12 0\].*\[12 12\]"),
        ("beam", {"prefix": "die", "max_length": [3, 4]}, r"prefix needs fewer tokens.*\[3 3\].*\[3 4\]"),
        ("beam", {"phrases": ["d"] * 9}, r"phrases needs at most 8 phrases of at most 16 tokens a row.*\[9\]"),
        ("beam", {"phrases": "d" * 17}, r"phrases needs at most 8 phrases of at most 16 tokens a row.*\[17\]"),
        ("beam", {"phrases": ["hund", "猫"]}, r"phrases needs tokens that the model knows.*猫"),
        ("sample", {"temperature": -1.0}, r"temperature needs numbers of at least 0, finite.*\[-1 -1\]"),
        ("sample", {"top_k": -3}, r"top_k needs numbers of at least 0"),
        ("sample", {"top_p": [0.0, 1.5]}, r"top_p needs numbers above 0 and at most 1. Received:\] \[0 1.5\]"),
        ("sample", {"min_p": 1.5}, r"min_p needs numbers from 0 to 1. Received:\] \[1.5 1.5\]"),
        ("sample", {"max_length": 0}, r"max_length needs numbers from 1 to 12"),
        ("sample", {"prefix": "d" * 12}, r"prefix needs fewer tokens than max_length"),
        ("alternatives", {"prefixes": "d" * 12}, r"prefix needs fewer tokens than max_length"),
    ],
)
def test_a_wrong_value_is_refused_with_the_reason_and_the_next_request_answered(together, signature, asked, reason):
    ask = {"beam": together.predict, "sample": together.sample, "alternatives": together.alternatives}[signature]
    with pytest.raises(ServingError, match=reason) as caught:
        ask(SOURCES[:2], **asked)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "\n" not in str(caught.value)
    assert together.predict(SOURCES[:1], max_length=3)[0]


ALONE = """
import json, sys

class Hiding:  # what is hidden is as not installed
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in sys.argv[3].split(",")
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Hiding, sys.meta_path)
import tensorflow as tf
import tensorflow_text

model = tf.saved_model.load(sys.argv[1])
texts = tf.constant(json.loads(sys.argv[2]))
outputs = {
    "serving_default": model.signatures["serving_default"](text=texts),
    "score": model.signatures["score"](source=texts, target=texts),
    "tokenize": model.signatures["tokenize"](text=texts)}
print(json.dumps({
    name: {output: tf.nest.map_structure(
        lambda each: each.decode() if isinstance(each, bytes) else each, values.numpy().tolist())
        for output, values in found.items()} for name, found in outputs.items()}))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def check_alone(generator, folder, python, hidden, cwd):
    """Loads the SavedModel in a process of its own; returns the modules that it loaded."""
    ran = subprocess.run(
        [python, "-I", "-c", ALONE, str(folder / "1"), json.dumps(SOURCES), ",".join(hidden)], cwd=cwd,
        capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    answers, modules = map(json.loads, ran.stdout.splitlines()[-2:])
    expected = {
        "serving_default": generator.beam(tf.constant(SOURCES), 2),
        "score": generator.score(tf.constant(SOURCES), tf.constant(SOURCES)),
        "tokenize": generator.tokenize(tf.constant(SOURCES))}
    for name, outputs in expected.items():
        for output, values in outputs.items():
            if values.dtype.is_floating:
                np.testing.assert_allclose(answers[name][output], values, rtol=1e-4, atol=1e-5)
            else:
                assert answers[name][output] == tf.nest.map_structure(
                    lambda each: each.decode() if isinstance(each, bytes) else each, values.numpy().tolist())
    return set(modules)


OURS = {"tfseq2seq", "pipelines", "serving"}


def test_the_saved_model_needs_none_of_our_code(generator, folder, tmp_path):
    hidden = {*OURS, "sentencepiece", "tensorflow_serving"}  # Keras is imported by tensorflow_text itself
    modules = check_alone(generator, folder, sys.executable, hidden, tmp_path)
    assert "tensorflow_text" in modules and not modules & hidden


@pytest.mark.slow
def test_the_saved_model_needs_tensorflow_and_tensorflow_text_alone(generator, folder, tmp_path):
    """In an environment of its own, made for the purpose."""
    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment" / "bin" / "python"
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in ("tensorflow", "tensorflow-text")]
    ran = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--retries", "1", *wanted], capture_output=True, text=True,
        check=False)
    if any(words in ran.stderr for words in ("(from versions: none)", "ConnectionError", "ConnectTimeout")):
        pytest.skip(f"the package registry cannot be reached: {ran.stderr.strip().splitlines()[-1]}")
    assert ran.returncode == 0, ran.stderr[-2000:]
    check_alone(generator, folder, str(python), OURS, tmp_path)
