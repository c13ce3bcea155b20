"""What all tokenizers share: the interface, cleaning, and files that are never half written."""

import abc
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import tensorflow as tf

from tfseq2seq.structures import BOS, EOS, PAD
from tfseq2seq.tokenizers.sampling import SPACE

UNKNOWN_TEXT = "⁇"  # what an unknown token decodes to
CLEAN_BATCH = 8192  # strings cleaned at once before training


class TokenizerConfig(Protocol):
    """The part of `tfseq2seq.config.Tokenizer` that is read here."""

    @property
    def kind(self) -> str: ...
    @property
    def vocabulary_size(self) -> int: ...
    @property
    def case(self) -> str: ...


class Cleaner(tf.Module):
    """Makes strings valid UTF-8 of one case.

    Letters are mapped one to one (the simple case mapping of Unicode): a letter whose other case is
    several letters stays, as "ß" in upper case, and "Σ" becomes "σ" at the end of a word too.
    `tf.strings.lower` and `upper` are not used: they cut a string at its first NUL, and they follow the
    locale of the process ("I" becomes "ı" under tr_TR), so a server could differ from the training.

    Args:
        case: "keep", "lower" or "upper".
    Raises:
        ValueError: `case` is none of these.
    """

    def __init__(self, case: str):
        super().__init__()
        if case not in ("keep", "lower", "upper"):
            raise ValueError(f"A tokenizer needs case 'keep', 'lower' or 'upper'. Received: case={case!r}.")
        self.case = case
        if case != "keep":
            self._letters = build_table(_case_pairs(case), tf.int32, default=-1)

    def __call__(self, strings: tf.Tensor) -> tf.Tensor:
        """Cleans [N] strings into [N] strings."""
        if self.case == "keep":
            return tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8", errors="replace")
        points = tf.strings.unicode_decode(strings, "UTF-8", errors="replace")  # [N, (characters)]
        mapped = self._letters.lookup(points.flat_values)
        flat = tf.where(mapped < 0, points.flat_values, mapped)
        return tf.strings.unicode_encode(points.with_flat_values(flat), "UTF-8")


class Tokenizer(tf.Module, abc.ABC):
    """What all kinds share; made by `train_tokenizer` or `load_tokenizer`.

    Keep it as an attribute of a `tf.Module` that is exported, so that its tables go along.

    Attributes:
        kind: "unigram", "bpe", "characters", "bytes" or "words".
        case: "keep", "lower" or "upper", applied before encoding.
        vocabulary_size: number of ids, special tokens included; at most what was asked for.
        before, after: ids that `encode` puts around those of every string; none, but where another system's are framed.
        end: the id that ends a row of a source, after what `encode` gives.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    end: int = EOS

    file: str | None = None  # name of the file beside tokenizer.json, for the kinds that learn something

    def __init__(self, kind: str, case: str):
        super().__init__()
        self.kind = kind
        self.case = case
        self._clean = Cleaner(case)

    def content(self) -> bytes:
        """The bytes of the file beside tokenizer.json."""
        return b""

    @property
    @abc.abstractmethod
    def vocabulary_size(self) -> int:
        """Number of ids, special ones included."""

    @abc.abstractmethod
    def vocabulary(self) -> list[str]:
        """The tokens in the order of their ids; bytes are written "<0x00>" to "<0xFF>"."""

    def encode(self, strings: tf.Tensor) -> tf.RaggedTensor:
        """Turns strings into ids, without BOS and EOS.

        Args:
            strings: [N] string, of any length, N = 0 included.
        Returns:
            [N, (S)] int32 ragged; a row has no id where its string is empty.
        Raises:
            ValueError: `strings` is not of rank 1.
        """
        strings = tf.convert_to_tensor(strings, tf.string)
        if strings.shape.rank not in (None, 1):
            raise ValueError(
                "Tokenizer.encode needs strings of shape [N]; for one string pass strings[None]. "
                f"Received: shape {tuple(strings.shape)}.")
        return self._encode(strings)

    def pieces(self, strings: tf.Tensor) -> tf.RaggedTensor:
        """The tokens of strings [N] as text [N, (S)], one for each id of `encode`; unknown ones as they stand there."""
        ids = self.encode(strings)
        names = tf.constant([name.replace("▁", "") for name in self.vocabulary()])
        return ids.with_flat_values(tf.gather(names, ids.flat_values))

    def surfaces(self, strings: tf.Tensor) -> tf.RaggedTensor:
        """As `pieces`, with the white space that belongs to a token or is one.

        Joined they are the clean text, but for a space in front that some kinds add, and for white space between
        words.
        """
        return self.pieces(strings)

    def labels(self, strings: tf.Tensor) -> tf.RaggedTensor:
        """As `pieces`, for the eye: spaces as "▁", bytes as "<0x00>". No label is empty or holds a space."""
        ids = self.encode(strings)
        return ids.with_flat_values(self.names(ids.flat_values))

    def names(self, ids: tf.Tensor) -> tf.Tensor:
        """The tokens of ids [...] as labels of the same shape; special ones as "</s>"."""
        return tf.gather(self._names_by_id, ids)

    def names_beside(self, ids: tf.Tensor, copies: tf.Tensor | None) -> tf.Tensor:
        """As `names`, of ids [N, ...] for sources whose `copies` are known."""
        return self.names(ids)

    @functools.cached_property
    def _names_by_id(self) -> tf.Tensor:
        with tf.init_scope():  # one tensor for all graphs
            return tf.constant([name.replace(" ", SPACE) for name in self.vocabulary()])  # [V]

    def decode(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """Turns ids into strings.

        The first EOS and all after it is left out, and so are PAD and BOS. UNK gives "⁇". Bytes that form
        no valid UTF-8 become U+FFFD with unigram and bpe and stay as they are with bytes.

        Args:
            ids: [N, T] int, dense or ragged, each below `vocabulary_size`.
        Returns:
            [N] string.
        Raises:
            ValueError: `ids` is not of rank 2.
            tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError: an id is not in the vocabulary.
        """
        return self._decode(self.before_end(ids))

    @staticmethod
    def before_end(ids: tf.Tensor | tf.RaggedTensor) -> tf.RaggedTensor:
        """[N, (T)] int32, the ids before the first EOS, without PAD and BOS. Raises as `decode`."""
        if isinstance(ids, tf.RaggedTensor):
            ids = ids.to_tensor(PAD)
        ids = tf.cast(ids, tf.int32)
        if ids.shape.rank not in (None, 2):
            raise ValueError(
                "Tokenizer.decode needs ids of shape [N, T]; for one sentence pass ids[None]. "
                f"Received: shape {tuple(ids.shape)}.")
        ended = tf.cumsum(tf.cast(ids == EOS, tf.int32), axis=1) > 0
        return tf.ragged.boolean_mask(ids, ~ended & (ids != PAD) & (ids != BOS))

    def cut(self, ids: tf.RaggedTensor, most: int) -> tf.RaggedTensor:
        """The first `most` ids of each row that `encode` gave; `after` stays at its end."""
        if not self.after:
            return ids[:, :most]
        kept = ids[:, : -len(self.after)][:, : max(most - len(self.after), 0)]
        return tf.concat([kept, ids[:, -len(self.after) :]], 1)

    def copies(self, sources: tf.Tensor) -> tf.Tensor | None:
        """What ids beyond the vocabulary stand for beside each source, see `CopyingTokenizer`; others have none.

        Args:
            sources: [N] string.
        Returns:
            [N, slots] string, "" where there is nothing, or None.
        """
        return None

    def encode_beside(self, strings: tf.Tensor, copies: tf.Tensor | None) -> tf.RaggedTensor:
        """As `encode`, of [N] targets whose sources' `copies` are known."""
        return self.encode(strings)

    def decode_beside(self, ids: tf.Tensor | tf.RaggedTensor, copies: tf.Tensor | None) -> tf.Tensor:
        """As `decode`, of [N, T] ids for sources whose `copies` are known."""
        return self.decode(ids)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes all that `load_tokenizer` needs into `folder`, which is made if it is missing.

        Each file is written aside and renamed, tokenizer.json last: a crash leaves no half file.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = self.content()
        if self.file is not None:
            _write(folder / self.file, content)
        about = {
            "kind": self.kind,
            "case": self.case,
            "vocabulary_size": self.vocabulary_size,
            "file": self.file,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        _write(folder / "tokenizer.json", (json.dumps(about, indent=2) + "\n").encode())

    @abc.abstractmethod
    def _encode(self, strings: tf.Tensor) -> tf.RaggedTensor:
        """[N] clean strings to ids [N, (T)]."""

    @abc.abstractmethod
    def _decode(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """Ids [N, (T)] without special ones to [N] strings."""


class LearnedTokenizer(Tokenizer):
    """A tokenizer that is made from text, or from the file it left."""

    @classmethod
    @abc.abstractmethod
    def train(cls, config: TokenizerConfig, strings: Iterable[str]) -> Self:
        """Learns from strings."""

    @classmethod
    @abc.abstractmethod
    def from_content(cls, kind: str, case: str, content: bytes) -> Self:
        """Builds the tokenizer from its kind, its case and the bytes of its file."""


def cleaned(case: str, strings: Iterable[str]) -> Iterator[bytes]:
    """Yields the strings as the graph will see them, in UTF-8, so that training and use agree."""
    clean = Cleaner(case)
    batch: list[bytes] = []
    for string in strings:
        batch.append(string.encode("utf-8", "surrogatepass"))  # a lone surrogate is cleaned into U+FFFD
        if len(batch) == CLEAN_BATCH:
            yield from clean(tf.constant(batch)).numpy()
            batch = []
    if batch:
        yield from clean(tf.constant(batch)).numpy()


def nothing_to_train_on(config: TokenizerConfig) -> ValueError:
    """The error of a kind that found nothing in its training strings."""
    return ValueError(
        f"A {config.kind} tokenizer needs strings to be trained on; give it the training text of its side, "
        "or use kind 'bytes', which learns nothing. Received: no string with anything in it.")


def build_table(pairs: dict[Any, int], key_dtype: tf.DType, default: int) -> tf.lookup.StaticHashTable:
    """A table in the graph from the keys of `pairs` to int32 values; other keys give `default`."""
    keys, values = tf.constant(list(pairs), key_dtype), tf.constant(list(pairs.values()), tf.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), default)


def _case_pairs(case: str) -> dict[int, int]:
    pairs = {}
    for point in (*range(0xD800), *range(0xE000, 0x110000)):  # all but the surrogates
        letter = chr(point)
        other = letter.lower() if case == "lower" else letter.upper()
        if other != letter and len(other) == 1:
            pairs[point] = ord(other)
    if case == "lower":
        pairs[0x130] = ord("i")  # Unicode's simple mapping of "İ"; Python has the full one only
    return pairs


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
