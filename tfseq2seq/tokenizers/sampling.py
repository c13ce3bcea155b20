"""Segmentations of words drawn at random, outside the graph; the same in every process, for the same seed.

Sentencepiece draws too, but what it draws for a seed differs from one process to the next, so that a training which
goes on after a crash would see other tokens.
"""

import bisect
import functools
import itertools
import math
import operator
import random
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

SPACE = "▁"  # as sentencepiece writes it
BEST = 64  # segmentations of a word that are drawn from, as many as in Kudo, 2018, section 5.1
UNKNOWN_PENALTY = 10.0  # nats from the least likely piece to a character outside the vocabulary, as sentencepiece
WORDS_KEPT = 2**15
MERGES_KEPT = 2**19  # states of words that merging leads through, 160 MB
MEASURED = 8  # segmentations of each distinct word, whose lengths stand for all

_WORD = re.compile(f"{SPACE}?[^{SPACE}]+|{SPACE}")


def split_words(text: str, symbols: Sequence[str] = ()) -> list[str]:
    """The parts that no piece crosses: symbols, and words, of which most begin with a space."""
    if not symbols:
        return _WORD.findall(text)
    # The longest first, as sentencepiece looks for them.
    parts = re.split("(" + "|".join(map(re.escape, sorted(symbols, key=len, reverse=True))) + ")", text)
    return [word for part in parts for word in ([part] if part in symbols else _WORD.findall(part))]


class WordSampler(Protocol):
    """What draws segmentations of single words."""

    def draw(self, word: str, source: random.Random) -> tuple[str, ...]: ...


class TextSampler:
    """Draws segmentations of texts, outside the graph.

    Args:
        words: draws those of single words.
        symbols: strings that are one token wherever they stand.
        ids_of: the ids of a piece; of a character outside the vocabulary those of its bytes.
        normalize: text to what is cut, with `SPACE` for spaces.
    """

    def __init__(
        self, words: WordSampler, symbols: Sequence[str], ids_of: Callable[[str], list[int]],
        normalize: Callable[[str], str],
    ):
        self._words, self._symbols, self._ids_of, self._normalize = words, symbols, ids_of, normalize

    def draw(self, texts: Sequence[bytes], seed: int) -> list[list[int]]:
        """The ids of each text (UTF-8, from `cleaned`), without BOS and EOS; for the same texts and seed the same."""
        source = random.Random(seed)
        return [[id_ for word in self._split(text) for id_ in self._draw(word, source)] for text in texts]

    def lengths(self, texts: Sequence[bytes], seed: int) -> Iterator[tuple[float, float]]:
        """Mean and variance of the number of ids of each text, as those of its words add up.

        A word's are those of `MEASURED` segmentations. For the same texts in the same order and the same seed the same.
        """
        source = random.Random(seed)
        known: dict[str, tuple[float, float]] = {}
        for text in texts:
            mean = variance = 0.0
            for word in self._split(text):
                if word not in known:
                    drawn = [len(self._draw(word, source)) for _ in range(MEASURED)]
                    known[word] = statistics.fmean(drawn), statistics.pvariance(drawn)
                mean, variance = mean + known[word][0], variance + known[word][1]
            yield mean, variance

    def _split(self, text: bytes) -> list[str]:
        return split_words(self._normalize(" " + text.decode()), self._symbols) if text else []

    def _draw(self, word: str, source: random.Random) -> list[int]:
        pieces = (word,) if word in self._symbols else self._words.draw(word, source)
        return [id_ for piece in pieces for id_ in self._ids_of(piece)]


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
        # By word and the pieces that it is in: of words drawn of late, and of those before them.
        self._recent: dict[str, dict[tuple[str, ...], _Merges]] = {}
        self._older: dict[str, dict[tuple[str, ...], _Merges]] = {}
        self._num_recent = 0

    def draw(self, word: str, source: random.Random) -> tuple[str, ...]:
        """The pieces of one word; a character outside the vocabulary is a piece of its own."""
        known = self._recent.get(word)
        if known is None:
            known = self._recall(word)
        draw, alpha, pieces = source.random, self._alpha, tuple(word)
        merges = known.get(pieces) or self._find(pieces, known)
        while True:
            number = 0  # the best one that is not left out
            for after in merges.after:
                if draw() >= alpha:
                    merges = after or self._follow(merges, number, known)
                    break
                number += 1
            else:
                return merges.pieces

    def _recall(self, word: str) -> dict[tuple[str, ...], "_Merges"]:
        if self._num_recent > MERGES_KEPT // 2:
            self._older, self._recent, self._num_recent = self._recent, {}, 0
        known = self._recent[word] = self._older.pop(word, {})
        self._num_recent += len(known)
        return known

    def _follow(self, merges: "_Merges", number: int, known: dict[tuple[str, ...], "_Merges"]) -> "_Merges":
        place, pieces = merges.places[number], merges.pieces
        merged = (*pieces[:place], pieces[place] + pieces[place + 1], *pieces[place + 2 :])
        merges.after[number] = after = known.get(merged) or self._find(merged, known)
        return after

    def _find(self, pieces: tuple[str, ...], known: dict[tuple[str, ...], "_Merges"]) -> "_Merges":
        scores = self._scores
        pairs = sorted(
            (-scores[pair], place) for place, pair in enumerate(map(operator.add, pieces, pieces[1:]))
            if pair in scores)
        known[pieces] = found = _Merges(pieces, [place for _, place in pairs])
        self._num_recent += 1
        return found


class _Merges:
    """The merges that are possible where a word is in these pieces.

    Attributes:
        pieces: of the word.
        places: of the first piece of each pair that may be merged, the best pair first.
        after: what is possible after each merge; None where it was not asked for yet.
    """

    __slots__ = ("after", "pieces", "places")

    def __init__(self, pieces: tuple[str, ...], places: list[int]):
        self.pieces, self.places = pieces, places
        self.after: list[_Merges | None] = [None] * len(places)
