"""Made-up languages whose rules a model must find: copy, reverse and sort."""

import time

import keras
import numpy as np
import tensorflow as tf

from tfseq2seq.config import Model, Train
from tfseq2seq.decoding import search
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model
from tfseq2seq.optimization import make_optimizer, make_schedule
from tfseq2seq.structures import BOS, EOS, PAD

SYMBOLS = 10  # each symbol is drawn with the same probability
SHORTEST, LONGEST = 8, 20
FIRST = EOS + 1
VOCABULARY = FIRST + SYMBOLS
BATCH = 128
TASKS = {"copy": lambda symbols: symbols, "reverse": lambda symbols: symbols[::-1], "sort": sorted}


def pairs(task, random, number, lengths=(SHORTEST, LONGEST)):
    """Sources and targets, lists of ids without end tokens."""
    for _ in range(number):
        symbols = random.integers(FIRST, VOCABULARY, random.integers(lengths[0], lengths[1] + 1)).tolist()
        yield symbols, list(TASKS[task](symbols))


def batch(task, random, number=BATCH, lengths=(SHORTEST, LONGEST)):
    """One batch of a single padded shape, as `fit` takes it."""
    source, target, labels = (np.full([number, LONGEST + 1], PAD, np.int32) for _ in range(3))
    for row, (symbols, answer) in enumerate(pairs(task, random, number, lengths)):
        source[row, : len(symbols) + 1] = [*symbols, EOS]
        target[row, : len(answer) + 1] = [BOS, *answer]
        labels[row, : len(answer) + 1] = [*answer, EOS]
    return {"source": source, "target": target}, labels


class Learner:
    """A model, trained on fresh pairs for so long.

    Args:
        encoder, decoder: Tables of a recipe.
        learning_rate: The peak; it rises over 200 steps and then falls with the square root of the step.
    """

    def __init__(self, encoder, decoder, learning_rate):
        keras.utils.set_random_seed(1)
        self.model = build_model(
            Model(embedding_units=64, encoder=encoder, decoder=decoder), VOCABULARY, VOCABULARY)
        settings = Train(learning_rate=learning_rate, warmup_steps=200)
        optimizer = make_optimizer(settings, make_schedule(settings, 64))
        optimizer.global_clipnorm = 1.0
        self.model.compile(optimizer, loss=TokenCrossEntropy())
        self.steps = 0
        self._greedy = tf.function(
            self._decode, input_signature=[tf.TensorSpec([None, LONGEST + 1], tf.int32)], autograph=False)

    def _decode(self, source):
        memory, state = self.model.start(self.model.encode(source))
        return search(
            self.model.stepper(), state, memory, batch_size=tf.shape(source)[0], vocabulary_size=VOCABULARY,
            beam_size=1, max_length=LONGEST + 1).tokens[:, 0]

    def sequence_accuracy(self, task, lengths=(SHORTEST, LONGEST), number=512, seed=10**6):
        """Share of unseen sequences that greedy search gets right from the first token to the last."""
        inputs, labels = batch(task, np.random.default_rng(seed), number, lengths)
        found = self._greedy(tf.constant(inputs["source"])).numpy()
        found = np.pad(found, [(0, 0), (0, labels.shape[1] - found.shape[1])])
        return float((found == labels).all(1).mean())

    def learn(self, task, seconds, enough=1.0, chunk=250):
        """Trains until the accuracy is `enough` or the time is over; returns the accuracy and the seconds it took."""
        random, start = np.random.default_rng(0), time.perf_counter()
        ids = tf.TensorSpec([None, LONGEST + 1], tf.int32)

        def batches():
            while True:
                yield batch(task, random)

        data = tf.data.Dataset.from_generator(
            batches, output_signature=({"source": ids, "target": ids}, ids)).prefetch(2)
        accuracy = 0.0
        while accuracy < enough and time.perf_counter() - start < seconds:
            self.model.fit(data, steps_per_epoch=chunk, epochs=1, verbose=0)
            self.steps += chunk
            accuracy = self.sequence_accuracy(task)
        return accuracy, time.perf_counter() - start
