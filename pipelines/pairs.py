"""What the files of this package hand on to each other."""

import hashlib
from collections.abc import Callable
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
    """

    weight: float
    number_of_set: int
    alignment: str | None

    def __new__(
        cls, source: str, target: str, weight: float = 1.0, number_of_set: int = 0, alignment: str | None = None,
    ):
        pair = super().__new__(cls, (source, target))
        pair.weight, pair.number_of_set, pair.alignment = weight, number_of_set, alignment
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


def split_of(key: str, valid: float, test: float) -> str:
    """"train", "valid" or "test": where a key belongs, by its hash; so it is the same on every machine.

    Args:
        key: what must not be in two splits, as a source.
        valid, test: their shares of all keys, from 0 to 1.
    """
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if share < test:
        return "test"
    return "valid" if share < test + valid else "train"


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
