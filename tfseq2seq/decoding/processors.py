"""What may come next: one small function for each constraint.

A processor reads the logits of R searches of K hypotheses, [R, K, V], and their `Past`. What it forbids it sets to
-inf; probabilities, and so the scores, stay the model's. `search` takes one as a reshaper too: then what is left is
made to sum to 1 again, as in CTranslate2. `penalize_repetition`, `no_end_before` and `free_end_at` make sense as
reshapers alone. A processor with `needs_past` is given the tokens so far. One that keeps something of each hypothesis
has `start(N)`, which gives a nest of [N, ...] tensors, and `advance(state, tokens [N], past)`.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tfseq2seq.decoding.trie import Trie
from tfseq2seq.structures import EOS, PAD

_INFINITY = float("inf")


class Past(NamedTuple):
    """What a processor may look at.

    Attributes:
        length: scalar int32, tokens that each hypothesis has.
        tokens: [R, K, L] int32, L the longest that an answer can be, PAD after the first `length`; () where no one
            needs it.
        sources: [R] int32, the place of each search's source in the batch.
    """

    length: Any
    tokens: Any
    sources: Any


def needs_past(process):
    """Marks a processor that reads `Past.tokens`."""
    process.needs_past = True
    return process


def forbid_tokens(tokens, vocabulary_size):
    """No token of a list is ever produced.

    Args:
        tokens: ids, of no special token; end and length have settings of their own.
        vocabulary_size: V.
    """
    forbidden = set(tokens)
    mask = tf.constant([-_INFINITY if token in forbidden else 0.0 for token in range(vocabulary_size)])
    return lambda logits, past: logits + mask


def forbid_first(tokens, vocabulary_size, step=0):
    """No answer has a token of a list at one step, the first unless another is named; the end token may be one.

    Arguments as `forbid_tokens`; step: counted from 0.
    """
    forbid = forbid_tokens(tokens, vocabulary_size)
    return lambda logits, past: tf.where(past.length == step, forbid(logits, past), logits)


def from_step(step, process):
    """A processor without a state that forbids nothing before a step, counted from 0."""

    def later(logits, past):
        return tf.where(past.length >= step, process(logits, past), logits)

    return needs_past(later) if getattr(process, "needs_past", False) else later


def forbid_phrases(phrases):
    """No answer contains one of the phrases, each a list of ids; one of a single id forbids that token."""

    @needs_past
    def process(logits, past):
        for phrase in phrases:
            *begun, last = phrase
            count = len(begun)
            recent = recent_tokens(past, count)  # [R, K, count]
            there = tf.reduce_all(recent == tf.constant(begun, tf.int32), -1) & (past.length >= count)
            loss = tf.one_hot(last, logits.shape[2], -_INFINITY, 0.0)
            logits = tf.where(there[:, :, None], logits + loss, logits)
        return logits

    return process


def block_ngrams(size):
    """No answer contains the same n tokens twice (Paulus et al., 2018, arXiv:1705.04304, section 2.5).

    Args:
        size: n, at least 1.
    """

    @needs_past
    def process(logits, past):
        windows = tf.maximum(tf.shape(past.tokens)[2] - size + 1, 0)  # n-grams that an answer can have
        begun = recent_tokens(past, size - 1)  # [R, K, n - 1]
        same = tf.range(windows) <= past.length - size  # [W], those that are there
        same = tf.zeros_like(past.tokens[:, :, :1], tf.bool) | same
        for i in range(size - 1):
            same &= past.tokens[:, :, i : i + windows] == begun[:, :, i, None]
        following = tf.where(same, past.tokens[:, :, size - 1 :], PAD)  # [R, K, W]
        most = tf.where(same, -_INFINITY, _INFINITY)  # PAD keeps its logit
        flat = tf.tensor_scatter_nd_min(
            tf.reshape(logits, [-1, logits.shape[2]]), _places(following), tf.reshape(most, [-1]))
        return tf.ensure_shape(tf.reshape(flat, tf.shape(logits)), logits.shape)

    return process


def penalize_repetition(factor):
    """A reshaper: logits of tokens that are there already are divided by the factor, or times it where negative.

    (Keskar et al., 2019, arXiv:1909.05858, section 4.1, with the rule for negative logits that every system has since.)

    Args:
        factor: above 0; 1 changes nothing, above 1 repeats less.
    """

    @needs_past
    def process(logits, past):
        seen = tf.where(tf.range(tf.shape(past.tokens)[2]) < past.length, past.tokens, PAD)  # [R, K, L]
        values = tf.gather(logits, seen, batch_dims=2)
        values = tf.where(values > 0, values / factor, values * factor)
        places = _places(seen)
        # A token that is there twice is written twice, with one value. PAD itself is never produced.
        flat = tf.tensor_scatter_nd_update(
            tf.reshape(logits, [-1, logits.shape[2]]), places, tf.reshape(values, [-1]))
        changed = tf.reshape(flat, tf.shape(logits))
        padding = tf.range(logits.shape[2]) == PAD
        return tf.ensure_shape(tf.where(padding, logits, changed), logits.shape)

    return process


def force_prefix(prefix):
    """Each answer begins with the prefix of its source.

    Args:
        prefix: [B, P] int32, padded by PAD, shorter than the longest answer.
    """

    def process(logits, past):
        width = tf.shape(prefix)[1]
        here = tf.gather(tf.pad(prefix, [[0, 0], [0, 1]]), past.sources)  # [R, P + 1]
        token = here[:, tf.minimum(past.length, width)]  # [R], PAD after the prefix
        other = tf.range(logits.shape[2]) != token[:, None]
        return tf.where((other & (token != PAD)[:, None])[:, None], -_INFINITY, logits)

    return process


def no_end_before(min_length):
    """A reshaper: the probability of an end that would be too early goes to the other tokens.

    `search`'s own `min_length` leaves probabilities as they are.

    Args:
        min_length: tokens, end token included; int or [B] int32.
    """

    def process(logits, past):
        early = tf.logical_and(past.length + 1 < _of_searches(min_length, past), tf.range(logits.shape[2]) == EOS)
        return tf.where(early, -_INFINITY, logits)

    return process


def free_end_at(max_length):
    """A reshaper: the end that `max_length` forces costs nothing, as the forced end of Marian and BART in Transformers.

    Args:
        max_length: tokens, end token included; int or [B] int32.
    """

    def process(logits, past):
        free = tf.logical_and(tf.range(logits.shape[2]) == EOS, logits > -_INFINITY)  # unless it is forbidden
        at_limit = past.length + 1 >= _of_searches(max_length, past)
        return tf.where(at_limit, tf.where(free, 0.0, -_INFINITY), logits)

    return process


class only_from:  # noqa: N801  # beside the functions, which are used alike
    """Each answer is one of the strings of a trie.

    Args:
        trie: `Trie` of their ids.
    """

    def __init__(self, trie: Trie):
        self.trie = trie

    def start(self, num_hypotheses):
        """[N] int32, the root."""
        return tf.zeros([num_hypotheses], tf.int32)

    def advance(self, state, tokens, past):
        return self.trie.step(state, tokens)

    def __call__(self, logits, past, state):
        allowed = self.trie.allowed(state, logits.shape[2])  # [N, V]
        return tf.where(tf.reshape(allowed, tf.shape(logits)), logits, -_INFINITY)


def _of_searches(value, past):
    """A number for all sources as it is, or one of each, [B], as [R, 1, 1]."""
    value = tf.convert_to_tensor(value)
    return tf.gather(value, past.sources)[:, None, None] if value.shape.rank else value


def recent_tokens(past, count):
    """[R, K, count] last tokens; where fewer exist, PAD stands before them."""
    padded = tf.pad(past.tokens, [[0, 0], [0, 0], [count, 0]], constant_values=PAD)
    return tf.gather(padded, past.length + tf.range(count), axis=2)


def _places(tokens):
    """[R * K * L, 2]: row among R * K, and token."""
    rows = tf.range(tf.shape(tokens)[0] * tf.shape(tokens)[1])
    flat = tf.reshape(tokens, [tf.size(rows), -1])
    return tf.reshape(tf.stack([tf.zeros_like(flat) + rows[:, None], flat], -1), [-1, 2])
