"""How far hypotheses have come with the phrases that their answers must contain."""

import tensorflow as tf

from tfseq2seq.decoding.processors import recent_tokens
from tfseq2seq.structures import PAD


class At:
    """The phrases of R searches of K hypotheses at a step.

    Args:
        phrases: [R, C, L] int32 with L static, PAD after the end.
        recent: [R, K, L - 1] int32, the last tokens of each hypothesis, PAD before the first.
        met: [R, K, C] bool, True where the hypothesis contains the phrase.
    """

    def __init__(self, phrases, recent, met):
        self.phrases, width = phrases, phrases.shape[2]
        self.lengths = tf.reduce_sum(tf.cast(phrases != PAD, tf.int32), -1)  # [R, C]; 0 where there is no phrase
        self.met = met | (self.lengths == 0)[:, None]
        begins = [tf.ones_like(self.met)] + [
            tf.reduce_all(recent[:, :, None, width - 1 - count :] == phrases[:, None, :, :count], -1)
            for count in range(1, width)]
        # [R, K, C, L]: does the hypothesis end with the first 0, 1, ... tokens of the phrase, with more to come?
        self.begins = tf.stack(begins, -1) & (tf.range(width) < self.lengths[:, None, :, None])

    @property
    def complete(self):
        """[R, K] bool, True where all phrases are contained."""
        return tf.reduce_all(self.met, -1)

    @property
    def next_tokens(self):
        """[R, K, C] int32, the token that goes on with a phrase; PAD where it is met."""
        places = tf.range(self.phrases.shape[2])
        longest = tf.reduce_max(tf.where(self.begins, places, 0), -1, keepdims=True)
        following = tf.reduce_sum(tf.where(places == longest, self.phrases[:, None], 0), -1)
        return tf.where(self.met, PAD, following)

    def after(self, parents, tokens):
        """The extension of parents [R, M] by tokens [R, M].

        Returns:
            met [R, M, C] bool, and [R, M] int32: of all phrases, the tokens that are met or begun.
        """
        goes_on = tf.gather(self.begins, parents, batch_dims=1) & (
            self.phrases[:, None] == tokens[:, :, None, None])  # [R, M, C, L]
        begun = tf.reduce_max(tf.where(goes_on, tf.range(1, self.phrases.shape[2] + 1), 0), -1)
        lengths = self.lengths[:, None]
        met = tf.gather(self.met, parents, batch_dims=1) | (begun == lengths)
        return met, tf.reduce_sum(tf.where(met, lengths, begun), -1)


class Progress:
    """Keeps, of each hypothesis, which phrases it contains.

    Args:
        phrases: [B, C, L] int32, padded by PAD; no phrase holds a special token. C and L are static: with an unknown
            C in the loop's state TensorFlow's shape inference took 45 s of the first call instead of half a second.
    Raises:
        ValueError: C or L is not static.
    """

    def __init__(self, phrases):
        if phrases.shape.rank != 3 or None in phrases.shape[1:]:
            raise ValueError(
                "search needs phrases of shape [B, C, L] with C and L known when the graph is made; pad them to a "
                f"fixed number and length. Received: {phrases.shape}.")
        self.phrases = phrases

    def start(self, num_hypotheses):
        """[N, C] bool, none met."""
        return tf.zeros([num_hypotheses, tf.shape(self.phrases)[1]], tf.bool)

    def at(self, past, met):
        """`At` of the hypotheses of a step, whose `met` is [N, C]."""
        phrases = tf.gather(self.phrases, past.sources)
        met = tf.reshape(met, [-1, past.tokens.shape[1], self.phrases.shape[1]])
        return At(phrases, recent_tokens(past, self.phrases.shape[2] - 1), met)

    def advance(self, met, tokens, past):
        """[N, C] with what the last tokens [N], already part of `past`, have added; a row of it is a hypothesis."""
        before = past._replace(length=past.length - 1, tokens=past.tokens[:, None])
        now, _ = self.at(before, met).after(tf.zeros_like(tokens)[:, None], tokens[:, None])
        return now[:, 0]
