"""The embedded server, with rows joined and without: python -m tests.benchmarks.serve [small] [--callers 16]

Both servers are processes of their own with the same export of a model that was not trained (see `weights`): beam 4,
sentences of 5 to 40 tokens, mean 20, one a request. So many callers ask one after the other, each waiting for its
answer. Before the clock runs both servers must give the same answers. The servers take turns; the ratio is the median
over the turns of requests a second with batching and without.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from tests.benchmarks import results, weights
from tests.benchmarks.sizes import SIZES, draw_lengths

BEAM_SIZE, MAX_LENGTH, MAX_SOURCE_LENGTH = 4, 60, 64
SERVE = """
import sys
from tfseq2seq import cpu
cpu.prepare()  # as the command line does
from serving.server import serve
from serving.settings import BATCHING
batching = BATCHING if sys.argv[2] == "batching" else None
serve(sys.argv[1], port=0, batching=batching, on_ready=lambda address: print(address, flush=True))
"""


def write_export(size, folder):
    """Exports a Transformer whose tokens are the words w0, w1, ..."""
    from serving.export import export
    from tests.benchmarks.rivals.ours import make_transformer
    from tfseq2seq.config import Decode, Tokenizer
    from tfseq2seq.generation import Generator
    from tfseq2seq.tokenizers import train_tokenizer

    weights.save(folder / "weights.npz", size)
    lines = [f"w{number}" for number in range(size.vocabulary_size - 4)]
    tokenizer = train_tokenizer(Tokenizer(kind="words", vocabulary_size=size.vocabulary_size), lines)
    generator = Generator(
        make_transformer(size, weights.load(folder / "weights.npz")), tokenizer, tokenizer,
        Decode(beam_size=BEAM_SIZE, max_length=MAX_LENGTH), MAX_SOURCE_LENGTH)
    export(
        generator, folder / "export", config_json=json.dumps({"name": "benchmark"}), check_sources=["w1 w2 w3 w4 w5"],
        check_targets=["w1"], num_hypotheses=1)
    return folder / "export"


def draw_texts(size, count):
    """Sentences of made-up words."""
    random = np.random.default_rng(0)
    return [
        " ".join(f"w{number}" for number in random.integers(0, size.vocabulary_size - 4, length - 1))
        for length in draw_lengths(random, count)]


class Server:
    """What `tfseq2seq serve` runs, in a process of its own."""

    def __init__(self, folder, kind):
        self._process = subprocess.Popen([sys.executable, "-c", SERVE, folder, kind], stdout=subprocess.PIPE, text=True)
        self.address = self._process.stdout.readline().strip()

    def stop(self):
        """Ends it."""
        self._process.terminate()
        self._process.wait()


def ask(address, texts, callers):
    """Answers in the order of the texts, seconds of each, and seconds of all."""
    from serving.client import Client

    answers, seconds, waiting = [None] * len(texts), [0.0] * len(texts), iter(range(len(texts)))
    lock = threading.Lock()

    def call():
        with Client(address) as client:
            while True:
                with lock:
                    number = next(waiting, None)
                if number is None:
                    return
                begun = time.monotonic()
                answers[number] = client.predict([texts[number]])[0][0].text
                seconds[number] = time.monotonic() - begun

    threads = [threading.Thread(target=call) for _ in range(callers)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, seconds, time.monotonic() - begun


def main():
    """Prints a table, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("size", nargs="?", choices=SIZES, default="small")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--requests", type=int, default=192, help="a turn")
    parser.add_argument("--turns", type=int, default=3)
    settings = parser.parse_args()
    size = SIZES[settings.size]
    texts = draw_texts(size, settings.requests)
    with tempfile.TemporaryDirectory() as folder:
        served = write_export(size, Path(folder))
        sides = {name: Server(served, name) for name in ("batching", "no batching")}
        try:
            checked = [ask(server.address, texts, settings.callers)[0] for server in sides.values()]
            if checked[0] != checked[1]:
                equal = statistics.fmean(one == two for one, two in zip(*checked, strict=True))
                raise ValueError(f"Both servers need the same answers. Received: {equal:.1%} of them equal.")
            taken = {name: [] for name in sides}
            rates = {name: [] for name in sides}
            for _ in range(settings.turns):
                for name, server in sides.items():
                    _, seconds, all_seconds = ask(server.address, texts, settings.callers)
                    taken[name] += seconds
                    rates[name].append(len(texts) / all_seconds)
        finally:
            for server in sides.values():
                server.stop()
    rows = []
    for name in sides:
        latencies = [f"{1e3 * np.percentile(taken[name], at):.0f}" for at in (50, 99)]
        rows.append([name, f"{statistics.median(rates[name]):.1f}", *latencies])
    print(
        f"{settings.size}, beam {BEAM_SIZE}, {settings.callers} callers, {settings.turns} turns of {len(texts)} "
        "requests\n")
    print(results.table(["", "requests/s", "p50 ms", "p99 ms"], rows))
    ratio = statistics.median(
        one / two for one, two in zip(rates["batching"], rates["no batching"], strict=True))
    print(f"\nrequests a second with batching / without: {ratio:.2f}")


if __name__ == "__main__":
    main()
