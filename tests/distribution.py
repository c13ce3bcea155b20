"""How far the gradient of a training step by `fit` is from that of one device: replicas, accumulation, and both.

    python -m tests.distribution

prints a table, with --json the figures alone. A process of its own: TensorFlow fixes its devices at the first use.
"""

import argparse
import json

import keras
import numpy as np
import tensorflow as tf

from tfseq2seq.config import Model
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model
from tfseq2seq.structures import BOS, EOS, PAD
from tfseq2seq.training import make_strategy

FAMILIES = {
    "recurrent": {
        "encoder": {"kind": "recurrent", "units": 6, "dropout": 0.0},
        "decoder": {"kind": "attentional", "units": 8, "dropout": 0.0}},
    "transformer": {
        side: {"kind": "transformer", "layers": 1, "units": 8, "heads": 2, "feed_forward_units": 16, "dropout": 0.0}
        for side in ("encoder", "decoder")}}
CASES = {"2 replicas": (2, 1), "accumulation 4": (1, 4), "2 replicas, accumulation 2": (2, 2)}  # replicas, parts
VARIANTS = {"given weights": (True, None), "own weights, clipped": (False, 0.1)}  # whether given, clip norm

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


def take_step(family, replicas, parts, weighted, clip_norm):
    """The gradient that the optimizer's first step was given, and what `fit` logs."""
    keras.utils.set_random_seed(1)
    with make_strategy(replicas).scope():
        model = build_model(Model(embedding_units=8, **FAMILIES[family]), 11, 10)
        model.accumulation_steps = parts
        model.compile(keras.optimizers.SGD(1.0, momentum=0.5, global_clipnorm=clip_norm), loss=TokenCrossEntropy(0.1))
    source, target, labels = make_batch()
    real = (labels != PAD).astype(np.float32)
    columns = ({"source": source, "target": target}, labels, *([real / real.sum()] if weighted else []))
    logs = model.fit(tf.data.Dataset.from_tensor_slices(columns).batch(8), epochs=1, verbose=0, shuffle=False).history
    gradient = [-variable.numpy() for variable in model.optimizer.momentums]  # so it is after one step, to the bit
    logs = {name: values[0] for name, values in logs.items()}
    return gradient, {**logs, "gradient_norm": float(tf.convert_to_tensor(model.gradient_norm))}


def compare(family, replicas, parts, weighted, clip_norm, one):
    """The largest difference to the gradient of `one`, as a share of the largest; its norm; both logs."""
    gradient, logs = take_step(family, replicas, parts, weighted, clip_norm)
    expected, expected_logs = one
    largest = max(np.abs(part).max() for part in expected)
    difference = max(np.abs(a - b).max() for a, b in zip(expected, gradient, strict=True)) / largest
    norm = np.sqrt(sum((part**2).sum() for part in expected))
    return {"difference": float(difference), "norm": float(norm), "expected": expected_logs, "found": logs}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    found = {}
    for family in FAMILIES:
        for variant, options in VARIANTS.items():
            one = take_step(family, 1, 1, *options)
            for case, (replicas, parts) in CASES.items():
                found[f"{family}: {case}: {variant}"] = compare(family, replicas, parts, *options, one)
    if arguments.json:
        print(json.dumps(found))
        return
    print("Largest difference to the gradient of one device, as a share of its largest value:")
    for name, case in found.items():
        print(f"  {name:65} {case['difference']:.1e}")


if __name__ == "__main__":
    main()
