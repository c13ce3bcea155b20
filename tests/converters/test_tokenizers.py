"""Tokenizers of other systems: the same pieces as plain sentencepiece, the same merges as a plain loop."""

import io
import unicodedata

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from tfseq2seq.structures import EOS, UNK
from tfseq2seq.tokenizers import ByteLevelTokenizer, MappedTokenizer, load_tokenizer
from tfseq2seq.tokenizers.byte_level import characters_of_bytes
from tfseq2seq.tokenizers.sentencepiece_file import without_character_map

SPECIALS = ["<pad>", "<unk>", "<s>", "</s>"]
TEXTS = [
    "", "a", " ", "the cat's  hat", "  two   spaces\tand a tab ", "I'll don't we've 'tis", "ÄÖ ünïcode № 5",
    "漢字 かな", "x\n\ny  z", "12,345.67 e-mail: a@b.c!", "😀😀 e\u0301 \u00a0nb\u2003em", "thethethe ththth"]


# Bytes.

def merges_of(*words):
    """Merges that spell these words, each from the left."""
    pairs = []
    for word in words:
        pairs += [(word[:i], word[i]) for i in range(1, len(word)) if (word[:i], word[i]) not in pairs]
    return pairs


MERGES = list(dict.fromkeys([
    ("t", "h"), ("Ġ", "t"), *merges_of("the", "Ġa", "at", "ca"), ("th", "th"), ("Ġ", "Ġ"), ("1", "2")]))


@pytest.fixture(scope="module")
def of_bytes():
    tokens = [*characters_of_bytes(), *dict.fromkeys("".join(pair) for pair in MERGES)]
    return ByteLevelTokenizer([*SPECIALS, "<tag>", *tokens], MERGES, silent=[0, 1, 2, 4])


def parts_of(text):
    """GPT-2's parts: 's|'t|'re|'ve|'m|'ll|'d| ?letters| ?numbers| ?others|spaces, but the last before a word|spaces."""
    def kind(character):
        if character.isspace():
            return "space"
        return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")

    parts, i = [], 0
    while i < len(text):
        short = next((each for each in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(each, i)), None)
        if short:
            parts.append(short)
            i += len(short)
            continue
        j = i + (text[i] == " " and i + 1 < len(text) and kind(text[i + 1]) != "space")
        of, end = kind(text[j]), j
        while end < len(text) and kind(text[end]) == of:
            end += 1
        if of == "space" and end < len(text) and end - i > 1:
            end -= 1  # the last one goes with what follows
        parts.append(text[i:end])
        i = end
    return parts


def merged(part):
    """All places of the pair that was merged first, and again."""
    characters = characters_of_bytes()
    tokens = [characters[byte] for byte in part.encode()]
    while True:
        ranks = [MERGES.index(pair) for pair in zip(tokens, tokens[1:]) if pair in MERGES]
        if not ranks:
            return tokens
        pair, found, i = MERGES[min(ranks)], [], 0
        while i < len(tokens):
            two = tuple(tokens[i : i + 2]) == pair
            found.append("".join(pair) if two else tokens[i])
            i += 2 if two else 1
        tokens = found


def test_bytes_are_merged_as_in_a_plain_loop(of_bytes):
    names = of_bytes.vocabulary()
    for text, ids in zip(TEXTS, of_bytes.encode(tf.constant(TEXTS)).to_list(), strict=True):
        assert [names[id_] for id_ in ids] == [token for part in parts_of(text) for token in merged(part)], text


def test_bytes_come_back_as_they_were(of_bytes):
    found = of_bytes.decode(of_bytes.encode(tf.constant(TEXTS))).numpy()
    assert [text.decode() for text in found] == TEXTS


def test_broken_characters_are_told_apart(of_bytes):
    halves = of_bytes.encode(tf.constant(["漢"])).to_list()[0][:2]
    assert of_bytes.decode(tf.constant([[*halves, 4]])).numpy()[0].decode() == "�"


def test_tags_frame_what_is_encoded_and_are_silent(of_bytes, tmp_path):
    framed = of_bytes.framed([4])
    framed.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    plain = of_bytes.encode(tf.constant(["a"])).to_list()[0]
    assert loaded.encode(tf.constant(["a", ""])).to_list() == [[4, *plain], [4]]
    assert loaded.decode(loaded.encode(tf.constant(["the"]))).numpy()[0] == b"the"
    assert loaded.before == (4,)


# Sentencepiece.

@pytest.fixture(scope="module")
def model():
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat has a hat", "two cats and a tab", "No 5 is alive", "a bat that sat"] * 5),
        model_writer=content, vocab_size=40, hard_vocab_limit=False, model_type="unigram", minloglevel=2)
    return content.getvalue()


@pytest.fixture(scope="module")
def processor(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def mapped(model, processor, **settings):
    """Pieces behind the special tokens, in the reverse order."""
    pieces = [processor.id_to_piece(i) for i in range(3, processor.vocab_size())][::-1]
    names = [*SPECIALS, *pieces, ">>de<<", "Q"]
    ids = [UNK, 2, 3, *(names.index(processor.id_to_piece(i)) for i in range(3, processor.vocab_size()))]
    return MappedTokenizer(model, names, ids, silent=range(4), **settings), names


def test_pieces_are_sentencepieces_with_ids_of_their_own(model, processor):
    tokenizer, names = mapped(model, processor)
    for text, ids in zip(TEXTS, tokenizer.encode(tf.constant(TEXTS)).to_list(), strict=True):
        expected = [processor.id_to_piece(id_) for id_ in processor.encode(text)]
        assert [names[id_] for id_ in ids] == expected, text


def test_known_text_comes_back_without_its_spaces_at_the_ends(model, processor):
    tokenizer, _ = mapped(model, processor)
    found = tokenizer.decode(tokenizer.encode(tf.constant(["a cat  has ", "the hat"]))).numpy()
    assert found.tolist() == [b"a cat has", b"the hat"]


def test_a_tag_in_front_and_tokens_that_sentencepiece_lacks_have_their_ids(model, processor):
    tokenizer, names = mapped(model, processor, leading_tag=True, by_spelling=True)
    plain, known, other = tokenizer.encode(tf.constant(["a cat", ">>de<< a cat", ">>xx<< a cat"])).to_list()
    assert known == [names.index(">>de<<"), *plain]
    assert other == [UNK, *plain]
    assert tokenizer.encode(tf.constant(["Q"])).to_list()[0][-1] == names.index("Q")


def test_a_source_keeps_what_frames_it_when_it_is_cut(model, processor, tmp_path):
    tokenizer, names = mapped(model, processor, before=[5], after=[EOS], end=6, trailing_space=True)
    tokenizer.save(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode(tf.constant(["a cat", "a cat "]))
    inner = [names.index(processor.id_to_piece(id_)) for id_ in processor.encode("a cat")]
    assert ids.to_list() == [[5, *inner, EOS], [5, *inner, names.index("▁"), EOS]]
    assert tokenizer.end == 6
    assert tokenizer.cut(ids, 3).to_list() == [[5, inner[0], EOS]] * 2


def test_without_its_map_a_model_normalizes_spaces_alone(model):
    plain = sentencepiece.SentencePieceProcessor(model_proto=without_character_map(model))
    mapping = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert mapping.normalize("№  ５") == "▁No▁5"
    assert plain.normalize(" №  ５ ") == "▁№▁５"
    assert plain.vocab_size() == mapping.vocab_size()
    assert plain.encode("the cat") == mapping.encode("the cat")


def test_a_damaged_model_is_told(model):
    with pytest.raises(ValueError, match="must be whole"):
        without_character_map(model[:-3])


def test_a_break_takes_the_space_that_follows(model, processor):
    tokenizer, names = mapped(model, processor, breaking={5: "<unk>"})
    cat = processor.encode("cat")
    ids = [names.index(processor.id_to_piece(id_)) for id_ in cat]
    text = tokenizer.decode(tf.constant([[*ids, 5, *ids]])).numpy()[0].decode()
    assert text == "cat<unk>cat"


def test_no_strings_have_no_ids(of_bytes, model, processor):
    for tokenizer in (of_bytes, mapped(model, processor, before=[5], leading_tag=True)[0]):
        assert tokenizer.encode(tf.constant([], tf.string)).shape[0] == 0
        assert np.asarray(tokenizer.decode(tf.zeros([0, 3], tf.int32))).shape == (0,)
