"""A side of a benchmark in a process of its own, under an interpreter of its own.

The processes talk in pickles over a socket, so that what a library prints disturbs nothing. Interpreters with
different versions of NumPy cannot read each other's arrays: between them go lists.
"""

import importlib
import os
import socket
import subprocess
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Worker:
    """A side in a process of its own.

    Args:
        side: "module:class" of the side; nothing of it is imported here.
        arguments: Of its constructor.
        python: Path of the interpreter; default this one.
    Raises:
        ValueError: there is no such interpreter, or it lacks a package that the side imports.
        RuntimeError: the side cannot be made.
    """

    def __init__(self, side, *arguments, python=sys.executable):
        ours, theirs = socket.socketpair()
        command = [python, "-m", "tests.benchmarks.workers", str(theirs.fileno())]
        try:
            self.process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        except FileNotFoundError as error:
            raise ValueError(f"{side} needs an interpreter of Python. Received: {python!r}.") from error
        theirs.close()
        self.connection = Connection(ours.detach())
        self.connection.send((side, arguments))
        try:
            self._receive()
        except RuntimeError as error:
            if "ModuleNotFoundError" not in str(error):
                raise
            self.stop()
            missing = str(error).strip().splitlines()[-1]
            raise ValueError(f"{side} needs an interpreter with its packages. Received: {python}; {missing}") from error

    def ask(self, method, *arguments):
        """The result of the method, and its seconds. Raises RuntimeError with the text of what the side raised."""
        self.connection.send((method, arguments))
        return self._receive()

    def stop(self):
        """Ends the process."""
        self.connection.send(None)
        self.process.wait()
        self.connection.close()

    def _receive(self):
        try:
            result, seconds, error = self.connection.recv()
        except EOFError:
            raise RuntimeError(f"A side's process ended with status {self.process.wait()}.") from None
        if error:
            raise RuntimeError(f"A side failed:\n{error}")
        return result, seconds


def serve(connection):
    """The life of a side's process: answers (method, arguments) with the result and the seconds it took."""
    side = None

    def answer(name, arguments):
        nonlocal side
        if side is not None:
            return getattr(side, name)(*arguments)
        module, kind = name.split(":")
        side = getattr(importlib.import_module(module), kind)(*arguments)
        return None

    def next_request():
        try:
            return connection.recv()
        except EOFError:  # the asker is gone
            return None

    while request := next_request():
        start = time.perf_counter()
        try:
            result, error = answer(*request), None
        except Exception:  # the other process decides what follows
            result, error = None, traceback.format_exc()
        connection.send((result, time.perf_counter() - start, error))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    serve(Connection(int(sys.argv[1])))
