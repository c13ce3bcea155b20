"""Our search with trained models of tensorflow/nmt, tensorflow-addons and OpenNMT-tf, against what these recorded.

All three keep finished hypotheses in the beam, in the place of live ones, and rank by penalties that our search does
not have: the length of an output changes in the step after its end, and only there the coverage penalty joins. Such a
rule can be a step function, see `with_rule`. Compared are, for every source:

- the step functions themselves, against recorded logits and attention;
- greedy search, token by token, cut outputs included;
- the beam under their own rule: the whole list in their order, cut outputs included, with the recorded scores and
  log-probabilities. Where a program's faults mixed up its answers, the corrected ones: OpenNMT-tf's
  `hypotheses_corrected`; Addons' ids as its recorded steps give them; of tensorflow/nmt, which has neither, the ids of
  the rows concerned as a set, and scores in order;
- our own rule: led to a hypothesis of theirs that ended, our search gives it the recorded log-probability, and the
  score that NumPy makes of it by our formula; left alone, a beam as wide as theirs finds nothing worse than they did.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests import reference
from tests.decoding import recorded
from tfseq2seq.decoding import search, tile
from tfseq2seq.decoding.processors import force_prefix
from tfseq2seq.structures import BOS, EOS, PAD

FIXTURES = Path(os.environ.get("TFSEQ2SEQ_DATA", "none")).parent / "fixtures"
pytestmark = pytest.mark.skipif(not (FIXTURES / "nmt").is_dir(), reason="needs the fixtures beside TFSEQ2SEQ_DATA")

BEAMS, NEVER = 4, -1e9
OFFSET = 4  # our ids are theirs + 4, behind our special tokens
MASS = 10.0  # see `with_rule`
NMT = ["nmt/bi_scaled_luong", "nmt/uni_normed_bahdanau"]
OPENNMT = ["opennmt_tf/luong_lstm", "opennmt_tf/transformer"]
ADDONS = ["tfa/bahdanau_normed", "tfa/luong_scaled"]
RUNS = [
    *[(name, f"beam4_lp{alpha}_cp{beta}", alpha, beta) for name in ADDONS for alpha in (0.0, 0.6)
      for beta in (0.0, 0.2)],
    *[(name, *run) for name in NMT for run in (("beam4", 0.0, 0.0), ("beam4_lp0.6_cp0.2", 0.6, 0.2))],
    *[(name, *run) for name in OPENNMT
      for run in (("beam4", 0.0, 0.0), ("beam4_lp0.6", 0.6, 0.0), ("beam4_lp0.6_cp0.2", 0.6, 0.2))]]


class Answer(NamedTuple):
    """One recorded hypothesis: ids with the end token if it ended, its log-probability, its score where there is."""

    ids: list[int]
    log_probability: float
    score: float | None


@functools.cache
def load(name):
    """`Recorded`, and the arrays of a teacher-forced pass: inputs [B, T], lengths [B], logits, attention if any."""
    if name in ADDONS:
        model, arrays = recorded.load_addons(FIXTURES / "tfa", name.split("/")[1])
        names = ("input_ids", "lengths", "logits", "alignments")
        return model, [arrays[f"teacher_forced/{each}"] for each in names]
    loader = (
        recorded.load_nmt if name in NMT
        else recorded.load_opennmt_lstm if "lstm" in name else recorded.load_opennmt_transformer)
    model, arrays = loader(FIXTURES / name)
    return model, [arrays.get(each) for each in ("target_ids_in", "target_length", "logits", "attention")]


def read_answers(name, run):
    """For each source its recorded hypotheses, best first."""
    end = load(name)[0].end
    if name in ADDONS:
        with np.load(FIXTURES / f"{name}.expected.npz") as arrays:
            if run == "greedy":
                rows = zip(arrays["greedy/sample_id"].tolist(), arrays["greedy/lengths"], strict=True)
                return [[Answer(ids[:length], np.nan, None)] for ids, length in rows]
            ids, parents, scores = (arrays[f"{run}/step_{each}"] for each in ("predicted_ids", "parent_ids", "scores"))
            log_probabilities = arrays[f"{run}/log_probs"]
        rows = [[_follow(ids[b], parents[b], k) for k in range(BEAMS)] for b in range(len(ids))]
        return [
            [Answer(_until(end, tokens), float(log_probabilities[b, k]), float(scores[b, -1, k]))
             for k, tokens in enumerate(row)] for b, row in enumerate(rows)]
    found = json.loads((FIXTURES / name / "expected.json").read_text(encoding="utf-8"))["decode"][run]
    hypotheses = found.get("hypotheses_corrected", found["hypotheses"])
    return [
        [Answer(each["ids"] + [end] * each["ended"], each["log_prob"], each.get("score")) for each in row]
        for row in hypotheses]


def _follow(ids, parents, beam):
    """The tokens of a beam after the last of the steps [T, K]."""
    tokens = []
    for t in reversed(range(len(ids))):
        tokens.append(int(ids[t, beam]))
        beam = parents[t, beam]
    return tokens[::-1]


def _until(end, tokens):
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def force(model, rows):
    """Log-probability and attention [T, real steps] of hypotheses; as many a source."""
    number, longest = len(rows[0]), max(len(ids) for row in rows for ids in row)
    ids = np.array([tokens + [model.end] * (longest - len(tokens)) for row in rows for tokens in row], np.int32)
    inputs = np.concatenate([np.full_like(ids[:, :1], model.start), ids[:, :-1]], 1)
    state, gained, attention = tile(model.state, number), [], []
    for t in range(longest):
        logits, state, weights = model.step(tf.constant(inputs[:, t]), state, model.memory)
        gained.append(reference.log_softmax(logits.numpy())[np.arange(len(ids)), ids[:, t]])
        attention.append(weights.numpy())
    gained, attention = np.stack(gained, 1), np.stack(attention, 1)
    return [
        [(gained[i, : len(tokens)].sum(), attention[i, : len(tokens), model.real[b]].T)
         for i, tokens in enumerate(row, b * number)] for b, row in enumerate(rows)]


def displaced_rows(expected, forced):
    """The rows in which a log-probability stands beside the ids of another hypothesis of the row."""
    return [
        b for b, row in enumerate(expected)
        if any(abs(answer.log_probability - each[0]) > 1e-4 for answer, each in zip(row, forced[b], strict=True))]


def our_score(ids, forced, alpha, beta):
    """Of a hypothesis that ended, by our formula."""
    total, attention = forced
    return total / reference.penalty(len(ids), alpha) + beta * reference.coverage_penalty(attention)


def as_ours(model):
    """A step function that speaks our ids."""
    def step(tokens, state, memory):
        words = tf.where(tokens == BOS, model.start, tf.maximum(tokens - OFFSET, 0))
        logits, state, attention = model.step(words, state, memory)
        is_end = tf.range(model.vocabulary_size) == model.end
        never = tf.fill([len(logits), 3], -np.inf)
        return tf.concat(
            [never, logits[:, model.end, None], tf.where(is_end, -np.inf, logits)], 1), state, attention

    return step


def search_ours(model, step, state, **options):
    """For each source its hypotheses: their ids, score."""
    found = search(
        step, state, model.memory, batch_size=len(model.real), vocabulary_size=model.vocabulary_size + OFFSET,
        source_mask=tf.constant(model.real), **options)
    tokens, scores, lengths = (leaf.numpy() for leaf in (found.tokens, found.scores, found.lengths))
    return [
        [([model.end if token == EOS else int(token) - OFFSET for token in row[:length]], float(score))
         for row, score, length in zip(*parts, strict=True) if length]
        for parts in zip(tokens, scores, lengths, strict=True)], found


def addons_lengths(length, finished, is_end):
    """The end token does not count in its own step, and does from the next one on."""
    return tf.where(finished, length, tf.where(is_end, length, length + 1))


def opennmt_lengths(length, finished, is_end):
    """One more in each step, and in all steps after the end."""
    return length + 1 + tf.zeros_like(is_end, tf.int32)


def with_rule(model, alpha, beta, lengths_of):
    """A step function and state by which our search ranks as they do.

    The end token is a word like others, after which nothing but itself comes, for nothing. The "log-probability" of a
    token is what it adds to their score. That these sum to more or less than 1 is made good by PAD, which our search
    never takes: the normalizer is MASS at each step.

    Args:
        lengths_of: (tokens so far [N, 1], whether these ended [N, 1], which token is the end [V]) to the lengths [N, V]
            that go into the penalty of each extension.
    """
    is_end = tf.range(model.vocabulary_size) == model.end

    def step(tokens, state, memory):
        inner, totals, scores, length, finished, covered = state
        words = tf.where(tokens == BOS, model.start, tf.maximum(tokens - OFFSET, 0))
        total, score = (tf.gather(part, words[:, None], batch_dims=1) for part in (totals, scores))  # [N, 1]
        length += tf.cast(~finished & (tokens != BOS), tf.int32)
        finished |= words == model.end
        logits, inner, attention = model.step(words, inner, memory)
        covered += tf.where(finished[:, None], 0.0, attention)
        gained = tf.nn.log_softmax(logits)
        gained = tf.where(finished[:, None], tf.where(is_end, 0.0, NEVER), gained)
        totals = total + gained
        lengths = tf.cast(lengths_of(length[:, None], finished[:, None], is_end), tf.float32)
        missing = tf.reduce_sum(tf.math.log(tf.where(covered == 0, 1.0, tf.minimum(covered, 1.0))), 1)
        added = beta * tf.where(finished, missing, 0.0)[:, None]
        scores = totals / ((5.0 + lengths) / 6.0) ** alpha + added
        adds = scores - score
        rest = tf.math.log(np.exp(MASS) - 1.0 - tf.reduce_sum(tf.exp(adds), 1, keepdims=True))
        never = tf.fill([len(adds), 2], -np.inf)
        ours = tf.concat([rest, never, tf.zeros_like(rest), adds], 1)
        return ours, (inner, totals, scores, length, finished, covered), None

    rows, sources = model.real.shape
    zeros = tf.zeros([rows, model.vocabulary_size])
    state: Any = (
        model.state, zeros, zeros, tf.zeros([rows], tf.int32), tf.zeros([rows], tf.bool), tf.zeros([rows, sources]))
    return step, state


@pytest.mark.parametrize("name", ADDONS + NMT + OPENNMT)
def test_the_step_functions_are_theirs(name):
    model, (inputs, lengths, expected, alignments) = load(name)
    state = model.state
    for t in range(inputs.shape[1]):
        logits, state, attention = model.step(tf.constant(inputs[:, t], tf.int32), state, model.memory)
        real = t < lengths
        np.testing.assert_allclose(logits.numpy()[real], expected[real, t], atol=1e-4)
        if alignments is not None:
            np.testing.assert_allclose(attention.numpy()[real], alignments[real, t], atol=1e-5)


@pytest.mark.parametrize("name", ADDONS + NMT + OPENNMT)
def test_greedy_search_is_theirs(name):
    model, _ = load(name)
    expected = read_answers(name, "greedy")
    limit = max(len(row[0].ids) for row in expected)
    found, hypotheses = search_ours(model, as_ours(model), model.state, beam_size=1, max_length=limit + 1)
    assert [row[0][0][:limit] for row in found] == [row[0].ids for row in expected]
    if name not in ADDONS:  # which recorded no sums
        np.testing.assert_allclose(
            hypotheses.log_probabilities[:, 0], [row[0].log_probability for row in expected], atol=1e-4)


@pytest.mark.parametrize("name, run, alpha, beta", RUNS)
def test_a_beam_under_their_rule_is_theirs(name, run, alpha, beta):
    model, _ = load(name)
    expected = read_answers(name, run)
    limit = max(len(answer.ids) for row in expected for answer in row)  # their search ended with the last row
    step, state = with_rule(model, alpha, beta, opennmt_lengths if name in OPENNMT else addons_lengths)
    found, hypotheses = search_ours(
        model, step, state, beam_size=BEAMS, num_hypotheses=BEAMS, length_penalty=0.0, max_length=limit + 1,
        min_length=limit + 1)
    scores = hypotheses.scores.numpy() + MASS * (limit + 1)
    ids = [[_until(model.end, tokens[:limit]) for tokens, _ in row] for row in found]
    totals = force(model, ids)
    displaced = displaced_rows(expected, force(model, [[answer.ids for answer in row] for row in expected]))
    assert name in NMT or not displaced
    assert len(displaced) <= 10
    for b, row in enumerate(expected):
        if b in displaced:
            assert sorted(ids[b]) == sorted(answer.ids for answer in row)
        else:
            assert ids[b] == [answer.ids for answer in row]
        np.testing.assert_allclose(
            [total for total, _ in totals[b]], [answer.log_probability for answer in row], atol=1e-4)
        if row[0].score is not None:
            np.testing.assert_allclose(scores[b], [answer.score for answer in row], atol=1e-4)


@pytest.mark.parametrize("name, run, alpha, beta", RUNS)
def test_our_search_led_to_their_answers_gives_their_probabilities_and_our_scores(name, run, alpha, beta):
    model, _ = load(name)
    expected = read_answers(name, run)
    forced = force(model, [[answer.ids for answer in row] for row in expected])
    displaced = displaced_rows(expected, forced)
    each = [(b, *pair) for b, row in enumerate(expected) for pair in zip(row, forced[b], strict=True)]
    lengths = np.array([len(answer.ids) for _, answer, _ in each], np.int32)
    prefix = np.full([len(each), max(lengths)], PAD, np.int32)
    for tokens, (_, answer, _) in zip(prefix, each, strict=True):
        tokens[: len(answer.ids) - 1] = np.array(answer.ids[:-1]) + OFFSET
    model = model._replace(  # a source for each hypothesis
        state=tile(model.state, BEAMS), memory=tile(model.memory, BEAMS), real=np.repeat(model.real, BEAMS, 0))
    found, hypotheses = search_ours(
        model, as_ours(model), model.state, beam_size=2, length_penalty=alpha, coverage_penalty=beta,
        max_length=tf.constant(lengths), processors=[force_prefix(tf.constant(prefix))])
    ended = [i for i, (_, answer, _) in enumerate(each) if answer.ids[-1] == model.end]  # ours always end
    for i in ended:
        b, answer, truth = each[i]
        assert found[i][0][0] == answer.ids
        np.testing.assert_allclose(found[i][0][1], our_score(answer.ids, truth, alpha, beta), atol=1e-4)
        np.testing.assert_allclose(
            hypotheses.log_probabilities[i, 0], truth[0] if b in displaced else answer.log_probability, atol=1e-4)
    assert len(ended) >= (3 if name in ADDONS else 60)


@pytest.mark.parametrize("name, run, alpha, beta", RUNS)
def test_our_beam_finds_nothing_worse_than_theirs(name, run, alpha, beta):
    model, _ = load(name)
    expected = read_answers(name, run)
    forced = force(model, [[answer.ids for answer in row] for row in expected])
    found, _ = search_ours(
        model, as_ours(model), model.state, beam_size=BEAMS, length_penalty=alpha, coverage_penalty=beta,
        max_length=max(len(answer.ids) for row in expected for answer in row))
    for b, row in enumerate(expected):
        scores = [
            our_score(answer.ids, each, alpha, beta) for answer, each in zip(row, forced[b], strict=True)
            if answer.ids[-1] == model.end]
        assert not scores or found[b][0][1] > max(scores) - 1e-4
