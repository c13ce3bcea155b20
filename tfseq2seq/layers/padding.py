"""Padded batches and their real steps alone: what works on each step by itself need not see the padding."""

import tensorflow as tf


@tf.custom_gradient
def _gather(rows, places, back):
    """rows[places], 0 for the place after the last; `back` leads the other way, and the gradient is a gather too."""

    def gradient(upstream):
        return _gather(upstream, back, places), None, None

    padded = tf.concat([rows, tf.zeros([1, _width(rows)], rows.dtype)], 0)
    return tf.gather(padded, places), gradient


def _width(values):
    return tf.shape(values)[-1] if values.shape[-1] is None else values.shape[-1]


class RealSteps:
    """Goes from [B, T, D] to the R real rows [R, D] and back, where padding becomes 0.

    A fifth of a usual batch is padding, and projections and feed-forward layers are most of a Transformer's work. With
    `remove=False` all B * T rows are kept, in shapes that XLA can compile.

    Args:
        mask: [B, T] bool, True on real steps.
        remove: Whether padding is left out of the rows.
    """

    def __init__(self, mask, remove=True):
        self.mask, self.remove = mask, remove
        if remove:
            flat = tf.reshape(mask, [-1])
            self.places = tf.cast(tf.where(flat)[:, 0], tf.int32)  # [R], of each row in the batch
            self.rows = tf.where(flat, tf.cumsum(tf.cast(flat, tf.int32)) - 1, tf.shape(self.places)[0])  # [B * T]

    def pack(self, padded):
        """[B, T, D] -> [R, D], or numbers [B, T] -> [R]."""
        if padded.shape.rank == 2:
            flat = tf.reshape(padded, [-1])
            return tf.gather(flat, self.places) if self.remove else flat
        flat = tf.reshape(padded, [-1, _width(padded)])
        return _gather(flat, self.places, self.rows) if self.remove else flat

    def unpack(self, rows):
        """[R, D] -> [B, T, D], 0 on padding."""
        width = rows.shape[-1]
        flat = _gather(rows, self.rows, self.places) if self.remove else rows
        shape = tf.shape(self.mask)
        padded = tf.reshape(flat, [shape[0], shape[1], width])
        return padded if self.remove else padded * tf.cast(self.mask, padded.dtype)[:, :, None]
