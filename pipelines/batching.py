"""Batches of few shapes, filled by a budget of tokens, in an order that can be resumed at any step."""

import contextlib
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.alignments import Alignments
from pipelines.frames import FrameSide
from pipelines.pairs import DataError, EncodedPairs
from pipelines.sides import EMPTY, SampledSide, Side
from tfseq2seq.structures import BOS, PAD

GRID = 24  # lengths a side that padded shapes are chosen from

Batch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]  # inputs, labels, weights, see `Batches.batch`


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
        sampled_source: what draws the source's tokens for each batch anew, in the place of the ids; or recordings,
            whose frames take the place of tokens.
        sampled_target: the same of the target.
        weights: [N] float32, of each pair's tokens in the loss, at least 0; default 1.
        rates: [N] float, how often a pair comes in an epoch, above 0; default once. Of pairs with the same rate and
            shape as many come in each epoch, each of them the rate rounded down or up.
        alignments: of the pairs, for batches that hold what attention should be.
    Attributes:
        shapes: the padded (S, T), smallest first.
        rows: for each shape the rows of a global batch.
        steps_per_epoch: batches in an epoch; without `rates` every pair is in exactly one of them.
        padding_share: share of padding in all tokens of an epoch, both sides.
        num_left_out: pairs beyond the lengths.
    Raises:
        DataError: no pair is left.
        ValueError: a number is out of range.
    """

    def __init__(
        self, encoded: EncodedPairs, *, batch_tokens: int, num_lengths: int = 4, replicas: int = 1,
        seed: int = 1, max_source_length: int = 128, max_target_length: int = 128,
        sampled_source: SampledSide | FrameSide | None = None, sampled_target: SampledSide | None = None,
        weights: np.ndarray | None = None, rates: np.ndarray | None = None, alignments: Alignments | None = None,
    ):
        if min(batch_tokens, num_lengths, replicas) < 1:
            raise ValueError(
                "Batches needs batch_tokens, num_lengths and replicas of at least 1. Received: "
                f"batch_tokens={batch_tokens}, num_lengths={num_lengths}, replicas={replicas}.")
        self.seed, self.replicas, self._alignments = seed, replicas, alignments
        self._shapes_of = functools.lru_cache(maxsize=1)(lambda epoch: [index for index, _ in self.plan(epoch)])
        self._plan = functools.lru_cache(maxsize=2)(self.plan)  # two, as batches may be asked for ahead
        self._source: Side | SampledSide | FrameSide = Side(
            encoded.source_ids, encoded.source_offsets, encoded.source_end)
        self._target: Side | SampledSide = Side(encoded.target_ids, encoded.target_offsets)
        source, target = self._source.lengths + 1, self._target.lengths + 1  # with EOS
        kept = np.flatnonzero((source <= max_source_length) & (target <= max_target_length))
        self.num_left_out = len(source) - len(kept)
        if not len(kept):
            raise DataError(
                "Batches needs pairs within max_source_length and max_target_length. Received: "
                f"{len(source):,} pairs, none within {max_source_length} and {max_target_length} tokens.")
        if sampled_source is not None:
            self._source, source = sampled_source, sampled_source.longest_below(max_source_length) + 1
        if sampled_target is not None:
            self._target, target = sampled_target, sampled_target.longest_below(max_target_length) + 1
        source, target = source[kept], target[kept]
        chosen = choose_shapes(source, target, num_lengths)
        fits = (source[:, None] <= chosen[:, 0]) & (target[:, None] <= chosen[:, 1])
        bucket = fits.argmax(1)  # the first, thus smallest, that holds the pair
        self.shapes: list[tuple[int, int]] = [(int(s), int(t)) for s, t in chosen]
        self._weights = None if weights is None else np.append(weights, 0.0).astype(np.float32)  # the last for EMPTY
        rates = np.ones([self.num_left_out + len(kept)]) if rates is None else rates
        # Of each shape the pairs of each rate, with how many of them an epoch takes.
        self._members: list[list[tuple[np.ndarray, int]]] = []
        for i in range(len(chosen)):
            inside = kept[bucket == i]
            alike = [(inside[rates[inside] == rate], float(rate)) for rate in np.unique(rates[inside])]
            self._members.append([(group, max(1, round(len(group) * rate))) for group, rate in alike])
        lengths = np.zeros([len(rates)])
        lengths[kept] = source + target
        real = sum(count * lengths[group].mean() for groups in self._members for group, count in groups)
        self._num_batches = []
        self.rows = []
        for shape, groups in zip(self.shapes, self._members):
            most = max(1, batch_tokens // max(shape) // replicas) * replicas
            taken = sum(count for _, count in groups)
            num_batches = -(-taken // most)
            self._num_batches.append(num_batches)
            self.rows.append(-(-taken // (num_batches * replicas)) * replicas)
        self.steps_per_epoch = sum(self._num_batches)
        padded = sum(
            count * rows * sum(shape)
            for count, rows, shape in zip(self._num_batches, self.rows, self.shapes))
        self.padding_share = 1 - float(real) / padded

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
        for index, groups in enumerate(self._members):
            order = np.concatenate([_take(group, count, random) for group, count in groups])
            order = random.permutation(order) if shuffle else order
            padded = np.full([self._num_batches[index] * self.rows[index]], EMPTY, np.int64)
            padded[: len(order)] = order
            batches += [(index, rows) for rows in padded.reshape(self._num_batches[index], -1)]
        return [batches[i] for i in random.permutation(len(batches))] if shuffle else batches

    def batch(self, index: int, rows: np.ndarray, epoch: int = 0, number: int = 0) -> Batch:
        """One planned batch as ({"source" [R, S], "target" [R, T]}, labels [R, T], weights [R, T]).

        With alignments there is "alignment" [R, T, S] float32 beside source and target, see `Alignments`. Tokens that
        are drawn follow from the seed, the epoch and the batch's number in it alone.
        """
        source_length, target_length = self.shapes[index]
        seeds = np.random.SeedSequence([self.seed, epoch, number]).generate_state(2).tolist()
        source, _ = self._source.gather(rows, source_length, seeds[0])  # [R, S]
        labels, real = self._target.gather(rows, target_length, seeds[1])  # [R, T]
        target = np.full_like(labels, PAD)
        target[:, 1:] = np.where(real[:, 1:], labels[:, :-1], PAD)  # all but the EOS, one step later
        target[rows != EMPTY, 0] = BOS
        inputs = {"source": source, "target": target}
        if self._alignments is not None:
            inputs["alignment"] = self._alignments.distributions(rows, source_length, target_length)
        weights = real.astype(np.float32)
        if self._weights is not None:
            weights *= self._weights[rows][:, None]
        total = np.float32(weights.sum())
        return inputs, labels, weights / total if total else weights

    def batch_at(self, step: int) -> Batch:
        """The shuffled batch that comes after so many, over all epochs."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return self.batch(*self._plan(epoch)[number], epoch, number)

    def shape_at(self, step: int) -> tuple[int, int, int]:
        """Rows, source and target steps of the shuffled batch that comes after so many, over all epochs."""
        epoch, number = divmod(step, self.steps_per_epoch)
        index = self._shapes_of(epoch)[number]
        return self.rows[index], *self.shapes[index]

    @property
    def signature(self) -> Any:
        """What batches are, see `signature_of`."""
        num_features = self._source.num_features if isinstance(self._source, FrameSide) else None
        return signature_of(self._alignments is not None, num_features)

    def dataset(
        self, start_step: int = 0, replicas: Sequence[int] | None = None, shuffle: bool = True, repeat: bool = True,
        read: Callable[[int], Generator[Batch, None, None]] | None = None,
    ) -> tf.data.Dataset:
        """Batches for `fit`, from any step on exactly those of a run that was never interrupted.

        Args:
            start_step: batches that were already seen, over all epochs.
            replicas: numbers of the replicas whose rows alone are wanted, an element for each of them in turn, in the
                place of every batch; default whole batches.
            shuffle: whether every epoch has an order of its own.
            repeat: whether epochs follow without end; else the epoch of `start_step` is the last one.
            read: where whole batches come from in the place of this process, told `start_step`: those of `batch_at`,
                without end. For `shuffle` and `repeat` alone.
        Returns:
            tf.data.Dataset of ({"source": [R, S] int32, "target": [R, T] int32}, labels [R, T] int32,
            weights [R, T] float32). Source rows end in EOS, or are features, see `FrameSide.gather`; target is BOS and
            the target ids, labels the target ids and EOS; a weight is 1 / (real labels of the GLOBAL batch), 0 on
            padding, so that the plain sum of loss * weight over all replicas is the mean per token. Where pairs have
            weights of their own it is theirs / (sum of all of the global batch). With alignments there is "alignment"
            beside source and target, see `batch`.
        """
        first_epoch, skipped = divmod(start_step, self.steps_per_epoch)

        def here(start_step):
            epoch, skip = first_epoch, skipped
            while repeat or epoch == first_epoch:
                plan = self.plan(epoch, shuffle)
                for number in range(skip, len(plan)):
                    yield self.batch(*plan[number], epoch, number)
                epoch, skip = epoch + 1, 0

        def batches():
            with contextlib.closing((read or here)(start_step)) as whole:  # at once, not when it is collected
                for batch in whole:
                    if replicas is None:
                        yield batch
                    else:
                        yield from (self._rows_of(replica, batch) for replica in replicas)

        parts = 1 if replicas is None else len(replicas)
        cardinality = tf.data.INFINITE_CARDINALITY if repeat else (self.steps_per_epoch - skipped) * parts
        options = tf.data.Options()  # one process makes every batch; a strategy only splits it
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        data = tf.data.Dataset.from_generator(batches, output_signature=self.signature).with_options(options)
        return data.apply(tf.data.experimental.assert_cardinality(cardinality)).prefetch(tf.data.AUTOTUNE)

    def _rows_of(self, replica, batch):
        return tf.nest.map_structure(lambda each: np.split(each, self.replicas)[replica], batch)


def signature_of(aligned: bool, num_features: int | None = None) -> Any:
    """What batches are, as (inputs, labels, weights) of `tf.TensorSpec`.

    Args:
        aligned: whether there is "alignment".
        num_features: of a frame, where sources are recordings.
    """
    ids = tf.TensorSpec([None, None], tf.int32)
    source = ids if num_features is None else tf.TensorSpec([None, None, num_features + 1], tf.float32)
    inputs = {"source": source, "target": ids}
    if aligned:
        inputs["alignment"] = tf.TensorSpec([None, None, None], tf.float32)
    return inputs, ids, tf.TensorSpec([None, None], tf.float32)


def _take(group: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
    """So many of the group: all of it as often as it goes, and a random part of it for the rest."""
    whole, rest = divmod(count, len(group))
    return np.concatenate([*[group] * whole, random.permutation(group)[:rest]]) if rest else np.tile(group, whole)


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


def inference_batches(lengths: np.ndarray, batch_tokens: int, most_rows: int | None = None) -> list[list[int]]:
    """Groups rows of like length for decoding; every row is in one batch.

    Args:
        lengths: [N] int, tokens, end token included.
        batch_tokens: most padded tokens in a batch; a row that is longer has a batch of its own.
        most_rows: in a batch; default as many as the tokens permit.
    Returns:
        Row numbers a batch, shortest first.
    """
    batches: list[list[int]] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        if not batches or (len(batches[-1]) + 1) * lengths[row] > batch_tokens or len(batches[-1]) == most_rows:
            batches.append([])
        batches[-1].append(row)
    return batches


def _grid(lengths: np.ndarray) -> np.ndarray:
    """At most GRID distinct lengths: all of them, or quantiles and the longest."""
    distinct = np.unique(lengths)
    if len(distinct) <= GRID:
        return distinct
    return np.unique(np.quantile(lengths, np.linspace(0, 1, GRID + 1)[1:], method="higher"))
