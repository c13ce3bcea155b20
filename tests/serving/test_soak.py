"""Two minutes of everything at once: no wrong answer, no lost request, no growing memory.

Of a model whose answers tell its version, and of the benchmarks' small Transformer, whose answers are those that it
gave when it was asked for one line at a time. TFSEQ2SEQ_SOAK_SECONDS says for how long (default 120); `-m slow -s`
prints what was measured, which `tests/benchmarks/README.md` keeps.
"""

import collections
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.client import Client
from serving.server import EmbeddedServer
from tests.benchmarks.serve import draw_texts, write_export
from tests.benchmarks.sizes import SIZES
from tests.serving.small import MODEL, a_request, texts_of, write_small

CALLERS, REST_CALLERS = 56, 8
VERSIONS = range(1, 5)
BAD_SHARE = 0.01
CODE = grpc.StatusCode
SERVE = """
import sys
from tfseq2seq import cpu
cpu.prepare()  # as the command line does
from serving.server import EmbeddedServer, serve
start = EmbeddedServer.start

def told(server):
    start(server)
    print(server.address, server.rest_port, flush=True)

EmbeddedServer.start = told
serve(sys.argv[1], port=0, rest_port=0, poll_seconds=0.5, log_format="json")
"""


class Tally:
    """What the callers saw; each appends to lists of its own."""

    def __init__(self):
        self.wrong = []  # what should not have been
        self.seconds = []
        self.codes = collections.Counter()
        self.versions = set()
        self.answered = set()  # ids of requests
        self.lock = threading.Lock()


class Told:
    """Answers are their texts and the version."""

    bad_bytes = b"\xff\xfe"  # a row that fails

    def write(self, folder, versions):
        for version in versions:
            write_small(folder, version)

    def draw(self, rng):
        return ["".join(rng.choices("aé猫 ", k=rng.choice([1, 5, 20, 100, 1000]))) for _ in range(rng.randint(1, 6))]

    def best(self, response):
        return texts_of(response)

    def expected(self, text, version):
        return f"{text}@{version}"


class Transformer:
    """Answers are those that one server gave one by one; all versions are the same."""

    bad_bytes = None  # read as U+FFFD

    def write(self, folder, versions):
        with tempfile.TemporaryDirectory() as aside:
            exported = write_export(SIZES["small"], Path(aside))
            for version in versions:
                shutil.copytree(exported / "1", folder / str(version))
            self.texts = draw_texts(SIZES["small"], 100)
            with EmbeddedServer(exported, batching=None) as server, Client(server.address) as client:
                self.answers = {text: client.predict([text])[0][0].text for text in self.texts}

    def draw(self, rng):
        return rng.choices(self.texts, k=rng.randint(1, 3))

    def best(self, response):
        hypotheses = response.outputs["text"].tensor_shape.dim[1].size
        return texts_of(response)[::hypotheses]

    def expected(self, text, version):
        return self.answers[text]


def bad(rng, bad_bytes):
    """A request and the code that it deserves."""
    kind = rng.randrange(0 if bad_bytes else 1, 6)
    if kind == 0:
        return a_request("a", bad_bytes), CODE.INVALID_ARGUMENT
    if kind == 1:
        return a_request("a", model="nobody"), CODE.NOT_FOUND
    if kind == 2:
        return a_request("a", signature="nothing"), CODE.FAILED_PRECONDITION
    if kind == 3:
        return a_request(*["a"] * 33), CODE.INVALID_ARGUMENT  # more than a batch holds
    if kind == 4:
        return a_request("a", times=[1]), CODE.INVALID_ARGUMENT  # an input too many
    request = a_request("a")
    request.inputs["text"].CopyFrom(tf.make_tensor_proto([1.0]))
    return request, CODE.INVALID_ARGUMENT


def call_grpc(model, address, number, tally, stopping):
    rng = random.Random(number)
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
    with grpc.insecure_channel(address, options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for count in itertools.takewhile(lambda _: not stopping.is_set(), itertools.count()):
            is_bad = rng.random() < BAD_SHARE
            request_id = f"grpc-{number}-{count}"
            if is_bad:
                request, expected = bad(rng, model.bad_bytes)
            else:
                expected = model.draw(rng)
                request = a_request(*expected)
            begun = time.monotonic()
            try:
                response = stub.Predict(request, timeout=60, metadata=[("x-request-id", request_id)])
                code, version = CODE.OK, response.model_spec.version.value
                right = not is_bad and model.best(response) == [model.expected(text, version) for text in expected]
            except grpc.RpcError as error:
                code, version, right = error.code(), None, is_bad and error.code() == expected
            note(tally, begun, code.name, version, right, request_id, request)


def call_rest(model, port, number, tally, stopping):
    rng = random.Random(1000 + number)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for count in itertools.takewhile(lambda _: not stopping.is_set(), itertools.count()):
        is_bad = rng.random() < BAD_SHARE
        request_id = f"rest-{number}-{count}"
        texts = model.draw(rng)
        body = json.dumps({"instances": [{"b64": "/w"}] if is_bad else texts})  # no Base64
        begun = time.monotonic()
        try:
            connection.request("POST", f"/v1/models/{MODEL}:predict", body, {"x-request-id": request_id})
            response = connection.getresponse()
            status, answer = response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException):
            status, answer = 503, {}
            connection.close()
        found = [row["text"][0] for row in answer.get("predictions", [])]
        right = status == 400 if is_bad else status == 200 and any(
            found == [model.expected(text, version) for text in texts] for version in VERSIONS)
        note(tally, begun, f"REST {status}", None, right, request_id, body)


def note(tally, begun, code, version, right, request_id, request):
    with tally.lock:
        tally.codes[code] += 1
        tally.seconds.append((begun, time.monotonic() - begun))
        tally.versions.add(version)
        if right:
            tally.answered.add(request_id)
        else:
            tally.wrong.append((begun, code, str(request)[:200]))
    if not right and code in ("UNAVAILABLE", "CANCELLED", "REST 503"):
        time.sleep(0.05)  # the server is going


def memory_of(process):
    """Resident bytes."""
    with open(f"/proc/{process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")
@pytest.mark.parametrize("model", [Told(), Transformer()], ids=["told", "transformer"])
def test_nothing_is_lost_wrong_or_leaking_under_load_reloads_and_a_drain(model, tmp_path):
    seconds = float(os.environ.get("TFSEQ2SEQ_SOAK_SECONDS", "120"))
    folder, aside = tmp_path / "served", tmp_path / "aside"
    folder.mkdir()
    aside.mkdir()
    model.write(aside, VERSIONS)
    (aside / "1").rename(folder / "1")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, text=True,
        stderr=(tmp_path / "log").open("w"), env=os.environ | {"PYTHONPATH": os.getcwd()})
    tally, stopping, memory = Tally(), threading.Event(), []
    try:
        address, rest_port = process.stdout.readline().split()
        callers = [
            threading.Thread(target=call_grpc, args=(model, address, number, tally, stopping))
            for number in range(CALLERS)]
        callers += [
            threading.Thread(target=call_rest, args=(model, int(rest_port), number, tally, stopping))
            for number in range(REST_CALLERS)]
        begun = time.monotonic()
        for caller in callers:
            caller.start()
        waiting = list(VERSIONS[1:])
        while (share := (time.monotonic() - begun) / seconds) < 1:
            if waiting and share > 0.2 * (waiting[0] - 1):
                (aside / str(waiting[0])).rename(folder / str(waiting.pop(0)))
            memory.append((share, memory_of(process)))
            time.sleep(0.25)
        ended = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        time.sleep(0.5)  # callers find nobody there
    finally:
        stopping.set()
        process.kill()
        process.wait()
    for caller in callers:
        caller.join(60)
    before = [wrong for wrong in tally.wrong if wrong[0] < ended - 0.5]
    assert not before, before[:5]
    # At its end the server may only send requests away, before it computed them: what it says it answered, arrived.
    assert {code for _, code, _ in tally.wrong} <= {"UNAVAILABLE", "CANCELLED", "REST 503"}
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    computed = {line["request_id"] for line in logged if line.get("code") == "OK"}
    assert len(computed) > len(tally.answered) / 2 and computed <= tally.answered
    assert tally.versions >= {*VERSIONS}
    assert tally.codes["INVALID_ARGUMENT"] and tally.codes["NOT_FOUND"] and tally.codes["FAILED_PRECONDITION"]
    levels = {
        at: statistics.median(size for share, size in memory if at <= share < at + 0.1)
        for at in (0.1, 0.5, 0.7, 0.9)}
    times = np.array([taken for start, taken in tally.seconds if start < ended])
    print(
        f"\n{len(times)} requests in {ended - begun:.0f} s, {len(times) / (ended - begun):.0f} a second; "
        f"p50 {1e3 * np.percentile(times, 50):.1f} ms, p99 {1e3 * np.percentile(times, 99):.1f} ms, "
        f"longest {1e3 * times.max():.0f} ms; {dict(tally.codes)}; memory in MB "
        f"{ {at: round(size / 1e6) for at, size in levels.items()} }")
    assert levels[0.9] < 1.02 * levels[0.7] + 5e6  # between the same versions
    assert levels[0.9] < levels[0.5] + 50e6  # after a reload more
