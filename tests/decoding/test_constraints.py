"""What may not be in an answer, against plain Python: nothing forbidden comes out, and the best of the permitted does.

A constraint is a pair: what `search` is given, and a predicate on lists of tokens, as far as they go or ended by EOS.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings

from tests import reference
from tests.decoding.machine import (
    BEAM,
    NOISE,
    SEEDS,
    SOURCES,
    STEPS,
    VOCABULARY,
    WIDE,
    all_tokens,
    answers,
    assert_close,
    check_scores,
    log_probabilities_of,
    logits_of,
    of_each_row,
    random_table,
    search_all,
    tokens_of,
)
from tfseq2seq.decoding import Trie
from tfseq2seq.decoding.processors import (
    block_ngrams,
    forbid_phrases,
    forbid_tokens,
    force_prefix,
    free_end_at,
    no_end_before,
    only_from,
)
from tfseq2seq.structures import BOS, EOS, PAD

LISTED = [[4], [4, 5], [4, 5, 6], [6, 1], [6, 1, 4], [5, 5, 5]]
PREFIX, PHRASES = [6, 4], [[5, 4], [6]]


def contains(tokens, phrase):
    return any(tokens[i : i + len(phrase)] == phrase for i in range(len(tokens) - len(phrase) + 1))


def has_repeated_ngram(tokens, size):
    ngrams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return len(set(ngrams)) < len(ngrams)


def begins_a_listed(tokens):
    return any([*answer, EOS][: len(tokens)] == tokens for answer in LISTED)


def ends_with_all(tokens, phrases=PHRASES):
    """Positive phrases say nothing about a beginning."""
    return tokens[-1] != EOS or all(contains(tokens, phrase) for phrase in phrases)


def rows(values):
    """[B, ...] of a constant for each source of the batch, made in the graph."""
    return lambda tensors: tf.repeat(tf.constant([values]), tf.shape(tensors["sources"])[0], 0)


PREFIXES, PHRASE_ROWS = rows(PREFIX), rows([[5, 4], [6, PAD]])
CONSTRAINTS = {
    "no token of a list": (lambda _: {"processors": [forbid_tokens([5, 1], VOCABULARY)]},
                           lambda tokens: not {5, 1} & set(tokens)),
    "no phrase of a list": (lambda _: {"processors": [forbid_phrases([[4, 4], [6], [1, 5]])]},
                            lambda tokens: not any(contains(tokens, each) for each in ([4, 4], [6], [1, 5]))),
    "no token twice": (lambda _: {"processors": [block_ngrams(1)]}, lambda tokens: not has_repeated_ngram(tokens, 1)),
    "no bigram twice": (lambda _: {"processors": [block_ngrams(2)]},
                        lambda tokens: not has_repeated_ngram(tokens, 2)),
    "a prefix": (lambda tensors: {"processors": [force_prefix(PREFIXES(tensors))]},
                 lambda tokens: tokens[:2] == PREFIX[: len(tokens)]),
    "one of a list": (lambda _: {"processors": [only_from(Trie(LISTED))]}, begins_a_listed),
    "phrases": (lambda tensors: {"phrases": PHRASE_ROWS(tensors)}, ends_with_all),
    "phrases, no bigram twice, a prefix": (
        lambda tensors: {"phrases": rows([[5, 4], [4, 5]])(tensors), "processors": [
            block_ngrams(2), force_prefix(rows([5])(tensors))]},
        lambda tokens: not has_repeated_ngram(tokens, 2) and tokens[0] == 5 and ends_with_all(
            tokens, [[5, 4], [4, 5]])),
    "one of a list, not a token": (
        lambda _: {"processors": [only_from(Trie(LISTED)), forbid_tokens([5], VOCABULARY)]},
        lambda tokens: begins_a_listed(tokens) and 5 not in tokens),
}
SHARED_OUT = [CONSTRAINTS[name][0] for name in CONSTRAINTS if "phrases" in name]  # not as a textbook beam
constraint = pytest.fixture(params=CONSTRAINTS.values(), ids=CONSTRAINTS)(lambda request: request.param)


def test_a_wide_beam_finds_the_best_of_the_permitted(constraint):
    make_options, valid = constraint

    @settings(max_examples=8, deadline=None)
    @given(SEEDS)
    def run(seed):
        table = random_table(seed, 1)
        found = search_all(table, make_options, **WIDE)
        expected = reference.exhaustive(log_probabilities_of(table, 0), VOCABULARY, 1.0, STEPS, valid=valid)
        assume(reference.gap([item[0] for item in expected], 20) > NOISE)
        assert all_tokens(found, 0) == [item[2] for item in expected[:20]]
        check_scores(table, found, 1.0)

    run()


def test_no_answer_is_forbidden(constraint):
    make_options, valid = constraint

    @settings(max_examples=15, deadline=None)
    @given(SEEDS)
    def run(seed):
        table = random_table(seed)
        found = search_all(table, make_options, **BEAM)
        for b in range(SOURCES):
            expected, closest = reference.textbook_beam(
                log_probabilities_of(table, b), VOCABULARY, 3, 0.6, STEPS, valid=valid)
            assert all(valid(tokens) for tokens in all_tokens(found, b))
            if make_options not in SHARED_OUT:
                assume(closest > NOISE)
                assert all_tokens(found, b) == [item[2] for item in expected[:3]]
            else:  # the textbook beam may have lost them all
                assert np.isfinite(found.scores[b, 0])
        check_scores(table, found, 0.6)

    run()


def test_a_constrained_source_gets_the_same_answer_alone_and_in_a_batch(constraint):
    make_options, _ = constraint
    table = np.concatenate([random_table(seed) for seed in range(5)])
    together = search_all(table, make_options, **BEAM)
    for b in range(len(table)):
        alone = search_all(table[b : b + 1], make_options, **BEAM)
        assert all_tokens(alone, 0) == all_tokens(together, b)
        assert_close(alone.scores[0], together.scores[b])


@pytest.mark.parametrize("longest", [[], [1], [2, 1]])
def test_ngrams_longer_than_any_answer_are_no_trouble(longest):
    table = random_table(1, len(longest))
    found = answers(
        table, lambda tensors: {"max_length": tensors["most"], "processors": [block_ngrams(3)]},
        {"most": np.array(longest, np.int32)}, beam_size=3)
    plain = answers(table, of_each_row, {"max_length": np.array(longest, np.int32)}, beam_size=3)
    np.testing.assert_array_equal(found.tokens, plain.tokens)


def permitted_alone(table, b, valid):
    """Log-probabilities where what is forbidden is taken out and the rest made to sum to 1, from the definition."""
    logits = logits_of(table, b)

    def log_probabilities(tokens):
        row = logits(tokens).astype(np.float64)
        fine = np.array([valid([*tokens[1:], token]) for token in range(VOCABULARY)])
        row[~fine] = -np.inf
        return reference.log_softmax(row) if fine.any() else row

    return log_probabilities


RENORMALIZED = [name for name in CONSTRAINTS if "phrases" not in name]


@pytest.mark.parametrize("name", RENORMALIZED)
def test_a_constraint_can_give_its_share_to_what_it_permits(name):
    make_options, valid = CONSTRAINTS[name]

    def as_reshapers(tensors):
        return {"reshapers": make_options(tensors)["processors"]}

    @settings(max_examples=8, deadline=None)
    @given(SEEDS)
    def run(seed):
        table = random_table(seed, 1)
        found, model = search_all(table, as_reshapers, **WIDE), log_probabilities_of(table, 0)
        expected = reference.exhaustive(permitted_alone(table, 0, valid), VOCABULARY, 1.0, STEPS, valid=valid)
        assume(reference.gap([item[0] for item in expected], 20) > NOISE)
        assert all_tokens(found, 0) == [item[2] for item in expected[:20]]
        assert_close(found.scores[0][: len(expected)], [item[0] for item in expected[:20]])
        for h, tokens in enumerate(all_tokens(found, 0)):
            assert_close(found.log_probabilities[0, h], sum(
                model([BOS, *tokens[:i]])[token] for i, token in enumerate(tokens)))

    run()


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_an_end_too_early_gives_its_share_away_and_one_at_the_limit_is_free(seed):
    table, least, most = random_table(seed), np.array([1, 2, 3], np.int32), np.array([4, 2, 5], np.int32)
    found = answers(
        table, lambda_ends, {"min_length": least, "max_length": most}, beam_size=3, num_hypotheses=3,
        length_penalty=0.6)

    def changed(b):
        logits = logits_of(table, b)

        def log_probabilities(tokens):
            row = logits(tokens).astype(np.float64)
            if len(tokens) == most[b]:  # BOS among them
                return np.where(np.arange(VOCABULARY) == EOS, 0.0, -np.inf)
            if len(tokens) < least[b]:
                row[EOS] = -np.inf
            return reference.log_softmax(row)

        return log_probabilities

    for b in range(SOURCES):
        expected, closest = reference.textbook_beam(changed(b), VOCABULARY, 3, 0.6, most[b], least[b])
        assume(closest > NOISE)
        assert all_tokens(found, b) == [item[2] for item in expected[:3]]
        assert_close(found.scores[b][: len(expected)], [item[0] for item in expected[:3]])


def test_an_end_that_is_forbidden_is_not_free_at_the_limit():
    def listed(tensors):
        return {**tensors, "reshapers": [only_from(Trie([[4, 5, 6]])), free_end_at(tensors["max_length"])]}

    def search_up_to(most):
        return answers(random_table(2), listed, {"max_length": np.full(SOURCES, most, np.int32)}, beam_size=3)

    assert not np.isfinite(search_up_to(3).scores).any()  # the list's only answer takes four tokens
    found = search_up_to(4)
    assert [all_tokens(found, b) for b in range(SOURCES)] == [[[4, 5, 6, EOS]]] * SOURCES


def lambda_ends(tensors):
    return {
        **tensors,
        "reshapers": [no_end_before(tensors["min_length"]), free_end_at(tensors["max_length"])]}


def test_the_phrases_of_each_source_are_its_own():
    table = random_table(3)
    phrases = np.array([[[5, 6], [4, PAD]], [[PAD, PAD], [PAD, PAD]], [[6, 6], [PAD, PAD]]], np.int32)
    found = answers(
        table, of_each_row, {"phrases": phrases}, beam_size=4, num_hypotheses=2, length_penalty=0.6, max_length=6)
    for tokens in all_tokens(found, 0):
        assert contains(tokens, [5, 6]) and 4 in tokens
    assert all(contains(tokens, [6, 6]) for tokens in all_tokens(found, 2))
    free = answers(table[1:2], beam_size=4, num_hypotheses=2, length_penalty=0.6, max_length=6)
    assert all_tokens(found, 1) == all_tokens(free, 0)


def test_a_phrase_that_begins_like_itself_is_found_after_a_false_start():
    # 4 4 5 in 4 4 4 5: after the third 4 the second and third may be its beginning.
    table = np.full([1, 5, VOCABULARY, VOCABULARY], -5.0, np.float32)
    table[..., 4], table[..., 6] = 0.0, -1.0
    found = answers(
        table, of_each_row, {"phrases": np.array([[[4, 4, 5]]], np.int32)}, beam_size=2, max_length=5, min_length=5,
        length_penalty=0.0)
    assert contains(tokens_of(found, 0, 0), [4, 4, 5])
    best = reference.exhaustive(
        log_probabilities_of(table, 0), VOCABULARY, 0.0, 5, 5, valid=lambda tokens: contains(tokens, [4, 4, 5]))
    assert_close(found.log_probabilities[0, 0], best[0][1])


def test_a_trie_walks_its_edges():
    trie = Trie(LISTED)
    nodes = tf.constant([0, 0, -1])
    allowed = trie.allowed(nodes, VOCABULARY).numpy()
    assert [np.flatnonzero(row).tolist() for row in allowed] == [[4, 5, 6], [4, 5, 6], []]
    nodes = trie.step(nodes, tf.constant([4, 1, 4]))
    assert nodes.numpy().tolist()[1:] == [-1, -1]
    assert np.flatnonzero(trie.allowed(nodes, VOCABULARY)[0]).tolist() == [EOS, 5]
    with pytest.raises(ValueError, match="at least one answer"):
        Trie([])


def test_every_pair_of_constraints_goes_together():
    """Forbidding is a conjunction: a wide beam finds what the two predicates leave."""
    names = [name for name in CONSTRAINTS if "," not in name and name != "phrases"]
    for one, two in itertools.islice(itertools.combinations(names, 2), 0, None, 4):
        both = [CONSTRAINTS[name] for name in (one, two)]

        def make_options(tensors, both=both):
            return {"processors": [process for make, _ in both for process in make(tensors)["processors"]]}

        table = random_table(11, 1)
        found = search_all(table, make_options, **WIDE)
        expected = reference.exhaustive(
            log_probabilities_of(table, 0), VOCABULARY, 1.0, STEPS,
            valid=lambda tokens, both=both: all(valid(tokens) for _, valid in both))
        assert all_tokens(found, 0) == [item[2] for item in expected[:20]], (one, two)


@pytest.mark.slow
def test_ten_thousand_random_models_under_constraints(constraint):
    """Of each constraint 1,200 models: nothing forbidden, true scores, and the textbook beam's answers or better."""
    make_options, valid = constraint
    for block in range(6):
        table = random_table(block + 1000, 200)
        found = search_all(table, make_options, **BEAM)
        check_scores(table, found, 0.6)
        for b in range(200):
            assert all(valid(tokens) for tokens in all_tokens(found, b))
            expected, closest = reference.textbook_beam(
                log_probabilities_of(table, b), VOCABULARY, 3, 0.6, STEPS, valid=valid)
            if closest > NOISE and make_options not in SHARED_OUT:
                assert all_tokens(found, b) == [item[2] for item in expected[:3]]
            assert np.isfinite(found.scores[b, 0]) == bool(expected) or make_options in SHARED_OUT
