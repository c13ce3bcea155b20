"""LSTM and GRU layers: Keras' weights and numbers, a faster training step on a CPU."""

import keras
import tensorflow as tf

from tfseq2seq.layers import recurrent_kernels


class _Recurrent(keras.layers.Layer):
    """What LSTM and GRU share.

    Args:
        units: Width of the state, at least 1.
        reverse: Whether the sequence is read from its last step to its first; outputs keep the source's order.
    Call arguments:
        inputs: [B, T, D] float.
        mask: [B, T] bool, True on real steps, or None. A masked step carries the state on and outputs 0, so
            a right-padded row read in reverse starts with its last real step.
        initial_state: tuple of [B, units] tensors, default zeros.
        training: Not used; the layer has no dropout of its own.
    Returns:
        outputs [B, T, units] and the state after the last step read, a tuple of [B, units].
    Raises:
        ValueError: `units` is below 1.
    """

    def __init__(self, units, reverse=False, **kwargs):
        super().__init__(**kwargs)
        if units < 1:
            raise ValueError(f"{type(self).__name__} needs units >= 1. Received: units={units}.")
        self.units, self.reverse = units, reverse
        self.supports_masking = True

    def compute_mask(self, inputs, previous_mask):
        """None: masks are arguments here; Keras would hang them on tensors unseen."""
        return None

    def get_initial_state(self, batch_size):
        """Zeros for B rows."""
        return tuple(tf.zeros([batch_size, self.units], self.compute_dtype) for _ in range(self.num_states))

    def call(self, inputs, mask=None, initial_state=None, training=None):
        steps = tf.transpose(inputs, [1, 0, 2])  # [T, B, D]: every step is one block of memory
        shape = tf.shape(steps)
        rows = self._project(tf.reshape(steps, [-1, inputs.shape[-1]]))
        projected = tf.reshape(rows, [shape[0], shape[1], rows.shape[-1]])
        real = None if mask is None else tf.transpose(mask)[:, :, None]  # [T, B, 1]
        if self.reverse:
            projected = tf.reverse(projected, [0])
            real = None if real is None else tf.reverse(real, [0])
        if initial_state is None:
            initial_state = self.get_initial_state(shape[1])
        states, *final = self._run(projected, real, *initial_state)
        if real is not None:
            states = tf.where(real, states, tf.zeros_like(states))
        if self.reverse:
            states = tf.reverse(states, [0])
        return tf.transpose(states, [1, 0, 2]), tuple(final)

    def step(self, inputs, state):
        """One step with the same weights.

        Args:
            inputs: [N, D] float.
            state: tuple of [N, units].
        Returns:
            output [N, units] and the next state.
        """
        _, *final = self._run(self._project(inputs)[None], None, *state)
        return final[0], tuple(final)

    def _add_weights(self, input_width, num_gates, bias_shape, bias_initializer):
        self.kernel = self.add_weight(name="kernel", shape=(input_width, num_gates * self.units))
        self.recurrent_kernel = self.add_weight(
            name="recurrent_kernel", shape=(self.units, num_gates * self.units), initializer="orthogonal")
        self.bias = self.add_weight(name="bias", shape=bias_shape, initializer=bias_initializer)

    def _cast(self, weight):
        return tf.cast(tf.convert_to_tensor(weight), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "reverse": self.reverse}


@keras.saving.register_keras_serializable("tfseq2seq")
class LSTM(_Recurrent):
    __doc__ = (_Recurrent.__doc__ or "").replace("What LSTM and GRU share.", (
        "Long short-term memory, see `recurrent_kernels.lstm`; weights as in `keras.layers.LSTM`."))
    num_states = 2

    def build(self, inputs_shape):
        def forget_one(shape, dtype=None):
            # Forget gates that start open (Jozefowicz et al., 2015).
            return tf.repeat(tf.constant([0, 1, 0, 0], dtype), self.units)

        self._add_weights(inputs_shape[-1], 4, (4 * self.units,), forget_one)

    def _project(self, rows):
        return tf.matmul(rows, self._cast(self.kernel)) + self._cast(self.bias)

    def _run(self, projected, mask, h, c):
        return recurrent_kernels.lstm(projected, self._cast(self.recurrent_kernel), mask, h, c)


@keras.saving.register_keras_serializable("tfseq2seq")
class GRU(_Recurrent):
    __doc__ = (_Recurrent.__doc__ or "").replace("What LSTM and GRU share.", (
        "Gated recurrent unit, see `recurrent_kernels.gru`; weights as in `keras.layers.GRU`."))
    num_states = 1

    def build(self, inputs_shape):
        self._add_weights(inputs_shape[-1], 3, (2, 3 * self.units), "zeros")

    def _project(self, rows):
        return tf.matmul(rows, self._cast(self.kernel)) + self._cast(self.bias)[0]

    def _run(self, projected, mask, h):
        return recurrent_kernels.gru(
            projected, self._cast(self.recurrent_kernel), self._cast(self.bias)[1], mask, h)


CELLS = {"lstm": LSTM, "gru": GRU}
