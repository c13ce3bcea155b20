"""What the files of this package hand on to each other."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Pair = tuple[str, str]  # source, target
Progress = Callable[[float, float | None], None]  # done, total; None where the total is not known


class AlignedPair(tuple[str, str]):
    """A pair that knows which of its words belong together; in all else it is the tuple (source, target).

    Attributes:
        alignment: links in Pharaoh's format, "0-0 1-2", see `pipelines.alignments.align`.
    """

    alignment: str

    def __new__(cls, source: str, target: str, alignment: str):
        pair = super().__new__(cls, (source, target))
        pair.alignment = alignment
        return pair


class DataError(ValueError):
    """Data are missing or broken; the text is one line that says where, and how to mend it."""


class Splits(NamedTuple):
    """The pairs of a data set.

    Attributes:
        train: (source, target) strings.
        valid: held out to choose the best checkpoint.
        test: held out for the last score; may be empty.
    """

    train: list[Pair]
    valid: list[Pair]
    test: list[Pair]


class EncodedPairs(NamedTuple):
    """N pairs as ids, without BOS and EOS, laid end to end.

    Pair n has the source ids `source_ids[source_offsets[n]:source_offsets[n + 1]]`.

    Attributes:
        source_ids: [sum of source lengths] int32.
        source_offsets: [N + 1] int64.
        target_ids: [sum of target lengths] int32.
        target_offsets: [N + 1] int64.
    """

    source_ids: np.ndarray
    source_offsets: np.ndarray
    target_ids: np.ndarray
    target_offsets: np.ndarray
