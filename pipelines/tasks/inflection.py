"""A word and the features of a form of it into that form: "stodge V;3;SG;PRS" -> "stodges"."""

import collections
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from pipelines.pairs import Pair
from pipelines.tasks.base import Task

Rule = tuple[str, str, str, str]  # start of the word and of the form, end of the word and of the form
LONGEST_END = 8  # letters at the end of a word that a rule looks at, beyond those that it replaces


def longest_ending(train: Sequence[Pair], sources: Sequence[str]) -> list[str]:
    """Changes the ends of a word as train words with the same features and the longest like end were changed.

    In the manner of the baseline of the CoNLL-SIGMORPHON shared tasks (Cotterell et al., 2018): a train word and its
    form have a stem in common, their longest common substring; what stands before and after it is replaced. A rule of
    that kind is kept for every longer end of the word too, and the most frequent one of the longest end that fits is
    taken.
    A word with unknown features, or that no rule fits, stays as it is.

    Args:
        train: ("word features", form) pairs; the features are what follows the last blank.
        sources: N of "word features".
    Returns:
        N forms.
    """
    rules: dict[str, dict[tuple[str, str], collections.Counter[Rule]]] = collections.defaultdict(dict)
    for source, form in train:
        word, _, features = source.rpartition(" ")
        for rule in _rules(word, form):
            rules[features].setdefault((rule[0], rule[2]), collections.Counter())[rule] += 1
    return [_apply(rules.get(features, {}), word) for word, _, features in (line.rpartition(" ") for line in sources)]


def _rules(word: str, form: str) -> Iterator[Rule]:
    stem = SequenceMatcher(None, word, form, autojunk=False).find_longest_match()
    ends = word[stem.a + stem.size :], form[stem.b + stem.size :]
    for kept in range(min(stem.size, LONGEST_END) + 1):
        middle = word[stem.a + stem.size - kept : stem.a + stem.size]
        yield word[: stem.a], form[: stem.b], middle + ends[0], middle + ends[1]


def _apply(rules: dict[tuple[str, str], collections.Counter[Rule]], word: str) -> str:
    starts = {start for start, _ in rules}
    for length in range(len(word), -1, -1):
        end = word[len(word) - length :]
        fitting = [
            (count, rule) for start in starts if word.startswith(start) and len(start) + length <= len(word)
            for rule, count in rules.get((start, end), {}).items()]
        if fitting:
            # Of equally frequent rules the first in alphabetical order, so that the answer never varies.
            old_start, new_start, old_end, new_end = min(fitting, key=lambda found: (-found[0], found[1]))[1]
            return new_start + word[len(old_start) : len(word) - len(old_end)] + new_end
    return word


INFLECTION = Task(
    name="inflection",
    metrics=("exact_match", "edit_similarity"),
    multiple_references=True,
    max_ratio=10.0,
    measure_source=len,
    source_unit="letters",  # those of the features among them
    measure_target=len,
    baseline=longest_ending,
    baseline_name="longest ending",
)
