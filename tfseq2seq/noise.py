"""Noise on the tokens that a model reads in training; what it is to say stays as it is."""

import dataclasses

import tensorflow as tf

from tfseq2seq.structures import BOS, EOS, PAD, UNK

FIRST_TOKEN = max(PAD, UNK, BOS, EOS) + 1


@dataclasses.dataclass(frozen=True)
class TokenNoise:
    """Replaces some tokens, each by itself; PAD, UNK, BOS and EOS stay.

    (Data noising, Xie et al., 2017, arXiv:1703.02573, section 3.1: blank noising, here with UNK, and unigram noising,
    here with every token of the vocabulary as likely as any other.)

    Args:
        word_dropout: probability that a token becomes UNK.
        token_noise: probability that it becomes a random one; with `word_dropout` at most 1.
        vocabulary_size: number of ids.
    Call arguments:
        ids: [B, T] int32.
        seed: [2] int32; the same seed gives the same noise.
    Returns:
        [B, T] int32.
    """

    word_dropout: float
    token_noise: float
    vocabulary_size: int

    def __call__(self, ids, seed):
        if not self.word_dropout + self.token_noise:
            return ids
        seeds = tf.random.split(seed, 2)
        draw = tf.random.stateless_uniform(tf.shape(ids), seeds[0])
        others = tf.random.stateless_uniform(
            tf.shape(ids), seeds[1], FIRST_TOKEN, max(self.vocabulary_size, FIRST_TOKEN + 1), tf.int32)
        noised = tf.where(draw < self.word_dropout, UNK, others)
        return tf.where((ids >= FIRST_TOKEN) & (draw < self.word_dropout + self.token_noise), noised, ids)
