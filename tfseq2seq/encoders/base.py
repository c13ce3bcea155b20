"""What all encoders share."""

from typing import Any

import tensorflow as tf

from tfseq2seq.layers.base import Layer
from tfseq2seq.layers.pooling import Pooling
from tfseq2seq.structures import source_mask


def zero_padding(values, mask):
    """[B, S, D] values, 0 where the mask [B, S] is not True."""
    return values * tf.cast(mask, values.dtype)[:, :, None]


class Encoder(Layer):
    """Reads a source: `call(source, mask, training) -> EncoderOutput`.

    A subclass has `output_units`, the width of its memory. Its memory is 0 on padding, and padding changes no real
    value of it. Attributes and arguments that its table of the recipe names have the same names here.

    Call arguments:
        source: [B, S, X] float, embedded source.
        mask: [B, S] bool, True on real steps; padding stands at the end of a row. A row may be all padding.
        training: Whether dropout is on.
    Returns:
        `EncoderOutput` with a memory of S' steps.
    """

    def __init__(self, pooling, **kwargs):
        super().__init__(**kwargs)
        self.pooling = pooling
        self.pool: Any = None if pooling == "last" else Pooling(pooling, name="pool", dtype=self.dtype_policy)
        self.built = True  # the parts build themselves when they are first used

    def read(self, ids, embed, training=False):
        """The source from its ids, or from features.

        Args:
            ids: [B, S] int32, ended by EOS, then PAD; or [B, S, F + 1] float features, see `source_mask`.
            embed: these to [B, S, X] vectors.
            training: Whether dropout is on.
        """
        return self(embed(ids), mask=source_mask(ids), training=training)

    def num_steps(self, source_steps):
        """S', steps of the memory of a source of so many; a Python int."""
        return source_steps

    def get_config(self):
        return {**super().get_config(), "pooling": self.pooling}
