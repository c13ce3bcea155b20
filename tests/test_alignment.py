"""Alignments and replaced words, from attention written by hand."""

import numpy as np
import tensorflow as tf

from tfseq2seq.alignment import alignments, hard_alignment, in_source_order, replace_unknown
from tfseq2seq.structures import Hypotheses

WORD = 7  # any id that is no special one
UNK, EOS = 1, 3


def hypotheses(tokens, attention):
    """[B, H, T] ids and [B, H, T, S] weights."""
    tokens = tf.constant(tokens)
    lengths = tf.reduce_sum(tf.cast(tokens != 0, tf.int32), -1)
    return Hypotheses(tokens, None, None, lengths, tf.constant(attention), None)


SOURCE = [[WORD, WORD, EOS], [WORD, EOS, 0]]
FOUND = hypotheses(
    [[[WORD, UNK, EOS], [EOS, 0, 0]], [[UNK, WORD, EOS], [WORD, UNK, UNK]]],
    [
        [[[0.1, 0.6, 0.3], [0.5, 0.1, 0.4], [0.2, 0.3, 0.5]], [[0.3, 0.3, 0.4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]],
        [[[0.2, 0.8, 0.0], [0.9, 0.1, 0.0], [0.1, 0.9, 0.0]], [[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [1.0, 0.0, 0.0]]],
    ],
)


def test_each_token_comes_from_the_source_token_with_the_most_attention_but_not_from_its_end():
    found = hard_alignment(FOUND, tf.constant(SOURCE)).numpy()
    assert found[0, 0].tolist() == [1, 0, 1]  # the last by 0.3 of 0.2 and 0.3: the end token, with 0.5, is left out
    assert found[1, :, :2].tolist() == [[0, 0], [0, 0]]  # one word is there


def test_a_source_of_its_end_alone_gives_the_end():
    found = hypotheses([[[WORD, EOS]]], [[[[0.2, 0.8], [0.1, 0.9]]]])
    assert hard_alignment(found, tf.constant([[EOS, 0]])).numpy().tolist() == [[[0, 0]]]


def test_alignments_are_written_for_each_token_but_the_end():
    found = alignments(FOUND, tf.constant(SOURCE)).numpy().tolist()
    assert found[0] == [b"0-1 1-0", b""]
    assert found[1] == [b"0-0 1-0", b"0-0 1-0"]


def test_without_attention_or_rows_there_is_nothing_to_align():
    tokens, source = tf.constant([[[WORD, EOS]]]), tf.constant([[WORD, EOS]])

    @tf.function(input_signature=[tf.TensorSpec([None, 1, None, None])])
    def aligned(attention):  # whose width is not known beforehand
        return alignments(Hypotheses(tokens, None, None, tf.constant([[2]]), attention, None), source)

    assert aligned(tf.zeros([1, 1, 2, 0])).numpy().tolist() == [[b""]]
    assert aligned(tf.zeros([1, 1, 2, 2])).numpy().tolist() == [[b"0-0"]]
    none = Hypotheses(*(leaf if leaf is None else leaf[:0] for leaf in FOUND))
    assert alignments(none, tf.constant(SOURCE)[:0]).shape == (0, 2)


def test_attention_may_reach_fewer_steps_than_the_source_has():
    found = hypotheses([[[WORD, EOS]]], [[[[0.4, 0.6], [0.5, 0.5]]]])
    assert alignments(found, tf.constant([[WORD, WORD, WORD, EOS]])).numpy().tolist() == [[b"0-1"]]


def test_attention_over_several_memories_is_put_in_the_order_of_the_source():
    # Sources of 2 + 1, 1 + 3 and 1 ids; a third one, and what follows it, is read by no encoder. The memories are
    # 2 and 3 steps wide, as the longest in each place.
    source = tf.constant([
        [WORD, EOS, EOS, WORD, EOS], [EOS, WORD, WORD, EOS, 0], [EOS, 0, 0, 0, 0]])
    attention = tf.reshape(tf.range(1.0, 16.0), [3, 1, 1, 5])
    found = in_source_order(attention, source, 2)[:, 0, 0]
    np.testing.assert_array_equal(found, [[1, 2, 3, 0], [6, 8, 9, 10], [11, 0, 0, 0]])
    assert in_source_order(attention[..., :0], source, 2).shape == (3, 1, 1, 0)
    assert in_source_order(attention[:0], source[:0], 2).shape == (0, 1, 1, 0)


PIECES = tf.ragged.constant([["Wolf", "läuft"], ["Zürich"]])


def test_unknown_tokens_become_the_source_tokens_they_come_from():
    texts = tf.constant(["runs ⁇", "", "⁇ is", "in ⁇ ⁇"])
    found = replace_unknown(texts, PIECES, FOUND).numpy()
    assert [each.decode() for each in found] == ["runs Wolf", "", "Zürich is", "in Zürich Zürich"]


def test_a_mark_of_the_text_itself_stays():
    # The model knows a token that is spelled like the mark: more marks than unknown tokens.
    found = replace_unknown(tf.constant(["⁇ ⁇", "⁇", "⁇⁇", "⁇ ⁇"]), PIECES, FOUND).numpy()
    assert [each.decode() for each in found] == ["Wolf ⁇", "⁇", "Zürich⁇", "Zürich Zürich"]


def test_a_source_without_tokens_offers_nothing():
    found = replace_unknown(tf.constant(["runs ⁇", "", "⁇ is", "in ⁇ ⁇"]), tf.ragged.constant([["Wolf"], []]), FOUND)
    assert [each.decode() for each in found.numpy()] == ["runs Wolf", "", "⁇ is", "in ⁇ ⁇"]


def test_no_rows_are_no_trouble():
    none = Hypotheses(*(leaf if leaf is None else leaf[:0] for leaf in FOUND))
    assert replace_unknown(tf.constant([], tf.string), PIECES[:0], none).shape == (0,)
