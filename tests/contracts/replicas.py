"""Gradients of the pairs named as arguments, on one device and as the sum over two replicas: compared, as JSON.

A process of its own: TensorFlow fixes its devices at the first use.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from tests.contracts.cases import make
from tests.distribution import make_batch
from tfseq2seq.distribution import make_strategy
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.structures import PAD


def make_weighted_batch():
    """source, target and labels [8, 6], and weights that hold 1 / (real tokens of both halves)."""
    source, target, labels = make_batch()
    real = (labels != PAD).astype(np.float32)
    return source, target, labels, real / real.sum()


def gradients_of(model, source, target, labels, weights):
    with tf.GradientTape() as tape:
        logits = model({"source": source, "target": target}, training=True)
        loss = TokenCrossEntropy(0.1)(labels, logits, sample_weight=weights)
    gradients = tape.gradient(loss, model.trainable_variables)
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def compare(pair, strategy, batch):
    """The gradients' largest difference, as a share of the largest gradient, and whether all are finite."""
    one = gradients_of(make(pair), *map(tf.constant, batch))
    with strategy.scope():
        model = make(pair)
    halves = [
        strategy.experimental_distribute_values_from_function(
            lambda context, part=part: tf.constant(np.split(part, 2)[context.replica_id_in_sync_group]))
        for part in batch]
    # Without a graph: to trace one takes ten times as long.
    replicas = strategy.run(lambda *half: gradients_of(model, *half), args=halves)
    two = [sum(strategy.experimental_local_results(gradient)) for gradient in replicas]
    largest = max(np.abs(gradient).max() for gradient in one)
    difference = max(np.abs(each - other).max() for each, other in zip(one, two, strict=True))
    return {
        "replicas": strategy.num_replicas_in_sync, "largest": float(largest),
        "difference": float(difference / largest), "finite": all(bool(np.isfinite(gradient).all()) for gradient in two)}


if __name__ == "__main__":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    mirrored = make_strategy(2)
    print(json.dumps({pair: compare(pair, mirrored, make_weighted_batch()) for pair in sys.argv[1:]}))
