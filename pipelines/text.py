"""Text data: the splits that a recipe names, and strings turned into ids.

`source_ids` runs in the graph: training's evaluation and the SavedModel share it.
"""

import hashlib
import logging
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.alignments import align
from pipelines.pairs import DataError, EncodedPairs, Pair, Progress, Splits
from pipelines.reading import find_split, read_lines, read_pairs
from pipelines.sources import obtain
from tfseq2seq.config import Data
from tfseq2seq.structures import EOS, PAD
from tfseq2seq.tokenizers import Tokenizer

__all__ = [
    "DataError", "EncodedPairs", "Splits", "encode_pairs", "load_splits", "read_lines", "read_pairs",
    "source_ids",
]

ENCODED_AT_ONCE = 16_384  # strings; bounds the memory of the ragged intermediates
VALID_SHARE, MOST_VALID = 0.05, 2000  # held out of train where a data set brings no valid split

logger = logging.getLogger(__name__)


def load_splits(data: Data, progress: Progress | None = None) -> Splits:
    """The pairs of a recipe's `[data]`; relative paths are seen from the current folder.

    Where there is no valid split, one is taken out of train: about 5 %, at most 2000 sources, chosen by a
    hash of the source, so that equal sources stay on one side.

    Args:
        data: names exactly one of `corpus`, `folder` or `train`.
        progress: told (done, total) while a corpus is fetched.
    Raises:
        DataError: none or several of them are named, or what they name is missing or broken.
    """
    named = [key for key in ("corpus", "folder", "train") if getattr(data, key) is not None]
    if len(named) != 1:
        raise DataError(
            "[data] needs exactly one of corpus (a data set known by name), folder (with train, valid and "
            f"test files) or train. Received: {', '.join(named) or 'none of them'}.")
    stray = [
        key for key, owner in (("pair", "corpus"), ("valid", "train"), ("test", "train"))
        if getattr(data, key) is not None and owner not in named]
    if stray:
        raise DataError(f"data.{stray[0]} has no meaning beside data.{named[0]}; leave it out.")
    if data.corpus is not None:
        splits, where = obtain(data.corpus, data.pair, progress), data.corpus
    elif data.folder is not None:
        splits, where = _load_folder(Path(data.folder).expanduser(), data.source_separator), data.folder
    else:
        splits, where = _load_files(data.train, data.valid, data.test, data.source_separator), "data.train"
    if data.alignments is not None:  # before pairs leave train, while line n is of pair n
        splits = splits._replace(train=align(splits.train, str(Path(data.alignments).expanduser())))
    return _with_valid(splits, where)


class SeveralSources(Tokenizer):
    """Cuts each string into its sources and encodes them one by one: [a.. EOS b.. EOS c..].

    The last EOS is missing, as in every tokenizer's ids; whoever ends the row ends the last source with it. White
    space around a source is stripped. Nothing of a separator becomes a token.

    Args:
        tokenizer: of a single source.
        separator: what stands between the sources of a string, as "|||"; it is looked for before the
            tokenizer changes case.
    """

    def __init__(self, tokenizer: Tokenizer, separator: str):
        super().__init__(tokenizer.kind, "keep")
        self._tokenizer, self._separator = tokenizer, separator

    @property
    def vocabulary_size(self) -> int:
        return self._tokenizer.vocabulary_size

    def vocabulary(self) -> list[str]:
        return self._tokenizer.vocabulary()

    def save(self, folder):
        """Writes the tokenizer of a single source; the separator is the recipe's."""
        self._tokenizer.save(folder)

    def pieces(self, strings):
        return self._each(strings, self._tokenizer.pieces, "")

    def _encode(self, strings):
        return self._each(strings, self._tokenizer.encode, EOS)

    def _each(self, strings, cut, end):
        """Cuts every source of every string, and joins what comes of them with the end between."""
        sources = tf.strings.split(strings, self._separator)  # [N, (sources)], at least one each
        parts = cut(tf.strings.strip(sources.flat_values))  # [all sources, (S)]
        parts = tf.concat([parts, tf.fill(tf.stack([parts.nrows(), 1]), end)], axis=1)
        return sources.with_flat_values(parts).merge_dims(1, 2)[:, :-1]

    def _decode(self, ids):
        return self._tokenizer.decode(ids)


def source_ids(strings: tf.Tensor, tokenizer: Tokenizer, max_length: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Strings to ids ended by EOS, in the graph.

    Args:
        strings: [N] string; N = 0 works.
        tokenizer: of the side that the strings are on.
        max_length: tokens, end token included, at least 1; a longer row keeps its first `max_length - 1`
            tokens and gets its EOS after them.
    Returns:
        ids [N, S] int32, padded by PAD, with S the longest row and at least 1; cut [N] bool, True on
        rows that were longer.
    """
    ids = tokenizer.encode(strings)  # [N, (S)]
    cut = ids.row_lengths() > max_length - 1
    ids = ids[:, : max_length - 1]
    num_rows = ids.nrows()
    ids = tf.concat([ids, tf.fill(tf.stack([num_rows, 1]), EOS)], axis=1)
    longest = tf.maximum(tf.reduce_max(ids.row_lengths()), 1)  # the maximum of no rows is the least int64
    return ids.to_tensor(PAD, shape=tf.stack([num_rows, longest])), cut


def encode_pairs(pairs: list[Pair], source_tokenizer: Tokenizer, target_tokenizer: Tokenizer) -> EncodedPairs:
    """Pairs to flat ids with offsets, without BOS and EOS; nothing is cut."""
    sources = _encode([source for source, _ in pairs], source_tokenizer)
    return EncodedPairs(*sources, *_encode([target for _, target in pairs], target_tokenizer))


def _encode(strings: list[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    flat, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for start in range(0, len(strings), ENCODED_AT_ONCE):
        ids = tokenizer.encode(tf.constant(strings[start : start + ENCODED_AT_ONCE]))
        flat.append(ids.flat_values.numpy())
        lengths.append(ids.row_lengths().numpy())
    return np.concatenate(flat), np.cumsum(np.concatenate(lengths))


def _load_folder(folder: Path, separator: str | None) -> Splits:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; data.folder needs one with train, valid and test files.")
    train, valid, test = (find_split(folder, name) for name in Splits._fields)
    if train is None:
        raise DataError(f"{folder}: holds no train.tsv or train.jsonl (or .gz of it).")
    return _load_files(train, valid, test, separator)


def _load_files(train, valid, test, separator: str | None) -> Splits:
    read = [[] if paths is None else read_pairs(_expanded(paths), separator) for paths in (train, valid, test)]
    return Splits(*read)


def _expanded(paths: str | list[str]) -> str | list[str]:
    if isinstance(paths, str):
        return str(Path(paths).expanduser())
    return [str(Path(path).expanduser()) for path in paths]


def _with_valid(splits: Splits, where: str) -> Splits:
    if splits.valid:
        return splits
    sources = {source for source, _ in splits.train}
    if len(sources) < 2:
        raise DataError(
            f"{where}: a valid split cannot be taken out of fewer than 2 distinct sources; name a valid "
            f"file. Received: {len(sources)}.")
    count = min(max(1, round(VALID_SHARE * len(sources))), MOST_VALID)
    held_out = set(sorted(sources, key=_hash)[:count])
    valid = [pair for pair in splits.train if pair[0] in held_out]
    train = [pair for pair in splits.train if pair[0] not in held_out]
    logger.warning(
        "%s: there is no valid split, so %s of %s pairs were taken out of train for it.",
        where, f"{len(valid):,}", f"{len(splits.train):,}")
    return Splits(train, valid, splits.test)


def _hash(source: str) -> bytes:
    return hashlib.sha256(source.encode()).digest()
