"""What the files of this package hand on to each other."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Pair = tuple[str, str]  # source, target
Progress = Callable[[float, float | None], None]  # done, total; None where the total is not known


class AnnotatedPair(tuple[str, str]):
    """A pair that knows more of itself; in all else it is the tuple (source, target).

    Attributes:
        weight: of its tokens in the loss.
        number_of_set: which of `data.sets` it is from.
        alignment: which of its words belong together, links in Pharaoh's format, "0-0 1-2", see
            `pipelines.alignments.align`; None where that is not known.
        tags: which its source begins with, each followed by a space.
    """

    weight: float
    number_of_set: int
    alignment: str | None
    tags: tuple[str, ...]

    def __new__(
        cls, source: str, target: str, weight: float = 1.0, number_of_set: int = 0, alignment: str | None = None,
        tags: Sequence[str] = (),
    ):
        pair = super().__new__(cls, (source, target))
        pair.weight, pair.number_of_set, pair.alignment, pair.tags = weight, number_of_set, alignment, tuple(tags)
        return pair

    def notes(self) -> dict[str, Any]:
        """What it knows of itself, as the constructor takes it."""
        return dict(vars(self))


def weight_of(pair: Pair) -> float:
    """Of its tokens in the loss."""
    return pair.weight if isinstance(pair, AnnotatedPair) else 1.0


def set_of(pair: Pair) -> int:
    """Number of its set."""
    return pair.number_of_set if isinstance(pair, AnnotatedPair) else 0


def alignment_of(pair: Pair) -> str | None:
    """Its links, where they are known."""
    return pair.alignment if isinstance(pair, AnnotatedPair) else None


def tags_of(pair: Pair) -> tuple[str, ...]:
    """Those that its source begins with."""
    return pair.tags if isinstance(pair, AnnotatedPair) else ()


def untagged(pair: Pair) -> Pair:
    """The pair as it was before tags were put before its source."""
    return pair[0][sum(len(tag) + 1 for tag in tags_of(pair)) :], pair[1]


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
        source_end: the id that ends each source; None for EOS.
    """

    source_ids: np.ndarray
    source_offsets: np.ndarray
    target_ids: np.ndarray
    target_offsets: np.ndarray
    source_end: int | None = None
