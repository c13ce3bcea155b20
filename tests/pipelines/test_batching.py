"""Every pair once an epoch, in few shapes, in an order that resumes exactly, with weights that sum to 1."""

import itertools
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.batching import EMPTY, Batches, choose_shapes, inference_batches
from pipelines.pairs import DataError, EncodedPairs
from tfseq2seq.structures import BOS, EOS, PAD


def encode(pairs):
    """Lists of ids to EncodedPairs."""
    sides = []
    for side in zip(*pairs):
        sides += [
            np.array([token for ids in side for token in ids], np.int32),
            np.cumsum([0, *map(len, side)]).astype(np.int64)]
    return EncodedPairs(*sides)


def made_up(num_pairs, seed=0, longest=19):
    """Pairs whose first source id is 4 + their number."""
    random = np.random.RandomState(seed)
    pairs = []
    for number in range(num_pairs):
        source, target = random.randint(1, longest, 2)
        source_ids = [4 + number, *random.randint(4, 99, source - 1).tolist()]
        pairs.append((source_ids, random.randint(4, 99, target).tolist()))
    return pairs


PAIRS = made_up(300)


@pytest.fixture(scope="module")
def batches():
    return Batches(encode(PAIRS), batch_tokens=160, num_lengths=3, replicas=2, seed=7)


def arrays(batch):
    inputs, labels, weights = batch
    return [np.asarray(array) for array in (inputs["source"], inputs["target"], labels, weights)]


def assert_equal(batches, others):
    for batch, other in itertools.zip_longest(batches, others):
        for array, expected in zip(arrays(batch), arrays(other), strict=True):
            np.testing.assert_array_equal(array, expected)


# One batch


def test_a_batch_is_laid_out_as_the_contract_says():
    encoded = encode([([10, 11], [20]), ([12], [21, 22, 23]), ([], [])])
    batches = Batches(encoded, batch_tokens=100, num_lengths=1, replicas=2)
    [(index, rows)] = batches.plan(0, shuffle=False)
    assert (batches.shapes, batches.rows, rows.tolist()) == ([(3, 4)], [4], [0, 1, 2, EMPTY])
    source, target, labels, weights = arrays(batches.batch(index, rows))
    assert source.tolist() == [[10, 11, EOS], [12, EOS, PAD], [EOS, PAD, PAD], [PAD, PAD, PAD]]
    assert labels.tolist() == [[20, EOS, 0, 0], [21, 22, 23, EOS], [EOS, 0, 0, 0], [0, 0, 0, 0]]
    assert target.tolist() == [[BOS, 20, 0, 0], [BOS, 21, 22, 23], [BOS, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(weights, (labels != PAD) / 7, rtol=1e-6)
    assert [array.dtype for array in (source, target, labels, weights)] == [np.int32] * 3 + [np.float32]


# An epoch


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_pair_comes_exactly_once_an_epoch(batches, shuffle):
    seen = []
    for index, rows in batches.plan(3, shuffle):
        source, target, labels, weights = arrays(batches.batch(index, rows))
        assert source.shape == (batches.rows[index], batches.shapes[index][0])
        assert target.shape == (batches.rows[index], batches.shapes[index][1])
        assert labels.shape == weights.shape == target.shape
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
        for row in range(len(rows)):
            source_ids, label_ids = source[row][source[row] != PAD], labels[row][labels[row] != PAD]
            if len(source_ids):
                expected = PAIRS[source_ids[0] - 4]
                assert source_ids.tolist() == [*expected[0], EOS]
                assert label_ids.tolist() == [*expected[1], EOS]
                seen.append(source_ids[0] - 4)
            else:
                assert rows[row] == EMPTY and not len(label_ids) and not target[row].any()
    assert sorted(seen) == list(range(300))


def test_shapes_are_few_and_batches_keep_the_budget(batches):
    assert len(batches.shapes) <= 3
    for rows, shape in zip(batches.rows, batches.shapes):
        assert rows % 2 == 0
        assert rows * max(shape) <= 160


def test_an_epoch_has_always_as_many_steps(batches):
    assert {len(batches.plan(epoch)) for epoch in range(5)} == {batches.steps_per_epoch}


def test_the_shape_of_a_step_is_that_of_its_batch(batches):
    steps = range(batches.steps_per_epoch - 3, 2 * batches.steps_per_epoch + 2)
    data = batches.dataset(steps.start).take(len(steps)).as_numpy_iterator()
    shapes = [(*inputs["source"].shape, inputs["target"].shape[1]) for inputs, _, _ in data]
    assert [batches.shape_at(step) for step in steps] == shapes and len(set(shapes)) > 1


def test_the_padding_share_is_that_of_the_batches(batches):
    real = padded = 0
    for batch in itertools.starmap(batches.batch, batches.plan(0)):
        source, _, labels, _ = arrays(batch)
        real += (source != PAD).sum() + (labels != PAD).sum()
        padded += source.size + labels.size
    assert batches.padding_share == pytest.approx(1 - real / padded)


def test_the_last_batch_is_nearly_full():
    """101 pairs and 20 rows at most: 6 batches of 17 with one empty row, not 5 of 20 and one of 1."""
    batches = Batches(encode([([5] * 4, [6] * 4)] * 101), batch_tokens=100)
    assert (batches.rows, batches.steps_per_epoch) == ([17], 6)
    assert sum((rows == EMPTY).sum() for _, rows in batches.plan(0)) == 1


def test_few_pairs_are_not_filled_up_to_the_budget():
    batches = Batches(encode([([5], [6])] * 3), batch_tokens=4096, replicas=2)
    assert batches.rows == [4]


def test_a_row_longer_than_the_budget_still_comes():
    assert Batches(encode([([5] * 50, [6])]), batch_tokens=10, replicas=2).rows == [2]


# The order


def test_the_order_hangs_on_seed_and_epoch_alone(batches):
    def rows(made, epoch):
        return [(index, ids.tolist()) for index, ids in made.plan(epoch)]

    again = Batches(encode(PAIRS), batch_tokens=160, num_lengths=3, replicas=2, seed=7)
    other = Batches(encode(PAIRS), batch_tokens=160, num_lengths=3, replicas=2, seed=8)
    assert rows(batches, 0) == rows(again, 0)
    assert rows(batches, 0) != rows(batches, 1)
    assert rows(batches, 0) != rows(other, 0)
    mixed = [index for index, _ in batches.plan(0)]
    assert mixed != sorted(mixed)  # batches of one shape do not stand together
    first_pairs = {tuple(sorted(ids)) for _, ids in rows(batches, 0)}
    assert not first_pairs & {tuple(sorted(ids)) for _, ids in rows(batches, 1)}  # and rows change company


def test_a_dataset_goes_on_exactly_where_an_interrupted_one_stopped(batches):
    steps = batches.steps_per_epoch
    whole = list(batches.dataset().take(2 * steps + 3))
    for start in (1, steps - 1, steps, steps + 2):
        assert_equal(batches.dataset(start).take(2 * steps + 3 - start), whole[start:])
    assert_equal(whole[:steps], itertools.starmap(batches.batch, batches.plan(0)))


def test_without_repeating_an_epoch_ends(batches):
    steps = batches.steps_per_epoch
    expected = list(itertools.starmap(batches.batch, batches.plan(0, shuffle=False)))
    data = batches.dataset(shuffle=False, repeat=False)
    assert int(data.cardinality()) == steps
    assert_equal(data, expected)
    assert_equal(data, expected)  # twice the same
    assert_equal(batches.dataset(steps + 2, repeat=False), list(batches.dataset(steps + 2).take(steps - 2)))


# The shapes


def cost(source, target, shapes):
    """Padded tokens when every pair takes the smallest shape that holds it; infinite when one finds none."""
    total = 0
    for s, t in zip(source, target):
        total += min((S + T for S, T in shapes if s <= S and t <= T), default=np.inf)
    return total


@pytest.mark.parametrize("num_shapes", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_shapes_are_the_best_of_all_growing_ones(num_shapes, seed):
    random = np.random.RandomState(seed)
    source = random.randint(1, 6, 25)
    target = np.maximum(1, source + random.randint(-2, 3, 25))
    everything = list(itertools.product(range(1, source.max() + 1), range(1, target.max() + 1)))
    chains = [
        chain for size in range(1, num_shapes + 1) for chain in itertools.combinations(everything, size)
        if all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(chain))]
    best = min(cost(source, target, chain) for chain in chains)
    chosen = choose_shapes(source, target, num_shapes)
    assert len(chosen) <= num_shapes
    assert cost(source, target, chosen) == best


def test_equal_lengths_need_one_shape():
    assert choose_shapes(np.full(9, 5), np.full(9, 7), 4).tolist() == [[5, 7]]


def test_many_lengths_are_seen_through_quantiles():
    source = np.arange(1, 1001)
    chosen = choose_shapes(source, source, 4)
    assert chosen[-1].tolist() == [1000, 1000]
    # The best four are 250, 500, 750 and 1000: 2 * 250 * 2500 tokens.
    assert cost(source, source, chosen) <= 1.02 * 2 * 250 * 2500


# Limits


def test_pairs_beyond_the_lengths_are_left_out():
    pairs = [([5] * 3, [6]), ([5] * 4, [6]), ([5], [6] * 2), ([5], [6] * 3)]
    batches = Batches(
        encode(pairs), batch_tokens=100, num_lengths=1, max_source_length=4, max_target_length=3)
    assert batches.num_left_out == 2
    assert batches.plan(0, shuffle=False)[0][1].tolist() == [0, 2]


def test_no_pairs_at_all_are_refused():
    with pytest.raises(DataError, match="Received: 1 pairs, none within 4 and 128 tokens"):
        Batches(encode([([5] * 4, [6])]), batch_tokens=100, max_source_length=4)
    with pytest.raises(ValueError, match="at least 1. Received: batch_tokens=0, num_lengths=4, replicas=1"):
        Batches(encode([([5], [6])]), batch_tokens=0)


def test_a_batch_takes_well_below_a_millisecond():
    batches = Batches(encode(made_up(4000)), batch_tokens=4096, num_lengths=2)
    plan = batches.plan(0)
    timings = []
    for batch in plan * 5:
        started = time.perf_counter()
        batches.batch(*batch)
        timings.append(time.perf_counter() - started)
    assert np.median(timings) < 1e-3


# Replicas


def test_replicas_get_as_many_rows_and_see_every_pair_once():
    """Two logical devices in a process of their own: devices are split before TensorFlow starts."""
    program = textwrap.dedent("""
        import json
        import numpy as np
        import tensorflow as tf
        from pipelines.batching import Batches
        from pipelines.pairs import EncodedPairs

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        lengths = np.array([1 + 7 * n % 9 for n in range(41)])
        offsets = np.append(0, lengths.cumsum())
        ids = np.repeat(np.arange(4, 45), lengths).astype(np.int32)
        batches = Batches(
            EncodedPairs(ids, offsets, ids, offsets), batch_tokens=60, num_lengths=2, replicas=2, seed=1)
        shapes, weights, seen = [], [], []
        for inputs, labels, weight in strategy.experimental_distribute_dataset(batches.dataset(repeat=False)):
            shares = strategy.experimental_local_results(inputs["source"])
            shapes.append([share.shape.as_list() for share in shares])
            weights.append(sum(float(tf.reduce_sum(w)) for w in strategy.experimental_local_results(weight)))
            seen += [int(i) for share in shares for i in share[:, 0] if i]
        steps = batches.steps_per_epoch
        print(json.dumps({"shapes": shapes, "weights": weights, "seen": seen, "steps": steps}))
    """)
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert len(found["shapes"]) == found["steps"] > 3
    assert all(first == second for first, second in found["shapes"])
    np.testing.assert_allclose(found["weights"], 1, rtol=1e-5)
    assert sorted(found["seen"]) == list(range(4, 45))


# Decoding


def test_decoding_batches_are_of_like_length_within_the_budget():
    lengths = np.array([9, 2, 5, 2, 30, 5, 1])
    batches = inference_batches(lengths, 10)
    assert batches == [[6, 1, 3], [2, 5], [0], [4]]
    assert inference_batches(np.array([], np.int64), 10) == []
