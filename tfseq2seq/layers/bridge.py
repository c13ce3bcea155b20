"""From what the encoder leaves to the decoder's first state."""

import keras
import tensorflow as tf

from tfseq2seq.layers.base import check_name


@keras.saving.register_keras_serializable("tfseq2seq")
class Bridge(keras.layers.Layer):
    """Makes the decoder's first state of the encoder's output.

    "dense": each decoder state is W [all last encoder states] + b, with tanh around hidden (not cell) states,
    as s_0 = tanh(W_s h) in Bahdanau et al., 2015, arXiv:1409.0473, A.2.2. "pooled": likewise, of the fixed context.
    "copy": the last states layer by layer, as they are. "zero": zeros. "auto": "dense" where the encoder has last
    states, else "pooled".

    Args:
        kind: One of the names above.
        widths: One tuple a decoder layer of the widths of its state's parts: (units, units) for an LSTM's
            h and c, (units,) for a GRU.
    Call arguments:
        final_state: nested tuple of [B, units] tensors, one tuple an encoder layer, or ().
        context: [B, C] float, the fixed context.
    Returns:
        Nested tuple as `widths`, each leaf [B, width].
    Raises:
        ValueError: an unknown kind, "copy" between stacks of different depth or width, or "dense" without last states.
    """

    def __init__(self, kind, widths, **kwargs):
        super().__init__(**kwargs)
        check_name("Bridge", "kind", kind, ("auto", "copy", "dense", "pooled", "zero"))
        self.kind = kind
        self.widths = tuple(tuple(parts) for parts in widths)
        self.projections = [
            keras.layers.Dense(width, activation=None if part else "tanh", dtype=self.dtype_policy)
            for parts in self.widths for part, width in enumerate(parts)] if kind not in ("copy", "zero") else []

    def call(self, final_state, context):
        if self.kind == "copy":
            return self._copy(final_state)
        if self.kind == "zero":
            rows = tf.shape(context)[0]
            leaves = iter([tf.zeros([rows, width], self.compute_dtype) for parts in self.widths for width in parts])
        else:
            source = self._source(final_state, context)
            leaves = iter([project(source) for project in self.projections])
        return tuple(tuple(next(leaves) for _ in parts) for parts in self.widths)

    def _copy(self, final_state):
        received = tuple(tuple(part.shape[-1] for part in parts) for parts in final_state)
        if received != self.widths:
            raise ValueError(
                "bridge = \"copy\" needs an encoder state shaped as the decoder's: use the same cell, layers and "
                "width (a bidirectional encoder is twice as wide unless merge_states is set), or bridge = \"dense\". "
                f"Received: encoder {received}, decoder {self.widths}.")
        return tuple(tuple(parts) for parts in final_state)

    def _source(self, final_state, context):
        if self.kind == "pooled" or (self.kind == "auto" and not final_state):
            return context
        if not final_state:
            raise ValueError(
                "bridge = \"dense\" needs an encoder with a last state; use bridge = \"pooled\". Received: none.")
        return tf.concat(tf.nest.flatten(final_state), -1)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "widths": self.widths}
