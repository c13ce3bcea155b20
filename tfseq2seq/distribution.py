"""Which devices train, on one host or on several, and what the hosts agree upon."""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tfseq2seq.errors import first_line


def make_strategy(replicas: int | None = None) -> tf.distribute.Strategy:
    """`MirroredStrategy` over the visible devices: all GPUs, else all (logical) CPUs.

    Where `TF_CONFIG` names several hosts it is `MultiWorkerMirroredStrategy`; then this must be called before
    TensorFlow computes anything.

    Args:
        replicas: use only the first so many devices; default all.
    Raises:
        ValueError: fewer devices than replicas; `TF_CONFIG` is broken or names other kinds of tasks; replicas are
            asked for on several hosts, or too late.
    """
    cluster = _read_cluster()
    if cluster is not None:
        if replicas is not None:
            raise ValueError(
                "train.replicas chooses devices of one host; leave it out where TF_CONFIG names several (each takes "
                f"all that it sees, see CUDA_VISIBLE_DEVICES). Received: train.replicas = {replicas}.")
        return _several_hosts(cluster)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if replicas is not None and replicas > len(devices):
        raise ValueError(
            f"train.replicas = {replicas} needs as many devices. Received: {len(devices)} "
            f"({', '.join(device.name for device in devices)}).")
    return _mirrored(tuple(device.name for device in devices[:replicas]))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # One a process: a second one reuses the keys of the first one's collectives, and TensorFlow then
    # aborts with "Shape mismatch in the collective instance".
    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _several_hosts(cluster: str) -> tf.distribute.Strategy:
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ValueError(
            "several hosts must find each other before TensorFlow computes anything in this process: call "
            f"tfseq2seq.distribution.make_strategy() first. Received: TF_CONFIG = {cluster}") from error


def _read_cluster() -> str | None:
    """`TF_CONFIG` where it names several hosts, else None."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text or "{}")
        tasks = {kind: len(addresses) for kind, addresses in config.get("cluster", {}).items()}
        kind, index = (config["task"]["type"], int(config["task"]["index"])) if tasks else ("worker", 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            'TF_CONFIG must be as {"cluster": {"worker": ["host1:port", "host2:port"]}, "task": {"type": "worker", '
            f'"index": 0}}}}. Received: {text}') from error
    others = set(tasks) - {"worker", "chief"}
    if others:
        raise ValueError(
            f"TF_CONFIG must name tasks of the kinds worker and chief alone. Received: {', '.join(sorted(others))}.")
    if tasks and not 0 <= index < tasks.get(kind, 0):
        raise ValueError(f"TF_CONFIG's task is none of its cluster. Received: {kind} {index} of {tasks}.")
    return text if sum(tasks.values()) > 1 else None


def on_several_hosts(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def distribute(
    strategy: tf.distribute.Strategy, make_dataset: Callable[..., tf.data.Dataset],
) -> tf.data.Dataset:
    """The batches for `fit`.

    Args:
        strategy: from `make_strategy`.
        make_dataset: function of `replicas`: of None it makes whole batches, which `fit` divides among the replicas of
            one host; of numbers the rows of those replicas alone, an element for each in turn.
    """
    if not on_several_hosts(strategy):
        return make_dataset(replicas=None)

    def of_this_host(context):
        each = context.num_replicas_in_sync // context.num_input_pipelines
        return make_dataset(replicas=range(context.input_pipeline_id * each, (context.input_pipeline_id + 1) * each))

    return strategy.distribute_datasets_from_function(of_this_host)


class Hosts:
    """The hosts that train together. What one of them alone knows, all must learn before they act on it.

    Each method must be called on all hosts alike, or they wait for each other for ever.

    Args:
        strategy: from `make_strategy`.
    Attributes:
        several: whether there are others.
        is_chief: whether this one, the first, writes what all share: checkpoints, logs, samples.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.several, self.is_chief = on_several_hosts(strategy), True
        if self.several:
            resolver = strategy.cluster_resolver
            has_chief = "chief" in resolver.cluster_spec().jobs
            self.is_chief = resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)
        self._strategy = strategy

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of all hosts' values."""
        if not self.several:
            return list(values)
        return self._sum(tf.constant(values, tf.float64)).numpy().tolist()

    def from_chief(self, values: Sequence[float]) -> list[float]:
        """The chief's values; what others give, of as many, does not matter."""
        return self.sum(values if self.is_chief else [0.0] * len(values))

    def agree(self, value: float, what: str) -> None:
        """Raises ValueError, on all hosts, where one has another value than the chief; `what` is what all need."""
        (chief,) = self.from_chief([value])
        (others,) = self.sum([value != chief])
        if others:
            raise ValueError(
                f"every host needs {what}. Received: {others:.0f} that differ from the first"
                + (", this one among them." if value != chief else "."))

    @contextlib.contextmanager
    def explaining_loss(self) -> Iterator[None]:
        """Inside, an error says what to do where another host went away; what is wrong with this one goes its way."""
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError) as error:
            if not self.several:
                raise
            raise RuntimeError(
                "another host went away. Start all of them again with the same command: they go on from the last "
                f"checkpoint. Received: {first_line(error)}") from error

    def wait(self) -> None:
        """Returns when all hosts have come so far."""
        self.sum([0.0])

    @functools.cached_property
    def _sum(self):
        @tf.function(autograph=False, reduce_retracing=True)
        def total(values):
            replicas = tf.cast(self._strategy.num_replicas_in_sync // self._num_hosts(), values.dtype)

            def add():
                return tf.distribute.get_replica_context().all_reduce("sum", values / replicas)

            return self._strategy.experimental_local_results(self._strategy.run(add))[0]

        return total

    def _num_hosts(self):
        return sum(len(spec) for spec in self._strategy.cluster_resolver.cluster_spec().as_dict().values())
