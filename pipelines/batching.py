"""Batches of few shapes, filled by a budget of tokens, in an order that can be resumed at any step."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipelines.pairs import DataError, EncodedPairs
from tfseq2seq.structures import BOS, EOS, PAD

GRID = 24  # lengths a side that padded shapes are chosen from
EMPTY = -1  # row id of a row that is all padding


class Batches:
    """Batches the pairs of one split.

    At most `num_lengths` padded shapes (S, T) are chosen such that padding every pair to the smallest one
    that holds it takes the fewest tokens; each is one trace of the model. Within a shape all batches have
    the same number of rows: as many as the budget allows, or a few less so that the last one is nearly
    full too. Rows that are missing there are all padding, of weight 0.

    Args:
        encoded: the pairs as ids.
        batch_tokens: most padded tokens of the wider side in one global batch, except that one row a replica
            is always taken.
        num_lengths: most distinct (S, T), at least 1.
        replicas: rows of a batch are a multiple of it, so that every replica gets as many.
        seed: of the order, not negative.
        max_source_length: tokens, end token included; pairs beyond are left out.
        max_target_length: tokens, end token included; pairs beyond are left out.
    Attributes:
        shapes: the padded (S, T), smallest first.
        rows: for each shape the rows of a global batch.
        steps_per_epoch: batches in an epoch; every pair is in exactly one of them.
        padding_share: share of padding in all tokens of an epoch, both sides.
        num_left_out: pairs beyond the lengths.
    Raises:
        DataError: no pair is left.
        ValueError: a number is out of range.
    """

    def __init__(
        self, encoded: EncodedPairs, *, batch_tokens: int, num_lengths: int = 4, replicas: int = 1,
        seed: int = 1, max_source_length: int = 128, max_target_length: int = 128,
    ):
        if min(batch_tokens, num_lengths, replicas) < 1:
            raise ValueError(
                "Batches needs batch_tokens, num_lengths and replicas of at least 1. Received: "
                f"batch_tokens={batch_tokens}, num_lengths={num_lengths}, replicas={replicas}.")
        self.seed, self.replicas = seed, replicas
        self._planned: tuple[int, list[int]] | None = None  # an epoch, and the shape of each of its batches
        self._source = _Side(encoded.source_ids, encoded.source_offsets)
        self._target = _Side(encoded.target_ids, encoded.target_offsets)
        source, target = self._source.lengths + 1, self._target.lengths + 1  # with EOS
        kept = np.flatnonzero((source <= max_source_length) & (target <= max_target_length))
        self.num_left_out = len(source) - len(kept)
        if not len(kept):
            raise DataError(
                "Batches needs pairs within max_source_length and max_target_length. Received: "
                f"{len(source):,} pairs, none within {max_source_length} and {max_target_length} tokens.")
        source, target = source[kept], target[kept]
        chosen = choose_shapes(source, target, num_lengths)
        fits = (source[:, None] <= chosen[:, 0]) & (target[:, None] <= chosen[:, 1])
        bucket = fits.argmax(1)  # the first, thus smallest, that holds the pair
        self._members = [kept[bucket == i] for i in range(len(chosen))]
        self.shapes: list[tuple[int, int]] = [(int(s), int(t)) for s, t in chosen]
        self._num_batches = []
        self.rows = []
        for shape, members in zip(self.shapes, self._members):
            most = max(1, batch_tokens // max(shape) // replicas) * replicas
            num_batches = -(-len(members) // most)
            self._num_batches.append(num_batches)
            self.rows.append(-(-len(members) // (num_batches * replicas)) * replicas)
        self.steps_per_epoch = sum(self._num_batches)
        padded = sum(
            count * rows * sum(shape)
            for count, rows, shape in zip(self._num_batches, self.rows, self.shapes))
        self.padding_share = 1 - float(source.sum() + target.sum()) / padded

    def plan(self, epoch: int, shuffle: bool = True) -> list[tuple[int, np.ndarray]]:
        """The batches of an epoch, known from the seed and the epoch alone.

        Args:
            epoch: counted from 0.
            shuffle: else pairs keep their order within a shape, and shapes come smallest first.
        Returns:
            (index of the shape, row ids [R] int64 with EMPTY on rows of padding) for each batch.
        """
        # RandomState's stream is the same in every version of NumPy; Generator's may change.
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([self.seed, epoch])))
        batches = []
        for index, members in enumerate(self._members):
            order = random.permutation(members) if shuffle else members
            padded = np.full([self._num_batches[index] * self.rows[index]], EMPTY, np.int64)
            padded[: len(order)] = order
            batches += [(index, rows) for rows in padded.reshape(self._num_batches[index], -1)]
        return [batches[i] for i in random.permutation(len(batches))] if shuffle else batches

    def batch(self, index: int, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """One planned batch as ({"source" [R, S], "target" [R, T]}, labels [R, T], weights [R, T])."""
        source_length, target_length = self.shapes[index]
        source, _ = self._source.gather(rows, source_length)  # [R, S]
        labels, real = self._target.gather(rows, target_length)  # [R, T]
        target = np.full_like(labels, PAD)
        target[:, 1:] = np.where(real[:, 1:], labels[:, :-1], PAD)  # all but the EOS, one step later
        target[rows != EMPTY, 0] = BOS
        return {"source": source, "target": target}, labels, real.astype(np.float32) / np.float32(real.sum())

    def shape_at(self, step: int) -> tuple[int, int, int]:
        """Rows, source and target steps of the shuffled batch that comes after so many, over all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, [index for index, _ in self.plan(epoch)]
        index = self._planned[1][place]
        return self.rows[index], *self.shapes[index]

    def dataset(
        self, start_step: int = 0, replicas: Sequence[int] | None = None, shuffle: bool = True, repeat: bool = True,
    ) -> tf.data.Dataset:
        """Batches for `fit`, from any step on exactly those of a run that was never interrupted.

        Args:
            start_step: batches that were already seen, over all epochs.
            replicas: numbers of the replicas whose rows alone are wanted, an element for each of them in turn, in the
                place of every batch; default whole batches.
            shuffle: whether every epoch has an order of its own.
            repeat: whether epochs follow without end; else the epoch of `start_step` is the last one.
        Returns:
            tf.data.Dataset of ({"source": [R, S] int32, "target": [R, T] int32}, labels [R, T] int32,
            weights [R, T] float32). Source rows end in EOS; target is BOS and the target ids, labels the
            target ids and EOS; a weight is 1 / (real labels of the GLOBAL batch), 0 on padding, so that the plain
            sum of loss * weight over all replicas is the mean per token.
        """
        first_epoch, skipped = divmod(start_step, self.steps_per_epoch)

        def batches():
            epoch, skip = first_epoch, skipped
            while repeat or epoch == first_epoch:
                for index, rows in self.plan(epoch, shuffle)[skip:]:
                    batch = self.batch(index, rows)
                    if replicas is None:
                        yield batch
                    else:
                        yield from (self._rows_of(replica, batch) for replica in replicas)
                epoch, skip = epoch + 1, 0

        ids = tf.TensorSpec([None, None], tf.int32)
        signature = ({"source": ids, "target": ids}, ids, tf.TensorSpec([None, None], tf.float32))
        parts = 1 if replicas is None else len(replicas)
        cardinality = tf.data.INFINITE_CARDINALITY if repeat else (self.steps_per_epoch - skipped) * parts
        options = tf.data.Options()  # one process makes every batch; a strategy only splits it
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        data = tf.data.Dataset.from_generator(batches, output_signature=signature).with_options(options)
        return data.apply(tf.data.experimental.assert_cardinality(cardinality)).prefetch(tf.data.AUTOTUNE)

    def _rows_of(self, replica, batch):
        return tf.nest.map_structure(lambda each: np.split(each, self.replicas)[replica], batch)


def choose_shapes(source: np.ndarray, target: np.ndarray, num_shapes: int) -> np.ndarray:
    """The padded shapes, each holding the one before, that take the fewest tokens.

    Exact by dynamic programming over a grid: best[p] is the least cost of all pairs that fit into shape p
    with p as the largest shape; one more shape p after q costs (fit(p) - fit(q)) * (S_p + T_p).

    Args:
        source: [N] int, source lengths, end token included; N at least 1.
        target: [N] int, target lengths.
        num_shapes: most shapes.
    Returns:
        [at most num_shapes, 2] int, (S, T) in growing order; the last one holds every pair.
    """
    sides = [_grid(lengths) for lengths in (source, target)]
    grid = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)  # [P, 2]
    places = [np.searchsorted(side, lengths) for side, lengths in zip(sides, (source, target))]
    counts = np.zeros([len(side) for side in sides], np.int64)
    np.add.at(counts, tuple(places), 1)
    fit = counts.cumsum(0).cumsum(1).reshape(-1)  # [P] pairs that fit into each shape
    inside = (grid[:, None, 0] <= grid[:, 0]) & (grid[:, None, 1] <= grid[:, 1])  # [P, P], row in column
    step = np.where(inside, (fit - fit[:, None]) * grid.sum(1), np.inf)  # [P, P]
    best = [fit * grid.sum(1).astype(float)]
    previous = []
    for _ in range(num_shapes - 1):
        total = best[-1][:, None] + step
        previous.append(total.argmin(0))
        best.append(total.min(0))
    place, shapes = len(grid) - 1, []
    for came_from in [*reversed(previous), None]:
        shapes.append(grid[place])
        place = place if came_from is None else came_from[place]
    chosen = np.unique(np.stack(shapes), axis=0)  # sorted; a shape that gains nothing repeats
    held = [int(((source <= s) & (target <= t)).sum()) for s, t in chosen]
    return chosen[np.diff([0, *held]) > 0]


def inference_batches(lengths: np.ndarray, batch_tokens: int) -> list[list[int]]:
    """Groups rows of like length for decoding; every row is in one batch.

    Args:
        lengths: [N] int, tokens, end token included.
        batch_tokens: most padded tokens in a batch; a row that is longer has a batch of its own.
    Returns:
        Row numbers a batch, shortest first.
    """
    batches: list[list[int]] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        if not batches or (len(batches[-1]) + 1) * lengths[row] > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


class _Side:
    """One side's ids, from which rows are gathered without a loop."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray):
        self._ids = np.append(ids, np.int32(PAD))  # what a row of padding points at
        self._starts = np.append(offsets[:-1], len(ids))  # the last one is for EMPTY = -1
        self.lengths = np.diff(offsets)
        self._lengths = np.append(self.lengths, -1)

    def gather(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids ended by EOS, padded to `length` [R, length] int32, and what of it is real [R, length] bool."""
        steps, lengths = np.arange(length), self._lengths[rows][:, None]
        places = np.minimum(self._starts[rows][:, None] + steps, len(self._ids) - 1)
        ids = np.where(steps < lengths, self._ids[places], np.int32(PAD))
        ids[steps == lengths] = EOS
        return ids, steps <= lengths


def _grid(lengths: np.ndarray) -> np.ndarray:
    """At most GRID distinct lengths: all of them, or quantiles and the longest."""
    distinct = np.unique(lengths)
    if len(distinct) <= GRID:
        return distinct
    return np.unique(np.quantile(lengths, np.linspace(0, 1, GRID + 1)[1:], method="higher"))
