"""Asks over gRPC, waiting or with asyncio."""

from typing import Any

import grpc
import grpc.aio

from serving.client import grpc_wire
from serving.client.methods import AsyncMethods, Exchange, SyncMethods
from serving.client.results import ServingError
from serving.client.settings import Attempts


class Client(SyncMethods):
    """Asks over gRPC: a connection to one model, which threads may share.

    Args:
        address: of the server, "host:port" for gRPC, "http://host:port" or "https://host:port" for REST.
        model: the name the server gives the model.
        timeout: seconds to wait for each request, further tries included; above 0.
        version: of the model; default: the one the server chooses, its highest.
        label: of a version, instead of its number.
        rows: largest number of rows in one request, at least 1; longer inputs are sent in pieces. A server with
            batching refuses more rows than its `max_batch_size`.
        call_timeout: seconds for all pieces of a call together; default: no limit.
        retry: when a request that failed is sent again; default: 5 tries while the server is UNAVAILABLE.
        tls: files for an encrypted connection; for gRPC, None is a connection without encryption.
        token: sent as "authorization: Bearer TOKEN"; only over TLS, or on loopback.
        request_id: makes the "x-request-id" of each request, the same for its further tries.
    Raises:
        ValueError: a value is out of its range, or `address` is empty or of another protocol.
        OSError: a file of `tls` cannot be read.
    """

    def open(self) -> grpc_wire.GrpcWire:
        self._channel = grpc_wire.channel_opener(self.settings)(grpc)
        self._methods = grpc_wire.methods(self._channel)
        return grpc_wire.GrpcWire(self.settings)

    def send(self, exchange: Exchange[Any], attempts: Attempts) -> Any:
        try:
            return self._methods[exchange.method](
                exchange.request, timeout=attempts.left(), metadata=tuple(attempts.headers.items()))
        except grpc.RpcError as error:
            raise _failure(error, attempts) from error

    def close(self) -> None:
        self._channel.close()


class AsyncClient(AsyncMethods):
    """Asks over gRPC with asyncio, in one event loop: that of the first request.

    Args and errors as `Client`, and:
        parallel: pieces of one call that are under way at once, at least 1.
    """

    def open(self) -> grpc_wire.GrpcWire:
        self._open = grpc_wire.channel_opener(self.settings)
        self._channel: Any = None
        self._methods: dict[str, Any] = {}
        return grpc_wire.GrpcWire(self.settings)

    async def send(self, exchange: Exchange[Any], attempts: Attempts) -> Any:
        if self._channel is None:  # not before: it belongs to the loop that runs
            self._channel = self._open(grpc.aio)
            self._methods = grpc_wire.methods(self._channel)
        try:
            return await self._methods[exchange.method](
                exchange.request, timeout=attempts.left(), metadata=tuple(attempts.headers.items()))
        except grpc.RpcError as error:
            raise _failure(error, attempts) from error

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


def _failure(error: Any, attempts: Attempts) -> ServingError:
    return attempts.failure(error.code(), error.details() or "")
