"""How good a run is on held-out lines, beside the task's baseline and beside other runs."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from pipelines.prepare import Prepared
from tfseq2seq.arguments import check_compared, check_split
from tfseq2seq.breakdown import Breakdown, by_length, by_novelty, metrics_of_parts, score_parts
from tfseq2seq.config import Run
from tfseq2seq.console import Report, show
from tfseq2seq.evaluation import METRICS, Score, as_dict, evaluate, group_references
from tfseq2seq.files import write_atomically
from tfseq2seq.generation import Generator
from tfseq2seq.perplexity import NgramModel, perplexity, target_log_probabilities
from tfseq2seq.prediction import answer_windows
from tfseq2seq.runs import best_generator, open_run, system_name
from tfseq2seq.significance import Comparison, compare, compare_sums
from tfseq2seq.structures import EOS
from tfseq2seq.unknown import watch_unknown

REFERENCES = "references"  # the column of what the references themselves score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assessment:
    """A run's answers to held-out lines, and what they are worth.

    Attributes:
        name: of the run, see `tfseq2seq.runs.system_name`.
        run: the recipe.
        prepared: its data.
        split: "valid" or "test".
        generator: of the best checkpoint.
        sources: N lines.
        references: N lists of right answers.
        systems: N answers of the baseline, then of the run, by their names.
        scores: by system and metric; of the references what looks at answers alone.
        log_probabilities: [N, 2] by system, see `tfseq2seq.perplexity`; empty where the task names no perplexity.
    """

    name: str
    run: Run
    prepared: Prepared
    split: str
    generator: Generator
    sources: list[str]
    references: list[list[str]]
    systems: dict[str, list[str]]
    scores: dict[str, dict[str, Score]]
    log_probabilities: dict[str, np.ndarray]

    def comparisons(self, samples: int = 1000) -> dict[str, dict[str, Comparison]]:
        """Scores with 95 % intervals, the run's beside the baseline's, by system and metric."""
        names = [name for name in self.prepared.task.metrics if name in METRICS]
        found = compare(names, self.systems, self.references, samples)
        if self.log_probabilities:
            of_lines = [self.log_probabilities[system] for system in self.systems]
            told = compare_sums(of_lines, perplexity, maximize=False, samples=samples)
            for system, comparison in zip(self.systems, told, strict=True):
                found[system] = {"perplexity": comparison, **found[system]}
        return found

    def breakdowns(self) -> list[Breakdown]:
        """Scores by the length of the source, and by whether training has seen it; of recordings what is said."""
        task, names = self.prepared.task, metrics_of_parts(self.prepared.task.metrics)
        if self.run.data.audio is None:
            side, unit, measure = "source", task.source_unit, task.measure_source
            lines, train = self.sources, [source for source, _ in self.prepared.train]
        else:
            side, unit, measure = "reference", "characters", task.measure_target
            lines, train = [line[0] for line in self.references], [target for _, target in self.prepared.train]
        parted = {
            f"by length of the {side}, in {unit}": by_length(lines, measure),
            "by what training has seen": by_novelty(lines, train, side)}
        return [
            score_parts(title, parts, names, self.sources, self.systems, self.references)
            for title, parts in parted.items()]


def assess_run(
    run: Run, prepared: Prepared, folder: Path, split: str, limit: int | None, report: Report, workers: int = 1,
) -> Assessment:
    """Answers a held-out split with the best checkpoint and the task's cheap baseline, and scores both.

    The scores are kept in `folder`/scores-SPLIT.json when the whole split was decoded.

    Args:
        run: the recipe.
        prepared: its data.
        folder: the run's folder.
        split: "valid" or "test".
        limit: only the first so many sources.
        report: told (stage, done, total).
        workers: batches decoded at once.
    Raises:
        ValueError: an unknown or empty split, or no checkpoint.
    """
    task = prepared.task
    sources, references = _held_out(prepared, folder, split)
    sources, references = sources[:limit], references[:limit]
    generator = best_generator(run, prepared, folder)
    hypotheses = _decode(generator, sources, workers, report)
    report("answering as the baseline", 0, None)
    name = system_name(run, folder)
    systems = {task.baseline_name: task.baseline(prepared.train, sources), name: hypotheses}
    names = [name for name in task.metrics if name in METRICS]
    report("scoring", 0, None)
    scores = {system: evaluate(names, sources, answers, references) for system, answers in systems.items()}
    log_probabilities: dict[str, np.ndarray] = {}
    if "perplexity" in task.metrics:
        targets = [line[0] for line in references]
        log_probabilities[name] = target_log_probabilities(
            generator, sources, targets, lambda done: report("reading the references", done, len(sources)))
        report("counting n-grams", 0, None)
        log_probabilities[task.baseline_name] = _by_ngrams(prepared, targets, generator.max_source_length)
        for system in scores:
            value = float(perplexity(log_probabilities[system].sum(0)))
            scores[system] = {"perplexity": Score(value, _signature(prepared, system), False), **scores[system]}
    alone = [name for name in names if METRICS[name].by_answer]
    if alone:
        first = [line[0] for line in references]
        scores[REFERENCES] = evaluate(alone, sources, first, references)
    if limit is None:
        values = {"step": generator.step, **{system: as_dict(by_metric) for system, by_metric in scores.items()}}
        write_atomically(folder / f"scores-{split}.json", json.dumps(values, indent=2) + "\n")
    return Assessment(
        name=name, run=run, prepared=prepared, split=split, generator=generator, sources=sources, references=references,
        systems=systems, scores=scores, log_probabilities=log_probabilities)


def _by_ngrams(prepared: Prepared, targets: Sequence[str], max_length: int) -> np.ndarray:
    """[N, 2], log p and tokens of trigrams of the run's own target tokens, which know nothing of the source."""
    tokenizer = prepared.target_tokenizer
    train = tokenizer.encode([target for _, target in prepared.train]).to_list()
    model = NgramModel(train, tokenizer.vocabulary_size, EOS)
    lines = [ids[: max_length - 1] for ids in tokenizer.encode(list(targets)).to_list()]
    return np.array([(model.log_probability(ids), len(ids) + 1) for ids in lines], np.float64)


def _signature(prepared: Prepared, system: str) -> str:
    kind, size = prepared.target_tokenizer.kind, prepared.target_tokenizer.vocabulary_size
    return f"{'trigrams' if system == prepared.task.baseline_name else 'model'}|tokens:{kind}:{size}|end:yes"


def evaluate_run(
    run: Run, prepared: Prepared, folder: Path, split: str, limit: int | None, report: Report, workers: int = 1,
) -> dict[str, dict[str, Score]]:
    """The scores of `assess_run`, by system and metric. Arguments and errors as there."""
    return assess_run(run, prepared, folder, split, limit, report, workers).scores


def compare_runs(
    folders: Sequence[Path], split: str, report: Report, overrides: dict[str, Any] | None = None, workers: int = 1,
    samples: int = 1000,
) -> dict[str, dict[str, Comparison]]:
    """Scores the best checkpoints of several runs on the same held-out split, each beside the first.

    Args:
        folders: of at least two runs.
        split: "valid" or "test".
        report: told (stage, done, total).
        overrides: keys of [decode] that all of them are decoded with; default each as its recipe says.
        workers: batches decoded at once.
        samples: of the paired bootstrap.
    Returns:
        Comparisons by folder and metric.
    Raises:
        ValueError: fewer than two runs, runs of different tasks or held-out pairs, or no checkpoint.
    """
    check_compared(folders)
    opened = [open_run(folder, overrides) for folder in folders]
    held_out = [_held_out(prepared, folder, split) for (_, prepared), folder in zip(opened, folders, strict=True)]
    task, (sources, references) = opened[0][1].task, held_out[0]
    for folder, (_, prepared), lines in zip(folders, opened, held_out, strict=True):
        if (prepared.task, lines) != (task, held_out[0]):
            what = "tasks" if prepared.task != task else f"{split} pairs"
            raise ValueError(
                f"compare needs runs of one task with the same {split} pairs. Received: {folders[0]} and {folder}, "
                f"whose {what} differ.")
    systems = {
        str(folder): _decode(best_generator(run, prepared, folder), sources, workers, report)
        for folder, (run, prepared) in zip(folders, opened, strict=True)}
    report("comparing", 0, None)
    return compare([name for name in task.metrics if name in METRICS], systems, references, samples)


def _held_out(prepared: Prepared, folder: Path, split: str) -> tuple[list[str], list[list[str]]]:
    """Sources and references of "valid" or "test". Raises ValueError."""
    check_split(split)
    pairs = getattr(prepared, split)
    if not pairs:
        raise ValueError(f"{folder}: the run has no {split} pairs; name a {split} file in [data].")
    return group_references(pairs, prepared.task.multiple_references)


def _decode(generator: Generator, sources: list[str], workers: int, report: Report) -> list[str]:
    watched = watch_unknown(
        sources, generator.tokenizers[0], lambda text: show.print(escape(text), highlight=False))
    windows = answer_windows(
        generator, watched, window=len(sources), workers=workers,
        on_lines=lambda done: report("decoding", done, len(sources)))
    return [best[0].text if best else "" for window in windows for best in window.answers]


