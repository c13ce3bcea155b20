"""Load tests: how fast a server answers when many ask.

A closed loop has callers who each wait for their answer before they ask again: it tells the throughput of a server, and
its latency under that many callers. An open loop sends at a rate whether or not answers come, as the world does; a
latency there counts from the moment a request was meant to be sent, so that a server that stalls cannot hide the
requests that had to wait meanwhile (coordinated omission).
"""

import asyncio
import bisect
import collections
import dataclasses
import itertools
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from serving.client import AsyncClient, AsyncRestClient, ServingError
from serving.signatures import ALTERNATIVES, BEAM, GREEDY, SAMPLE, SERVING_DEFAULT, TOKENIZE

PERCENTILES = (50.0, 90.0, 99.0)
SIGNATURES = (SERVING_DEFAULT, GREEDY, BEAM, SAMPLE, ALTERNATIVES, TOKENIZE)
MOST_AT_ONCE = 4096  # requests under way in an open loop; more wait, and their waiting counts
MOST_THREADS = 64  # of an open loop over REST, where each request under way holds one
LONGEST = 3600.0  # seconds
MOST_REQUESTS = 1_000_000
SHOWN = 20_000  # points of a plot


@dataclasses.dataclass(frozen=True)
class Load:
    """How to ask.

    Args:
        callers: of a closed loop, from 1; None with `rate`.
        rate: requests a second of an open loop, at random times (a Poisson process), above 0.
        seconds: during which requests are sent and counted, at most an hour.
        warm_up: seconds of the same load before, not counted.
        requests: at most so many are sent and counted, from 1 to a million.
        rows: texts in a request, from 1.
        signatures: name -> how often, relative to the others; each is drawn anew.
        seed: of the draws.
    Raises:
        ValueError: a value is out of its range, or there is neither or both of `callers` and `rate`.
    """

    callers: int | None = None
    rate: float | None = None
    seconds: float = 10.0
    warm_up: float = 2.0
    requests: int = MOST_REQUESTS
    rows: int = 1
    signatures: dict[str, float] = dataclasses.field(default_factory=lambda: {SERVING_DEFAULT: 1.0})
    seed: int = 1

    def __post_init__(self) -> None:
        if (self.callers is None) == (self.rate is None):
            raise ValueError(
                f"Load needs callers or a rate. Received: callers={self.callers}, rate={self.rate}.")
        if self.callers is not None and not 1 <= self.callers <= MOST_AT_ONCE:
            raise ValueError(f"Load needs callers from 1 to {MOST_AT_ONCE}. Received: callers={self.callers}.")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"Load needs a rate above 0. Received: rate={self.rate}.")
        if not (0 < self.seconds <= LONGEST and 0 <= self.warm_up <= LONGEST):
            raise ValueError(
                f"Load needs seconds above 0, a warm_up from 0, and both at most {LONGEST:g}. "
                f"Received: seconds={self.seconds}, warm_up={self.warm_up}.")
        if not 1 <= self.requests <= MOST_REQUESTS or self.rows < 1:
            raise ValueError(
                f"Load needs requests from 1 to {MOST_REQUESTS} and rows >= 1. "
                f"Received: requests={self.requests}, rows={self.rows}.")
        known = set(self.signatures) <= set(SIGNATURES)
        if not known or not self.signatures or not all(0 < share < math.inf for share in self.signatures.values()):
            raise ValueError(
                f"Load needs shares above 0 of signatures among {', '.join(SIGNATURES)}. Received: {self.signatures}.")


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of a load.

    Attributes:
        load: what was asked for.
        seconds: from the end of the warm-up to the last answer.
        starts: when each answered request was meant to start, seconds after the warm-up.
        latencies: of the same requests, seconds to the answer.
        failures: (start, gRPC's name of the status) of the others.
        client_cpu: share of a core that this process took; near 1 it may be what limits the throughput.
    """

    load: Load
    seconds: float
    starts: np.ndarray
    latencies: np.ndarray
    failures: list[tuple[float, str]]
    client_cpu: float

    def percentile(self, share: float) -> float:
        """The latency, one that was measured, that this share (in percent) of answered requests did not exceed."""
        return float(np.percentile(self.latencies, share, method="inverted_cdf")) if len(self.latencies) else math.nan

    def numbers(self) -> dict[str, Any]:
        """All but the single requests; latencies in milliseconds, None where nothing was answered."""
        latencies = {f"p{share:g}": self.percentile(share) for share in PERCENTILES} | {"max": self.percentile(100.0)}
        return {
            "load": dataclasses.asdict(self.load), "seconds": round(self.seconds, 3), "answered": len(self.latencies),
            "requests_per_second": round(len(self.latencies) / self.seconds, 2),
            "rows_per_second": round(len(self.latencies) * self.load.rows / self.seconds, 2),
            "latency_ms": {
                name: None if math.isnan(value) else round(1000 * value, 3) for name, value in latencies.items()},
            "errors": dict(collections.Counter(code for _, code in self.failures)),
            "client_cpu": round(self.client_cpu, 2)}

    def json(self) -> str:
        """`numbers` on one line."""
        return json.dumps(self.numbers())

    def text(self) -> str:
        """`numbers` for people, a line each."""
        numbers = self.numbers()
        latencies = ", ".join(
            f"{name} {'-' if value is None else f'{value:.1f}'}" for name, value in numbers["latency_ms"].items())
        errors = ", ".join(f"{code} {count}" for code, count in sorted(numbers["errors"].items()))
        return "\n".join([
            f"answered    {numbers['answered']} requests in {numbers['seconds']:.1f} s",
            f"throughput  {numbers['requests_per_second']:.1f} requests/s, {numbers['rows_per_second']:.1f} rows/s",
            f"latency ms  {latencies}", f"errors      {errors or 'none'}"])


def run(
    client: AsyncClient | AsyncRestClient, texts: Sequence[str], load: Load,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Report:
    """Sends a load and closes the client.

    Args:
        client: whose `retry` should be of one try, and whose `rows` at least the load's.
        texts: what is asked, in this order, again from the beginning after the last.
        load: how.
        on_progress: told the seconds that have gone by, a few times a second.
    Raises:
        ValueError: `texts` is empty.
    """
    if not texts:
        raise ValueError("A load test needs texts to send. Received: none.")
    return asyncio.run(_Run(client, texts, load, on_progress).report())


class _Run:
    """One load under way."""

    def __init__(
        self, client: AsyncClient | AsyncRestClient, texts: Sequence[str], load: Load,
        on_progress: Callable[[float], None],
    ):
        self._client, self._load, self._on_progress = client, load, on_progress
        self._texts, self._random = itertools.cycle(texts), random.Random(load.seed)
        self._names = list(load.signatures)
        self._shares = list(itertools.accumulate(load.signatures.values()))
        self._answered: list[tuple[float, float]] = []
        self._failures: list[tuple[float, str]] = []
        self._counted = 0
        self._last = 0.0

    async def report(self) -> Report:
        self._zero = time.perf_counter() + self._load.warm_up  # when counting begins
        cpu = time.process_time()
        reporting = asyncio.ensure_future(self._progress())
        try:
            await (self._closed() if self._load.rate is None else self._open())
        finally:
            reporting.cancel()
            await self._client.close()
        took = time.perf_counter() - self._zero + self._load.warm_up
        starts, latencies = np.array(self._answered or np.zeros((0, 2))).T
        return Report(
            self._load, max(self._last, 1e-9), starts, latencies, self._failures,
            (time.process_time() - cpu) / took)

    async def _closed(self) -> None:
        async def caller() -> None:
            while self._goes_on(now := self._now()):
                await self._one(now)

        await asyncio.gather(*(caller() for _ in range(self._load.callers or 0)))

    async def _open(self) -> None:
        places = asyncio.Semaphore(MOST_AT_ONCE)
        start = -self._load.warm_up

        async def one(start: float) -> None:
            async with places:
                await self._one(start)

        async with asyncio.TaskGroup() as under_way:
            while True:
                start += self._random.expovariate(self._load.rate or 1.0)
                await asyncio.sleep(max(0.0, start - self._now()))
                if not self._goes_on(start):
                    return
                under_way.create_task(one(start))

    def _goes_on(self, start: float) -> bool:
        """Whether a request that is meant to start then is sent; counts it."""
        if start < 0:
            return True
        self._counted += 1
        return start < self._load.seconds and self._counted <= self._load.requests

    async def _one(self, start: float) -> None:
        name = self._names[bisect.bisect_right(self._shares, self._random.random() * self._shares[-1])]
        try:
            await self._ask(name, list(itertools.islice(self._texts, self._load.rows)))
            code = None
        except ServingError as error:
            code = error.code.name
        if start < 0:
            return
        self._last = now = self._now()
        if code is None:
            self._answered.append((start, now - start))
        else:
            self._failures.append((start, code))

    def _ask(self, name: str, texts: list[str]) -> Awaitable[Any]:
        if name == SAMPLE:
            return self._client.sample(texts)
        if name == ALTERNATIVES:
            return self._client.alternatives(texts, "")
        if name == TOKENIZE:
            return self._client.tokenize(texts)
        return self._client.predict(texts, name)

    def _now(self) -> float:
        return time.perf_counter() - self._zero

    async def _progress(self) -> None:
        while True:
            self._on_progress(self._now() + self._load.warm_up)
            await asyncio.sleep(0.25)


def plot(report: Report) -> Any:
    """A figure: latencies over time, with what failed, and by percentile."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    over_time, by_share = figure.subplots(1, 2, sharey=True)
    every = max(1, math.ceil(len(report.latencies) / SHOWN))
    milliseconds = 1000 * report.latencies
    over_time.plot(report.starts[::every], milliseconds[::every], ".", markersize=3, alpha=0.5, label="answered")
    if report.failures:
        top = milliseconds.max() if len(milliseconds) else 1.0
        for code in sorted({code for _, code in report.failures}):
            failed = [start for start, each in report.failures if each == code]
            over_time.plot(failed, [top] * len(failed), "x", label=f"{code} ({len(failed)})")
        over_time.legend(loc="upper left")
    over_time.set(xlabel="start, seconds after the warm-up", ylabel="latency, ms", title="over time")
    # 90 %, 99 %, 99.9 % lie equally far apart.
    count = len(milliseconds)
    beyond = 1.0 - np.arange(count) / max(count, 1)
    by_share.plot(-np.log10(beyond), np.sort(milliseconds), drawstyle="steps-post")
    shares = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999]
    shares = [share for share in shares if 1.0 - share >= 1.0 / max(count, 1)] or [0.0]
    by_share.set_xticks([-math.log10(1.0 - share) for share in shares], [f"{100 * share:g}" for share in shares])
    by_share.set(xlabel="percent of answered requests", title="distribution")
    for axes in (over_time, by_share):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    numbers = report.numbers()
    load = report.load
    how = f"{load.callers} callers" if load.rate is None else f"{load.rate:g} requests/s, Poisson"
    figure.suptitle(f"{how}, {load.rows} row(s) a request: {numbers['requests_per_second']:g} requests/s answered")
    return figure
