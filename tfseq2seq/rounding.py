"""Weights in fewer bytes, and what the answers lose by it."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from serving.weights import PackedWeights, rounded
from tfseq2seq.config import Export
from tfseq2seq.console import show
from tfseq2seq.evaluation import References, as_dict, evaluate, maximizes
from tfseq2seq.generation import Generator


@contextlib.contextmanager
def rounded_and_measured(
    generator: Generator, export: Export, metrics: Sequence[str], sources: list[str], references: References,
    split: str,
) -> Iterator[tuple[PackedWeights, dict[str, Any]]]:
    """Gives the generator, for a while, the weights that `export.weights` stores; says what its answers lose.

    Args:
        generator: of the weights in float32.
        export: the recipe's `[export]`.
        metrics: that answers are scored by; the first one counts.
        sources: held-out lines.
        references: right answers to each.
        split: the lines' name.
    Yields:
        The weights as they are stored, and the scores in float32 and after rounding, as JSON values.
    Raises:
        ValueError: the answers lose more than `export.largest_loss`, or the weights cannot be stored so.
    """
    kind, metric = export.weights, metrics[0]

    def score():
        best = [answers[0].text if answers else "" for answers in generator.answer(sources)]
        return evaluate(metrics, sources, best, references)

    before = score()
    with rounded(generator.models, kind) as packed:
        after = score()
        values = before[metric].value, after[metric].value
        lost = values[0] - values[1] if maximizes(metric) else values[1] - values[0]
        told = (
            f"{metric} {values[0]:.2f} in float32, {values[1]:.2f} in {kind}, on the first {len(sources)} lines of "
            f"{split}")
        show.print(f"weights: {told}", highlight=False)
        if lost > export.largest_loss:
            raise ValueError(
                f"export.weights = \"{kind}\" must lose at most export.largest_loss = {export.largest_loss:g} points: "
                f"take \"bfloat16\" or \"float32\", or allow more. Received: {told}.")
        yield packed, {
            "split": split, "first_lines": len(sources), "float32": as_dict(before), kind: as_dict(after)}
