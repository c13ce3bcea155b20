"""What weights in fewer bytes lose is measured, told and bounded."""

import types

import keras
import pytest

from tfseq2seq.config import Export
from tfseq2seq.generation import Answer
from tfseq2seq.rounding import rounded_and_measured

SOURCES, REFERENCES = ["a", "b", "c", "d"], [["A"], ["B"], ["C"], ["D"]]


class Counting:
    """Answers as many lines right as its weight says; of the others the last has no answer at all."""

    def __init__(self, right):
        self.weight = keras.Variable([[right, 1000.0]], name="kernel")
        self.models = [types.SimpleNamespace(weights=[self.weight])]

    def answer(self, lines):
        right = float(self.weight.numpy()[0, 0])
        answers = [[Answer(line.upper() if i < right else "?", -1.0)] for i, line in enumerate(lines)]
        return answers[:3] + [[] if right <= 3 else answers[3]]


def measure(right, **settings):
    """3.0001 is 3 in float16."""
    generator = Counting(right)
    export = Export(weights="float16", **settings)
    with rounded_and_measured(
            generator, export, ("exact_match", "token_error_rate"), SOURCES, REFERENCES, "valid") as (packed, told):
        inside = float(generator.weight.numpy()[0, 0])
    assert packed.module.stored[0].dtype == "float16"
    assert float(generator.weight.numpy()[0, 0]) == pytest.approx(right)
    return inside, told


def test_scores_before_and_after_are_told():
    inside, told = measure(3.0001, largest_loss=25.0)
    assert inside == 3.0
    assert (told["split"], told["first_lines"]) == ("valid", 4)
    assert [told[kind]["exact_match"]["value"] for kind in ("float32", "float16")] == [100.0, 75.0]
    assert [told[kind]["token_error_rate"]["value"] for kind in ("float32", "float16")] == [0.0, 25.0]


def test_a_loss_beyond_the_limit_is_refused():
    with pytest.raises(ValueError, match=(
            r'export.weights = "float16" must lose at most export.largest_loss = 24.9 points: .* Received: exact_match '
            r"100.00 in float32, 75.00 in float16, on the first 4 lines of valid")):
        measure(3.0001, largest_loss=24.9)


@pytest.mark.parametrize("metric", ["token_error_rate", "exact_match"])
def test_more_is_a_loss_where_less_is_better(metric):
    generator = Counting(3.0001)
    export = Export(weights="float16", largest_loss=0.0)
    with pytest.raises(ValueError, match="must lose at most"), rounded_and_measured(
            generator, export, (metric,), SOURCES, REFERENCES, "test"):
        pass
    assert generator.weight.numpy()[0, 0] > 3  # given back
