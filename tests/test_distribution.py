"""Contract 4: replicas, hosts and accumulation have the gradient of one device; `tests.distribution` prints it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distribution import FAMILIES, PLANS


@pytest.fixture(scope="module")
def compared():
    run = subprocess.run(
        [sys.executable, "-m", "tests.distribution", "--json"], cwd=Path(__file__).parents[1], capture_output=True,
        text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("case, variant", PLANS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_one_device(compared, family, case, variant):
    found = compared[f"{family}: {case}: {variant}"]
    assert found["difference"] <= 1e-6
    for name, value in found["expected"].items():
        assert abs(found["found"][name] - value) <= 1e-5 * max(1.0, abs(value)), name
    if "clipped" in variant:
        assert abs(found["norm"] - 0.1) < 1e-5
    else:
        assert found["norm"] > 0.2
