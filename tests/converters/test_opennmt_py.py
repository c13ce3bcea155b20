"""Checkpoints of OpenNMT-py, converted, against what it gave for them; and pickles that must not be read."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from tests.converters.words import Converted, ids_of
from tfseq2seq.converters import ConversionError
from tfseq2seq.converters.torch_files import read_torch

RUNS = ["greedy", "beam4", "beam4_length_penalty_wu_0.9"]


@pytest.fixture(scope="module", params=["transformer", "brnn_lstm"])
def converted(request):
    return Converted("opennmt_py", f"opennmt_py/{request.param}")


def line_of(example):
    return " ".join(example["pieces"])


def test_vocabularies_and_sources_are_theirs(converted):
    for side, tokenizer in (("src", converted.source), ("tgt", converted.target)):
        tokens = json.loads((converted.folder / f"vocab.{side}.json").read_text())
        assert [name for name in tokenizer.vocabulary()[4:] if "#" not in name or name in tokens][-3:] == tokens[-3:]
    for example in converted.expected["examples"]:
        (ids,) = converted.source.encode(tf.constant([line_of(example)])).to_list()
        # Both sides have the same special ids, and all others in the order of the list.
        assert ids == converted.ids.ours[example["src_ids"]].tolist()


def test_the_encoder_and_the_logits_are_theirs(converted):
    lines = {tuple(each["src_ids"]): line_of(each) for each in converted.expected["examples"]}
    for each in converted.expected["teacher_forced"]:
        line, expected = lines[tuple(each["src_ids"])], each["encoder_output"]
        memory = converted.model.encode(converted.read([line])).memory.numpy()[0, : expected["shape"][0]]
        for found, theirs in (
                (memory[0, :8], expected["first8"]), (memory[-1, -8:], expected["last8"]),
                (memory.mean(), expected["mean"]), (memory.std(), expected["std"])):
            np.testing.assert_allclose(found, theirs, atol=1e-5 * np.abs(memory).max())
        logits = converted.logits([line], [each["decoder_input_ids"][1:]])[0]
        found = tf.nn.log_softmax(logits).numpy()
        for row, theirs in each["log_probs"].items():
            np.testing.assert_allclose(found[int(row)], theirs, atol=1e-5 * np.abs(theirs).max())
        labels = [found[i, label] for i, label in enumerate(each["labels"])]
        np.testing.assert_allclose(labels, each["label_log_probs"], atol=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_the_search_finds_theirs(converted, name):
    options, examples = converted.expected["runs"][name], converted.expected["examples"]
    kind = {"avg": "length", "wu": "gnmt"}[options["length_penalty"]]
    beams = options["beam_size"]
    searched = {} if beams > 1 else {"finish": "all", "stop": "bound"}
    found = converted.answers(
        [line_of(each) for each in examples], beam_size=beams, length_penalty_kind=kind,
        length_penalty=options["alpha"], max_length=options["max_length"], **searched)
    for i, example in enumerate(examples):
        expected = example[name]
        if len(expected["ids"][0]) == int(1.25 * len(example["pieces"]) + 5) < options["max_length"]:
            continue  # cut at a limit that we do not have
        assert [ids_of(found, i, j) for j in range(beams)] == [converted.ours(ids) for ids in expected["ids"]]
        np.testing.assert_allclose(found.scores[i], expected["scores"], atol=1e-4)


# Pickles


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_pt(path, value, names=()):
    buffer = io.BytesIO()
    pickle.Pickler(buffer, 2).dump(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", buffer.getvalue())
        for name, content in names:
            archive.writestr(f"model/{name}", content)
    return path


def test_a_malicious_pickle_is_refused_and_never_runs(tmp_path):
    import builtins
    import os
    import subprocess

    marker = tmp_path / "ran"
    for function, arguments, name in (
            (os.system, (f"touch {marker}",), "posix.system"),
            (builtins.exec, (f"open({str(marker)!r}, 'w')",), "exec"),
            (builtins.getattr, ("text", "join"), "getattr"), (subprocess.Popen, (["touch", str(marker)],), "Popen"),
            (builtins.eval, ("1",), "eval"), (np.load, (str(marker),), "load")):
        path = write_pt(tmp_path / "evil.pt", {"model": Evil(function, *arguments)})
        with pytest.raises(ConversionError, match=rf"cannot be read safely: it names .*{name}"):
            read_torch(path)
    assert not marker.exists()


def test_what_a_pickle_may_hold_comes_back(tmp_path):
    path = write_pt(tmp_path / "plain.pt", {"a": [1, "b", (2.5, None)], "c": {"d", "e"}})
    assert read_torch(path) == {"a": [1, "b", (2.5, None)], "c": {"d", "e"}}


def tensor_pickle(length, size, stride, offset=0, kind="FloatStorage"):
    """What torch.save writes of one tensor, by hand."""
    numbers = "".join(f"I{value}\n" for value in size), "".join(f"I{value}\n" for value in stride)
    return (
        b"\x80\x02}U\x01m" + b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"(U\x07storage" + f"ctorch\n{kind}\n".encode()
        + b"U\x010U\x03cpu" + f"I{length}\nt".encode() + b"Q" + f"I{offset}\n(".encode() + numbers[0].encode() + b"t("
        + numbers[1].encode() + b"tI00\nNtRs.")


def write_tensor(path, content, **arguments):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", tensor_pickle(**arguments))
        archive.writestr("model/data/0", content)
    return path


def test_tensors_are_read_with_their_strides_and_dtypes(tmp_path):
    values = np.arange(6, dtype=np.float32)
    path = write_tensor(tmp_path / "t.pt", values.tobytes(), length=6, size=(2, 2), stride=(1, 2), offset=1)
    np.testing.assert_array_equal(read_torch(path)["m"], [[1, 3], [2, 4]])
    halves = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = write_tensor(tmp_path / "h.pt", halves, length=6, size=(6,), stride=(1,), kind="BFloat16Storage")
    np.testing.assert_array_equal(read_torch(path)["m"], values)


@pytest.mark.parametrize("arguments", [
    {"length": 6, "size": (7,), "stride": (1,)}, {"length": 6, "size": (2,), "stride": (1,), "offset": 5},
    {"length": 6, "size": (100, 100), "stride": (0, 0)}, {"length": 7, "size": (2,), "stride": (1,)},
    {"length": 6, "size": (2,), "stride": (-1,)}, {"length": 6, "size": (2,), "stride": (1,), "kind": "EvilStorage"}])
def test_tensors_beyond_their_numbers_are_refused(arguments, tmp_path):
    path = write_tensor(tmp_path / "t.pt", np.zeros(6, np.float32).tobytes(), **arguments)
    with pytest.raises(ConversionError, match="cannot be read safely"):
        read_torch(path)


def test_files_that_are_no_checkpoint_are_named(tmp_path):
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"model": 1}))
    with pytest.raises(ConversionError, match="must be a .pt file, a zip"):
        Converted("opennmt_py", tmp_path)
    write_pt(tmp_path / "old.pt", {"model": {}})
    with pytest.raises(ConversionError, match="must be a checkpoint of OpenNMT-py, with model, generator, vocab, opt"):
        Converted("opennmt_py", tmp_path)
    write_pt(tmp_path / "two.pt", {})
    with pytest.raises(ConversionError, match="must hold one .pt file"):
        Converted("opennmt_py", tmp_path)
