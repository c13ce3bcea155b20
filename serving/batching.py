"""Rows of several requests computed together, by TensorFlow's own batch function."""

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from serving.errors import INVALID_ARGUMENT, RESOURCE_EXHAUSTED, RequestError
from serving.settings import Batching

_log = logging.getLogger(__name__)
_queues = itertools.count()  # a name for each queue of this process: those of one name would mix


class Batcher:
    """Joins rows of requests for the same signature of the same version.

    One scheduler of TensorFlow's, and so one set of threads, serves all functions; each has a queue of its own.

    Args:
        settings: sizes and times.
        observe: told the rows of each batch that was computed.
        check: raises RequestError where nobody waits for the answer of this thread any more; asked before anything is
            computed. What is in TensorFlow's queue cannot be taken back.
    """

    def __init__(
        self, settings: Batching, observe: Callable[[int], None] = lambda rows: None,
        check: Callable[[], None] = lambda: None,
    ):
        self.settings, self.observe, self.check = settings, observe, check
        self.alone = threading.BoundedSemaphore(settings.num_batch_threads)

    def join(self, function: Any) -> "JoinedFunction | None":
        """`function`, a loaded signature, with batches; None where a tensor has no rows as its dimension 0."""
        specs = dict(function.structured_input_signature[1])
        tensors = [*specs.values(), *function.structured_outputs.values()]
        if not specs or any(not each.shape.rank or each.shape[0] is not None for each in tensors):
            return None
        return JoinedFunction(self, function, specs)


class JoinedFunction:
    """A signature whose rows are computed together with those of other callers; safe to be called from threads."""

    def __init__(self, batcher: Batcher, function: Any, specs: dict[str, tf.TensorSpec]):
        self._batcher, self._alone = batcher, function
        self._inputs, self._outputs = list(specs), list(function.structured_outputs)
        self._joined = self._trace(function, list(specs.values()))

    def _trace(self, function: Any, specs: list[tf.TensorSpec]) -> Any:
        @tf.function(input_signature=specs, autograph=False)
        def computation(*columns):
            outputs = function(**dict(zip(self._inputs, columns, strict=True)))
            num_rows = tf.shape(columns[0])[0]
            # What a caller is to know of its batch: the rows, and its own place.
            return [*(outputs[name] for name in self._outputs), tf.fill([num_rows], num_rows), tf.range(num_rows)]

        computed = computation.get_concrete_function()
        settings = self._batcher.settings
        queue = f"queue_{next(_queues)}"

        @tf.function(input_signature=specs, autograph=False)
        def joined(*columns):
            return tf.raw_ops.BatchFunction(
                in_tensors=columns, captured_tensors=computed.captured_inputs, f=computed,
                num_batch_threads=settings.num_batch_threads, max_batch_size=settings.max_batch_size,
                batch_timeout_micros=settings.batch_timeout_micros,
                max_enqueued_batches=settings.max_enqueued_batches, Tout=[each.dtype for each in computed.outputs],
                # Not freed until the process ends, so one for all versions that come and go.
                shared_name=f"tfseq2seq {settings}", batching_queue=queue, enable_large_batch_splitting=False)

        return joined.get_concrete_function()

    def __call__(self, **tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        """What the signature answers for [N] tensors.

        A batch fails as a whole, so what failed is computed again without company: only the request at fault fails.
        At most `num_batch_threads` requests are computed so at once. A batch for which there was no memory is not.

        Raises:
            RequestError: more rows than a batch holds, too many batches wait, or nobody waits for the answer.
            tf.errors.OpError: the function refuses these rows.
        """
        rows = {int(each.shape[0]) for each in tensors.values()}
        if len(rows) > 1 or 0 in rows:
            return self._compute_alone(tensors)
        (num_rows,) = rows
        most = self._batcher.settings.max_batch_size
        if num_rows > most:
            raise RequestError(
                INVALID_ARGUMENT, f"Task size {num_rows} is larger than maximum input batch size {most}")
        self._batcher.check()
        try:
            *outputs, batch_rows, places = self._joined(*(tensors[name] for name in self._inputs))
        except tf.errors.UnavailableError as error:
            raise RequestError(RESOURCE_EXHAUSTED, error.message.partition("\n")[0]) from error
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as error:
            _log.info("a batch failed, so its requests are computed one by one: %s", error.message.partition("\n")[0])
            return self._compute_alone(tensors)
        if places[0] == 0:
            self._batcher.observe(int(batch_rows[0]))
        return dict(zip(self._outputs, outputs, strict=True))

    def _compute_alone(self, tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        with self._batcher.alone:
            self._batcher.check()
            return self._alone(**tensors)
