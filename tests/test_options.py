"""What a recipe's [decode] and single rows ask for, through a tiny model that has learned nothing."""

import itertools

import keras
import numpy as np
import pytest
import sacrebleu
import tensorflow as tf

from pipelines.text import SeveralSources
from tfseq2seq.config import Decode, Model, Tokenizer
from tfseq2seq.generation import Generator
from tfseq2seq.model import build_model
from tfseq2seq.options import SearchOptions
from tfseq2seq.tokenizers import train_tokenizer

LINES = ["the cat runs", "a dog runs fast", "cats and dogs"]
SOURCES = ["the cat", "a dog runs", "dogs"]
MAX_LENGTH = 7


@pytest.fixture(scope="module")
def tokenizers():
    """Words on both sides; "fish" is none of them."""
    return [train_tokenizer(Tokenizer(kind="words"), LINES) for _ in range(2)]


@pytest.fixture(scope="module")
def models(tokenizers):
    keras.utils.set_random_seed(5)
    small = {"units": 6, "dropout": 0.0}
    made = []
    for _ in range(2):
        made.append(build_model(
            Model(embedding_units=6, encoder=small, decoder=small), *(each.vocabulary_size for each in tokenizers)))
        for weights in made[-1].trainable_variables:
            weights.assign(weights * 3.0)  # decided enough to have a best answer
    return made


@pytest.fixture(scope="module")
def generator_of(models, tokenizers):
    """A generator of the first model, or of those that are given."""

    def make(chosen=None, weights=None, **decode):
        settings = {"beam_size": 3, "num_hypotheses": 3, "max_length": MAX_LENGTH, **decode}
        return Generator(models[0] if chosen is None else chosen, *tokenizers, Decode(**settings), 20, weights=weights)

    return make


def answers(generator, sources=SOURCES):
    """Texts of each source, of hypotheses that exist."""
    found = generator.beam(tf.constant(sources), generator.decode.num_hypotheses)
    rows = zip(found["text"].numpy(), found["score"].numpy(), strict=True)
    return [[text.decode() for text in texts[np.isfinite(scores)]] for texts, scores in rows]


def flat(rows):
    return [text for row in rows for text in row]


def test_forbidden_words_and_phrases_are_in_no_answer(generator_of):
    plain = flat(answers(generator_of(min_length=5)))
    known = set(" ".join(LINES).split())
    words = [text.split() for text in plain]
    phrase = " ".join(next(pair for each in words for pair in itertools.pairwise(each) if known.issuperset(pair)))
    word = next(word for each in words for word in each if word in known and word not in phrase)
    found = answers(generator_of(min_length=5, forbidden=[word, phrase]))
    assert all(found)
    assert not any(word in text.split() or phrase in text for text in flat(found))


def test_renormalized_answers_of_a_file_are_all_that_there_is(generator_of, tmp_path):
    lines = ["a dog", "a cat", "dogs"]
    (tmp_path / "answers.txt").write_text("\n".join(lines), encoding="utf-8")
    decode = {"only_from": str(tmp_path / "answers.txt"), "length_penalty": 0.0, "renormalize": True}
    found = generator_of(**decode).beam(tf.constant(SOURCES), 3)
    assert {text.decode() for text in found["text"].numpy().ravel()} == set(lines)
    np.testing.assert_allclose(np.exp(found["score"]).sum(1), 1.0, rtol=1e-5)


def test_an_end_that_comes_too_early_or_at_the_limit_changes_the_score_where_asked(generator_of):
    nothing = {name: tf.fill([len(SOURCES)], value) for name, value in (
        ("length_penalty", np.nan), ("min_length", -1), ("max_length", -1), ("prefix", ""), ("phrases", ""))}
    decode = {"length_penalty": 0.0, "min_length": 3, "max_length": 3}
    found = generator_of(**decode, renormalize=True, free_end=True).beam_with(tf.constant(SOURCES), 3, **nothing)
    each, first = found["token_log_probability"].numpy(), generator_of().score(tf.constant(SOURCES), tf.fill([3], ""))
    words = each[:, :, :2].sum(-1)
    assert (found["score"].numpy() > words + 1e-3).all()  # the end's share came to the words
    # At the first step it is known: the probability of ending there, which is that of the empty answer.
    shared = words - np.log1p(-np.exp(first["log_probability"].numpy()))[:, None]
    assert (found["score"].numpy() >= shared - 1e-5).all()
    free = generator_of(**decode, free_end=True).beam_with(tf.constant(SOURCES), 3, **nothing)
    np.testing.assert_allclose(free["score"], free["token_log_probability"].numpy()[:, :, :2].sum(-1), rtol=1e-5)
    np.testing.assert_allclose(free["log_probability"], free["token_log_probability"].numpy().sum(-1), rtol=1e-5)


def test_answers_are_those_of_a_file_and_the_likeliest_of_them_comes_first(generator_of, tmp_path):
    lines = ["a dog", "cats", "dogs and cats runs"]
    (tmp_path / "answers.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    generator = generator_of(only_from=str(tmp_path / "answers.txt"), length_penalty=0.0)
    for source, row in zip(SOURCES, answers(generator), strict=True):
        scores = generator.score(tf.constant([source] * 3), tf.constant(lines))["log_probability"].numpy()
        assert row == [lines[i] for i in np.argsort(-scores)]


def test_no_n_tokens_come_twice(generator_of):
    def bigrams(text):
        words = text.split()
        return list(itertools.pairwise(words))

    plain = flat(answers(generator_of(min_length=6)))
    assert any(len(set(bigrams(text))) < len(bigrams(text)) for text in plain)
    for text in flat(answers(generator_of(min_length=6, block_ngrams=2))):
        assert len(set(bigrams(text))) == len(bigrams(text))


def lengths_of(generator):
    """Of the answers to each source, in tokens with the end token."""
    *_, found = generator.hypotheses(tf.constant(SOURCES), 3)
    return found.lengths.numpy()


def test_lengths_follow_their_sources(generator_of):
    # Sources of 3, 4 and 2 tokens, end tokens included: at most ceil(0.5 * S), at least ceil(1.5 * S), 7 at most.
    most = lengths_of(generator_of(max_length_ratio=0.5))
    assert (most <= [[2], [2], [1]]).all() and most.max(1).tolist() == [2, 2, 1]
    least = lengths_of(generator_of(min_length_ratio=1.5))
    assert (least >= [[5], [6], [3]]).all() and (least <= MAX_LENGTH).all()
    both = lengths_of(generator_of(min_length_ratio=1.0, max_length_ratio=1.0))
    assert both.tolist() == [[3] * 3, [4] * 3, [2] * 3]


def test_a_most_length_wins_over_a_least_one(generator_of):
    assert lengths_of(generator_of(max_length_ratio=0.5, min_length=5))[:, 0].tolist() == [2, 2, 1]


def test_minimum_risk_ranks_draws_by_their_likeness_to_all_draws(generator_of):
    settings = {"method": "sample", "beam_size": 6, "num_hypotheses": 6}
    draws = answers(generator_of(**settings))
    found = generator_of(**settings, minimum_risk="chrf").beam(tf.constant(SOURCES), 6)
    metric = sacrebleu.CHRF()
    for row, texts in enumerate(draws):
        utilities = {
            text: np.mean([metric.sentence_score(text, [other]).score for other in texts]) for text in texts}
        ranked = [text.decode() for text in found["text"][row].numpy()]
        assert sorted(ranked) == sorted(texts)
        np.testing.assert_allclose([utilities[text] for text in ranked], found["score"][row], rtol=1e-3)
        assert (np.diff(found["score"][row]) <= 0).all()


def as_exported(rows, **asked):
    """Options of a beam, of so many rows."""
    nothing = {
        "length_penalty": tf.fill([rows], np.nan), "min_length": tf.fill([rows], -1),
        "max_length": tf.fill([rows], -1), "prefix": tf.fill([rows], ""), "phrases": tf.fill([rows], "")}
    return {**nothing, **{name: tf.constant(value) for name, value in asked.items()}}


def test_an_unknown_word_is_replaced_by_the_source_word_with_the_most_attention(generator_of):
    sources = ["fish swim", "the fish", ""]
    asked = as_exported(3, prefix=["fish a swim"] * 3)  # two words that the target side does not know
    described = generator_of().beam_with(tf.constant(sources), 3, **asked)
    *_, found = generator_of().hypotheses(tf.constant(sources), 3, "beam", **asked)
    replaced = generator_of(replace_unknown=True).beam_with(tf.constant(sources), 3, **asked)
    for row, line in enumerate(sources):
        words = line.split()
        for h in range(3):
            text = described["text"][row, h].numpy().decode()
            assert text.startswith("⁇ a ⁇")
            weights = found.attention[row, h].numpy()[:, : len(words)]
            expected = " ".join(
                words[weights[t].argmax()] if word == "⁇" and words else word for t, word in enumerate(text.split()))
            assert replaced["text"][row, h].numpy().decode() == expected


@pytest.mark.parametrize(("combination", "weights"), [("log_linear", None), ("linear", [3.0, 1.0])])
def test_several_models_answer_as_one(generator_of, models, combination, weights):
    both = generator_of(models, weights, ensemble=combination, length_penalty=0.0)
    shares = np.array(weights or [1.0, 1.0]) / np.sum(weights or [2.0])
    target = "a dog"
    labels = np.array([[*both.tokenizers[1].encode(tf.constant([target])).numpy().tolist()[0], 3]])
    inputs = {"source": both.tokenizers[0].encode(tf.constant(SOURCES[:1])).to_tensor()}
    inputs["source"] = tf.concat([inputs["source"], [[3]]], 1)
    inputs["target"] = tf.constant(np.concatenate([[[2]], labels[:, :-1]], 1), tf.int32)
    logs = [keras.ops.log_softmax(model(inputs, training=False)).numpy()[0] for model in models]  # [T, V]
    if combination == "linear":
        mixed = np.log(sum(share * np.exp(log) for share, log in zip(shares, logs, strict=True)))
    else:
        mixed = sum(share * log for share, log in zip(shares, logs, strict=True))
        mixed -= np.log(np.exp(mixed).sum(-1, keepdims=True))
    expected = [mixed[t, label] for t, label in enumerate(labels[0])]
    scored = both.score(tf.constant(SOURCES[:1]), tf.constant([target]))
    np.testing.assert_allclose(scored["token_log_probability"][0, :3], expected, rtol=1e-4)
    # A found hypothesis scores as its own text.
    source, _, found = both.hypotheses(tf.constant(SOURCES), 1)
    text = both.beam(tf.constant(SOURCES), 1)["text"].numpy()[:, 0]
    known = [row for row, each in enumerate(text) if "⁇" not in each.decode()]
    again = both.score(tf.constant(SOURCES), tf.constant(text))["log_probability"].numpy()
    assert known
    np.testing.assert_allclose(again[known], found.log_probabilities.numpy()[known, 0], rtol=1e-4)


@pytest.mark.parametrize("setting", [{"beam_size": 1, "num_hypotheses": 1}, {"beam_size": 4, "num_groups": 2}])
def test_a_search_without_beams_to_share_out_refuses_phrases_and_nothing_else(generator_of, setting):
    generator = generator_of(**{"num_hypotheses": 1, **setting})
    found = generator.beam_with(tf.constant(SOURCES), 1, **as_exported(3))
    assert found["text"].numpy().tolist() == generator.beam(tf.constant(SOURCES), 1)["text"].numpy().tolist()
    with pytest.raises(tf.errors.InvalidArgumentError, match="phrases needs a model exported with beam_size above 1"):
        generator.beam_with(tf.constant(SOURCES), 1, **as_exported(3, phrases=["", "dog", ""]))


def test_alternatives_are_given_by_every_search(generator_of):
    for setting in ({"num_groups": 3}, {"method": "sample"}, {"coverage_penalty": 0.2}, {"block_ngrams": 1}):
        found = generator_of(**setting).alternatives(tf.constant(SOURCES), tf.constant(["a", "", "dog"]), 3)
        for row, prefix in enumerate(["a", "", "dog"]):
            texts = [text.decode().split() for text in found["text"][row].numpy()]
            place = len(prefix.split())
            assert len({" ".join(words[: place + 1]) for words in texts}) == 3
            assert all(" ".join(words[:place]) == prefix for words in texts)


def test_a_recipe_that_draws_says_how_many_and_another_draws_what_is_wanted(generator_of):
    text = tf.constant(SOURCES)
    drawn = generator_of(beam_size=3, num_hypotheses=1).sample_with(text, 2)
    assert drawn["text"].shape == (3, 2)
    # Of three draws, of which two are those, the best two.
    more = generator_of(beam_size=3, num_hypotheses=1, method="sample").sample_with(text, 2)
    better = more["score"].numpy() - drawn["score"].numpy()
    assert (better > -1e-4).all() and (better > 0.1).any()


def test_what_a_row_asks_for_needs_one_value_a_row(generator_of):
    generator = generator_of()
    for name, value in {"length_penalty": [0.5] * 4, "max_length": [3, 3], "prefix": ["a"]}.items():
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} needs one value a row"):
            generator.beam_with(tf.constant(SOURCES), 1, **as_exported(3, **{name: value}))


def test_a_length_asked_for_wins_over_an_exported_least_one(generator_of):
    found = generator_of(min_length=5).beam_with(tf.constant(SOURCES), 1, **as_exported(3, max_length=[2, -1, 3]))
    assert found["length"][:, 0].numpy().tolist()[::2] == [2, 3] and found["length"][1, 0] >= 5


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"forbidden": [""]}, "decode.forbidden needs strings of at least one token, .* Received: ''"),
     ({"forbidden": ["dog", "fish"]}, "all of which the model knows. Received: 'fish'"),
     ({"only_from": "unknown.txt"}, "decode.only_from needs strings .* the model knows. Received: 'a fish'"),
     ({"only_from": "long.txt", "max_length": 3}, "end within max_length = 3 .* Received: 'a dog runs', 3 tokens"),
     ({"only_from": "empty.txt"}, "decode.only_from needs a file with one answer a line. Received: .*empty.txt")],
)
def test_settings_that_hold_nothing_are_refused(tokenizers, tmp_path, setting, message):
    for name, lines in (("empty", "\n"), ("unknown", "a dog\na fish\n"), ("long", "a dog\r\na dog runs\r\n")):
        (tmp_path / f"{name}.txt").write_text(lines)
    if "only_from" in setting:
        setting = {**setting, "only_from": str(tmp_path / setting["only_from"])}
    with pytest.raises(ValueError, match=message):
        SearchOptions(Decode(**setting), tokenizers[1])


def test_a_file_of_answers_that_is_missing_is_named(tokenizers, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        SearchOptions(Decode(only_from=str(tmp_path / "absent.txt")), tokenizers[1])


def test_a_model_without_attention_answers_with_options_too(tokenizers):
    small = {"units": 6, "dropout": 0.0}
    model = build_model(
        Model(embedding_units=6, encoder=small, decoder={"kind": "recurrent", **small}),
        *(each.vocabulary_size for each in tokenizers))
    generator = Generator(model, *tokenizers, Decode(beam_size=2, max_length=4, replace_unknown=True), 20)
    found = tf.function(
        lambda text: generator.alternatives(text, tf.constant(["fish"] * 3), 2), autograph=False)(tf.constant(SOURCES))
    assert found["alignment"].numpy().tolist() == [[b"", b""]] * 3
    assert all(text.startswith(b"\xe2\x81\x87") for text in found["text"].numpy().ravel())  # nothing to replace it by


def test_alignments_and_coverage_of_several_sources_do_not_hang_on_the_batch(tokenizers):
    keras.utils.set_random_seed(8)
    small = {"units": 6, "dropout": 0.0}
    encoder = {"kind": "parallel", "encoders": [small, small]}
    model = build_model(
        Model(embedding_units=6, encoder=encoder, decoder={**small, "units": 12}),
        *(each.vocabulary_size for each in tokenizers))
    for weights in model.trainable_variables:
        weights.assign(weights * 3.0)
    several = [SeveralSources(tokenizers[0], "|||"), tokenizers[1]]
    generator = Generator(model, *several, Decode(beam_size=3, max_length=5, min_length=4, coverage_penalty=0.5), 20)
    lines = ["cat ||| a dog runs fast", "the cat runs ||| dogs", "a"]
    together = generator.beam_with(tf.constant(lines), 2, **as_exported(3))
    for row, line in enumerate(lines):
        alone = generator.beam_with(tf.constant([line]), 2, **as_exported(1))
        assert alone["alignment"][0].numpy().tolist() == together["alignment"][row].numpy().tolist()
        np.testing.assert_allclose(alone["score"][0], together["score"][row], rtol=1e-4)
    assert set(b" ".join(together["alignment"].numpy().ravel()).split()) & {b"0-2", b"0-3", b"0-4", b"0-5"}
