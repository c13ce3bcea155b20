"""Word alignments of the train pairs: read beside them, and brought from words to tokens batch by batch."""

import re
from collections.abc import Sequence

import numpy as np

from pipelines.encoding import in_parts
from pipelines.pairs import AnnotatedPair, DataError, Pair, alignment_of, tags_of, weight_of
from pipelines.reading import read_lines
from tfseq2seq.tokenizers import Tokenizer

NO_WORD = -1  # of white space and end tokens

_LINK = re.compile(r"\d+-\d+")
_WHITE = [chr(point).encode() for point in range(0x3001) if chr(point).isspace()]  # what `str.split` splits at
_LONG_WHITE = re.compile(b"|".join(map(re.escape, (each for each in _WHITE if len(each) > 1))))
_IS_WHITE = np.zeros(256, bool)
_IS_WHITE[[each[0] for each in _WHITE if len(each) == 1]] = True


def align(pairs: list[Pair], path: str) -> list[Pair]:
    """The pairs, each with its line of an alignment file.

    Args:
        pairs: N of them.
        path: N lines in Pharaoh's format, "0-0 1-2", as fast_align and eflomal write them, plain or .gz: word of the
            source - word of the target, counted from 0; words are what stands between white space. A line without
            links is empty.
    Raises:
        DataError: the file is missing or broken, has more or fewer lines, or names words that are not there.
    """
    lines = read_lines(path)
    if len(lines) != len(pairs):
        raise DataError(
            f"{path}: data.alignments needs one line for each train pair, an empty one where nothing is aligned. "
            f"Received: {len(lines):,} lines for {len(pairs):,} pairs.")
    for number, (pair, line) in enumerate(zip(pairs, lines, strict=True), start=1):
        if tags_of(pair):
            raise DataError(
                f"{path}:{number}: data.alignments needs pairs without tags, which would be words of the source. "
                f"Received: {', '.join(tags_of(pair))}.")
        source, target = pair
        sizes = len(source.split()), len(target.split())
        for link in line.split():
            if not _LINK.fullmatch(link):
                raise DataError(
                    f"{path}:{number}: data.alignments needs links as 0-0 1-2, source word - target word. "
                    f"Received: {link!r}.")
            if any(int(place) >= size for place, size in zip(link.split("-"), sizes, strict=True)):
                raise DataError(
                    f"{path}:{number}: a link names a word that is not there; words are counted from 0, the source's "
                    f"come first, and line n belongs to train pair n. Received: {link}, where the source has "
                    f"{sizes[0]} and the target {sizes[1]} words.")
    return [
        AnnotatedPair(*pair, weight=weight_of(pair), alignment=line) for pair, line in zip(pairs, lines, strict=True)]


def word_numbers(strings: Sequence[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Which word each token belongs to, from 0 in each string; words are what stands between white space.

    A token that reaches into several words belongs to the first; one of white space alone to none, `NO_WORD`.

    Args:
        strings: N strings.
        tokenizer: of their side.
    Returns:
        [sum of lengths] int32, for each token of `encode`, laid end to end, and [N + 1] int64, where strings begin.
    """
    flat, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for surfaces in in_parts(tokenizer.surfaces, strings):
        lengths.append(surfaces.row_lengths().numpy())
        if lengths[-1].any():
            flat.append(_number(surfaces.flat_values.numpy().tolist(), surfaces.row_splits.numpy()))
    return np.concatenate(flat), np.cumsum(np.concatenate(lengths))


def _number(surfaces: list[bytes], splits: np.ndarray) -> np.ndarray:
    """[tokens] int32 from the tokens of all rows and where rows begin and end among them."""
    text = _LONG_WHITE.sub(lambda found: b" " * len(found[0]), b"".join(surfaces))
    starts = np.cumsum([0, *map(len, surfaces)])  # [tokens + 1], in bytes
    white = _IS_WHITE[np.frombuffer(text, np.uint8)]  # [bytes]
    after_white = np.append(True, white[:-1])
    rows = starts[splits]  # [N + 1], in bytes
    after_white[rows[rows < len(text)]] = True
    begun = np.cumsum(~white & after_white)  # [bytes], words begun in all rows
    before = np.append(0, begun)[rows[:-1]]  # [N], in the rows before
    number = np.where(white, np.iinfo(np.int64).max, begun - 1 - np.repeat(before, np.diff(rows)))
    first = np.minimum.reduceat(number, starts[:-1])  # no token is empty
    return np.where(first == np.iinfo(np.int64).max, NO_WORD, first).astype(np.int32)


class Alignments:
    """Which source tokens each target token comes from.

    A target token's distribution is uniform over the source tokens of all words that its word is aligned with (Chen et
    al., 2016, arXiv:1607.01628, who normalise the alignments of a target word), and 0 where there are none.

    Args:
        pairs: N of them, each an `AnnotatedPair` with an alignment.
        source_tokenizer, target_tokenizer: of the two sides.
    Raises:
        DataError: one of them knows no alignment.
    """

    def __init__(self, pairs: Sequence[Pair], source_tokenizer: Tokenizer, target_tokenizer: Tokenizer):
        links = [found.split() for found in map(alignment_of, pairs) if found is not None]
        if len(links) < len(pairs):
            raise DataError(
                "Alignments needs pairs that were read with data.alignments. Received: "
                f"{len(pairs) - len(links):,} of {len(pairs):,} pairs without.")
        self._source = word_numbers([source for source, _ in pairs], source_tokenizer)
        self._target = word_numbers([target for _, target in pairs], target_tokenizer)
        places = " ".join(" ".join(row) for row in links).replace("-", " ").split()
        self._links = np.array(places, np.int32).reshape(-1, 2)  # [links of all pairs, 2], source and target
        self._splits = np.cumsum([0, *map(len, links)])

    def distributions(self, rows: np.ndarray, source_length: int, target_length: int) -> np.ndarray:
        """For each label of a batch what its attention should be.

        Args:
            rows: [R] int, numbers of pairs, below 0 for a row of padding.
            source_length: S, steps of the source, end token included.
            target_length: T, labels, end token included; it is aligned with nothing.
        Returns:
            [R, T, S] float32; each [r, t] sums to 1 or is 0.
        """
        source, target = (np.full([len(rows), length], NO_WORD) for length in (source_length, target_length))
        for numbers, (flat, splits) in ((source, self._source), (target, self._target)):
            for place, row in enumerate(rows):
                if row >= 0:
                    of_row = flat[splits[row] : splits[row + 1]]
                    numbers[place, : len(of_row)] = of_row
        of_rows = [self._links[self._splits[row] : self._splits[row + 1]] for row in np.maximum(rows, 0)]
        # The last word of each axis stands for NO_WORD = -1. A word may be linked and have no token of its own.
        words = [max(links.max(initial=0) for links in of_rows), source.max(initial=0), target.max(initial=0)]
        aligned = np.zeros([len(rows), max(words) + 2, max(words) + 2], bool)
        for place, (row, links) in enumerate(zip(rows, of_rows, strict=True)):
            if row >= 0:
                aligned[place, links[:, 1], links[:, 0]] = True
        found = aligned[np.arange(len(rows))[:, None, None], target[:, :, None], source[:, None]]  # [R, T, S]
        return found / np.maximum(found.sum(-1, keepdims=True), 1).astype(np.float32)
