"""The parts of the benchmarks that can be wrong without a model: what is drawn, counted and compared."""

import math
import sys

import numpy as np
import pytest

from tests.benchmarks import results, sizes, weights
from tests.benchmarks.decode import draw_sources
from tests.benchmarks.results import Decoded
from tests.benchmarks.rivals.side import up_to_end
from tests.benchmarks.train import make_batches
from tests.benchmarks.workers import Worker


def test_the_checksum_sees_tokens_order_and_ends():
    answers = [Decoded((12, 3), -1.0), Decoded((4, 3), -1.0)]
    changed = [
        [Decoded((13, 3), -1.0), Decoded((4, 3), -1.0)], answers[::-1],
        [Decoded((1, 23), -1.0), Decoded((4, 3), -1.0)], [Decoded((12, 3, 4), -1.0), Decoded((3,), -1.0)]]
    found = {results.checksum(one) for one in [answers, *changed]}
    assert len(found) == 5


def test_the_checksum_sees_scores_where_a_side_says_them():
    answers = [Decoded((12, 3), -1.0), Decoded((4, 3), -1.5)]
    unsaid = [answer._replace(log_probability=math.nan) for answer in answers]
    assert results.checksum(answers) == results.checksum(unsaid) + " -2.50"
    assert results.checksum(answers) != results.checksum([answers[0], Decoded((4, 3), -1.51)])


def test_a_pass_repeats_another_with_its_tokens_and_scores():
    answers = [Decoded((12, 3), -1.0), Decoded((4, 3), -1.5)]
    unsaid = [answer._replace(log_probability=math.nan) for answer in answers]
    assert results.repeats(answers, [Decoded((12, 3), -1.00001), Decoded((4, 3), -1.5)])
    assert results.repeats(unsaid, unsaid)
    for others in (
            unsaid, answers[::-1], [Decoded((12, 3), -1.002), Decoded((4, 3), -1.5)],
            [Decoded((12, 3), -1.0), Decoded((5, 3), -1.5)]):
        assert not results.repeats(answers, others)


def test_sides_are_compared_where_their_tokens_are_equal():
    ours = [Decoded((5, 3), -1.0), Decoded((6, 3), -2.0), Decoded((7, 3), -3.0), Decoded((8, 3), -4.0)]
    theirs = [Decoded((5, 3), -1.5), Decoded((6, 3), -2.25), Decoded((9, 3), -8.0), Decoded((8, 3), -4.0)]
    assert results.equal_share(ours, theirs) == 0.75
    assert results.largest_difference(ours, theirs) == 0.5
    assert results.mean_log_probability(ours) == -2.5
    assert results.num_tokens(ours) == 8


def test_the_ratio_is_the_median_over_the_turns_and_not_the_ratio_of_medians():
    assert results.median_ratio([1.0, 2.0, 4.0], [3.0, 2.0, 8.0]) == 2.0  # of 3, 1 and 2; the medians' is 1.5


def test_a_table_is_markdown_with_aligned_columns():
    assert results.table(["", "ms"], [["ours", 1.5], ["a rival", 12]]).splitlines() == [
        "|         |  ms |", "| ------- | --: |", "| ours    | 1.5 |", "| a rival |  12 |"]


def test_an_answer_ends_with_its_first_end_token():
    assert up_to_end([5, 3, 0, 3]) == [5, 3]
    assert up_to_end([5, 6]) == [5, 6]


def test_sources_have_5_to_40_tokens_with_a_mean_of_20_and_end_once():
    batches = draw_sources(100)
    assert [len(batch) for batch in batches[32]] == [32, 32]
    assert batches[1] == [[row] for row in batches[32][0][:8]]
    rows = [row for batch in batches[32] for row in batch]
    lengths = [len(row) for row in rows]
    assert min(lengths) >= 5 and max(lengths) <= 40 and abs(np.mean(lengths) - 20) < 2
    assert all(row.index(sizes.EOS) == len(row) - 1 and 4 <= min(row[:-1]) for row in rows)


def test_the_waves_are_the_papers():
    found = sizes.waves(3, 4)
    expected = [[np.sin(p), np.cos(p), np.sin(p / 100), np.cos(p / 100)] for p in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_training_batches_have_one_budget_and_grow_longer():
    batches = make_batches(100)
    widths = [max(batch.source.shape[1], batch.target.shape[1]) for batch in batches]
    assert widths == sorted(widths) and len(batches) == 4
    for batch, width in zip(batches, widths, strict=True):
        assert len(batch.labels) * width <= 2048
        np.testing.assert_array_equal(batch.target[:, 0], sizes.BOS)
        np.testing.assert_array_equal((batch.labels == sizes.EOS).sum(1), 1)


@pytest.mark.parametrize("name", ["tiny", "tiny_recurrent"])
def test_weights_are_the_same_every_time_and_survive_the_file(tmp_path, name):
    size = {**sizes.SIZES, **sizes.RECURRENT_SIZES}[name]
    weights.save(tmp_path / "weights.npz", size)
    found = weights.load(tmp_path / "weights.npz")
    draw = weights.transformer_weights if name == "tiny" else weights.recurrent_weights
    expected = draw(size, np.random.default_rng(0))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)


class Echo:
    """A side for the test below."""

    def __init__(self, sign):
        self.sign = sign

    def negate(self, values):
        """Its sign times each value."""
        return [self.sign * value for value in values]


def test_a_side_answers_from_a_process_of_its_own_and_its_errors_come_back():
    worker = Worker("tests.benchmarks.test_benchmarks:Echo", -1)
    result, seconds = worker.ask("negate", [1, 2])
    assert result == [-1, -2] and seconds >= 0
    with pytest.raises(RuntimeError, match="TypeError"):
        worker.ask("negate", 1)
    assert worker.ask("negate", [3])[0] == [-3]
    worker.stop()
    assert worker.process.returncode == 0


def test_a_side_that_cannot_run_here_says_what_is_missing():
    with pytest.raises(ValueError, match="no_such_package"):
        Worker("no_such_package:Side")
    with pytest.raises(ValueError, match="needs an interpreter"):
        Worker("tests.benchmarks.test_benchmarks:Echo", 1, python=f"{sys.executable}-missing")
