"""Sentencepiece models of other systems, whose pieces have the ids of a vocabulary of their own."""

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Self

import sentencepiece
import tensorflow as tf
import tensorflow_text

from tfseq2seq.structures import EOS, UNK
from tfseq2seq.tokenizers.base import Tokenizer, build_table
from tfseq2seq.tokenizers.sampling import SPACE
from tfseq2seq.tokenizers.sentencepiece_file import without_character_map
from tfseq2seq.tokenizers.simple import WHITE_SPACE
from tfseq2seq.tokenizers.subwords import BYTE, _SharedModel

BREAK = "\x02"  # no text holds it
LEADING_TAG = r"(?s)^(>>.*?<<)"


class MappedTokenizer(Tokenizer):
    """What reads strings with a sentencepiece model and knows its pieces, and more tokens, by other ids.

    It cuts as plain sentencepiece does with the same model: white space may be lost, and `decode(encode(x))` is x in
    the model's normal form. Special tokens frame it as they did in training: `before` and `after` belong to what
    `encode` gives, and a row ends in `end`.

    Args:
        model: the serialised sentencepiece model.
        names: [V] strings, the tokens in the order of their ids; the first four are the special tokens.
        ids: of each of the model's pieces its id.
        silent: ids that `decode` leaves out.
        before, after: ids around those of each string.
        end: id after them, which ends a row.
        strip: whether `decode` takes all white space at both ends away, or only one space in front.
        leading_tag: whether a string may begin with a token written ">>name<<".
        by_spelling: whether what the model does not know has an id all the same where a token is spelled so.
        normalize: whether the model's own normalization is applied, which knows other spaces than those of Unicode.
        trailing_space: whether white space at the end of a string is a token.
        breaking: texts of ids after which `decode` begins anew, without the space that the next token begins with.
    """

    file = "tokenizer_model.json"

    def __init__(
        self, model: bytes, names: Sequence[str], ids: Sequence[int], silent: Collection[int] = (),
        before: Sequence[int] = (), after: Sequence[int] = (), end: int = EOS, strip: bool = False,
        leading_tag: bool = False, by_spelling: bool = False, normalize: bool = True, trailing_space: bool = False,
        breaking: Mapping[int, str] | None = None,
    ):
        super().__init__("mapped", "keep")
        settings = {
            "names": list(names), "ids": list(ids), "silent": sorted(silent), "before": list(before),
            "after": list(after), "end": end, "strip": strip, "leading_tag": leading_tag,
            "by_spelling": by_spelling, "normalize": normalize, "trailing_space": trailing_space,
            "breaking": {str(id_): text for id_, text in (breaking or {}).items()}}
        self._settings = json.dumps(settings, ensure_ascii=False)  # tf.Module would wrap a dict
        self.before, self.after, self.end = tuple(before), tuple(after), end
        self._model, self._names, self._strip, self._normalize = model, tuple(names), strip, normalize
        model = model if normalize else without_character_map(model)
        self._pieces = tensorflow_text.SentencepieceTokenizer(
            model=model, out_type=tf.string if by_spelling else tf.int32)
        self._pieces._model_resource = _SharedModel(model)
        self._ids = tf.constant(ids, tf.int32)
        self._spelled = None
        if by_spelling:
            unused = set(silent)
            spelled = {name: id_ for id_, name in enumerate(names) if id_ not in unused}
            self._spelled = build_table(spelled, tf.string, default=UNK)
        texts = _texts(model, names, ids, silent)
        for id_, text in (breaking or {}).items():
            texts[int(id_)] = f"{text}{BREAK}".encode()
        self._texts, self._breaks = tf.constant(texts), bool(breaking)
        self._space = None
        if trailing_space:
            self._space = self._names.index(SPACE) if SPACE in names else UNK
        self._tags = None
        if leading_tag:
            tags = {name: id_ for id_, name in enumerate(names) if name.startswith(">>") and name.endswith("<<")}
            self._tags = build_table(tags or {"": UNK}, tf.string, default=UNK)

    @classmethod
    def from_content(cls, kind: str, case: str, content: bytes) -> Self:
        """Builds the tokenizer from the bytes of its file."""
        values = json.loads(content)
        return cls(base64.b64decode(values.pop("model")), **values)

    def framed(self, before: Sequence[int]) -> Self:
        """The same tokenizer with other ids before each string."""
        return type(self)(self._model, **{**json.loads(self._settings), "before": before})

    def content(self) -> bytes:
        model = base64.b64encode(self._model).decode()
        return (json.dumps({"model": model, **json.loads(self._settings)}, ensure_ascii=False) + "\n").encode()

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
        num_rows, parts = tf.shape(strings)[0], []
        if self.before:
            parts.append(tf.tile(tf.constant([self.before]), [num_rows, 1]))
        if self._tags is not None:
            tagged = tf.strings.regex_full_match(strings, f"{LEADING_TAG}.*")
            tags = tf.strings.regex_replace(strings, f"{LEADING_TAG}.*", r"\1", replace_global=False)
            known = self._tags.lookup(tags)[:, None]
            parts.append(tf.ragged.boolean_mask(known, tagged[:, None]))
            strings = tf.strings.regex_replace(strings, LEADING_TAG, "", replace_global=False)
        ends_in_space = None if self._space is None else tf.strings.regex_full_match(strings, f"(?s).*{WHITE_SPACE}")
        if not self._normalize:
            strings = tf.strings.regex_replace(strings, WHITE_SPACE, " ")
        pieces = self._pieces.tokenize(strings)
        flat = pieces.flat_values
        flat = tf.gather(self._ids, flat) if self._spelled is None else self._spelled.lookup(flat)
        parts.append(pieces.with_flat_values(flat))
        if ends_in_space is not None:
            space = tf.tile(tf.constant([[self._space]]), [num_rows, 1])
            parts.append(tf.ragged.boolean_mask(space, ends_in_space[:, None]))
        if self.after:
            parts.append(tf.tile(tf.constant([self.after]), [num_rows, 1]))
        return tf.concat(parts, 1) if len(parts) > 1 else parts[0]

    def _decode(self, ids):
        texts = tf.strings.reduce_join(tf.gather(self._texts, ids), -1)
        if self._breaks:
            texts = tf.strings.regex_replace(texts, f"{BREAK} ?", "")
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        return tf.strings.strip(texts) if self._strip else tf.strings.regex_replace(
            texts, "^ ", "", replace_global=False)


def _texts(model: bytes, names: Sequence[str], ids: Sequence[int], silent: Collection[int]) -> list[bytes]:
    """What each id decodes to."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    are_bytes = {id_ for piece, id_ in enumerate(ids) if processor.is_byte(piece)}
    return [
        b"" if id_ in silent else bytes([int(name[3:5], 16)]) if id_ in are_bytes and BYTE.fullmatch(name)
        else name.replace(SPACE, " ").encode() for id_, name in enumerate(names)]
