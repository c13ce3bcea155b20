"""How hypotheses are ranked, and what a given target scores."""

import tensorflow as tf

from tfseq2seq.structures import PAD

LENGTH_PENALTIES = ("gnmt", "length", "none")


def length_penalty(lengths, alpha, kind="gnmt"):
    """What a log-probability is divided by.

    "gnmt": ((5 + n) / 6)^alpha (Wu et al., 2016, arXiv:1609.08144, eq. 14); "length": n^alpha, with alpha = 1 the mean
    per token; "none": 1.

    Args:
        lengths: int tensor, tokens of a hypothesis, end token included.
        alpha: float or tensor that broadcasts, 0 or more; 0 gives 1.
        kind: a name of `LENGTH_PENALTIES`.
    Returns:
        float32 tensor.
    """
    lengths = tf.cast(lengths, tf.float32)
    if kind == "none":
        return tf.ones_like(lengths)
    return tf.pow(lengths if kind == "length" else (5.0 + lengths) / 6.0, alpha)


def coverage_penalty(coverage, source_mask):
    """sum over s of log(min(sum over t of attention[t, s], 1)) (Wu et al., 2016, eq. 14); beta times it joins a score.

    Args:
        coverage: [..., S] float32, attention on each source step, summed over the tokens.
        source_mask: [..., S] bool, True on real steps, broadcast to the coverage.
    Returns:
        [...] float32, at most 0. A step that got no attention at all counts as 1e-10, for a finite number.
    """
    missing = tf.math.log(tf.clip_by_value(coverage, 1e-10, 1.0))
    return tf.reduce_sum(tf.where(source_mask, missing, 0.0), -1)


def length_limits(source_lengths, limit, ratio, most):
    """Longest (or least) length of each answer: a limit of its own and one relative to its source, the smaller wins.

    Args:
        source_lengths: [B] int32, tokens, end token included.
        limit: int or [B] int32, tokens, end token included.
        ratio: target tokens for each source token, or None.
        most: int; no limit is above it.
    Returns:
        [B] int32, at least 1.
    """
    lengths = tf.broadcast_to(tf.cast(limit, tf.int32), tf.shape(source_lengths))
    if ratio is not None:
        relative = tf.math.ceil(tf.cast(source_lengths, tf.float32) * ratio - 1e-4)  # 10 * 0.7 is 7, not 8
        lengths = tf.minimum(lengths, tf.cast(relative, tf.int32))
    return tf.clip_by_value(lengths, 1, most)


def score_tokens(logits, labels):
    """log p of each label.

    Args:
        logits: [B, T, V] float, from teacher forcing.
        labels: [B, T] int32, ended by EOS, then PAD.
    Returns:
        [B, T] float32, nats; 0 on padding.
    """
    logits = tf.cast(logits, tf.float32)
    chosen = tf.gather(logits, labels, batch_dims=2) - tf.reduce_logsumexp(logits, -1)  # [B, T]
    return tf.where(labels != PAD, chosen, 0.0)


def score_targets(logits, labels):
    """log p(labels), summed over real tokens. Arguments as `score_tokens`; returns [B] float32, nats."""
    return tf.reduce_sum(score_tokens(logits, labels), -1)
