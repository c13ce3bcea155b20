"""Strings in, numbers out: how good the answers are.

Error rates and BLEU, chrF, TER are percentages. A source may have several references; one that matches,
or lies closest, is what counts.

Two names that sound alike: `word_error_rate` is the grapheme-to-phoneme literature's, the share of words
whose whole pronunciation is wrong. What speech recognition calls WER, edits per reference token, is
`token_error_rate` here; over phonemes it is `phoneme_error_rate`.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jiwer
import numpy as np
from rich.table import Table
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

References = Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Score:
    """One number about a set of answers.

    Attributes:
        value: in percent; TER and error rates of edits may pass 100.
        signature: what sacreBLEU needs to know to compute the same number again, or None.
        maximize: whether more is better.
    """

    value: float
    signature: str | None
    maximize: bool


@dataclasses.dataclass(frozen=True)
class Metric:
    """A way to score answers: one of sacreBLEU's, or counts that are summed over the lines.

    Attributes:
        name: its key in `METRICS`.
        maximize: whether more is better.
        scorer: makes sacreBLEU's metric.
        count: (hypothesis, its references) -> (what is counted, out of how many); the score is the share of the sums.
    """

    name: str
    maximize: bool
    scorer: Callable[[], Any] | None = None
    count: Callable[[str, Sequence[str]], tuple[int, int]] | None = None

    def score(self, hypotheses: Sequence[str], references: References) -> Score:
        if self.scorer is not None:
            scorer = self.scorer()
            found = scorer.corpus_score(list(hypotheses), reference_streams(references))
            return Score(found.score, str(scorer.get_signature()), self.maximize)
        counted, total = self.count_lines(hypotheses, references).sum(0).tolist()
        return Score(100.0 * counted / total, None, self.maximize)

    def count_lines(self, hypotheses: Sequence[str], references: References) -> np.ndarray:
        """[N, 2] int64, of a metric that counts. Raises ValueError where there is nothing to take a share of."""
        assert self.count is not None
        pairs = zip(hypotheses, references, strict=True)
        counts = np.array([self.count(hypothesis, line) for hypothesis, line in pairs], np.int64)
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
            find_metric(first)
        except ValueError as error:
            raise ValueError(f"train.metric: {error} Or one of {', '.join(TEACHER_FORCED)}.") from None
    return (first, *(name for name in names if name != first))


def maximizes(name: str) -> bool:
    """Whether more of a metric, or of what is in `TEACHER_FORCED`, is better."""
    return TEACHER_FORCED[name] if name in TEACHER_FORCED else METRICS[name].maximize


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

    The better value of a row is bold; sacreBLEU's signatures stand below the table.
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
        values = [score.value if score.maximize else -score.value for score in row if score is not None]
        arrow = "↑" if METRICS[name].maximize else "↓"
        table.add_row(f"{name} {arrow}", *(_cell(score, max(values), len(values) > 1) for score in row))
    return table


def _cell(score: Score | None, best: float, compared: bool) -> str:
    if score is None:
        return "–"
    is_best = math.isclose(score.value if score.maximize else -score.value, best)
    return f"[bold]{score.value:.2f}[/bold]" if compared and is_best else f"{score.value:.2f}"


def as_dict(scores: Mapping[str, Score]) -> dict[str, dict[str, float | str | bool | None]]:
    """Plain values for JSON: {"bleu": {"value": 31.2, "signature": "nrefs:1|…", "maximize": true}}."""
    return {name: dataclasses.asdict(score) for name, score in scores.items()}
