"""Noise on the tokens or features that a model reads in training; what it is to say stays as it is."""

import dataclasses

import tensorflow as tf

from tfseq2seq.structures import BOS, EOS, PAD, UNK, source_mask

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


@dataclasses.dataclass(frozen=True)
class SpecAugment:
    """Hides bands of features and stretches of frames, each recording's own (Park et al., 2019, arXiv:1904.08779).

    A mask of width f, drawn evenly from 0 to `frequency_width`, begins at a feature drawn evenly from 0 to F - f
    (section 2.2); one in time likewise among the real frames, its width at most `time_share` of them. What is hidden
    becomes 0, the mean of normalized features. The paper's third deformation, the warp in time, is left out: by its
    table 5 it brings the least.

    Args:
        frequency_masks, frequency_width: number of masks, and features that one hides at most.
        time_masks, time_width, time_share: number of masks, and frames, or share of the frames, that one hides at most.
    Call arguments:
        source: [B, S, F + 1] float32, the last feature saying what is real.
        seed: [2] int32; the same seed hides the same.
    Returns:
        As the source.
    """

    frequency_masks: int = 2
    frequency_width: int = 27
    time_masks: int = 2
    time_width: int = 100
    time_share: float = 0.2

    def __call__(self, source, seed):
        seeds = tf.random.split(seed, 2)
        batch, width = tf.shape(source)[0], source.shape[2] - 1
        lengths = tf.reduce_sum(tf.cast(source_mask(source), tf.int32), 1)
        features = _hidden(
            seeds[0], self.frequency_masks, tf.fill([batch], min(self.frequency_width, width)),
            tf.fill([batch], width), width)
        longest = tf.cast(tf.cast(lengths, tf.float32) * self.time_share, tf.int32)
        frames = _hidden(seeds[1], self.time_masks, tf.minimum(self.time_width, longest), lengths, tf.shape(source)[1])
        hidden = features[:, None, :] | frames[:, :, None]  # [B, S, F]
        return tf.where(tf.pad(hidden, [[0, 0], [0, 0], [0, 1]]), tf.zeros([], source.dtype), source)


def _hidden(seed, masks, widest, lengths, size):
    """[B, size] bool, True in any of the masks; each row's are at most `widest` [B] wide, below `lengths` [B]."""
    if not masks:
        return tf.zeros([tf.shape(lengths)[0], size], tf.bool)
    draws = tf.random.stateless_uniform([2, tf.shape(lengths)[0], masks], seed)
    widths = tf.cast(draws[0] * tf.cast(widest + 1, tf.float32)[:, None], tf.int32)  # [B, masks]
    starts = tf.cast(draws[1] * tf.cast(lengths[:, None] - widths + 1, tf.float32), tf.int32)
    places = tf.range(size)[:, None, None]
    return tf.transpose(tf.reduce_any((places >= starts) & (places < starts + widths), 2))
