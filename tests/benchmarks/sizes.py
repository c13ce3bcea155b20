"""What is measured: the sizes of the models and the lengths of the sentences.

Needs nothing but NumPy, and stands apart from the programs, so that a side's process can read what it is sent.
"""

from typing import NamedTuple

import numpy as np

PAD, UNK, BOS, EOS = 0, 1, 2, 3


class Size(NamedTuple):
    """Of a Transformer with as many layers in the encoder as in the decoder."""

    units: int
    feed_forward_units: int
    heads: int
    layers: int
    vocabulary_size: int


class RecurrentSize(NamedTuple):
    """Of bidirectional LSTM layers, `units` / 2 each way, and as many LSTM layers with attention and input feeding."""

    units: int  # of the decoder and of the embeddings
    layers: int
    vocabulary_size: int


SIZES = {
    "tiny": Size(32, 64, 2, 1, 100),  # to try a program
    "small": Size(256, 1024, 4, 3, 8000),
    "base": Size(512, 2048, 8, 6, 32000),
}
RECURRENT_SIZES = {
    "tiny_recurrent": RecurrentSize(32, 2, 100),
    "recurrent": RecurrentSize(512, 2, 8000),
}


class TrainingBatch(NamedTuple):
    """Pairs to train on. All [B, steps] int32: source ended by EOS, target with BOS before, labels with EOS after."""

    source: np.ndarray
    target: np.ndarray
    labels: np.ndarray


def draw_lengths(random, count, mean=20.0):
    """Lengths of sentences from 5 to 40 tokens, end token included."""
    return np.clip(np.round(random.normal(mean, 8.0, count)), 5, 40).astype(int)


def pad(rows):
    """Lists of ids to [B, steps] int32, padded at the end."""
    width = max(map(len, rows))
    return np.array([[*row, *[PAD] * (width - len(row))] for row in rows], np.int32)


def waves(positions, units):
    """The sines and cosines of the Transformer's paper (Vaswani et al., 2017, section 3.5): [positions, units]."""
    angles = np.arange(positions)[:, None] / 10_000.0 ** (np.arange(0, units, 2) / units)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(positions, units).astype(np.float32)
