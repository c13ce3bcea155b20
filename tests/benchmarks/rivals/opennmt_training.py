"""OpenNMT-tf on TensorFlow 2.13, trained as its own trainer does: one traced function, its loss, its Adam."""

import itertools

import numpy as np

from tests.benchmarks.rivals.opennmt_tf import build_transformer
from tests.benchmarks.sizes import PAD, TrainingBatch, waves

LONGEST = 64  # positions


class OpenNMTTraining:
    """A side of `tests.benchmarks.train`. Dropout is where the other sides have it: not on attention, nor inside FFN.

    Args:
        size: `Size`.
        batches: `TrainingBatch`es of lists.
        settings: rates and Adam's numbers, see `train.SETTINGS`.
    """

    def __init__(self, size, batches, settings):
        import tensorflow as tf

        self.tf, self.size, self.settings = tf, size, settings
        self.batches = [TrainingBatch(*(np.array(ids, np.int32) for ids in batch)) for batch in batches]

    def set_weights(self, path):
        """Makes the model with the weights of an .npz file, named as Marian's."""
        from opennmt.optimizers.utils import make_optimizer

        tf, settings = self.tf, self.settings
        arrays = {**np.load(path), "positions": waves(LONGEST, self.size.units)}
        self.table, _, self.encoder, self.decoder = build_transformer(
            self.size, arrays, settings["dropout"], attention_dropout=0.0, ffn_dropout=0.0)
        unique = {id(weight): weight for weight in [
            self.table, *self.encoder.trainable_variables, *self.decoder.trainable_variables]}
        self.weights = list(unique.values())
        self.optimizer = make_optimizer(
            "Adam", settings["learning_rate"], beta_1=settings["betas"][0], beta_2=settings["betas"][1],
            epsilon=settings["epsilon"])
        ids = tf.TensorSpec([None, None], tf.int32)
        self.iterator = iter(tf.data.Dataset.from_generator(
            lambda: itertools.cycle(self.batches), output_signature=(ids, ids, ids)))
        self.step = tf.function(self._step, input_signature=[ids, ids, ids])

    def count_parameters(self):
        """Number of trainable scalars."""
        return sum(int(np.prod(weight.shape)) for weight in self.weights)

    def losses(self):
        """Mean loss per real token of each batch, without dropout, by the formula of the other sides."""
        tf, smoothing, losses = self.tf, self.settings["label_smoothing"], []
        for batch in self.batches:
            values = tf.nn.log_softmax(self._logits(batch.source, batch.target, batch.labels, False))
            true = tf.gather(values, batch.labels, batch_dims=2)
            each = -(1 - smoothing) * true - smoothing * tf.reduce_mean(values, -1)
            losses.append(float(tf.reduce_mean(each[batch.labels != PAD])))
        return losses

    def train(self):
        """One pass over the batches; the last loss."""
        losses = [self.step(*next(self.iterator)) for _ in self.batches]
        return float(losses[-1])

    def _step(self, source, target, labels):
        from opennmt.utils.losses import cross_entropy_sequence_loss

        with self.tf.GradientTape() as tape:
            logits = self._logits(source, target, labels, True)
            total, _, number = cross_entropy_sequence_loss(
                logits, labels, self._lengths(labels), self.settings["label_smoothing"], average_in_time=True,
                training=True)
            loss = total / number
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.weights), self.weights))
        return loss

    def _logits(self, source, target, labels, training):
        tf = self.tf
        memory, _, lengths = self.encoder(
            tf.gather(self.table, source), sequence_length=self._lengths(source), training=training)
        state = self.decoder.initial_state(memory=memory, memory_sequence_length=lengths)
        logits, _, _ = self.decoder(
            tf.gather(self.table, target), self._lengths(labels), state=state, training=training)
        return logits

    def _lengths(self, ids):
        return self.tf.reduce_sum(self.tf.cast(ids != PAD, self.tf.int32), 1)
