"""Weights that cannot be read or do not fit: each is told by its name."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tfseq2seq.config import Model
from tfseq2seq.converters.base import Ids, assign
from tfseq2seq.converters.weights import ConversionError, Weights, read_weights
from tfseq2seq.model import build_model
from tfseq2seq.structures import BOS, EOS, PAD, UNK

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([0.5, -2.0], np.float32)}


def save(folder, arrays=ARRAYS, name="model.safetensors"):
    safetensors.numpy.save_file(arrays, folder / name)
    return folder


def save_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_are_read_as_float32(tmp_path, dtype):
    weights = read_weights(save(tmp_path, {name: array.astype(dtype) for name, array in ARRAYS.items()}))
    for name, array in ARRAYS.items():  # numbers that all of these hold
        taken = weights.take(name)
        assert taken.dtype == np.float32
        np.testing.assert_array_equal(taken, array)


def test_weights_in_several_files_are_read(tmp_path):
    save(tmp_path, {"a": ARRAYS["a"]}, "one.safetensors")
    save(tmp_path, {"b": ARRAYS["b"]}, "two.safetensors")
    save_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    weights = read_weights(tmp_path)
    np.testing.assert_array_equal(weights.take("b"), ARRAYS["b"])
    with pytest.raises(ConversionError, match="1 weights have no place .*: a"):
        weights.refuse_leftovers()
    weights.take("a")
    weights.refuse_leftovers()


def test_a_missing_file_is_named(tmp_path):
    save(tmp_path, {"a": ARRAYS["a"]}, "one.safetensors")
    save_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    with pytest.raises(ConversionError, match="names two.safetensors, which is missing"):
        read_weights(tmp_path)


def test_a_weight_that_an_index_promises_is_in_its_file(tmp_path):
    save(tmp_path, {"a": ARRAYS["a"]}, "one.safetensors")
    save_index(tmp_path, {"a": "one.safetensors", "b": "one.safetensors"})
    with pytest.raises(ConversionError, match="one.safetensors: does not hold the weight b"):
        read_weights(tmp_path)


@pytest.mark.parametrize("path", ["../one.safetensors", "/etc/one.safetensors", "x/../../one.safetensors", "one.bin"])
def test_an_index_names_files_inside_its_folder_alone(tmp_path, path):
    inside = tmp_path / "model"
    inside.mkdir()
    save(tmp_path, name="one.safetensors")
    save_index(inside, {"a": path})
    with pytest.raises(ConversionError, match="inside its folder alone. Received: '"):
        read_weights(inside)


@pytest.mark.parametrize("kept", [4, 40, -5])
def test_a_file_that_is_cut_is_told(tmp_path, kept):
    path = save(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConversionError, match="model.safetensors: cannot be read, it is damaged"):
        read_weights(tmp_path)


def test_a_dtype_that_is_no_float_is_told(tmp_path):
    weights = read_weights(save(tmp_path, {"a": np.ones([2], np.int8)}))
    with pytest.raises(ConversionError, match="the weight a must be stored as one of F64.*Received: I8"):
        weights.take("a")


def test_numbers_that_are_none_are_told(tmp_path):
    weights = read_weights(save(tmp_path, {"a": np.array([1.0, np.nan], np.float32)}))
    with pytest.raises(ConversionError, match="the weight a holds NaN"):
        weights.take("a")


def test_pickles_are_never_read(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ConversionError, match="pytorch_model.bin may be a pickle"):
        read_weights(tmp_path)


def test_each_weight_is_taken_once():
    weights = Weights(ARRAYS, "here")
    weights.take("a")
    with pytest.raises(ConversionError, match="here: the weight a is used twice"):
        weights.take("a")
    with pytest.raises(ConversionError, match="here: the weight c is missing"):
        weights.take("c")
    with pytest.raises(ConversionError, match="the weight b must be a copy"):
        weights.take_copy("b", np.zeros([2], np.float32))


def test_ids_are_ours_and_copies_are_never_predicted():
    ids = Ids(6, pad=5, unknown=1, start=5, end=0)
    # 2 and 3 and 4 are words; 5, which begins and pads, is a word as well.
    np.testing.assert_array_equal(ids.rows, [5, 1, 5, 0, 2, 3, 4, 5])
    np.testing.assert_array_equal(ids.ours, [EOS, UNK, 4, 5, 6, 7])
    bias = ids.bias(np.arange(6, dtype=np.float32))
    np.testing.assert_array_equal(bias[[UNK, EOS, 4, 5, 6, 7]], [1, 0, 2, 3, 4, 5])
    assert (bias[[PAD, BOS]] < -1e3).all()
    assert ids.names(["</s>", "<unk>", "a", "b", "c", "<pad>"]) == [
        "<pad>", "<unk>", "<s>", "</s>", "a", "b", "c", "<pad>#5"]


def test_every_weight_of_a_model_is_given_once_and_fits():
    table = {"kind": "transformer", "layers": 1, "units": 4, "heads": 2, "feed_forward_units": 4}
    config = Model.model_validate({"embedding_units": 4, "encoder": table, "decoder": table})
    model = build_model(config, 6, 7)
    with pytest.raises(ConversionError, match="weights of the architecture are not in the files: .*table"):
        assign(model, {})
    with pytest.raises(ConversionError, match=r"source_embedding.table must have the shape \(6, 4\).*\(5, 4\)"):
        assign(model, {"source_embedding.table": np.zeros([5, 4], np.float32)})
    with pytest.raises(ConversionError, match="has no weight output_bias.bias"):
        assign(model, {"output_bias.bias": np.zeros([7], np.float32)})
