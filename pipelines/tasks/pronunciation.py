"""Spelled words into phones: "ABBEY" -> "AE B IY"."""

import collections
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from pipelines.pairs import Pair
from pipelines.tasks.base import Task, count_words

Chunk = tuple[str, ...]  # the phones of one letter: none, one or two
Score = Callable[[str, Chunk], float]

NUM_WORDS = 20_000  # training pairs that the baseline looks at; more take longer and help little
ROUNDS = 2  # alignments, each scored by the counts of the one before
RARE = 1e-4  # probability of a chunk that a letter was not seen with
WINDOWS = ((2, 2), (1, 1), (0, 1), (0, 0))  # letters before and after, tried in this order


def letters_in_context(train: Sequence[Pair], sources: Sequence[str]) -> list[str]:
    """Each letter's most frequent phones, given its neighbours.

    Letters and phones are aligned in order (each letter takes 0 to 2 phones) so that the product of
    P(phones | letter) is largest, and P is counted again; the first P comes from phones at the same
    relative place. A new word's letter gets what was most frequent for it with 2 letters on either side,
    else with fewer.

    Args:
        train: (word, phones) pairs, phones separated by spaces.
        sources: N words.
    Returns:
        N strings of phones.
    """
    step = max(1, len(train) // NUM_WORDS)
    pairs = [(word, tuple(phones.split())) for word, phones in train[::step]]
    score = _scores((letter, (phone,)) for pair in pairs for letter, phone in _same_place(*pair))
    for _ in range(ROUNDS):
        aligned = [(word, align(word, phones, score)) for word, phones in pairs]
        score = _scores((letter, chunk) for word, chunks in aligned for letter, chunk in zip(word, chunks))
    counts: dict[str, collections.Counter[Chunk]] = collections.defaultdict(collections.Counter)
    for word, chunks in aligned:
        for place, chunk in enumerate(chunks):
            for context in _contexts(word, place):
                counts[context][chunk] += 1
    # Of equally frequent chunks the first in alphabetical order, so that the answer never varies.
    best = {context: min(seen, key=lambda chunk: (-seen[chunk], chunk)) for context, seen in counts.items()}
    return [
        " ".join(phone for place in range(len(word)) for phone in _lookup(best, word, place))
        for word in sources]


def align(word: str, phones: Chunk, score: Score) -> list[Chunk]:
    """The phones of each letter, in order, of highest total score; [] where they are too many.

    Args:
        word: L letters.
        phones: P phones; a letter takes at most two, so P must be at most 2 L.
        score: of a letter and its phones; higher is better.
    """
    num_phones = len(phones)
    best = [0.0] + [-math.inf] * num_phones  # best[j]: the letters so far took j phones
    taken = []
    for letter in word:
        longer, choice = [-math.inf] * (num_phones + 1), [0] * (num_phones + 1)
        for before, value in enumerate(best):
            if value == -math.inf:
                continue
            for after in range(before, min(before + 2, num_phones) + 1):
                candidate = value + score(letter, phones[before:after])
                if candidate > longer[after]:
                    longer[after], choice[after] = candidate, before
        best = longer
        taken.append(choice)
    if best[num_phones] == -math.inf:
        return []
    chunks, end = [], num_phones
    for choice in reversed(taken):
        chunks.append(phones[choice[end] : end])
        end = choice[end]
    return chunks[::-1]


def _same_place(word: str, phones: Chunk) -> Iterator[tuple[str, str]]:
    for place, phone in enumerate(phones):
        if word:
            yield word[place * len(word) // len(phones)], phone


def _scores(seen: Iterable[tuple[str, Chunk]]) -> Score:
    """log P(chunk | letter) by counting; a pair of phones not seen together scores as both one by one."""
    counts = collections.Counter(seen)
    totals: collections.Counter[str] = collections.Counter()
    for (letter, _), count in counts.items():
        totals[letter] += count
    table = {(letter, chunk): math.log(count / totals[letter]) for (letter, chunk), count in counts.items()}
    rare = math.log(RARE)

    def score(letter: str, chunk: Chunk) -> float:
        known = table.get((letter, chunk))
        return known if known is not None else rare * max(1, len(chunk))

    return score


def _contexts(word: str, place: int) -> Iterator[str]:
    """The letter at `place` between its neighbours, the widest window first; "\\n" beyond the ends."""
    for before, after in WINDOWS:
        left = word[max(0, place - before) : place].rjust(before, "\n")
        right = word[place + 1 : place + 1 + after].ljust(after, "\n")
        yield f"{left}\t{word[place]}\t{right}"


def _lookup(best: dict[str, Chunk], word: str, place: int) -> Chunk:
    for context in _contexts(word, place):
        if context in best:
            return best[context]
    return ()


PRONUNCIATION = Task(
    name="pronunciation",
    metrics=("word_error_rate", "phoneme_error_rate"),
    multiple_references=True,
    max_ratio=4.0,
    measure_source=len,
    source_unit="letters",
    measure_target=count_words,  # phones
    baseline=letters_in_context,
    baseline_name="letters in context",
)
