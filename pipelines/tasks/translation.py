"""Sentences of one language into another."""

from collections.abc import Sequence

from pipelines.pairs import Pair
from pipelines.tasks.base import Task


def copy_source(train: Sequence[Pair], sources: Sequence[str]) -> list[str]:
    """The source itself: what names, numbers and punctuation alone are worth."""
    return list(sources)


TRANSLATION = Task(
    name="translation",
    metrics=("bleu", "chrf", "ter"),
    multiple_references=False,
    max_ratio=4.0,
    measure_source=len,  # characters
    measure_target=len,
    baseline=copy_source,
    baseline_name="copy the source",
)
