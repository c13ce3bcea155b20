"""Batches from `tfseq2seq feed`: those of a local training, whatever happens to the feed."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from pipelines.feed_server import Feed
from pipelines.feeding import FeedError, FeedReader, fingerprint
from pipelines.prepare import load_prepared, make_batches
from tfseq2seq import checkpoints, runs
from tfseq2seq.callbacks import CountSteps
from tfseq2seq.config import ConfigError, load_recipe
from tfseq2seq.training import load_generator

QUIET = Console(quiet=True)
COMMAND = [sys.executable, "-c", "from tfseq2seq.cli import main; main()"]
DRAWN = {
    "data.share_tokenizer": True, "data.source_tokenizer": {"kind": "bpe", "vocabulary_size": 280},
    "train.source_subword_alpha": 0.3, "train.target_subword_alpha": 0.3, "train.valid_lines": 5,
    "train.evaluate_every": 200, "decode.beam_size": 1, "export.num_hypotheses": 1}


def start_feed(folder, *options, port=0):
    """The command, and the address that it prints."""
    usual = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.Popen(
        [*COMMAND, "feed", str(folder), "--port", str(port), *options], stderr=subprocess.PIPE, text=True,
        env={**usual, "PYTHONPATH": os.getcwd(), "COLUMNS": "300"})
    for line in process.stderr:
        assert "port.cc" not in line  # what TensorFlow says of a missing GPU, in each process
        if " at grpc://" in line:
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
            return process, line.partition(" at ")[2].partition(";")[0]
    raise AssertionError(f"the feed ended with {process.wait()}")


def descendants(process):
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *descendants(child)]
    return found


def free_port():
    """A port that nothing listens on, and neither on the next one."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("", 0))
            try:
                two.bind(("", one.getsockname()[1] + 1))
            except (OSError, OverflowError):
                continue
            return one.getsockname()[1]


def prepare(recipe, folder, **overrides):
    run = load_recipe(recipe, {**DRAWN, **overrides})
    runs.prepare_run(run, folder, QUIET)
    return load_prepared(folder)


def reader_of(prepared, addresses, replicas=1, patience=5.0):
    batches = make_batches(prepared, prepared.train, replicas, for_training=True)
    return batches, FeedReader(addresses, batches, fingerprint(prepared), patience)


def assert_equal(one, two):
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def folder(tiny_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fed") / "tiny"
    prepare(tiny_recipe, folder)
    return folder


@pytest.fixture(scope="module")
def feed(folder):
    feed = Feed(folder, port=0)
    yield feed
    feed.close()


@pytest.mark.parametrize("replicas", [1, 2])
def test_batches_are_those_of_a_local_training_from_any_step_on(folder, feed, replicas):
    batches, reader = reader_of(load_prepared(folder), feed.address, replicas)
    start = batches.steps_per_epoch - 3  # beyond the end of an epoch, where subwords are drawn anew
    local = batches.dataset(start).take(8)
    assert_equal(list(local), list(batches.dataset(start, read=reader.read).take(8)))
    assert_equal(
        list(batches.dataset(start, range(replicas)).take(4)),
        list(batches.dataset(start, range(replicas), read=reader.read).take(4)))


def weights_of(folder):
    run, prepared = runs.open_run(folder)
    step = checkpoints.steps(folder / "checkpoints")[-1]
    checkpoints.update_state(folder / "checkpoints", step, {})  # the newest is to be read, whatever its metric
    return step, load_generator(run, prepared, folder).model.get_weights()


def test_a_training_whose_feed_dies_and_that_is_resumed_ends_with_the_weights_of_one_without(
        tiny_recipe, tmp_path, monkeypatch):
    def train(name, steps, **more):
        run = load_recipe(tiny_recipe, {**DRAWN, "train.steps": steps, **more})
        assert runs.train_run(run, tmp_path / name, QUIET).step == steps

    train("local", 200)
    prepare(tiny_recipe, tmp_path / "fed")
    port = free_port()
    feeds = [Feed(tmp_path / "local", port)]  # the other run's data are the same
    opened, open_, end = [], FeedReader._open, CountSteps.on_train_batch_end

    def restart(self, batch, logs=None):
        end(self, batch, logs)
        if self.progress.step == 11:
            feeds[-1].process.kill()
            feeds[-1].process.join()
            feeds.append(Feed(tmp_path / "fed", port))

    try:
        train("fed", 9, **{"train.data_service": feeds[0].address})
        assert checkpoints.steps(tmp_path / "fed" / "checkpoints")[-1] == 9  # in mid-epoch
        monkeypatch.setattr(CountSteps, "on_train_batch_end", restart)
        monkeypatch.setattr(FeedReader, "_open", lambda self, *where: opened.append(where[1]) or open_(self, *where))
        train("fed", 200, **{"train.data_service": feeds[0].address})
        assert len(opened) == 2 and opened[0] == 9 and 11 < opened[1] < 200
    finally:
        for feed in feeds:
            feed.close()
    local, fed = weights_of(tmp_path / "local"), weights_of(tmp_path / "fed")
    assert local[0] == fed[0] == 200
    assert_equal(local[1], fed[1])


def test_several_feeds_and_workers_keep_the_order_and_end_without_a_trace(folder):
    starts = [lambda: start_feed(folder, "--workers", "2"), lambda: start_feed(folder)]
    with futures.ThreadPoolExecutor() as pool:
        feeds = [each.result() for each in [pool.submit(start) for start in starts]]
    children = [descendants(process.pid) for process, _ in feeds]
    try:
        batches, reader = reader_of(load_prepared(folder), [address for _, address in feeds])
        assert_equal(list(batches.dataset(5).take(20)), list(batches.dataset(5, read=reader.read).take(20)))
        children = [descendants(process.pid) for process, _ in feeds]
        assert len(children[0]) == len(children[1]) + 2
        feeds[1][0].send_signal(signal.SIGINT)
        assert feeds[1][0].wait(20) == 0
    finally:
        for process, _ in feeds:
            process.kill()
            process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{each}").exists() for each in itertools.chain(*children)):
        assert time.monotonic() < deadline, "a process of a killed feed lives on"
        time.sleep(0.1)


def test_a_feed_that_dies_for_good_ends_training_with_one_line(tiny_recipe, tmp_path, monkeypatch):
    settings = {**DRAWN, "train.steps": 10**6, "train.evaluate_every": 10**6}
    prepare(tiny_recipe, tmp_path / "tiny", **settings)
    feed, end, died = Feed(tmp_path / "tiny", port=0), CountSteps.on_train_batch_end, []

    def kill(self, batch, logs=None):
        end(self, batch, logs)
        if self.progress.step == 5:
            feed.close()
            died.append(time.monotonic())

    monkeypatch.setattr(CountSteps, "on_train_batch_end", kill)
    monkeypatch.setattr(FeedReader.__init__, "__defaults__", (1.0,))  # patience
    try:
        with pytest.raises(FeedError, match=f"^train.data_service needs a feed at {feed.address}: start `tfseq2seq fe"):
            run = load_recipe(tiny_recipe, {**settings, "train.data_service": feed.address})
            runs.train_run(run, tmp_path / "tiny", QUIET)
    finally:
        feed.close()
    assert time.monotonic() - died[0] < 30


def test_a_feed_of_other_data_is_refused(tiny_recipe, feed, tmp_path):
    prepared = prepare(tiny_recipe, tmp_path / "other", **{"train.seed": 2})
    with pytest.raises(FeedError, match=r"makes the batches of other data or settings.*a feed of .*/tiny"):
        reader_of(prepared, feed.address)[1].check()
    run = load_recipe(tiny_recipe, {**DRAWN, "train.seed": 2, "train.data_service": feed.address})
    with pytest.raises(FeedError, match="other data"):
        runs.train_run(run, tmp_path / "other", QUIET)


@pytest.mark.parametrize("what, reason", [
    ("nothing", "UNAVAILABLE"), ("silence", "DEADLINE_EXCEEDED"),
    ("another service", "Dataset id tfseq2seq not found")])
def test_what_is_no_feed_is_told_within_seconds(folder, what, reason):
    with socket.socket() as silent:
        silent.bind(("localhost", 0))
        if what == "silence":
            silent.listen()  # the system accepts, and nobody reads
        address, service = f"grpc://localhost:{silent.getsockname()[1]}", None
        if what == "another service":
            service = tf.data.experimental.service.DispatchServer()
            address = service.target
        began = time.monotonic()
        with pytest.raises(FeedError, match=f"needs a feed at {address}.*Received: .*{reason}"):
            reader_of(load_prepared(folder), address)[1].check()
        assert time.monotonic() - began < 15


def test_a_taken_port_is_refused(folder):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} cannot be listened on; give another --port.*in use"):
            Feed(folder, port=port)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        Feed(tmp_path, port=0)


@pytest.mark.parametrize("address", ["localhost:5050", "grpc://localhost", []])
def test_addresses_that_cannot_be_are_refused(tiny_recipe, address):
    with pytest.raises(ConfigError, match=r"data_service needs addresses.*grpc://host:5050"):
        load_recipe(tiny_recipe, {"train.data_service": address})
