"""From the encoder's last state to the decoder's first."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfseq2seq")
class Bridge(keras.layers.Layer):
    """Makes the decoder's first state of the encoder's last.

    "dense": each decoder state is W [all encoder states] + b, with tanh around hidden (not cell) states,
    as s_0 = tanh(W_s h) in Bahdanau et al., 2015, arXiv:1409.0473, A.2.2. "copy": layer by layer, as it is.
    "zero": zeros.

    Args:
        kind: "dense", "copy" or "zero".
        widths: One tuple a decoder layer of the widths of its state's parts: (units, units) for an LSTM's
            h and c, (units,) for a GRU.
    Call arguments:
        final_state: nested tuple of [B, units] tensors, one tuple an encoder layer.
        batch_size: scalar int, B.
    Returns:
        Nested tuple as `widths`, each leaf [B, width].
    Raises:
        ValueError: "copy" between stacks of different depth or width.
    """

    def __init__(self, kind, widths, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.widths = tuple(tuple(parts) for parts in widths)
        self.projections = [
            keras.layers.Dense(width, activation=None if part else "tanh", dtype=self.dtype_policy)
            for parts in self.widths for part, width in enumerate(parts)] if kind == "dense" else []

    def call(self, final_state, batch_size):
        if self.kind == "copy":
            received = tuple(tuple(part.shape[-1] for part in parts) for parts in final_state)
            if received != self.widths:
                raise ValueError(
                    "bridge = \"copy\" needs an encoder state shaped as the decoder's: use the same cell, layers and "
                    "width (a bidirectional encoder is twice as wide), or bridge = \"dense\". "
                    f"Received: encoder {received}, decoder {self.widths}.")
            return tuple(tuple(parts) for parts in final_state)
        if self.kind == "zero":
            leaves = iter(
                [tf.zeros([batch_size, width], self.compute_dtype) for parts in self.widths for width in parts])
        else:
            joined = tf.concat(tf.nest.flatten(final_state), -1)
            leaves = iter([project(joined) for project in self.projections])
        return tuple(tuple(next(leaves) for _ in parts) for parts in self.widths)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "widths": self.widths}
