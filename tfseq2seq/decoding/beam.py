"""Greedy and beam search over any step function, in one graph.

Live and finished hypotheses are kept apart. At step t every live hypothesis also ends: with the end token
it enters the pool of finished ones, which keeps the best by log-probability / length penalty; the K best
extensions by any other token stay live. So a finished hypothesis never takes the place of a live one, and
a returned score is always that of the returned tokens.

Histories are not moved about at each step. Each step leaves its tokens and the beams they came from, a
finished hypothesis is a pointer (step, beam), and the answers are read by following the pointers back.
"""

import tensorflow as tf

from tfseq2seq.decoding.scoring import length_penalty as penalty
from tfseq2seq.structures import BOS, EOS, PAD, UNK, Hypotheses

_INFINITY = float("inf")


def tile(state, beam_size):
    """Repeats each row of every leaf beam_size times: [B, ...] to [B * K, ...]."""
    return tf.nest.map_structure(lambda leaf: tf.repeat(leaf, beam_size, axis=0), state)


def search(
    step, state, *, batch_size, vocabulary_size, beam_size=4, num_hypotheses=1, length_penalty=0.6,
    max_length=100, min_length=1,
):
    """Finds the likeliest outputs of a step function.

    With beam_size 1 the search is greedy: the likeliest token at each step, up to the end token. With more,
    the search ends for a source when the worst of its `num_hypotheses` finished ones is at least as good
    as the best that a live one can still become, log p / lp(max_length); the bound loses nothing. At
    max_length only the end token is allowed, so each answer ends in it, with its true probability. PAD and
    BOS are never produced. Of equally likely extensions those of the better beam, then the lower ids win.

    What depends on the source alone is no part of the state: `step` closes over its B rows and reads the
    hypotheses as [B, K], so that it is never copied for each of them.

    Args:
        step: (tokens [N] int32, state) -> (logits [N, V], state, attention [N, S] or None), N = B * K, the
            hypotheses of one source side by side: number k of source b is row b * K + k.
        state: nest of tensors of N rows before the first step, the same for all rows of a source; see
            `tile`. Each step gets it in the order of the hypotheses that it extends.
        batch_size: B, int or scalar tensor; may be 0.
        vocabulary_size: V, at least 4, the special tokens.
        beam_size: K, at least 1.
        num_hypotheses: H, from 1 to K.
        length_penalty: alpha of Wu et al., 2016, arXiv:1609.08144, eq. 14, at least 0; 0 turns it off.
        max_length: tokens, end token included, at least 1.
        min_length: tokens, end token included, from 1 to max_length.
    Returns:
        Hypotheses with T = steps that were run for the whole batch, at most max_length.
    Raises:
        ValueError: a number out of its range.
    """
    _check(vocabulary_size, beam_size, num_hypotheses, length_penalty, max_length, min_length)
    batch_size, alpha = tf.convert_to_tensor(batch_size, tf.int32), float(length_penalty)
    first_row = tf.range(batch_size)[:, None] * beam_size  # [B, 1]
    bound = penalty(max_length, alpha)

    def body(t, tokens, state, live, pool, done, histories):
        logits, new_state, attention = step(tokens, state)
        logits = tf.reshape(tf.cast(logits, tf.float32), [batch_size, beam_size, vocabulary_size])
        ended, chosen, parents, live = extend(logits, live)
        ended = tf.where(t + 1 < min_length, -_INFINITY, ended)
        if beam_size == 1:
            likeliest = tf.logical_or(ended > live, t + 1 == max_length)  # [B, 1]
            pool = _merge(pool, tf.where(likeliest, ended, -_INFINITY), t + 1, alpha, done)
            done = tf.logical_or(done, likeliest[:, 0])
        else:
            pool = _merge(pool, ended, t + 1, alpha, done)
            done = tf.logical_or(done, pool[0][:, -1] >= live[:, 0] / bound)
            rows = tf.reshape(first_row + parents, [-1])  # [N]
            new_state = tf.nest.map_structure(lambda leaf: tf.gather(leaf, rows), new_state)
        # A gather by a batch of unknown size forgets what the loop wants kept.
        tf.nest.map_structure(lambda new, old: new.set_shape(old.shape), new_state, state)
        if attention is None:
            attention = tf.zeros([batch_size * beam_size, 0])
        attention = tf.reshape(
            tf.cast(attention, tf.float32), [batch_size, beam_size, tf.shape(attention)[-1]])
        written = zip(histories, (chosen, parents, attention), strict=True)
        histories = tuple(history.write(t, leaf) for history, leaf in written)
        return t + 1, tf.reshape(chosen, [-1]), new_state, live, pool, done, histories

    steps, _, _, _, pool, _, histories = tf.while_loop(
        lambda t, tokens, state, live, pool, done, histories: tf.logical_or(
            t == 0, tf.logical_not(tf.reduce_all(done))),  # one step at least, so that 0 rows have shapes
        body, _begin(state, batch_size, beam_size, num_hypotheses, max_length), maximum_iterations=max_length)
    scores, log_probabilities, lengths, beams = pool
    tokens, attention = _read_back(
        [history.gather(tf.range(steps)) for history in histories], steps, lengths, beams)
    return Hypotheses(tokens, scores, log_probabilities, lengths, attention)


def _check(vocabulary_size, beam_size, num_hypotheses, length_penalty, max_length, min_length):
    if vocabulary_size <= EOS:
        raise ValueError(
            f"search needs vocabulary_size >= {EOS + 1}, room for the special tokens. "
            f"Received: vocabulary_size={vocabulary_size}.")
    if beam_size < 1 or not 1 <= num_hypotheses <= beam_size:
        raise ValueError(
            "search needs beam_size >= 1 and 1 <= num_hypotheses <= beam_size. "
            f"Received: beam_size={beam_size}, num_hypotheses={num_hypotheses}.")
    if length_penalty < 0:
        raise ValueError(f"search needs length_penalty >= 0. Received: length_penalty={length_penalty}.")
    if not 1 <= min_length <= max_length:
        raise ValueError(
            "search needs 1 <= min_length <= max_length. "
            f"Received: min_length={min_length}, max_length={max_length}.")


def _begin(state, batch_size, beam_size, num_hypotheses, max_length):
    """What the loop starts with: t, tokens, state, live, pool, done, histories."""
    # All hypotheses of a source are alike before the first step: only one may be extended.
    live = tf.tile(tf.constant([[0.0] + [-_INFINITY] * (beam_size - 1)]), [batch_size, 1])  # [B, K]
    nothing = tf.zeros([batch_size, num_hypotheses], tf.int32)
    pool = (tf.fill([batch_size, num_hypotheses], -_INFINITY),) * 2 + (nothing, nothing)
    histories = tuple(
        tf.TensorArray(dtype, max_length, element_shape=shape)  # shapes known, or 0 rows cannot be read back
        for dtype, shape in ((tf.int32, [None, beam_size]), (tf.int32, [None, beam_size]),
                             (tf.float32, [None, beam_size, None])))
    tokens = tf.fill([batch_size * beam_size], BOS)
    return tf.constant(0), tokens, state, live, pool, tf.zeros([batch_size], tf.bool), histories


def _merge(pool, ended, length, alpha, done):
    """Lets hypotheses that end at this length into the pool of the best; a done source keeps its own.

    Args:
        pool: scores, log-probabilities, lengths and beams, each [B, H], best first.
        ended: [B, K] float32, log-probabilities; -inf where none ends.
        length: scalar int32, end token included.
        done: [B] bool.
    Returns:
        pool.
    """
    beams = tf.zeros_like(ended, tf.int32) + tf.range(ended.shape[1])  # [B, K]
    new = (ended / penalty(length, alpha), ended, tf.zeros_like(beams) + length, beams)
    both = [tf.concat(pair, 1) for pair in zip(pool, new, strict=True)]
    # Of equals the pool's own win: where none ends, -inf never takes the place of an empty slot.
    _, order = tf.math.top_k(both[0], pool[0].shape[1])
    merged = [tf.gather(leaf, order, batch_dims=1) for leaf in both]
    return tuple(tf.where(done[:, None], old, leaf) for old, leaf in zip(pool, merged, strict=True))


def extend(logits, live):
    """The ends of the live hypotheses and their K best extensions by any token but EOS, PAD and BOS.

    The vocabulary is cut into chunks. The K best extensions lie in the K chunks with the largest maxima, so
    only those are sorted. The maxima also serve the normalizer, log sum exp. For 32 sources, 4 beams and
    8,000 tokens all of this takes 2.5 ms on two cores; with tf.math.top_k over everything it took 6.6.

    Args:
        logits: [B, K, V] float32; V static.
        live: [B, K] float32, log-probabilities so far; -inf where there is no hypothesis.
    Returns:
        ended: [B, K] float32, log-probability of each hypothesis followed by EOS.
        tokens, parents, log_probabilities: [B, K], the extensions, best first, and the beams they extend;
            -inf where fewer exist.
    """
    batch, beams, width = tf.shape(logits)[0], logits.shape[1], logits.shape[2]
    # A size that divides V saves the copy that padding makes: 1.3 ms at the size above.
    size = next((size for size in range(64, 31, -1) if width % size == 0), 64)
    num_chunks = -(-width // size)
    if num_chunks * size > width:
        logits = tf.pad(
            logits, [[0, 0], [0, 0], [0, num_chunks * size - width]], constant_values=-_INFINITY)
    chunks = tf.reshape(logits, [batch, beams, num_chunks, size])
    maxima = tf.reduce_max(chunks, -1)  # [B, K, C]
    offset = live - _log_sum_exp(logits, tf.reduce_max(maxima, -1))  # [B, K], from logit to log-probability
    ended = offset + logits[:, :, EOS]

    special = tf.constant([token in (PAD, BOS, EOS) for token in range(size)])  # all are in chunk 0
    first = tf.reduce_max(tf.where(special, -_INFINITY, chunks[:, :, 0]), -1)  # [B, K]
    maxima = tf.concat([first[:, :, None], maxima[:, :, 1:]], -1) + offset[:, :, None]
    _, best = tf.math.top_k(tf.reshape(maxima, [batch, beams * num_chunks]), beams)
    best = tf.sort(best, -1)  # [B, K] chunks, in their order so that equals keep theirs
    parents, chunk = best // num_chunks, best % num_chunks
    values = tf.reshape(chunks, [batch, beams * num_chunks, size])
    values = tf.gather(values, best, batch_dims=1)  # [B, K, size]
    values += tf.gather(offset, parents, batch_dims=1)[:, :, None]
    values = tf.where(tf.logical_and(special, chunk[:, :, None] == 0), -_INFINITY, values)
    found, place = tf.math.top_k(tf.reshape(values, [batch, beams * size]), beams)
    tokens = tf.gather(chunk, place // size, batch_dims=1) * size + place % size
    # Where fewer than K extensions exist, a special or padding place of -inf was taken: any real id will do.
    tokens = tf.where(found == -_INFINITY, UNK, tokens)
    return ended, tokens, tf.gather(parents, place // size, batch_dims=1), found


def _log_sum_exp(logits, maxima):
    """log sum exp over the last axis, given the maxima over it."""
    return maxima + tf.math.log(tf.reduce_sum(tf.exp(logits - maxima[:, :, None]), -1))


def _read_back(histories, steps, lengths, beams):
    """Follows the pointers from the ends to the beginning.

    Args:
        histories: tokens and parents [T, B, K], attention [T, B, K, S].
        steps: T.
        lengths: [B, H], 0 where there is no hypothesis.
        beams: [B, H], the live hypothesis that ended.
    Returns:
        tokens [B, H, T] and attention [B, H, T, S].
    """
    tokens, parents, attention = histories
    token_array = tf.TensorArray(tf.int32, steps, element_shape=[None, None])
    attention_array = tf.TensorArray(tf.float32, steps, element_shape=[None, None, None])

    def body(t, beams, token_array, attention_array):
        last, inside = t == lengths - 1, t < lengths - 1  # [B, H]
        token = tf.where(inside, tf.gather(tokens[t], beams, batch_dims=1), tf.where(last, EOS, PAD))
        beams = tf.where(inside, tf.gather(parents[t], beams, batch_dims=1), beams)
        weights = tf.gather(attention[t], beams, batch_dims=1)  # [B, H, S]
        weights = tf.where((t < lengths)[:, :, None], weights, 0.0)
        return t - 1, beams, token_array.write(t, token), attention_array.write(t, weights)

    *_, token_array, attention_array = tf.while_loop(
        lambda t, *_: t >= 0, body, (steps - 1, beams, token_array, attention_array))
    return tf.transpose(token_array.stack(), [1, 2, 0]), tf.transpose(attention_array.stack(), [1, 2, 0, 3])
