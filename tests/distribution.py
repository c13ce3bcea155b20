"""How far the gradient of a training step by `fit` is from that of one device: replicas, hosts, accumulation.

    python -m tests.distribution

prints a table, with --json the figures alone, with --few each case for one family only.
A process of its own: TensorFlow fixes its devices at the first use.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfseq2seq.config import Model
from tfseq2seq.distillation import Distillation
from tfseq2seq.distribution import distribute, make_strategy
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model
from tfseq2seq.structures import BOS, EOS, PAD

FAMILIES = {
    "recurrent": {
        "encoder": {"kind": "recurrent", "units": 6, "dropout": 0.0},
        "decoder": {"kind": "attentional", "units": 8, "dropout": 0.0}},
    "transformer": {
        side: {"kind": "transformer", "layers": 1, "units": 8, "heads": 2, "feed_forward_units": 16, "dropout": 0.0}
        for side in ("encoder", "decoder")}}
CASES = {"2 replicas": (2, 1), "accumulation 4": (1, 4), "2 replicas, accumulation 2": (2, 2)}  # replicas, parts
HOST_CASES = {"2 workers": 1, "2 workers, accumulation 2": 2}  # parts
GIVEN, OWN = "given weights", "own weights, clipped"
VARIANTS = {GIVEN: (True, None), OWN: (False, 0.1)}  # whether given, clip norm
PAIR_WEIGHTS = np.array([2.0, 0.5, 1.0, 1.0, 0.25, 1.0, 0.0, 3.0], np.float32)  # of each row, where weights are given
TAUGHT = "guided alignment and a teacher"
PLANS = [
    (family, case, variant) for family in FAMILIES
    for case, variant in [(case, OWN) for case in (*CASES, *HOST_CASES)] + [("2 replicas, accumulation 2", GIVEN)]]
PLANS.append(("recurrent", "2 workers", TAUGHT))
FEW_PLANS = [  # parts on one device are in tests/test_fit_functions.py
    ("recurrent", "2 replicas", OWN), ("transformer", "2 replicas, accumulation 2", OWN),
    ("recurrent", "2 replicas, accumulation 2", GIVEN), ("transformer", "2 workers", OWN),
    ("recurrent", "2 workers, accumulation 2", OWN), ("recurrent", "2 workers", TAUGHT)]

# Target tokens of each row. The halves hold 3 and 17: a mean of the replicas' means would be far off.
LENGTHS = [1, 2, 0, 0, 5, 5, 4, 3]


def make_batch():
    """source, target and labels [8, 6] int32."""
    random = np.random.default_rng(0)
    source, target, labels = (np.full((8, 6), PAD, np.int32) for _ in range(3))
    for row, length in enumerate(LENGTHS):
        if length:
            source[row, : length + 1] = [*random.integers(4, 11, length), EOS]
            words = random.integers(4, 10, length - 1)
            target[row, :length] = [BOS, *words]
            labels[row, :length] = [*words, EOS]
    return source, target, labels


def make_alignment():
    """[8, 6, 6] float32: the t-th of n target tokens comes from the last but t of the source, the second from two."""
    alignment = np.zeros([8, 6, 6], np.float32)
    for row, length in enumerate(LENGTHS):
        for t in range(length - 1):
            alignment[row, t, length - 1 - t] = 1
        if length > 2:
            alignment[row, 1, :2] = 0.5
            alignment[row, 1, 2:] = 0
    return alignment


def step_of(family, variant, replicas, parts):
    """`take_step` of a variant; the taught one with the weights that are given."""
    if variant != TAUGHT:
        return take_step(family, replicas, parts, *VARIANTS[variant])

    def teach(model):
        model.guided_alignment_weight = 2.0
        keras.utils.set_random_seed(2)
        teacher = build_model(Model(embedding_units=8, **FAMILIES["transformer"]), 11, 10)
        model.distillation = Distillation(teacher, 0.7, 2.0)

    return take_step(family, replicas, parts, True, None, teach, {"alignment": make_alignment()})


def take_step(family, replicas, parts, weighted, clip_norm, change=None, more=None):
    """The gradient that the optimizer's first step was given, and what `fit` logs.

    `change` is told the model; `more` are inputs beside source and target.
    """
    keras.utils.set_random_seed(1)
    strategy = make_strategy(replicas)
    with strategy.scope():
        model = build_model(Model(embedding_units=8, **FAMILIES[family]), 11, 10)
        model.accumulation_steps = parts
        model.compile(keras.optimizers.SGD(1.0, momentum=0.5, global_clipnorm=clip_norm), loss=TokenCrossEntropy(0.1))
        if change is not None:
            change(model)
    source, target, labels = make_batch()
    weights = (labels != PAD) * PAIR_WEIGHTS[:, None]
    columns = (
        {"source": source, "target": target, **(more or {})}, labels, *([weights / weights.sum()] if weighted else []))

    def dataset(replicas):
        if replicas is None:
            return tf.data.Dataset.from_tensors(columns)
        return tf.data.Dataset.from_tensor_slices(
            tf.nest.map_structure(lambda each: np.stack(np.split(each, 2))[list(replicas)], columns))

    logs = model.fit(distribute(strategy, dataset), steps_per_epoch=1, epochs=1, verbose=0, shuffle=False).history
    gradient = [-variable.numpy() for variable in model.optimizer.momentums]  # so it is after one step, to the bit
    logs = {name: values[0] for name, values in logs.items()}
    if weighted:
        valid = model.evaluate(distribute(strategy, dataset), steps=1, verbose=0, return_dict=True)
        logs |= {f"valid_{name}": value for name, value in valid.items()}
    logs |= {"gradient_norm": float(tf.convert_to_tensor(model.gradient_norm)), "traces": model.num_traces}
    return gradient, logs


def compare(found, one):
    """The largest difference to the gradient of `one`, as a share of the largest; its norm; both logs."""
    (gradient, logs), (expected, expected_logs) = found, one
    largest = max(np.abs(part).max() for part in expected)
    difference = max(np.abs(a - b).max() for a, b in zip(expected, gradient, strict=True)) / largest
    norm = np.sqrt(sum((part**2).sum() for part in expected))
    return {"difference": float(difference), "norm": float(norm), "expected": expected_logs, "found": logs}


def steps_of_hosts(plans, path):
    """Writes what each of the HOST_CASES finds; to be called on all hosts, of which `TF_CONFIG` tells."""
    steps = {}
    for family, case, variant in plans:
        if case in HOST_CASES:
            steps[f"{family}: {case}: {variant}"] = step_of(family, variant, None, HOST_CASES[case])
    arrays = {f"{name}/{i}": part for name, (gradient, _) in steps.items() for i, part in enumerate(gradient)}
    np.savez(path, logs=json.dumps({name: logs for name, (_, logs) in steps.items()}), **arrays)


def start_hosts(arguments, environment=None):
    """Two processes of `arguments(index)`, told by `TF_CONFIG` of each other on loopback; stderr is a pipe."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
    configs = [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(2)]
    return [
        subprocess.Popen(
            arguments(index), stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {}), "TF_CONFIG": json.dumps(config)})
        for index, config in enumerate(configs)]


def compare_hosts(options, ones):
    """The HOST_CASES, by two processes with these options."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.npz" for index in range(2)]
        hosts = start_hosts(
            lambda index: [sys.executable, "-m", "tests.distribution", *options, "--host", str(paths[index])])
        for host in hosts:
            _, errors = host.communicate(timeout=900)
            if host.returncode:
                raise RuntimeError(errors[-3000:])
        found = {}
        for path in paths:
            with np.load(path) as file:
                for name, logs in json.loads(str(file["logs"])).items():
                    family, _, variant = name.split(": ")
                    one = ones[family, variant]
                    gradient = [file[f"{name}/{i}"] for i in range(len(one[0]))]
                    case = compare((gradient, logs), one)
                    if case["difference"] >= found.get(name, case)["difference"]:  # of the two hosts, the farther one
                        found[name] = case
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--host", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    plans = FEW_PLANS if arguments.few else PLANS
    if arguments.host:
        steps_of_hosts(plans, arguments.host)
        return
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    found, ones = {}, {}
    for family, case, variant in plans:
        if (family, variant) not in ones:
            ones[family, variant] = step_of(family, variant, 1, 1)
        if case in CASES:
            step = step_of(family, variant, *CASES[case])
            found[f"{family}: {case}: {variant}"] = compare(step, ones[family, variant])
    found |= compare_hosts(["--few"] if arguments.few else [], ones)
    if arguments.json:
        print(json.dumps(found))
        return
    print("Largest difference to the gradient of one device, as a share of its largest value:")
    for name in sorted(found):
        print(f"  {name:65} {found[name]['difference']:.1e}")


if __name__ == "__main__":
    main()
