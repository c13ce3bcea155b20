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

_CHUNK = 64  # of the vocabulary; see `top_k`


def tile(state, beam_size):
    """Repeats each row of every leaf beam_size times: [B, ...] to [B * K, ...]."""
    return tf.nest.map_structure(lambda leaf: tf.repeat(leaf, beam_size, axis=0), state)


def search(
    step, state, *, batch_size, vocabulary_size, beam_size=4, num_hypotheses=1, length_penalty=0.6,
    max_length=100, min_length=1,
):
    """Finds the likeliest outputs of a step function.

    With beam_size 1 the search is greedy: the likeliest token at each step, ending where that is the end
    token. With more, the search ends for a source when the worst of its `num_hypotheses` finished ones is
    at least as good as the best that a live one can still become, log p / lp(max_length); the bound loses
    nothing. At max_length only the end token is allowed, so each answer ends in it, with its true
    probability. PAD and BOS are never produced.

    Args:
        step: (tokens [N] int32, state) -> (logits [N, V], state, attention [N, S] or None), N = B * K,
            hypotheses of one source side by side.
        state: nest of tensors of N rows before the first step; see `tile`.
        batch_size: B, int or scalar tensor; may be 0.
        vocabulary_size: V.
        beam_size: K, at least 1.
        num_hypotheses: H, from 1 to K.
        length_penalty: alpha of Wu et al., 2016, eq. 14, at least 0.
        max_length: tokens, end token included, at least 1.
        min_length: tokens, end token included, from 1 to max_length.
    Returns:
        Hypotheses with T = steps that were run for the whole batch.
    Raises:
        ValueError: a number out of its range.
    """
    _check(beam_size, num_hypotheses, length_penalty, max_length, min_length)
    finder = _greedy if beam_size == 1 else _beam
    return finder(
        step, state, tf.convert_to_tensor(batch_size), vocabulary_size, beam_size, num_hypotheses,
        float(length_penalty), max_length, min_length)


def _check(beam_size, num_hypotheses, length_penalty, max_length, min_length):
    if beam_size < 1 or not 1 <= num_hypotheses <= beam_size:
        raise ValueError(
            "search needs beam_size >= 1 and 1 <= num_hypotheses <= beam_size. "
            f"Received: beam_size={beam_size}, num_hypotheses={num_hypotheses}.")
    if length_penalty < 0:
        raise ValueError(f"search needs length_penalty >= 0. Received: length_penalty={length_penalty}.")
    if not 1 <= min_length <= max_length:
        raise ValueError(
            f"search needs 1 <= min_length <= max_length. Received: min_length={min_length}, max_length={max_length}.")


def _greedy(step, state, batch_size, vocabulary_size, beam_size, num_hypotheses, alpha, max_length, min_length):
    histories = (tf.TensorArray(tf.int32, max_length, element_shape=[None]),
                 tf.TensorArray(tf.float32, max_length, element_shape=[None, None]))
    zeros = tf.zeros([batch_size], tf.int32)
    first = (tf.constant(0), zeros + BOS, state, tf.zeros([batch_size]), zeros, tf.zeros([batch_size], tf.bool), *histories)

    def running(t, tokens, state, log_probabilities, lengths, done, *histories):
        return tf.logical_or(t == 0, tf.logical_not(tf.reduce_all(done)))

    def body(t, tokens, state, log_probabilities, lengths, done, token_history, attention_history):
        logits, state, attention = step(tokens, state)
        logits = tf.cast(logits, tf.float32)
        columns = tf.range(vocabulary_size)
        forbidden = tf.logical_or(columns == PAD, columns == BOS)
        forbidden = tf.logical_or(forbidden, tf.logical_and(columns == EOS, t + 1 < min_length))
        forbidden = tf.logical_or(forbidden, tf.logical_and(columns != EOS, t + 1 == max_length))
        chosen = tf.argmax(tf.where(forbidden, -float("inf"), logits), -1, output_type=tf.int32)  # [B]
        gained = tf.gather(logits, chosen, batch_dims=1) - tf.reduce_logsumexp(logits, -1)
        token_history = token_history.write(t, tf.where(done, PAD, chosen))
        if attention is None:
            attention = tf.zeros([batch_size, 0])
        attention_history = attention_history.write(t, tf.where(done[:, None], 0.0, tf.cast(attention, tf.float32)))
        log_probabilities += tf.where(done, 0.0, gained)
        lengths += tf.where(done, 0, 1)
        done = tf.logical_or(done, chosen == EOS)
        return t + 1, chosen, state, log_probabilities, lengths, done, token_history, attention_history

    steps, _, _, log_probabilities, lengths, _, tokens, attention = tf.while_loop(
        running, body, first, maximum_iterations=max_length)
    tokens = tf.transpose(tokens.gather(tf.range(steps)))  # [B, T]
    attention = tf.transpose(attention.gather(tf.range(steps)), [1, 0, 2])  # [B, T, S]
    scores = log_probabilities / penalty(lengths, alpha)
    return Hypotheses(*(leaf[:, None] for leaf in (tokens, scores, log_probabilities, lengths, attention)))


def _beam(step, state, batch_size, vocabulary_size, beam_size, num_hypotheses, alpha, max_length, min_length):
    infinity = float("inf")
    histories = tuple(
        tf.TensorArray(dtype, max_length, element_shape=shape)
        for dtype, shape in ((tf.int32, [None, beam_size]), (tf.int32, [None, beam_size]),
                             (tf.float32, [None, beam_size, None])))
    # All hypotheses of a source are alike before the first step: only one may be extended.
    live = tf.tile(tf.constant([[0.0] + [-infinity] * (beam_size - 1)]), [batch_size, 1])  # [B, K]
    nothing = tf.zeros([batch_size, num_hypotheses], tf.int32)
    pool = (tf.fill([batch_size, num_hypotheses], -infinity),) * 2 + (nothing, nothing)
    first_row = tf.range(batch_size)[:, None] * beam_size  # [B, 1]
    bound = penalty(max_length, alpha)

    def running(t, tokens, state, live, pool, done, *histories):
        return tf.logical_or(t == 0, tf.logical_not(tf.reduce_all(done)))

    def body(t, tokens, state, live, pool, done, token_history, parent_history, attention_history):
        logits, state, attention = step(tokens, state)
        logits = tf.reshape(tf.cast(logits, tf.float32), [batch_size, beam_size, vocabulary_size])
        offset = live - tf.reduce_logsumexp(logits, -1)  # [B, K]: added to a logit, the log-probability so far
        ended = tf.where(t + 1 < min_length, -infinity, offset + logits[:, :, EOS])
        pool = _merge(pool, ended, t, alpha, done)
        chosen, parents, live = _extend(logits, offset, beam_size)
        done = tf.logical_or(done, pool[0][:, -1] >= live[:, 0] / bound)
        rows = tf.reshape(first_row + parents, [-1])  # [N]
        state = tf.nest.map_structure(lambda leaf: tf.gather(leaf, rows), state)
        attention = tf.zeros([batch_size, beam_size, 0]) if attention is None else tf.reshape(
            tf.cast(attention, tf.float32), [batch_size, beam_size, tf.shape(attention)[-1]])
        return (
            t + 1, tf.reshape(chosen, [-1]), state, live, pool, done, token_history.write(t, chosen),
            parent_history.write(t, parents), attention_history.write(t, attention))

    first = (
        tf.constant(0), tf.fill([batch_size * beam_size], BOS), state, live, pool, tf.zeros([batch_size], tf.bool),
        *histories)
    steps, _, _, _, pool, _, *histories = tf.while_loop(running, body, first, maximum_iterations=max_length)
    scores, log_probabilities, lengths, beams = pool
    tokens, attention = _read_back([history.gather(tf.range(steps)) for history in histories], steps, lengths, beams)
    return Hypotheses(tokens, scores, log_probabilities, lengths, attention)


def _merge(pool, ended, t, alpha, done):
    """Lets the hypotheses that end at step t into the pool of the best; a source that is done keeps its own."""
    scores, log_probabilities, lengths, beams = pool
    size = scores.shape[1]
    new = (ended / penalty(t + 1, alpha), ended, tf.zeros_like(ended, tf.int32) + t + 1,
           tf.zeros_like(ended, tf.int32) + tf.range(ended.shape[1]))
    both = [tf.concat(pair, 1) for pair in zip(pool, new, strict=True)]
    scores, order = tf.math.top_k(both[0], size)
    merged = [scores, *(tf.gather(leaf, order, batch_dims=1) for leaf in both[1:])]
    merged[2] = tf.where(scores == -float("inf"), 0, merged[2])
    return tuple(tf.where(done[:, None], old, leaf) for old, leaf in zip(pool, merged, strict=True))


def _extend(logits, offset, beam_size):
    """The best extensions that do not end: tokens, the beams they extend and their log-probabilities, [B, K]."""
    # The special tokens stand first: leave out all but UNK. Ids then start at EOS, with UNK in its place.
    words = tf.concat([logits[:, :, UNK : UNK + 1], logits[:, :, EOS + 1 :]], -1)  # [B, K, V - 3]
    live, index = top_k(words, offset, beam_size)
    width = tf.shape(words)[-1]
    word = index % width
    return tf.where(word == 0, UNK, word + EOS), index // width, live


def top_k(values, offset, k):
    """The k largest of values + offset over the last two axes, lowest index first among equals.

    tf.math.top_k over all of [B, K * V] takes 5.3 ms for 32 x 4 x 8,000 on two cores; the maxima of chunks
    first, then only the k best chunks, 0.95 ms. The k largest lie in the k chunks with the largest maxima.

    Args:
        values: [B, K, V] float32.
        offset: [B, K] float32.
        k: how many, at most K * V after padding to whole chunks.
    Returns:
        [B, k] float32 and [B, k] int32 indices into the flattened K * V.
    """
    shape = tf.shape(values)
    batch, beams, width = shape[0], shape[1], shape[2]
    num_chunks = (width + _CHUNK - 1) // _CHUNK
    # At least k chunks must exist to be chosen from, so short rows get empty ones.
    num_chunks = tf.maximum(num_chunks, (k + beams - 1) // tf.maximum(beams, 1))
    padded = tf.pad(values, [[0, 0], [0, 0], [0, num_chunks * _CHUNK - width]], constant_values=-float("inf"))
    chunks = tf.reshape(padded, [batch, beams, num_chunks, _CHUNK])
    maxima = tf.reduce_max(chunks, -1) + offset[:, :, None]
    _, best = tf.math.top_k(tf.reshape(maxima, [batch, beams * num_chunks]), k)
    best = tf.sort(best, -1)  # so that equal values keep the order of their indices
    gathered = tf.gather(tf.reshape(chunks, [batch, beams * num_chunks, _CHUNK]), best, batch_dims=1)
    gathered += tf.gather(offset, best // num_chunks, batch_dims=1)[:, :, None]
    found, place = tf.math.top_k(tf.reshape(gathered, [batch, k * _CHUNK]), k)
    chunk = tf.gather(best, place // _CHUNK, batch_dims=1)
    column = (chunk % num_chunks) * _CHUNK + place % _CHUNK
    return found, (chunk // num_chunks) * width + tf.minimum(column, width - 1)


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
