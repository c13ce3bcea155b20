"""From recordings to a served transcript: tones that are spelled as words."""

import json

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from tensorflow_serving.apis import prediction_log_pb2
from typer.testing import CliRunner

from pipelines.audio import FrontEnd
from pipelines.frames import Frames, write_frames
from pipelines.pairs import DataError
from pipelines.prepare import load_prepared, make_batches
from pipelines.recordings import num_frames, read_recording
from pipelines.sides import EMPTY
from pipelines.tasks.speech import nearest_recording
from pipelines.wav import encode_wav
from serving.checking import check_export
from tfseq2seq.config import Audio, ConfigError, load_recipe
from tfseq2seq.structures import source_mask

RATE = 8000
TONES = {"low": 300, "middle": 900, "high": 2500}
RECIPE = """
name = "tones"
task = "speech"

[data]
folder = {folder}
audio = {{ sample_rate = 8000, mel_bins = 12, speeds = [0.9, 1.0, 1.1], normalization = "global", max_duration = 0.5 }}
target_tokenizer = {{ kind = "words", vocabulary_size = 16 }}
max_source_length = 64
batch_tokens = 512
num_lengths = 2

[model]
source = "features"
ctc = true
embedding_units = 12
encoder = {{ kind = "sequence", encoders = [
    {{ kind = "subsampling", units = 12, dropout = 0.0 }}, {{ kind = "recurrent", cell = "gru", units = 8 }}] }}
decoder = {{ kind = "attentional", units = 16, attention = "additive", cell = "gru" }}

[train]
steps = 60
evaluate_every = 60
learning_rate = 2e-2
schedule = "constant"
warmup_steps = 0
ctc_weight = 0.3
spec_augment = {{ frequency_width = 2, time_width = 2, frequency_masks = 1, time_masks = 1 }}

[decode]
beam_size = 2
max_length = 6

[export]
num_hypotheses = 2
max_source_length = 64
check_lines = 4
weights = "float16"
"""


def recording(words, random):
    """Each word a tenth of a second of its tone, with some noise."""
    times = np.arange(RATE // 10) / RATE
    tones = [np.sin(2 * np.pi * TONES[word] * random.uniform(0.97, 1.03) * times) for word in words]
    samples = np.concatenate([0.3 * tone for tone in tones] + [np.zeros(random.integers(0, 400))])
    return samples + random.normal(scale=0.003, size=len(samples))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    words = list(TONES)
    for name, count in (("train", 60), ("valid", 9), ("test", 9)):
        lines = []
        for i in range(count):
            said = [words[i % 3]] if i % 2 else [words[i % 3], words[i // 3 % 3]]
            (folder / f"{name}{i}.wav").write_bytes(encode_wav(recording(said, random), RATE))
            lines.append(f"{name}{i}.wav\t{' '.join(said)}\n")
        if name == "train":
            (folder / "long.wav").write_bytes(encode_wav(np.zeros(RATE), RATE))
            lines.append("long.wav\tlow\n")
        (folder / f"{name}.tsv").write_text("".join(lines))
    path = folder / "tones.toml"
    path.write_text(RECIPE.format(folder=json.dumps(str(folder))))
    return path


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    """The folder of a finished run."""
    from tfseq2seq import runs

    folder = tmp_path_factory.mktemp("runs") / "tones"
    runs.train_run(load_recipe(recipe), folder, Console(quiet=True))
    return folder


@pytest.fixture(scope="module")
def exported(run):
    from tfseq2seq import runs

    opened = runs.open_run(run)
    runs.export_run(*opened, run, run / "export", None, lambda *_: None)
    return run / "export"


def test_batches_hold_the_features_that_a_server_makes_of_the_files(run):
    prepared = load_prepared(run)
    assert len(prepared.train) == 60 and prepared.left_out["too short or too long"] == 1
    batches = make_batches(prepared, prepared.valid, replicas=1)
    assert max(rows * max(shape) for rows, shape in zip(batches.rows, batches.shapes)) <= 512
    found = {}
    for index, rows in batches.plan(0, shuffle=False):
        inputs, *_ = batches.batch(index, rows)
        for source, row in zip(inputs["source"], rows):
            if row == EMPTY:
                assert not source.any()
                continue
            found[row] = source
            path, _ = prepared.valid[row]
            expected = prepared.source_tokenizer.read(tf.constant([read_recording(path)]), 64)[0].numpy()[0]
            np.testing.assert_allclose(source[: len(expected)], expected, atol=1e-5)
            np.testing.assert_array_equal(source[len(expected) :], 0.0)
            assert num_frames(prepared.source_tokenizer, path) == len(expected)
    assert sorted(found) == list(range(9))
    inputs, *_ = next(iter(batches.dataset()))
    assert inputs["source"].dtype == tf.float32 and inputs["source"].shape[2] == 13


def test_training_plays_recordings_at_speeds_that_follow_from_the_step(run):
    prepared = load_prepared(run)
    batches = make_batches(prepared, prepared.train, replicas=1, for_training=True)
    again = make_batches(prepared, prepared.train, replicas=1, for_training=True)
    counts = []
    for step in range(4 * batches.steps_per_epoch):
        source = batches.batch_at(step)[0]["source"]
        np.testing.assert_array_equal(source, again.batch_at(step)[0]["source"])
        counts += source_mask(tf.constant(source)).numpy().sum(1).tolist()
    own = [num_frames(prepared.source_tokenizer, path) for path, _ in prepared.train]
    assert min(count for count in counts if count) == 1 + 800 * 10 // 11 // 80 < min(own)  # the shortest, at 1.1
    assert max(counts) > max(own)


def test_the_mean_and_deviation_are_those_of_train_at_all_speeds(run):
    prepared = load_prepared(run)
    plain = FrontEnd(prepared.run.data.audio.model_copy(update={"normalization": "none"}))
    contents = [read_recording(path) for path, _ in prepared.train]
    everything = np.concatenate([each for speed in (0.9, 1.0, 1.1) for each in plain.features(contents, speed)])
    np.testing.assert_allclose(prepared.source_tokenizer.mean, everything.mean(0), atol=1e-3)
    np.testing.assert_allclose(prepared.source_tokenizer.deviation, everything.std(0), atol=1e-3)


def test_a_broken_recording_is_named(tmp_path):
    for name, content in (("good", encode_wav(np.zeros(800), RATE)), ("bad", b"RIFF" + bytes(60))):
        (tmp_path / f"{name}.wav").write_bytes(content)
    pairs = [(str(tmp_path / f"{name}.wav"), "low") for name in ("good", "bad")]
    with pytest.raises(DataError, match="bad.wav: no WAV file that can be read: .*needs the bytes of a WAV file"):
        write_frames(Audio(sample_rate=RATE, mel_bins=12), pairs, [], tmp_path / "frames", lambda *_: None)


def test_a_recording_that_no_speed_fits_is_played_as_it_is(tmp_path):
    (tmp_path / "a.wav").write_bytes(encode_wav(np.zeros(800), RATE))  # 11 frames, at half the speed 21
    audio, pairs = Audio(sample_rate=RATE, mel_bins=12, speeds=[0.5]), [(str(tmp_path / "a.wav"), "low")]
    front_end = write_frames(audio, pairs, [], tmp_path / "frames", lambda *_: None)
    side = Frames(tmp_path / "frames", front_end).side(pairs, for_training=True)
    assert side.longest_below(30) + 1 == [21] and side.longest_below(15) + 1 == [11]
    for length, count in ((21, 21), (15, 11)):
        assert side.gather(np.array([0]), length)[1].sum() == count


def test_the_run_answers_and_beats_its_baseline(run):
    from tfseq2seq import runs
    from tfseq2seq.assessment import assess_run

    opened = runs.open_run(run)
    assessment = assess_run(*opened, run, "test", None, lambda *_: None)
    scores = assessment.scores
    assert list(scores) == ["nearest recording", "tones"]
    assert list(scores["tones"]) == ["token_error_rate", "character_error_rate"]
    assert scores["tones"]["token_error_rate"].value < 50
    assert [each.title for each in assessment.breakdowns()] == [
        "by length of the reference, in characters", "by what training has seen"]
    source_tokens, target_tokens, weights = runs.best_generator(*opened, run).attention(opened[1].test[0][0])
    assert weights.shape == (len(target_tokens), len(source_tokens)) and source_tokens[0] == "0.00 s"
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-4)


def test_the_baseline_answers_with_the_recording_most_alike(run):
    prepared = load_prepared(run)
    assert nearest_recording(prepared.train, [prepared.train[7][0]]) == [prepared.train[7][1]]


def test_paths_are_answered_line_by_line(run, tmp_path):
    from tfseq2seq import cli

    prepared = load_prepared(run)
    (tmp_path / "paths.txt").write_text("".join(f"{path}\n" for path, _ in prepared.test[:3]))
    result = CliRunner().invoke(
        cli.app, ["predict", str(run), str(tmp_path / "paths.txt"), "--output", str(tmp_path / "out.txt")])
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 3


def test_a_server_answers_bytes_and_samples_as_the_run_does(run, exported):
    from serving.client import Client
    from serving.server import EmbeddedServer
    from tfseq2seq import cli, runs

    opened = runs.open_run(run)
    paths = [path for path, _ in opened[1].test[:3]]
    expected = [[each.text for each in row] for row in runs.predict_lines(*opened, run, paths, 2, lambda *_: None)]
    with EmbeddedServer(exported) as server, Client(server.address) as client:
        contents = [read_recording(path) for path in paths]
        assert [[each.text for each in row] for row in client.predict(contents)] == expected
        described = client.predict(contents[:1], "beam")[0][0]
        assert described.text == expected[0][0] and described.length == len(described.text.split()) + 1
        result = CliRunner().invoke(cli.app, ["request", "--file", paths[0], "--address", server.address])
        assert result.exit_code == 0, result.output
        assert result.output.splitlines()[0].split("\t")[::2] == [paths[0], expected[0][0]]
    warm_up = tf.data.TFRecordDataset(str(exported / "1" / "assets.extra" / "tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(each.numpy()) for each in warm_up]
    assert "samples" in {log.predict_log.request.model_spec.signature_name for log in logs}
    assert check_export(exported).rows["samples"] == 4
    served = tf.saved_model.load(str(exported / "1")).signatures["samples"]
    samples = np.frombuffer(contents[0][44:], np.float32)
    found = served(
        samples=tf.constant(samples[None]), num_samples=tf.constant([len(samples)]), sample_rate=tf.constant([RATE]))
    assert found["text"].numpy()[0, 0].decode() == expected[0][0]


@pytest.mark.parametrize(("change", "text"), [
    ({"model.source": "tokens"}, "data.audio.* and model.source = .features. belong together"),
    ({"train.ctc_weight": 0.0}, "model.ctc = true and train.ctc_weight above 0 belong together"),
    ({"decode.replace_unknown": True}, "sources that are text|a step for each source token"),
    ({"train.source_word_dropout": 0.1}, "train.source_word_dropout is of sources that are text"),
    ({"model.share_embeddings": "all"}, "has no source embedding to share")])
def test_settings_that_do_not_go_with_recordings_are_refused(recipe, change, text):
    with pytest.raises(ConfigError, match=text):
        load_recipe(recipe, change)
