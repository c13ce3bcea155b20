"""A text into a shorter one that says what matters: a package's description into its synopsis."""

import statistics
from collections.abc import Sequence

from pipelines.pairs import Pair
from pipelines.tasks.base import Task, count_words


def lead(train: Sequence[Pair], sources: Sequence[str]) -> list[str]:
    """The first words of the source, as many as the median train target has."""
    length = int(statistics.median(count_words(target) for _, target in train)) if train else 0
    return [" ".join(source.split()[:length]) for source in sources]


SUMMARIZATION = Task(
    name="summarization",
    metrics=("rougeL", "rouge1", "rouge2", "length"),
    multiple_references=False,
    max_ratio=20.0,  # a paragraph has one word for each of a summary, or thirty
    measure_source=count_words,
    source_unit="words",
    measure_target=count_words,
    baseline=lead,
    baseline_name="lead",
)
