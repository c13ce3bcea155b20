"""From another system's folder to a SavedModel that answers raw strings as that system did."""

import json

import pytest
import tensorflow as tf

from tests.converters.theirs import fixture_folder
from tfseq2seq import converters, runs


def greedy_of(expected):
    """Lines and the other system's greedy answers."""
    if "examples" in expected:
        return [
            (" ".join(each["pieces"]), each["greedy"]["text"][0]) for each in expected["examples"]]
    rows = expected["decode"]["greedy"]["hypotheses"]
    return [
        (line, " ".join(row[0]["tokens"])) for line, row in zip(expected["source"], rows, strict=True)]


@pytest.mark.parametrize(("system", "name"), [
    ("nmt", "nmt/uni_normed_bahdanau"),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in (
        ("nmt", "nmt/bi_scaled_luong"), ("opennmt_tf", "opennmt_tf/transformer"),
        ("opennmt_tf", "opennmt_tf/luong_lstm"), ("opennmt_py", "opennmt_py/brnn_lstm")))])
def test_an_imported_run_exports_and_answers_as_before(system, name, tmp_path):
    folder, run = fixture_folder(name), tmp_path / "runs" / "mine"
    conversion = converters.import_model(system, str(folder), run)
    equal, compared = converters.replay(conversion, run, lambda *_: None)
    assert equal == compared > 0
    opened = runs.open_run(run)
    exported = runs.export_run(*opened, run, tmp_path / "export", None, lambda *_: None)
    pairs = greedy_of(json.loads((folder / "expected.json").read_text(encoding="utf-8")))
    # Where an unknown word was said, or an answer was cut at a limit of its own, the strings differ.
    pairs = [pair for pair in pairs if "<unk>" not in pair[1] and len(pair[1].split()) < 20]
    answers = tf.saved_model.load(str(exported)).signatures["greedy"](
        text=tf.constant([line for line, _ in pairs]))["text"].numpy()
    assert [answer[0].decode() for answer in answers] == [text for _, text in pairs]
