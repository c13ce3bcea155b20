"""Two processes on loopback that train one model as two hosts."""

import os
import signal
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.distribution import start_hosts
from tfseq2seq import checkpoints
from tfseq2seq.distribution import Hosts, make_strategy

# The command line, and the weights that this host has at the end.
SCRIPT = """
import sys
import numpy as np
from tfseq2seq import cli, training
made, make = [], training._compiled_model
training._compiled_model = lambda *arguments: made.append(make(*arguments)) or made[-1]
path, sys.argv = sys.argv[1], ["tfseq2seq", *sys.argv[2:]]
try:
    cli.main()
finally:
    if made:
        np.savez(path, *(weight.value.numpy() for weight in made[0].weights))
"""
SETTINGS = (
    "train.steps=12", "train.evaluate_every=8", "train.checkpoint_every=3", "train.accumulation_steps=2",
    "train.average_decay=0.9", "train.schedule=plateau", "train.teacher_forcing_ratio=0.8")


def start(recipe, folder, *settings, of_second=()):
    folder.mkdir(exist_ok=True)
    options = [[], []]
    for given, more in zip(options, ((), of_second), strict=True):
        for setting in (*SETTINGS, *settings, *more):
            given += ["--set", setting]
    environment = {"PYTHONPATH": os.getcwd(), "COLUMNS": "200"}
    return start_hosts(
        lambda index: [
            sys.executable, "-c", SCRIPT, str(folder / f"{index}.npz"), "train", str(recipe), "--runs", str(folder),
            *options[index]], environment)


def finish(hosts, timeout=180):
    """Exit codes and what each host has said."""
    said = [host.communicate(timeout=timeout)[1] for host in hosts]
    return [host.returncode for host in hosts], said


def weights(folder):
    """Of both hosts."""
    found = []
    for index in range(2):
        with np.load(folder / f"{index}.npz") as file:
            found.append([file[name] for name in file.files])
    return found


def wait_for_checkpoint(hosts, folder):
    deadline = time.monotonic() + 180
    while not checkpoints.steps(folder / "tiny" / "checkpoints"):
        assert time.monotonic() < deadline and all(host.poll() is None for host in hosts), finish(hosts)
        time.sleep(0.02)


def assert_equal(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def undisturbed(tiny_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    codes, said = finish(start(tiny_recipe, folder))
    assert codes == [0, 0], said
    assert "valid loss" in said[0] and "next: tfseq2seq evaluate" in said[0]
    assert "valid loss" not in said[1] and "next: " not in said[1]
    return folder


def test_two_hosts_end_with_equal_weights_and_one_of_them_saves(undisturbed):
    one, two = weights(undisturbed)
    assert_equal(one, two)
    assert checkpoints.steps(undisturbed / "tiny" / "checkpoints")[-1] == 12
    rows = (undisturbed / "tiny" / "metrics.jsonl").read_text().splitlines()
    assert sum("valid_loss" in row for row in rows) == 2  # steps 8 and 12, each once


def test_one_host_killed_and_both_started_again_end_as_if_not(undisturbed, tiny_recipe, tmp_path):
    hosts = start(tiny_recipe, tmp_path)
    wait_for_checkpoint(hosts, tmp_path)
    hosts[1].send_signal(signal.SIGKILL)
    codes, said = finish(hosts)
    assert codes == [1, -signal.SIGKILL]
    assert "another host went away. Start all of them again" in said[0] and "Traceback" not in said[0]
    assert checkpoints.steps(tmp_path / "tiny" / "checkpoints")[-1] < 12
    codes, said = finish(start(tiny_recipe, tmp_path))
    assert codes == [0, 0], said
    assert "going on from step" in said[0]
    for one, two in zip(weights(undisturbed), weights(tmp_path), strict=True):
        assert_equal(one, two)


def test_a_signal_to_one_host_ends_all_of_them_with_everything_saved(tiny_recipe, tmp_path):
    hosts = start(tiny_recipe, tmp_path, "train.steps=4000", "train.evaluate_every=4000")
    wait_for_checkpoint(hosts, tmp_path)
    hosts[1].send_signal(signal.SIGTERM)
    codes, said = finish(hosts)
    assert codes == [128 + signal.SIGTERM] * 2, said
    assert_equal(*weights(tmp_path))


def test_hosts_with_other_settings_end_at_once(tiny_recipe, tmp_path):
    codes, said = finish(start(tiny_recipe, tmp_path, of_second=["train.steps=13"]))
    assert codes == [1, 1]
    assert "every host needs the same recipe and the same --set options. Received: 1 that differ" in said[0]
    assert "this one among them" in said[1] and "this one" not in said[0]
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("message, told", [("", "UnavailableError"), ("\n", "UnavailableError"), ("a\nb", "a")])
def test_a_loss_is_told_whatever_the_error_says(message, told):
    hosts = Hosts(make_strategy(1))
    hosts.several = True
    with pytest.raises(RuntimeError, match=f"another host went away.*Received: {told}$"), hosts.explaining_loss():
        raise tf.errors.UnavailableError(None, None, message)


def test_a_start_after_tensorflow_has_computed_is_refused(monkeypatch):
    assert float(tf.constant(1.0)) == 1.0
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}')
    with pytest.raises(ValueError, match=r"before TensorFlow computes anything.*make_strategy\(\) first"):
        make_strategy()


@pytest.mark.parametrize("config, message", [
    ("[", "TF_CONFIG must be as"),
    ('{"cluster": {"worker": ["a:1", "b:1"]}}', "TF_CONFIG must be as"),
    ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}', "worker and chief"),
    ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}', "none of its cluster"),
])
def test_a_broken_tf_config_is_refused(monkeypatch, config, message):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=message):
        make_strategy()


def test_replicas_are_refused_on_several_hosts(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}')
    with pytest.raises(ValueError, match="train.replicas chooses devices of one host"):
        make_strategy(2)


def test_a_cluster_of_one_is_one_host(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}')
    assert make_strategy(1).num_replicas_in_sync == 1
