"""One side of a split's pairs, of which batches gather rows: ids that stay, or tokens drawn anew each time."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pipelines.text import SeveralSources
from tfseq2seq.structures import EOS, PAD
from tfseq2seq.tokenizers import SentencepieceTokenizer, Tokenizer
from tfseq2seq.tokenizers.base import cleaned

EMPTY = -1  # row id of a row that is all padding
TOLD_EVERY = 1000  # rows


class Side:
    """One side's ids, from which rows are gathered without a loop.

    Args:
        ids: [sum of lengths] int32, without EOS.
        offsets: [N + 1] int64.
        end: the id that ends a row; default EOS.
    Attributes:
        lengths: [N] int64, without EOS.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, end: int | None = None):
        self._end = EOS if end is None else end
        self._ids = np.append(ids, np.int32(PAD))  # what a row of padding points at
        self._starts = np.append(offsets[:-1], len(ids))  # the last one is for EMPTY = -1
        self.lengths = np.diff(offsets)
        self._lengths = np.append(self.lengths, -1)

    def gather(self, rows: np.ndarray, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Ids with their end, padded to `length` [R, length] int32, and what of it is real [R, length] bool."""
        steps, lengths = np.arange(length), self._lengths[rows][:, None]
        places = np.minimum(self._starts[rows][:, None] + steps, len(self._ids) - 1)
        ids = np.where(steps < lengths, self._ids[places], np.int32(PAD))
        ids[steps == lengths] = self._end
        return ids, steps <= lengths

    def row(self, row: int) -> list[int]:
        """The ids of one row, without EOS."""
        start = self._starts[row]
        return self._ids[start : start + self._lengths[row]].tolist()


class SubwordSampler:
    """Draws segmentations of texts; the same rows and the same seed draw the same.

    Args:
        lines: N lines of text.
        tokenizer: of the lines, of subwords.
        alpha: see `SentencepieceTokenizer.sampler`.
    Raises:
        ValueError: the tokenizer knows one segmentation only.
    """

    def __init__(self, lines: Sequence[str], tokenizer: Tokenizer, alpha: float):
        several = isinstance(tokenizer, SeveralSources)
        of_one_source = tokenizer.of_one_source if several else tokenizer
        if not isinstance(of_one_source, SentencepieceTokenizer):
            raise ValueError(
                "Subwords are drawn with a tokenizer of kind \"unigram\" or \"bpe\". "
                f"Received: kind=\"{tokenizer.kind}\".")
        self._sampler = of_one_source.sampler(alpha)
        parts = [tokenizer.split(line) if several else [line] for line in lines]
        self._offsets = np.cumsum([0, *map(len, parts)])
        self._texts = list(cleaned(of_one_source.case, itertools.chain.from_iterable(parts)))

    def draw(self, rows: Sequence[int], seed: int) -> list[list[int]]:
        """Ids of each of these rows, without the last EOS."""
        ranges = [range(self._offsets[row], self._offsets[row + 1]) for row in rows]
        texts = [self._texts[place] for places in ranges for place in places]
        drawn = iter(self._sampler.draw(texts, seed))
        return [_joined([next(drawn) for _ in places]) for places in ranges]

    def lengths(self, seed: int) -> Iterator[tuple[float, float]]:
        """Mean and variance of each row's number of ids, without the last EOS."""
        measured = self._sampler.lengths(self._texts, seed)
        for num_sources in np.diff(self._offsets).tolist():
            means, variances = zip(*itertools.islice(measured, num_sources), strict=True)
            yield sum(means) + num_sources - 1, sum(variances)


def _joined(sources: list[list[int]]) -> list[int]:
    return [id_ for source in sources for id_ in [*source, EOS]][:-1]


class SampledSide:
    """One side whose lines are cut into tokens anew for each batch (Kudo, 2018, arXiv:1804.10959, section 3).

    A batch has room for a row's mean length and one standard deviation more, about the longest of four segmentations.
    One that is longer is drawn again, at most three times, and if that does not help the best segmentation takes its
    place: batches and their number never change.

    Args:
        side: the best segmentations.
        sampler: of the same lines.
        seed: of the segmentations that lengths are measured by.
        progress: told (done, total) of the lines while lengths are measured.
    """

    DRAWS = 4  # at most

    def __init__(
        self, side: Side, sampler: SubwordSampler, seed: int, progress: Callable[[int, int], None] = lambda *_: None,
    ):
        self._side, self._sampler = side, sampler
        self._longest = side.lengths.copy()
        for row, (mean, variance) in enumerate(sampler.lengths(seed)):
            if row % TOLD_EVERY == 0:
                progress(row, len(side.lengths))
            self._longest[row] = max(self._longest[row], math.ceil(mean + math.sqrt(variance)))

    def longest_below(self, limit: int) -> np.ndarray:
        """[N] int64, the tokens that each row has room for; with EOS at most `limit` where the best one fits there."""
        return np.maximum(np.minimum(self._longest, limit - 1), self._side.lengths)

    def gather(self, rows: np.ndarray, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Side.gather`, of tokens that follow from the seed and the rows."""
        drawn: dict[int, list[int]] = {}
        missing = np.flatnonzero(rows != EMPTY).tolist()
        for attempt in range(self.DRAWS):
            found = self._sampler.draw([rows[place] for place in missing], (seed + attempt) % 2**32)
            drawn |= {place: ids for place, ids in zip(missing, found, strict=True) if len(ids) < length}
            missing = [place for place in missing if place not in drawn]
        drawn |= {place: self._side.row(rows[place]) for place in missing}
        ids, real = np.full([len(rows), length], PAD, np.int32), np.zeros([len(rows), length], bool)
        for place, tokens in drawn.items():
            ids[place, : len(tokens) + 1] = [*tokens, EOS]
            real[place, : len(tokens) + 1] = True
        return ids, real
