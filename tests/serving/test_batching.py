"""Rows of several callers computed together: each gets its own answer, whoever it shared the batch with."""

import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import numpy as np
import pytest
import tensorflow as tf

from serving.batching import Batcher
from serving.errors import DEADLINE_EXCEEDED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, RequestError
from serving.settings import Batching

HALF_AN_HOUR = 1_800_000_000  # microseconds: a batch is computed when it is full, and not before


def a_signature(function, **dtypes):
    """A concrete function with the attributes of a loaded signature's."""
    specs = {name: tf.TensorSpec([None], dtype, name=name) for name, dtype in dtypes.items()}
    return tf.function(lambda **inputs: function(**inputs)).get_concrete_function(**specs)


def shout(text):
    letters = tf.strings.unicode_decode(text, "UTF-8", errors="strict").row_lengths()
    return {"text": tf.strings.upper(text), "lengths": tf.stack([letters] * 2, 1)}


def joined(observed, function=shout, dtypes=None, **settings):
    batcher = Batcher(Batching(**settings), observed.append)
    return batcher.join(a_signature(function, **(dtypes or {"text": tf.string})))


def ask(function, *rows):
    return [each.decode() for each in function(text=tf.constant(rows, tf.string, [len(rows)]))["text"].numpy().tolist()]


def test_callers_share_a_batch_and_each_gets_its_own_rows():
    observed = []
    function = joined(observed, max_batch_size=9, batch_timeout_micros=HALF_AN_HOUR)
    rows = [["a"], ["bb", "ccc"], ["d" * 5000], ["e", "f", "g"], [""], ["é 猫"]]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda each: ask(function, *each), rows))
    assert answers == [[row.upper() if row.isascii() else "é 猫" for row in each] for each in rows]
    assert observed == [9]  # once, whoever tells it


def test_outputs_of_any_rank_are_split():
    function = joined([], max_batch_size=3, batch_timeout_micros=HALF_AN_HOUR)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda rows: function(text=tf.constant(rows))["lengths"].numpy(), (["a", "bb"], ["ccc"]))
    np.testing.assert_array_equal(one, [[1, 1], [2, 2]])
    np.testing.assert_array_equal(two, [[3, 3]])


def test_a_failing_row_does_not_fail_its_neighbours():
    observed = []
    function = joined(observed, max_batch_size=4, batch_timeout_micros=HALF_AN_HOUR)

    def answer(row):
        try:
            return function(text=tf.constant([row]))["text"].numpy().tolist()
        except tf.errors.InvalidArgumentError as error:
            return error.error_code

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, [b"a", b"\xff", b"c", b"d"])) == [[b"A"], INVALID_ARGUMENT, [b"C"], [b"D"]]
    assert observed == []  # the batch of four failed; what followed was no batch


def in_python(function):
    """A signature whose batches are computed by a function of a list of bytes."""

    def compute(text):
        def rows(tensor):
            return tf.constant(function(tensor.numpy().tolist()), tf.string)

        return {"text": tf.ensure_shape(tf.py_function(rows, [text], tf.string), [None])}

    return compute


def test_after_a_failure_no_more_requests_are_computed_at_once_than_batches():
    active, most, more = [], [], threading.Event()

    def compute(rows):
        if len(rows) > 1:
            raise ValueError("a batch that fails")
        active.append(rows)
        most.append(len(active))
        if len(active) > 1:
            more.set()
        if len(most) == 1:
            more.wait(1)  # time for another to come beside
        active.remove(rows)
        return rows

    function = joined(
        [], in_python(compute), max_batch_size=6, batch_timeout_micros=HALF_AN_HOUR, num_batch_threads=1)
    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(lambda row: ask(function, row), "abcdef")) == [[row] for row in "abcdef"]
    assert most == [1] * 6


def test_a_batch_that_found_no_memory_is_not_computed_again():
    computed = []

    def compute(rows):
        computed.append(len(rows))
        raise MemoryError

    function = joined([], in_python(compute), max_batch_size=2, batch_timeout_micros=HALF_AN_HOUR)
    with ThreadPoolExecutor(2) as pool:
        failed = [pool.submit(ask, function, row) for row in "ab"]
        assert {type(each.exception(30)) for each in failed} == {tf.errors.ResourceExhaustedError}
    assert computed == [2]


def test_what_nobody_waits_for_is_not_computed():
    computed = []

    def gone():
        raise RequestError(DEADLINE_EXCEEDED, "too late")

    batcher = Batcher(Batching(max_batch_size=1), check=gone)
    function = batcher.join(a_signature(in_python(lambda rows: computed.append(rows) or rows), text=tf.string))
    for rows in (["a"], []):
        with pytest.raises(RequestError, match="too late"):
            ask(function, *rows)
    assert not computed


def test_no_rows_do_not_wait_for_company():
    function = joined([], max_batch_size=4, batch_timeout_micros=HALF_AN_HOUR)
    outputs = function(text=tf.constant([], tf.string))
    assert (outputs["text"].shape, outputs["lengths"].shape) == ((0,), (0, 2))


def test_more_rows_than_a_batch_holds_are_refused_as_tensorflow_serving_does():
    with pytest.raises(RequestError) as caught:
        ask(joined([], max_batch_size=4), *"abcde")
    assert caught.value.code == INVALID_ARGUMENT
    assert caught.value.message == "Task size 5 is larger than maximum input batch size 4"


def test_inputs_of_different_length_fail_as_without_batches():
    function = joined(
        [], lambda text, other: {"text": text + other}, {"text": tf.string, "other": tf.string}, max_batch_size=4
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="ncompatible shapes"):
        function(text=tf.constant(["a", "b"]), other=tf.constant(["c", "d", "e"]))


def test_signatures_and_versions_never_mix():
    batcher = Batcher(Batching(max_batch_size=4, batch_timeout_micros=HALF_AN_HOUR))
    functions = [
        batcher.join(a_signature(lambda text, mark=mark: {"text": tf.strings.join([text, mark])}, text=tf.string))
        for mark in "xyz"
    ]
    with ThreadPoolExecutor(12) as pool:
        asked = [(mark, row) for row in range(4) for mark in range(3)]
        answers = list(pool.map(lambda each: ask(functions[each[0]], str(each[1])), asked))
    assert answers == [[f"{row}{'xyz'[mark]}"] for mark, row in asked]


@pytest.mark.parametrize(
    "function",
    [lambda text: {"text": tf.strings.reduce_join(text)}, lambda text: {"text": text, "all": tf.zeros([2, 3])}],
)
def test_a_signature_without_rows_is_not_joined(function):
    assert joined([], function) is None


def test_too_many_waiting_batches_are_refused():
    entered, go_on = threading.Event(), threading.Event()

    def hold(text):
        entered.set()
        go_on.wait(30)
        return text

    def blocked(text):
        return {"text": tf.ensure_shape(tf.py_function(hold, [text], tf.string), [None])}

    function = joined(
        [], blocked, max_batch_size=1, max_enqueued_batches=1, num_batch_threads=1, batch_timeout_micros=0
    )
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, function, "first")
        assert entered.wait(30)
        others = [pool.submit(ask, function, str(number)) for number in range(7)]
        refused, _ = wait(others, 30, FIRST_COMPLETED)
        go_on.set()
        assert refused and {each.exception().code for each in refused} == {RESOURCE_EXHAUSTED}
        assert first.result(30) == ["first"]
        assert sum(each.exception(30) is None for each in others) >= 1  # one waited, and was answered
        assert ask(function, "again") == ["again"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch_size": 0}, "Batching needs max_batch_size >= 1. Received: max_batch_size=0"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros >= 0"),
        ({"batch_timeout_micros": 1 << 31}, r"batch_timeout_micros < 2\*\*31"),
        ({"num_batch_threads": 0}, "num_batch_threads >= 1"),
        ({"max_enqueued_batches": 0}, "max_enqueued_batches >= 1"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Batching(**settings)
