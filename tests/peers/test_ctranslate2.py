"""Our search against CTranslate2's with the weights of the same Marian: the same hypotheses, and scores to 1e-4.

Its definitions in ours (docs/decoding.md, "How others define it"): the score is log p / n^alpha, the end token counted
where it is part of the output; an end counts only if it is among the best extensions; a source is done when as many
outputs as beams have ended; and whatever is forbidden or forced leaves the distribution, so that in ours it belongs
among the reshapers. Sources with an output that was cut at the limit are left out, but for the recorded outputs.
"""

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.decoding import search
from tfseq2seq.decoding.processors import (
    block_ngrams,
    forbid_phrases,
    force_prefix,
    free_end_at,
    no_end_before,
    penalize_repetition,
)
from tfseq2seq.structures import BOS, EOS, PAD, UNK

REASON = "needs CTranslate2, PyTorch and Transformers: see tests/peers/README.md"
ctranslate2 = pytest.importorskip("ctranslate2", reason=REASON)
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)
small = importlib.import_module("tests.peers.small")  # needs them too
pytestmark = pytest.mark.peers

SOURCES, BEAMS = 300, 4
BAD = [[5], [6, 7], [8, 8], [9, 10, 11]]
FIXTURES = Path(os.environ.get("TFSEQ2SEQ_DATA", "/nowhere")).parent / "fixtures"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Their translator, and our model with the same weights."""
    from ctranslate2.converters.transformers import BartLoader

    marian = small.make_marian()
    marian.config.normalize_before = marian.config.normalize_embedding = False
    spec = BartLoader().get_model_spec(marian)
    spec.decoder.alignment_heads = np.dtype("int16").type(small.HEADS)  # the mean over the heads, as ours
    words = [f"t{number}" for number in range(small.VOCABULARY)]
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.unk_token, spec.config.eos_token = words[UNK], words[EOS]
    spec.config.bos_token = spec.config.decoder_start_token = words[BOS]
    spec.config.layer_norm_epsilon = 1e-6
    spec.validate()
    spec.optimize()
    folder = str(tmp_path_factory.mktemp("ctranslate2"))
    spec.save(folder)
    translator = ctranslate2.Translator(folder, device="cpu", compute_type="float32", intra_threads=1)
    return translator, small.make_ours(marian)


@pytest.fixture(scope="module")
def source():
    return small.random_sources(200, SOURCES)


def as_words(rows):
    return [[f"t{number}" for number in row if number != PAD] for row in rows]


def translate(translator, source, beams=BEAMS, **options):
    """For each source their hypotheses (tokens with the end token, score), best first."""
    options = {
        "num_hypotheses": beams, "min_decoding_length": 0, "max_decoding_length": small.LONGEST, **options}
    found = translator.translate_batch(
        as_words(source), beam_size=beams, return_scores=True, return_end_token=True, **options)
    return [
        [([int(word[1:]) for word in words], score) for words, score in zip(each.hypotheses, each.scores, strict=True)]
        for each in found]


def beam(beams=BEAMS, length_penalty=1.0, **options):
    """Our options for their beam search."""
    return {
        "beam_size": beams, "num_hypotheses": beams, "length_penalty": length_penalty,
        "length_penalty_kind": "length", "finish": "best", "stop": "first", "wait_for": beams, **options}


def test_outputs_are_worth_comparing(models, source):
    """They end, they differ, and a beam finds other ones than greedy search."""
    greedy, wide = translate(models[0], source, 1), translate(models[0], source)
    lengths = [len(tokens) for each in wide for tokens, _ in each]
    assert len({tuple(each[0][0]) for each in greedy}) > SOURCES / 2
    assert np.percentile(lengths, 10) < np.percentile(lengths, 90) - 3
    assert sum(one[0][0] != other[0][0] for one, other in zip(greedy, wide, strict=True)) > SOURCES / 10


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_greedy_search_is_theirs(models, source, length_penalty):
    translator, model = models
    expected = translate(translator, source, 1, length_penalty=length_penalty, sampling_topk=1)
    found = small.search_ours(
        model, source, beam_size=1, length_penalty=length_penalty, length_penalty_kind="length")
    small.assert_same(found, expected)


@pytest.mark.parametrize("beams", [2, 4, 7])
@pytest.mark.parametrize("length_penalty", [0.6, 1.0, 2.0])
def test_beam_search_and_its_list_of_hypotheses_are_theirs(models, source, beams, length_penalty):
    translator, model = models
    expected = translate(translator, source, beams, length_penalty=length_penalty)
    small.assert_same(small.search_ours(model, source, **beam(beams, length_penalty)), expected)


def test_without_a_penalty_the_best_hypothesis_is_theirs(models, source):
    """Their search then ends with the first output that beats all others at its end; the rest is left to chance."""
    translator, model = models
    expected = translate(translator, source, length_penalty=0.0, num_hypotheses=1)
    found = small.search_ours(model, source, beam_size=BEAMS, length_penalty=0.0, finish="best")
    small.assert_same(found, expected)


def test_patience_is_theirs(models, source):
    """Kasai et al., 2022, arXiv:2204.05424: the search waits for patience times as many outputs as beams."""
    translator, model = models
    expected = translate(translator, source, patience=2.0)
    small.assert_same(small.search_ours(model, source, **beam(wait_for=2 * BEAMS)), expected)


@pytest.mark.parametrize("length_penalty, coverage_penalty", [(0.0, 0.2), (1.0, 0.2), (0.6, 1.0)])
def test_coverage_penalties_are_theirs(models, source, length_penalty, coverage_penalty):
    """One source at a time: in a batch theirs gives the first token of all sources the attention of the longest."""
    translator, model = models
    expected = translate(
        translator, source, length_penalty=length_penalty, coverage_penalty=coverage_penalty, max_batch_size=1)
    found = small.search_ours(
        model, source, **beam(length_penalty=length_penalty, coverage_penalty=coverage_penalty))
    small.assert_same(found, expected)


@pytest.mark.parametrize("least", [1, 5])
def test_least_lengths_are_theirs_which_leave_the_distribution(models, source, least):
    translator, model = models
    expected = translate(translator, source, min_decoding_length=least)
    small.assert_same(small.search_ours(model, source, reshapers=[no_end_before(least + 1)], **beam()), expected)


@pytest.mark.parametrize("limit", [4, 8])
def test_greatest_lengths_are_theirs(models, source, limit):
    """Of sources without an output that was cut, and so without one that was in sight when the limit came."""
    translator, model = models
    expected = translate(translator, source, max_decoding_length=limit)
    found = small.search_ours(model, source, **beam(max_length=limit))
    small.assert_same(found, expected, at_least=0.2)


@pytest.mark.parametrize("length_penalty", [0.6, 1.0])
def test_prefixes_are_theirs_which_cost_nothing(models, source, length_penalty):
    """No end right after the prefix: there theirs lets only the likeliest token of all be the end."""
    translator, model = models
    prefix = np.random.default_rng(1).integers(4, small.VOCABULARY, [SOURCES, 2]).astype(np.int32)
    prefix[::3, 1] = PAD  # one token long
    expected = translate(
        translator, source, target_prefix=as_words(prefix), min_decoding_length=3, length_penalty=length_penalty)
    found = small.search_ours(
        model, source, reshapers=[no_end_before(4), force_prefix(tf.constant(prefix))],
        **beam(length_penalty=length_penalty))
    small.assert_same(found, expected)


@pytest.mark.parametrize("beams", [1, 4])
def test_repetition_penalties_are_theirs(models, source, beams):
    translator, model = models
    expected = translate(translator, source, beams, repetition_penalty=1.4)
    found = small.search_ours(model, source, reshapers=[penalize_repetition(1.4)], **beam(beams))
    small.assert_same(found, expected)


@pytest.mark.parametrize("size", [2, 3])
def test_n_gram_blocking_is_theirs_which_leaves_the_distribution(models, source, size):
    translator, model = models
    expected = translate(translator, source, no_repeat_ngram_size=size)
    small.assert_same(small.search_ours(model, source, reshapers=[block_ngrams(size)], **beam()), expected)


def test_forbidden_phrases_are_theirs_which_leave_the_distribution(models, source):
    translator, model = models
    expected = translate(translator, source, suppress_sequences=as_words(BAD))
    small.assert_same(small.search_ours(model, source, reshapers=[forbid_phrases(BAD)], **beam()), expected)


def test_options_work_together_as_theirs(models, source):
    translator, model = models
    prefix = np.random.default_rng(2).integers(12, small.VOCABULARY, [SOURCES, 1]).astype(np.int32)  # none forbidden
    expected = translate(
        translator, source, target_prefix=as_words(prefix), min_decoding_length=2, repetition_penalty=1.2,
        no_repeat_ngram_size=2, suppress_sequences=as_words(BAD), coverage_penalty=0.3, length_penalty=0.8,
        max_batch_size=1)
    reshapers = [
        penalize_repetition(1.2), block_ngrams(2), forbid_phrases(BAD), no_end_before(3),
        force_prefix(tf.constant(prefix))]
    found = small.search_ours(
        model, source, reshapers=reshapers, **beam(length_penalty=0.8, coverage_penalty=0.3))
    small.assert_same(found, expected)


RECORDED = {
    "greedy": beam(1, reshapers=[no_end_before(2)]),
    "beam4": beam(reshapers=[no_end_before(2)]),
    "beam4_no_repeat_ngram2": beam(reshapers=[block_ngrams(2), no_end_before(2)]),
    "beam4_min_decoding_length5": beam(reshapers=[no_end_before(6)]),
}


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs the fixtures beside TFSEQ2SEQ_DATA")
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_outputs_that_were_cut_at_the_limit_are_ours_with_a_free_end_after_it(name):
    """All but those of one source, which are empty, are cut; their length counts no end."""
    recorded = json.loads((FIXTURES / "ctranslate2_marian" / "expected.json").read_text(encoding="utf-8"))
    examples = json.loads((FIXTURES / "marian" / "expected.json").read_text(encoding="utf-8"))["examples"]
    model = transformers.MarianMTModel.from_pretrained(FIXTURES / "marian").eval()
    start, end = model.config.decoder_start_token_id, model.config.eos_token_id
    ids = {example["text"]: example["input_ids"] for example in examples}
    rows = [each for each in recorded["examples"] if all(len(tokens) == 24 for tokens in each[name]["ids"])]
    assert len(rows) >= 0.9 * len(recorded["examples"])
    lines = [ids[each["text"]] for each in rows]
    source = np.array([line + [start] * (max(map(len, lines)) - len(line)) for line in lines])

    def read(history):  # ours are theirs + 4, but for BOS and EOS
        return np.where(history == BOS, start, np.maximum(history - 4, 0))

    def write(logits):
        never = np.full_like(logits[:, :1], -np.inf)
        words = logits.copy()
        words[:, [start, end]] = -np.inf
        return np.concatenate([never, never, never, logits[:, end : end + 1], words], 1)

    options = RECORDED[name]
    found = small.as_lists(search(
        small.history_step(model, read, write), small.no_history(source),
        small.encode_theirs(model, source, source != start), batch_size=len(source),
        vocabulary_size=4 + model.config.vocab_size, max_length=25,
        **{**options, "reshapers": [*options["reshapers"], free_end_at(25)]}))
    for hypotheses, each in zip(found, rows, strict=True):
        assert [tokens for tokens, _ in hypotheses] == [
            [number + 4 for number in tokens] + [EOS] for tokens in each[name]["ids"]]
        np.testing.assert_allclose(
            [score * 25 / 24 for _, score in hypotheses], each[name]["scores"], atol=1e-4)
