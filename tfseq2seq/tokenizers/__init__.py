"""Text to ids and back, inside the graph: sentencepiece, characters, bytes and words.

Every tokenizer is a `tf.Module` of plain TensorFlow and TensorFlow Text ops, so that the same object
serves the input pipeline, the evaluation and the SavedModel, which carries it along and needs no file.
Ids begin with PAD=0, UNK=1, BOS=2, EOS=3. `encode` adds neither BOS nor EOS, and no text, whatever it
says, is ever encoded as PAD, BOS or EOS.

What comes back of `decode(encode(x))`:
    unigram, bpe: exactly x, for any valid UTF-8.
    bytes: exactly x, for any bytes.
    characters: x, with "⁇" for each code point outside the vocabulary.
    words: x with one space for each run of white space, none at the ends, "⁇" for each unknown word.

Invalid UTF-8 is read as if each faulty part were U+FFFD, by every kind but bytes, which keeps it.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tfseq2seq.structures import SPECIAL_TOKENS
from tfseq2seq.tokenizers.base import LearnedTokenizer, Tokenizer, TokenizerConfig
from tfseq2seq.tokenizers.byte_level import ByteLevelTokenizer
from tfseq2seq.tokenizers.copying import CopyingTokenizer
from tfseq2seq.tokenizers.mapped import MappedTokenizer
from tfseq2seq.tokenizers.simple import ByteTokenizer, CharacterTokenizer, WordTokenizer
from tfseq2seq.tokenizers.subwords import SentencepieceTokenizer

__all__ = [
    "KINDS", "ByteLevelTokenizer", "CopyingTokenizer", "MappedTokenizer", "SentencepieceTokenizer", "Tokenizer",
    "TokenizerConfig", "load_tokenizer", "train_tokenizer"]

KINDS: dict[str, type[LearnedTokenizer]] = {
    "unigram": SentencepieceTokenizer,
    "bpe": SentencepieceTokenizer,
    "characters": CharacterTokenizer,
    "bytes": ByteTokenizer,
    "words": WordTokenizer,
}
# Of other systems: they come with an imported run, and none is trained.
IMPORTED_KINDS: dict[str, type[MappedTokenizer | ByteLevelTokenizer]] = {
    "mapped": MappedTokenizer, "byte_level": ByteLevelTokenizer}


def train_tokenizer(config: TokenizerConfig, strings: Iterable[str], symbols: Sequence[str] = ()) -> Tokenizer:
    """Learns a vocabulary.

    The same strings in the same order give the same tokenizer.

    Args:
        config: its `kind`, `vocabulary_size` (an upper bound: fewer tokens are learned where the strings
            hold no more; ignored for bytes) and `case`.
        strings: the training text, read once, one sentence a string; not read for bytes.
        symbols: strings that are one token, as "<2de>": of subwords wherever they stand, of words where white space
            is around them; other kinds cut them as any text.
    Raises:
        ValueError: the kind or the case is unknown, there is nothing to train on, or `vocabulary_size`
            is too small for the kind or the symbols, or one of these is a special token.
    """
    if config.vocabulary_size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"A tokenizer needs a vocabulary_size above {len(SPECIAL_TOKENS)}, the number of special tokens. "
            f"Received: vocabulary_size={config.vocabulary_size}.")
    if isinstance(strings, str):
        raise ValueError(
            "train_tokenizer needs an iterable of strings; for one string pass [string]. "
            f"Received: {strings[:40]!r}.")
    special = sorted({*symbols} & {*SPECIAL_TOKENS})
    if special:
        raise ValueError(
            f"train_tokenizer needs symbols other than the special tokens {', '.join(SPECIAL_TOKENS)}. "
            f"Received: {', '.join(special)}.")
    kind = _kind(config.kind)
    if symbols and issubclass(kind, SentencepieceTokenizer | WordTokenizer):
        return kind.train(config, strings, symbols)
    return kind.train(config, strings)


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Reads what `Tokenizer.save` wrote.

    Raises:
        ValueError: the folder holds no tokenizer, or one that is damaged.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "tokenizer.json").read_bytes())
        kind, case, file, expected = (about[key] for key in ("kind", "case", "file", "sha256"))
        content = b"" if file is None else (folder / file).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            "load_tokenizer needs a folder written by Tokenizer.save, with tokenizer.json and the file that "
            f"it names. Received: {str(folder)!r} ({type(error).__name__}: {error}).") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(
            f"{folder / file} is not the file that tokenizer.json was written with: it was changed, or a "
            "save was interrupted. Save the tokenizer again. Received: another SHA-256.")
    if kind in IMPORTED_KINDS:
        return IMPORTED_KINDS[kind].from_content(kind, case, content)
    return _kind(kind).from_content(kind, case, content)


def _kind(kind: str) -> type[LearnedTokenizer]:
    if kind not in KINDS:
        close = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"A tokenizer needs one of the kinds {', '.join(KINDS)}.{hint} Received: kind={kind!r}.")
    return KINDS[kind]
