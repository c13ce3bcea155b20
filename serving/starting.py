"""What can be wrong with a server's settings, told before TensorFlow, which takes seconds to load."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from serving.errors import ServerError
from serving.folders import find_versions
from serving.settings import BATCHING, LIMITS, OPEN, POLL_SECONDS, Batching, Limits, Security, ServedModel
from tfseq2seq.ports import why_taken

EMBEDDED, BINARY = BACKENDS = ("embedded", "tensorflow_model_server")


def check_server(folder: Path | None, port: int, host: str, backend: str) -> None:
    """Raises ValueError or ServerError where `serving.server.serve` cannot start with these arguments."""
    if backend not in BACKENDS:
        raise ValueError(f"serve needs backend 'embedded' or '{BINARY}'. Received: backend={backend!r}.")
    if backend == BINARY:
        if folder is None:
            raise ValueError(f"{BINARY} needs a folder. Received: folder=None.")
        if host != "0.0.0.0":
            raise ValueError(
                f"{BINARY} listens on every address of this machine; agree with host 0.0.0.0, or use the "
                f"embedded backend. Received: host {host}.")
        if not 1 <= port <= 65535:
            raise ValueError(f"{BINARY} needs a port from 1 to 65535. Received: port={port}.")
    if folder is not None:
        find_versions(folder)
    if backend == BINARY and shutil.which(BINARY) is None:
        raise ServerError(
            f"{BINARY} is not on PATH; install it, run the Docker image tensorflow/serving on the same "
            "folder, or use the embedded backend.")
    check_port(port)
    refuse_taken(host, port)


def check_binary(
    *, models: Sequence[ServedModel], workers: int | None, batching: Batching | None, limits: Limits,
    security: Security, poll_seconds: float, rest_port: int | None, log_format: str,
) -> None:
    """Raises ValueError where a setting was given that `serve` does not hand on to the binary."""
    given = [
        *(["models"] if models else []), *([] if workers is None else ["workers"]),
        *([] if batching in (None, BATCHING) else ["batching"]), *_given(limits, LIMITS),
        *_given(security, OPEN), *([] if poll_seconds == POLL_SECONDS else ["poll_seconds"]),
        *(["rest_port=0"] if rest_port == 0 else []), *([] if log_format == "none" else ["log_format"])]
    if "token" in given:
        given[given.index("token")] = "token (of a file or of TFSEQ2SEQ_TOKEN)"
    if given:
        raise ValueError(
            f"{BINARY} gets the folder, the ports, the name of the model and op_threads from here, nothing else: leave "
            "the rest out, use the embedded backend, or start the binary with flags of its own, as `tfseq2seq "
            f"serving-config` writes them. Received: {', '.join(given)}.")


def _given(settings: Limits | Security, default: Limits | Security) -> list[str]:
    names = [field.name for field in dataclasses.fields(settings)]
    return [name for name in names if getattr(settings, name) != getattr(default, name)]


def check_port(port: int) -> None:
    """Raises ValueError where there is no such port."""
    if not 0 <= port <= 65535:
        raise ValueError(f"EmbeddedServer needs a port from 0 to 65535. Received: port={port}.")


def refuse_taken(host: str, port: int) -> None:
    """Raises ServerError where the port cannot be listened on."""
    reason = why_taken(host, port)
    if reason is not None:
        raise cannot_listen(host, port, reason)


def cannot_listen(host: str, port: int, reason: str) -> ServerError:
    """What to say where a port is taken."""
    return ServerError(
        f"cannot listen on {address_of(host, port)}: {reason}; choose another port (0 takes a free one) or host.")


def address_of(host: str, port: int) -> str:
    """As gRPC writes it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
