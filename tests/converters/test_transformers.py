"""Checkpoints of Transformers, converted, against what Transformers gave for them.

The fixtures are real checkpoints with random weights, see the README beside them.
"""

import numpy as np
import pytest
import safetensors
import tensorflow as tf

from tests.converters.theirs import Converted, check_encoder, check_logits, check_search

FAMILIES = ["marian", "marian_untied", "t5_v10", "t5_v11", "m2m100", "nllb", "mbart", "pegasus", "bart", "whisper"]


@pytest.fixture(scope="module", params=FAMILIES)
def converted(request):
    return Converted(request.param)


def test_strings_are_cut_as_theirs(converted):
    if converted.speech:
        pytest.skip("of recordings there are no tokens")
    ids = converted.source.encode(tf.constant(converted.texts)).to_list()
    for found, example in zip(ids, converted.examples, strict=True):
        assert [*found, converted.source.end] == converted.ids.ours[example["input_ids"]].tolist(), example["text"]


def test_recordings_have_their_features():
    converted = Converted("whisper")
    with safetensors.safe_open(converted.folder / "features.safetensors", framework="numpy") as expected:
        for row, example in zip(converted.sources(), converted.examples, strict=True):
            features = expected.get_tensor(example["audio"].removesuffix(".wav"))
            np.testing.assert_allclose(row[:, :-1], features.reshape(features.shape[-2:]).T, atol=1e-4)
            np.testing.assert_array_equal(row[:, -1], 1.0)


def test_the_encoder_gives_theirs(converted):
    assert check_encoder(converted) < 1e-5


def test_the_logits_are_theirs(converted):
    relative, of_probabilities = check_logits(converted)
    assert relative < 1e-4
    assert of_probabilities < 1e-3


def test_the_beam_finds_theirs_from_raw_sources(converted, tmp_path):
    saved = tmp_path if converted.folder.name == FAMILIES[0] else None  # of the others below, as it takes long
    assert check_search(converted, "beam4", saved) < 1e-4


@pytest.mark.slow
def test_a_saved_model_finds_theirs_from_raw_sources(converted, tmp_path):
    assert check_search(converted, "beam4", tmp_path) < 1e-4


@pytest.mark.slow
def test_the_search_finds_theirs_with_all_options(converted):
    for run in converted.expected["runs"]:
        assert check_search(converted, run) < 1e-4
