"""From a trained run to an answer over gRPC: every stage gives the same strings and scores."""

import json

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from serving.client import Client, ServingError
from serving.server import EmbeddedServer
from tfseq2seq import assessment, runs
from tfseq2seq.config import parse_recipe
from tfseq2seq.training import load_generator

LINES = ["abca", "dab", "", "zzz é", "a" * 10_000, "cc"]


@pytest.fixture(scope="module")
def opened(tiny_run):
    return runs.open_run(tiny_run)


@pytest.fixture(scope="module")
def generator(opened, tiny_run):
    return load_generator(*opened, tiny_run)


@pytest.fixture(scope="module")
def exported(opened, tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    assert runs.export_run(*opened, tiny_run, folder, None, lambda *_: None).name == "1"
    return folder


@pytest.fixture(scope="module")
def client(exported):
    with EmbeddedServer(exported, port=0) as server:
        yield Client(f"127.0.0.1:{server.port}")


def beam_of(generator, lines):
    result = generator.beam(tf.constant(lines), 3)
    return result["text"].numpy(), result["score"].numpy()


def test_checkpoint_saved_model_and_server_answer_the_same(generator, exported, client):
    texts, scores = beam_of(generator, LINES)
    loaded = tf.saved_model.load(str(exported / "1")).signatures["serving_default"](text=tf.constant(LINES))
    np.testing.assert_array_equal(loaded["text"].numpy(), texts)
    np.testing.assert_allclose(loaded["score"].numpy(), scores, rtol=1e-5)
    for row, text, score in zip(client.predict(LINES), texts, scores, strict=True):
        assert [hypothesis.text.encode() for hypothesis in row] == text.tolist()
        np.testing.assert_allclose([hypothesis.score for hypothesis in row], score, rtol=1e-5)


def test_a_line_gets_the_same_answer_alone_and_in_a_batch(generator):
    texts, scores = beam_of(generator, LINES)
    for i, line in enumerate(LINES):
        alone, alone_score = beam_of(generator, [line])
        np.testing.assert_array_equal(alone[0], texts[i])
        np.testing.assert_allclose(alone_score[0], scores[i], rtol=1e-5)


def test_a_served_score_is_the_log_probability_that_score_gives(client, opened):
    alpha = opened[0].decode.length_penalty
    sources = ["abca", "dab", "cc"]
    for source, row in zip(sources, client.predict(sources), strict=True):
        for hypothesis in row:
            log_probability = client.score([source], [hypothesis.text])[0]
            length = len(hypothesis.text.split()) + 1
            assert hypothesis.score == pytest.approx(log_probability / ((5 + length) / 6) ** alpha, rel=1e-4)


def test_greedy_is_served_too(client, generator):
    expected = generator.greedy(tf.constant(["abca", "dab"]))
    answers = client.greedy(["abca", "dab"])
    assert [answer.text.encode() for answer in answers] == expected["text"].numpy()[:, 0].tolist()


def test_invalid_utf8_and_no_rows_are_answered(exported):
    function = tf.saved_model.load(str(exported / "1")).signatures["serving_default"]
    assert np.isfinite(function(text=tf.constant([b"ab\xff\xfe"]))["score"].numpy()).all()
    assert function(text=tf.constant([], tf.string))["text"].shape == (0, 3)


def test_a_bad_request_harms_no_other(client, exported):
    with pytest.raises(ServingError):
        client.predict(["ab"], signature="translate")
    assert client.predict(["ab"])[0][0].text is not None


def test_predict_keeps_the_order_of_lines_of_all_lengths(opened, generator, tiny_run):
    lines = ["d" * (1 + i % 9) + "ab" for i in range(40)]
    answers = runs.predict_lines(*opened, tiny_run, lines, 2, lambda *_: None)
    texts, scores = beam_of(generator, lines)
    assert [row[0].text.encode() for row in answers] == texts[:, 0].tolist()
    assert all(len(row) == 2 for row in answers)
    np.testing.assert_allclose([row[0].score for row in answers], scores[:, 0], rtol=1e-4)


def test_evaluate_scores_the_run_beside_the_baseline(opened, tiny_run):
    scores = assessment.evaluate_run(*opened, tiny_run, "test", None, lambda *_: None)
    assert list(scores) == [opened[1].task.baseline_name, "tiny"]
    saved = json.loads((tiny_run / "scores-test.json").read_text())
    assert saved["tiny"]["word_error_rate"]["value"] == scores["tiny"]["word_error_rate"].value


def test_the_export_carries_its_recipe(exported, opened):
    config = json.loads((exported / "1" / "assets.extra" / "config.json").read_text())
    assert config == json.loads(opened[0].model_dump_json())


@pytest.mark.slow  # tests/test_applications.py goes the same way with other subwords
def test_subwords_go_all_the_way(tmp_path):
    """Translation with one shared sentencepiece model, tied embeddings, GRU and input feeding, in bfloat16."""
    numbers = ["one", "two", "three", "four", "five", "six", "seven"]
    words = ["un", "deux", "trois", "quatre", "cinq", "six", "sept"]
    pairs = [
        (f"{numbers[i]} and {numbers[j]}.", f"{words[i]} et {words[j]}.") for i in range(7) for j in range(7) if i != j]
    for name, part in (("train", pairs[:36]), ("valid", pairs[36:])):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in part), encoding="utf-8")
    tokenizer = {"kind": "unigram", "vocabulary_size": 320}
    run = parse_recipe({
        "name": "subwords",
        "data": {
            "folder": str(tmp_path), "source_tokenizer": tokenizer, "target_tokenizer": tokenizer,
            "share_tokenizer": True, "num_lengths": 1, "batch_tokens": 256},
        "model": {
            "embedding_units": 8, "share_embeddings": "all", "encoder": {"cell": "gru", "units": 6},
            "decoder": {"cell": "gru", "units": 8, "attention": "additive", "input_feeding": True}},
        "train": {"steps": 4, "evaluate_every": 4, "precision": "mixed_bfloat16", "warmup_steps": 1},
        "decode": {"max_length": 12}})
    folder = tmp_path / "run"
    progress = runs.train_run(run, folder, Console(quiet=True))
    assert progress.evaluated_step == 4 and progress.best_value is not None
    exported = runs.export_run(*runs.open_run(folder), folder, tmp_path / "export", None, lambda *_: None)
    with EmbeddedServer(exported.parent, port=0) as server, Client(server.address) as client:
        row = client.predict(["three and four."])[0]
    expected = load_generator(*runs.open_run(folder), folder).beam(tf.constant(["three and four."]), 4)
    assert [hypothesis.text.encode() for hypothesis in row] == expected["text"].numpy()[0].tolist()


def test_a_run_beside_itself_answers_as_alone(opened, tiny_run, tmp_path):
    quiet = Console(quiet=True)
    written = []
    for overrides in ({}, {"decode.others": [str(tiny_run)], "decode.weights": [3.0, 1.0]}):
        changed = runs.open_run(tiny_run, overrides)
        source, output = tmp_path / "source.txt", tmp_path / f"{len(overrides)}.tsv"
        source.write_text("abca\ndab\n", "utf-8")
        runs.predict_file(*changed, tiny_run, source, output, num_hypotheses=2, output_format="tsv", console=quiet)
        written.append([line.split("\t") for line in output.read_text("utf-8").splitlines()])
    assert [line[::2] for line in written[0]] == [line[::2] for line in written[1]]
    np.testing.assert_allclose(*([float(line[1]) for line in lines] for lines in written), atol=1e-3)


def test_runs_with_other_tokenizers_do_not_answer_together(opened, tiny_run, monkeypatch):
    run, prepared = runs.open_run(tiny_run, {"decode.others": [str(tiny_run)]})
    other = runs.open_run(tiny_run)
    monkeypatch.setattr(type(other[1].target_tokenizer), "vocabulary", lambda self: [str(id(self))])
    with pytest.raises(ValueError, match="runs with the same tokenizers"):
        assessment.evaluate_run(run, prepared, tiny_run, "test", 1, lambda *_: None)


@pytest.mark.parametrize("key, text", [
    ("train.steps", "can change decode.* and export.*"), ("decode.beam_sise", "Did you mean 'beam_size'")])
def test_only_how_a_run_answers_can_be_changed_afterwards(tiny_run, key, text):
    with pytest.raises(ValueError, match=text):
        runs.open_run(tiny_run, {key: 3})
