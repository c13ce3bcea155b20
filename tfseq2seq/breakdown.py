"""Where a model is good: scores of parts of the lines, by the length of the source and by what training has seen."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table

from tfseq2seq.evaluation import METRICS, References, arrow, evaluate
from tfseq2seq.likeness import words

MOST_PARTS = 5
MOST_METRICS = 2


class Part(NamedTuple):
    """Some of the lines.

    Attributes:
        label: what they have in common.
        rows: their numbers, from 0.
    """

    label: str
    rows: list[int]


class Breakdown(NamedTuple):
    """Scores of parts.

    Attributes:
        title: what the lines are parted by.
        parts: those that hold any.
        scores: for each part the value of each system's metrics.
    """

    title: str
    parts: list[Part]
    scores: list[dict[str, dict[str, float]]]

    def as_dict(self) -> list[dict]:
        """Plain values for JSON."""
        return [
            {"part": part.label, "lines": len(part.rows), **scores}
            for part, scores in zip(self.parts, self.scores, strict=True)]


def by_length(sources: Sequence[str], measure: Callable[[str], int], most: int = MOST_PARTS) -> list[Part]:
    """Parts of about as many lines each, the shortest sources first; sources of one length stay together.

    Args:
        sources: N lines.
        measure: length of one.
        most: parts at most.
    """
    lengths = np.array([measure(source) for source in sources])
    edges = np.unique(np.quantile(lengths, np.arange(1, most + 1) / most, method="inverted_cdf"))
    numbers = np.searchsorted(edges, lengths)
    parts = []
    for number in range(len(edges)):
        rows = np.flatnonzero(numbers == number)
        low, high = lengths[rows].min(), lengths[rows].max()
        parts.append(Part(f"{low}" if low == high else f"{low} to {high}", rows.tolist()))
    return parts


def by_novelty(sources: Sequence[str], train_sources: Sequence[str], side: str = "source") -> list[Part]:
    """Lines whose source stands in train, those whose words all do, and the others; parts without lines are left out.

    Words are those of `tfseq2seq.likeness`, in lower case.

    Args:
        sources: N lines.
        train_sources: those of train.
        side: what the lines are called.
    """
    whole = set(train_sources)
    known = {word for source in whole for word in words(source)}
    parts = [Part(f"{side} seen in training", []), Part("every word seen", []), Part("a word not seen", [])]
    for row, source in enumerate(sources):
        number = 0 if source in whole else 1 if known.issuperset(words(source)) else 2
        parts[number].rows.append(row)
    return [part for part in parts if part.rows]


def score_parts(
    title: str, parts: Sequence[Part], metric_names: Sequence[str], sources: Sequence[str],
    systems: Mapping[str, Sequence[str]], references: References,
) -> Breakdown:
    """Scores of each part.

    Args:
        title: what the lines are parted by.
        parts: row numbers.
        metric_names: keys of `METRICS`.
        sources: N lines.
        systems: N answers of each.
        references: N lists.
    """
    scores = []
    for part in parts:
        asked, right = [sources[row] for row in part.rows], [references[row] for row in part.rows]
        scores.append({
            system: {
                name: score.value
                for name, score in evaluate(metric_names, asked, [answers[row] for row in part.rows], right).items()}
            for system, answers in systems.items()})
    return Breakdown(title, list(parts), scores)


def metrics_of_parts(metric_names: Sequence[str]) -> list[str]:
    """The first metrics that are means over lines or sacreBLEU's: what looks at all lines changes with their number."""
    return [name for name in metric_names if name in METRICS and METRICS[name].count_all is None][:MOST_METRICS]


def render_breakdown(breakdown: Breakdown) -> Table:
    """Draws it for the terminal: a row a part and metric, a column a system."""
    systems = list(breakdown.scores[0]) if breakdown.scores else []
    table = Table(title=breakdown.title, title_justify="left")
    table.add_column("")
    table.add_column("lines", justify="right")
    table.add_column("metric")
    for system in systems:
        table.add_column(system, justify="right")
    for part, scores in zip(breakdown.parts, breakdown.scores, strict=True):
        told = part.label, f"{len(part.rows):,}"
        for name in scores[systems[0]]:
            values = [f"{scores[system][name]:.2f}" for system in systems]
            table.add_row(*told, f"{name} {arrow(METRICS[name].maximize)}", *values)
            told = "", ""
    return table
