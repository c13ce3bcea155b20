"""The recurrences of LSTM and GRU over a whole sequence, each with its gradient written out.

The forward loop keeps the gates, and the backward loop only what must be sequential; the gradient of the
recurrent kernel is one matrix product after the loop instead of one a step. Automatic differentiation of
the loop takes 1.5 times as long (see tests/benchmarks/recurrent.py).

All arrays are time-major: T steps, B rows, U units. A masked step carries the state on.
"""

import tensorflow as tf


def _array(steps, dtype, units):
    return tf.TensorArray(dtype, steps, element_shape=[None, units], clear_after_read=False)


def _read_all(tensor):
    """[T, B, ...] as an array that a loop reads step by step."""
    return tf.TensorArray(tensor.dtype, tf.shape(tensor)[0], clear_after_read=False).unstack(tensor)


def _carry(mask, t, new, old):
    """`new` on real rows of step t, `old` on masked ones."""
    return new if mask is None else tf.where(mask.read(t), new, old)


def _real(mask, t, gradient):
    """Splits the gradient of a step's state into what reaches its gates and what passes it by."""
    if mask is None:
        return gradient, None
    real, zeros = mask.read(t), tf.zeros_like(gradient)
    return tf.where(real, gradient, zeros), tf.where(real, zeros, gradient)


def _add(first, second):
    return first if second is None else first + second


def _loop(steps, body, variables):
    return tf.while_loop(lambda t, *_: t < steps, body, (tf.constant(0), *variables), maximum_iterations=steps)[1:]


def _previous(first, states):
    """States before each step: [T, B, U]."""
    return tf.concat([first[None], states[:-1]], 0)


def _product(rows, gradients):
    """sum over t and b of rows^T gradients: [T, B, U], [T, B, G] -> [U, G]."""
    flat = [tf.reshape(tensor, [-1, tensor.shape[-1]]) for tensor in (rows, gradients)]
    return tf.matmul(*flat, transpose_a=True)


def _sigmoid_gradient(output, upstream):
    """upstream * output * (1 - output), in one pass over memory."""
    return tf.raw_ops.SigmoidGrad(y=output, dy=upstream)


def _tanh_gradient(output, upstream):
    """upstream * (1 - output^2), in one pass over memory."""
    return tf.raw_ops.TanhGrad(y=output, dy=upstream)


def lstm(projected, recurrent_kernel, mask, h, c):
    """h[t] = o tanh(c[t]), c[t] = f c[t-1] + i g (Hochreiter & Schmidhuber, 1997; Gers et al., 2000).

    i, f, o = sigmoid and g = tanh of the parts (in the order i, f, g, o) of projected[t] + h[t-1] U.

    Args:
        projected: [T, B, 4 * U], the inputs' part with the bias.
        recurrent_kernel: [U, 4 * U].
        mask: [T, B, 1] bool or None.
        h, c: [B, U], the state before the first step.
    Returns:
        states h after each step [T, B, U], and the last h and c.
    """
    units = h.shape[-1]
    mask_steps = None if mask is None else _read_all(mask)

    @tf.custom_gradient
    def run(projected, recurrent_kernel, h, c):
        steps, inputs = tf.shape(projected)[0], _read_all(projected)
        first_h = h

        def forward(t, h, c, hs, cs, *gates):
            i, f, g, o = tf.split(inputs.read(t) + tf.matmul(h, recurrent_kernel), 4, -1)
            values = (tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o))
            i, f, g, o = values
            new_c = f * c + i * g
            h = _carry(mask_steps, t, o * tf.tanh(new_c), h)
            c = _carry(mask_steps, t, new_c, c)
            gates = tuple(gate.write(t, value) for gate, value in zip(gates, values, strict=True))
            return t + 1, h, c, hs.write(t, h), cs.write(t + 1, c), *gates

        # cs holds the state before each step, and the last.
        cs = _array(steps + 1, h.dtype, units).write(0, c)
        arrays = [_array(steps, h.dtype, units) for _ in range(5)]
        h, c, hs, cs, *gates = _loop(steps, forward, (h, c, arrays[0], cs, *arrays[1:]))
        states = hs.stack()

        def gradient(d_states, d_h, d_c):
            transposed, d_steps = tf.transpose(recurrent_kernel), _read_all(d_states)

            def backward(k, d_h, d_c, d_gates):
                t = steps - 1 - k
                i, f, g, o = (gate.read(t) for gate in gates)
                previous_c = cs.read(t)
                activated = tf.tanh(f * previous_c + i * g)
                d_h, passing_h = _real(mask_steps, t, d_h + d_steps.read(t))
                d_c, passing_c = _real(mask_steps, t, d_c)
                d_c += _tanh_gradient(activated, d_h * o)
                d_gate = tf.concat([
                    _sigmoid_gradient(i, d_c * g), _sigmoid_gradient(f, d_c * previous_c),
                    _tanh_gradient(g, d_c * i), _sigmoid_gradient(o, d_h * activated)], -1)
                d_h = _add(tf.matmul(d_gate, transposed), passing_h)
                return k + 1, d_h, _add(d_c * f, passing_c), d_gates.write(t, d_gate)

            d_h, d_c, d_gates = _loop(steps, backward, (d_h, d_c, _array(steps, d_h.dtype, 4 * units)))
            d_projected = d_gates.stack()
            return d_projected, _product(_previous(first_h, states), d_projected), d_h, d_c

        return (states, h, c), gradient

    return run(projected, recurrent_kernel, h, c)


def gru(projected, recurrent_kernel, recurrent_bias, mask, h):
    """h[t] = z h[t-1] + (1 - z) n (Cho et al., 2014, arXiv:1406.1078, with the reset after the product).

    With the parts (in the order z, r, n) of x = projected[t] and of a = h[t-1] U + b: z, r = sigmoid(x + a),
    n = tanh(x + r a).

    Args:
        projected: [T, B, 3 * U], the inputs' part with the input bias.
        recurrent_kernel: [U, 3 * U].
        recurrent_bias: [3 * U].
        mask: [T, B, 1] bool or None.
        h: [B, U], the state before the first step.
    Returns:
        states h after each step [T, B, U], and the last h.
    """
    units = h.shape[-1]
    mask_steps = None if mask is None else _read_all(mask)

    @tf.custom_gradient
    def run(projected, recurrent_kernel, recurrent_bias, h):
        steps, inputs, first_h = tf.shape(projected)[0], _read_all(projected), h

        def forward(t, h, hs, *kept):
            x_z, x_r, x_n = tf.split(inputs.read(t), 3, -1)
            a_z, a_r, a_n = tf.split(tf.matmul(h, recurrent_kernel) + recurrent_bias, 3, -1)
            z, r = tf.sigmoid(x_z + a_z), tf.sigmoid(x_r + a_r)
            n = tf.tanh(x_n + r * a_n)
            h = _carry(mask_steps, t, z * h + (1 - z) * n, h)
            kept = tuple(array.write(t, value) for array, value in zip(kept, (z, r, n, a_n), strict=True))
            return t + 1, h, hs.write(t, h), *kept

        h, hs, *kept = _loop(steps, forward, (h, *(_array(steps, h.dtype, units) for _ in range(5))))
        states = hs.stack()

        def gradient(d_states, d_h):
            transposed, d_steps = tf.transpose(recurrent_kernel), _read_all(d_states)
            states_before = _previous(first_h, states)
            before = _read_all(states_before)

            def backward(k, d_h, d_gates, d_candidates):
                t = steps - 1 - k
                z, r, n, a_n = (array.read(t) for array in kept)
                previous_h = before.read(t)
                d_h, passing = _real(mask_steps, t, d_h + d_steps.read(t))
                d_n = _tanh_gradient(n, d_h * (1 - z))
                d_z, d_r = _sigmoid_gradient(z, d_h * (previous_h - n)), _sigmoid_gradient(r, d_n * a_n)
                d_gate = tf.concat([d_z, d_r, d_n * r], -1)  # of a; that of x has d_n in the last place
                d_h = _add(tf.matmul(d_gate, transposed) + d_h * z, passing)
                return k + 1, d_h, d_gates.write(t, d_gate), d_candidates.write(t, d_n)

            d_h, d_gates, d_candidates = _loop(
                steps, backward, (d_h, _array(steps, d_h.dtype, 3 * units), _array(steps, d_h.dtype, units)))
            d_recurrent = d_gates.stack()
            d_projected = tf.concat([d_recurrent[:, :, : 2 * units], d_candidates.stack()], -1)
            d_kernel = _product(states_before, d_recurrent)
            return d_projected, d_kernel, tf.reduce_sum(d_recurrent, [0, 1]), d_h

        return (states, h), gradient

    return run(projected, recurrent_kernel, recurrent_bias, h)
