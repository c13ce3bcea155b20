"""Characters, words and bytes: one table in the graph each, nothing but counting to learn."""

import abc
import collections
import json
from collections.abc import Iterable, Sequence
from typing import Self

import tensorflow as tf

from tfseq2seq.structures import SPECIAL_TOKENS, UNK
from tfseq2seq.tokenizers.base import (
    UNKNOWN_TEXT,
    LearnedTokenizer,
    TokenizerConfig,
    build_table,
    cleaned,
    nothing_to_train_on,
)
from tfseq2seq.tokenizers.sampling import SPACE

# What `str.split` takes for white space; \s alone is ASCII.
WHITE_SPACE = r"[\s\pZ\x0b\x1c-\x1f\x{85}]+"


class ListTokenizer(LearnedTokenizer):
    """Base of the kinds whose vocabulary is a plain list, the most frequent token first.

    A token spelled like a special one ("<s>") is never learned: in a text it is unknown.

    Args:
        case: "keep", "lower" or "upper".
        tokens: what follows the special tokens, in the order of their ids.
    """

    file = "vocabulary.json"
    kind_name: str  # the subclass's own
    separator: str  # between the tokens of a decoded text

    def __init__(self, case: str, tokens: list[str]):
        super().__init__(self.kind_name, case)
        self._names = (*SPECIAL_TOKENS, *tokens)
        self._texts = tf.constant(["", UNKNOWN_TEXT, "", "", *tokens])  # [V]
        self._ids = self._build_ids(tokens)

    @classmethod
    def train(cls, config: TokenizerConfig, strings: Iterable[str], symbols: Sequence[str] = ()) -> Self:
        """Learns from strings; `symbols` are tokens in any case, and come first."""
        counts: collections.Counter[str] = collections.Counter()
        for string in cleaned(config.case, strings):
            counts.update(cls._split(string.decode()))
        kept = [symbol.decode() for symbol in cleaned(config.case, dict.fromkeys(symbols))]
        for special in (*SPECIAL_TOKENS, *kept):
            counts.pop(special, None)
        if not counts:
            raise nothing_to_train_on(config)
        room = config.vocabulary_size - len(SPECIAL_TOKENS) - len(kept)
        if room < 1:
            raise ValueError(
                f"A {config.kind} tokenizer needs a vocabulary_size of at least {config.vocabulary_size + 1 - room} "
                f"for {len(kept)} symbols. Received: vocabulary_size={config.vocabulary_size}.")
        return cls(config.case, [*kept, *sorted(counts, key=lambda token: (-counts[token], token))[:room]])

    @classmethod
    def from_content(cls, kind: str, case: str, content: bytes) -> Self:
        return cls(case, json.loads(content))

    def content(self) -> bytes:
        return (json.dumps(self._names[len(SPECIAL_TOKENS):], ensure_ascii=False, indent=0) + "\n").encode()

    @property
    def vocabulary_size(self) -> int:
        return len(self._names)

    def vocabulary(self) -> list[str]:
        return list(self._names)

    @staticmethod
    @abc.abstractmethod
    def _split(string: str) -> Iterable[str]:
        """The tokens of a clean string."""

    @abc.abstractmethod
    def _build_ids(self, tokens: list[str]) -> tf.lookup.StaticHashTable:
        """The table from tokens to ids."""

    def texts_of(self, ids):
        """What each of [...] ids stands for, "⁇" for UNK."""
        return tf.gather(self._texts, ids)

    def join(self, texts, like):
        """Texts of tokens, one for each value of the ragged `like` [N, (T)], to [N] strings."""
        return tf.strings.reduce_join(like.with_flat_values(texts), axis=1, separator=self.separator)

    def labels(self, strings):
        pieces = self.pieces(strings)  # an unknown token as it stands there
        return pieces.with_flat_values(tf.strings.regex_replace(pieces.flat_values, " ", SPACE))

    def _decode(self, ids):
        return self.join(self.texts_of(ids.flat_values), ids)


class CharacterTokenizer(ListTokenizer):
    """One id a Unicode code point."""

    kind_name = "characters"
    separator = ""

    @staticmethod
    def _split(string: str) -> Iterable[str]:
        return string

    def _build_ids(self, tokens):
        pairs = {ord(token): id_ for id_, token in enumerate(tokens, start=len(SPECIAL_TOKENS))}
        return build_table(pairs, tf.int32, default=UNK)

    def pieces(self, strings):
        return tf.strings.unicode_split(self._clean(strings), "UTF-8")

    def _encode(self, strings):
        points = tf.strings.unicode_decode(self._clean(strings), "UTF-8")  # [N, (S)]
        return points.with_flat_values(self._ids.lookup(points.flat_values))


class WordTokenizer(ListTokenizer):
    """One id a word: what stands between white space, as `str.split` has it."""

    kind_name = "words"
    separator = " "

    @staticmethod
    def _split(string: str) -> Iterable[str]:
        return string.split()

    def _build_ids(self, tokens):
        pairs = {token: id_ for id_, token in enumerate(tokens, start=len(SPECIAL_TOKENS))}
        return build_table(pairs, tf.string, default=UNK)

    def pieces(self, strings):
        return tf.strings.split(tf.strings.regex_replace(self._clean(strings), WHITE_SPACE, " "))  # [N, (S)]

    def surfaces(self, strings):
        words = self.pieces(strings)
        return words.with_flat_values(tf.strings.join([" ", words.flat_values]))

    def _encode(self, strings):
        words = self.pieces(strings)
        return words.with_flat_values(self._ids.lookup(words.flat_values))


class ByteTokenizer(LearnedTokenizer):
    """One id a byte, 4 more than its value; nothing to learn. With a `case`, text is cleaned first.

    Args:
        case: "keep", "lower" or "upper".
    """

    def __init__(self, case: str):
        super().__init__("bytes", case)
        values = [bytes([value]) for value in range(256)]
        self._texts = tf.constant([b"", UNKNOWN_TEXT.encode(), b"", b"", *values])  # [V]

    @classmethod
    def train(cls, config: TokenizerConfig, strings: Iterable[str]) -> Self:
        return cls(config.case)

    @classmethod
    def from_content(cls, kind: str, case: str, content: bytes) -> Self:
        return cls(case)

    @property
    def vocabulary_size(self) -> int:
        return len(SPECIAL_TOKENS) + 256

    def vocabulary(self) -> list[str]:
        return [*SPECIAL_TOKENS, *(f"<0x{value:02X}>" for value in range(256))]

    def surfaces(self, strings):
        ids = self.encode(strings)
        return ids.with_flat_values(tf.gather(self._texts, ids.flat_values))

    def _encode(self, strings):
        if self.case != "keep":
            strings = self._clean(strings)
        values = tf.io.decode_raw(tf.strings.reduce_join(strings), tf.uint8)  # [bytes of all strings]
        ids = tf.cast(values, tf.int32) + len(SPECIAL_TOKENS)
        lengths = tf.cast(tf.strings.length(strings), tf.int64)  # in bytes
        return tf.RaggedTensor.from_row_lengths(ids, lengths, validate=False)

    def _decode(self, ids):
        return tf.strings.reduce_join(tf.gather(self._texts, ids), axis=1)
