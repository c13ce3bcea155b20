"""Commands that run a Beam pipeline in four processes, one of which is killed."""

import os
import signal
import subprocess
import time
from pathlib import Path


def kill_a_worker_of(command, is_at_work, told):
    """Runs a command, kills -9 one of its four workers as soon as `is_at_work()`, and sees the command fail.

    What it writes to its standard error goes to the file `told`.
    """
    with open(told, "w") as file, subprocess.Popen(command, stderr=file) as process:
        while process.poll() is None and not is_at_work():
            time.sleep(0.02)
        workers = _workers_of(process.pid)
        assert len(workers) == 4, told.read_text()
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait() == 1
    assert "error: the pipeline failed" in told.read_text()


def _workers_of(launcher):
    """Ids of the Python processes that work for a command, without the shells that started them."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            arguments = (status.parent / "cmdline").read_bytes().split(b"\0")
            if b"apache_beam.runners.worker.sdk_worker_main" in arguments:
                parent = _parent(status.parent.name)
                if launcher in (parent, _parent(parent)):
                    found.append(int(status.parent.name))
        except (OSError, IndexError):
            continue  # it has ended
    return found


def _parent(process):
    return int(Path(f"/proc/{process}/status").read_text().partition("PPid:\t")[2].split()[0])
