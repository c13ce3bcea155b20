"""What a task is."""

import dataclasses
from collections.abc import Callable, Sequence

from pipelines.pairs import Pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What differs from one kind of pairs to another; everything else is shared.

    Attributes:
        name: as in `task = "..."` of a recipe.
        metrics: names of metrics, "perplexity" among them or not, the one that chooses the best checkpoint first.
        multiple_references: whether a source that stands in several pairs is one question with several
            right answers.
        max_ratio: a pair is badly-ratioed when target length / source length is more than this many
            times larger or smaller than the median.
        measure_source, measure_target: length of a string, in what the task counts.
        baseline: (train pairs, N sources) -> N answers of something cheap that any model must beat.
        baseline_name: what that is.
        source_unit: what `measure_source` counts.
        symbols: strings in sources that are one token to a tokenizer of subwords.
    """

    name: str
    metrics: tuple[str, ...]
    multiple_references: bool
    max_ratio: float
    measure_source: Callable[[str], int]
    measure_target: Callable[[str], int]
    baseline: Callable[[Sequence[Pair], Sequence[str]], list[str]]
    baseline_name: str
    source_unit: str = "characters"
    symbols: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """What chooses the best checkpoint, where a recipe does not say."""
        return self.metrics[0]


def count_words(text: str) -> int:
    """Words, white space between them."""
    return len(text.split())
