"""What `fit` and `evaluate` call for each batch where Keras' own functions will not do.

That is with a batch taken in parts, and on several hosts, where Keras reduces the metrics in a way that fails.
"""

import tensorflow as tf


class TrainFunction:
    """One optimizer step a batch, its gradient summed over parts of the batch's rows that are computed in turn.

    Only one part's activations are in memory at a time; the step is that of the whole batch, as its weights, the
    clipping and the loss scale are. (Keras' own accumulation averages over steps of unlike length, and fails under a
    strategy.) Nothing is left over between two steps, so a checkpoint needs to know nothing of it.

    Args:
        model: A compiled `Seq2Seq`.
        num_parts: Parts that a replica's rows are cut into, at least 1; rows of padding fill the last one.
    """

    def __init__(self, model, num_parts):
        self.model, self.num_parts, self.strategy = model, num_parts, model.distribute_strategy
        with self.strategy.scope():
            # Local to each replica, to be summed when the last part is done.
            self._sums = [
                tf.Variable(
                    tf.zeros(variable.shape, variable.dtype), trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.SUM)
                for variable in model.trainable_variables]
        self._accumulate = tf.function(
            self._accumulate_part, reduce_retracing=True, autograph=False, jit_compile=model.jit_compile)
        self._update = tf.function(self._update_weights, autograph=False)

    def __call__(self, iterator):
        """Takes the next batch of the (distributed) iterator; returns the first replica's metrics."""
        data = iterator.get_next()
        for part in range(self.num_parts):
            self._accumulate(data, tf.constant(part))
        return self._update()

    def _accumulate_part(self, data, part):
        def accumulate(data, part):
            rows = tf.nest.map_structure(lambda each: self._take(each, part), self.model.unpack(data))
            for total, gradient in zip(self._sums, self.model.gradients(*rows), strict=True):
                total.assign_add(gradient)

        self.strategy.run(accumulate, args=(data, part))

    def _take(self, rows, part):
        """The part-th of `num_parts` equal parts of the rows."""
        missing = -tf.shape(rows)[0] % self.num_parts
        padded = tf.pad(rows, [[0, missing], *[[0, 0]] * (len(rows.shape) - 1)])
        return tf.reshape(padded, tf.concat([[self.num_parts, -1], tf.shape(rows)[1:]], 0))[part]

    def _update_weights(self):
        def update():
            gradients = [tf.identity(total) for total in self._sums]
            metrics = self.model.update(gradients)
            with tf.control_dependencies(gradients):
                for total in self._sums:
                    total.assign(tf.zeros_like(total))
            return metrics

        return _first(self.strategy, self.strategy.run(update))


class EvaluateFunction:
    """The metrics of one batch; of all batches together `evaluate` reads them when the last one is done.

    Args:
        model: A compiled `Seq2Seq`.
    """

    def __init__(self, model):
        strategy = model.distribute_strategy
        self._test = tf.function(
            lambda data: _first(strategy, strategy.run(model.test_step, args=(data,))), reduce_retracing=True,
            autograph=False)

    def __call__(self, iterator):
        """Takes the next batch of the distributed iterator; returns the first replica's metrics."""
        return self._test(iterator.get_next())


def _first(strategy, values):
    """What the first of this host's replicas has found."""
    return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], values)
