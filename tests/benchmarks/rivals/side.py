"""What every side of the decoding benchmark does. Runs under each rival's interpreter, with NumPy alone."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks.sizes import EOS, pad

MAX_LENGTH = 60  # target tokens, end token included; the weights end far before
LENGTH_PENALTY = 0.6  # alpha; each side's own formula


class Side:
    """Decodes batches of ids, as many batches at once as there are streams.

    A subclass gives `search(rows, beam_size)`, from lists of ids to (best tokens, log-probability) of each. The second
    is NaN where the system does not say it, or not without extra work.

    Args:
        streams: Batches decoded at once; each has its share of the cores.
    """

    def __init__(self, streams):
        self.streams = streams
        self.threads = max(1, len(os.sched_getaffinity(0)) // streams)  # of each stream
        self.pool = ThreadPoolExecutor(streams)

    def decode(self, batches, beam_size):
        """(tokens, log-probability) of every source of all batches, in their order."""
        answers = self.pool.map(lambda rows: self.search(rows, beam_size), batches)
        return [answer for batch in answers for answer in batch]

    def worked(self):
        """Seconds that the process has kept cores busy."""
        return time.process_time()

    def forget_peak(self):
        """Lets the peak of memory start from what the process holds now."""
        Path("/proc/self/clear_refs").write_text("5")

    def peak(self):
        """The most memory that the process has held since, in MB."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def up_to_end(ids):
    """A list of ids, cut after the first end token."""
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids


class TensorFlowSide(Side):
    """A side that searches in one traced function for any batch.

    A subclass gives `_search(source [B, S], beam_size)`, to the best tokens [B, T] and their log-probabilities [B].

    Args:
        streams: See `Side`.
        op_threads: Threads that share an operation; default all of a stream.
    """

    def __init__(self, streams, op_threads=None):
        super().__init__(streams)
        import tensorflow

        self.tf, self.functions = tensorflow, {}
        tensorflow.config.threading.set_intra_op_parallelism_threads(op_threads or self.threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(max(2, streams))

    def search(self, rows, beam_size):
        """See `Side`."""
        if beam_size not in self.functions:
            signature = [self.tf.TensorSpec([None, None], self.tf.int32)]
            self.functions[beam_size] = self.tf.function(
                lambda source: self._search(source, beam_size), input_signature=signature)
        tokens, log_probabilities = self.functions[beam_size](pad(rows))
        return [
            (up_to_end(ids), log_probability) for ids, log_probability in
            zip(tokens.numpy().tolist(), log_probabilities.numpy().tolist())]
