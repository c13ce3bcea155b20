"""Contract 6: the model in process, its SavedModel and the served answer are one and the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving.client import Client
from serving.export import export
from serving.server import EmbeddedServer
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
def client(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    export(
        generator,
        folder,
        config_json="{}",
        check_sources=SOURCES[:3],
        check_targets=TARGETS[:3],
        num_hypotheses=2,
    )
    with EmbeddedServer(folder) as server, Client(server.address, rows=2) as connected:
        yield connected


def test_served_hypotheses_are_those_of_the_model(generator, client):
    expected, served = generator.answer(SOURCES), client.predict(SOURCES)
    texts = [[[each.text for each in row] for row in rows] for rows in (expected, served)]
    assert texts[0] == texts[1]
    for one, other in zip(expected, served, strict=True):
        np.testing.assert_allclose([each.score for each in one], [each.score for each in other], rtol=1e-4)


def test_served_scores_are_those_of_the_model(generator, client):
    expected = generator.score(tf.constant(SOURCES), tf.constant(TARGETS))["log_probability"]
    np.testing.assert_allclose(client.score(SOURCES, TARGETS), expected, rtol=1e-4)


def test_served_greedy_answers_are_those_of_the_model(generator, client):
    expected = tf.function(generator.greedy)(tf.constant(SOURCES))
    served = client.greedy(SOURCES)
    assert [each.text.encode() for each in served] == expected["text"][:, 0].numpy().tolist()
    np.testing.assert_allclose([each.score for each in served], expected["score"][:, 0], rtol=1e-4)
