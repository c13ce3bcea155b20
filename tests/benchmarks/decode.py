"""Decoding, beside the rivals: python -m tests.benchmarks.decode [small base recurrent] [--turns 3] [--streams 2]

Needs the environments of README.md; a rival without one is left out. Each side is a process under its own interpreter
that waits while another works, and all have the same weights (see `weights`), float32 and the same source ids, 5 to 40
tokens, mean 20. The end token, the limit of 60 tokens and the length penalty of 0.6 are on.

Before the clock runs, greedy outputs must be the same on all sides. With a beam they need not be: sides differ in the
length penalty's formula and in when a search ends, so the share of equal outputs is printed, and what each side's
outputs are worth under the model. Every timed pass must give the tokens and scores of the first. A pass is two batches
of 32, or 8 sentences one by one; the ratio is the median over the turns of the rival's seconds and ours.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.benchmarks import results, weights
from tests.benchmarks.sizes import EOS, RECURRENT_SIZES, SIZES, draw_lengths
from tests.benchmarks.workers import Worker

ALL_SIZES = {**SIZES, **RECURRENT_SIZES}
# A batch, and batches in a pass: two batches even where one is decoded at a time, for the same work with two streams.
PASSES = {32: 2, 1: 8}
SETTLE = 0.3  # seconds; some libraries' threads wait for work by spinning


class SideChoice(NamedTuple):
    """A side that can be run.

    Attributes:
        label: for the table.
        entry: module:class.
        sizes: names that it can be asked for.
        variable: environment variable with its interpreter.
        package: what that interpreter needs.
    """

    label: str
    entry: str
    sizes: Sequence[str]
    variable: str
    package: str


_RIVALS = "tests.benchmarks.rivals"
SIDES = {
    "ours": SideChoice("ours", f"{_RIVALS}.ours:Ours", tuple(ALL_SIZES), "OURS_PYTHON", "tfseq2seq"),
    "ours_compiled": SideChoice(
        "ours, jit_compile", f"{_RIVALS}.ours:OursCompiled", tuple(ALL_SIZES), "OURS_PYTHON", "tfseq2seq"),
    "ctranslate2": SideChoice(
        "CTranslate2", f"{_RIVALS}.ctranslate:CTranslate2", tuple(SIZES), "CTRANSLATE2_PYTHON", "ctranslate2"),
    "transformers": SideChoice(
        "Transformers", f"{_RIVALS}.hugging_face:Transformers", tuple(SIZES), "TRANSFORMERS_PYTHON",
        "torch and transformers"),
    "opennmt_tf": SideChoice(
        "OpenNMT-tf", f"{_RIVALS}.opennmt_tf:OpenNMT", tuple(ALL_SIZES), "OPENNMT_TF_PYTHON", "OpenNMT-tf"),
    "addons": SideChoice(
        "Addons", f"{_RIVALS}.addons:Addons", tuple(RECURRENT_SIZES), "ADDONS_PYTHON", "tensorflow-addons"),
}


def draw_sources(vocabulary_size):
    """Batches of ids by batch size: the first sentences of the large batches are those decoded one by one."""
    random = np.random.default_rng(0)
    lengths = draw_lengths(random, max(size * count for size, count in PASSES.items()))
    rows = [[*random.integers(4, vocabulary_size, length - 1).tolist(), EOS] for length in lengths]
    return {
        size: [rows[start:start + size] for start in range(0, size * count, size)] for size, count in PASSES.items()}


def start_sides(names, size_name, path, streams):
    """Workers by name; a side whose packages are missing is left out, with a line that says so."""
    workers = {}
    for name in names:
        choice = SIDES[name]
        if size_name not in choice.sizes:
            continue
        python = os.environ.get(choice.variable, sys.executable)
        try:
            workers[name] = Worker(choice.entry, ALL_SIZES[size_name], path, streams, python=python)
        except ValueError as error:
            if name == "ours":
                raise
            print(
                f"{choice.label} is left out: set {choice.variable} to the Python of an environment with "
                f"{choice.package} (tests/benchmarks/README.md says how to make it). {error}", flush=True)
    return workers


def decode(worker, batches, beam_size):
    """A worker's answers, and its seconds."""
    answers, seconds = worker.ask("decode", batches, beam_size)
    return [results.Decoded(tuple(tokens), log_probability) for tokens, log_probability in answers], seconds


def value(ours, batches, answers):
    """The answers with their log-probabilities under the model: they are compared by what they are worth."""
    rows = [row for batch in batches for row in batch]
    scored = []
    for start in range(0, len(rows), 32):
        part = [list(answer.tokens) for answer in answers[start:start + 32]]
        scored += ours.ask("score", rows[start:start + 32], part)[0]
    return [results.Decoded(answer.tokens, score) for answer, score in zip(answers, scored, strict=True)]


def check_greedy(answers):
    """Raises ValueError where greedy outputs differ between sides, which have the same weights."""
    for name, found in answers.items():
        share = results.equal_share(answers["ours"], found)
        if share < 1:
            raise ValueError(
                f"All sides need the same greedy outputs. Received: {name} with {share:.1%} equal to ours.")


class Measured(NamedTuple):
    """Of one case, by side.

    Attributes:
        answers: of every source.
        seconds: of each turn.
        peaks: of memory, MB.
        disturbance: share of the cores that other processes took meanwhile.
    """

    answers: dict
    seconds: dict
    peaks: dict
    disturbance: float


def measure(workers, batches, beam_size, turns):
    """Measures one case. Raises ValueError where a pass differs from the first, or greedy outputs between sides."""
    answers = {name: decode(worker, batches, beam_size)[0] for name, worker in workers.items()}  # warm-up
    if beam_size == 1:
        check_greedy(answers)
    seconds = {name: [] for name in workers}
    for worker in workers.values():
        worker.ask("forget_peak")
    start = _work_of_others(workers)
    for turn in range(turns):
        for name in list(workers)[turn % len(workers):] + list(workers)[: turn % len(workers)]:
            time.sleep(SETTLE)
            found, passed = decode(workers[name], batches, beam_size)
            if not results.repeats(answers[name], found):
                raise ValueError(f"A pass must repeat the first. Received: other tokens or scores, from {name}.")
            seconds[name].append(passed)
    worked, passed = _work_of_others(workers) - start
    peaks = {name: worker.ask("peak")[0] for name, worker in workers.items()}
    return Measured(answers, seconds, peaks, worked / (passed * os.cpu_count()))


def _work_of_others(workers):
    """Seconds that the cores have worked for processes other than these, and seconds so far."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
    busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # less idle and waiting
    own = sum(worker.ask("worked")[0] for worker in workers.values())
    return np.array([busy - own, time.perf_counter()])


def report(workers, batches, measured):
    """The table of one case."""
    answers, seconds, peaks, _ = measured
    sentences, rows = sum(map(len, batches)), []
    values = {name: value(workers["ours"], batches, found) for name, found in answers.items()}
    for name, found in answers.items():
        median = float(np.median(seconds[name]))
        off = results.largest_difference(found, values[name])
        rows.append([
            SIDES[name].label, f"{results.num_tokens(found) / median:,.0f}", f"{1e3 * median / sentences:,.1f}",
            f"{results.median_ratio(seconds['ours'], seconds[name]):.2f}", f"{peaks[name]:,.0f}",
            f"{results.equal_share(answers['ours'], found):.0%}",
            f"{results.mean_log_probability(values[name]):.4f}", "–" if np.isnan(off) else f"{off:.4f}",
            f"{results.num_tokens(found) / sentences:.1f}", results.checksum(found)])
    return results.table(
        ["", "tokens/s", "ms a sentence", "time / ours", "peak MB", "equal to ours", "nats a sentence",
         "own score off by", "tokens a sentence", "checksum"], rows)


def compare(name, sides, beam_sizes, batch_sizes, turns, streams):
    """Prints one size's tables."""
    size = ALL_SIZES[name]
    sources = draw_sources(size.vocabulary_size)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "weights.npz")
        weights.save(path, size)
        workers = start_sides(sides, name, path, streams)
        for beam_size in beam_sizes:
            for batch_size in batch_sizes:
                batches = sources[batch_size]
                measured = measure(workers, batches, beam_size, turns)
                print(
                    f"\n{name}, beam {beam_size}, batch {batch_size}, streams {streams}; other processes took "
                    f"{measured.disturbance:.0%} of the cores\n\n{report(workers, batches, measured)}", flush=True)
        for worker in workers.values():
            worker.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", choices=ALL_SIZES, default=["small", "base", "recurrent"])
    parser.add_argument("--turns", type=int, default=3, help="timed passes of each side; the ratio is the median")
    parser.add_argument("--streams", type=int, choices=[1, 2], default=1, help="batches at once, which share the cores")
    parser.add_argument("--beam-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--batch-sizes", type=int, nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="ours is always among them")
    arguments = parser.parse_args()
    chosen = ["ours", *(side for side in arguments.sides if side != "ours")]
    for size_name in arguments.sizes:
        compare(
            size_name, chosen, arguments.beam_sizes, arguments.batch_sizes, arguments.turns, arguments.streams)
