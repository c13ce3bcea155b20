"""Which source token each target token comes from, read off the attention."""

import tensorflow as tf

from tfseq2seq.structures import EOS, PAD, UNK
from tfseq2seq.tokenizers.base import UNKNOWN_TEXT


def in_source_order(attention, source, num_sources):
    """Attention over the memories of several encoders, put in the order of the ids that these read.

    In the memory, source i of a row begins where the longest source i - 1 of the batch ends (`ParallelEncoder`).

    Args:
        attention: [B, H, T, S'] float32, over the memory; or S' = 0 for none.
        source: [B, S] int32 ids, the sources one after the other, each ended by EOS.
        num_sources: encoders; what follows is not read.
    Returns:
        [B, H, T, R] float32, R the most ids of a row that are read.
    """
    number = tf.cumsum(tf.cast(source == EOS, tf.int32), axis=1, exclusive=True)  # [B, S], of the source each is in
    column, first = tf.zeros_like(source), 0
    for i in range(num_sources):
        inside = (number == i) & (source != PAD)
        place = tf.cumsum(tf.cast(inside, tf.int32), axis=1, exclusive=True)
        column = tf.where(inside, first + place, column)
        first += tf.maximum(tf.reduce_max(tf.reduce_sum(tf.cast(inside, tf.int32), 1)), 1)
    read = (number < num_sources) & (source != PAD)
    longest = tf.maximum(tf.reduce_max(tf.reduce_sum(tf.cast(read, tf.int32), 1)), 0)  # no rows have the least int32
    longest = tf.where(tf.shape(attention)[3] > 0, longest, 0)
    read, column = read[:, :longest], column[:, :longest]
    moved = tf.gather(tf.transpose(attention, [0, 3, 1, 2]), column, batch_dims=1)  # [B, R, H, T]
    return tf.where(read[:, None, None], tf.transpose(moved, [0, 2, 3, 1]), 0.0)


def hard_alignment(hypotheses, source):
    """[B, H, T] int32, the source step with the most attention, the end token left out where there is another.

    Args:
        hypotheses: Hypotheses with attention.
        source: [B, S] int32 ids.
    """
    if source.shape.rank == 3:  # features, of which the memory holds fewer steps: padding has no attention
        return tf.argmax(hypotheses.attention, -1, output_type=tf.int32)
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
    there = tf.shape(hypotheses.attention)[3] > 0
    # A maximum needs something to be the maximum of.
    attention = tf.pad(hypotheses.attention, [[0, 0], [0, 0], [0, 0], [0, tf.where(there, 0, 1)]])
    hypotheses = hypotheses._replace(attention=attention)
    places = tf.zeros(shape, tf.int32) + tf.range(shape[2])
    pairs = tf.strings.join([
        tf.strings.as_string(places), tf.strings.as_string(hard_alignment(hypotheses, source))], "-")
    inside = there & (places < hypotheses.lengths[:, :, None] - 1)
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
