"""A real TensorFlow Serving to ask the same questions, where there is one.

Either `tensorflow_model_server` is on PATH, or one is running: TFSEQ2SEQ_SERVING_ADDRESS is its "host:port" of gRPC,
TFSEQ2SEQ_SERVING_REST_ADDRESS its "http://host:port", and TFSEQ2SEQ_SERVING_FOLDER the folder that it serves as model
"tfseq2seq", in which the tests write a new version, and which they take away again.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time

import pytest

from serving.client import Client, ServingError
from serving.server import BINARY

ADDRESS = os.environ.get("TFSEQ2SEQ_SERVING_ADDRESS")
BESIDE = ("TFSEQ2SEQ_SERVING_REST_ADDRESS", "TFSEQ2SEQ_SERVING_FOLDER")
BACKENDS = ["embedded", *(["tensorflow_serving"] if ADDRESS or shutil.which(BINARY) else [])]


@contextlib.contextmanager
def real_server(exported, write):
    """The addresses of gRPC and REST, and the version that answers.

    Args:
        exported: a folder with the model, which the binary is started with.
        write: writes the model into a folder and returns the version's; for a server that is running.
    """
    if ADDRESS:
        rest_address, folder = map(os.environ.get, BESIDE)
        if not rest_address or not folder:
            pytest.skip(f"TFSEQ2SEQ_SERVING_ADDRESS needs {' and '.join(BESIDE)} beside it, see tests/serving/real.py")
        path = write(folder)
        try:
            wait_for(ADDRESS, int(path.name))
            yield ADDRESS, rest_address, int(path.name)
        finally:
            shutil.rmtree(path)
        return
    port, rest_port = free_ports(2)
    process = subprocess.Popen([
        BINARY, f"--port={port}", f"--rest_api_port={rest_port}", "--model_name=tfseq2seq",
        f"--model_base_path={exported}", "--grpc_max_threads=128", "--max_num_load_retries=0"])
    try:
        wait_for(f"127.0.0.1:{port}", 1)
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{rest_port}", 1
    finally:
        process.terminate()
        process.wait()


def wait_for(address, version, seconds=120):
    """Returns when the version takes requests."""
    until = time.monotonic() + seconds
    with Client(address, timeout=10) as client:
        while True:
            with contextlib.suppress(ServingError):
                if any(each[:2] == (version, "AVAILABLE") for each in client.status()):
                    return
            assert time.monotonic() < until, f"version {version} is not available at {address}"
            time.sleep(0.5)


def free_ports(count):
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]
