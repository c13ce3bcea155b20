"""grpc.health.v1.Health, asked in the event loop of the gRPC server."""

import asyncio
from collections.abc import Mapping
from typing import Any

from grpc_health.v1 import health_pb2

Status = health_pb2.HealthCheckResponse


class Health:
    """What is said of the server (""), its services and its models.

    grpcio-health-checking's own servicer holds a lock while it writes to a watcher: one that reads nothing would
    keep the end of the server from being told.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._ending = False

    def set(self, statuses: Mapping[str, int]) -> None:
        """From now on this is said of these names; others keep what they have."""
        if not self._ending:
            self._statuses.update(statuses)
            self._changed.set()
            self._changed = asyncio.Event()

    def end(self) -> None:
        """NOT_SERVING for all that is known, for good."""
        self.set(dict.fromkeys(self._statuses, Status.NOT_SERVING))
        self._ending = True

    def check(self, name: str) -> Any:
        """HealthCheckResponse, or None for a name that is not known."""
        return Status(status=self._statuses[name]) if name in self._statuses else None

    async def watch(self, name: str, context: Any) -> None:
        """Writes a HealthCheckResponse now and at each change, until the caller leaves."""
        last = None
        while True:
            changed, status = self._changed, self._statuses.get(name, Status.SERVICE_UNKNOWN)
            if status != last:
                await context.write(Status(status=status).SerializeToString())
                last = status
            await changed.wait()
