"""An HTTP/1.1 server in a thread of its own that slow, large and broken requests do not hurt.

One thread waits for all connections, so one that sends nothing costs a few kilobytes and no thread. h11 reads the
protocol; sizes and times are limited here.
"""

import asyncio
import contextlib
import email.utils
import http
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import h11

MAX_HEAD = 16 << 10  # bytes of a request before its body
MAX_CONNECTIONS = 1000
HEAD_SECONDS = 10.0  # from the first byte of a request to the end of its head
IDLE_SECONDS = 75.0  # between requests
WRITE_SECONDS = 30.0
LINGER_SECONDS = 2.0  # what still comes of a request that was refused is read for so long
_UNFINISHED = (h11.IDLE, h11.SEND_BODY, h11.ERROR)
_PHRASES = {each.value: each.phrase for each in http.HTTPStatus}
_log = logging.getLogger(__name__)


class HttpRequest(NamedTuple):
    """A request that came whole.

    Attributes:
        method: in capitals.
        path: as it was sent, without what follows a question mark.
        headers: names in small letters.
        body: of any size up to the limit.
        arrived: time.monotonic() of its first byte.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    arrived: float


class HttpResponse(NamedTuple):
    """An answer; `headers` are those beside Content-Type, Content-Length and Date."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class _Refused(Exception):
    """A request that is not whole and never will be; the connection ends with the answer."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.response = error_response(status, message)


def error_response(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> HttpResponse:
    """An error as TensorFlow Serving says it."""
    return HttpResponse(status, (json.dumps({"error": message}) + "\n").encode(), headers=headers)


class HttpServer:
    """Listens until it is stopped.

    Args:
        handle: answers a request; runs in the server's thread, so it must not wait but for `await`.
        host, port: address to listen on; port 0 takes a free one.
        context: for TLS.
        max_body: bytes of a request's body.
        seconds: from the first byte of a request to its last, and then to its answer.
        refused: told the status and the time.monotonic() of the first byte of each request that is answered here,
            because it did not come whole, or one connection too many.
    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self, handle: Callable[[HttpRequest], Awaitable[HttpResponse]], host: str, port: int,
        context: ssl.SSLContext | None, max_body: int, seconds: float,
        refused: Callable[[int, float], None] = lambda status, arrived: None,
    ):
        self._handle, self._context, self._max_body, self._seconds = handle, context, max_body, seconds
        self._refused = refused
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._socket = socket.create_server(address[:2], family=family, backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="serving-rest", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()
        self._draining = False
        self._server: asyncio.Server | None = None

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Takes no new request, lets those under way end for at most `grace` seconds."""
        if self._thread.is_alive():
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(self._drain(grace), self._loop).result(grace + WRITE_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        else:
            self._loop.close()
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._server = self._loop.run_until_complete(asyncio.start_server(
                self._connected, sock=self._socket, ssl=self._context,
                ssl_handshake_timeout=HEAD_SECONDS if self._context else None))
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _drain(self, grace: float) -> None:
        self._draining = True
        if self._server is not None:
            self._server.close()
        for task in list(self._idle):
            task.cancel()
        under_way = [task for task in self._connections if task not in self._idle]
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=grace)
            for task in late:
                task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:  # never, says asyncio, but not its types
            return
        self._connections.add(task)
        try:
            if len(self._connections) <= MAX_CONNECTIONS:
                await self._converse(task, reader, writer)
            else:
                self._refused(503, time.monotonic())
                await self._write(h11.Connection(h11.SERVER), writer, "", error_response(503, "Too many connections"))
        except (OSError, TimeoutError, h11.ProtocolError, asyncio.CancelledError):
            pass  # the other side is gone, too slow, or the server stops
        except Exception:
            _log.exception("a connection failed")
        finally:
            self._connections.discard(task)
            self._idle.discard(task)
            writer.close()

    async def _converse(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        while await self._begins(task, connection, reader):
            arrived, method = time.monotonic(), ""
            try:
                request = await self._read(connection, reader, writer, arrived)
                if request is None:
                    return
                method = request.method
                response = await self._answer(request)
            except _Refused as refused:
                response = refused.response
                self._refused(response.status, arrived)
            if await self._write(connection, writer, method, response):
                connection.start_next_cycle()
                continue
            if connection.their_state in _UNFINISHED:
                # What is still being sent would have the system throw away the answer that is on its way.
                with contextlib.suppress(TimeoutError):
                    if writer.can_write_eof():
                        writer.write_eof()
                    await asyncio.wait_for(_discard(reader, 2 * self._max_body), LINGER_SECONDS)
            return

    async def _begins(
        self, task: asyncio.Task[None], connection: h11.Connection, reader: asyncio.StreamReader
    ) -> bool:
        """Whether a byte of another request comes."""
        if connection.trailing_data[0]:
            return True
        self._idle.add(task)
        first = await asyncio.wait_for(reader.read(1 << 16), IDLE_SECONDS)
        self._idle.discard(task)
        if first:
            connection.receive_data(first)
        return bool(first)

    async def _read(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, arrived: float
    ) -> HttpRequest | None:
        """The request that has begun to come; None if the other side is gone."""
        head, body = None, bytearray()
        try:
            async with asyncio.timeout(HEAD_SECONDS) as limit:
                while True:
                    event = connection.next_event()
                    if event is h11.NEED_DATA:
                        if connection.they_are_waiting_for_100_continue:
                            writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                        data = await reader.read(1 << 16)
                        connection.receive_data(data)
                    elif isinstance(event, h11.Request):
                        head = event
                        self._check_length(head)
                        limit.reschedule(asyncio.get_running_loop().time() + self._seconds)
                    elif isinstance(event, h11.Data):
                        body += event.data
                        if len(body) > self._max_body:
                            raise self._too_large()
                    elif isinstance(event, h11.EndOfMessage):
                        break
                    else:  # the other side is gone
                        return None
        except TimeoutError as error:
            raise _Refused(408, "The request did not come in time.") from error
        except h11.RemoteProtocolError as error:
            raise _Refused(error.error_status_hint, str(error)) from error
        if head is None:
            return None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        path = head.target.decode("latin-1").partition("?")[0]
        return HttpRequest(head.method.decode("latin-1").upper(), path, headers, bytes(body), arrived)

    def _check_length(self, head: h11.Request) -> None:
        for name, value in head.headers:
            if name == b"content-length" and int(value) > self._max_body:
                raise self._too_large()

    def _too_large(self) -> _Refused:
        return _Refused(413, f"A request holds at most {self._max_body} bytes.")

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        try:
            return await self._handle(request)
        except Exception:
            _log.exception("%s %s failed", request.method, request.path)
            return error_response(500, "The server failed; its log says why.")

    async def _write(
        self, connection: h11.Connection, writer: asyncio.StreamWriter, method: str, response: HttpResponse
    ) -> bool:
        """Whether another request may follow."""
        headers = [
            ("Content-Type", response.content_type), ("Content-Length", str(len(response.body))),
            ("Date", email.utils.formatdate(usegmt=True)), ("X-Content-Type-Options", "nosniff"), *response.headers]
        if self._draining or connection.their_state in _UNFINISHED:
            headers.append(("Connection", "close"))
        head = h11.Response(
            status_code=response.status, headers=headers, reason=_PHRASES.get(response.status, "").encode())
        parts = [head, *([] if method == "HEAD" else [h11.Data(data=response.body)]), h11.EndOfMessage()]
        writer.write(b"".join(connection.send(part) or b"" for part in parts))
        await asyncio.wait_for(writer.drain(), WRITE_SECONDS)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE


async def _discard(reader: asyncio.StreamReader, most: int) -> None:
    while most > 0 and (data := await reader.read(1 << 16)):
        most -= len(data)
