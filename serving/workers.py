"""A fixed number of threads for requests, and a count of the requests that wait for one."""

import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any


class Workers(futures.ThreadPoolExecutor):
    """Threads that work on requests, first come, first served.

    Args:
        num_threads: requests worked on at once.
        max_waiting: how many may wait; who hands in work asks `is_full` before.
    """

    def __init__(self, num_threads: int, max_waiting: int):
        super().__init__(num_threads, thread_name_prefix="serving-worker")
        self._most = num_threads + max_waiting
        self._waiting: set[object] = set()
        self._under_way: set[object] = set()  # waiting or worked on
        self._ended = threading.Condition()

    @property
    def num_waiting(self) -> int:
        """Requests that no thread has taken yet."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether one more request could not even wait."""
        return len(self._under_way) >= self._most

    def wait_until_idle(self, seconds: float) -> bool:
        """Whether nothing is under way, at the latest after `seconds`."""
        with self._ended:
            return self._ended.wait_for(lambda: not self._under_way, max(0.0, seconds))

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future:
        """As the base class; a call that is cancelled before a thread took it does not wait any more."""
        ticket = object()
        self._waiting.add(ticket)
        self._under_way.add(ticket)

        def run() -> Any:
            self._waiting.discard(ticket)
            return function(*args, **kwargs)

        def end(_: Any = None) -> None:
            self._waiting.discard(ticket)
            with self._ended:
                self._under_way.discard(ticket)
                self._ended.notify_all()

        try:
            future = super().submit(run)
        except RuntimeError:  # shut down
            end()
            raise
        future.add_done_callback(end)
        return future
