"""What was said so far into what is said next: turns in one source, the oldest first, with `TURN` between them."""

import math
from collections.abc import Sequence

from pipelines.tasks.base import Task, count_words
from pipelines.tasks.neighbours import nearest_neighbour

TURN = "<turn>"  # one token of a tokenizer of subwords or words


def join_turns(turns: Sequence[str]) -> str:
    """The source of some turns; what looks like the separator in them is taken out, white space is single."""
    return f" {TURN} ".join(" ".join(turn.replace(TURN, " ").split()) for turn in turns)


def split_turns(source: str) -> list[str]:
    """The turns of a source, the oldest first."""
    return [turn.strip() for turn in source.split(TURN)]


DIALOGUE = Task(
    name="dialogue",
    metrics=("perplexity", "bleu", "word_f1", "distinct_1", "distinct_2", "length"),
    multiple_references=False,
    max_ratio=math.inf,  # "hi" may be answered at length
    measure_source=count_words,
    source_unit="words",
    measure_target=count_words,
    baseline=nearest_neighbour,
    baseline_name="nearest neighbour",
    symbols=(TURN,),
)
