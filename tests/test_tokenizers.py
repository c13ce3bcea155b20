"""Text to ids and back, for every kind, eagerly, in a graph and in a SavedModel."""

import json
import os
import shutil
import tempfile
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from hypothesis import strategies

from tfseq2seq import config
from tfseq2seq.structures import BOS, EOS, PAD, SPECIAL_TOKENS, UNK
from tfseq2seq.tokenizers import KINDS, load_tokenizer, train_tokenizer

LINES = [
    "the quick brown fox jumps over the lazy dog",
    "the cat sat on the mat , and the dog sat by it",
    "  two  spaces,\ta tab and a\nnew line ",
    "你好 世界", "naïve café — 🙂 👩‍👩‍👧", "under▁line \ufdd0",
] * 5

AWKWARD = [
    "", " ", "  a", "a ", "a  b", "\ta\r\n", "\n", " \n ", "▁", " ▁a▁ ", "▁▁", "\ufdd0", "\ufdd00\ufdd01▁1▁0",
    "\0", "a\0b", "e\u0301", "é", "👩‍👩‍👧 🏳️‍🌈", "你好,世界。", "\ufeffbom\ufeff", "\u2028\u0085\u00a0\u3000",
    "⁇", " ⁇ a⁇", "<s>", "</s>", "<unk>", "<pad>", "<0x41>", "\ufffd", "\U0010ffff",
    "x" * 10_000, "你 " * 5_000,
]

any_text = strategies.text(
    strategies.one_of(
        strategies.characters(exclude_categories=["Cs"]),
        strategies.sampled_from(" \t\n\0▁\ufdd001aeth"),
    ),
    max_size=30,
)


def settings(kind="unigram", vocabulary_size=400, case="keep"):
    return config.Tokenizer(kind=kind, vocabulary_size=vocabulary_size, case=case)


def traced(tokenizer):
    """One graph that encodes and decodes."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def there_and_back(strings):
        ids = tokenizer.encode(strings)
        return ids, tokenizer.decode(ids)

    return there_and_back


def eager(tokenizer):
    def there_and_back(strings):
        ids = tokenizer.encode(strings)
        return ids, tokenizer.decode(ids)

    return there_and_back


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: train_tokenizer(settings(kind), LINES) for kind in KINDS}


@pytest.fixture(scope="module")
def graphs(tokenizers):
    return {kind: traced(tokenizer) for kind, tokenizer in tokenizers.items()}


def round_trip(graph, strings):
    ids, back = graph(tf.constant([string.encode() for string in strings], tf.string, [len(strings)]))
    assert ids.dtype == tf.int32
    assert not set(ids.flat_values.numpy()) & {PAD, BOS, EOS}
    return [string.decode() for string in back.numpy()]


def expected_round_trip(tokenizer, string):
    known = set(tokenizer.vocabulary()[len(SPECIAL_TOKENS):])
    if tokenizer.kind == "characters":
        return "".join(character if character in known else "⁇" for character in string)
    if tokenizer.kind == "words":
        return " ".join(word if word in known else "⁇" for word in string.split())
    return string


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(strings=strategies.lists(any_text, min_size=1, max_size=8))
def test_any_text_comes_back(tokenizers, graphs, kind, strings):
    expected = [expected_round_trip(tokenizers[kind], string) for string in strings]
    assert round_trip(graphs[kind], strings) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_awkward_text_comes_back(tokenizers, graphs, kind):
    expected = [expected_round_trip(tokenizers[kind], string) for string in AWKWARD]
    assert round_trip(graphs[kind], AWKWARD) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_no_strings_give_no_rows(graphs, kind):
    ids, back = graphs[kind](tf.zeros([0], tf.string))
    assert ids.shape[0] == 0 and ids.flat_values.shape[0] == 0
    assert back.shape == [0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_string_has_no_ids(tokenizers, kind):
    ids = tokenizers[kind].encode(tf.constant(["", "the", ""]))
    lengths = ids.row_lengths().numpy()
    assert lengths[0] == lengths[2] == 0 < lengths[1]


@pytest.mark.parametrize("kind", KINDS)
def test_decode_leaves_out_special_tokens_and_what_follows_the_end(tokenizers, kind):
    tokenizer = tokenizers[kind]
    word = tokenizer.encode(tf.constant(["the"]))[0].numpy().tolist()
    rows = [
        [BOS, PAD, *word, EOS, *word, EOS],
        [EOS, *word, PAD, PAD, *word],
        [PAD] * (2 * len(word) + 4),
    ]
    rows[1] += [PAD] * (len(rows[0]) - len(rows[1]))
    assert tokenizer.decode(tf.constant(rows, tf.int64)).numpy().tolist() == [b"the", b"", b""]
    ragged = tf.ragged.constant([[*word, PAD, BOS, *word, EOS, *word], [], word], dtype=tf.int32)
    twice = b"thethe" if tokenizer.kind in ("characters", "bytes") else b"the the"
    assert tokenizer.decode(ragged).numpy().tolist() == [twice, b"", b"the"]
    assert tokenizer.decode(tf.zeros([2, 0], tf.int32)).numpy().tolist() == [b"", b""]


@pytest.mark.parametrize("kind", KINDS)
def test_the_unknown_token_decodes_to_its_sign(tokenizers, kind):
    assert tokenizers[kind].decode(tf.constant([[UNK]])).numpy()[0].decode() == "⁇"


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_lists_every_id_once(tokenizers, kind):
    vocabulary = tokenizers[kind].vocabulary()
    assert tuple(vocabulary[:4]) == SPECIAL_TOKENS
    assert len(vocabulary) == tokenizers[kind].vocabulary_size == len(set(vocabulary)) <= 400


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_outside_the_vocabulary_is_an_error(tokenizers, kind):
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError)):
        tokenizers[kind].decode(tf.constant([[tokenizers[kind].vocabulary_size]]))


def test_bytes_are_four_more_than_their_value(tokenizers):
    ids = tokenizers["bytes"].encode(tf.constant([b"Az\0", "é".encode(), b""]))
    assert ids.to_list() == [[69, 126, 4], [0xC3 + 4, 0xA9 + 4], []]
    assert tokenizers["bytes"].vocabulary()[69] == "<0x41>"


def test_bytes_come_back_even_if_they_are_no_text(tokenizers):
    strings = tf.constant([bytes(range(256)), b"\xff\xfe", b"\xe2\x96", b""])
    tokenizer = tokenizers["bytes"]
    np.testing.assert_array_equal(tokenizer.decode(tokenizer.encode(strings)), strings)


def test_characters_are_numbered_by_frequency_then_by_code_point():
    tokenizer = train_tokenizer(settings("characters", 8), ["banana", "nab", "cd"])  # a 4, n 3, b 2, c 1, d 1
    assert tokenizer.vocabulary() == [*SPECIAL_TOKENS, "a", "n", "b", "c"]
    assert tokenizer.encode(tf.constant(["bad", "x"])).to_list() == [[6, 4, UNK], [UNK]]
    assert tokenizer.decode(tf.constant([[6, 4, UNK]])).numpy()[0].decode() == "ba⁇"


def test_words_are_numbered_by_frequency_then_by_spelling():
    tokenizer = train_tokenizer(settings("words", 8), ["b a\tb", "c\u3000c b d", "e\n"])  # b 3, c 2, a d e 1
    assert tokenizer.vocabulary() == [*SPECIAL_TOKENS, "b", "c", "a", "d"]
    assert tokenizer.encode(tf.constant([" a  b\u00a0e", "bc"])).to_list() == [[6, 4, UNK], [UNK]]
    assert tokenizer.decode(tf.constant([[6, 4, UNK]])).numpy()[0].decode() == "a b ⁇"


def test_symbols_are_the_first_words():
    lines, tags = ["a b <2DE>", "b c c <bt>"], ["<2DE>", "<bt>", "<2DE>"]
    tokenizer = train_tokenizer(settings("words", 8, "lower"), lines, tags)
    assert tokenizer.vocabulary()[4:] == ["<2de>", "<bt>", "b", "c"]
    assert tokenizer.encode(tf.constant(["<bt> <2DE> b a a<bt>"])).to_list() == [[5, 4, 6, UNK, UNK]]
    with pytest.raises(ValueError, match="vocabulary_size of at least 9 for 4 symbols. Received: vocabulary_size=8"):
        train_tokenizer(settings("words", 8), lines, ["<1>", "<2>", "<3>", "<4>"])
    for kind in ("words", "bpe"):
        with pytest.raises(ValueError, match="symbols other than the special tokens.*Received: <s>"):
            train_tokenizer(settings(kind), lines, ["<s>"])


def test_words_spelled_like_special_tokens_are_unknown():
    tokenizer = train_tokenizer(settings("words"), ["</s> <s> a <pad> <unk> </s> </s>"])
    assert tokenizer.vocabulary() == [*SPECIAL_TOKENS, "a"]
    assert tokenizer.encode(tf.constant(["</s> a"])).to_list() == [[UNK, 4]]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_plain_sentencepiece_gives_the_same_ids(tokenizers, kind, tmp_path):
    tokenizers[kind].save(tmp_path)
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.model"))
    strings = ["the dog", " the dog", "a▁b \ufdd0", "🙂 Zürich\n"]
    expected = [peer.encode(" " + string) for string in strings]
    assert tokenizers[kind].encode(tf.constant(strings)).to_list() == expected
    assert tokenizers[kind].vocabulary() == [peer.id_to_piece(id_) for id_ in range(peer.vocab_size())]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_subwords_are_learned_and_begin_alike_everywhere(tokenizers, kind):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(tf.constant(["the", "the the"])).to_list()
    assert ids == [ids[0], ids[0] * 2]
    pieces = [tokenizer.vocabulary()[id_] for id_ in ids[0]]
    assert "".join(pieces) == "▁the" and len(pieces) < 4


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_bytes_that_form_no_character_decode_to_the_replacement_character(tokenizers, kind):
    vocabulary = tokenizers[kind].vocabulary()
    ids = [vocabulary.index(name) for name in ("<0xE4>", "<0xBD>", "<0xA0>", "<0xFF>", "<0x41>")]
    assert tokenizers[kind].decode(tf.constant([ids])).numpy()[0].decode() == "你\ufffdA"


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_one_leading_space_alone_is_taken_away(tokenizers, kind):
    vocabulary = tokenizers[kind].vocabulary()
    space, letter = vocabulary.index("▁"), vocabulary.index("<0x41>")
    ids = tf.constant([[space, space, letter], [letter, space, letter]])
    assert tokenizers[kind].decode(ids).numpy().tolist() == [b" A", b"A A"]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_small_text_gives_a_smaller_vocabulary(kind):
    tokenizer = train_tokenizer(settings(kind, 8000), ["a small text", "a small text"])
    assert 260 < tokenizer.vocabulary_size < 300
    assert round_trip(eager(tokenizer), ["a small text, 你"]) == ["a small text, 你"]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("lines", [["a"], [" "], ["\0"], ["▁"], ["x" * 10_000]])
def test_hardly_any_text_is_enough(kind, lines):
    tokenizer = train_tokenizer(settings(kind, 300), lines)
    assert round_trip(eager(tokenizer), [*lines, "é"]) == [*lines, "é"]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_smallest_vocabulary_the_error_names_is_enough(kind):
    lines = ["abc abd", "ab"]  # 4 special tokens, 256 bytes, and a b c d and the space
    with pytest.raises(ValueError, match=r"at least 265 for these strings.*Received: vocabulary_size=100"):
        train_tokenizer(settings(kind, 100), lines)
    assert train_tokenizer(settings(kind, 265), lines).vocabulary_size == 265


def test_the_same_text_gives_the_same_tokenizer(tokenizers):
    for kind in KINDS:
        content = train_tokenizer(settings(kind), iter(LINES)).content()
        assert content == tokenizers[kind].content()
        assert tempfile.gettempdir().encode() not in content


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_text_is_read_as_replacement_characters_except_by_bytes(tokenizers, kind):
    faulty = tf.constant([b"a\xffb", b"\xe2\x96", b"\xed\xa0\x80", b"\xc0\x80", b"dog \xf0\x9f\x99"])
    replaced = tf.constant([string.decode(errors="replace").encode() for string in faulty.numpy()])
    ids = tokenizers[kind].encode(faulty).to_list()
    if kind == "bytes":
        assert ids == [[byte + 4 for byte in string] for string in faulty.numpy()]
    else:
        assert ids == tokenizers[kind].encode(replaced).to_list()


def test_lone_surrogates_in_the_training_text_are_read_as_replacement_characters():
    tokenizer = train_tokenizer(settings("characters"), ["a\ud800"])
    assert set(tokenizer.vocabulary()[4:]) == {"a", "\ufffd"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "case, expected", [("lower", "straße é i σοφοσ ж\0a 你🙂"), ("upper", "STRAßE É I ΣΟΦΟΣ Ж\0A 你🙂")])
def test_case_is_applied_letter_by_letter(kind, case, expected):
    # By the simple mappings of UnicodeData.txt: ß has no upper case, Σ always becomes σ, NUL ends nothing.
    given = "Straße É I ΣοφΟΣ ж\0a 你🙂"
    tokenizer = train_tokenizer(settings(kind, case=case), [given] * 3)
    ids = tokenizer.encode(tf.constant([given, expected]))
    assert ids[0].numpy().tolist() == ids[1].numpy().tolist()
    assert tokenizer.decode(ids).numpy()[0].decode() == expected


def test_letters_with_a_long_other_case_follow_the_simple_mapping():
    lower = train_tokenizer(settings("bytes", case="lower"), [])
    upper = train_tokenizer(settings("bytes", case="upper"), [])
    assert lower.decode(lower.encode(tf.constant(["İI\xdf\u1e9e"]))).numpy()[0].decode() == "ii\xdf\xdf"
    assert upper.decode(upper.encode(tf.constant(["ıiŉß"]))).numpy()[0].decode() == "IIŉß"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["keep", "upper"])
def test_a_loaded_tokenizer_is_the_saved_one(tokenizers, kind, case, tmp_path):
    saved = tokenizers[kind] if case == "keep" else train_tokenizer(settings(kind, case=case), LINES)
    saved.save(tmp_path / "made" / "here")
    loaded = load_tokenizer(tmp_path / "made" / "here")
    assert (loaded.kind, loaded.case, loaded.vocabulary_size) == (kind, case, saved.vocabulary_size)
    assert loaded.vocabulary() == saved.vocabulary()
    strings = tf.constant([string for string in AWKWARD if len(string) < 100])
    ids = saved.encode(strings)
    assert loaded.encode(strings).to_list() == ids.to_list()
    np.testing.assert_array_equal(loaded.decode(ids), saved.decode(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_carries_its_tokenizer(tokenizers, kind, tmp_path):
    tokenizers[kind].save(tmp_path / "tokenizer")
    module = tf.Module()
    module.tokenizer = load_tokenizer(tmp_path / "tokenizer")
    module.there_and_back = traced(module.tokenizer)
    tf.saved_model.save(module, str(tmp_path / "export"))
    shutil.rmtree(tmp_path / "tokenizer")
    os.rename(tmp_path / "export", tmp_path / "moved")
    del module
    served = tf.saved_model.load(str(tmp_path / "moved"))
    strings = [string for string in AWKWARD if len(string) < 100]
    expected = [expected_round_trip(tokenizers[kind], string) for string in strings]
    assert round_trip(served.there_and_back, strings) == expected


def test_a_dataset_can_encode(tokenizers):
    for tokenizer in tokenizers.values():
        dataset = tf.data.Dataset.from_tensor_slices(LINES).batch(4).map(tokenizer.encode)
        first = next(iter(dataset))
        assert first.to_list() == tokenizer.encode(tf.constant(LINES[:4])).to_list()


def test_an_interrupted_save_leaves_the_old_tokenizer_or_an_error(tokenizers, tmp_path, monkeypatch):
    tokenizers["words"].save(tmp_path)
    replace = os.replace
    other = train_tokenizer(settings("words"), ["other words"])

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        other.save(tmp_path)
    assert load_tokenizer(tmp_path).vocabulary() == tokenizers["words"].vocabulary()

    def fail_at_the_second(source, destination):
        if str(destination).endswith("tokenizer.json"):
            fail()
        replace(source, destination)

    monkeypatch.setattr(os, "replace", fail_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        other.save(tmp_path)
    with pytest.raises(ValueError, match="a save was interrupted"):
        load_tokenizer(tmp_path)
    monkeypatch.undo()
    other.save(tmp_path)
    assert load_tokenizer(tmp_path).vocabulary() == other.vocabulary()


@pytest.mark.parametrize("kind", ["unigram", "bpe", "characters", "words"])
@pytest.mark.parametrize("lines", [[], ["", ""]])
def test_nothing_to_train_on_is_an_error(kind, lines):
    with pytest.raises(ValueError, match=f"A {kind} tokenizer needs strings .* Received: no string"):
        train_tokenizer(settings(kind), lines)


def test_words_need_more_than_white_space():
    with pytest.raises(ValueError, match="needs strings to be trained on"):
        train_tokenizer(settings("words"), [" ", "\n"])


@pytest.mark.parametrize("change, text", [
    ({"kind": "unigramm"}, "Did you mean 'unigram'\\? Received: kind='unigramm'"),
    ({"case": "title"}, "'keep', 'lower' or 'upper'. Received: case='title'"),
    ({"vocabulary_size": 4}, "above 4, the number of special tokens. Received: vocabulary_size=4"),
])
def test_wrong_settings_are_refused(change, text):
    values = {"kind": "words", "vocabulary_size": 100, "case": "keep", **change}
    with pytest.raises(ValueError, match=text):
        train_tokenizer(SimpleNamespace(**values), LINES)


def test_a_single_string_is_not_a_training_text():
    with pytest.raises(ValueError, match=r"for one string pass \[string\]. Received: 'the fox'"):
        train_tokenizer(settings(), "the fox")


def test_a_folder_without_a_tokenizer_is_refused(tokenizers, tmp_path):
    with pytest.raises(ValueError, match="needs a folder written by Tokenizer.save.*FileNotFoundError"):
        load_tokenizer(tmp_path / "nowhere")
    for content in ("", "[]", "{}", '{"kind": "words"'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match="needs a folder written by Tokenizer.save"):
            load_tokenizer(tmp_path)
    tokenizers["unigram"].save(tmp_path)
    about = json.loads((tmp_path / "tokenizer.json").read_text())
    assert about["kind"] == "unigram" and about["case"] == "keep" and about["vocabulary_size"] > 260
    with open(tmp_path / "sentencepiece.model", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match="sentencepiece.model is not the file"):
        load_tokenizer(tmp_path)
    os.remove(tmp_path / "sentencepiece.model")
    with pytest.raises(ValueError, match="needs a folder written by Tokenizer.save"):
        load_tokenizer(tmp_path)


def test_other_ranks_are_refused(tokenizers):
    with pytest.raises(ValueError, match=r"shape \[N\]; for one string pass strings\[None\].*\(\)"):
        tokenizers["words"].encode(tf.constant("the"))
    with pytest.raises(ValueError, match=r"shape \[N, T\]; for one sentence pass ids\[None\].*\(2,\)"):
        tokenizers["words"].decode(tf.constant([4, 5]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_outlives_tensorflows_caches(kind):
    """`tf.random.set_seed` clears them, and with them whatever a kernel owns."""
    tokenizer = train_tokenizer(settings(kind), LINES)
    graph, lines = traced(tokenizer), LINES[:3]
    expected = [expected_round_trip(tokenizer, line) for line in lines]
    assert round_trip(graph, lines) == expected
    tf.random.set_seed(1)
    assert round_trip(eager(tokenizer), lines) == expected
    assert round_trip(graph, lines) == expected
