"""Segmentations of words drawn at random, outside the graph; the same in every process, for the same seed.

Sentencepiece draws too, but what it draws for a seed differs from one process to the next, so that a training which
goes on after a crash would see other tokens.
"""

import bisect
import functools
import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence

SPACE = "▁"  # as sentencepiece writes it
BEST = 64  # segmentations of a word that are drawn from, as many as in Kudo, 2018, section 5.1
UNKNOWN_PENALTY = 10.0  # nats from the least likely piece to a character outside the vocabulary, as sentencepiece
WORDS_KEPT = 2**15

_WORD = re.compile(f"{SPACE}?[^{SPACE}]+|{SPACE}")


def split_words(text: str, symbols: Sequence[str] = ()) -> list[str]:
    """The parts that no piece crosses: symbols, and words, of which most begin with a space."""
    if not symbols:
        return _WORD.findall(text)
    # The longest first, as sentencepiece looks for them.
    parts = re.split("(" + "|".join(map(re.escape, sorted(symbols, key=len, reverse=True))) + ")", text)
    return [word for part in parts for word in ([part] if part in symbols else _WORD.findall(part))]


class UnigramSampler:
    """P(x) proportional to (product of its pieces' probabilities)^alpha, over a word's segmentations x.

    Kudo, 2018, arXiv:1804.10959, section 3.3, with l = 64 for each word; a text has the product of its words.

    Args:
        scores: log-probability of each piece of text.
        alpha: above 0; small for more variety.
    """

    def __init__(self, scores: Mapping[str, float], alpha: float):
        self._scores, self._alpha = scores, alpha
        self._longest = max(map(len, scores))
        self._unknown = min(scores.values()) - UNKNOWN_PENALTY
        self._distribution = functools.lru_cache(WORDS_KEPT)(self._make_distribution)

    def draw(self, word: str, source: random.Random) -> tuple[str, ...]:
        """The pieces of one word; a character outside the vocabulary is a piece of its own."""
        segmentations, cumulative = self._distribution(word)
        return segmentations[bisect.bisect(cumulative, source.random() * cumulative[-1], hi=len(cumulative) - 1)]

    def _make_distribution(self, word: str) -> tuple[list[tuple[str, ...]], list[float]]:
        best = self._best(word)
        weights = [math.exp(self._alpha * (score - best[0][0])) for score, _ in best]
        return [pieces for _, pieces in best], list(itertools.accumulate(weights))

    def _best(self, word: str) -> list[tuple[float, tuple[str, ...]]]:
        """(log-probability, pieces) of the `BEST` segmentations, the best first, equal ones in the pieces' order."""
        ending: list[list[tuple[float, tuple[str, ...]]]] = [[(0.0, ())]]
        for end in range(1, len(word) + 1):
            found = []
            for start in range(max(0, end - self._longest), end):
                piece = word[start:end]
                score = self._scores.get(piece, self._unknown if end - start == 1 else None)
                if score is not None:
                    found += [(before + score, (*pieces, piece)) for before, pieces in ending[start]]
            ending.append(sorted(found, key=lambda each: (-each[0], each[1]))[:BEST])
        return ending[-1]


class BpeSampler:
    """Merges as byte-pair encoding makes them, of which each is left out with probability alpha at each step.

    BPE dropout, Provilkov et al., 2020, arXiv:1910.13267, algorithm 1.

    Args:
        scores: of each piece of text, the higher the earlier it was merged.
        alpha: in (0, 1).
    """

    def __init__(self, scores: Mapping[str, float], alpha: float):
        self._scores, self._alpha = scores, alpha

    def draw(self, word: str, source: random.Random) -> tuple[str, ...]:
        """The pieces of one word; a character outside the vocabulary is a piece of its own."""
        pieces = list(word)
        while True:
            merges = sorted(
                (-self._scores[pair], place) for place, pair in enumerate(map("".join, itertools.pairwise(pieces)))
                if pair in self._scores)
            # The best one that is not left out.
            place = next((place for _, place in merges if source.random() >= self._alpha), None)
            if place is None:
                return tuple(pieces)
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
