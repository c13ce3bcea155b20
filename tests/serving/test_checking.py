"""A version that was changed, or that answers otherwise, is found."""

import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from serving.checking import check_export
from serving.checksums import check_checksums, write_checksums
from serving.folders import REPLAY
from serving.replay import replay


@pytest.fixture
def copy(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "m")
    return tmp_path / "m"


def test_an_export_is_what_it_was(exported, server):
    checked = check_export(exported, address=server.address)
    # "one", "three" and the empty line; of sample's draws the one without a choice.
    rows = dict.fromkeys(("serving_default", "greedy", "beam", "alternatives", "score", "tokenize"), 3)
    assert checked.rows == checked.served_rows == {**rows, "sample": 1}
    assert checked.path == exported / "1"
    assert checked.files == sum(path.is_file() for path in (exported / "1").rglob("*")) - 1


def test_sha256sum_reads_the_checksums(exported):
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "assets.extra/SHA256SUMS"], cwd=exported / "1", check=True)


def test_files_that_are_not_as_they_were_are_named(copy):
    version = copy / "1"
    variables = version / "variables" / "variables.data-00000-of-00001"
    content = bytearray(variables.read_bytes())
    content[-1] ^= 1
    variables.write_bytes(content)
    (version / "assets.extra" / "config.json").unlink()
    (version / "more").touch()
    with pytest.raises(ValueError, match=(
            "config.json is missing, more was added, variables/variables.data-00000-of-00001 was changed")):
        check_export(copy)


def test_without_checksums_nothing_is_taken_for_right(copy):
    (copy / "1" / "assets.extra" / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="has no .*SHA256SUMS"):
        check_export(copy)


def ask_with(change):
    """What is right, but for a change of the outputs."""
    logs = {
        record.numpy() for record in tf.data.TFRecordDataset(str(change.pop("path") / REPLAY))}
    from tensorflow_serving.apis import prediction_log_pb2

    responses = {}
    for each in logs:
        log = prediction_log_pb2.PredictionLog.FromString(each).predict_log
        responses[log.request.model_spec.signature_name] = {
            name: tf.make_ndarray(tensor) for name, tensor in log.response.outputs.items()}

    def ask(request):
        outputs = dict(responses[request.model_spec.signature_name])
        return {name: change[name](value) if name in change else value for name, value in outputs.items()}

    return ask


@pytest.mark.parametrize(
    ("output", "change", "message"),
    [
        ("score", lambda values: values * np.float32(1.001), r"line 1 \{'text': 'one'\}: they gives score .* it was"),
        ("text", lambda values: values[::-1], "they gives text"),
        ("truncated", lambda values: ~values, "they gives truncated"),
        ("length", lambda values: values[:1], "they gives length"),
    ])
def test_an_answer_that_is_another_is_told(exported, output, change, message):
    path = exported / "1"
    assert replay(path / REPLAY, "they", ask_with({"path": path}))
    with pytest.raises(ValueError, match=message):
        replay(path / REPLAY, "they", ask_with({"path": path, output: change}))


def test_a_server_that_does_not_answer_is_told(exported):
    with pytest.raises(ValueError, match="127.0.0.1:1: version 1 of tfseq2seq cannot be asked: UNAVAILABLE"):
        check_export(exported, address="127.0.0.1:1", timeout=5)


def test_a_server_that_has_other_versions_is_told(copy, server):
    (copy / "1").rename(copy / "4")
    with pytest.raises(ValueError, match="version 4 of tfseq2seq cannot be asked: NOT_FOUND"):
        check_export(copy, address=server.address)


def test_checksums_cover_all_files_but_themselves(tmp_path):
    for name in ("a", "assets.extra/b", "variables/c d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path)
    assert check_checksums(tmp_path) == 3
    write_checksums(tmp_path)
    assert check_checksums(tmp_path) == 3
