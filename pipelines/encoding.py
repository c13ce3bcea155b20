"""Strings through a tokenizer, however many there are."""

from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

ENCODED_AT_ONCE = 16_384  # strings; bounds the memory of the ragged intermediates


def in_parts(strings: Sequence[str], encode: Callable[[tf.Tensor], tf.RaggedTensor]) -> Iterator[tf.RaggedTensor]:
    """What a method of a tokenizer makes of the strings, some of them after the other."""
    for start in range(0, len(strings), ENCODED_AT_ONCE):
        yield encode(tf.constant(strings[start : start + ENCODED_AT_ONCE]))
