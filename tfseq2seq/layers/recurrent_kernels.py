"""LSTM and GRU over whole sequences, with their gradients written out for speed.

Automatic differentiation of a loop keeps every intermediate and adds up the weight gradients in slivers
of one step. Here the forward loop keeps the activated gates and the backward loop turns them straight
into gate gradients. What the timings on a CPU decided:

- Everything inside is [features, batch]: a gate is then a block of rows, cut off without a copy, and
  W^T [G, D] times x [D, B] runs 1.6 times as fast as x W with 64 rows and 2,048 columns.
- Weight gradients are one product over all steps that make up `ROWS_PER_WEIGHT_GRADIENT` rows: one a step
  is slow with few rows, one after the loop leaves cores idle during the loop.
- Bias and padding enter as two more input features. The one for padding drives the gates so far that
  the state is carried over exactly and the gate gradients are exactly 0.

Letters: G rows of gate pre-activations, 4 U for the LSTM and 3 U for the GRU.
"""

import tensorflow as tf

ROWS_PER_WEIGHT_GRADIENT = 512
SATURATION = 3e4  # sigmoid is exactly 0 and 1 there, and float16 still holds it


def lstm_sequence(inputs, mask, kernel, recurrent_kernel, bias, state, reverse):
    """The LSTM of Hochreiter & Schmidhuber, 1997, with the forget gate of Gers et al., 2000.

    i, f, o = sigmoid(W x[t] + U h[t-1] + b), g = tanh(W x[t] + U h[t-1] + b), each with its block of
    columns, in the order i, f, g, o; c[t] = f c[t-1] + i g; h[t] = o tanh(c[t]).

    Args:
        inputs: [B, T, D] float.
        mask: [B, T] bool, or None when every step is real.
        kernel, recurrent_kernel, bias: W [D, 4 U], U [U, 4 U] and b [4 U], of the inputs' dtype.
        state: h and c before the first step read, each [B, U].
        reverse: Whether to read from the last step to the first.
    Returns:
        outputs [B, T, U], 0 on padding; and the last state, h and c [B, U].
    """
    units = recurrent_kernel.shape[0]

    @tf.custom_gradient
    def run(inputs, kernel, recurrent_kernel, bias, hidden, cell):
        inputs = _without_padding(inputs, mask)
        features, weights = _augment(inputs, mask, kernel, bias, [-1.0, 1.0, 0.0, -1.0])
        padding = _padding(mask, inputs.dtype)
        transposed = tf.transpose(recurrent_kernel)

        def step(t, hidden, cell):
            gates = tf.matmul(weights, features[t]) + tf.matmul(transposed, hidden)  # [4 U, B]
            input_forget, candidate, output = tf.split(gates, [2 * units, units, units])
            input_forget = tf.sigmoid(input_forget)
            candidate, output = tf.tanh(candidate), tf.sigmoid(output)
            input_gate, forget = tf.split(input_forget, 2)
            new_cell = forget * cell + input_gate * candidate
            squashed = tf.tanh(new_cell)
            new_hidden = output * squashed
            if mask is not None:
                new_hidden += padding[t] * hidden
            return (new_hidden, new_cell), (input_forget, candidate, output, squashed, cell)

        rows = [2 * units, units, units, units, units]
        (last_hidden, last_cell), hiddens, saved = _forward(
            step, (tf.transpose(hidden), tf.transpose(cell)), rows, inputs, reverse)

        def step_gradient(t, d_hidden, d_cell):
            input_forget, candidate, output, squashed, previous_cell = (array.read(t) for array in saved)
            input_gate, forget = tf.split(input_forget, 2)
            d_cell += _tanh_gradient(squashed, d_hidden * output)
            gates = tf.concat([
                _sigmoid_gradient(input_gate, d_cell * candidate),
                _sigmoid_gradient(forget, d_cell * previous_cell),
                _tanh_gradient(candidate, d_cell * input_gate),
                _sigmoid_gradient(output, d_hidden * squashed)], 0)  # [4 U, B]
            direct = None if mask is None else padding[t] * d_hidden
            return direct, (d_cell * forget,), (gates,)

        def gradient(d_outputs, d_last_hidden, d_last_cell):
            d_inputs, d_kernels, d_state, (d_bias,) = _backward(
                step_gradient, 1, _masked(d_outputs, mask), (d_last_hidden, d_last_cell), inputs,
                _previous(hiddens, hidden, reverse), (kernel, recurrent_kernel), reverse)
            return d_inputs, *d_kernels, d_bias, *d_state

        outputs = _masked(tf.transpose(hiddens, [2, 0, 1]), mask)  # [B, T, U]
        return (outputs, tf.transpose(last_hidden), tf.transpose(last_cell)), gradient

    outputs, *last = run(inputs, kernel, recurrent_kernel, bias, *state)
    return outputs, tuple(last)


def gru_sequence(inputs, mask, kernel, recurrent_kernel, bias, state, reverse):
    """The GRU of Cho et al., 2014, arXiv:1406.1078, in cuDNN's variant (reset after the product).

    z, r = sigmoid(W x[t] + b + U h[t-1] + b'), n = tanh(W x[t] + b + r (U h[t-1] + b')), each with its
    block of columns, in the order z, r, n; h[t] = z h[t-1] + (1 - z) n.

    Args:
        inputs: [B, T, D] float.
        mask: [B, T] bool, or None when every step is real.
        kernel, recurrent_kernel: W [D, 3 U] and U [U, 3 U], of the inputs' dtype.
        bias: [2, 3 U], b and b'.
        state: h before the first step read, one [B, U] in a tuple.
        reverse: Whether to read from the last step to the first.
    Returns:
        outputs [B, T, U], 0 on padding; and the last state, h [B, U] in a tuple.
    """
    units = recurrent_kernel.shape[0]

    @tf.custom_gradient
    def run(inputs, kernel, recurrent_kernel, bias, hidden):
        inputs = _without_padding(inputs, mask)
        early, late = tf.split(bias[1], [2 * units, units])
        input_bias = bias[0] + tf.concat([early, tf.zeros_like(late)], 0)
        features, weights = _augment(inputs, mask, kernel, input_bias, [1.0, 0.0, 0.0])
        transposed = tf.transpose(recurrent_kernel)

        def step(t, hidden):
            projected = tf.matmul(weights, features[t])  # [3 U, B]
            recurrent = tf.matmul(transposed, hidden)
            update, reset = tf.split(tf.sigmoid(projected[:2 * units] + recurrent[:2 * units]), 2)
            inner = recurrent[2 * units:] + late[:, None]
            candidate = tf.tanh(projected[2 * units:] + reset * inner)
            new_hidden = update * hidden + (1 - update) * candidate  # exactly `hidden` where update is 1
            return (new_hidden,), (update, reset, inner, candidate, hidden)

        (last_hidden,), hiddens, saved = _forward(step, (tf.transpose(hidden),), [units] * 5, inputs, reverse)

        def step_gradient(t, d_hidden):
            update, reset, inner, candidate, previous = (array.read(t) for array in saved)
            d_update = _sigmoid_gradient(update, d_hidden * (previous - candidate))
            d_candidate = _tanh_gradient(candidate, d_hidden - d_hidden * update)
            d_reset = _sigmoid_gradient(reset, d_candidate * inner)
            projected = tf.concat([d_update, d_reset, d_candidate], 0)  # [3 U, B]
            recurrent = tf.concat([d_update, d_reset, d_candidate * reset], 0)
            return d_hidden * update, (), (projected, recurrent)

        def gradient(d_outputs, d_last_hidden):
            d_inputs, d_kernels, d_state, d_biases = _backward(
                step_gradient, 2, _masked(d_outputs, mask), (d_last_hidden,), inputs,
                _previous(hiddens, hidden, reverse), (kernel, recurrent_kernel), reverse)
            return d_inputs, *d_kernels, tf.stack(d_biases), *d_state

        outputs = _masked(tf.transpose(hiddens, [2, 0, 1]), mask)  # [B, T, U]
        return (outputs, tf.transpose(last_hidden)), gradient

    outputs, last = run(inputs, kernel, recurrent_kernel, bias, *state)
    return outputs, (last,)


def _sigmoid_gradient(sigmoid, upstream):
    return tf.raw_ops.SigmoidGrad(y=sigmoid, dy=upstream)


def _tanh_gradient(tanh, upstream):
    return tf.raw_ops.TanhGrad(y=tanh, dy=upstream)


def _without_padding(inputs, mask):
    # A choice, not a product: 0 * inf would be NaN, and reach the weight gradients.
    return inputs if mask is None else tf.where(mask[..., None], inputs, tf.zeros([], inputs.dtype))


def _masked(values, mask):
    return values if mask is None else values * tf.cast(mask, values.dtype)[..., None]


def _padding(mask, dtype):
    """1 on padding, 0 on real steps, [T, 1, B]; None without a mask."""
    return None if mask is None else tf.transpose(1 - tf.cast(mask, dtype))[:, None]


def _augment(inputs, mask, kernel, bias, carry):
    """Inputs and kernel with the bias and the padding as two more features.

    Args:
        carry: One number a gate, 1 and -1 to drive it to 1 and 0 on padding.
    Returns:
        features [T, D', B] and weights [G, D'].
    """
    features = tf.transpose(inputs, [1, 2, 0])  # [T, D, B]
    extra, rows = [tf.ones_like(features[:, :1])], [kernel, bias[None]]
    if mask is not None:
        extra.append(_padding(mask, inputs.dtype))
        gates = tf.constant([carry], inputs.dtype) * SATURATION
        rows.append(tf.repeat(gates, bias.shape[0] // len(carry), axis=1))
    return tf.concat([features, *extra], 1), tf.transpose(tf.concat(rows, 0))


def _previous(hiddens, first, reverse):
    """The hidden state each step read, [T, B, U], from those it wrote [T, U, B] and the first [B, U]."""
    first = tf.transpose(first)[None]
    parts = [hiddens[1:], first] if reverse else [first, hiddens[:-1]]
    return tf.transpose(tf.concat(parts, 0), [0, 2, 1])


def _forward(step, state, rows, inputs, reverse):
    """Runs `step(t, *state) -> state, saved` over all steps.

    Returns:
        The last state, all hidden states [T, U, B], and one TensorArray for each part of `saved`.
    """
    num_steps, batch = tf.shape(inputs)[1], inputs.shape[0]
    arrays = [tf.TensorArray(inputs.dtype, num_steps, element_shape=[size, batch], clear_after_read=False)
              for size in [state[0].shape[0], *rows]]

    def body(k, state, arrays):
        t = num_steps - 1 - k if reverse else k
        state, saved = step(t, *state)
        return k + 1, state, [array.write(t, part) for array, part in zip(arrays, [state[0], *saved])]

    _, state, (hiddens, *saved) = tf.while_loop(
        lambda k, *_: k < num_steps, body, (0, state, arrays), maximum_iterations=num_steps)
    return state, hiddens.stack(), saved


def _backward(step_gradient, num_views, d_outputs, d_state, inputs, previous, kernels, reverse):
    """Walks the steps in the order opposite to `_forward`.

    Args:
        step_gradient: From t and the gradients of the state after step t, [U, B] each, to what reaches
            h[t-1] outside U (or None), the gradients of the rest of the state before step t, and
            those of the gate pre-activations, [G, B], as seen by W x and, if they differ, by U h.
        num_views: How many of the latter, 1 or 2.
        d_outputs: [B, T, U]; d_state: [B, U] each.
        inputs: [B, T, D]; previous: [T, B, U], the hidden state each step read.
        kernels: W and U.
    Returns:
        Gradients of the inputs [B, T, D], of W and U, of the first state, and of a bias in each view [G].
    """
    kernel, recurrent_kernel = kernels
    num_steps, num_gates, dtype = tf.shape(inputs)[1], kernel.shape[1], inputs.dtype
    d_outputs = tf.transpose(d_outputs, [1, 2, 0])  # [T, U, B]
    num_blocks, block_size, operands = _blocks(tf.transpose(inputs, [1, 0, 2]), previous)

    def block(k, state, d_inputs, totals):
        first = (k if reverse else num_blocks - 1 - k) * block_size
        size = tf.minimum(block_size, num_steps - first)

        def body(j, state, d_inputs, arrays):
            offset = j if reverse else size - 1 - j
            t = first + offset
            direct, rest, views = step_gradient(t, state[0] + d_outputs[t], *state[1:])
            d_inputs = d_inputs.write(t, tf.matmul(kernel, views[0]))
            d_hidden = tf.matmul(recurrent_kernel, views[-1])
            if direct is not None:
                d_hidden += direct
            return j + 1, (d_hidden, *rest), d_inputs, [a.write(offset, v) for a, v in zip(arrays, views)]

        arrays = [tf.TensorArray(dtype, block_size, element_shape=[num_gates, inputs.shape[0]])
                  for _ in range(num_views)]
        _, state, d_inputs, arrays = tf.while_loop(
            lambda j, *_: j < size, body, (0, state, d_inputs, arrays), maximum_iterations=block_size)
        # Steps past the last one were never written; they stack as zeros.
        views = [tf.reshape(tf.transpose(array.stack(), [1, 0, 2]), [num_gates, -1]) for array in arrays]
        parts = [tf.matmul(view, operand(first)) for view, operand in zip([views[0], views[-1]], operands)]
        parts += [tf.reduce_sum(view, 1) for view in views]
        return k + 1, state, d_inputs, [total + tf.cast(p, total.dtype) for total, p in zip(totals, parts)]

    # float16 would lose small parts in a long sum.
    total_dtype = dtype if dtype.size >= 4 else tf.float32
    shapes = [[num_gates, weight.shape[0]] for weight in kernels] + [[num_gates]] * num_views
    _, d_state, d_inputs, totals = tf.while_loop(
        lambda k, *_: k < num_blocks, block,
        (0, tuple(tf.transpose(part) for part in d_state),
         tf.TensorArray(dtype, num_steps, element_shape=[kernel.shape[0], inputs.shape[0]]),
         [tf.zeros(shape, total_dtype) for shape in shapes]), maximum_iterations=num_blocks)
    totals = [tf.cast(tf.transpose(total), dtype) for total in totals]
    d_state = [tf.transpose(part) for part in d_state]
    return tf.transpose(d_inputs.stack(), [2, 0, 1]), totals[:2], d_state, totals[2:]


def _blocks(*sequences):
    """Cuts sequences [T, B, .] into blocks of whole steps, all of one size, as XLA asks.

    Returns:
        Number of blocks, steps in each, and one function a sequence, from a block's first step to its
        rows [steps * B, .], 0 past the end.
    """
    num_steps, batch = tf.unstack(tf.shape(sequences[0])[:2])
    size = tf.maximum(1, ROWS_PER_WEIGHT_GRADIENT // tf.maximum(1, batch))
    num_blocks = -(-num_steps // size)
    size = -(-num_steps // tf.maximum(1, num_blocks))  # evenly: 10 steps are blocks of 5 and 5, not 8 and 2

    def rows(sequence):
        padded = tf.pad(sequence, [[0, num_blocks * size - num_steps], [0, 0], [0, 0]])
        flat = tf.reshape(padded, [-1, sequence.shape[2]])
        return lambda first: tf.slice(flat, [first * batch, 0], [size * batch, sequence.shape[2]])

    return num_blocks, size, [rows(sequence) for sequence in sequences]
