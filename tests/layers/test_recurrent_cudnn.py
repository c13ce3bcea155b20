"""The GPU's path without a GPU: the packing against Keras', the rest against a NumPy cuDNN."""

import importlib

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.layers import recurrent_cudnn
from tfseq2seq.layers.recurrent import CELLS

RANDOM = np.random.default_rng(0)
BATCH, STEPS, WIDTH, UNITS = 4, 5, 3, 2
INPUTS = tf.constant(RANDOM.normal(size=(BATCH, STEPS, WIDTH)), tf.float32)
MASK = tf.sequence_mask([5, 2, 0, 4], STEPS)


def make(kind, **options):
    layer = CELLS[kind](UNITS, **options)
    layer.build(INPUTS.shape)
    layer.bias.assign(RANDOM.normal(size=layer.bias.shape))
    return layer


def state_for(kind):
    return tuple(
        tf.constant(RANDOM.normal(size=(BATCH, UNITS)), tf.float32) for _ in range(CELLS[kind].num_states))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_cudnn(input, input_h, input_c, params, sequence_lengths, rnn_mode, is_training, time_major):
    """What NVIDIA documents of cudnnRNNForward: one layer, weights by matrix, then biases by matrix.

    LSTM: matrices i, f, g, o; h = o tanh(c). GRU: r, z (called i), n; n = tanh(W x + b + r (U h + b')).
    Steps beyond a row's length give 0 and leave its state.
    """
    assert is_training and not time_major and np.all(sequence_lengths.numpy() >= 1)
    gates, params = (4 if rnn_mode == "lstm" else 3), params.numpy()
    sizes = [UNITS * WIDTH] * gates + [UNITS * UNITS] * gates + [UNITS] * 2 * gates
    parts = np.split(params, np.cumsum(sizes))
    assert len(parts.pop()) == 0
    w = [part.reshape(UNITS, WIDTH) for part in parts[:gates]]
    u = [part.reshape(UNITS, UNITS) for part in parts[gates:2 * gates]]
    b, late = parts[2 * gates:3 * gates], parts[3 * gates:]
    outputs = np.zeros((BATCH, STEPS, UNITS), np.float32)
    hidden = input_h.numpy()[:, 0].copy()
    cell = input_c.numpy()[:, 0].copy() if rnn_mode == "lstm" else np.zeros_like(hidden)
    for row in range(BATCH):
        for t in range(sequence_lengths.numpy()[row]):
            x = [w[k] @ input.numpy()[row, t] + b[k] for k in range(gates)]
            h = [u[k] @ hidden[row] + late[k] for k in range(gates)]
            if rnn_mode == "lstm":
                i, f, g, o = (one + two for one, two in zip(x, h, strict=True))
                cell[row] = sigmoid(f) * cell[row] + sigmoid(i) * np.tanh(g)
                hidden[row] = sigmoid(o) * np.tanh(cell[row])
            else:
                r, z = sigmoid(x[0] + h[0]), sigmoid(x[1] + h[1])
                hidden[row] = z * hidden[row] + (1 - z) * np.tanh(x[2] + r * h[2])
            outputs[row, t] = hidden[row]
    return tuple(tf.constant(part) for part in (outputs, hidden[:, None], cell[:, None], 0.0, 0.0))


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_cudnn_and_the_loop_give_the_same(kind, reverse, mask, monkeypatch):
    layer, state = make(kind, reverse=reverse), state_for(kind)
    expected, expected_last = layer(INPUTS, mask, initial_state=state, training=True)
    monkeypatch.setattr(tf.raw_ops, "CudnnRNNV3", numpy_cudnn)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a " + kind])
    monkeypatch.setattr(layer, "sequence", None)
    outputs, last = layer(INPUTS, mask, initial_state=state, training=True)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    for one, two in zip(last, expected_last, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_weights_are_packed_as_keras_packs_them(kind, monkeypatch):
    layer, state = make(kind), state_for(kind)
    packed = []

    def keep(params, **arguments):
        packed.append(params)
        return numpy_cudnn(params=params, **arguments)

    monkeypatch.setattr(tf.raw_ops, "CudnnRNNV3", keep)
    weights = [tf.convert_to_tensor(weight) for weight in layer.trainable_variables]
    # Not `from ... import rnn`: a function of that name hides the module.
    of_keras = getattr(importlib.import_module("keras.src.backend.tensorflow.rnn"), f"_cudnn_{kind}")
    of_keras(INPUTS, *state, *weights, mask=None, time_major=False, go_backwards=False, return_sequences=True)
    ours = getattr(recurrent_cudnn, f"pack_{kind}")(*weights)
    np.testing.assert_array_equal(ours, packed[0])


@pytest.mark.parametrize(
    ("training", "devices", "options", "used"),
    [(True, ["GPU"], {}, True), (True, ["GPU"], {"dtype": "mixed_float16"}, True),
     (False, ["GPU"], {}, False), (None, ["GPU"], {}, False), (True, [], {}, False),
     (True, ["GPU"], {"right_padded": False}, False), (True, ["GPU"], {"dtype": "mixed_bfloat16"}, False)])
def test_cudnn_runs_only_in_training_on_a_gpu_with_right_padding(
        training, devices, options, used, monkeypatch):
    layer, calls = make("gru", **options), []
    sequence = layer.sequence

    def record(*arguments):
        calls.append(arguments)
        return sequence(*arguments)

    monkeypatch.setattr(layer, "cudnn_sequence", record)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices)
    layer(INPUTS, training=training)
    assert bool(calls) == used


def test_cudnn_refuses_a_mask_with_padding_inside():
    mask = tf.constant([[True, False, True, False, False]] * BATCH)
    weights = [tf.convert_to_tensor(weight) for weight in make("lstm").trainable_variables]
    with pytest.raises(tf.errors.InvalidArgumentError, match="right_padded=False"):
        recurrent_cudnn.cudnn_lstm(INPUTS, mask, *weights, state_for("lstm"), False)
