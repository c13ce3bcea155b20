"""Models of Eole: OpenNMT-py's under Eole's names, which must give what OpenNMT-py gave; and what is refused."""

import json

import numpy as np
import pytest
import safetensors.numpy

from tests.converters.theirs import fixture_folder
from tests.converters.words import Converted
from tfseq2seq import converters
from tfseq2seq.converters import ConversionError
from tfseq2seq.converters.torch_files import read_torch

RENAMED = (
    ("encoder.embeddings.make_embedding.emb_luts.0.weight", "src_emb.embeddings.weight"),
    ("decoder.embeddings.make_embedding.emb_luts.0.weight", "tgt_emb.embeddings.weight"),
    ("encoder.embeddings.make_embedding.pe", "src_emb.pe"), ("decoder.embeddings.make_embedding.pe", "tgt_emb.pe"),
    ("encoder.transformer.", "encoder.transformer_layers."), ("feed_forward.layer_norm", "post_attention_layernorm"),
    ("feed_forward.w_1", "mlp.gate_up_proj"), ("feed_forward.w_2", "mlp.down_proj"),
    ("layer_norm_1", "input_layernorm"), ("layer_norm_2", "precontext_layernorm"))
MODEL = {
    "share_embeddings": True, "share_decoder_embeddings": True, "embeddings": {
        "word_vec_size": 28, "position_encoding_type": "SinusoidalInterleaved"},
    "encoder": {"encoder_type": "transformer", "layers": 2, "hidden_size": 28, "heads": 4, "transformer_ff": 64,
                "norm_eps": 1e-6},
    "decoder": {"decoder_type": "transformer", "layers": 2, "hidden_size": 28, "heads": 4, "transformer_ff": 64,
                "norm_eps": 1e-6}}


def write(folder, change=None, parts=2, without=()):
    """The Transformer fixture of OpenNMT-py as Eole saves it: without the copies of shared tables, in several files."""
    found = read_torch(fixture_folder("opennmt_py/transformer") / "model.pt")
    arrays = {"generator.bias": found["generator"]["bias"]}
    for name, value in found["model"].items():
        for old, new in RENAMED:
            name = name.replace(old, new)
        if name.startswith("encoder.transformer_layers.") and ".layer_norm." in name:
            name = name.replace(".layer_norm.", ".input_layernorm.")
        if name not in ("tgt_emb.embeddings.weight", *without):
            arrays[name] = np.ascontiguousarray(value)
    names = sorted(arrays)
    for part in range(parts):
        safetensors.numpy.save_file(
            {name: arrays[name] for name in names[part::parts]}, folder / f"model.{part:02d}.safetensors")
    config = {"model": {**MODEL, **(change or {})}, "training": {"dropout": [0.1]}}
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {name: found["vocab"][name] for name in ("src", "tgt")}
    (folder / "vocab.json").write_text(json.dumps({**vocabulary, "decoder_start_token": "<s>"}))


def test_the_same_weights_under_its_names_give_the_same(tmp_path):
    write(tmp_path)
    converted = Converted("eole", tmp_path)
    expected = json.loads((fixture_folder("opennmt_py/transformer") / "expected.json").read_text())
    each = expected["teacher_forced"][0]
    line = next(" ".join(one["pieces"]) for one in expected["examples"] if one["src_ids"] == each["src_ids"])
    logits = converted.logits([line], [each["decoder_input_ids"][1:]])[0].astype(np.float64)
    found = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for row, theirs in each["log_probs"].items():
        np.testing.assert_allclose(found[int(row)], theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(("change", "message"), [
    ({"encoder": {**MODEL["encoder"], "num_experts": 2}}, "num_experts must be one of 0 .* num_experts = 2"),
    ({"encoder": {**MODEL["encoder"], "layer_norm": "gemma-rms"}}, "layer_norm = 'gemma-rms'"),
    ({"embeddings": {"word_vec_size": 28, "position_encoding_type": "Alibi"}}, "position_encoding_type = 'Alibi'"),
    ({"embeddings": {"word_vec_size": 28, "position_encoding_type": "SinusoidalConcat"}}, "must be SinusoidalConcat"),
    ({"encoder": None}, "must be a model with an encoder and a decoder"),
    ({"decoder": {**MODEL["decoder"], "layers": 1}}, "weights have no place .* decoder.transformer_layers.1"),
    ({"share_decoder_embeddings": False}, "the weight generator.weight is missing"),
])
def test_what_cannot_be_imported_is_named(change, message, tmp_path):
    write(tmp_path, change)
    with pytest.raises(ConversionError, match=message):
        converters.convert("eole", str(tmp_path))


def test_missing_and_doubled_files_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "model.02.safetensors").write_bytes((tmp_path / "model.01.safetensors").read_bytes())
    with pytest.raises(ConversionError, match="model.02.safetensors: holds the weight .* model.01.safetensors"):
        converters.convert("eole", str(tmp_path))
    for number in (1, 2):
        (tmp_path / f"model.0{number}.safetensors").unlink()
    with pytest.raises(ConversionError, match="is missing; the architecture needs it"):
        converters.convert("eole", str(tmp_path))
    (tmp_path / "model.00.safetensors").unlink()
    with pytest.raises(ConversionError, match="needs its weights"):
        converters.convert("eole", str(tmp_path))
