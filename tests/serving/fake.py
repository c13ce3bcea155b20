"""A generator whose answers can be worked out by hand."""

import tensorflow as tf


class FakeGenerator(tf.Module):
    """Knows one word ("one" -> "un") from a table and writes all others in capitals.

    Hypothesis h of an answer has h "!" at its end and the score -0.5 * len(answer) - h; the score of a pair
    is -0.5 * (len(source) + len(target)).
    """

    def __init__(self):
        super().__init__()
        words = tf.lookup.KeyValueTensorInitializer(tf.constant(["one"]), tf.constant(["un"]))
        self.tokenizers = (tf.lookup.StaticHashTable(words, ""),)
        self.weight = tf.Variable(0.5)

    def beam(self, text, num_hypotheses):
        known = self.tokenizers[0].lookup(text)
        answer = tf.where(known == "", tf.strings.upper(text), known)[:, None]  # [N, 1]
        marks = tf.constant(["!" * h for h in range(num_hypotheses)])[None]  # [1, H]
        length = tf.cast(tf.strings.length(answer), tf.float32)
        return {
            "text": answer + marks,
            "score": -self.weight * length - tf.range(float(num_hypotheses))[None],
        }

    def greedy(self, text):
        return self.beam(text, 1)

    def score(self, source, target):
        length = tf.strings.length(source) + tf.strings.length(target)
        return {"log_probability": -self.weight * tf.cast(length, tf.float32)}
