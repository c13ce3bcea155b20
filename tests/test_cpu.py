"""What the process is told before TensorFlow starts, in processes of their own."""

import json
import os
import platform
import subprocess
import sys

import pytest

ROUNDS, BLOCKS, PAGES = 10, 4, 2048  # pages of 4,096 bytes: a block has 8 MB
SCRIPT = f"""
import json, os, resource, sys
import numpy as np
from tfseq2seq import cpu

if sys.argv[1] == "prepared":
    cpu.prepare()

def fill():
    return [np.ones({PAGES} * 512) for _ in range({BLOCKS})]

fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    fill()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps([faults, {{name: value for name, value in os.environ.items() if name.startswith("TF_")}}]))
"""


def run(argument, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "MALLOC_"))}
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, argument], env=environment | variables, check=True, capture_output=True)
    return json.loads(output.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told what to keep")
def test_freed_memory_is_kept_and_not_mapped_anew():
    as_it_is, prepared = run("as it is")[0], run("prepared")[0]
    assert as_it_is > ROUNDS * PAGES / 2  # some of the blocks, at least, are handed back in each round
    assert prepared < as_it_is / 10


def test_what_the_environment_says_stays():
    _, variables = run("prepared", TF_ENABLE_ONEDNN_OPTS="0")
    assert variables == {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPU_ALLOCATOR_USE_BFC": "1"}
    if platform.libc_ver()[0] == "glibc":
        assert run("prepared", MALLOC_TRIM_THRESHOLD_="131072", MALLOC_TOP_PAD_="0")[0] > ROUNDS * PAGES / 2
