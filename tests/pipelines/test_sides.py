"""Subwords drawn anew for each batch: by the papers' distributions, where they fit, the same when resumed."""

import collections
import itertools
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from pipelines.batching import Batches
from pipelines.sides import EMPTY, SampledSide, Side, SubwordSampler
from pipelines.text import SeveralSources, encode_pairs
from tfseq2seq.config import Tokenizer
from tfseq2seq.structures import BOS, EOS, PAD
from tfseq2seq.tokenizers import train_tokenizer
from tfseq2seq.tokenizers.sampling import BpeSampler

WORDS = ["low", "lower", "lowest", "new", "newer", "newest", "wide", "wider", "widest", "slow", "slower"]
LINES = [" ".join(WORDS[(i * step) % len(WORDS)] for step in range(1, 6)) for i in range(60)]
DRAWS = 4000


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(request):
    return train_tokenizer(Tokenizer(kind=request.param, vocabulary_size=300), LINES)


@pytest.fixture(scope="module")
def unigram():
    return train_tokenizer(Tokenizer(kind="unigram", vocabulary_size=300), LINES)


def frequencies(tokenizer, text, alpha):
    sampler = SubwordSampler([text] * DRAWS, tokenizer, alpha)
    drawn = [tuple(ids) for ids in sampler.draw(range(DRAWS), 3)]
    return {ids: drawn.count(ids) / DRAWS for ids in set(drawn)}


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_unigram_draws_by_the_papers_distribution(unigram, alpha):
    processor = sentencepiece.SentencePieceProcessor(model_proto=unigram.content())
    scores = {piece: processor.get_score(id_) for id_, piece in enumerate(unigram.vocabulary())}
    text = "▁newer▁widest"
    weights = {}
    for cuts in itertools.product([False, True], repeat=len(text) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(text)]
        pieces = [text[start:end] for start, end in zip([0, *ends], ends)]
        if all(piece in scores for piece in pieces):
            weights[tuple(map(unigram.vocabulary().index, pieces))] = math.exp(
                alpha * sum(scores[piece] for piece in pieces))
    assert len(weights) > 5
    found = frequencies(unigram, "newer widest", alpha)
    assert found.keys() <= weights.keys()
    for ids, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(found.get(ids, 0.0) - share) < 5 * math.sqrt(share / DRAWS), (ids, share)


def outcomes(text, scores, dropout):
    """Probability of each segmentation by algorithm 1 of Provilkov et al., 2020, every way of it followed."""
    if isinstance(text, str):
        text = tuple(text)
    pairs = [(scores[one + two], -place, place) for place, (one, two) in enumerate(zip(text, text[1:]))
             if one + two in scores]
    found = collections.defaultdict(float, {text: dropout ** len(pairs)})
    for number, (*_, place) in enumerate(sorted(pairs, reverse=True)):
        merged = (*text[:place], text[place] + text[place + 1], *text[place + 2 :])
        for pieces, share in outcomes(merged, scores, dropout).items():
            found[pieces] += dropout**number * (1 - dropout) * share
    return found


@pytest.mark.parametrize("dropout", [0.1, 0.6])
def test_bpe_leaves_out_each_merge_with_that_probability(dropout):
    bpe = train_tokenizer(Tokenizer(kind="bpe", vocabulary_size=300), LINES)
    processor = sentencepiece.SentencePieceProcessor(model_proto=bpe.content())
    scores = {piece: processor.get_score(id_) for id_, piece in enumerate(bpe.vocabulary()) if piece[0] != "<"}
    found, expected = frequencies(bpe, "slower", dropout), outcomes("▁slower", scores, dropout)
    assert len(expected) > 5 and sum(expected.values()) == pytest.approx(1.0)
    assert {tuple(bpe.vocabulary()[id_] for id_ in ids) for ids in found} <= expected.keys()
    for pieces, share in expected.items():
        ids = tuple(map(bpe.vocabulary().index, pieces))
        assert abs(found.get(ids, 0.0) - share) < 5 * math.sqrt(share / DRAWS), (pieces, share)


def test_all_that_is_drawn_says_the_same_text(tokenizer):
    alpha = 0.3
    sampler = SubwordSampler([*LINES, "", "Ünknown Wörds!"], tokenizer, alpha)
    drawn = sampler.draw(range(len(LINES) + 2), 5)
    decoded = [text.decode() for text in tokenizer.decode(tf.ragged.constant(drawn, tf.int32)).numpy()]
    assert decoded == [*LINES, "", "Ünknown Wörds!"]
    assert drawn != tokenizer.encode(tf.constant([*LINES, "", "Ünknown Wörds!"])).to_list()
    assert sampler.draw(range(10), 5) == drawn[:10] != sampler.draw(range(10), 6)


def test_the_likeliest_draw_is_how_the_graph_cuts_a_text(tokenizer):
    texts = ["newest slower", " two  spaces ", "Ünknown ▁ and \ufdd0!", "widest\tlow", "日本語 low", ""]
    # As alpha grows the best segmentation alone is left, and as BPE's share of merges left out falls.
    sampler = SubwordSampler(texts, tokenizer, {"unigram": 1e6, "bpe": 1e-12}[tokenizer.kind])
    assert sampler.draw(range(len(texts)), 1) == tokenizer.encode(tf.constant(texts)).to_list()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_symbols_stay_whole(kind):
    lines = [f"<2de> {line}" for line in LINES]
    tokenizer = train_tokenizer(Tokenizer(kind=kind, vocabulary_size=300, case="lower"), lines, ["<2DE>", "<bt>"])
    texts = ["<2de> low newer", "<bt><2de>wide <2de>", "a<bt>"]
    sampler = SubwordSampler(texts, tokenizer, {"unigram": 1e6, "bpe": 1e-12}[kind])
    assert sampler.draw(range(3), 1) == tokenizer.encode(tf.constant(texts)).to_list()
    german, back = map(tokenizer.vocabulary().index, ("<2de>", "<bt>"))
    for alpha in (0.1, 0.9):
        drawn = SubwordSampler(texts, tokenizer, alpha).draw(range(3), 1)
        assert [[ids.count(german), ids.count(back)] for ids in drawn] == [[1, 0], [2, 1], [0, 1]]


def test_another_process_draws_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    script = (
        "import sys; from pipelines.sides import SubwordSampler; from tfseq2seq.tokenizers import load_tokenizer; "
        "from tests.pipelines.test_sides import LINES; "
        "print(SubwordSampler(LINES, load_tokenizer(sys.argv[1]), 0.2).draw(range(60), 5))")
    said = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(SubwordSampler(LINES, tokenizer, 0.2).draw(range(60), 5))


def test_case_is_that_of_the_tokenizer():
    lower = train_tokenizer(Tokenizer(kind="unigram", vocabulary_size=300, case="lower"), LINES)
    drawn = SubwordSampler(["NEW Lower"], lower, 0.5).draw([0], 1)
    assert lower.decode(tf.constant(drawn)).numpy().tolist() == [b"new lower"]


def test_several_sources_are_drawn_one_by_one(unigram):
    several = SeveralSources(unigram, "|||")
    ids = SubwordSampler(["new low ||| wide"], several, 0.3).draw([0], 1)[0]
    end = ids.index(EOS)
    assert ids.count(EOS) == 1
    texts = unigram.decode(tf.ragged.constant([ids[:end], ids[end + 1 :]], tf.int32)).numpy()
    assert texts.tolist() == [b"new low", b"wide"]


def make(tokenizer, **options):
    pairs = [(line, line[::-1]) for line in LINES]
    encoded = encode_pairs(pairs, tokenizer, tokenizer)
    sides = {
        name: SampledSide(
            Side(getattr(encoded, f"{name}_ids"), getattr(encoded, f"{name}_offsets")),
            SubwordSampler([pair[column] for pair in pairs], tokenizer, 0.2), 1)
        for column, name in enumerate(("source", "target"))}
    options = {"batch_tokens": 400, "num_lengths": 2} | options
    return Batches(encoded, **options, sampled_source=sides["source"], sampled_target=sides["target"])


def test_batches_hold_every_line_once_cut_in_another_way_each_epoch(tokenizer):
    batches = make(tokenizer)
    epochs = [list(batches.dataset(epoch * batches.steps_per_epoch, repeat=False)) for epoch in range(2)]
    texts, tokens = [], []
    for epoch in epochs:
        assert len(epoch) == batches.steps_per_epoch
        found = []
        for inputs, labels, weights in epoch:
            source, target, labels, weights = (
                each.numpy() for each in (inputs["source"], inputs["target"], labels, weights))
            assert source.shape[1:] + labels.shape[1:] in batches.shapes
            real = labels != PAD
            np.testing.assert_allclose(weights, real / real.sum(), rtol=1e-6)
            np.testing.assert_array_equal(target[:, 1:][real[:, 1:]], labels[:, :-1][real[:, 1:]])
            used = real.any(1)
            assert (target[used, 0] == BOS).all()
            assert ((source == EOS).sum(1) == used).all() and ((labels == EOS).sum(1) == used).all()
            found += zip(*(tokenizer.decode(tf.constant(ids[used])).numpy() for ids in (source, labels)))
        texts.append(sorted(found))
        tokens.append(sum(int((inputs["source"].numpy() != PAD).sum()) for inputs, _, _ in epoch))
    assert texts[0] == texts[1] == sorted((line.encode(), line[::-1].encode()) for line in LINES)
    assert tokens[0] != tokens[1]


def test_resumed_in_an_epoch_the_tokens_are_the_same(tokenizer):
    batches, again = make(tokenizer), make(tokenizer)
    start = batches.steps_per_epoch + 1
    for one, two in zip(batches.dataset().skip(start).take(3), again.dataset(start).take(3)):
        for first, second in zip(tf.nest.flatten(one), tf.nest.flatten(two), strict=True):
            np.testing.assert_array_equal(first, second)


def mean_and_variance(distribution):
    """Of the number of pieces."""
    mean = sum(len(pieces) * share for pieces, share in distribution.items())
    return mean, sum((len(pieces) - mean) ** 2 * share for pieces, share in distribution.items())


def test_lengths_are_those_of_the_distribution(monkeypatch):
    monkeypatch.setattr("tfseq2seq.tokenizers.sampling.MEASURED", 4000)
    bpe = train_tokenizer(Tokenizer(kind="bpe", vocabulary_size=300), LINES)
    processor = sentencepiece.SentencePieceProcessor(model_proto=bpe.content())
    scores = {piece: processor.get_score(id_) for id_, piece in enumerate(bpe.vocabulary()) if piece[0] != "<"}
    slower, low = (mean_and_variance(outcomes(f"▁{word}", scores, 0.3)) for word in ("slower", "low"))
    sampler = SubwordSampler(["slower", "low low slower", "", "slower|||low"], SeveralSources(bpe, "|||"), 0.3)
    found = list(sampler.lengths(1))
    assert found[2] == (0, 0) and slower[1] > 0.1
    np.testing.assert_allclose(found[0], slower, rtol=0.1)
    np.testing.assert_allclose(found[1], [2 * low[i] + slower[i] for i in range(2)], rtol=0.1)
    np.testing.assert_allclose(found[3], [slower[0] + 1 + low[0], slower[1] + low[1]], rtol=0.1)  # EOS between


def test_each_distinct_word_is_measured_once_and_told(tokenizer, monkeypatch):
    monkeypatch.setattr("pipelines.sides.TOLD_EVERY", 100)
    drawn, told = collections.Counter(), []
    kind = type(tokenizer.sampler(0.2)._words)
    draw = kind.draw
    monkeypatch.setattr(kind, "draw", lambda self, word, source: drawn.update([word]) or draw(self, word, source))
    lines = LINES * 5
    encoded = encode_pairs([(line, line) for line in lines], tokenizer, tokenizer)
    sides = [
        SampledSide(
            Side(encoded.source_ids, encoded.source_offsets), SubwordSampler(lines, tokenizer, 0.2), 3,
            lambda *counts: told.append(counts)) for _ in range(2)]
    assert drawn == {f"▁{word}": 2 * 8 for word in WORDS}
    assert told == 2 * [(0, 300), (100, 300), (200, 300)]
    np.testing.assert_array_equal(sides[0].longest_below(100), sides[1].longest_below(100))


def test_most_draws_have_room(tokenizer):
    pairs = [(line, line) for line in LINES]
    encoded = encode_pairs(pairs, tokenizer, tokenizer)
    sampler = SubwordSampler(LINES, tokenizer, 0.2)
    side = Side(encoded.source_ids, encoded.source_offsets)
    room = SampledSide(side, sampler, 1).longest_below(1000)
    lengths = np.array([[len(ids) for ids in sampler.draw(range(len(LINES)), seed)] for seed in range(100)])
    np.testing.assert_array_equal(
        room, np.maximum(side.lengths, [math.ceil(mean + variance**0.5) for mean, variance in sampler.lengths(1)]))
    assert np.mean(lengths <= room) > 0.75 and np.mean(room - lengths) < 0.4 * np.mean(lengths)


def test_bpe_forgets_and_draws_the_same(monkeypatch):
    scores = {"ab": -1.0, "abc": -2.0, "bc": -3.0, "abcabc": -4.0, "ca": -5.0}
    words = [word * times for word in ("abc", "bca", "cab") for times in range(1, 5)] * 20
    expected = [BpeSampler(scores, 0.3).draw(word, random.Random(i)) for i, word in enumerate(words)]
    monkeypatch.setattr("tfseq2seq.tokenizers.sampling.MERGES_KEPT", 40)
    sampler = BpeSampler(scores, 0.3)
    assert [sampler.draw(word, random.Random(i)) for i, word in enumerate(words)] == expected
    kept = [known for words in (sampler._recent, sampler._older) for known in words.values()]
    assert len(sampler._recent) + len(sampler._older) < 12 and sum(map(len, kept)) < 400


class Long:
    """Draws what never fits, but for row 1, which does at the second time."""

    def lengths(self, seed):
        return [(49.5, 0.04), (50.0, 0.0)]

    def draw(self, rows, seed):
        return [[9, 9] if row == 1 and seed == 1 else [9] * 50 for row in rows]


def test_what_does_not_fit_is_drawn_again_and_then_the_best_one():
    side = Side(np.array([4, 5, 6, 7], np.int32), np.array([0, 3, 4]))
    sampled = SampledSide(side, Long(), 0)
    np.testing.assert_array_equal(sampled.longest_below(99), [50, 50])
    np.testing.assert_array_equal(sampled.longest_below(6), [5, 5])
    np.testing.assert_array_equal(sampled.longest_below(2), [3, 1])  # the best one counts
    ids, real = sampled.gather(np.array([0, EMPTY, 1]), 5, 0)
    np.testing.assert_array_equal(ids, [[4, 5, 6, EOS, PAD], [PAD] * 5, [9, 9, EOS, PAD, PAD]])
    np.testing.assert_array_equal(real, ids != PAD)


def test_tokenizers_that_know_one_segmentation_are_refused():
    with pytest.raises(ValueError, match='kind "unigram" or "bpe". Received: kind="bytes"'):
        SubwordSampler(["a"], train_tokenizer(Tokenizer(kind="bytes"), []), 0.1)
