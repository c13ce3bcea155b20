"""One device and two replicas give the same gradient, whatever the pair; `tests/test_distribution.py` has the step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.cases import KIND_PAIRS


@pytest.fixture(scope="module")
def compared():
    """What `tests.contracts.replicas` prints."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.contracts.replicas"], cwd=Path(__file__).parents[2], capture_output=True,
        text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("pair", KIND_PAIRS)
def test_two_replicas_with_uneven_halves_have_the_gradient_of_one_device(compared, pair):
    found = compared[pair]
    assert found["replicas"] == 2 and found["finite"]
    assert found["largest"] > 0.01
    assert found["difference"] <= 1e-6
