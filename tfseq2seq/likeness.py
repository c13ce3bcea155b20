"""How like two strings are, and how varied many are: counts that `tfseq2seq.evaluation` turns into scores."""

import collections
import functools
import re
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein
from rouge_score import rouge_scorer

_WORD = re.compile(r"\w+|[^\w\s]")
ROUGE_SIGNATURE = "rouge-score|F1|stemming:no"


def words(text: str) -> list[str]:
    """Words and punctuation marks in lower case."""
    return _WORD.findall(text.lower())


def rouge(kind: str, hypothesis: str, references: Sequence[str]) -> float:
    """ROUGE F1 of the likeliest reference (Lin, 2004), as Google's rouge-score counts it, without stemming.

    It knows words of Latin letters and digits alone, in lower case.

    Args:
        kind: "rouge1" and "rouge2" compare n-grams, "rougeL" the longest common subsequence of words.
        hypothesis: an answer.
        references: right answers, at least one.
    Returns:
        From 0 to 1.
    """
    return max(_rouge(kind).score(reference, hypothesis)[kind].fmeasure for reference in references)


@functools.cache
def _rouge(kind: str) -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer([kind], use_stemmer=False)


def edit_similarity(hypothesis: str, references: Sequence[str]) -> float:
    """1 - edits / length of the longer one, in characters, with the closest reference; of two empty ones 1."""
    return max(Levenshtein.normalized_similarity(hypothesis, reference) for reference in references)


def word_f1(hypothesis: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the words, whatever their order, with the best reference."""
    return max(_word_f1(words(hypothesis), words(reference)) for reference in references)


def _word_f1(hypothesis: list[str], reference: list[str]) -> float:
    common = sum((collections.Counter(hypothesis) & collections.Counter(reference)).values())
    return 2 * common / (len(hypothesis) + len(reference)) if common else 0.0


def count_distinct(n: int, texts: Sequence[str]) -> tuple[int, int]:
    """Distinct n-grams of words in all texts together, and all of them (Li et al., 2016, arXiv:1510.03055)."""
    seen = [
        ngram for text in texts for tokens in [words(text)] for ngram in zip(*(tokens[start:] for start in range(n)))]
    return len(set(seen)), len(seen)
