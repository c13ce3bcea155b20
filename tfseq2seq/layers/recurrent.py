"""LSTM and GRU layers with Keras' weights, faster than Keras' on a CPU (see `recurrent_kernels`)."""

import keras
import tensorflow as tf

from tfseq2seq.layers.base import Layer
from tfseq2seq.layers.product import multiply
from tfseq2seq.layers.recurrent_cudnn import cudnn_gru, cudnn_lstm
from tfseq2seq.layers.recurrent_kernels import gru_sequence, lstm_sequence


class Recurrent(Layer):
    """Reads a sequence step by step; a subclass says what a step is.

    A subclass gives `sequence` and `cudnn_sequence`, functions of (inputs, mask, kernel,
    recurrent_kernel, bias, state, reverse), `num_gates`, `num_states`, `add_bias()` and `step`.

    cuDNN runs the sequence if, while the graph is built, all of this holds: `training=True` is passed
    (so that no exported graph needs a GPU), TensorFlow sees a GPU, the compute dtype is float16 or float32,
    and `right_padded` is set.

    Args:
        units: Width of the state, at least 1.
        reverse: Whether to read from the last step to the first; outputs stay in the order of the inputs.
        right_padded: Whether every mask has its padding at the end of a row only, as cuDNN needs it;
            False keeps cuDNN off.
    Call arguments:
        inputs: [B, T, D] float, T at least 1.
        mask: [B, T] bool, True on real steps, or None when all are. Any pattern: a step of padding carries
            the state over unchanged, and its output is 0. A row may be all padding.
        initial_state: Tuple of [B, units] tensors; zeros without.
        training: Whether gradients will be asked for; only cuDNN looks at it.
    Returns:
        outputs [B, T, units] and the last state, a tuple of [B, units] tensors.
    Raises:
        ValueError: `units` is below 1, or the inputs lack an axis or their width.
    """

    num_gates: int
    num_states: int

    def __init__(self, units, reverse=False, right_padded=True, **kwargs):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"{type(self).__name__} needs units >= 1. Received: units={units}.")
        self.units, self.reverse, self.right_padded = units, reverse, right_padded

    def build(self, inputs_shape):
        if len(inputs_shape) != 3 or inputs_shape[-1] is None:
            raise ValueError(
                f"{type(self).__name__} needs inputs of shape [batch, steps, width] with a known width; "
                f"for one step use `step`. Received: {tuple(inputs_shape)}.")
        columns = self.num_gates * self.units
        self.kernel = self.add_weight(
            name="kernel", shape=(inputs_shape[-1], columns), initializer="glorot_uniform")
        self.recurrent_kernel = self.add_weight(
            name="recurrent_kernel", shape=(self.units, columns), initializer="orthogonal")
        self.bias = self.add_bias()

    def call(self, inputs, mask=None, initial_state=None, training=None):
        inputs = tf.cast(inputs, self.compute_dtype)
        if initial_state is None:
            initial_state = self.get_initial_state(tf.shape(inputs)[0])
        state = tuple(tf.cast(part, self.compute_dtype) for part in initial_state)
        run = self.cudnn_sequence if training and self._may_use_cudnn() else self.sequence
        return run(inputs, mask, *self._weights(), state, self.reverse)

    def get_initial_state(self, batch_size):
        """Zeros: a tuple of [batch_size, units] tensors."""
        return tuple(tf.zeros([batch_size, self.units], self.compute_dtype) for _ in range(self.num_states))

    def _may_use_cudnn(self):
        return (self.right_padded and self.compute_dtype in ("float16", "float32")
                and bool(tf.config.list_logical_devices("GPU")))

    def _weights(self):
        weights = (self.kernel, self.recurrent_kernel, self.bias)
        return tuple(tf.cast(weight, self.compute_dtype) for weight in weights)

    def _start_step(self, inputs, state):
        """The bias, the inputs and the parts of the state, cast: outside `__call__` Keras casts nothing."""
        if not self.built:
            self.build((None, None, inputs.shape[-1]))
        return [tf.cast(part, self.compute_dtype) for part in (self.bias, inputs, *state)]

    def get_config(self):
        return {**super().get_config(), "units": self.units, "reverse": self.reverse,
                "right_padded": self.right_padded}


def open_forget_gate(shape, dtype=None):
    """Bias of the LSTM: 1 on the forget gate, to remember at first (Jozefowicz et al., 2015, section 3.2)."""
    units = shape[0] // 4
    return tf.concat([tf.zeros([units], dtype), tf.ones([units], dtype), tf.zeros([2 * units], dtype)], 0)


@keras.saving.register_keras_serializable("tfseq2seq")
class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber, 1997; forget gate of Gers et al., 2000).

    i, f, o = sigmoid(W x[t] + U h[t-1] + b), g = tanh(W x[t] + U h[t-1] + b),
    c[t] = f c[t-1] + i g, h[t] = o tanh(c[t]).

    The state is (h, c), the output h. Weights as in `keras.layers.LSTM`: kernel [D, 4 units],
    recurrent_kernel [units, 4 units] and bias [4 units], in the order i, f, g, o.
    Arguments and results: see `Recurrent`.
    """

    num_gates = 4
    num_states = 2
    sequence = staticmethod(lstm_sequence)
    cudnn_sequence = staticmethod(cudnn_lstm)

    def add_bias(self):
        return self.add_weight(name="bias", shape=(4 * self.units,), initializer=open_forget_gate)

    def step(self, inputs, state):
        """One step, as `call` does it.

        Args:
            inputs: [N, D] float.
            state: h and c, each [N, units].
        Returns:
            output [N, units] and the next state.
        """
        bias, inputs, hidden, cell = self._start_step(inputs, state)
        gates = multiply(inputs, self.kernel) + multiply(hidden, self.recurrent_kernel) + bias  # [N, 4 units]
        input_gate, forget, candidate, output = tf.split(gates, 4, -1)
        cell = tf.sigmoid(forget) * cell + tf.sigmoid(input_gate) * tf.tanh(candidate)
        hidden = tf.sigmoid(output) * tf.tanh(cell)
        return hidden, (hidden, cell)


@keras.saving.register_keras_serializable("tfseq2seq")
class GRU(Recurrent):
    """Gated recurrent unit (Cho et al., 2014, arXiv:1406.1078), in cuDNN's variant: reset after the product.

    z, r = sigmoid(W x[t] + b + U h[t-1] + b'), n = tanh(W x[t] + b + r (U h[t-1] + b')),
    h[t] = z h[t-1] + (1 - z) n.

    The state is (h,), the output h. Weights as in `keras.layers.GRU`: kernel [D, 3 units],
    recurrent_kernel [units, 3 units] and bias [2, 3 units] (b, b'), in the order z, r, n.
    Arguments and results: see `Recurrent`.
    """

    num_gates = 3
    num_states = 1
    sequence = staticmethod(gru_sequence)
    cudnn_sequence = staticmethod(cudnn_gru)

    def add_bias(self):
        return self.add_weight(name="bias", shape=(2, 3 * self.units), initializer="zeros")

    def step(self, inputs, state):
        """One step, as `call` does it.

        Args:
            inputs: [N, D] float.
            state: h in a tuple, [N, units].
        Returns:
            output [N, units] and the next state.
        """
        bias, inputs, hidden = self._start_step(inputs, state)
        projected = tf.split(multiply(inputs, self.kernel) + bias[0], 3, -1)
        recurrent = tf.split(multiply(hidden, self.recurrent_kernel) + bias[1], 3, -1)
        update = tf.sigmoid(projected[0] + recurrent[0])
        reset = tf.sigmoid(projected[1] + recurrent[1])
        candidate = tf.tanh(projected[2] + reset * recurrent[2])
        hidden = update * hidden + (1 - update) * candidate
        return hidden, (hidden,)


CELLS = {"lstm": LSTM, "gru": GRU}
