"""The search contract over random step functions."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import reference
from tests.decoding.machine import (
    CYCLE,
    NOISE,
    SOURCES,
    STEPS,
    VOCABULARY,
    answers,
    assert_close,
    attention_of,
    log_probabilities_of,
    random_table,
)
from tfseq2seq.decoding import search
from tfseq2seq.decoding.extension import extend
from tfseq2seq.decoding.scoring import length_penalty, score_targets
from tfseq2seq.structures import BOS, EOS, PAD

SEEDS = st.integers(0, 2**32 - 1)


def tokens_of(row, length):
    return row[:length].tolist()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
@pytest.mark.parametrize("options", [
    {"length_penalty": 0.0, "num_hypotheses": 1}, {"length_penalty": 0.6, "max_length": 9, "end_length": 2}], ids=str)
def test_ends_may_take_places_for_a_step_until_the_best_is_one(options, seed):
    options = {**BEAM, **options, "finish": "narrow", "stop": "top"}
    table, wanted = random_table(seed), options["num_hypotheses"]
    found = answers(table, **options)
    for b in range(SOURCES):
        expected, closest = reference.narrow_beam(
            log_probabilities_of(table, b), VOCABULARY, 3, options["length_penalty"], options["max_length"], wanted,
            options.get("end_length", 1))
        assume(closest > NOISE and len(expected) >= wanted)
        assert_close(found.scores[b], [item[0] for item in expected[:wanted]])
        assert [tokens_of(*pair) for pair in zip(found.tokens[b], found.lengths[b])] == [
            item[2] for item in expected[:wanted]]


def all_real(_):
    return {"source_mask": tf.ones([SOURCES, CYCLE], tf.bool)}


def textbook(table, source, options):
    return reference.textbook_beam(
        log_probabilities_of(table, source), VOCABULARY, options["beam_size"], options["length_penalty"],
        options["max_length"], options.get("min_length", 1))


BEAM = {"beam_size": 3, "num_hypotheses": 3, "length_penalty": 0.6, "max_length": STEPS}
WIDE = {"beam_size": 100, "num_hypotheses": 20, "length_penalty": 1.0, "max_length": STEPS}


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_a_returned_score_is_that_of_the_returned_tokens(seed):
    table = random_table(seed)
    tokens, scores, log_probabilities, lengths, attention, gains = answers(table, **BEAM)
    for b, h in np.ndindex(*lengths.shape):
        model, found = log_probabilities_of(table, b), tokens_of(tokens[b, h], lengths[b, h])
        each = [model([BOS, *found[:i]])[token] for i, token in enumerate(found)]
        total = sum(each)
        assert found[-1] == EOS and EOS not in found[:-1] and PAD not in found and BOS not in found
        assert (tokens[b, h, lengths[b, h] :] == PAD).all()
        assert_close(log_probabilities[b, h], total)
        assert_close(scores[b, h], total / reference.penalty(len(found), 0.6))
        assert_close(attention[b, h, : len(found)], attention_of(found))
        assert (attention[b, h, len(found) :] == 0).all()
        assert_close(gains[b, h, : len(found)], each)
        assert (gains[b, h, len(found) :] == 0).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
@pytest.mark.parametrize("options", [
    {"length_penalty": 0.0}, {"length_penalty": 0.6, "max_length": 9}, {"length_penalty": 1.5, "end_length": 2},
    {"length_penalty": 0.6, "coverage_penalty": 0.3},
], ids=str)
def test_finished_and_live_hypotheses_may_share_the_beam(options, seed):
    options = {**BEAM, **options, "finish": "shared"}
    beta, table = options.get("coverage_penalty", 0.0), random_table(seed)
    found = answers(table, all_real if beta else None, **options)
    for b in range(SOURCES):
        expected, closest = reference.shared_beam(
            log_probabilities_of(table, b), VOCABULARY, 3, options["length_penalty"], options["max_length"],
            options.get("end_length", 1),
            lambda tokens: beta * reference.coverage_penalty(attention_of(tokens)))
        assume(closest > NOISE)
        assert_close(found.scores[b], [item[0] for item in expected])
        assert_close(found.log_probabilities[b], [item[1] for item in expected])
        assert [tokens_of(*pair) for pair in zip(found.tokens[b], found.lengths[b])] == [item[2] for item in expected]


@settings(max_examples=40, deadline=None)
@given(SEEDS)
@pytest.mark.parametrize("options", [
    BEAM, {**BEAM, "length_penalty": 0.0}, {**BEAM, "min_length": 3},
    # The bound ends most searches of the first before max_length; the second tempts a wrong one to stop.
    {**BEAM, "max_length": 9, "num_hypotheses": 1}, {**BEAM, "length_penalty": 2.0, "max_length": 9},
], ids=str)
def test_it_finds_what_a_textbook_beam_finds(options, seed):
    table = random_table(seed)
    tokens, scores, _, lengths, *_ = answers(table, **options)
    for b in range(SOURCES):
        expected, closest = textbook(table, b, options)
        assume(closest > NOISE)
        expected = expected[: options["num_hypotheses"]]
        assert_close(scores[b], [item[0] for item in expected])
        assert [tokens_of(*pair) for pair in zip(tokens[b], lengths[b])] == [item[2] for item in expected]
        assert (lengths[b] >= options.get("min_length", 1)).all()


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_beam_as_wide_as_the_space_equals_exhaustive_search(seed):
    table = random_table(seed, 1)
    tokens, scores, _, lengths, *_ = answers(table, **WIDE)
    expected = reference.exhaustive(log_probabilities_of(table, 0), VOCABULARY, 1.0, STEPS)
    assume(reference.gap([item[0] for item in expected], 20) > NOISE)
    expected = expected[:20]
    assert_close(scores[0], [item[0] for item in expected])
    assert [tokens_of(*pair) for pair in zip(tokens[0], lengths[0])] == [item[2] for item in expected]


@settings(max_examples=30, deadline=None)
@given(SEEDS)
@pytest.mark.parametrize("options", [BEAM, {"beam_size": 1, "max_length": STEPS}], ids=["beam", "greedy"])
def test_a_source_gets_the_same_answer_alone_and_in_a_batch(options, seed):
    table = random_table(seed)
    together = answers(table, **options)
    for b in range(SOURCES):
        closest = textbook(table, b, options)[1] if options is BEAM else reference.greedy(
            log_probabilities_of(table, b), VOCABULARY, STEPS)[2]
        assume(closest > NOISE)
    for b in range(SOURCES):
        alone = answers(table[b : b + 1], **options)
        steps = alone[0].shape[2]
        np.testing.assert_array_equal(together[0][b, :, :steps], alone[0][0])
        assert (together[0][b, :, steps:] == PAD).all()
        for in_batch, by_itself in zip(together[1:4], alone[1:4]):
            assert_close(in_batch[b], by_itself[0])  # vector lanes round differently


@settings(max_examples=40, deadline=None)
@given(SEEDS)
@pytest.mark.parametrize("alpha, min_length", [(0.6, 1), (0.6, 3), (5.0, 1)])  # 5.0 tempts it to go on
def test_beam_size_one_takes_the_likeliest_token_at_each_step(alpha, min_length, seed):
    table = random_table(seed)
    tokens, scores, log_probabilities, lengths, attention, _ = answers(
        table, beam_size=1, max_length=STEPS, length_penalty=alpha, min_length=min_length)
    for b in range(SOURCES):
        total, expected, closest = reference.greedy(
            log_probabilities_of(table, b), VOCABULARY, STEPS, min_length)
        assume(closest > NOISE)
        assert tokens_of(tokens[b, 0], lengths[b, 0]) == expected
        assert_close(log_probabilities[b, 0], total)
        assert_close(scores[b, 0], total / reference.penalty(len(expected), alpha))
        assert_close(attention[b, 0, : len(expected)], attention_of(expected))
        assert (attention[b, 0, len(expected) :] == 0).all()


@pytest.mark.parametrize("options", [BEAM, {"beam_size": 1, "max_length": STEPS}], ids=["beam", "greedy"])
def test_an_empty_batch_gives_empty_answers(options):
    tokens, scores, *_ = answers(random_table(0, 0), **options)
    assert tokens.shape[0] == scores.shape[0] == 0


def test_hypotheses_that_do_not_exist_are_empty():
    # Within two tokens there are five outputs: the end alone, and one of four words before it.
    tokens, scores, _, lengths, *_ = answers(
        random_table(0, 1), beam_size=8, num_hypotheses=8, length_penalty=0.0, max_length=2)
    assert np.isfinite(scores[0, :5]).all() and (lengths[0, :5] > 0).all()
    assert (scores[0, 5:] == -np.inf).all() and (lengths[0, 5:] == 0).all() and (tokens[0, 5:] == PAD).all()


def certain(token):
    """Logits that give one token nearly all the probability."""
    return tf.one_hot([token], VOCABULARY, 100.0, 0.0)  # exp(100) is beyond float32


@pytest.mark.parametrize("beam", [1, 3])
def test_it_stops_when_no_live_hypothesis_can_win(beam):
    calls = []

    def step(tokens, state, memory):
        calls.append(len(tokens))
        return tf.repeat(certain(EOS), len(tokens), 0), state, None

    found = search(step, (), batch_size=2, vocabulary_size=VOCABULARY, beam_size=beam, max_length=50)  # eager
    assert calls == [2 * beam] and found.tokens.numpy().tolist() == [[[EOS]], [[EOS]]]
    assert found.attention.shape == (2, 1, 1, 0)


@pytest.mark.parametrize("beam", [1, 3])
def test_at_the_longest_length_the_end_keeps_its_true_probability(beam):
    found = search(
        lambda tokens, state, memory: (tf.repeat(certain(5), len(tokens), 0), state, None), (), batch_size=1,
        vocabulary_size=VOCABULARY, beam_size=beam, length_penalty=0.0, min_length=3, max_length=3)
    assert found.tokens.numpy().tolist() == [[[5, 5, EOS]]]
    assert_close(found.log_probabilities, [[-100.0]])  # two tokens of probability 1, one of exp(-100)


@pytest.mark.parametrize("beam", [1, 3])
def test_numbers_that_are_none_end_the_search_and_spare_the_neighbours(beam):
    table = random_table(3)
    good = answers(table[1:2], beam_size=beam, max_length=STEPS)
    table[0] = np.nan
    tokens, scores, _, lengths, *_ = answers(table, beam_size=beam, max_length=STEPS)
    assert not np.isfinite(scores[0]).any() and (tokens < VOCABULARY).all()
    assert tokens_of(tokens[1, 0], lengths[1, 0]) == tokens_of(good[0][0, 0], good[3][0, 0])


def test_a_state_of_known_size_goes_with_a_batch_of_unknown_size():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)
    def run(sources):
        def step(tokens, state, memory):
            state = {"sum": state["sum"] + 1.0, "none": ()}
            return tf.repeat(certain(EOS), tf.shape(tokens)[0], 0), state, None

        state = {"sum": tf.zeros([2, 2]), "none": ()}
        return search(
            step, state, batch_size=tf.shape(sources)[0], vocabulary_size=VOCABULARY, beam_size=3).lengths

    assert run(tf.constant([1, 2])).numpy().tolist() == [[1], [1]]


def words_in_order(logits, live):
    """Sorts every extension but those by PAD, BOS and EOS: flat [B, K * V] values and their order."""
    values = reference.log_softmax(logits.astype(np.float64)) + live[:, :, None]
    values[:, :, [PAD, BOS, EOS]] = -np.inf
    values = values.reshape(len(values), -1)
    return values, np.argsort(-values, axis=1, kind="stable")


# 96 is cut evenly, 130 is not, 7 and 40 are less than a chunk.
@pytest.mark.parametrize("width", [7, 40, 96, 130])
@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_extensions_found_by_chunks_are_the_best_of_all(width, seed):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(2, 3, width), scale=3.0).astype(np.float32)
    live = random.normal(size=(2, 3)).astype(np.float32)
    ended, tokens, parents, found = (leaf.numpy() for leaf in extend(tf.constant(logits), tf.constant(live)))
    values, order = words_in_order(logits, live)
    assume(min(reference.gap(row, 3) for row in values) > NOISE)
    np.testing.assert_array_equal(parents * width + tokens, order[:, :3])
    assert_close(found, np.take_along_axis(values, order[:, :3], 1))
    assert_close(ended, (reference.log_softmax(logits) + live[:, :, None])[:, :, EOS])


@pytest.mark.parametrize("live", [[0.0] * 4, [0.0] + [-np.inf] * 3], ids=["four beams", "one beam"])
@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_of_equal_extensions_the_lowest_beam_and_id_win(live, seed):
    row = np.random.default_rng(seed).geometric(0.5, size=640).astype(np.float32)  # few large, then many ties
    logits, live = np.tile(row, (1, 4, 1)), np.array([live], np.float32)
    _, tokens, parents, _ = extend(tf.constant(logits), tf.constant(live))
    np.testing.assert_array_equal(parents * 640 + tokens, words_in_order(logits, live)[1][:, :4])


def test_length_penalty_is_equation_14():
    np.testing.assert_allclose(length_penalty(tf.constant([1, 7]), 0.5), [1.0, 2.0**0.5], rtol=1e-6)
    np.testing.assert_array_equal(length_penalty(tf.constant([9]), 0.0), [1.0])


def test_score_of_a_target_leaves_padding_out():
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    labels = np.array([[4, 1, 3], [3, 0, 0]])
    rows = reference.log_softmax(logits)
    expected = [rows[0, 0, 4] + rows[0, 1, 1] + rows[0, 2, 3], rows[1, 0, 3]]
    np.testing.assert_allclose(score_targets(tf.constant(logits), tf.constant(labels)), expected, rtol=1e-5)


@pytest.mark.parametrize("options, text", [
    ({"vocabulary_size": 3}, "Received: vocabulary_size=3"),
    ({"beam_size": 0}, "Received: beam_size=0"),
    ({"beam_size": 2, "num_hypotheses": 3}, "num_hypotheses=3"),
    ({"length_penalty": -1.0}, "length_penalty=-1.0"),
    ({"min_length": 5, "max_length": 4}, "min_length=5, max_length=4"),
])
def test_numbers_out_of_range_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        search(None, None, batch_size=1, **{"vocabulary_size": 5, **options})


@pytest.mark.slow
def test_ten_thousand_random_models():
    clear = 0
    for block in range(20):
        table = random_table(block, 500)
        tokens, scores, _, lengths, *_ = answers(table, **BEAM)
        for b in range(500):
            expected, closest = textbook(table, b, BEAM)
            if closest > NOISE:
                clear += 1
                assert_close(scores[b], [item[0] for item in expected[:3]])
                found = [tokens_of(*pair) for pair in zip(tokens[b], lengths[b])]
                assert found == [item[2] for item in expected[:3]]
    assert clear > 9_900
