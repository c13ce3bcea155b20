"""Perplexity of right answers: how many tokens a model hesitates between, and what counting n-grams makes of it."""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

ORDER = 3  # tokens of an n-gram, the one that is told among them
_TEXT = tf.TensorSpec([None], tf.string)


def target_log_probabilities(
    generator: Any, sources: Sequence[str], targets: Sequence[str], on_lines: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """What a model makes of right answers.

    Args:
        generator: `Generator`; source and target are cut at its `max_source_length`.
        sources: N lines.
        targets: N right answers.
        on_lines: told how many are done.
    Returns:
        [N, 2] float64: log p(target | source) in nats, and its tokens, the end token among them.
    """
    score = tf.function(generator.score, input_signature=[_TEXT, _TEXT], autograph=False)
    found, done = np.zeros([len(sources), 2]), 0
    for rows in generator.batches(list(sources))[0]:
        batch = score(*(tf.constant([side[row] for row in rows]) for side in (sources, targets)))
        found[rows] = np.stack([batch["log_probability"], batch["length"]], 1)
        done += len(rows)
        on_lines(done)
    return found


def perplexity(sums: np.ndarray) -> np.ndarray:
    """exp(-log p / tokens).

    Args:
        sums: [..., 2], log p of some lines, and their tokens.
    Returns:
        [...].
    """
    return np.exp(-sums[..., 0] / sums[..., 1])


class NgramModel:
    """A language model of counted n-grams, smoothed with the shorter ones (Witten & Bell, 1991).

    p(w | h) = (c(h w) + t(h) p(w | h')) / (c(h) + t(h)), c a count, t(h) the number of distinct tokens seen after h,
    and h' = h without its first token; without any h, p(w) is mixed with 1 / vocabulary size in the same way.

    Args:
        lines: token ids of the train lines.
        vocabulary_size: V.
        end: id that ends each line.
        order: n.
    """

    def __init__(self, lines: Sequence[Sequence[int]], vocabulary_size: int, end: int, order: int = ORDER):
        self._vocabulary_size, self._end, self._order = vocabulary_size, end, order
        self._counts: collections.Counter[tuple[int, ...]] = collections.Counter()
        for line in lines:
            for place, padded in self._places(line):
                for length in range(1, order + 1):
                    self._counts[padded[place - length + 1 : place + 1]] += 1
        self._totals: collections.Counter[tuple[int, ...]] = collections.Counter()
        self._kinds: collections.Counter[tuple[int, ...]] = collections.Counter()
        for ngram, count in self._counts.items():
            self._totals[ngram[:-1]] += count
            self._kinds[ngram[:-1]] += 1

    def log_probability(self, line: Sequence[int]) -> float:
        """Of a line and its end, in nats."""
        return sum(math.log(self._probability(padded, place)) for place, padded in self._places(line))

    def _places(self, line: Sequence[int]) -> Any:
        padded = (*([-1] * (self._order - 1)), *line, self._end)
        return ((place, padded) for place in range(self._order - 1, len(padded)))

    def _probability(self, padded: tuple[int, ...], place: int) -> float:
        probability = 1 / self._vocabulary_size
        for length in range(self._order):
            ngram = padded[place - length : place + 1]
            kinds, total = self._kinds[ngram[:-1]], self._totals[ngram[:-1]]
            if total:
                probability = (self._counts[ngram] + kinds * probability) / (total + kinds)
        return probability
