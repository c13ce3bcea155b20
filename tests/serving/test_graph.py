"""What the exported graph does with rows that are odd, under a server that joins requests."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.text import SeveralSources
from serving.export import _trace
from serving.signatures import AS_EXPORTED, SIGNATURES, TOKEN_SEPARATOR
from tfseq2seq.config import Decode, Model, Tokenizer
from tfseq2seq.generation import Generator
from tfseq2seq.model import build_model
from tfseq2seq.tokenizers import train_tokenizer

LINES = ["the cat runs", "a dog runs", "cats and dogs", "die katze", "ein hund"] * 4
LONGEST, SOURCE = 12, 20  # tokens of an answer and of a source, end token included


@pytest.fixture(scope="module")
def generator():
    keras.utils.set_random_seed(5)
    tokenizers = [
        train_tokenizer(Tokenizer(kind="unigram", vocabulary_size=300), LINES),
        train_tokenizer(Tokenizer(kind="characters"), LINES)]
    small = {"units": 8, "dropout": 0.0}
    model = build_model(
        Model(embedding_units=8, encoder=small, decoder=small), *(each.vocabulary_size for each in tokenizers))
    for weights in model.trainable_variables:
        weights.assign(weights * 4.0)  # decided enough to have a best answer
    return Generator(model, *tokenizers, Decode(beam_size=3, num_hypotheses=2, max_length=LONGEST), SOURCE)


@pytest.fixture(scope="module")
def functions(generator):
    return _trace(generator, 2)


def ask(functions, name, texts, **options):
    """Every text input of a signature is the texts, every option as exported but those that are given."""
    inputs = {}
    for each, dtype in SIGNATURES[name].inputs.items():
        default = texts if each in ("text", "source", "target") else [AS_EXPORTED[dtype]] * len(texts)
        inputs[each] = tf.constant(options.get(each, default), dtype, [len(texts)])
    return {output: values.numpy() for output, values in functions[name](**inputs).items()}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_gives_what_it_says_and_takes_no_rows(functions, name):
    found, nothing = ask(functions, name, ["a cat"]), ask(functions, name, [])
    assert set(found) == set(SIGNATURES[name].outputs)
    for output, values in found.items():
        assert (values.shape[0], nothing[output].shape) == (1, (0, *values.shape[1:]))


@pytest.mark.parametrize("name", SIGNATURES)
def test_odd_rows_do_no_harm_to_their_neighbours(functions, name):
    odd = [b"the cat", b"\xff\xfe \xc3(", b"x" * 10_000, b"", b"a dog\x00", b"\xed\xa0\x80"]
    together = ask(functions, name, odd)
    assert together["truncated"].tolist() == [False, False, True, False, False, False]
    for row, text in enumerate(odd):
        for output, values in ask(functions, name, [text]).items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(values[0], together[output][row], rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(values[0], together[output][row])


def test_what_is_cut_is_read_as_its_beginning(functions, generator):
    short, long = "x " * 8, "x " * 5_000
    ids = generator.tokenizers[0].encode([short]).to_list()[0]
    assert len(ids) < SOURCE
    found = ask(functions, "tokenize", [short, long])
    assert found["length"].tolist() == [len(ids) + 1, SOURCE]
    assert found["ids"][1, : SOURCE - 1].tolist() == generator.tokenizers[0].encode([long]).to_list()[0][: SOURCE - 1]
    assert found["ids"][1, SOURCE - 1] == 3
    assert found["truncated"].tolist() == [False, True]


@pytest.mark.parametrize("signature", ["beam", "sample"])
def test_no_option_makes_an_answer_longer_than_the_exported_limit(functions, signature):
    texts = ["the cat"] * 2
    for options in ({"max_length": [LONGEST, 3]}, {"prefix": ["dddd", ""]}):
        assert (ask(functions, signature, texts, **options)["length"] <= LONGEST).all()
    assert (ask(functions, signature, texts, min_length=[LONGEST] * 2)["length"] == LONGEST).all()  # ended by force
    for name in ("max_length", "min_length"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} needs numbers from 1 to {LONGEST}"):
            ask(functions, signature, texts, **{name: [2**31 - 1, 1]})


def tokens_of(tokenizer, texts, longest=SOURCE):
    generator = Generator([None], tokenizer, tokenizer, Decode(), longest)
    found = tf.function(generator.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])(tf.constant(texts))
    return {name: values.numpy() for name, values in found.items()}


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("characters", "a d\u3000g", ["a", "▁", "d", "\u3000", "g", "</s>"]),
        ("words", "the zebra\truns", ["the", "zebra", "runs", "</s>"]),
        ("bytes", "aé", ["<0x61>", "<0xC3>", "<0xA9>", "</s>"]),
    ])
def test_tokens_are_told_one_by_one(kind, text, expected):
    tokenizer = train_tokenizer(Tokenizer(kind=kind), LINES)
    found = tokens_of(tokenizer, [text, ""])
    assert found["tokens"][0].decode().split(TOKEN_SEPARATOR) == expected
    assert found["tokens"][1] == b"</s>"
    assert found["length"].tolist() == [len(expected), 1]
    ids = tokenizer.encode([text]).to_list()[0]
    assert found["ids"][0].tolist() == [*ids, 3] + [0] * (SOURCE - len(ids) - 1)


def test_subwords_are_told_as_sentencepiece_writes_them(generator):
    tokenizer = generator.tokenizers[0]
    found = tokens_of(tokenizer, ["the  cat é"])["tokens"][0].decode().split(TOKEN_SEPARATOR)
    assert found == [*tokenizer._processor.encode(" the  cat é", out_type=str), "</s>"]  # sentencepiece's own
    assert "<0xC3>" in found and "▁" in "".join(found)


def test_tokens_of_several_sources_are_those_that_attention_speaks_of():
    several = SeveralSources(train_tokenizer(Tokenizer(kind="words"), LINES), "|||")
    found = tokens_of(several, ["the cat ||| a dog"])
    assert found["tokens"].tolist() == [b"the cat </s> a dog </s>"]


def test_tokens_of_an_answer_and_of_a_target_go_with_their_scores(functions, generator):
    beam = ask(functions, "beam", ["the cat", "x" * 300])
    for texts, tokens, lengths in zip(beam["text"], beam["tokens"], beam["length"], strict=True):
        for text, joined, length in zip(texts, tokens, lengths, strict=True):
            names = joined.decode().split(TOKEN_SEPARATOR)
            assert len(names) == length and names[-1] == "</s>"
            assert "".join(names[:-1]).replace("▁", " ").replace("<unk>", "⁇") == text.decode()
    score = ask(functions, "score", ["the cat"], target=["ein Zug"])
    assert score["tokens"].tolist() == ["e i n ▁ <unk> u g </s>".encode()]
    assert (score["token_log_probability"][0] != 0).sum() == len(score["tokens"][0].split()) == score["length"][0]
    assert ask(functions, "score", ["the"], target=["d" * 50])["truncated"].tolist() == [True]
