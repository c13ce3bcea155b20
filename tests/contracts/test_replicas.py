"""One device and two replicas give the same gradient, whatever the pair; `tests/test_distribution.py` has the step."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.cases import FEW_PAIRS, KIND_PAIRS, others_slowly


@functools.cache
def compare(pairs):
    """What `tests.contracts.replicas` prints of these."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.contracts.replicas", *pairs], cwd=Path(__file__).parents[2], capture_output=True,
        text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("pair", others_slowly(KIND_PAIRS, FEW_PAIRS))
def test_two_replicas_with_uneven_halves_have_the_gradient_of_one_device(pair):
    together = [each for each in KIND_PAIRS if (each in FEW_PAIRS) == (pair in FEW_PAIRS)]
    found = compare(tuple(together))[pair]
    assert found["replicas"] == 2 and found["finite"]
    assert found["largest"] > 0.01
    assert found["difference"] <= 1e-6
