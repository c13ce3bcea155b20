"""What one does with a run's folder: open it, train it, score it, answer with it, export it."""

import contextlib
import json
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.prepare import Prepared, load_prepared, prepare
from pipelines.reading import decode_lines, stream_lines
from pipelines.sources import CORPORA
from tfseq2seq import callbacks, checkpoints
from tfseq2seq.arguments import check_average, check_prediction, with_hypotheses
from tfseq2seq.averaging import average_checkpoints
from tfseq2seq.config import ConfigError, Run, override
from tfseq2seq.console import Report, progress_bar, show
from tfseq2seq.distribution import Hosts, make_strategy
from tfseq2seq.evaluation import METRICS, as_dict, evaluate, group_references, maximizes, order_metrics
from tfseq2seq.generation import Answer, Generator
from tfseq2seq.optimization import check_optimizer
from tfseq2seq.output import FileOutput, StreamOutput
from tfseq2seq.prediction import WINDOW, Replicas, predict_and_tell
from tfseq2seq.rounding import rounded_and_measured
from tfseq2seq.training import AVERAGED, load_generator, train


def train_run(run: Run, folder: Path, console: Console = show) -> callbacks.Progress:
    """Prepares the data where that is not done, then trains. Raises as `training.train`."""
    check_optimizer(run.train)  # before the data are prepared, which may take long
    hosts = Hosts(make_strategy(run.train.replicas))  # several must meet before TensorFlow computes anything
    with hosts.explaining_loss():
        hosts.agree(zlib.crc32(run.model_dump_json().encode()), "the same recipe and the same --set options")
        prepared = prepare_run(run, folder, console) if hosts.is_chief else None
        hosts.wait()
        return train(run, prepared or _prepared_by_chief(folder), folder, console)


def _prepared_by_chief(folder: Path) -> Prepared:
    try:
        return load_prepared(folder)
    except ConfigError as error:
        raise ValueError(
            "every host needs the run's folder on a file system that all of them share: the first one prepares it. "
            f"Received: {error}") from error


def prepare_run(run: Run, folder: Path, console: Console = show) -> Prepared:
    """Prepares the data where that is not done, and says what is left.

    Raises as `pipelines.prepare`, and ValueError where the optimizer cannot use its options.
    """
    check_optimizer(run.train)
    if run.data.corpus in CORPORA:
        console.print(f"{run.data.corpus}: {CORPORA[run.data.corpus].license}", highlight=False)
    with progress_bar() as report:
        prepared = prepare(run, folder, report)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in prepared.left_out.items() if count)
    console.print(
        f"{len(prepared.train):,} train, {len(prepared.valid):,} valid and {len(prepared.test):,} test pairs"
        + (f"; left out of train: {left_out}" if left_out else ""), highlight=False)
    return prepared


def average_run(folder: Path, output: Path, last: int | None = None, best: int | None = None) -> list[int]:
    """Makes a run of its own whose checkpoint is the mean of several of another run's.

    Args:
        folder: the run.
        output: the folder of the new one, which must not exist.
        last: the so many newest checkpoints.
        best: or the so many best ones by the metric that chose the best checkpoint, of those that are kept.
    Returns:
        The steps of the checkpoints.
    Raises:
        ValueError: neither or both are asked for, there are not as many, or `output` exists.
        CheckpointError: one cannot be read.
    """
    check_average(output, last, best)
    run, prepared = open_run(folder)
    found = checkpoints.steps(folder / "checkpoints")
    if best is not None:
        found = sorted(_by_metric(folder, run, prepared, found)[:best])
    wanted = last or best or 0
    steps = found[-wanted:]
    if not 0 < wanted == len(steps):
        kept = "" if best is None else " evaluated"
        raise ValueError(
            f"average needs as many{kept} checkpoints as it is asked for; train.keep_checkpoints sets how many are "
            f"kept. Received: {wanted}, where {folder} has {len(found)}.")
    generator = load_generator(run, prepared, folder)
    average_checkpoints(folder / "checkpoints", steps, generator.model)
    temporary = output.with_name(f".{output.name}.averaging")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name in ("data", "tokenizers"):
            shutil.copytree(folder / name, temporary / name)
        objects = {"weights": checkpoints.weights(generator.model)}
        checkpoints.save(temporary / "checkpoints", steps[-1], objects, {"best_step": steps[-1]}, keep=1)
        (temporary / AVERAGED).write_text(json.dumps({"run": str(folder), "steps": steps}), encoding="utf-8")
        shutil.copy(folder / "config.json", temporary / "config.json")
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return steps


def _by_metric(folder: Path, run: Run, prepared: Prepared, steps: list[int]) -> list[int]:
    """Those of the steps that were evaluated, best first."""
    metric = order_metrics(prepared.task.metrics, run.train.metric)[0]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    values = {row["step"]: row[f"valid_{metric}"] for row in rows if f"valid_{metric}" in row}
    return sorted((step for step in steps if step in values), key=values.__getitem__, reverse=maximizes(metric))


def open_run(folder: Path, overrides: dict[str, Any] | None = None) -> tuple[Run, Prepared]:
    """A run as `train` left it, its [decode] and [export] changed where `overrides` name keys of them.

    Raises:
        ValueError: `folder` holds none, or a key is of another table or wrong.
    """
    prepared = load_prepared(folder)
    return override(prepared.run, overrides or {}, ("decode", "export")), prepared


def system_name(run: Run, folder: Path) -> str:
    """What answers: the folder's name, which a mean of checkpoints has to itself, and those of `decode.others`."""
    return " + ".join(path.resolve().name for path in (folder, *map(Path, run.decode.others)))


def predict_lines(
    run: Run, prepared: Prepared, folder: Path, lines: list[str], num_hypotheses: int, report: Report,
) -> list[list[Answer]]:
    """Hypotheses of the best checkpoint for each line, best first. Raises ValueError, CheckpointError."""
    generator = best_generator(with_hypotheses(run, num_hypotheses), prepared, folder)
    return generator.answer(lines, on_batch=lambda done: report("decoding", done, len(lines)))


def predict_file(
    run: Run, prepared: Prepared, folder: Path, source: Path | None, output: Path | None, *, num_hypotheses: int = 1,
    output_format: str = "text", window: int = WINDOW, batch_tokens: int | None = None, workers: int = 1,
    replicas: int = 1, restart: bool = False, console: Console = show,
) -> None:
    """Answers the lines of a file with the best checkpoint; called again after an interruption, it goes on.

    Args:
        run: the recipe.
        prepared: its data.
        folder: the run's folder.
        source: lines, plain or .gz, or a pipe; None for standard input.
        output: file, packed where its name ends with .gz; None for standard output.
        num_hypotheses: answers a line, at most the recipe's beam size; more than 1 need a format that holds them.
        output_format: text, tsv or jsonl, one of `tfseq2seq.arguments.FORMATS`, see `tfseq2seq.output.render`.
        window: lines that are read, sorted and written together.
        batch_tokens: most padded source tokens in a batch; default the recipe's.
        workers: batches decoded at once, see `tfseq2seq.prediction.share_cores`.
        replicas: devices that decode a batch each, in step.
        restart: throw away what an interrupted call left.
        console: where progress is shown.
    Raises:
        ValueError: an option is out of range, the source is broken, or what was left is of another command.
        CheckpointError: there is no checkpoint.
        OSError: the output cannot be written.
    """
    run = with_hypotheses(run, num_hypotheses)
    check_prediction(source, output, num_hypotheses, output_format, workers, replicas)
    file = source if source is not None and source.is_file() else None  # what a pipe gave once is gone
    # Read once before anything is decoded: what is broken is told now, and the time left is known.
    total = None if file is None else sum(1 for _ in stream_lines(file))
    strategy = strategy_over(replicas)
    with strategy.scope() if strategy else contextlib.nullcontext():
        generator = best_generator(run, prepared, folder)
    fingerprint = None if file is None else fingerprint_of(run, generator, file, output_format, window, batch_tokens)
    with contextlib.ExitStack() as stack:
        results: FileOutput | StreamOutput
        if output is None:
            results = StreamOutput(sys.stdout.buffer)
        elif output.exists() and not output.is_file():  # a pipe or a device: not to be renamed onto
            results = StreamOutput(stack.enter_context(open(output, "wb")))
        else:
            results = stack.enter_context(contextlib.closing(FileOutput(output, fingerprint, restart)))
        predict_and_tell(
            generator, _lines(source), results, output_format, console, total, window=window, batch_tokens=batch_tokens,
            workers=workers, read_ahead=file is not None, replicas=Replicas(generator, strategy) if strategy else None)


def export_run(
    run: Run, prepared: Prepared, folder: Path, output: Path, version: int | None, report: Report,
) -> Path:
    """Writes the best checkpoint as `output`/VERSION, checked against held-out lines.

    Raises:
        ValueError: the answers lose too much by `export.weights`.
        ExportError: the SavedModel answers otherwise than the checkpoint.
        OSError: `output` cannot be written.
    """
    from serving.export import export

    split = next(name for name in ("valid", "test", "train") if getattr(prepared, name))
    lines = group_references(getattr(prepared, split), prepared.task.multiple_references)
    sources, references = lines[0][: run.export.check_lines], lines[1][: run.export.check_lines]
    generator = best_generator(run, prepared, folder)

    metrics = tuple(name for name in prepared.task.metrics if name in METRICS)  # perplexity is none of answers

    def score(answers):
        scores = evaluate(metrics, sources, answers, references)
        return {"split": split, "first_lines": len(sources), run.name: as_dict(scores)}

    path = folder / "scores-test.json"
    scores = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    about = {
        "step": generator.step, "weights": run.export.weights,
        "scores": scores if scores.get("step") == generator.step else None}  # else they are another checkpoint's
    with contextlib.ExitStack() as stack:
        packed = None
        if run.export.weights != "float32":
            packed, about["rounding"] = stack.enter_context(rounded_and_measured(
                generator, run.export, metrics, lines[0][: run.export.score_lines],
                lines[1][: run.export.score_lines], split))
        return export(
            generator, output, version, config_json=run.model_dump_json(indent=2),
            check_sources=generator.load(sources).numpy().tolist(),
            check_targets=[targets[0] for targets in references], num_hypotheses=run.num_exported,
            warm_up_lines=run.export.warm_up_lines, about=about, packed=packed, score=score, progress=report,
            tokenizers=dict(zip(("source", "target"), generator.tokenizers, strict=True)))


def best_generator(run: Run, prepared: Prepared, folder: Path) -> Generator:
    """The run's best checkpoint; with `decode.others` theirs beside it, as one."""
    generator = load_generator(run, prepared, folder)
    show.print(f"{folder}: checkpoint of step {generator.step}", highlight=False)
    if not run.decode.others:
        return generator
    models = [generator.model]
    for other in map(Path, run.decode.others):
        other_run, other_prepared = open_run(other)
        for side in ("source_tokenizer", "target_tokenizer"):
            one, two = getattr(prepared, side), getattr(other_prepared, side)
            if (one.content(), one.vocabulary()) != (two.content(), two.vocabulary()):
                raise ValueError(
                    f"decode.others needs runs with the same tokenizers; train them on the same prepared data. "
                    f"Received: {other}, whose {side} is another than that of {folder}.")
        beside = load_generator(other_run, other_prepared, other)
        show.print(f"{other}: checkpoint of step {beside.step}", highlight=False)
        models.append(beside.model)
    return Generator(
        models, *generator.tokenizers, run.decode, generator.max_source_length, generator.step, run.decode.weights)


def _lines(source: Path | None) -> Iterator[str]:
    return decode_lines(sys.stdin.buffer, "standard input") if source is None else stream_lines(source)


def strategy_over(replicas: int) -> Any:
    """A strategy over so many devices; None where one does."""
    if replicas == 1:
        return None
    try:
        return make_strategy(replicas)
    except ValueError as error:
        raise ValueError(str(error).replace("train.replicas =", "--replicas")) from None


def fingerprint_of(
    run: Run, generator: Generator, source: Path, output_format: str, window: int, batch_tokens: int | None,
) -> dict[str, Any]:
    """What a line's answer and its place in the output depend on, but for the libraries and the machine."""
    status, checksum = source.stat(), 0
    for model in generator.models:
        for weight in checkpoints.weights(model):
            checksum = zlib.crc32(weight.numpy().tobytes(), checksum)
    decode = {f"decode.{name}": value for name, value in run.decode.model_dump(mode="json").items()}
    if run.decode.only_from is not None:
        decode["answers of decode.only_from"] = zlib.crc32(Path(run.decode.only_from).expanduser().read_bytes())
    return {
        "source": str(source.resolve()), "source size": status.st_size, "source time": status.st_mtime_ns,
        "checkpoint step": generator.step, "weights": checksum, "format": output_format, "window": window,
        "max_source_length": generator.max_source_length, **decode,
        "decode.batch_tokens": batch_tokens or run.decode.batch_tokens}
