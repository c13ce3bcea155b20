"""Text data: the splits that a recipe names, and strings turned into ids.

`source_ids` runs in the graph: training's evaluation and the SavedModel share it.
"""

import functools
import hashlib
import itertools
import logging

import numpy as np
import tensorflow as tf

from pipelines.alignments import align
from pipelines.audio import FrontEnd
from pipelines.encoding import in_parts
from pipelines.origins import INDEX, check_origins, expanded, files_of, origins_of
from pipelines.pairs import AnnotatedPair, DataError, EncodedPairs, Pair, Progress, Splits, tags_of, untagged, weight_of
from pipelines.reading import read_lines, read_pairs, split_sources
from pipelines.recordings import num_frames, read_manifest
from pipelines.records import read_splits
from pipelines.sources import obtain
from tfseq2seq.config import Data, DataSet, Origin
from tfseq2seq.structures import EOS, PAD, SPECIAL_TOKENS
from tfseq2seq.tokenizers import Tokenizer

__all__ = [
    "DataError", "EncodedPairs", "Splits", "encode_pairs", "load_splits", "read_lines", "read_pairs",
    "source_ids",
]

VALID_SHARE, MOST_VALID = 0.05, 2000  # held out of train where a data set brings no valid split

logger = logging.getLogger(__name__)


def load_splits(data: Data, progress: Progress | None = None) -> Splits:
    """The pairs of a recipe's `[data]`; relative paths are seen from the current folder.

    Where there is no valid split, one is taken out of train: about 5 %, at most 2000 sources, chosen by a
    hash of the source, so that equal sources stay on one side. Of several sets that is done where none brings one; what
    is chosen in one of them is held out in all.

    Args:
        data: names exactly one of `corpus`, `folder`, `train` or `sets`.
        progress: told (done, total) while a corpus is fetched.
    Raises:
        DataError: none or several of them are named, or what they name is missing or broken.
    """
    check_origins(data)
    loaded = [_load(origin, key, data, progress) for origin, key in origins_of(data)]
    if not data.sets:
        ((splits, where),) = loaded
        if data.alignments is not None:  # before pairs leave train, while line n is of pair n
            splits = splits._replace(train=align(splits.train, str(expanded(data.alignments))))
        return splits if splits.valid else _hold_out(splits, _held_out(splits, where), where)
    if not any(splits.valid for splits, _ in loaded):
        held_out = set[str]().union(*(_held_out(splits, where) for splits, where in loaded))
        loaded = [(_hold_out(splits, held_out, where), where) for splits, where in loaded]
    tagged = [
        [[_annotated(pair, each, number) for pair in pairs] for pairs in splits]
        for number, (each, (splits, _)) in enumerate(zip(data.sets, loaded))]
    return Splits(*(list(itertools.chain.from_iterable(parts)) for parts in zip(*tagged)))


def _annotated(pair: Pair, of_set: DataSet, number: int) -> AnnotatedPair:
    tags = [*of_set.source_tags, *tags_of(pair)]
    source, target = untagged(pair)
    return AnnotatedPair(" ".join([*tags, source]), target, weight_of(pair) * of_set.weight, number, tags=tags)


def _load(origin: Origin, key: str, data: Data, progress: Progress | None) -> tuple[Splits, str]:
    """The splits of one origin as they are, and where they are from."""
    if origin.corpus is not None:
        return obtain(origin.corpus, origin.pair, progress), origin.corpus
    if origin.folder is not None and (expanded(origin.folder) / INDEX).exists():
        return read_splits(expanded(origin.folder), data.source_separator), origin.folder
    read = read_manifest if data.audio is not None else functools.partial(read_pairs, separator=data.source_separator)
    splits = Splits(*([] if paths is None else read(list(map(str, paths))) for paths in files_of(origin)))
    return splits, origin.folder or f"{key}.train"


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
        self.of_one_source, self._separator = tokenizer, separator

    @property
    def vocabulary_size(self) -> int:
        return self.of_one_source.vocabulary_size

    def vocabulary(self) -> list[str]:
        return self.of_one_source.vocabulary()

    def save(self, folder):
        """Writes the tokenizer of a single source; the separator is the recipe's."""
        self.of_one_source.save(folder)

    def split(self, line: str) -> list[str]:
        """The sources of one line."""
        return split_sources(line, self._separator)

    def pieces(self, strings):
        return self._each(strings, self.of_one_source.pieces, "")

    def labels(self, strings):
        return self._each(strings, self.of_one_source.labels, SPECIAL_TOKENS[EOS])

    def _encode(self, strings):
        return self._each(strings, self.of_one_source.encode, EOS)

    def _each(self, strings, cut, end):
        """Cuts every source of every string, and joins what comes of them with the end between."""
        sources = tf.strings.split(strings, self._separator)  # [N, (sources)], at least one each
        parts = cut(tf.strings.strip(sources.flat_values))  # [all sources, (S)]
        parts = tf.concat([parts, tf.fill(tf.stack([parts.nrows(), 1]), end)], axis=1)
        return sources.with_flat_values(parts).merge_dims(1, 2)[:, :-1]

    def _decode(self, ids):
        return self.of_one_source.decode(ids)


def read_source(
    strings: tf.Tensor, reader: Tokenizer | FrontEnd, max_length: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sources as a model reads them, in the graph: as `source_ids`, or features of WAV files as `FrontEnd.read`."""
    if isinstance(reader, FrontEnd):
        return reader.read(strings, max_length)
    return source_ids(strings, reader, max_length)


def source_ids(
    strings: tf.Tensor, tokenizer: Tokenizer, max_length: int, beside: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Strings to ids ended by the tokenizer's `end`, usually EOS, in the graph.

    Args:
        strings: [N] string; N = 0 works.
        tokenizer: of the side that the strings are on.
        max_length: tokens, end token included, at least 1; a longer row keeps its first `max_length - 1`
            tokens and gets its EOS after them.
        beside: where the strings are targets, [N] string, their sources: what tokens may be copied from.
    Returns:
        ids [N, S] int32, padded by PAD, with S the longest row and at least 1; cut [N] bool, True on
        rows that were longer.
    """
    ids = tokenizer.encode(strings) if beside is None else tokenizer.encode_beside(
        strings, tokenizer.copies(beside))  # [N, (S)]
    cut = ids.row_lengths() > max_length - 1
    ids = tokenizer.cut(ids, max_length - 1)
    num_rows = ids.nrows()
    ids = tf.concat([ids, tf.fill(tf.stack([num_rows, 1]), tokenizer.end)], axis=1)
    longest = tf.maximum(tf.reduce_max(ids.row_lengths()), 1)  # the maximum of no rows is the least int64
    return ids.to_tensor(PAD, shape=tf.stack([num_rows, longest])), cut


def encode_pairs(
    pairs: list[Pair], source_tokenizer: Tokenizer | FrontEnd, target_tokenizer: Tokenizer,
) -> EncodedPairs:
    """Pairs to flat ids with offsets, without BOS and EOS; nothing is cut.

    A recording has an id, PAD, for each frame but the last, which so stands for the end.
    """
    lines = [source for source, _ in pairs]
    if isinstance(source_tokenizer, FrontEnd):
        offsets = np.cumsum([0, *(num_frames(source_tokenizer, path) - 1 for path in lines)], dtype=np.int64)
        sources = np.full(offsets[-1], PAD, np.int32), offsets
    else:
        sources = _encode(lines, source_tokenizer)
    targets = _encode([target for _, target in pairs], target_tokenizer, lines)
    return EncodedPairs(*sources, *targets, getattr(source_tokenizer, "end", None))


def _encode(
    strings: list[str], tokenizer: Tokenizer, beside: list[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    flat, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    def encode(strings: tf.Tensor, *sources: tf.Tensor) -> tf.RaggedTensor:
        return tokenizer.encode_beside(strings, tokenizer.copies(*sources)) if sources else tokenizer.encode(strings)

    for ids in in_parts(encode, strings, *([] if beside is None else [beside])):
        flat.append(ids.flat_values.numpy())
        lengths.append(ids.row_lengths().numpy())
    return np.concatenate(flat), np.cumsum(np.concatenate(lengths))


def _held_out(splits: Splits, where: str) -> set[str]:
    """The train sources that are to be the valid split's."""
    sources = {untagged(pair)[0] for pair in splits.train}
    if len(sources) < 2:
        raise DataError(
            f"{where}: a valid split cannot be taken out of fewer than 2 distinct sources; name a valid "
            f"file. Received: {len(sources)}.")
    return set(sorted(sources, key=_hash)[: min(max(1, round(VALID_SHARE * len(sources))), MOST_VALID)])


def _hold_out(splits: Splits, sources: set[str], where: str) -> Splits:
    """The splits with these sources in valid in the place of train."""
    valid = [pair for pair in splits.train if untagged(pair)[0] in sources]
    train = [pair for pair in splits.train if untagged(pair)[0] not in sources]
    logger.warning(
        "%s: there is no valid split, so %s of %s pairs were taken out of train for it.",
        where, f"{len(valid):,}", f"{len(splits.train):,}")
    return Splits(train, valid, splits.test)


def _hash(source: str) -> bytes:
    return hashlib.sha256(source.encode()).digest()
