"""Contract 4: replicas, hosts and accumulation have the gradient of one device; `tests.distribution` prints it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distribution import FEW_PLANS, PLANS


@pytest.fixture(scope="module")
def printed():
    """What a process of its own prints, asked once."""
    known = {}

    def ask(*options):
        if options not in known:
            run = subprocess.run(
                [sys.executable, "-m", "tests.distribution", "--json", *options], cwd=Path(__file__).parents[1],
                capture_output=True, text=True, timeout=1200)
            assert run.returncode == 0, run.stderr[-3000:]
            known[options] = json.loads(run.stdout.splitlines()[-1])
        return known[options]

    return ask


def assert_gradient_of_one_device(found, variant):
    assert found["difference"] <= 1e-6
    for name, value in found["expected"].items():
        assert abs(found["found"][name] - value) <= 1e-5 * max(1.0, abs(value)), name
    if "clipped" in variant:
        assert abs(found["norm"] - 0.1) < 1e-5
    else:
        assert found["norm"] > 0.2


@pytest.mark.parametrize("family, case, variant", FEW_PLANS)
def test_the_gradient_is_that_of_one_device(printed, family, case, variant):
    assert_gradient_of_one_device(printed("--few")[f"{family}: {case}: {variant}"], variant)


@pytest.mark.slow
@pytest.mark.parametrize("family, case, variant", PLANS)
def test_the_gradient_of_every_family_is_that_of_one_device(printed, family, case, variant):
    assert_gradient_of_one_device(printed()[f"{family}: {case}: {variant}"], variant)
