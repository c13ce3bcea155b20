"""Products of a few rows with a kernel, again and again, as each step of a search asks for them.

A row of the output that is a power of two long, or a small multiple of one, puts the same column of all rows into the
same few lines of a processor's cache, where they drive each other out: 64 rows of 512 times 2,048 columns take 4.1 ms
of a core, and 2.9 with 2,064 columns of which 16 are cut off again (2.4 and 1.8 with 1,536; no less with 768).
So a search widens such kernels once, before its loop.
"""

import contextlib
import contextvars
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

ALIGNMENT = 512  # columns whose multiples are widened
EXTRA = 16  # columns
FEW_ROWS = 16  # fewer do not fill the cache lines, and a copy of the kernels costs them more

Kernels = dict[int, tf.Tensor]  # by the identity of the variable
_widened: contextvars.ContextVar[Kernels | None] = contextvars.ContextVar("widened", default=None)


def widen(kernel: tf.Tensor, num_rows: tf.Tensor) -> tf.Tensor:
    """A kernel [D, M] for `multiply`, for products with about so many rows: [D, M + EXTRA] where that is quicker."""
    if kernel.shape[-1] % ALIGNMENT:
        return kernel
    return tf.cond(num_rows < FEW_ROWS, lambda: kernel, lambda: tf.pad(kernel, [[0, 0], [0, EXTRA]]))


def widen_all(variables: Iterable[Any], dtype: str, num_rows: tf.Tensor) -> Kernels:
    """Those of the variables that are kernels worth widening, widened; to be called where the steps are not traced."""
    return {
        id(variable): widen(tf.cast(variable, dtype), num_rows) for variable in variables
        if len(variable.shape) == 2 and variable.shape[1] % ALIGNMENT == 0}


@contextlib.contextmanager
def using(kernels: Kernels) -> Iterator[None]:
    """Inside, `multiply` takes these in place of their variables."""
    token = _widened.set(kernels)
    try:
        yield
    finally:
        _widened.reset(token)


def multiply(rows: tf.Tensor, kernel: Any) -> tf.Tensor:
    """[N, D] rows times a kernel, a variable [D, M]: [N, M]."""
    wide = (_widened.get() or {}).get(id(kernel))
    if wide is None:
        return tf.matmul(rows, tf.cast(kernel, rows.dtype))
    return cut(tf.matmul(rows, wide), kernel.shape[1])


def cut(product: tf.Tensor, width: int) -> tf.Tensor:
    """[N, M] of [N, M or more]."""
    return tf.ensure_shape(product[:, :width], [product.shape[0], width])
