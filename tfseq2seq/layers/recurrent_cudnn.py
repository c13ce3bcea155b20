"""LSTM and GRU over whole sequences by cuDNN, NVIDIA's library; same results as `recurrent_kernels`.

cuDNN takes sequence lengths, at least 1, instead of a mask, and all weights in one vector.
"""

import tensorflow as tf


def cudnn_lstm(inputs, mask, kernel, recurrent_kernel, bias, state, reverse):
    """`recurrent_kernels.lstm_sequence` on a GPU; `mask` must have its padding at the end of each row.

    Raises:
        tf.errors.InvalidArgumentError: a mask with padding before a real step.
    """
    weights = pack_lstm(kernel, recurrent_kernel, bias)
    return _run("lstm", inputs, mask, weights, state, reverse)


def cudnn_gru(inputs, mask, kernel, recurrent_kernel, bias, state, reverse):
    """`recurrent_kernels.gru_sequence` on a GPU; `mask` must have its padding at the end of each row.

    Raises:
        tf.errors.InvalidArgumentError: a mask with padding before a real step.
    """
    weights = pack_gru(kernel, recurrent_kernel, bias)
    return _run("gru", inputs, mask, weights, state, reverse)


def pack_lstm(kernel, recurrent_kernel, bias):
    """Weights as one vector: W by gates, U by gates, each transposed, then two biases, 0 beside W."""
    return _pack(
        tf.split(kernel, 4, 1) + tf.split(recurrent_kernel, 4, 1),
        [tf.zeros_like(bias), bias])


def pack_gru(kernel, recurrent_kernel, bias):
    """As `pack_lstm`; cuDNN has the reset gate first, Keras the update gate."""

    def reset_first(values):
        update, reset, candidate = tf.split(values, 3, -1)
        return [reset, update, candidate]

    return _pack(
        reset_first(kernel) + reset_first(recurrent_kernel), reset_first(bias[0]) + reset_first(bias[1]))


def _pack(kernels, biases):
    return tf.concat([tf.reshape(tf.transpose(part), [-1]) for part in kernels] + biases, 0)


def _run(kind, inputs, mask, weights, state, reverse):
    batch, num_steps = tf.unstack(tf.shape(inputs)[:2])
    lengths = tf.fill([batch], num_steps) if mask is None else _lengths(mask)
    if mask is not None:
        inputs = tf.where(mask[..., None], inputs, tf.zeros([], inputs.dtype))
    if reverse:
        inputs = tf.reverse_sequence(inputs, lengths, seq_axis=1)
    outputs, hidden, cell, _, _ = tf.raw_ops.CudnnRNNV3(
        input=inputs, input_h=state[0][:, None], input_c=state[1][:, None] if kind == "lstm" else 0.0,
        params=weights, sequence_lengths=lengths, rnn_mode=kind, is_training=True, time_major=False)
    last = (hidden[:, 0], cell[:, 0])[:len(state)]
    if reverse:
        outputs = tf.reverse_sequence(outputs, lengths, seq_axis=1)
    if mask is None:
        return outputs, last
    # A row that is all padding was read as one step of zeros.
    real = tf.reduce_any(mask, 1, keepdims=True)
    last = tuple(tf.where(real, after, before) for after, before in zip(last, state))
    return tf.where(mask[..., None], outputs, tf.zeros([], outputs.dtype)), last


def _lengths(mask):
    lengths = tf.reduce_sum(tf.cast(mask, tf.int32), 1)
    with tf.control_dependencies([tf.debugging.assert_equal(
            mask, tf.sequence_mask(lengths, tf.shape(mask)[1]),
            "cuDNN needs masks with padding at the end of each row only; for others make the recurrent layer "
            "with right_padded=False.")]):
        return tf.maximum(lengths, 1)
