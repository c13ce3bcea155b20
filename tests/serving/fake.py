"""A generator whose answers can be worked out by hand."""

import types

import tensorflow as tf

# Of at most three tokens and four of the source: an answer has two, a source three.
ATTENTION = [[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]


class FakeGenerator(tf.Module):
    """Knows one word ("one" -> "un") from a table and writes all others in capitals.

    Hypothesis h of an answer has h "!" at its end and the score -0.5 * len(answer) - h; the score of a pair
    is -0.5 * (len(source) + len(target)), half of it each of two tokens'.

    A text is one token, number 7, and cut if it is of more than 9 bytes.

    With options, an answer begins with the prefix and ends in "|" and the other options as they came in, with ":"
    between; the length penalty is taken from the score. Its log-probability is the score before that, all of it the
    first of two tokens', its alignment "0-0 1-2", and its attention `ATTENTION`.
    """

    reads_speech, empty_source = False, b""

    def __init__(self):
        super().__init__()
        words = tf.lookup.KeyValueTensorInitializer(tf.constant(["one"]), tf.constant(["un"]))
        self.tokenizers = (tf.lookup.StaticHashTable(words, ""),)
        self.weight = tf.Variable(0.5)
        self.decode = types.SimpleNamespace(
            method="beam", max_length=6, max_length_ratio=None, jit_compile=False)

    def beam(self, text, num_hypotheses):
        known = self.tokenizers[0].lookup(text)
        answer = tf.where(known == "", tf.strings.upper(text), known)[:, None]  # [N, 1]
        marks = tf.constant(["!" * h for h in range(num_hypotheses)])[None]  # [1, H]
        length = tf.cast(tf.strings.length(answer), tf.float32)
        return {
            "text": answer + marks,
            "score": -self.weight * length - tf.range(float(num_hypotheses))[None],
            "truncated": tf.strings.length(text) > 9,
        }

    def greedy(self, text):
        return self.beam(text, 1)

    def beam_with(self, text, num_hypotheses, length_penalty, min_length, max_length, prefix, phrases):
        return self._described(text, num_hypotheses, length_penalty, prefix, min_length, max_length, phrases)

    def sample_with(self, text, num_hypotheses, length_penalty, prefix, **others):
        names = ("min_length", "max_length", "temperature", "top_k", "top_p", "min_p", "seed")
        return self._described(text, num_hypotheses, length_penalty, prefix, *(others[name] for name in names))

    def alternatives(self, text, prefix, num_hypotheses):
        return self._described(text, num_hypotheses, tf.zeros(tf.shape(text)), prefix)

    def score(self, source, target):
        length = tf.strings.length(source) + tf.strings.length(target)
        total = -self.weight * tf.cast(length, tf.float32)
        return {
            "log_probability": total,
            "length": tf.fill(tf.shape(total), 2),
            "token_log_probability": tf.stack([total / 2, total / 2, tf.zeros_like(total)], 1),
            "tokens": target + " </s>",
            "truncated": tf.strings.length(source) > 9,
        }

    def tokenize(self, text):
        length = tf.fill(tf.shape(text), 2)
        return {
            "tokens": text + " </s>",
            "ids": tf.stack([length + 5, length + 1, tf.zeros_like(length)], 1),
            "length": length,
            "truncated": tf.strings.length(text) > 9,
        }

    def _described(self, text, num_hypotheses, length_penalty, prefix, *others):
        plain = self.beam(text, num_hypotheses)
        penalty = tf.where(tf.math.is_nan(length_penalty), 0.0, length_penalty)[:, None]
        nothing = tf.zeros_like(plain["score"])
        end = "|" + tf.strings.join([_as_string(each) for each in others], ":")
        return {
            "text": prefix[:, None] + plain["text"] + tf.reshape(end, [-1, 1]),
            "score": plain["score"] - penalty,
            "log_probability": plain["score"],
            "length": tf.cast(nothing, tf.int32) + 2,
            "alignment": tf.where(nothing == 0, "0-0 1-2", ""),
            "token_log_probability": tf.stack([plain["score"], nothing, nothing], 2),
            "attention": tf.ones_like(plain["score"])[:, :, None, None] * ATTENTION,
            "tokens": plain["text"] + " </s>",
            "truncated": plain["truncated"],
        }


def _as_string(values):
    if values.dtype == tf.string:
        return values
    return tf.strings.as_string(values, precision=2 if values.dtype.is_floating else -1)
