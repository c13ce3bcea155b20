"""How hypotheses are ranked."""

import tensorflow as tf

from tfseq2seq.structures import PAD


def length_penalty(lengths, alpha):
    """lp(n) = ((5 + n) / 6)^alpha; scores are log-probabilities divided by it (Wu et al., 2016,
    arXiv:1609.08144, eq. 14).

    Args:
        lengths: int tensor, tokens of a hypothesis, end token included.
        alpha: 0 or more; 0 gives 1.
    Returns:
        float32 tensor of the same shape.
    """
    return tf.pow((5.0 + tf.cast(lengths, tf.float32)) / 6.0, alpha)


def score_targets(logits, labels):
    """log p(labels), summed over real tokens.

    Args:
        logits: [B, T, V] float, from teacher forcing.
        labels: [B, T] int32, ended by EOS, then PAD.
    Returns:
        [B] float32, nats.
    """
    logits = tf.cast(logits, tf.float32)
    chosen = tf.gather(logits, labels, batch_dims=2) - tf.reduce_logsumexp(logits, -1)  # [B, T]
    return tf.reduce_sum(tf.where(labels != PAD, chosen, 0.0), -1)
