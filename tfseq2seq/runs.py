"""What one does with a run's folder: open it, train it, score it, answer with it, export it."""

import json
from pathlib import Path

from rich.console import Console

from pipelines.prepare import Prepared, load_prepared, prepare
from pipelines.sources import CORPORA
from tfseq2seq import callbacks
from tfseq2seq.config import Run
from tfseq2seq.console import Report, progress_bar, show
from tfseq2seq.evaluation import Score, as_dict, evaluate, group_references
from tfseq2seq.files import write_atomically
from tfseq2seq.generation import Answer, Generator
from tfseq2seq.training import load_generator, train


def train_run(run: Run, folder: Path, console: Console = show) -> callbacks.Progress:
    """Prepares the data where that is not done, then trains. Raises as `training.train`."""
    return train(run, prepare_run(run, folder, console), folder, console)


def prepare_run(run: Run, folder: Path, console: Console = show) -> Prepared:
    """Prepares the data where that is not done, and says what is left. Raises as `pipelines.prepare`."""
    if run.data.corpus in CORPORA:
        console.print(f"{run.data.corpus}: {CORPORA[run.data.corpus].license}", highlight=False)
    with progress_bar() as report:
        prepared = prepare(run, folder, report)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in prepared.left_out.items() if count)
    console.print(
        f"{len(prepared.train):,} train, {len(prepared.valid):,} valid and {len(prepared.test):,} test pairs"
        + (f"; left out of train: {left_out}" if left_out else ""), highlight=False)
    return prepared


def open_run(folder: Path) -> tuple[Run, Prepared]:
    """A run as `train` left it. Raises ValueError where `folder` holds none."""
    prepared = load_prepared(folder)
    return prepared.run, prepared


def evaluate_run(
    run: Run, prepared: Prepared, folder: Path, split: str, limit: int | None, report: Report,
) -> dict[str, dict[str, Score]]:
    """Scores the best checkpoint, and the task's cheap baseline, on a held-out split.

    The scores are kept in `folder`/scores-SPLIT.json when the whole split was decoded.

    Args:
        run: the recipe.
        prepared: its data.
        folder: the run's folder.
        split: "valid" or "test".
        limit: only the first so many sources.
        report: told (stage, done, total).
    Returns:
        Scores by metric for the baseline's name and for the run's.
    Raises:
        ValueError: an unknown or empty split, or no checkpoint.
    """
    if split not in ("valid", "test"):
        raise ValueError(f"--split must be valid or test. Received: {split!r}.")
    pairs = getattr(prepared, split)
    if not pairs:
        raise ValueError(f"{folder}: the run has no {split} pairs; name a {split} file in [data].")
    task = prepared.task
    sources, references = group_references(pairs, task.multiple_references)
    sources, references = sources[:limit], references[:limit]
    generator = _best(run, prepared, folder)
    answers = generator.answer(sources, on_batch=lambda done: report("decoding", done, len(sources)))
    hypotheses = [best[0].text if best else "" for best in answers]
    report("scoring", 0, None)
    baseline = task.baseline(prepared.train, sources)
    scores = {
        task.baseline_name: evaluate(task.metrics, sources, baseline, references),
        run.name: evaluate(task.metrics, sources, hypotheses, references)}
    if limit is None:
        values = {"step": generator.step, **{system: as_dict(by_metric) for system, by_metric in scores.items()}}
        write_atomically(folder / f"scores-{split}.json", json.dumps(values, indent=2) + "\n")
    return scores


def predict_lines(
    run: Run, prepared: Prepared, folder: Path, lines: list[str], num_hypotheses: int, report: Report,
) -> list[list[Answer]]:
    """Hypotheses of the best checkpoint for each line, best first. Raises ValueError, CheckpointError."""
    if not 1 <= num_hypotheses <= run.decode.beam_size:
        raise ValueError(
            f"--n-best must be from 1 to the recipe's decode.beam_size = {run.decode.beam_size}. "
            f"Received: {num_hypotheses}.")
    decode = run.decode.model_copy(update={"num_hypotheses": num_hypotheses})
    generator = _best(run.model_copy(update={"decode": decode}), prepared, folder)
    return generator.answer(lines, on_batch=lambda done: report("decoding", done, len(lines)))


def export_run(
    run: Run, prepared: Prepared, folder: Path, output: Path, version: int | None, report: Report,
) -> Path:
    """Writes the best checkpoint as `output`/VERSION, checked against held-out lines.

    Raises:
        ExportError: the SavedModel answers otherwise than the checkpoint.
        OSError: `output` cannot be written.
    """
    from serving.export import export

    pairs = (prepared.valid or prepared.test or prepared.train)[: run.export.check_lines]
    generator = _best(run, prepared, folder)
    path = folder / "scores-test.json"
    scores = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return export(
        generator, output, version, config_json=run.model_dump_json(indent=2),
        check_sources=[source for source, _ in pairs], check_targets=[target for _, target in pairs],
        num_hypotheses=run.export.num_hypotheses, progress=report,
        scores=scores if scores.get("step") == generator.step else None)  # else they are another checkpoint's


def _best(run: Run, prepared: Prepared, folder: Path) -> Generator:
    generator = load_generator(run, prepared, folder)
    show.print(f"{folder}: checkpoint of step {generator.step}", highlight=False)
    return generator
