"""Which source token each target token comes from, read off the attention."""

import tensorflow as tf

from tfseq2seq.structures import EOS, PAD, UNK
from tfseq2seq.tokenizers.base import UNKNOWN_TEXT


def hard_alignment(hypotheses, source):
    """[B, H, T] int32, the source step with the most attention, the end token left out where there is another.

    Args:
        hypotheses: Hypotheses with attention.
        source: [B, S] int32 ids.
    """
    width = tf.shape(hypotheses.attention)[3]  # of several sources the attention reaches fewer steps
    words = (source != PAD) & (source != EOS)
    words |= tf.logical_not(tf.reduce_any(words, 1, keepdims=True)) & (source != PAD)
    weights = tf.where(words[:, None, None, :width], hypotheses.attention, -1.0)
    return tf.argmax(weights, -1, output_type=tf.int32)


def alignments(hypotheses, source):
    """Hard alignments in Pharaoh's format, target token - source token, both from 0.

    Arguments as `hard_alignment`.

    Returns:
        [B, H] string; the end token is left out; "" where the model gives no attention.
    """
    shape = tf.shape(hypotheses.tokens)
    if hypotheses.attention.shape[3] == 0:
        return tf.fill(shape[:2], "")
    places = tf.zeros(shape, tf.int32) + tf.range(shape[2])
    pairs = tf.strings.join([
        tf.strings.as_string(places), tf.strings.as_string(hard_alignment(hypotheses, source))], "-")
    inside = places < hypotheses.lengths[:, :, None] - 1
    rows = tf.ragged.boolean_mask(tf.reshape(pairs, [-1, shape[2]]), tf.reshape(inside, [-1, shape[2]]))
    return tf.ensure_shape(
        tf.reshape(tf.strings.reduce_join(rows, -1, separator=" "), shape[:2]), hypotheses.tokens.shape[:2])


def replace_unknown(texts, pieces, hypotheses):
    """Puts source tokens in the place of unknown ones (Jean et al., 2015, arXiv:1412.2007, section 3.3).

    Args:
        texts: [B * H] decoded strings, with "⁇" for each unknown token.
        pieces: [B, (S)] strings, the source tokens as they stand in the text.
        hypotheses: Hypotheses with attention.
    Returns:
        [B * H] strings.
    """
    shape = tf.shape(hypotheses.tokens)
    words = pieces.to_tensor("")  # [B, S]
    width = tf.minimum(tf.shape(words)[1], tf.shape(hypotheses.attention)[3])
    there = tf.sequence_mask(pieces.row_lengths(), width)[:, None, None]
    weights = tf.where(there, hypotheses.attention[:, :, :, :width], -1.0)
    # A source without tokens has nothing to offer.
    weights = tf.pad(weights, [[0, 0], [0, 0], [0, 0], [0, 1]], constant_values=-0.5)
    words = tf.pad(words[:, :width], [[0, 0], [0, 1]], constant_values=UNKNOWN_TEXT)
    chosen = tf.gather(words, tf.argmax(weights, -1, output_type=tf.int32), batch_dims=1)  # [B, H, T]
    unknown = tf.reshape(hypotheses.tokens == UNK, [-1, shape[2]])
    offered = tf.ragged.boolean_mask(tf.reshape(chosen, [-1, shape[2]]), unknown)  # [B * H, (unknown)]
    parts = tf.strings.split(texts, UNKNOWN_TEXT)  # one more than there are unknown tokens
    count = tf.cast(parts.row_lengths(), tf.int32)
    dense = parts.to_tensor("")
    between = offered.to_tensor("", shape=tf.stack([tf.shape(texts)[0], tf.shape(dense)[1]]))
    # A "⁇" of the text itself keeps its place.
    offers = tf.cast(offered.row_lengths(), tf.int32)[:, None]
    place = tf.range(tf.shape(dense)[1])
    between = tf.where(place < offers, between, UNKNOWN_TEXT)
    between = tf.where(place < count[:, None] - 1, between, "")
    return tf.strings.reduce_join(tf.reshape(tf.stack([dense, between], -1), [tf.shape(texts)[0], -1]), -1)
