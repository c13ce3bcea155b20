"""Two sources on a line, from the recipe to the answer of the exported model."""

import random

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tfseq2seq import assessment, runs
from tfseq2seq.config import parse_recipe
from tfseq2seq.training import load_generator

LINES = ["abc ||| dd", "abc|||dd", "abc", "||| dd", "", "abc ||| dd ||| not read", "a" * 500 + "|||b"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a run that writes the letters of the first source, then those of the second."""
    folder, choice = tmp_path_factory.mktemp("sources"), random.Random(1)
    rows = [["".join(choice.choices("abcd", k=choice.randint(1, 3))) for _ in range(2)] for _ in range(80)]
    for name, part in (("train", rows[:64]), ("valid", rows[64:72]), ("test", rows[72:])):
        (folder / f"{name}.tsv").write_text("".join(f"{a} ||| {b}\t{' '.join(a + b).upper()}\n" for a, b in part))
    encoder = {"kind": "convolutional", "layers": 1, "units": 16, "dropout": 0.0}
    run = parse_recipe({
        "name": "sources", "task": "pronunciation",
        "data": {
            "folder": str(folder), "source_separator": "|||", "source_tokenizer": {"kind": "characters"},
            "target_tokenizer": {"kind": "words"}, "batch_tokens": 256, "num_lengths": 1, "filter": False},
        "model": {
            "embedding_units": 8, "encoder": {"kind": "parallel", "encoders": [encoder, encoder]},
            "decoder": {"units": 16, "dropout": 0.0}},
        "train": {"steps": 20, "evaluate_every": 20, "learning_rate": 2e-2, "schedule": "constant", "warmup_steps": 0},
        "decode": {"max_length": 8, "beam_size": 2},
        "export": {"num_hypotheses": 2, "max_source_length": 32, "check_lines": 3}})
    runs.train_run(run, folder / "run", Console(quiet=True))
    return folder / "run"


@pytest.fixture(scope="module")
def opened(trained):
    return runs.open_run(trained)


@pytest.fixture(scope="module")
def generator(opened, trained):
    return load_generator(*opened, trained)


def test_a_run_of_two_sources_is_scored_exported_and_answers(opened, generator, trained, tmp_path):
    run, prepared = opened
    assert "|" not in prepared.source_tokenizer.vocabulary()
    scores = assessment.evaluate_run(run, prepared, trained, "test", None, lambda *_: None)
    assert 0 <= scores["run"]["word_error_rate"].value <= 100
    exported = runs.export_run(run, prepared, trained, tmp_path / "export", None, lambda *_: None)
    served = tf.saved_model.load(str(exported)).signatures["serving_default"](text=tf.constant(LINES))
    texts, values = served["text"].numpy(), served["score"].numpy()
    answers = [row[0] for row in generator.answer(LINES)]
    assert [answer.text.encode() for answer in answers] == texts[:, 0].tolist()
    np.testing.assert_allclose([answer.score for answer in answers], values[:, 0], rtol=1e-4)
    for other in (1, 5):  # white space and sources beyond the encoders change nothing
        assert texts[other].tolist() == texts[0].tolist()
        np.testing.assert_allclose(values[other], values[0], rtol=1e-4)
    for other in (2, 3):  # a source that is missing does
        assert not np.allclose(values[other], values[0], rtol=1e-3)


def test_each_step_of_the_attention_has_its_token(generator):
    for line, expected in (("ab ||| c", "a b </s> c </s>"), ("ab ||| c ||| d", "a b </s> c </s>"), ("ab", "a b </s>")):
        source, target, weights = generator.attention(line)
        assert source == expected.split()
        assert weights.shape == (len(target), len(source))
        np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-4)  # none fell on what has no token
