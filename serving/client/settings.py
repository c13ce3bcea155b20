"""How a server is reached, and when a request that failed is sent again."""

import dataclasses
import math
import os
import random
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import grpc

from serving.client.results import ServingError, failure
from serving.signatures import DEFAULT_MODEL

File = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Tls:
    """What proves server and client to each other.

    Args:
        ca_file: PEM certificates the server's must descend from; default: those the system (REST) or gRPC trusts.
        certificate_file: PEM chain of the client, where the server asks for one.
        key_file: PEM private key of that certificate.
        server_name: the name to find in the server's certificate, where it is not that of the address.
    Raises:
        ValueError: only one of certificate and key is given.
    """

    ca_file: File | None = None
    certificate_file: File | None = None
    key_file: File | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError(
                "Tls needs certificate_file and key_file together. "
                f"Received: {self.certificate_file!r} and {self.key_file!r}.")

    def grpc_credentials(self) -> grpc.ChannelCredentials:
        """As gRPC takes them. Raises OSError for a file that cannot be read."""
        files = (self.ca_file, self.key_file, self.certificate_file)
        return grpc.ssl_channel_credentials(*(None if file is None else Path(file).read_bytes() for file in files))


@dataclasses.dataclass(frozen=True)
class Retry:
    """When a request that failed is sent again: it changes nothing on the server, so this never does harm.

    Try n is followed by a wait of at least half and at most all of min(first * factor^(n - 1), longest) seconds,
    drawn evenly so that clients that failed together do not come back together.

    Args:
        tries: in all, at least 1; 1 never sends again.
        first: seconds of the first wait, at least 0.
        factor: by which waits grow, at least 1.
        longest: seconds of the longest wait, at least `first`.
        exhausted: whether RESOURCE_EXHAUSTED, a server's full queue, is tried again as UNAVAILABLE is.
    Raises:
        ValueError: a value is out of its range.
    """

    tries: int = 5
    first: float = 0.1
    factor: float = 2.0
    longest: float = 5.0
    exhausted: bool = False

    def __post_init__(self) -> None:
        if self.tries < 1 or not (0 <= self.first <= self.longest < math.inf and 1 <= self.factor < math.inf):
            raise ValueError(f"Retry needs tries >= 1, 0 <= first <= longest and factor >= 1. Received: {self}.")

    def wait(self, tries: int) -> float:
        """Seconds to wait after that many tries, from 1."""
        most = min(self.first * self.factor ** min(tries - 1, 64), self.longest)
        return most * random.uniform(0.5, 1.0)

    def again(self, code: grpc.StatusCode, tries: int) -> bool:
        """Whether a request that failed with this status, after that many tries, is worth another."""
        transient = code == grpc.StatusCode.UNAVAILABLE or (
            self.exhausted and code == grpc.StatusCode.RESOURCE_EXHAUSTED)
        return transient and tries < self.tries


def new_request_id() -> str:
    """32 hexadecimal digits that no other request has."""
    return uuid.uuid4().hex


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every client is told; see `Client`."""

    address: str
    model: str = DEFAULT_MODEL
    timeout: float = 60.0
    call_timeout: float | None = None
    version: int | None = None
    label: str | None = None
    rows: int = 32
    retry: Retry = Retry()
    tls: Tls | None = None
    token: str | None = dataclasses.field(default=None, repr=False)
    request_id: Callable[[], str] = new_request_id

    def __post_init__(self) -> None:
        for name in ("timeout", "call_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
                raise ValueError(f"Client needs a {name} above 0 seconds. Received: {name}={seconds}.")
        if self.rows < 1:
            raise ValueError(f"Client needs rows >= 1. Received: rows={self.rows}.")
        if self.version is not None and self.label is not None:
            raise ValueError(
                f"Client needs a version or a label. Received: version={self.version}, label={self.label!r}.")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise ValueError("Client needs a token of printable ASCII characters. Received: another one.")
        encrypted = self.tls is not None or self.address.startswith("https://")
        if self.token is not None and not encrypted and not self.on_loopback:
            raise ValueError(
                "Client needs tls for a token, which others on the way could read. "
                f"Received: a token without tls for {self.address}.")

    @property
    def on_loopback(self) -> bool:
        """Whether the address is this machine's own."""
        host = urlsplit(self.address if "://" in self.address else f"//{self.address}").hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.") or self.address.startswith("unix:")

    def headers(self, request_id: str) -> dict[str, str]:
        """What goes with each request, in gRPC's metadata or HTTP's headers."""
        token = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        return {"x-request-id": request_id, **token}


class Attempts:
    """One request, sent until it is answered, refused or out of time.

    Args:
        settings: of the client.
        until: when the whole call must have ended, on the clock `now`; None is never.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, settings: Settings, until: float | None, now: Callable[[], float] = time.monotonic):
        self._settings, self._now, self._tries = settings, now, 0
        self._until, self._limit = now() + settings.timeout, settings.timeout
        if until is not None and until < self._until:
            self._until, self._limit = until, settings.call_timeout or settings.timeout
        self.request_id = settings.request_id()

    @property
    def headers(self) -> Mapping[str, str]:
        """What goes with each try."""
        return self._settings.headers(self.request_id)

    def left(self) -> float:
        """Seconds until the deadline, for the next try. Raises ServingError if there are none."""
        seconds = self._until - self._now()
        if seconds <= 0:
            raise self.failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return seconds

    def failure(self, code: grpc.StatusCode, details: str) -> ServingError:
        """The error to raise for a try that failed."""
        return failure(self._settings.address, code, details, self._limit, self.request_id)

    def wait_after(self, error: ServingError) -> float:
        """Seconds to wait before the next try; raises `error` where none is worth it or would come too late."""
        self._tries += 1
        if not self._settings.retry.again(error.code, self._tries):
            raise error
        seconds = self._settings.retry.wait(self._tries)
        if seconds >= self._until - self._now():
            raise error
        return seconds
