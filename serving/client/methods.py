"""The methods that clients have, whatever they send by: waiting, and as coroutines."""

import asyncio
import functools
import inspect
import time
import typing
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, Protocol, Self, TypeVar

import grpc

from serving.client import questions
from serving.client.questions import Piece, Question
from serving.client.results import Malformed, ServingError, SignatureInfo, VersionStatus
from serving.client.settings import Attempts, Retry, Settings, Tls, new_request_id
from serving.signatures import DEFAULT_MODEL

Args = ParamSpec("Args")
Answer = TypeVar("Answer")


class Exchange(NamedTuple, Generic[Answer]):
    """A request as it is sent, and how its response is read.

    Attributes:
        method: gRPC's method, or HTTP's verb and path.
        request: a message, or a body.
        read: makes the answer of a response; raises Malformed.
    """

    method: Any
    request: Any
    read: Callable[[Any], Answer]


class Wire(Protocol):
    """A protocol: makes exchanges and sends nothing."""

    def predict(self, piece: Piece) -> Exchange[list[dict[str, Any]]]: ...

    def metadata(self) -> Exchange[dict[str, SignatureInfo]]: ...

    def status(self) -> Exchange[list[VersionStatus]]: ...


class Connected:
    """What every client holds; see `serving.client.Client`."""

    def __init__(
        self, address: str, model: str = DEFAULT_MODEL, timeout: float = 60.0, *, version: int | None = None,
        label: str | None = None, rows: int = 32, call_timeout: float | None = None, retry: Retry | None = None,
        tls: Tls | None = None, token: str | None = None, request_id: Callable[[], str] = new_request_id,
    ):
        self.settings = Settings(
            address, model, timeout, call_timeout, version, label, rows, retry or Retry(), tls, token, request_id)
        self.wire = self.open()

    def open(self) -> Wire:
        """Takes hold of the connection; says in which protocol."""
        raise NotImplementedError

    def _until(self) -> float | None:
        limit = self.settings.call_timeout
        return None if limit is None else time.monotonic() + limit

    def _read(self, exchange: Exchange[Answer], response: Any, attempts: Attempts) -> Answer:
        try:
            return exchange.read(response)
        except Malformed as error:
            raise ServingError(
                f"{self.settings.address}: not an answer of such a model: {error}.", grpc.StatusCode.INTERNAL,
                str(error), attempts.request_id) from error


def _method(question: Callable[..., Any]) -> Callable[..., Any]:
    """A method that makes a question of its arguments and asks it, documented as the question is."""

    @functools.wraps(question)
    def method(self, /, *args, **kwargs):
        return self.ask(question(*args, **kwargs))

    owner = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.signature(question)
    answer = typing.get_args(signature.return_annotation)[0]
    method.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[owner, *signature.parameters.values()], return_annotation=answer)
    return method


def _waiting(question: Callable[Args, Question[Answer]]) -> Callable[Concatenate[Any, Args], Answer]:
    return _method(question)


def _awaited(question: Callable[Args, Question[Answer]]) -> Callable[Concatenate[Any, Args], Awaitable[Answer]]:
    return _method(question)


class SyncMethods(Connected):
    """Methods that return when they are answered; may be called from several threads."""

    predict = _waiting(questions.predict)
    sample = _waiting(questions.sample)
    alternatives = _waiting(questions.alternatives)
    greedy = _waiting(questions.greedy)
    score = _waiting(questions.score)
    score_tokens = _waiting(questions.score_tokens)
    tokenize = _waiting(questions.tokenize)

    def send(self, exchange: Exchange[Any], attempts: Attempts) -> Any:
        """One try; returns the response or raises ServingError."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives the connection back; the client cannot be used any more."""
        raise NotImplementedError

    def metadata(self) -> dict[str, SignatureInfo]:
        """The model's signatures by name. Raises ServingError."""
        return self._exchange(self.wire.metadata(), self._until())

    def status(self) -> list[VersionStatus]:
        """The versions the server knows of the model. Raises ServingError."""
        return self._exchange(self.wire.status(), self._until())

    def ask(self, question: Question[Answer]) -> Answer:
        """Sends the pieces of a question one after another. Raises ServingError."""
        until = self._until()
        rows: list[dict[str, Any]] = []
        for piece in question.pieces(self.settings.rows):
            answered = self._exchange(self.wire.predict(piece), until)
            rows += answered
        return question.answer(rows)

    def _exchange(self, exchange: Exchange[Answer], until: float | None) -> Answer:
        attempts = Attempts(self.settings, until)
        while True:
            try:
                return self._read(exchange, self.send(exchange, attempts), attempts)
            except ServingError as error:
                time.sleep(attempts.wait_after(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncMethods(Connected):
    """Methods that are awaited, in one event loop; `parallel` pieces of a call are under way at once.

    Args:
        parallel: at least 1.
    Raises:
        ValueError: `parallel` is below 1.
    """

    predict = _awaited(questions.predict)
    sample = _awaited(questions.sample)
    alternatives = _awaited(questions.alternatives)
    greedy = _awaited(questions.greedy)
    score = _awaited(questions.score)
    score_tokens = _awaited(questions.score_tokens)
    tokenize = _awaited(questions.tokenize)

    def __init__(
        self, address: str, model: str = DEFAULT_MODEL, timeout: float = 60.0, *, parallel: int = 4, **settings: Any
    ):
        if parallel < 1:
            raise ValueError(f"Client needs parallel >= 1. Received: parallel={parallel}.")
        self.parallel = parallel
        super().__init__(address, model, timeout, **settings)

    async def send(self, exchange: Exchange[Any], attempts: Attempts) -> Any:
        """One try; returns the response or raises ServingError."""
        raise NotImplementedError

    async def close(self) -> None:
        """Gives the connection back; the client cannot be used any more."""
        raise NotImplementedError

    async def metadata(self) -> dict[str, SignatureInfo]:
        """The model's signatures by name. Raises ServingError."""
        return await self._exchange(self.wire.metadata(), self._until())

    async def status(self) -> list[VersionStatus]:
        """The versions the server knows of the model. Raises ServingError."""
        return await self._exchange(self.wire.status(), self._until())

    async def ask(self, question: Question[Answer]) -> Answer:
        """Sends the pieces of a question, several at once; the first that fails ends the others.

        Raises ServingError.
        """
        until = self._until()
        pieces = enumerate(question.pieces(self.settings.rows))
        answered: dict[int, list[dict[str, Any]]] = {}

        async def work(pieces: Iterator[tuple[int, Piece]]) -> None:
            for number, piece in pieces:
                answered[number] = await self._exchange(self.wire.predict(piece), until)

        workers = [asyncio.ensure_future(work(pieces)) for _ in range(self.parallel)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return question.answer([row for number in sorted(answered) for row in answered[number]])

    async def _exchange(self, exchange: Exchange[Answer], until: float | None) -> Answer:
        attempts = Attempts(self.settings, until)
        while True:
            try:
                return self._read(exchange, await self.send(exchange, attempts), attempts)
            except ServingError as error:
                await asyncio.sleep(attempts.wait_after(error))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
