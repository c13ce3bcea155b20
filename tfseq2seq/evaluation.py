"""Strings in, numbers out: how good the answers are.

All but `length` are percentages. A source may have several references; one that matches, or lies closest, is what
counts.

Two names that sound alike: `word_error_rate` is the grapheme-to-phoneme literature's, the share of words
whose whole pronunciation is wrong. What speech recognition calls WER, edits per reference token, is
`token_error_rate` here; over phonemes it is `phoneme_error_rate`.
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jiwer
import numpy as np
from rich.table import Table
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from tfseq2seq.likeness import ROUGE_SIGNATURE, count_distinct, edit_similarity, rouge, word_f1
from tfseq2seq.syntax import is_bash, is_python

References = Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Score:
    """One number about a set of answers.

    Attributes:
        value: in percent, but for lengths; TER and error rates of edits may pass 100.
        signature: what one needs to know to compute the same number again, or None.
        maximize: whether more is better; None where neither is.
    """

    value: float
    signature: str | None
    maximize: bool | None


@dataclasses.dataclass(frozen=True)
class Metric:
    """A way to score answers: one of sacreBLEU's, counts that are summed over the lines, or one of all lines together.

    Attributes:
        name: its key in `METRICS`.
        maximize: whether more is better; None where neither is.
        scorer: makes sacreBLEU's metric.
        count: (hypothesis, its references) -> (what is counted, out of how many); the score is the share of the sums.
        count_all: (hypotheses) -> the same of all of them together, which is no sum over the lines.
        scale: of the share, 100 for percent.
        signature: of the score, where sacreBLEU has none.
        by_answer: whether the answers alone are looked at, so that references too have such a score.
    """

    name: str
    maximize: bool | None
    scorer: Callable[[], Any] | None = None
    count: Callable[[str, Sequence[str]], tuple[float, int]] | None = None
    count_all: Callable[[Sequence[str]], tuple[int, int]] | None = None
    scale: float = 100.0
    signature: str | None = None
    by_answer: bool = False

    def score(self, hypotheses: Sequence[str], references: References) -> Score:
        if self.scorer is not None:
            scorer = self.scorer()
            found = scorer.corpus_score(list(hypotheses), reference_streams(references))
            return Score(found.score, str(scorer.get_signature()), self.maximize)
        if self.count_all is not None:
            counted, total = self.count_all(hypotheses)
            return Score(self.scale * counted / max(total, 1), self.signature, self.maximize)
        counted, total = self.count_lines(hypotheses, references).sum(0).tolist()
        return Score(self.scale * counted / total, self.signature, self.maximize)

    def count_lines(self, hypotheses: Sequence[str], references: References) -> np.ndarray:
        """[N, 2] float64, of a metric that counts. Raises ValueError where there is nothing to take a share of."""
        assert self.count is not None
        pairs = zip(hypotheses, references, strict=True)
        counts = np.array([self.count(hypothesis, line) for hypothesis, line in pairs], np.float64)
        if not counts[:, 1].any():
            raise ValueError(
                "An error rate needs a reference with at least one token; leave out lines with an empty target. "
                f"Received: {len(hypotheses)} lines, every closest reference empty."
            )
        return counts


def reference_streams(references: References) -> list[list[str | None]]:
    """As sacreBLEU reads them: the first references of all lines, then the second ...; None where there are no more."""
    most = max(len(line) for line in references)
    return [[line[i] if i < len(line) else None for line in references] for i in range(most)]


def _count_match(hypothesis: str, references: Sequence[str]) -> tuple[int, int]:
    return int(hypothesis in references), 1


def _count_wrong(hypothesis: str, references: Sequence[str]) -> tuple[int, int]:
    return int(hypothesis.split() not in [reference.split() for reference in references]), 1


def _count_edits(hypothesis: str, references: Sequence[str]) -> tuple[int, int]:
    """Edits to the closest reference, and its tokens."""
    return min((_edits(hypothesis, reference) for reference in references), key=lambda found: found[0])


def _edits(hypothesis: str, reference: str) -> tuple[int, int]:
    """Fewest substitutions, deletions and insertions between the two, and the tokens of the reference."""
    tokens = len(reference.split())
    if not tokens:  # jiwer refuses an empty reference; every token said instead of silence is one too many
        return len(hypothesis.split()), 0
    found = jiwer.process_words(reference, hypothesis)
    return found.substitutions + found.deletions + found.insertions, tokens


def _count_character_edits(hypothesis: str, references: Sequence[str]) -> tuple[int, int]:
    """Edits to the closest reference, and its characters, one space between words and none at the ends."""
    spelled = [" ".join("\u2581".join(text.split())) for text in (hypothesis, *references)]
    return _count_edits(spelled[0], spelled[1:])


def _of_each_line(
    measure: Callable[[str, Sequence[str]], float], hypothesis: str, references: Sequence[str],
) -> tuple[float, int]:
    """Counts so that the score is the mean over the lines."""
    return measure(hypothesis, references), 1


def _mean(name: str, measure: Callable[[str, Sequence[str]], float], **settings: Any) -> Metric:
    return Metric(name, True, count=functools.partial(_of_each_line, measure), **settings)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("bleu", True, scorer=BLEU),  # Papineni et al., 2002; tokenised by "13a"
        Metric("chrf", True, scorer=CHRF),  # Popovic, 2015: F2 of character n-grams up to 6
        Metric("ter", False, scorer=TER),  # Snover et al., 2006: edits and shifts per reference word
        Metric("exact_match", True, count=_count_match),  # lines equal to a reference, character by character
        Metric("word_error_rate", False, count=_count_wrong),  # lines equal to no reference, spacing aside
        Metric("phoneme_error_rate", False, count=_count_edits),  # edits to the closest reference per phoneme
        Metric("token_error_rate", False, count=_count_edits),  # the same per white-space separated token
        Metric("character_error_rate", False, count=_count_character_edits),  # the same per character
        _mean("rouge1", functools.partial(rouge, "rouge1"), signature=ROUGE_SIGNATURE),  # mean over the lines
        _mean("rouge2", functools.partial(rouge, "rouge2"), signature=ROUGE_SIGNATURE),
        _mean("rougeL", functools.partial(rouge, "rougeL"), signature=ROUGE_SIGNATURE),
        _mean("edit_similarity", edit_similarity),  # mean over the lines, of characters
        _mean("word_f1", word_f1),  # mean over the lines
        _mean("bash_syntax", lambda hypothesis, _: is_bash(hypothesis), by_answer=True),  # lines that bash can parse
        _mean("python_syntax", lambda hypothesis, _: is_python(hypothesis), by_answer=True),
        # Distinct n-grams of words among all n-grams of all answers together
        Metric("distinct_1", True, count_all=functools.partial(count_distinct, 1), by_answer=True),
        Metric("distinct_2", True, count_all=functools.partial(count_distinct, 2), by_answer=True),
        # Words an answer, white space between them
        Metric("length", None, count=lambda hypothesis, _: (len(hypothesis.split()), 1), scale=1.0, by_answer=True),
    )
}


def evaluate(
    metric_names: Iterable[str], sources: Sequence[str], hypotheses: Sequence[str], references: References
) -> dict[str, Score]:
    """Scores one hypothesis a source by each of the metrics.

    Args:
        metric_names: keys of `METRICS`; the result keeps their order.
        sources: N lines that were asked; only counted.
        hypotheses: N answers.
        references: N lists of right answers, each with at least one.
    Raises:
        ValueError: a metric is unknown, there is nothing to score, the lengths differ, or a line has no
            reference.
    """
    metrics = [find_metric(name) for name in metric_names]
    check_lines(sources, hypotheses, references)
    return {metric.name: metric.score(hypotheses, references) for metric in metrics}


def check_lines(sources: Sequence[str], hypotheses: Sequence[str], references: References) -> None:
    """Raises ValueError where these cannot be scored, see `evaluate`."""
    if not len(sources) == len(hypotheses) == len(references):
        raise ValueError(
            "evaluate needs one hypothesis and one list of references a source. Received: "
            f"{len(sources)} sources, {len(hypotheses)} hypotheses, {len(references)} lists of references."
        )
    if not sources:
        raise ValueError("evaluate needs at least one line to score. Received: 0 lines.")
    for number, line in enumerate(references, start=1):
        if isinstance(line, str):
            raise ValueError(
                "evaluate needs a list of references for every source; put a single one in its own list. "
                f"Received: the string {line!r} for line {number}."
            )
        if not line:
            raise ValueError(
                "evaluate needs at least one reference for every source; leave out lines that have none. "
                f"Received: none for line {number}, {sources[number - 1]!r}."
            )


# What is measured with the true tokens before each: whether more is better.
TEACHER_FORCED = {"loss": False, "perplexity": False, "token_accuracy": True}


def order_metrics(names: tuple[str, ...], first: str | None = None) -> tuple[str, ...]:
    """The names, `first` in front where given. Raises ValueError where there is no such metric."""
    if first is None:
        return names
    if first not in TEACHER_FORCED:
        try:
            metric = find_metric(first)
        except ValueError as error:
            raise ValueError(f"train.metric: {error} Or one of {', '.join(TEACHER_FORCED)}.") from None
        if metric.maximize is None:
            raise ValueError(f"train.metric must be one of which more or less is better. Received: {first!r}.")
    return (first, *(name for name in names if name != first))


def maximizes(name: str) -> bool:
    """Whether more of a metric, or of what is in `TEACHER_FORCED`, is better."""
    return TEACHER_FORCED[name] if name in TEACHER_FORCED else bool(METRICS[name].maximize)


def find_metric(name: str) -> Metric:
    """The metric of that name. Raises ValueError where there is none."""
    if name not in METRICS:
        close = difflib.get_close_matches(name, METRICS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown metric {name!r}.{hint} Known: {', '.join(METRICS)}.")
    return METRICS[name]


def group_references(
    pairs: Iterable[tuple[str, str]], multiple_references: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Turns pairs into sources and their references.

    Args:
        pairs: (source, target) strings.
        multiple_references: whether a repeated source is one question with several right answers; then it
            stands once, where it stood first, and equal answers count once. Else every pair is a question.
    """
    if not multiple_references:
        listed = list(pairs)
        return [source for source, _ in listed], [[target] for _, target in listed]
    grouped: dict[str, dict[str, None]] = {}
    for source, target in pairs:
        grouped.setdefault(source, {})[target] = None
    return list(grouped), [list(targets) for targets in grouped.values()]


def render_table(systems: Mapping[str, Mapping[str, Score]], title: str | None = None) -> Table:
    """Draws scores for the terminal: a row a metric, a column a system, as {"model": ..., "baseline": ...}.

    The best value of a row is bold; signatures stand below the table.
    """
    names = list(dict.fromkeys(name for scores in systems.values() for name in scores))
    signatures = {
        name: scores[name].signature
        for scores in systems.values()
        for name in scores
        if scores[name].signature is not None
    }
    caption = "\n".join(f"{name}: {signature}" for name, signature in signatures.items())
    table = Table(title=title, caption=caption or None, caption_justify="left")
    table.add_column("metric")
    for system in systems:
        table.add_column(system, justify="right")
    for name in names:
        row = [scores.get(name) for scores in systems.values()]
        there = [score for score in row if score is not None]
        best = max(score.value if score.maximize else -score.value for score in there)
        compared = len(there) > 1 and there[0].maximize is not None
        table.add_row(f"{name} {arrow(there[0].maximize)}".strip(), *(_cell(score, best, compared) for score in row))
    return table


def arrow(maximize: bool | None) -> str:
    """Which way is better."""
    return "" if maximize is None else "↑" if maximize else "↓"


def _cell(score: Score | None, best: float, compared: bool) -> str:
    if score is None:
        return "–"
    is_best = math.isclose(score.value if score.maximize else -score.value, best)
    return f"[bold]{score.value:.2f}[/bold]" if compared and is_best else f"{score.value:.2f}"


def as_dict(scores: Mapping[str, Score]) -> dict[str, dict[str, float | str | bool | None]]:
    """Plain values for JSON: {"bleu": {"value": 31.2, "signature": "nrefs:1|…", "maximize": true}}."""
    return {name: dataclasses.asdict(score) for name, score in scores.items()}
