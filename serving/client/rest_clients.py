"""Asks over HTTP, waiting or with asyncio; the standard library's connections, kept open between requests."""

import asyncio
import collections
import contextlib
import http.client
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import grpc

from serving.client.methods import AsyncMethods, Exchange, SyncMethods
from serving.client.rest_wire import RestWire, refusal
from serving.client.settings import Attempts, Settings

_CHUNK = 1 << 16  # bytes
# What a connection that lay idle raises where the server had closed it.
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class _Connections:
    """Those to one server, as many as there are requests at once; threads may share them."""

    def __init__(self, settings: Settings):
        url = urlsplit(settings.address)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or url.username:
            raise ValueError(
                f"A REST client needs an address as 'http://host:port'. Received: {settings.address!r}.")
        if url.scheme == "http" and settings.tls is not None:
            raise ValueError(
                f"A REST client needs an address with https:// for tls. Received: {settings.address!r}.")
        self._url, self._settings, self._context = url, settings, None
        if url.scheme == "https":
            self._context = _context(settings)
        self._idle: collections.deque[http.client.HTTPConnection] = collections.deque()

    def send(self, exchange: Exchange[Any], attempts: Attempts) -> bytes:
        """The body of a response of status 200; raises ServingError for all else."""
        verb, path = exchange.method
        headers = {"Accept": "application/json", **attempts.headers}
        if exchange.request is not None:
            headers["Content-Type"] = "application/json"
        try:
            status, body = self._request(verb, self._url.path.rstrip("/") + path, exchange.request, headers, attempts)
        except TimeoutError as error:
            raise attempts.failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from error
        except (OSError, http.client.HTTPException) as error:
            raise attempts.failure(grpc.StatusCode.UNAVAILABLE, str(error) or type(error).__name__) from error
        if status != http.HTTPStatus.OK:
            raise attempts.failure(*refusal(status, body))
        return body

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _request(
        self, verb: str, path: str, body: bytes | None, headers: dict[str, str], attempts: Attempts
    ) -> tuple[int, bytes]:
        while True:
            connection, used = self._take()
            try:
                answer = _exchange(connection, verb, path, body, headers, attempts)
            except _STALE:
                connection.close()
                if not used:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                if connection.sock is not None:
                    self._idle.append(connection)
                return answer

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        with contextlib.suppress(IndexError):
            return self._idle.pop(), True
        host, port = self._url.hostname or "", self._url.port
        if self._context is None:
            return http.client.HTTPConnection(host, port), False
        name = self._settings.tls.server_name if self._settings.tls else None
        return _SecureConnection(host, port, self._context, name or host), False


class _SecureConnection(http.client.HTTPSConnection):
    """One that may look for another name in the certificate than that it connects to."""

    def __init__(self, host: str, port: int | None, context: ssl.SSLContext, name: str):
        super().__init__(host, port, context=context)
        self._name, self._own_context = name, context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._own_context.wrap_socket(self.sock, server_hostname=self._name)


def _exchange(
    connection: http.client.HTTPConnection, verb: str, path: str, body: bytes | None, headers: dict[str, str],
    attempts: Attempts,
) -> tuple[int, bytes]:
    """Status and body. A socket's timeout is of each step, so what is left is set before each."""
    connection.timeout = attempts.left()
    if connection.sock is None:
        connection.connect()
    sock = connection.sock
    sock.settimeout(attempts.left())
    connection.request(verb, path, body, headers)
    sock.settimeout(attempts.left())
    with connection.getresponse() as response:
        chunks = []
        while True:
            sock.settimeout(attempts.left())
            chunk = response.read1(_CHUNK)
            if not chunk:
                break
            chunks.append(chunk)
        return response.status, b"".join(chunks)


def _context(settings: Settings) -> ssl.SSLContext:
    tls = settings.tls
    context = ssl.create_default_context(cafile=tls.ca_file if tls else None)
    if tls and tls.certificate_file is not None:
        context.load_cert_chain(tls.certificate_file, tls.key_file)
    return context


class RestClient(SyncMethods):
    """Asks over HTTP; may be shared by threads. No proxy is used.

    A server over HTTP writes all outputs of a signature, so that here `beam`, `sample` and `alternatives` bring their
    attention along even where it is not asked for: over gRPC they are answered with far less.

    Args and errors as `Client`, with an address "http://host:port", or "https://host:port" where `tls` may be left out
    for the certificates that the system trusts. A path in the address comes before the protocol's own.
    """

    def open(self) -> RestWire:
        self._connections = _Connections(self.settings)
        return RestWire(self.settings)

    def send(self, exchange: Exchange[Any], attempts: Attempts) -> bytes:
        return self._connections.send(exchange, attempts)

    def close(self) -> None:
        self._connections.close()


class AsyncRestClient(AsyncMethods):
    """Asks over HTTP with asyncio: as `RestClient`, each request in a thread, of which there are `parallel`.

    A request that is cancelled still ends in its thread, at its timeout at the latest.
    """

    def open(self) -> RestWire:
        self._connections = _Connections(self.settings)
        self._threads = ThreadPoolExecutor(self.parallel, thread_name_prefix="serving-client")
        return RestWire(self.settings)

    async def send(self, exchange: Exchange[Any], attempts: Attempts) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._connections.send, exchange, attempts)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._connections.close()
