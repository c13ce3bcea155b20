"""LSTM and GRU against Keras' own: python tests/benchmarks/recurrent.py [repeats]

A step of training is outputs, last state, and the gradients of inputs, first state and weights. Both sides
run in turn, and the ratio is the median over the turns, since a busy machine slows both. Both must first
give the same numbers, or nothing is timed.

Last run (commit 601ea14, 2 cores with AVX2, 15 repeats, other work on the machine), ours / Keras:

                         training   inference
    LSTM 64 x 30 x 512       0.58        0.74
    LSTM 256 x 12 x 256      0.86        0.97
    GRU 64 x 30 x 512        0.67        0.96
    GRU 256 x 12 x 256       0.86        1.02
"""

import sys
import time

import keras
import numpy as np
import tensorflow as tf

from tfseq2seq.layers.recurrent import CELLS

SIZES = [(64, 30, 512), (256, 12, 256)]  # batch, steps, units; inputs as wide as the state
KERAS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


def functions(layer, call, units):
    """One step of training and one of inference, traced once for any batch and number of steps."""

    def infer(inputs, *state):
        outputs, last = call(inputs, state)
        return [outputs, *last]

    def train(inputs, *state):
        with tf.GradientTape() as tape:
            tape.watch([inputs, *state])
            results = infer(inputs, *state)
            loss = tf.add_n([tf.reduce_sum(result**2) for result in results])
        return results + tape.gradient(loss, [inputs, *state, *layer.trainable_variables])

    states = 2 if layer.name == "lstm" else 1
    signature = [tf.TensorSpec([None, None, units])] + [tf.TensorSpec([None, units])] * states
    return {step.__name__: tf.function(step, input_signature=signature) for step in (train, infer)}


def seconds(function, arguments):
    start = time.perf_counter()
    function(*arguments)[-1].numpy()
    return time.perf_counter() - start


def compare(kind, batch, steps, units, repeats):
    inputs = tf.random.normal([batch, steps, units])
    ours = CELLS[kind](units, name=kind)
    state = [tf.random.normal([batch, units]) for _ in ours.get_initial_state(1)]
    theirs = KERAS[kind](units, return_sequences=True, return_state=True, name=kind)
    for layer in (ours, theirs):
        layer.build((None, None, units))
    theirs.set_weights(ours.get_weights())

    def call_theirs(inputs, state):
        outputs, *last = theirs(inputs, initial_state=list(state))
        return outputs, last

    pairs = [functions(ours, lambda inputs, state: ours(inputs, initial_state=state), units),
             functions(theirs, call_theirs, units)]
    for step in ("train", "infer"):
        sides = [pair[step] for pair in pairs]
        tracing = [seconds(side, [inputs, *state]) for side in sides]
        for one, two in zip(*(side(inputs, *state) for side in sides), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5 * max(1.0, float(tf.reduce_max(tf.abs(two)))))
        times = np.array([[seconds(side, [inputs, *state]) for side in sides] for _ in range(repeats)])
        milliseconds = 1e3 * np.median(times, 0)
        ratio = np.median(times[:, 0] / times[:, 1])
        print(
            f"{kind:5}{step:6}{batch:4} x {steps} x {units}: {milliseconds[0]:4.0f} ms, Keras "
            f"{milliseconds[1]:4.0f} ms, ratio {ratio:.2f}; "
            f"first call {tracing[0]:.1f} and {tracing[1]:.1f} s")


if __name__ == "__main__":
    for kind in CELLS:
        for size in SIZES:
            compare(kind, *size, repeats=int(sys.argv[1]) if len(sys.argv) > 1 else 11)
