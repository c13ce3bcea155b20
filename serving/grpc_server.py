"""A gRPC server in a thread of its own, whose event loop reads the messages of all calls."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import grpc
import grpc.aio

from serving.grpc_services import Services

SECONDS_TO_CLOSE = 0.5  # for what reached the port when it was being closed
SECONDS_TO_END = 10.0  # more than gRPC needs for anything that does not wait
T = TypeVar("T")


class GrpcServer:
    """Listens from the start of its making, answers from `start` on, until it is stopped.

    Args:
        services: its methods.
        address: to listen on, as gRPC writes it; port 0 takes a free one.
        credentials: for TLS.
        max_request_bytes: size of a message.
    Raises:
        RuntimeError: the address cannot be listened on.
    """

    def __init__(
        self, services: Services, address: str, credentials: grpc.ServerCredentials | None, max_request_bytes: int
    ):
        self._services = services
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="serving-grpc", daemon=True)
        self._thread.start()
        try:
            self.port: int = self._await(self._listen(address, credentials, max_request_bytes))
        except BaseException:
            self._end()
            raise

    def start(self) -> None:
        """Begins to answer."""
        self._await(self._server.start())

    def set_health(self, statuses: Mapping[str, int]) -> None:
        """What health says of these names from now on."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._services.health.set, dict(statuses))

    def refuse_all(self) -> None:
        """From now on requests get UNAVAILABLE, and health says NOT_SERVING."""
        self._loop.call_soon_threadsafe(self._services.refuse_all)
        self._loop.call_soon_threadsafe(self._services.health.end)

    def stop(self, grace: float) -> None:
        """Lets the requests under way end for at most `grace` seconds, gives the port back."""
        with contextlib.suppress(TimeoutError):
            self._await(self._stop(grace), max(0.0, grace) + SECONDS_TO_CLOSE + SECONDS_TO_END)
        self._end()

    async def _listen(
        self, address: str, credentials: grpc.ServerCredentials | None, max_request_bytes: int
    ) -> int:
        self._server = grpc.aio.server(handlers=[self._services], options=[
            ("grpc.so_reuseport", 0),  # else a second server on the same port starts, and takes half of the requests
            ("grpc.max_receive_message_length", max_request_bytes),
            ("grpc.max_send_message_length", 2**31 - 1)])
        if credentials is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, credentials)

    async def _stop(self, grace: float) -> None:
        await self._services.wait_until_answered(grace)
        await self._server.stop(SECONDS_TO_CLOSE)

    def _await(self, work: Coroutine[Any, Any, T], seconds: float = SECONDS_TO_END) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS_TO_END)
