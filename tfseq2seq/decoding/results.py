"""What a search keeps of its hypotheses, and how the answers are read from it."""

from typing import Any, NamedTuple

import tensorflow as tf

from tfseq2seq.structures import EOS, PAD, Hypotheses

_INFINITY = float("inf")


class Pool(NamedTuple):
    """The finished hypotheses of R searches, the best P of each, best first.

    Attributes:
        scores: [R, P] float32; -inf where there is none.
        log_probabilities: [R, P] float32.
        lengths: [R, P] int32, end token included; 0 where there is none.
        beams: [R, P] int32, the live hypothesis that ended.
    """

    scores: Any
    log_probabilities: Any
    lengths: Any
    beams: Any

    @classmethod
    def empty(cls, num_rows, size):
        """A pool without hypotheses."""
        nothing = tf.zeros([num_rows, size], tf.int32)
        return cls(*(tf.fill([num_rows, size], -_INFINITY),) * 2, nothing, nothing)

    def merge(self, rows, done, scores, log_probabilities, length):
        """Lets hypotheses that end at this length in; a search that is done keeps its own.

        Args:
            rows: [A] int32, the searches; None for all.
            done: [A] bool.
            scores, log_probabilities: [A, K] float32; a score of -inf where none ends.
            length: scalar int32, end token included.
        Returns:
            Pool.
        """
        old = self if rows is None else [tf.gather(leaf, rows) for leaf in self]  # [A, P]
        beams = tf.zeros_like(scores, tf.int32) + tf.range(tf.shape(scores)[1])  # [A, K]
        new = (scores, log_probabilities, tf.zeros_like(beams) + length, beams)
        both = [tf.concat(pair, 1) for pair in zip(old, new, strict=True)]
        # Of equals the pool's own win: where none ends, -inf never takes the place of an empty slot.
        _, order = tf.math.top_k(both[0], old[0].shape[1])
        merged = [tf.gather(leaf, order, batch_dims=1) for leaf in both]
        kept = [tf.where(done[:, None], one, other) for one, other in zip(old, merged, strict=True)]
        if rows is None:
            return Pool(*kept)
        return Pool(*(
            tf.tensor_scatter_nd_update(leaf, rows[:, None], part) for leaf, part in zip(self, kept, strict=True)))

    def worst(self, rows, number):
        """[A] scores of the number-th best of each search, or with rows = None of all."""
        scores = self.scores if rows is None else tf.gather(self.scores, rows)
        return scores[:, number - 1]


def share_places(pool, rows, done, entering, ended, ranks, live):
    """Gives the K best of the finished, the ending and the live hypotheses the K places; the others leave.

    Args:
        pool: `Pool` of K hypotheses a search.
        rows: [A] int32, the searches; None for all.
        done: [A] bool; what is done keeps its finished ones.
        entering, ended: [A, K] float32, ranks and log-probabilities of those that end now.
        ranks, live: [A, K] float32, the same of those that go on.
    Returns:
        `Pool`, and `ended` and `live` with -inf for those that left.
    """
    scores = pool.scores if rows is None else tf.gather(pool.scores, rows)
    beams = live.shape[1]
    everyone = tf.concat([scores, entering, ranks], 1)  # [A, 3 K]
    _, best = tf.math.top_k(everyone, beams)
    stays = tf.reduce_any(tf.one_hot(best, 3 * beams, True, False, dtype=tf.bool), 1)
    old, ending, going = tf.split(stays, 3, 1)
    scores = tf.where(old | done[:, None], scores, -_INFINITY)
    if rows is not None:
        scores = tf.tensor_scatter_nd_update(pool.scores, rows[:, None], scores)
    pool = pool._replace(scores=scores, lengths=tf.where(scores == -_INFINITY, 0, pool.lengths))
    return pool, tf.where(ending, ended, -_INFINITY), tf.where(going, live, -_INFINITY)


class History(NamedTuple):
    """What each step chose, for all R searches.

    Attributes:
        choices: TensorArray of [R, K, 2] int32, token and parent of each live hypothesis.
        gains: TensorArray of [R, K, 2] float32, log-probability of that token, and of the end in its place.
        attention: TensorArray of [R, K, S] float32.
    """

    choices: Any
    gains: Any
    attention: Any

    @classmethod
    def empty(cls, longest, beams):
        """Shapes known, or 0 rows could not be read back."""
        return cls(*(
            tf.TensorArray(dtype, longest, element_shape=shape)
            for dtype, shape in ((tf.int32, [None, beams, 2]), (tf.float32, [None, beams, 2]),
                                 (tf.float32, [None, beams, None]))))

    def write(self, t, rows, num_rows, tokens, parents, gained, gained_by_ending, attention):
        """Adds step t of the searches `rows` [A], None for all.

        tokens and the others are [A, K], the attention [A * K, S] or None.
        """
        beams = tokens.shape[1]
        parts = [tf.stack([tokens, parents], -1), tf.stack([gained, gained_by_ending], -1)]
        if attention is not None and attention.shape[-1] != 0:
            parts.append(tf.reshape(
                tf.cast(attention, tf.float32), [tf.shape(tokens)[0], beams, tf.shape(attention)[-1]]))
        everywhere = parts if rows is None else [
            tf.scatter_nd(rows[:, None], part, tf.concat([[num_rows], tf.shape(part)[1:]], 0)) for part in parts]
        if len(parts) == 2:  # nothing cannot be scattered
            everywhere.append(tf.zeros([num_rows, beams, 0]))
        return History(*(array.write(t, part) for array, part in zip(self, everywhere, strict=True)))


def gather_answers(pool, history, steps, batch_size, num_groups, per_group, num_hypotheses):
    """The best hypotheses of each source.

    Args:
        pool: of B * G searches, at least `per_group` of each.
        history: of the same.
        steps: T, that were run; None for all that there is room for.
        batch_size: B.
        num_groups: G.
        per_group: hypotheses of a search that count.
        num_hypotheses: H, at most G * per_group.
    Returns:
        Hypotheses.
    """
    scores, log_probabilities, lengths, beams = (leaf[:, :per_group] for leaf in pool)
    if steps is None:
        read = [array.stack() for array in history]
        steps = read[0].shape[0]
    else:
        read = [array.gather(tf.range(steps)) for array in history]
    tokens, gains, attention = _read_back(read, steps, lengths, beams)
    found = Hypotheses(tokens, scores, log_probabilities, lengths, attention, gains)
    if num_groups == 1:
        return found
    merged = [
        tf.reshape(leaf, tf.concat([[batch_size, num_groups * per_group], tf.shape(leaf)[2:]], 0)) for leaf in found]
    _, order = tf.math.top_k(merged[1], num_hypotheses)
    return Hypotheses(*(tf.gather(leaf, order, batch_dims=1) for leaf in merged))


def _read_back(history, steps, lengths, beams):
    """Follows the pointers from the ends to the beginning.

    Args:
        history: choices and gains [T, R, K, 2], attention [T, R, K, S].
        steps: T.
        lengths: [R, P], 0 where there is no hypothesis.
        beams: [R, P], the live hypothesis that ended.
    Returns:
        tokens and gains [R, P, T], attention [R, P, T, S].
    """
    choices, gains, attention = history
    arrays = (
        tf.TensorArray(tf.int32, steps, element_shape=[None, None]),
        tf.TensorArray(tf.float32, steps, element_shape=[None, None]),
        tf.TensorArray(tf.float32, steps, element_shape=[None, None, None]))

    def body(t, beams, arrays):
        last, inside = t == lengths - 1, t < lengths - 1  # [R, P]
        choice = tf.gather(choices[t], beams, batch_dims=1)  # [R, P, 2]
        gain = tf.gather(gains[t], beams, batch_dims=1)
        # In the last step `beams` is the hypothesis that ended, before it the one that the step made.
        before = tf.where(inside, choice[:, :, 1], beams)
        token = tf.where(inside, choice[:, :, 0], tf.where(last, EOS, PAD))
        gain = tf.where(inside, gain[:, :, 0], tf.where(last, gain[:, :, 1], 0.0))
        weights = tf.gather(attention[t], before, batch_dims=1)  # [R, P, S]
        weights = tf.where((t < lengths)[:, :, None], weights, 0.0)
        written = zip(arrays, (token, gain, weights), strict=True)
        return t - 1, before, tuple(array.write(t, value) for array, value in written)

    *_, (tokens, gains, attention) = tf.while_loop(lambda t, *_: t >= 0, body, (steps - 1, beams, arrays))
    return (
        tf.transpose(tokens.stack(), [1, 2, 0]), tf.transpose(gains.stack(), [1, 2, 0]),
        tf.transpose(attention.stack(), [1, 2, 0, 3]))
