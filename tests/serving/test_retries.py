"""Requests that fail are sent again, within their deadline; servers here answer by a script."""

import asyncio
import statistics

import grpc
import pytest

from serving.client import AsyncClient, Client, Hypothesis, Retry, ServingError
from serving.client.settings import Attempts, Settings
from tests.serving.callers import CLIENTS, Caller
from tests.serving.scripted import Script, grpc_server, scripted_server

UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
INVALID = grpc.StatusCode.INVALID_ARGUMENT
AT_ONCE = Retry(tries=3, first=0.0)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_request_is_sent_again_while_the_server_is_unavailable(kind):
    script = Script([UNAVAILABLE, UNAVAILABLE])
    with scripted_server(kind, script) as address, Caller(kind, address, retry=AT_ONCE) as client:
        assert client.predict(["ab"]) == [[Hypothesis("AB", 2.0)]]
    assert len(script.seen) == 3
    # The same request, so the same id; 32 hexadecimal digits.
    (request_id,) = {headers["x-request-id"] for headers in script.seen}
    assert len(request_id) == 32 and int(request_id, 16)


@pytest.mark.parametrize("kind", CLIENTS)
def test_after_as_many_tries_as_asked_for_it_fails(kind):
    script = Script([UNAVAILABLE] * 3)
    with scripted_server(kind, script) as address, Caller(kind, address, retry=AT_ONCE) as client:
        with pytest.raises(ServingError, match="as the script says") as caught:
            client.predict(["ab"])
        assert caught.value.code == UNAVAILABLE
        assert caught.value.request_id == script.seen[0]["x-request-id"]
        assert len(script.seen) == 3
        assert client.greedy(["ab"]) == [Hypothesis("AB", 2.0)]  # the script is at its end
    assert script.seen[3]["x-request-id"] != script.seen[0]["x-request-id"]


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(("code", "asked", "tries"), [(EXHAUSTED, False, 1), (EXHAUSTED, True, 2), (INVALID, True, 1)])
def test_a_full_queue_is_tried_again_where_asked_for_and_a_refusal_never(kind, code, asked, tries):
    script = Script([code])
    retry = Retry(first=0.0, exhausted=asked)
    with scripted_server(kind, script) as address, Caller(kind, address, retry=retry) as client:
        if tries == 1:
            with pytest.raises(ServingError) as caught:
                client.predict(["ab"])
            assert caught.value.code == code
        else:
            assert client.predict(["ab"]) == [[Hypothesis("AB", 2.0)]]
    assert len(script.seen) == tries


@pytest.mark.parametrize("kind", CLIENTS)
def test_no_try_begins_that_would_come_after_the_deadline(kind):
    script = Script([UNAVAILABLE] * 9)
    retry = Retry(tries=9, first=1000.0, longest=1000.0)
    with (
        scripted_server(kind, script) as address, Caller(kind, address, retry=retry, timeout=30) as client,
        pytest.raises(ServingError) as caught,
    ):
        client.predict(["ab"])
    assert caught.value.code == UNAVAILABLE and len(script.seen) == 1


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("limit", [{"timeout": 0.3}, {"call_timeout": 0.3}])
def test_an_answer_that_does_not_come_is_waited_for_until_the_deadline(kind, limit):
    with (
        scripted_server(kind, Script(hold=2)) as address, Caller(kind, address, **limit) as client,
        pytest.raises(ServingError, match="no answer within 0.3 seconds; raise the timeout") as caught,
    ):
        client.predict(["ab"])
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("kind", [kind for kind in CLIENTS if kind.endswith("async")])
def test_pieces_of_one_call_are_under_way_at_once_and_answers_keep_the_order(kind):
    texts = [f"t{number}" for number in range(11)]
    script = Script(hold=4)  # 12 places, 3 rounds of 4: nothing is answered before 4 pieces are there
    with (
        scripted_server(kind, script) as address,
        Caller(kind, address, rows=1, parallel=4, timeout=30) as client,
    ):
        rows = client.predict([*texts, "t11"])
    assert [row[0].text for row in rows] == [text.upper() for text in [*texts, "t11"]]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_piece_that_fails_fails_the_call(kind):
    script = Script([INVALID])
    with scripted_server(kind, script) as address, Caller(kind, address, rows=1) as client:
        with pytest.raises(ServingError, match="as the script says"):
            client.predict(["a", "b", "c", "d", "e", "f"])
        assert client.greedy(["a"]) == [Hypothesis("A", 1.0)]


def test_a_cancelled_call_ends_its_requests():
    async def run(address):
        async with AsyncClient(address, rows=1, parallel=2) as client:
            call = asyncio.ensure_future(client.predict(["a", "b", "c"]))
            await asyncio.sleep(0.2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]

    script = Script(hold=3)
    with grpc_server(script) as address:
        left = asyncio.run(run(address))
        assert not [task for task in left if "work" in repr(task)]


def test_waits_grow_to_the_longest_and_are_spread(monkeypatch):
    retry = Retry(first=1.0, factor=2.0, longest=5.0)
    for tries, most in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (5000, 5.0)):
        waits = [retry.wait(tries) for _ in range(2000)]
        assert most / 2 <= min(waits) < max(waits) <= most
        # The mean of an even draw between half and all, to five standard errors.
        assert abs(statistics.mean(waits) - 0.75 * most) < 5 * (most / 2) / 12**0.5 / 2000**0.5


def test_what_is_left_of_the_time_goes_to_the_next_try():
    clock = iter([100.0, 100.0, 103.0, 104.5, 110.5]).__next__
    attempts = Attempts(Settings("host:1", timeout=10.0, retry=Retry(first=1.0)), until=None, now=clock)
    assert attempts.left() == 10.0
    assert 0.5 <= attempts.wait_after(attempts.failure(UNAVAILABLE, "")) <= 1.0
    assert attempts.left() == 5.5
    with pytest.raises(ServingError) as caught:
        attempts.left()
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_client_finds_its_server_again_after_it_was_gone():
    with grpc_server(Script()) as address, Client(address, retry=Retry(tries=1)) as client:
        assert client.greedy(["a"]) == [Hypothesis("A", 1.0)]
    with Client(address, retry=Retry(tries=1)) as client, pytest.raises(ServingError):
        client.greedy(["a"])
