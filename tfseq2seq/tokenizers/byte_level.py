"""Byte-pair encoding of bytes, as of GPT-2, BART and Whisper, with the merges of a vocabulary that is there."""

import json
from collections.abc import Collection, Sequence
from typing import Self

import tensorflow as tf
import tensorflow_text

from tfseq2seq.structures import EOS, UNK
from tfseq2seq.tokenizers.base import Tokenizer, build_table

_SPACE = r"\t\n\x0b\f\r \x{85}\pZ"  # Unicode's white space; RE2's \s is ASCII's
_BORDER = "\U0010ffff"  # put into a text where it is cut; no character
# The parts of a text that no token crosses, as GPT-2's expression finds them. RE2 cannot look ahead, as that does to
# leave the last space of several to the word that follows: a border stands before it instead.
_SEVERAL_SPACES = f"([{_SPACE}]+)([{_SPACE}][^{_SPACE}])"
_PARTS = (
    rf"'s|'t|'re|'ve|'m|'ll|'d| ?\pL+| ?\pN+| ?[^{_SPACE}\pL\pN{_BORDER}]+|[{_SPACE}]+")
_NONE = 2**31 - 1  # the rank of what is no merge


class ByteLevelTokenizer(Tokenizer):
    """Merges bytes to tokens, pair after pair in the order of a list (Radford et al., 2019; Sennrich et al., 2016).

    `decode(encode(x))` is x for any valid UTF-8.

    Args:
        names: [V] strings, the tokens in the order of their ids, in which each byte is a character, see
            `characters_of_bytes`; the first four are the special tokens.
        merges: pairs of names, those that are merged first at the start.
        silent: ids that `decode` leaves out.
        before, after: ids around those of each string.
        end: id after them, which ends a row.
        prefix_space: whether a space is put before a text that begins with none.
    """

    file = "tokenizer_model.json"

    def __init__(
        self, names: Sequence[str], merges: Sequence[Sequence[str]], silent: Collection[int] = (),
        before: Sequence[int] = (), after: Sequence[int] = (), end: int = EOS, prefix_space: bool = False,
    ):
        super().__init__("byte_level", "keep")
        settings = {
            "names": list(names), "merges": [list(pair) for pair in merges], "silent": sorted(silent),
            "before": list(before), "after": list(after), "end": end, "prefix_space": prefix_space}
        self._settings = json.dumps(settings, ensure_ascii=False)  # tf.Module would wrap a dict
        self.before, self.after, self.end = tuple(before), tuple(after), end
        self._names, self._prefix_space = tuple(names), prefix_space
        ids = {name: id_ for id_, name in enumerate(names) if id_ not in set(silent)}
        characters = characters_of_bytes()
        self._bytes = tf.constant([ids.get(character, UNK) for character in characters])  # [256]
        known = [(*pair, "".join(pair)) for pair in merges]
        self._merges = [tuple(ids[name] for name in row) for row in known if all(name in ids for name in row)]
        ranks = {first * len(names) + second: rank for rank, (first, second, _) in enumerate(self._merges)}
        self._ranks = build_table(ranks or {-1: _NONE}, tf.int64, default=_NONE)
        self._merged = tf.constant([merged for *_, merged in self._merges] or [UNK])
        of_characters = {character: bytes([byte]) for byte, character in enumerate(characters)}
        self._texts = tf.constant([
            b"" if id_ in set(silent) else b"".join(of_characters.get(each, each.encode()) for each in name)
            for id_, name in enumerate(names)])

    @classmethod
    def from_content(cls, kind: str, case: str, content: bytes) -> Self:
        """Builds the tokenizer from the bytes of its file."""
        return cls(**json.loads(content))

    def framed(self, before: Sequence[int]) -> Self:
        """The same tokenizer with other ids before each string."""
        return type(self)(**{**json.loads(self._settings), "before": before})

    def content(self) -> bytes:
        return f"{self._settings}\n".encode()

    @property
    def vocabulary_size(self) -> int:
        return len(self._names)

    def vocabulary(self) -> list[str]:
        return list(self._names)

    def surfaces(self, strings):
        ids = self.encode(strings)
        return ids.with_flat_values(tf.gather(self._texts, ids.flat_values))

    def _encode(self, strings):
        strings = self._clean(strings)
        if self._prefix_space:
            bare = tf.strings.regex_full_match(strings, f"(?s)[^{_SPACE}].*")
            strings = tf.where(bare, tf.strings.join([" ", strings]), strings)
        bordered = tf.strings.regex_replace(strings, _SEVERAL_SPACES, rf"\1{_BORDER}\2")
        parts = tensorflow_text.regex_split(bordered, f"{_PARTS}|{_BORDER}", _PARTS)  # [N, (parts)]
        ids = parts.with_flat_values(self._merge(parts.flat_values)).merge_dims(1, 2)
        num_rows = tf.shape(strings)[0]
        around = [tf.tile(tf.constant([part], tf.int32), [num_rows, 1]) for part in (self.before, self.after)]
        return tf.concat([around[0], ids, around[1]], 1) if self.before or self.after else ids

    def _merge(self, parts):
        """[P] parts of texts to [P, (T)] ids."""
        split = tf.strings.bytes_split(parts)
        numbers = tf.cast(tf.io.decode_raw(split.flat_values, tf.uint8, fixed_length=1)[:, 0], tf.int32)
        ids = split.with_flat_values(tf.gather(self._bytes, numbers)).to_tensor(-1)  # [P, L], -1 after the end
        # Of no parts, or of one byte each, there is no pair.
        ids = tf.pad(ids, [[0, 0], [0, tf.maximum(2 - tf.shape(ids)[1], 0)]], constant_values=-1)

        def best(ids):
            first, second = tf.cast(ids[:, :-1], tf.int64), tf.cast(ids[:, 1:], tf.int64)
            ranks = self._ranks.lookup(first * len(self._names) + second)
            ranks = tf.where(second < 0, _NONE, ranks)  # [P, L - 1]
            return tf.argmin(ranks, 1, output_type=tf.int32), tf.reduce_min(ranks, 1)

        def merge(ids, place, rank):
            there = (rank < _NONE)[:, None]
            steps, place = tf.range(tf.shape(ids)[1]), place[:, None]
            shifted = tf.pad(ids[:, 1:], [[0, 0], [0, 1]], constant_values=-1)
            merged = tf.gather(self._merged, tf.where(there[:, 0], rank, 0))[:, None]
            after = tf.where(steps < place, ids, tf.where(steps == place, merged, shifted))
            ids = tf.where(there, after, ids)
            return ids, *best(ids)

        ids, *_ = tf.while_loop(
            lambda ids, place, rank: tf.reduce_any(rank < _NONE), merge, (ids, *best(ids)))
        return tf.RaggedTensor.from_tensor(ids, padding=-1)

    def _decode(self, ids):
        texts = tf.strings.reduce_join(tf.gather(self._texts, ids), -1)
        return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


def characters_of_bytes() -> list[str]:
    """The character that stands for each byte in names of tokens: itself where it can be seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]
