"""Manifests of recordings, and what is wrong with them."""

import json

import numpy as np
import pytest
import soundfile

from pipelines.pairs import DataError
from pipelines.recordings import filter_durations, measure_recording, read_manifest, read_recording
from pipelines.wav import encode_wav


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wav").mkdir()
    for name, size in (("a", 800), ("b", 4000)):
        (tmp_path / "wav" / f"{name}.wav").write_bytes(encode_wav(np.zeros(size), 8000))
    return tmp_path


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_paths_are_seen_from_the_manifests_folder_or_the_one_above(folder):
    expected = [(str(folder / "wav" / "a.wav"), "one"), (str(folder / "wav" / "b.wav"), "two")]
    tsv = ["wav/a.wav\tone\tgeorge", "wav/b.wav\ttwo"]
    assert read_manifest(write(folder / "train.tsv", tsv)) == expected
    (folder / "lists").mkdir()
    assert read_manifest(write(folder / "lists" / "train.tsv", tsv)) == expected
    for names in (("audio", "text"), ("source", "target")):
        rows = [json.dumps(dict(zip(names, line.split("\t")))) for line in tsv]
        assert read_manifest(write(folder / "train.jsonl", rows)) == expected
    assert read_manifest(write(folder / "train.tsv", [f"{folder}/wav/a.wav\tone"])) == expected[:1]


@pytest.mark.parametrize(("name", "line", "text"), [
    ("a.tsv", "wav/c.wav\tthree", "a.tsv:1: no such recording; .*manifest's folder. Received: 'wav/c.wav'"),
    ("a.tsv", "wav/a.wav", "a.tsv:1: a column is missing"),
    ("a.jsonl", '{"audio": "wav/a.wav"}', 'a.jsonl:1: needed is {"audio": "path", "text": "..."}. Received'),
    ("a.jsonl", '{"audio": ', "a.jsonl:1: not JSON"), ("a.txt", "wav/a.wav\tone", "one .tsv or .jsonl file")])
def test_what_is_wrong_with_a_manifest_is_said_in_one_line(folder, name, line, text):
    with pytest.raises(DataError, match=text):
        read_manifest(write(folder / name, [line]))


def test_recordings_are_left_out_by_their_seconds(folder):
    pairs = [(str(folder / "wav" / f"{name}.wav"), name) for name in "ab"]  # 0.1 and 0.5 s
    assert filter_durations(pairs, 0.0, None) == (pairs, 0)
    assert filter_durations(pairs, 0.2, None) == (pairs[1:], 1)
    assert filter_durations(pairs, 0.1, 0.4) == (pairs[:1], 1)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
def test_a_header_tells_the_length(tmp_path, kind, subtype):
    soundfile.write(tmp_path / "a.wav", np.zeros([77, 2]), 11_025, format=kind, subtype=subtype)
    assert measure_recording(tmp_path / "a.wav") == (77, 11_025)


def test_recordings_that_are_none_are_refused(tmp_path):
    for read in (read_recording, measure_recording):
        with pytest.raises(DataError, match="no.wav: no such recording"):
            read(tmp_path / "no.wav")
        (tmp_path / "text.wav").write_text("no samples at all")
        with pytest.raises(DataError, match="text.wav: no recording that can be read"):
            read(tmp_path / "text.wav")
    (tmp_path / "short.wav").write_bytes(encode_wav(np.zeros(5), 8000)[:30])
    with pytest.raises(DataError, match="short.wav: not a whole WAV file"):
        measure_recording(tmp_path / "short.wav")
