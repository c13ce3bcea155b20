"""Looks at pairs before a model does: what is broken, doubled or leaked, and how long things are."""

import collections
import dataclasses
import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.pairs import Pair, Splits, set_of, untagged
from pipelines.reading import split_sources
from pipelines.tasks.base import Task
from pipelines.text import encode_pairs
from tfseq2seq.config import Data
from tfseq2seq.structures import UNK
from tfseq2seq.tokenizers import Tokenizer

EMPTY, CONTROL, RATIO, LEAKED = "empty", "control characters", "badly-ratioed", "leaked"
PERCENTILES = (50, 90, 99, 100)
SLACK = 5  # added to both lengths of a ratio, so that short pairs may differ more
# Tab, line feed and carriage return are white space; U+FFFD is what a failed decoding leaves.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        splits: for each split its counts: "pairs", "empty", "control characters", "badly-ratioed",
            "duplicated" (equal pairs after the first), and with tokenizers "over-long".
        leakage: for each held-out split how many of its pairs have a source, or both sides, in train, tags aside.
        lengths: for each split and side the percentiles of its lengths.
        unit: what the lengths count: "tokens, end token included" or "characters".
        unknown: for each split and side the share of tokens outside the vocabulary; empty without
            tokenizers.
    """

    splits: dict[str, dict[str, int]]
    leakage: dict[str, dict[str, int]]
    lengths: dict[str, dict[str, dict[str, int]]]
    unit: str
    unknown: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return dataclasses.asdict(self)

    def render(self) -> RenderableType:
        """All of it as tables for the terminal; what deserves a look is yellow."""
        counts = Table("", *self.splits)
        for what in next(iter(self.splits.values()), ()):
            counts.add_row(what, *(_cell(found[what], what != "pairs") for found in self.splits.values()))
        for what in ("source", "pair"):
            leaks = [self.leakage[name][what] if name in self.leakage else None for name in self.splits]
            counts.add_row(f"{what} in train", *("" if leak is None else _cell(leak, True) for leak in leaks))
        lengths = Table(
            "split", "side", *(f"{percent} %" for percent in PERCENTILES),
            *(["unknown"] if self.unknown else []), title=f"lengths in {self.unit}", title_justify="left")
        for name, sides in self.lengths.items():
            for side, percentiles in sides.items():
                unknown = [f"{self.unknown[name][side]:.2%}"] if self.unknown else []
                lengths.add_row(name, side, *(f"{value:,}" for value in percentiles.values()), *unknown)
        return Group(counts, lengths)


def check(
    splits: Splits, task: Task, data: Data, source_tokenizer: Tokenizer | None = None,
    target_tokenizer: Tokenizer | None = None,
) -> Report:
    """Counts what is wrong with the pairs; changes nothing.

    Args:
        splits: the pairs.
        task: how lengths are measured, and what ratio is bad.
        data: whose `max_source_length` and `max_target_length` say what is over-long, and whose
            `source_separator` is no text.
        source_tokenizer, target_tokenizer: where both are given, lengths are in tokens, and over-long
            pairs and unknown tokens are counted.
    """
    separator = data.source_separator
    usual = usual_ratios(splits.train, task, separator)
    named = {name: pairs for name, pairs in splits._asdict().items() if pairs}
    counts = {name: _count(pairs, usual, task, separator) for name, pairs in named.items()}
    train_pairs = set(map(untagged, splits.train))
    train_sources = {source for source, _ in train_pairs}
    leakage = {
        name: {
            "source": sum(untagged(pair)[0] in train_sources for pair in pairs),
            "pair": sum(untagged(pair) in train_pairs for pair in pairs)}
        for name, pairs in named.items() if name != "train"}
    lengths: dict[str, dict[str, np.ndarray]] = {}
    if source_tokenizer is None or target_tokenizer is None:
        for name, pairs in named.items():
            source, target = np.array([[len(text) for text in _readable(pair, separator)] for pair in pairs]).T
            lengths[name] = {"source": source, "target": target}
        return Report(counts, leakage, _percentiles(lengths), "characters", {})
    unknown = {}
    for name, pairs in named.items():
        encoded = encode_pairs(pairs, source_tokenizer, target_tokenizer)
        source, target = np.diff(encoded.source_offsets) + 1, np.diff(encoded.target_offsets) + 1
        over_long = (source > data.max_source_length) | (target > data.max_target_length)
        counts[name]["over-long"] = int(over_long.sum())
        lengths[name] = {"source": source, "target": target}
        unknown[name] = {"source": _unknown(encoded.source_ids), "target": _unknown(encoded.target_ids)}
    return Report(counts, leakage, _percentiles(lengths), "tokens, end token included", unknown)


def filter_pairs(splits: Splits, task: Task, separator: str | None = None) -> tuple[Splits, dict[str, int]]:
    """Takes broken and leaked pairs out of train, and empty ones out of every split.

    A train pair is leaked when its source stands in valid or test, whatever its target and its tags are. Equal pairs
    stay.
    Over-long pairs stay too: `Batches` leaves them out.

    Args:
        splits: the pairs.
        task: how lengths are measured, and what ratio is bad.
        separator: of the sources of one line, which is no text; a pair is empty where all its sources are.
    Returns:
        What is left, and how many pairs were taken out by reason; a pair counts under the first of "empty",
        "control characters", "badly-ratioed" and "leaked" that it meets.
    """
    held_out = {untagged(pair)[0] for pairs in (splits.valid, splits.test) for pair in pairs}
    usual = usual_ratios(splits.train, task, separator)
    counts = dict.fromkeys((EMPTY, CONTROL, RATIO, LEAKED), 0)

    def keep(pair: Pair, reason: str | None) -> bool:
        if reason is not None:
            counts[reason] += 1
        return reason is None

    train = [
        pair for pair in splits.train
        if keep(pair, broken(pair, usual, task, separator) or (LEAKED if untagged(pair)[0] in held_out else None))]
    valid, test = (
        [pair for pair in pairs if keep(pair, EMPTY if is_empty(pair, separator) else None)]
        for pairs in (splits.valid, splits.test))
    return Splits(train, valid, test), counts


def _readable(pair: Pair, separator: str | None) -> Pair:
    """The pair with its sources side by side and no separator."""
    return pair if separator is None else (" ".join(split_sources(pair[0], separator)), pair[1])


def broken(pair: Pair, usual: Mapping[int, float], task: Task, separator: str | None = None) -> str | None:
    """Why a train pair is left out, but for leaks: the first of "empty", "control characters" and "badly-ratioed".

    Args:
        pair: as it was read.
        usual: see `usual_ratios`; of a set that is not there it is 1.
        task: what ratio is bad.
        separator: see `filter_pairs`.
    """
    if is_empty(pair, separator):
        return EMPTY
    if any(_CONTROL.search(text) for text in _readable(pair, separator)):
        return CONTROL
    middle = usual.get(set_of(pair), 1.0)
    is_usual = middle / task.max_ratio <= ratio(pair, task, separator) <= middle * task.max_ratio
    return None if is_usual else RATIO


def is_empty(pair: Pair, separator: str | None = None) -> bool:
    """Whether a side of the pair has no text."""
    return not all(text.strip() for text in _readable(pair, separator))


def ratio(pair: Pair, task: Task, separator: str | None = None) -> float:
    """Target length / source length, in what the task counts, with `SLACK` for short ones."""
    source, target = _readable(pair, separator)
    return (task.measure_target(target) + SLACK) / (task.measure_source(source) + SLACK)


def usual_ratios(train: Iterable[Pair], task: Task, separator: str | None = None) -> dict[int, float]:
    """The median of the ratios of each set's pairs that are not empty: it depends on the languages."""
    ratios: dict[int, list[float]] = collections.defaultdict(list)
    for pair in train:
        if not is_empty(pair, separator):
            ratios[set_of(pair)].append(ratio(pair, task, separator))
    return {number: statistics.median(found) for number, found in ratios.items()}


def _count(pairs: list[Pair], usual: Mapping[int, float], task: Task, separator: str | None) -> dict[str, int]:
    found = collections.Counter(broken(pair, usual, task, separator) for pair in pairs)
    return {
        "pairs": len(pairs), EMPTY: found[EMPTY], CONTROL: found[CONTROL], RATIO: found[RATIO],
        "duplicated": len(pairs) - len(set(pairs))}


def _percentiles(lengths: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, dict[str, int]]]:
    def of(values: np.ndarray) -> dict[str, int]:
        found = np.percentile(values, PERCENTILES, method="inverted_cdf")
        return {str(percent): int(value) for percent, value in zip(PERCENTILES, found)}

    return {name: {side: of(values) for side, values in sides.items()} for name, sides in lengths.items()}


def _unknown(ids: np.ndarray) -> float:
    return float((ids == UNK).mean()) if len(ids) else 0.0


def _cell(value: int, is_problem: bool) -> Text:
    return Text(f"{value:,}", style="yellow" if is_problem and value else "")
