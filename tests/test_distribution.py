"""Contract 4: one device and two replicas give the same gradient and the same training.

Two logical CPU devices need a process of their own: TensorFlow fixes its devices at the first use.
"""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tfseq2seq.config import Model
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model
from tfseq2seq.training import make_strategy

model_config = Model(
    embedding_units=8, encoder={"units": 6, "dropout": 0.0}, decoder={"units": 8, "dropout": 0.0})
random = np.random.default_rng(0)
# The halves hold 3 and 17 real tokens: an average of replica means would be far off.
lengths = [1, 2, 0, 0, 5, 5, 4, 3]
source, target, labels = (np.zeros((8, 6), np.int32) for _ in range(3))
for row, length in enumerate(lengths):
    if length:
        source[row, :length + 1] = [*random.integers(4, 11, length), 3]
        words = random.integers(4, 10, length - 1)
        target[row, :length] = [2, *words]
        labels[row, :length] = [*words, 3]
real = (labels != 0).astype(np.float32)

def run(replicas, weighted, clip):
    keras.utils.set_random_seed(1)
    with make_strategy(replicas).scope():
        model = build_model(model_config, 11, 10)
        model.compile(keras.optimizers.SGD(1.0, global_clipnorm=clip), loss=TokenCrossEntropy(0.1))
    before = [v.numpy().copy() for v in model.trainable_variables]
    columns = ({"source": source, "target": target}, labels) + ((real / real.sum(),) if weighted else ())
    data = tf.data.Dataset.from_tensors(columns).unbatch().batch(8)
    logs = model.fit(data, epochs=1, verbose=0).history
    step = [v.numpy() - old for v, old in zip(model.trainable_variables, before)]
    logs = {name: values[0] for name, values in logs.items()}
    return step, {**logs, "gradient_norm": float(tf.convert_to_tensor(model.gradient_norm))}

def largest_difference(weighted, clip):
    (one, one_logs), (two, two_logs) = run(1, weighted, clip), run(2, weighted, clip)
    largest = max(np.abs(g).max() for g in one)
    difference = max(np.abs(a - b).max() for a, b in zip(one, two)) / largest
    norm = float(np.sqrt(sum((g ** 2).sum() for g in one)))
    return {"difference": float(difference), "norm": norm, "one": one_logs, "two": two_logs}

print(json.dumps({
    "weights": largest_difference(True, None),
    "no weights": largest_difference(False, None),
    "clipped": largest_difference(True, 0.1),
}))
"""


def test_two_replicas_with_uneven_halves_take_the_step_of_one_device():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    for case in found.values():
        assert case["difference"] <= 1e-6
        for name, value in case["one"].items():
            assert abs(case["two"][name] - value) <= 1e-5 * max(1.0, abs(value)), name
    # Rate 1 and plain gradient descent: the step is the clipped gradient of the global batch.
    assert abs(found["clipped"]["norm"] - 0.1) < 1e-5
    assert found["weights"]["norm"] > 0.2
