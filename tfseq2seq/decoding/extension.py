"""The best extensions of the hypotheses of a step."""

import tensorflow as tf

from tfseq2seq.structures import BOS, EOS, PAD, UNK

_INFINITY = float("inf")


def extend(logits, live, normalizer=None):
    """The ends of the live hypotheses and their K best extensions by any token but EOS, PAD and BOS.

    The vocabulary is cut into chunks. The K best extensions lie in the K chunks with the largest maxima, so
    only those are sorted. The maxima also serve the normalizer, log sum exp. For 32 sources, 4 beams and
    8,000 tokens all of this takes 2.5 ms on two cores; with tf.math.top_k over everything it took 6.6.

    Args:
        logits: [R, K, V] float32; V static; -inf where a token is not allowed.
        live: [R, K] float32, log-probabilities so far; -inf where there is no hypothesis.
        normalizer: [R, K] float32, what makes the logits log-probabilities; default their own log sum exp.
    Returns:
        ended: [R, K] float32, log-probability of each hypothesis followed by EOS.
        tokens, parents, log_probabilities: [R, K], the extensions, best first, and the beams they extend;
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
    maxima = tf.reduce_max(chunks, -1)  # [R, K, C]
    if normalizer is None:
        normalizer = log_sum_exp(logits, tf.reduce_max(maxima, -1))
    offset = live - normalizer  # [R, K], from logit to log-probability
    ended = offset + logits[:, :, EOS]

    special = tf.constant([token in (PAD, BOS, EOS) for token in range(size)])  # all are in chunk 0
    first = tf.reduce_max(tf.where(special, -_INFINITY, chunks[:, :, 0]), -1)  # [R, K]
    maxima = tf.concat([first[:, :, None], maxima[:, :, 1:]], -1) + offset[:, :, None]
    _, best = tf.math.top_k(tf.reshape(maxima, [batch, beams * num_chunks]), beams)
    best = tf.sort(best, -1)  # [R, K] chunks, in their order so that equals keep theirs
    parents, chunk = best // num_chunks, best % num_chunks
    values = tf.reshape(chunks, [batch, beams * num_chunks, size])
    values = tf.gather(values, best, batch_dims=1)  # [R, K, size]
    values += tf.gather(offset, parents, batch_dims=1)[:, :, None]
    values = tf.where(tf.logical_and(special, chunk[:, :, None] == 0), -_INFINITY, values)
    found, place = tf.math.top_k(tf.reshape(values, [batch, beams * size]), beams)
    tokens = tf.gather(chunk, place // size, batch_dims=1) * size + place % size
    # Where fewer than K extensions exist, a special or padding place of -inf was taken: any real id will do.
    tokens = tf.where(found == -_INFINITY, UNK, tokens)
    return ended, tokens, tf.gather(parents, place // size, batch_dims=1), found


def log_sum_exp(logits, maxima=None):
    """log sum exp over the last axis of [R, K, V]; the maxima [R, K] over it may be known already."""
    if maxima is None:
        maxima = tf.reduce_max(logits, -1)
    return maxima + tf.math.log(tf.reduce_sum(tf.exp(logits - maxima[:, :, None]), -1))
