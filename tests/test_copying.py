"""Unknown words of a source have ids of their own, and come out of search and export as they stood there."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines.pairs import Splits
from pipelines.text import encode_pairs, source_ids
from serving.export import export
from serving.servables import load_model
from tests.test_cli import run as run_command
from tfseq2seq.config import Decode, Model, Run, Tokenizer
from tfseq2seq.generation import Generator
from tfseq2seq.model import build_model
from tfseq2seq.structures import SPECIAL_TOKENS, UNK
from tfseq2seq.tokenizers import CopyingTokenizer, train_tokenizer

WORDS = "call now please"
SLOTS = 3


@pytest.fixture(scope="module")
def known():
    return train_tokenizer(Tokenizer(kind="words", vocabulary_size=20), [WORDS])


@pytest.fixture(scope="module")
def tokenizer(known):
    return CopyingTokenizer(known, SLOTS)


def numbered(known, source, slots=SLOTS):
    """Twin: ids of a source, and the id of each of its unknown words."""
    vocabulary = {token: id_ for id_, token in enumerate(known.vocabulary()) if id_ >= len(SPECIAL_TOKENS)}
    places, ids = {}, []
    for word in source.split():
        if word not in vocabulary and word not in places and len(places) < slots:
            places[word] = len(known.vocabulary()) + len(places)
        ids.append(vocabulary.get(word, places.get(word, UNK)))
    return ids, places


SOURCES = [
    "call Ärger now Bob Ärger", "", "please", "Zoë Yan Zoë Xi Wu call Wu", "Bob", "  <s> ⁇ </s> ⁇  Bob", "now Ärger"]
TARGETS = ["Ärger Bob now", "Bob", "please Bob", "Wu Zoë Xi call", "Bob Bob", "⁇ <s> x </s>", "Ärger bob"]


def test_ids_follow_the_order_in_which_unknown_words_first_stand_in_their_source(known, tokenizer):
    sources = tf.constant(SOURCES)
    copies = tokenizer.copies(sources)
    found, beside = tokenizer.encode(sources).to_list(), tokenizer.encode_beside(tf.constant(TARGETS), copies).to_list()
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        ids, places = numbered(known, source)
        assert found[row] == ids
        assert copies[row].numpy().tolist() == [word.encode() for word in [*places, *[""] * SLOTS][:SLOTS]]
        vocabulary = known.vocabulary()[len(SPECIAL_TOKENS) :]
        assert beside[row] == [
            places.get(word, len(SPECIAL_TOKENS) + vocabulary.index(word) if word in vocabulary else UNK)
            for word in target.split()]
    encoded = encode_pairs(list(zip(SOURCES, TARGETS, strict=True)), tokenizer, tokenizer)
    assert encoded.source_ids.tolist() == sum(found, []) and encoded.target_ids.tolist() == sum(beside, [])


def test_copies_come_back_as_they_stood_in_the_source(tokenizer):
    ids = tokenizer.encode(tf.constant(SOURCES))
    found = tokenizer.decode_beside(ids, tokenizer.copies(tf.constant(SOURCES))).numpy()
    expected = [" ".join(source.split()) for source in SOURCES]
    expected[3], expected[5] = "Zoë Yan Zoë Xi ⁇ call ⁇", "<s> ⁇ </s> ⁇ ⁇"  # three slots
    assert [text.decode() for text in found] == expected
    assert tokenizer.decode(ids)[0] == "call ⁇ now ⁇ ⁇".encode()
    nothing = tokenizer.decode_beside(tf.constant([[tokenizer.vocabulary_size - 1, 4]]), tokenizer.copies(["x"]))
    assert nothing.numpy()[0].split() == [tokenizer.vocabulary()[4].encode()]


def test_in_a_graph_any_number_of_rows_goes(tokenizer):
    module = tf.Module()
    module.tokenizer = tokenizer
    back = tf.function(
        lambda text: tokenizer.decode_beside(source_ids(text, tokenizer, 99)[0], tokenizer.copies(text)),
        input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    assert back(tf.zeros([0], tf.string)).shape == [0]
    assert back(tf.constant(["a b", ""])).numpy().tolist() == [b"a b", b""]


def test_kinds_that_spell_any_text_copy_what_they_know():
    pieces = CopyingTokenizer(train_tokenizer(Tokenizer(kind="unigram", vocabulary_size=300), [WORDS] * 9), SLOTS)
    sources = tf.constant(["call Ärger", ""])
    ids = pieces.encode(sources)
    assert int(tf.reduce_max(ids.flat_values)) < pieces.vocabulary_size - SLOTS - 1
    assert pieces.decode_beside(ids, pieces.copies(sources)).numpy().tolist() == sources.numpy().tolist()


@pytest.fixture(scope="module")
def generator(tokenizer):
    """A model that copies alone, wherever its attention is."""
    table = {"units": 8, "layers": 1, "dropout": 0.0}
    config = Model(
        embedding_units=8, copying=True, copy_slots=SLOTS, encoder={"kind": "recurrent", **table},
        decoder={"kind": "attentional", **table})
    model = build_model(config, tokenizer.vocabulary_size, tokenizer.vocabulary_size)
    model.copier.of_step.bias.assign([-50.0])
    return Generator(model, tokenizer, tokenizer, Decode(beam_size=3, num_hypotheses=2, min_length=3, max_length=5), 12)


TEXTS = ["call Ärger now", "Zoë Yan", "Ünknown"]


def test_answers_are_words_of_their_source(generator):
    for line, answers in zip(TEXTS, generator.answer(TEXTS), strict=True):
        words = answers[0].text.split()
        assert words and set(words) <= set(line.split())
    source, target, weights = generator.attention(TEXTS[0])
    assert source == ["call", "Ärger", "now", "</s>"] and set(target) <= {*source}
    assert weights.shape == (len(target), 4)


def test_scores_of_copied_words_are_the_attention_on_them(generator):
    """p = (1 - p_gen) a[i], with p_gen = 0 but for the attention on the end token."""
    found = generator.score(tf.constant(["Ärger now"]), tf.constant(["Ärger"]))
    assert found["length"].numpy().tolist() == [2]
    inputs = {"source": source_ids(tf.constant(["Ärger now"]), generator.tokenizers[0], 9)[0]}
    _, attention = generator.model.call_with_attention({**inputs, "target": tf.constant([[2]])})
    np.testing.assert_allclose(found["token_log_probability"][0, 0], np.log(attention[0, 0, 0]), rtol=1e-4)
    unknown = generator.score(tf.constant(["Ärger now"]), tf.constant(["Bob"]))["token_log_probability"][0, 0]
    assert float(unknown) < float(found["token_log_probability"][0, 0])


def test_the_savedmodel_copies_too(generator, tmp_path):
    path = export(
        generator, tmp_path / "export", config_json="{}", check_sources=TEXTS,
        check_targets=["Ärger", "Yan Zoë", "now"], num_hypotheses=2)
    loaded = load_model(path)
    texts = loaded.signatures["serving_default"](text=tf.constant(["Äpfel Äpfel"]))["text"].numpy()
    assert set(texts[0][0].decode().split()) == {"Äpfel"}


def test_copying_needs_one_vocabulary_attention_and_one_source():
    shared = {"data": {"share_tokenizer": True}}
    with pytest.raises(ValueError, match="data.share_tokenizer = true"):
        Run(name="x", model={"copying": True})
    with pytest.raises(ValueError, match="decoder with attention"):
        Run(name="x", model={"copying": True, "decoder": {"kind": "recurrent"}}, **shared)
    for encoder in ({"kind": "parallel", "encoders": [{"kind": "recurrent"}] * 2}, {"kind": "pyramidal"}):
        with pytest.raises(ValueError, match=f"needs one source of tokens, and .* = \"{encoder['kind']}\""):
            Run(name="x", model={"copying": True, "encoder": encoder}, **shared)


RECIPE = """
name = "names"
[data]
folder = "{folder}"
share_tokenizer = true
source_tokenizer = {{ kind = "words", vocabulary_size = 12 }}
batch_tokens = 1024
num_lengths = 1
[model]
embedding_units = 32
copying = {copying}
encoder = {{ kind = "recurrent", units = 32, dropout = 0.0 }}
decoder = {{ kind = "attentional", units = 64, dropout = 0.0 }}
[train]
steps = 600
evaluate_every = 600
learning_rate = 5e-3
warmup_steps = 50
coverage_weight = 0.1
[decode]
max_length = 12
"""


def draw(random, number):
    """"call A and B now" is answered with "B A": no name stands in any other pair."""
    for _ in range(number):
        one, two = ("".join(random.choice(list("abcdefghij"), 8)) for _ in range(2))
        yield f"call {one} and {two} now", f"{two} {one}"


@pytest.mark.slow
@pytest.mark.parametrize(("copying", "least", "most"), [("true", 95.0, 100.0), ("false", 0.0, 0.0)])
def test_names_that_were_never_seen_are_learned_to_be_copied(tmp_path, monkeypatch, capsys, copying, least, most):
    random = np.random.default_rng(1)
    (tmp_path / "data").mkdir()
    for name, number in zip(Splits._fields, (3000, 50, 200), strict=True):
        lines = ("\t".join(pair) for pair in draw(random, number))
        (tmp_path / "data" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    recipe = tmp_path / "names.toml"
    recipe.write_text(RECIPE.format(folder=tmp_path / "data", copying=copying))
    assert run_command(monkeypatch, "train", recipe, "--runs", tmp_path / "runs") == 0
    answers = tmp_path / "answers"
    sources, targets = zip(*(line.split("\t") for line in (tmp_path / "data" / "test.tsv").read_text().splitlines()))
    (tmp_path / "sources").write_text("\n".join(sources) + "\n")
    assert run_command(monkeypatch, "predict", tmp_path / "runs" / "names", tmp_path / "sources", "-o", answers) == 0
    right = 100 * np.mean([one == other for one, other in zip(answers.read_text().splitlines(), targets, strict=True)])
    assert least <= right <= most
