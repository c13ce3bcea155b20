"""From a recipe to data a model can train on, kept in the run's folder.

`runs/NAME/config.json` is the resolved recipe, `data/{train,valid,test}.jsonl.gz` the filtered pairs and
`tokenizers/{source,target}/` the vocabularies. All of it is made once; a second call reads it back.
"""

import dataclasses
import functools
import gzip
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.alignments import Alignments
from pipelines.audio import FrontEnd, load_front_end
from pipelines.batching import Batches
from pipelines.checking import Report, check, filter_pairs
from pipelines.folders import holds_run, refuse_another_config, refuse_no_run
from pipelines.frames import Frames, front_end_of, write_frames
from pipelines.pairs import AnnotatedPair, DataError, Pair, Splits, set_of, tags_of, weight_of
from pipelines.reading import split_sources, stream_lines
from pipelines.recordings import filter_durations
from pipelines.sides import SampledSide, Side, SubwordSampler
from pipelines.tasks import Task, find_task
from pipelines.text import SeveralSources, encode_pairs, load_splits
from tfseq2seq.config import Run, load_recipe, save_config
from tfseq2seq.tokenizers import CopyingTokenizer, Tokenizer, load_tokenizer, train_tokenizer

Pairs = list[Pair]
Progress = Callable[[str, float, float | None], None]

FRAMES = "frames"  # in the run's data folder, of recordings


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run's data.

    Attributes:
        run: the resolved recipe.
        task: what the recipe's task says.
        train, valid, test: (source, target) pairs; test may be empty.
        source_tokenizer, target_tokenizer: the same object where they are shared and a line is one source. Where
            sources are recordings the first is a `FrontEnd`.
        left_out: how many train pairs the filter took out, by reason.
        frames: features of the recordings of train and valid.
    """

    run: Run
    task: Task
    train: Pairs
    valid: Pairs
    test: Pairs
    source_tokenizer: Tokenizer | FrontEnd
    target_tokenizer: Tokenizer
    left_out: dict[str, int]
    frames: Frames | None = None


def prepare(run: Run, folder: Path, progress: Progress) -> Prepared:
    """Obtains, filters and splits the data and trains the tokenizers, or reads them back.

    Args:
        run: the recipe.
        folder: the run's folder, made where it is missing.
        progress: told (stage, done, total).
    Raises:
        ConfigError: `folder` holds a run of another recipe.
        DataError: the data are missing or broken.
        OSError: `folder` cannot be written.
    """
    task = find_task(run.task)
    if holds_run(folder):
        refuse_another_config(run, folder)
        prepared = dataclasses.replace(load_prepared(folder), run=run)
        _refuse_more_sources(run, Splits(prepared.train, prepared.valid, prepared.test))
        save_config(run, folder / "config.json")
        return prepared
    splits = _load(run, progress)
    left_out: dict[str, int] = {}
    if run.data.filter:
        progress("filtering", 0, None)
        splits, left_out = filter_pairs(splits, task, run.data.source_separator)
    audio = run.data.audio
    if audio is not None:
        progress("measuring recordings", 0, None)
        train, count = filter_durations(splits.train, audio.min_duration, audio.max_duration)
        splits, left_out = splits._replace(train=train), {**left_out, "too short or too long": count}
    for name in ("train", "valid"):
        if not getattr(splits, name):
            taken = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
            raise DataError(
                f"training needs {name} pairs, and none are left. Received: {len(splits.train):,} train and "
                f"{len(splits.valid):,} valid pairs" + (f"; taken out of train: {taken}." if taken else "."))
    temporary = folder.with_name(f".{folder.name}.preparing")  # of a run that was killed, if it exists
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write_splits(temporary, splits, left_out)
        progress("training the tokenizers", 0, None)
        _train_tokenizers(run, splits, temporary, progress)
        save_config(run, temporary / "config.json")
        folder.mkdir(parents=True, exist_ok=True)
        # config.json comes last: where it stands, the rest is whole.
        for name in ("data", "tokenizers", "config.json"):
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            os.replace(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_prepared(folder)


def write_splits(folder: Path, splits: Splits, left_out: dict[str, int]) -> None:
    """Writes the pairs into a run's folder, with how many were left out, by reason."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, pairs in splits._asdict().items():
        _write_pairs(folder / "data" / f"{name}.jsonl.gz", pairs)
    (folder / "data" / "left-out.json").write_text(json.dumps(left_out), encoding="utf-8")


def load_prepared(folder: Path) -> Prepared:
    """Reads a prepared run. Raises ConfigError where `folder` holds none."""
    refuse_no_run(folder)
    run = load_recipe(folder / "config.json")
    is_speech, frames = run.data.audio is not None, None
    source = (load_front_end if is_speech else load_tokenizer)(folder / "tokenizers" / "source")
    if isinstance(source, FrontEnd):
        frames = Frames(folder / "data" / FRAMES, source)
    if run.model.copying:
        source = CopyingTokenizer(source, run.model.copy_slots)
    target = source if run.data.share_tokenizer else load_tokenizer(folder / "tokenizers" / "target")
    train, valid, test = (_read_pairs(folder / "data" / f"{name}.jsonl.gz") for name in Splits._fields)
    left_out = json.loads((folder / "data" / "left-out.json").read_text(encoding="utf-8"))
    return Prepared(run, find_task(run.task), train, valid, test, _cutting(source, run), target, left_out, frames)


def make_batches(
    prepared: Prepared, pairs: Pairs, replicas: int, for_training: bool = False, progress: Progress = lambda *_: None,
) -> Batches:
    """Batches of some pairs of a run.

    Args:
        prepared: the run.
        pairs: as many of a split as are wanted.
        replicas: see `Batches`.
        for_training: whether weights, rates, subwords drawn anew and alignments are as the recipe says; else every
            pair comes once, as it is.
        progress: told (stage, done, total) while subwords that are drawn anew are measured.
    Raises:
        DataError: no pair is within the recipe's lengths.
    """
    run, data = prepared.run, prepared.run.data
    weights = np.array([weight_of(pair) for pair in pairs], np.float32)
    aligned = for_training and run.train.guided_alignment_weight > 0
    encoded = encode_pairs(pairs, prepared.source_tokenizer, prepared.target_tokenizer)
    sides: dict[str, Any] = {}
    if prepared.frames is not None:
        sides["sampled_source"] = prepared.frames.side(pairs, for_training)
    for name, lines in zip(("source", "target"), zip(*pairs)):
        alpha = getattr(run.train, f"{name}_subword_alpha")
        if for_training and alpha:
            sampler = SubwordSampler(lines, getattr(prepared, f"{name}_tokenizer"), alpha)
            side = Side(getattr(encoded, f"{name}_ids"), getattr(encoded, f"{name}_offsets"))
            sides[f"sampled_{name}"] = SampledSide(
                side, sampler, run.train.seed, functools.partial(progress, f"measuring {name} subwords"))
    return Batches(
        encoded, batch_tokens=data.batch_tokens, num_lengths=data.num_lengths, replicas=replicas,
        seed=run.train.seed, max_source_length=data.max_source_length, max_target_length=data.max_target_length,
        weights=weights if for_training and (weights != 1).any() else None,
        rates=_rates(pairs, data.temperature) if for_training else None,
        alignments=Alignments(pairs, prepared.source_tokenizer, prepared.target_tokenizer) if aligned else None,
        **sides)


def _rates(pairs: Pairs, temperature: float) -> np.ndarray | None:
    """[N], how often a pair of each set comes in an epoch of N; None where all come once."""
    numbers = np.array([set_of(pair) for pair in pairs])
    sets, sizes = np.unique(numbers, return_counts=True)
    if temperature == 1 or len(sets) == 1:
        return None
    shares = sizes ** (1 / temperature)
    return (len(pairs) * shares / shares.sum() / sizes)[np.searchsorted(sets, numbers)]


def check_data(run: Run, progress: Progress) -> Report:
    """The report on a recipe's data, before anything is made. Raises as `prepare`."""
    splits = _load(run, progress)
    progress("training the tokenizers", 0, None)
    source, target = _tokenizers(run, splits)
    progress("checking", 0, None)
    return check(splits, find_task(run.task), run.data, _cutting(source, run), target)


def _load(run: Run, progress: Progress) -> Splits:
    progress("obtaining the data", 0, None)
    splits = load_splits(run.data, progress=lambda done, total: progress("obtaining the data", done, total))
    _refuse_more_sources(run, splits)
    return splits


def _refuse_more_sources(run: Run, splits: Splits) -> None:
    if run.model.encoder.kind != "parallel":
        return
    separator, most = run.data.source_separator, len(run.model.encoder.encoders)
    for name, pairs in splits._asdict().items():
        for number, (line, _) in enumerate(pairs, start=1):
            sources = split_sources(line, separator)
            if len(sources) > most:
                raise DataError(
                    f"{name} pair {number:,} must have at most {most} sources, one for each of model.encoder.encoders. "
                    f"Received: {len(sources)} sources between {separator!r}: {line[:60]!r}.")


def _cutting(tokenizer: Tokenizer | FrontEnd, run: Run) -> Tokenizer | FrontEnd:
    """The tokenizer of a source line, which may hold several sources."""
    separator = run.data.source_separator
    return tokenizer if separator is None or isinstance(tokenizer, FrontEnd) else SeveralSources(tokenizer, separator)


def _tokenizers(run: Run, splits: Splits) -> tuple[Tokenizer | FrontEnd, Tokenizer]:
    data = run.data
    if data.tokenizers_from is not None:
        other = load_prepared(Path(data.tokenizers_from).expanduser())
        return other.source_tokenizer, other.target_tokenizer
    if data.audio is not None:
        return front_end_of(data.audio), train_tokenizer(data.target_tokenizer, [target for _, target in splits.train])
    of_sets, of_pairs = (each.source_tags for each in data.sets), map(tags_of, splits.train)
    tags = list(dict.fromkeys(itertools.chain(*of_sets, *of_pairs, find_task(run.task).symbols)))
    sources = [source for line, _ in splits.train for source in split_sources(line, data.source_separator)]
    targets = [target for _, target in splits.train]
    if data.share_tokenizer:
        shared = train_tokenizer(data.source_tokenizer, sources + targets, tags)
        return shared, shared
    return train_tokenizer(data.source_tokenizer, sources, tags), train_tokenizer(data.target_tokenizer, targets)


def _train_tokenizers(run: Run, splits: Splits, folder: Path, progress: Progress) -> None:
    source, target = _tokenizers(run, splits)
    if run.data.audio is not None:
        source = write_frames(run.data.audio, splits.train, splits.valid, folder / "data" / FRAMES, progress)
    source.save(folder / "tokenizers" / "source")
    target.save(folder / "tokenizers" / "target")


def _write_pairs(path: Path, pairs: Pairs) -> None:
    # mtime 0: the same pairs make the same file.
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        for pair in pairs:
            row = [*pair, pair.notes()] if isinstance(pair, AnnotatedPair) else pair
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def _read_pairs(path: Path) -> Pairs:
    try:
        rows = map(json.loads, stream_lines(path))
        return [AnnotatedPair(*row[:2], **row[2]) if len(row) > 2 else tuple(row) for row in rows]
    except ValueError as error:  # a DataError, or no JSON
        where = "" if isinstance(error, DataError) else f"{path}: "
        raise DataError(
            f"{where}{str(error).rstrip('.')}. `tfseq2seq prepare` wrote this file: put it back, or remove "
            f"{path.parent.parent} to begin anew.") from error
