"""Models find the rules of made-up languages; a fixed context holds what is short.

`pytest -m slow -s tests/learning` takes a quarter of an hour on two cores, and prints what it finds.
"""

import pytest

from tests.learning.tasks import LONGEST, SHORTEST, TASKS, Learner

RECURRENT = {"kind": "recurrent", "units": 64, "dropout": 0.0}
TRANSFORMER = {
    "kind": "transformer", "layers": 2, "units": 64, "heads": 4, "feed_forward_units": 256, "dropout": 0.0}
MODELS = {
    "attention": (RECURRENT, {"kind": "attentional", "units": 128, "dropout": 0.0}, 4e-3),
    "transformer": (TRANSFORMER, TRANSFORMER, 2e-3),
}
SECONDS = 170


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", MODELS)
def test_the_rule_is_found(kind, task):
    learner = Learner(*MODELS[kind])
    _, seconds = learner.learn(task, SECONDS, enough=0.995)
    accuracy = learner.sequence_accuracy(task, number=2048, seed=7)  # not those by which it knew when to stop
    print(f"{task}, {kind}: {accuracy:.3f} after {learner.steps} steps, {seconds:.0f} s")
    assert accuracy >= 0.99


@pytest.mark.slow
def test_a_fixed_context_forgets_what_is_long():
    """Cho et al., 2014, arXiv:1409.1259, section 4.2: what one vector holds is soon full."""
    fixed = Learner(RECURRENT, {"kind": "recurrent", "units": 128, "dropout": 0.0}, 4e-3)
    fixed.learn("copy", SECONDS / 2)
    found = {length: fixed.sequence_accuracy("copy", (length, length)) for length in range(SHORTEST, LONGEST + 1, 2)}
    print(f"copy, fixed context, {fixed.steps} steps, by length: {found}")
    assert found[SHORTEST] > 0.9 and found[LONGEST] < 0.5
