"""Recurrent cells that other systems have and cuDNN has not: read step by step, with TensorFlow's own gradient."""

import keras
import tensorflow as tf

from tfseq2seq.layers import recurrent
from tfseq2seq.layers.product import multiply
from tfseq2seq.layers.recurrent import GRU, LSTM, Recurrent, open_forget_gate

EPSILON = 1e-12  # added to the variance of a gate


class _Stepwise(Recurrent):
    """`call` as a loop over `step`. Arguments and results: see `Recurrent`."""

    def step(self, inputs, state):
        """One step; see the subclasses."""
        raise NotImplementedError

    def call(self, inputs, mask=None, initial_state=None, training=None):
        inputs = tf.cast(inputs, self.compute_dtype)
        if initial_state is None:
            initial_state = self.get_initial_state(tf.shape(inputs)[0])
        state = tuple(tf.cast(part, self.compute_dtype) for part in initial_state)
        num_steps = tf.shape(inputs)[1]
        steps = tf.TensorArray(inputs.dtype, num_steps).unstack(tf.transpose(inputs, [1, 0, 2]))
        real = None if mask is None else tf.TensorArray(tf.bool, num_steps).unstack(tf.transpose(mask))
        outputs = tf.TensorArray(inputs.dtype, num_steps, element_shape=[inputs.shape[0], self.units])

        def body(k, state, outputs):
            t = num_steps - 1 - k if self.reverse else k
            read = tf.ensure_shape(steps.read(t), [inputs.shape[0], inputs.shape[2]])
            output, after = self.step(read, state)
            if real is not None:
                here = real.read(t)[:, None]
                output = tf.where(here, output, tf.zeros([], output.dtype))
                after = tuple(tf.where(here, *pair) for pair in zip(after, state, strict=True))
            return k + 1, after, outputs.write(t, output)

        state = tuple(tf.ensure_shape(part, [inputs.shape[0], self.units]) for part in state)
        _, state, outputs = tf.while_loop(
            lambda k, *_: k < num_steps, body, (tf.constant(0), state, outputs), maximum_iterations=num_steps)
        return tf.transpose(outputs.stack(), [1, 0, 2]), state


@keras.saving.register_keras_serializable("tfseq2seq")
class ResetBeforeGRU(_Stepwise):
    """The GRU as it was first written: the reset gate comes before the product (Cho et al., 2014, eq. 5 to 8).

    z, r = sigmoid(W x[t] + U h[t-1] + b), n = tanh(W x[t] + U (r h[t-1]) + b), h[t] = z h[t-1] + (1 - z) n.

    Weights: kernel [D, 3 units], recurrent_kernel [units, 3 units] and bias [3 units], in the order z, r, n.
    Arguments and results: see `Recurrent`.
    """

    num_gates, num_states = GRU.num_gates, GRU.num_states

    def add_bias(self):
        return self.add_weight(name="bias", shape=(3 * self.units,), initializer="zeros")

    def step(self, inputs, state):
        """See `GRU.step`."""
        bias, inputs, hidden = self._start_step(inputs, state)
        update_reset, candidate = tf.split(
            multiply(inputs, self.kernel) + bias, [2 * self.units, self.units], -1)
        recurrent, late = tf.split(tf.cast(self.recurrent_kernel, inputs.dtype), [2 * self.units, self.units], -1)
        update, reset = tf.split(tf.sigmoid(update_reset + tf.matmul(hidden, recurrent)), 2, -1)
        candidate = tf.tanh(candidate + tf.matmul(reset * hidden, late))
        hidden = update * hidden + (1 - update) * candidate
        return hidden, (hidden,)


@keras.saving.register_keras_serializable("tfseq2seq")
class LayerNormLSTM(_Stepwise):
    """The LSTM with layer normalization of each gate and of c (Ba et al., 2016, arXiv:1607.06450, appendix).

    Each of i, f, g and o is normalized over its units before its function, c before the output's tanh; the normalized c
    is what goes on to the next step, as in TensorFlow 1.

    Weights: kernel [D, 4 units] and recurrent_kernel [units, 4 units], in the order i, f, g, o; scale [4 units] and
    bias [4 units] of the gates; state_scale [units] and state_bias [units] of c.
    Arguments and results: see `Recurrent`.
    """

    num_gates, num_states = LSTM.num_gates, LSTM.num_states

    def add_bias(self):
        bias = self.add_weight(name="bias", shape=(4 * self.units,), initializer=open_forget_gate)
        self.scale = self.add_weight(name="scale", shape=(4 * self.units,), initializer="ones")
        self.state_scale = self.add_weight(name="state_scale", shape=(self.units,), initializer="ones")
        self.state_bias = self.add_weight(name="state_bias", shape=(self.units,), initializer="zeros")
        return bias

    def step(self, inputs, state):
        """See `LSTM.step`."""
        bias, inputs, hidden, cell = self._start_step(inputs, state)
        gates = multiply(inputs, self.kernel) + multiply(hidden, self.recurrent_kernel)  # [N, 4 units]
        gates = tf.reshape(_standardize(tf.reshape(gates, [-1, 4, self.units])), [-1, 4 * self.units])
        gates = gates * tf.cast(self.scale, inputs.dtype) + bias
        input_gate, forget, candidate, output = tf.split(gates, 4, -1)
        cell = tf.sigmoid(forget) * cell + tf.sigmoid(input_gate) * tf.tanh(candidate)
        cell = _standardize(cell) * tf.cast(self.state_scale, cell.dtype) + tf.cast(self.state_bias, cell.dtype)
        hidden = tf.sigmoid(output) * tf.tanh(cell)
        return hidden, (hidden, cell)


def _standardize(values):
    """Mean 0 and variance 1 over the last axis; in float32."""
    wide = tf.cast(values, tf.float32)
    wide -= tf.reduce_mean(wide, -1, keepdims=True)
    wide *= tf.math.rsqrt(tf.reduce_mean(tf.square(wide), -1, keepdims=True) + EPSILON)
    return tf.cast(wide, values.dtype)


CELLS = {**recurrent.CELLS, "gru_reset_before": ResetBeforeGRU, "layer_norm_lstm": LayerNormLSTM}
