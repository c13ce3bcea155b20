"""Folders that cannot be imported, told by what is wrong in them."""

import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy

from tests.converters.theirs import fixture_folder
from tfseq2seq import converters
from tfseq2seq.converters import ConversionError


@pytest.fixture
def marian(tmp_path):
    """A copy of the Marian fixture, to be changed."""
    shutil.copytree(fixture_folder("marian"), tmp_path / "marian", copy_function=shutil.copyfile)
    return tmp_path / "marian"


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refusal(folder, **options):
    with pytest.raises(ConversionError) as refused:
        converters.convert("transformers", str(folder), **options)
    return str(refused.value)


@pytest.mark.parametrize("values, text", [
    ({"activation_function": "quick_gelu"}, "activation_function = 'quick_gelu'"),
    ({"normalize_before": True}, "normalize_before = True"),
    ({"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings = False"),
    ({"model_type": "led"}, "model_type must be one of marian, .*Received: 'led'"),
    ({"d_model": None}, "needs d_model"),
    ({"encoder_layers": 1}, "weights have no place .*model.encoder.layers.1"),
    ({"encoder_layers": 3}, "the weight model.encoder.layers.2.* is missing"),
])
def test_what_a_config_says_and_we_lack_is_refused(marian, values, text):
    change(marian, "config.json", **values)
    assert re.search(text, refusal(marian))


def test_generation_without_a_counterpart_is_refused(marian):
    change(marian, "generation_config.json", encoder_no_repeat_ngram_size=2)
    assert "encoder_no_repeat_ngram_size = 2" in refusal(marian)


def test_an_unknown_weight_is_named(marian):
    arrays = safetensors.numpy.load_file(marian / "model.safetensors")
    safetensors.numpy.save_file(
        {**arrays, "model.adapter.weight": np.zeros([2], np.float32)}, marian / "model.safetensors")
    assert "1 weights have no place" in refusal(marian)
    assert "model.adapter.weight" in refusal(marian)


def test_languages_belong_to_multilingual_models(marian):
    assert "--source-language and --target-language are of" in refusal(marian, source_language="de")


def test_an_unknown_language_is_told_with_those_that_are_known():
    text = refusal(fixture_folder("nllb"), target_language="xyz_Abcd")
    assert "needs --target-language" in text and "deu_Latn" in text


def test_a_name_needs_the_package_that_fetches(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install huggingface_hub" in refusal("someone/some-model")


def test_an_output_that_exists_is_left_alone(marian, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(ConversionError, match="exists already"):
        converters.import_model("transformers", str(marian), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
