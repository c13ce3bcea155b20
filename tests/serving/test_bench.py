"""Load tests against servers that answer by a script, so that what must come out is known."""

import asyncio
import collections
import json

import grpc
import numpy as np
import pytest

from serving import bench
from serving.bench import Load, Report
from serving.client import AsyncClient, Retry
from tests.serving.callers import CLIENTS
from tests.serving.scripted import Script, grpc_server, scripted_server

ONCE = Retry(tries=1)


@pytest.mark.parametrize("kind", ["grpc-async", "rest-async"])
def test_a_closed_loop_has_as_many_requests_under_way_as_callers(kind):
    script = Script(hold=3)  # answers only when three are there
    with scripted_server(kind, script) as address:
        client = CLIENTS[kind](address, retry=ONCE, parallel=3)
        report = bench.run(client, ["a", "b"], Load(callers=3, seconds=30, warm_up=0, requests=12, rows=2))
    assert len(report.latencies) == 12 and not report.failures
    # The texts in their order, two a request, over and over.
    assert collections.Counter(map(tuple, script.texts)) == {("a", "b"): 12}
    numbers = json.loads(report.json())
    assert numbers["answered"] == 12
    assert numbers["rows_per_second"] == pytest.approx(2 * numbers["requests_per_second"], rel=0.01)
    assert numbers["load"]["callers"] == 3


def test_what_fails_is_counted_by_its_code_and_not_among_the_latencies():
    codes = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE]
    with grpc_server(Script(codes)) as address:
        client = AsyncClient(address, retry=ONCE)
        report = bench.run(client, ["a"], Load(callers=1, seconds=30, warm_up=0, requests=5))
    assert report.numbers()["errors"] == {"UNAVAILABLE": 2, "RESOURCE_EXHAUSTED": 1}
    assert len(report.latencies) == 2


def test_nothing_that_answers_gives_a_report_all_the_same():
    client = AsyncClient("127.0.0.1:1", retry=ONCE, timeout=5)
    report = bench.run(client, ["a"], Load(callers=2, seconds=30, warm_up=0, requests=4))
    assert report.numbers()["errors"] == {"UNAVAILABLE": 4}
    assert report.numbers()["latency_ms"] == {"p50": None, "p90": None, "p99": None, "max": None}
    bench.plot(report)


class Stalling:
    """A client whose first request takes `stall` seconds, in which nothing else goes on."""

    def __init__(self, clock, stall):
        self.clock, self.stall, self.asked = clock, stall, 0

    async def predict(self, texts, signature):
        self.asked += 1
        if self.asked == 1:
            self.clock.now += self.stall

    async def close(self):
        pass


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def process_time(self):
        return 0.0

    async def sleep(self, seconds):
        until = self.now + seconds
        await REAL_SLEEP(0)  # what is ready runs first, and may take its time
        self.now = max(self.now, until)


REAL_SLEEP = asyncio.sleep


def test_an_open_loop_counts_from_when_a_request_was_meant_to_start(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    monkeypatch.setattr(bench.asyncio, "sleep", clock.sleep)
    monkeypatch.setattr(bench._Run, "_progress", lambda self: REAL_SLEEP(0))
    # 100 requests a second; the first stops the world for 2 seconds.
    report = bench.run(Stalling(clock, 2.0), ["a"], Load(rate=100.0, seconds=10, warm_up=0, requests=150))
    assert len(report.latencies) == 150
    # All that were meant to start within the stall waited for its end, so their latency is what was left of it.
    first = report.starts.min()
    for start, latency in zip(report.starts, report.latencies, strict=True):
        assert latency == pytest.approx(max(0.0, first + 2.0 - start), abs=1e-9)
    # A closed loop would have seen one slow request of 150; here half of them wait a second or so.
    assert report.percentile(50) > 0.5


def test_arrivals_of_an_open_loop_are_a_poisson_process(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    monkeypatch.setattr(bench.asyncio, "sleep", clock.sleep)
    monkeypatch.setattr(bench._Run, "_progress", lambda self: REAL_SLEEP(0))
    report = bench.run(Stalling(clock, 0.0), ["a"], Load(rate=50.0, seconds=100, warm_up=2))
    gaps = np.diff(np.sort(report.starts))
    # Exponential gaps: mean and standard deviation are both 1 / rate; to five standard errors.
    assert abs(gaps.mean() - 0.02) < 5 * 0.02 / len(gaps) ** 0.5
    assert abs(gaps.std() - 0.02) < 5 * 0.02 * (2 / len(gaps)) ** 0.5
    assert 0 <= report.starts.min() and report.starts.max() < 100


def test_signatures_are_mixed_by_their_shares(monkeypatch):
    asked = collections.Counter()

    class Client(Stalling):
        async def predict(self, texts, signature):
            asked[signature] += 1

        async def sample(self, texts):
            asked["sample"] += 1

    clock = Clock()
    bench.run(Client(clock, 0.0), ["a"], Load(
        callers=4, seconds=30, warm_up=0, requests=3000, signatures={"greedy": 3.0, "sample": 1.0}))
    assert asked["greedy"] + asked["sample"] == 3000
    assert abs(asked["sample"] - 750) < 5 * (3000 * 0.25 * 0.75) ** 0.5


def test_percentiles_are_latencies_that_were_measured():
    report = made_up(range(1, 101))
    assert [report.percentile(share) for share in (50, 90, 99, 100)] == [50.0, 90.0, 99.0, 100.0]
    assert report.numbers()["latency_ms"] == {"p50": 50_000.0, "p90": 90_000.0, "p99": 99_000.0, "max": 100_000.0}
    assert report.numbers()["requests_per_second"] == 10.0


def made_up(latencies, failures=()):
    latencies = np.array(latencies, float)
    return Report(Load(rate=1.0), 10.0, np.arange(len(latencies), dtype=float), latencies, list(failures), 0.1)


def test_a_plot_shows_each_latency_and_each_failure():
    figure = bench.plot(made_up([0.1, 0.3, 0.2], [(1.5, "UNAVAILABLE")]))
    over_time, by_share = figure.axes
    answered, failed = over_time.lines
    np.testing.assert_allclose(answered.get_xydata(), [[0, 100], [1, 300], [2, 200]])
    assert failed.get_label() == "UNAVAILABLE (1)" and failed.get_xdata()[0] == 1.5
    np.testing.assert_allclose(by_share.lines[0].get_ydata(), [100, 200, 300])
    np.testing.assert_allclose(by_share.lines[0].get_xdata(), -np.log10([1, 2 / 3, 1 / 3]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "callers or a rate. Received: callers=None, rate=None"),
        ({"callers": 1, "rate": 1.0}, "callers or a rate"),
        ({"callers": 0}, "callers from 1 to 4096. Received: callers=0"),
        ({"rate": float("inf")}, "rate above 0. Received: rate=inf"),
        ({"callers": 1, "seconds": 0}, "seconds above 0.* Received: seconds=0"),
        ({"callers": 1, "requests": 0}, "requests from 1 to 1000000.* Received: requests=0"),
        ({"callers": 1, "signatures": {"score": 1.0}}, "shares above 0 of signatures among .* Received: .'score': 1.0"),
        ({"callers": 1, "signatures": {"greedy": 0.0}}, "shares above 0 .* Received: .'greedy': 0.0"),
    ],
)
def test_loads_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Load(**arguments)


def test_nothing_to_send_is_refused():
    with pytest.raises(ValueError, match="needs texts to send"):
        bench.run(Stalling(Clock(), 0.0), [], Load(callers=1))
