"""Encoders made of encoders: one after the other, or side by side."""

import functools

import keras
import tensorflow as tf

from tfseq2seq.encoders.base import Encoder
from tfseq2seq.structures import EOS, PAD, EncoderOutput


class _Composed(Encoder):
    def __init__(self, encoders, **kwargs):
        super().__init__("last", **kwargs)
        self.encoders = [
            keras.saving.deserialize_keras_object(encoder) if isinstance(encoder, dict) else encoder
            for encoder in encoders]

    def get_config(self):
        config = super().get_config()
        config.pop("pooling")
        return {**config, "encoders": [keras.saving.serialize_keras_object(encoder) for encoder in self.encoders]}


@keras.saving.register_keras_serializable("tfseq2seq")
class SequenceEncoder(_Composed):
    """Each encoder reads the memory of the one before it; the last one's output is the whole's.

    Args:
        encoders: Encoders, at least 1.
    Call arguments and results: see `Encoder`.
    """

    @property
    def output_units(self):
        """Width of the memory."""
        return self.encoders[-1].output_units

    def num_steps(self, source_steps):
        """See `Encoder.num_steps`."""
        return functools.reduce(lambda steps, encoder: encoder.num_steps(steps), self.encoders, source_steps)

    def call(self, source, mask, training=False):
        output = EncoderOutput(source, mask, (), None)
        for encoder in self.encoders:
            output = encoder(output.memory, mask=output.mask, training=training)
        return output


@keras.saving.register_keras_serializable("tfseq2seq")
class ParallelEncoder(_Composed):
    """One encoder for each of several sources; the decoder attends to all of their memories at once.

    (The flat combination of Libovicky & Helcl, 2017, arXiv:1704.06567, section 3.1.) A row of ids holds the
    sources one after the other, each ended by EOS; what follows the last encoder's EOS is not read. A source that
    is missing counts as empty. The last states of all encoders stand one after the other, and so do the contexts.

    Args:
        encoders: Encoders with memories of one width, at least 1.
    """

    @property
    def output_units(self):
        """Width of the memory."""
        return self.encoders[0].output_units

    def read(self, ids, embed, training=False):
        """See `Encoder.read`."""
        number = tf.cumsum(tf.cast(ids == EOS, tf.int32), axis=1, exclusive=True)  # of the source each step is in
        outputs = []
        for i, encoder in enumerate(self.encoders):
            inside = tf.logical_and(number == i, ids != PAD)  # [B, S]
            width = tf.maximum(tf.reduce_max(tf.reduce_sum(tf.cast(inside, tf.int32), 1)), 1)  # convolutions need one
            own = tf.ragged.boolean_mask(ids, inside).to_tensor(PAD)  # [B, S_i]
            own = tf.pad(own, [[0, 0], [0, width - tf.shape(own)[1]]], constant_values=PAD)
            outputs.append(encoder.read(own, embed, training))
        states = tuple(state for output in outputs for state in output.final_state)
        return EncoderOutput(
            tf.concat([output.memory for output in outputs], 1), tf.concat([output.mask for output in outputs], 1),
            states, tf.concat([output.context for output in outputs], -1))
