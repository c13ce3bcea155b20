"""A version appears whole and proven, or not at all."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving import export as export_module
from serving import replay
from serving.export import ExportError, export
from tests.serving.fake import FakeGenerator

LINES = {"check_sources": ["one", "three"], "check_targets": ["un", "trois"]}


def run(folder, generator=None, **settings):
    return export(generator or FakeGenerator(), folder, config_json="{}", **{**LINES, **settings})


def test_what_is_exported_holds_its_recipe_and_its_origin(exported):
    extra = exported / "1" / "assets.extra"
    assert json.loads((extra / "config.json").read_text()) == {"name": "fake"}
    about = json.loads((extra / "export.json").read_text())
    assert about["libraries"]["tensorflow"] == tf.__version__
    assert about["scores"] == {"bleu": 12.5}
    # The fake model holds one variable.
    name = next(
        name
        for name, _ in tf.train.list_variables(str(exported / "1" / "variables" / "variables"))
        if name.startswith("generator")
    )
    digest = hashlib.sha256(f"{name} float32 ()\n".encode() + np.float32(0.5).tobytes())
    assert about["variables_sha256"] == digest.hexdigest()
    assert about["check_scores"] is None
    assert [path.name for path in exported.iterdir()] == ["1"]


def test_others_may_read_what_is_exported(exported):
    umask = os.umask(0)
    os.umask(umask)
    assert (exported / "1").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_search_that_is_compiled_for_a_line_alone_is_warmed_up_by_lines_alone(tmp_path):
    generator = FakeGenerator()
    generator.decode.jit_compile = True
    export(generator, tmp_path / "m", config_json="{}", check_sources=["one", "three"], check_targets=["un", "t"])
    asked = []
    for record in tf.data.TFRecordDataset(str(tmp_path / "m" / "1" / "assets.extra" / "tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        if request.model_spec.signature_name == "serving_default":
            asked.append(tf.make_ndarray(request.inputs["text"]).tolist())
    assert asked == [[b"one", b"three"], [b"one"], [b"three"]]


def test_each_signature_has_a_warm_up_request_of_its_inputs(exported):
    records = tf.data.TFRecordDataset(str(exported / "1" / "assets.extra" / "tf_serving_warmup_requests"))
    requests = {}
    for record in records:
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        requests[request.model_spec.signature_name] = {
            name: tf.make_ndarray(tensor).tolist() for name, tensor in request.inputs.items()
        }
    # The check lines with their settings in turn; not the empty line, which is asked in the export alone.
    text, prefix = [b"one", b"three"], [b"u", b"t"]
    assert requests.pop("sample") == {
        "text": text,
        "length_penalty": [IsNan()] * 2,
        "min_length": [-1] * 2,
        "max_length": [-1] * 2,
        "temperature": [IsNan(), 0.0],
        "top_k": [-1] * 2,
        "top_p": [IsNan()] * 2,
        "min_p": [IsNan()] * 2,
        "seed": [-1] * 2,
        "prefix": prefix,
    }
    assert requests.pop("beam") == {
        "text": text,
        "length_penalty": [IsNan(), 0.0],
        "min_length": [-1, 1],
        "max_length": [-1] * 2,
        "prefix": prefix,
        "phrases": [b""] * 2,
    }
    assert requests == {
        "serving_default": {"text": text},
        "greedy": {"text": text},
        "alternatives": {"text": text, "prefix": prefix},
        "score": {"source": text, "target": [b"un", b"trois"]},
        "tokenize": {"text": text},
    }


def test_warm_up_lines_are_of_all_lengths():
    lengths = [7, 1, 9, 3, 5, 2, 8, 4, 6, 9]
    assert [lengths[row] for row in replay._spread(lengths, 3)] == [1, 5, 9]
    assert [lengths[row] for row in replay._spread(lengths, 99)] == sorted(lengths)
    assert replay._spread([4], 5) == [0]


def test_no_more_requests_than_a_server_takes(tmp_path):
    lines = {"check_sources": ["a"] * 150, "check_targets": ["b"] * 150}
    generator = FakeGenerator()
    generator.decode.jit_compile = True
    with pytest.raises(ValueError, match=r"at most 1000 requests .* Received: 1183 requests of 150 lines"):
        run(tmp_path / "m", generator, warm_up_lines=150, **lines)
    assert not (tmp_path / "m").exists()


class IsNan:
    """Equal to NaN alone."""

    def __eq__(self, other):
        return np.isnan(other)


def test_the_next_version_is_one_above_the_highest_and_a_taken_one_is_refused(exported, tmp_path):
    shutil.copytree(exported / "1", tmp_path / "7")
    (tmp_path / "notes").mkdir()
    assert run(tmp_path).name == "8"
    with pytest.raises(ExportError, match=r"7 exists already; name another version, or none .*\(9\)"):
        run(tmp_path, version=7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "8", "notes"]


def test_a_number_taken_meanwhile_gives_the_next_one(tmp_path, monkeypatch):
    rename = Path.rename

    def overtaken(self, target):
        if target.name == "1" and not target.exists():
            (target / "other").mkdir(parents=True)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    assert run(tmp_path).name == "2"
    assert (tmp_path / "1" / "other").is_dir()


class Forgetful(FakeGenerator):
    """Scores otherwise at every second asking, as state that is lost on the way would."""

    def __init__(self):
        super().__init__()
        self.asked = tf.Variable(0.0)

    def greedy(self, text):
        found = super().greedy(text)
        return {**found, "score": found["score"] - 0.01 * self.asked.assign_add(1.0)}


class Joined(FakeGenerator):
    """Lets the rows of a batch see each other: an answer is as long as its batch."""

    def greedy(self, text):
        found = super().greedy(text)
        return {**found, "text": found["text"] + tf.strings.as_string(tf.size(text))}


class OfPython(FakeGenerator):
    def greedy(self, text):
        found = super().greedy(text)
        return {**found, "text": tf.py_function(lambda each: each, [found["text"]], tf.string)}


class NeedsRows(FakeGenerator):
    def greedy(self, text):
        tf.debugging.assert_positive(tf.size(text), "no rows")
        return super().greedy(text)


class NotANumber(FakeGenerator):
    def score(self, source, target):
        return {**super().score(source, target), "log_probability": self.weight * tf.fill(tf.shape(source), np.nan)}


class JoinedDraws(FakeGenerator):
    def sample_with(self, text, **inputs):
        found = super().sample_with(text, **inputs)
        return {**found, "length": found["length"] + tf.size(text)}


class JoinedBeam(FakeGenerator):
    """As TensorFlow Serving must not see it: a width that follows from the batch."""

    def beam_with(self, **inputs):
        found = super().beam_with(**inputs)
        longest = tf.maximum(tf.reduce_max(tf.strings.length(inputs["text"])), 1)
        return {**found, "token_log_probability": tf.repeat(found["token_log_probability"], longest, 2)}


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (Forgetful, r"signature greedy, line 1 \{'text': 'one'\}: the SavedModel .*gives score \[-1.0"),
        (
            Joined,
            r"line 1 .* asked for this line alone gives text \['un1'\], the model in this process \['un3'\]",
        ),
        (OfPython, "calls Python from its graph"),
        (NeedsRows, "check of the SavedModel failed: .*no rows"),
        (NotANumber, r"gives log_probability \[nan\]"),
        (JoinedDraws, r"line 2 \{.*'temperature': 0.0.*\}: .* asked for this line alone gives length \[3\], .* \[5\]"),
        (JoinedBeam, r"signature beam, line 1 .* asked for this line alone gives token_log_probability"),
    ],
)
def test_a_model_that_cannot_be_trusted_is_not_exported(tmp_path, generator, message):
    with pytest.raises(ExportError, match=message) as caught:
        run(tmp_path / "new", generator())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_weights_that_change_on_the_way_are_found(tmp_path, monkeypatch):
    generator, save = FakeGenerator(), tf.saved_model.save

    def damage(module, folder, **settings):
        generator.weight.assign(0.5003)  # 0.06 %
        save(module, folder, **settings)
        generator.weight.assign(0.5)

    monkeypatch.setattr(tf.saved_model, "save", damage)
    with pytest.raises(ExportError, match=r"signature serving_default, line \d .*score"):
        run(tmp_path, generator)
    assert list(tmp_path.iterdir()) == []


def test_scores_may_differ_by_rounding_only():
    wanted = np.float32([-2.0, -0.0001, -np.inf])
    assert replay.is_same(wanted, wanted + np.float32([1e-4, 1e-5, 0.0]))
    assert not replay.is_same(wanted, np.float32([-2.001, -0.0001, -np.inf]))
    assert not replay.is_same(wanted, np.float32([-2.0, -0.0001, -50.0]))
    assert not replay.is_same(np.float32(-50.0), np.float32(-np.inf))
    assert not replay.is_same(np.array([b"a"], object), np.array([b"b"], object))


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device", "file"),
        tf.errors.ResourceExhaustedError(None, None, "file; No space left on device"),
    ],
)
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, failure):
    def full(module, folder, **_):
        (Path(folder) / "saved_model.pb").write_bytes(b"half")
        raise failure

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(ExportError, match="cannot write .*No space left on device"):
        run(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"cannot write .*file: File exists"):
        run(tmp_path / "file")
    with pytest.raises(ExportError, match=r"cannot write .*: Not a directory"):
        run(tmp_path / "file" / "below")


def test_an_interrupted_export_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "_check", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"check_sources": [], "check_targets": []}, "at least one check line"),
        ({"check_targets": ["un"]}, "Received: 2 sources, 1 targets"),
        ({"version": 0}, "version of at least 1"),
    ],
)
def test_wrong_calls_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **settings)
