"""Strings through a tokenizer, however many there are."""

from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

ENCODED_AT_ONCE = 16_384  # strings; bounds the memory of the ragged intermediates


def in_parts(encode: Callable[..., tf.RaggedTensor], *columns: Sequence[str]) -> Iterator[tf.RaggedTensor]:
    """What a function of [n] strings, one argument a column, makes of columns of N strings, part by part."""
    for start in range(0, len(columns[0]), ENCODED_AT_ONCE):
        yield encode(*(tf.constant(column[start : start + ENCODED_AT_ONCE]) for column in columns))
