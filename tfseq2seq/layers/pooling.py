"""A sequence of vectors to one: the fixed context of a source."""

import keras
import tensorflow as tf

from tfseq2seq.layers.base import Layer, check_name


@keras.saving.register_keras_serializable("tfseq2seq")
class Pooling(Layer):
    """c = Pool(memory) over the real steps.

    "mean" and "max" (Kalchbrenner & Blunsom, 2013, read the source so), or "attentive": a weighted mean whose
    weights are the softmax of v . tanh(W memory[s] + b) (Lin et al., 2017, arXiv:1703.03130, eq. 5, with one hop).

    Args:
        kind: "mean", "max" or "attentive".
    Call arguments:
        memory: [B, S, E] float.
        mask: [B, S] bool, True on real steps. A row of padding gives 0 ("attentive": a mean of its values).
    Returns:
        [B, E] float.
    Raises:
        ValueError: an unknown kind.
    """

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        check_name("Pooling", "kind", kind, ("mean", "max", "attentive"))
        self.kind = kind

    def build(self, memory_shape):
        if self.kind != "attentive":
            return
        width = memory_shape[-1]
        self.projection = self.add_weight(name="projection", shape=(width, width), initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros")
        self.score_vector = self.add_weight(name="score_vector", shape=(width, 1), initializer="glorot_uniform")

    def call(self, memory, mask):
        if self.kind == "max":
            lowest = tf.where(mask[:, :, None], memory, memory.dtype.min)
            best = tf.reduce_max(lowest, 1)
            return tf.where(tf.reduce_any(mask, 1)[:, None], best, tf.zeros_like(best))
        if self.kind == "mean":
            weights = tf.cast(mask, tf.float32)
            weights = tf.math.divide_no_nan(weights, tf.reduce_sum(weights, 1, keepdims=True))
        else:
            hidden = tf.tanh(tf.matmul(memory, tf.convert_to_tensor(self.projection)) + self.bias)
            scores = tf.cast(tf.matmul(hidden, tf.convert_to_tensor(self.score_vector))[:, :, 0], tf.float32)
            weights = tf.nn.softmax(tf.where(mask, scores, scores.dtype.min))
        return tf.matmul(tf.cast(weights, memory.dtype)[:, None], memory)[:, 0]

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}
