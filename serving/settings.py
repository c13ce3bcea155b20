"""What may be set of the embedded server, checked where it is made."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Versions = Literal["latest", "all"] | int | tuple[int, ...]  # a number: so many of the latest


def _check_least(settings: object, least: Mapping[str, float]) -> None:
    for name, lowest in least.items():
        value = getattr(settings, name)
        if value is not None and not value >= lowest:
            raise ValueError(f"{type(settings).__name__} needs {name} >= {lowest}. Received: {name}={value}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """How rows of several requests are joined, by TensorFlow's own batch function.

    Attributes:
        max_batch_size: rows of a batch, at least 1; a request with more is refused.
        batch_timeout_micros: how long the first row waits for others, microseconds.
        num_batch_threads: batches computed at once, all models and signatures together; default: half of the cores.
        max_enqueued_batches: full batches that wait, of each signature; beyond, requests get RESOURCE_EXHAUSTED.
    """

    max_batch_size: int = 32
    batch_timeout_micros: int = 2000
    num_batch_threads: int = max(1, (os.cpu_count() or 1) // 2)
    max_enqueued_batches: int = 100

    def __post_init__(self) -> None:
        least = {"max_batch_size": 1, "batch_timeout_micros": 0, "num_batch_threads": 1, "max_enqueued_batches": 1}
        _check_least(self, least)
        if self.batch_timeout_micros >= 1 << 31:
            raise ValueError(
                "Batching needs batch_timeout_micros < 2**31. "
                f"Received: batch_timeout_micros={self.batch_timeout_micros}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the server takes on.

    Attributes:
        max_waiting: requests that wait for a worker; beyond, they get RESOURCE_EXHAUSTED.
        max_request_bytes: size of a request.
        max_rows: rows of a request.
        rest_timeout: seconds until a REST request gets DEADLINE_EXCEEDED; gRPC's callers name their own deadlines.
        grace: seconds that requests under way get to end when the server stops.
    """

    max_waiting: int = 256
    max_request_bytes: int = 4 << 20
    max_rows: int = 1024
    rest_timeout: float = 30.0
    grace: float = 30.0

    def __post_init__(self) -> None:
        _check_least(self, {
            "max_waiting": 0, "max_request_bytes": 1, "max_rows": 1, "rest_timeout": 1e-3, "grace": 0})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Security:
    """Who may ask, and how the connection is kept secret.

    Attributes:
        certificate, key: PEM files of the server; TLS on both ports where they are given.
        client_ca: PEM file; where it is given, clients must show a certificate that it signed.
        token: where it is given, requests must bring "authorization: Bearer TOKEN"; health need not.
    """

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    token: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError(
                "Security needs certificate and key together. "
                f"Received: certificate={self.certificate}, key={self.key}.")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError(f"Security needs a certificate beside client_ca. Received: client_ca={self.client_ca}.")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise ValueError("Security needs a token of printable ASCII characters. Received: another one.")


BATCHING, LIMITS, OPEN = Batching(), Limits(), Security()
POLL_SECONDS = 2.0  # between looks for new versions


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model and which of its versions are served.

    Attributes:
        name: what clients ask for.
        folder: holds VERSION/ folders with a SavedModel each.
        versions: "latest", so many of the latest, "all", or the numbers.
        labels: names for versions.
    """

    name: str
    folder: Path
    versions: Versions = "latest"
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError(f"ServedModel needs a model_name. Received: {self.name!r}.")
        if isinstance(self.versions, int) and self.versions < 1:
            raise ValueError(f"ServedModel needs at least 1 of the latest versions. Received: {self.versions}.")

    def choose(self, found: Mapping[int, Path]) -> dict[int, Path]:
        """Those of `found`, a path for each version, that are to be served."""
        if self.versions == "all":
            return dict(found)
        if isinstance(self.versions, tuple):
            return {version: found[version] for version in self.versions if version in found}
        latest = 1 if self.versions == "latest" else int(self.versions)
        return {version: found[version] for version in sorted(found)[-latest:]}
