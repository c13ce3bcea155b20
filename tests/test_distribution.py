"""Contract 4: replicas, hosts and accumulation have the gradient of one device; `tests.distribution` prints it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distribution import FAMILIES, PLANS, TAUGHT


@pytest.fixture(scope="module")
def compared():
    run = subprocess.run(
        [sys.executable, "-m", "tests.distribution", "--json"], cwd=Path(__file__).parents[1], capture_output=True,
        text=True, timeout=1200)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "name", [*(f"{family}: {case}: {variant}" for family in FAMILIES for case, variant in PLANS), TAUGHT])
def test_the_gradient_is_that_of_one_device(compared, name):
    found = compared[name]
    assert found["difference"] <= 1e-6
    for figure, value in found["expected"].items():
        assert abs(found["found"][figure] - value) <= 1e-5 * max(1.0, abs(value)), figure
    if "clipped" in name:
        assert abs(found["norm"] - 0.1) < 1e-5
    else:
        assert found["norm"] > 0.2
