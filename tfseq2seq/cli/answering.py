"""Commands that decode with a run's checkpoints."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from tfseq2seq import arguments
from tfseq2seq.cli.shared import (
    BatchTokensOption,
    DecodeSetOption,
    ReplicasOption,
    RestartOption,
    RunArgument,
    SplitOption,
    WindowOption,
    WorkersOption,
    to_values,
)
from tfseq2seq.console import command, progress_bar, show
from tfseq2seq.quiet import import_tensorflow

FORMATS_HELP = (
    "text: the best hypothesis; tsv: line number, score and text of each, with tab, line end and backslash in the text "
    "escaped; jsonl: an object a line. Default: text, or tsv for several hypotheses.")


def evaluate(
    run_folder: RunArgument,
    split: SplitOption = "test",
    lines: Annotated[int | None, typer.Option(min=1, help="Only the first so many sources.")] = None,
    workers: WorkersOption = None,
    set_: DecodeSetOption = None,
    report_file: Annotated[Path | None, typer.Option(
        "--report", help="Write a page of HTML: scores with intervals, break-downs, worst answers, attention.",
        show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Decode the held-out split with the best checkpoint and score it beside the task's baseline.

    Below the scores stand those of parts of the lines: by the length of the source, and by whether it, or all of its
    words, are among the train sources.
    """
    arguments.check_split(split)
    arguments.check_trained(run_folder, to_values(set_))
    if report_file is not None and not report_file.parent.is_dir():
        raise ValueError(f"{report_file.parent}: no such folder for the report.")
    import_tensorflow()
    from tfseq2seq.prediction import share_cores

    workers = share_cores(workers)
    from tfseq2seq.assessment import assess_run
    from tfseq2seq.breakdown import render_breakdown
    from tfseq2seq.evaluation import as_dict, render_table
    from tfseq2seq.runs import open_run

    run, prepared = open_run(run_folder, to_values(set_))
    with progress_bar() as report:
        assessment = assess_run(run, prepared, run_folder, split, lines, report, workers)
        report("scoring parts", 0, None)
        breakdowns = assessment.breakdowns()
        if report_file is not None:
            from tfseq2seq.files import write_atomically
            from tfseq2seq.report import render_report

            report("resampling", 0, None)
            write_atomically(report_file, render_report(assessment, breakdowns))
    if as_json:
        scores: dict[str, Any] = {system: as_dict(values) for system, values in assessment.scores.items()}
        print(json.dumps(scores | {"parts": {each.title: each.as_dict() for each in breakdowns}}, indent=2))
        return
    Console().print(
        render_table(assessment.scores, title=f"{assessment.name}, {split}"), *map(render_breakdown, breakdowns))


def chat(
    run_or_address: Annotated[str, typer.Argument(
        help="A run folder, or host:port of a server.", metavar="RUN_OR_ADDRESS", show_default=False)],
    turns: Annotated[int | None, typer.Option(
        min=1, show_default=False, help="Turns that the model is told at most, the last one among them. Default: as "
        "many as a run was trained on, 4 of a server.")] = None,
    model_name: Annotated[str, typer.Option(help="The served model.")] = "tfseq2seq",
    set_: DecodeSetOption = None,
) -> None:
    """Talk with a run, or a served model; it is told the turns before, as many of the last ones as it can read.

    /reset begins anew, /quit ends. From a pipe, each line is a turn, and each answer a line.
    """
    if Path(run_or_address).is_dir():
        arguments.check_trained(Path(run_or_address), to_values(set_))
        import_tensorflow()
    from tfseq2seq.chat import Conversation, open_partner, reader, talk

    partner, known = open_partner(run_or_address, model_name, to_values(set_))
    console = Console(highlight=False)
    talk(Conversation(partner, turns or known), console, reader(console))


def compare(
    run_folders: Annotated[list[Path], typer.Argument(help="Two or more run folders.", show_default=False)],
    split: SplitOption = "test",
    samples: Annotated[int, typer.Option(min=1, help="Of the paired bootstrap.")] = 1000,
    workers: WorkersOption = None,
    set_: DecodeSetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Decode a held-out split with the best checkpoints of several runs, and tell differences from chance."""
    arguments.check_split(split)
    arguments.check_compared(run_folders)
    for folder in run_folders:
        arguments.check_trained(folder, to_values(set_))
    import_tensorflow()
    from tfseq2seq.prediction import share_cores

    workers = share_cores(workers)
    import dataclasses

    from tfseq2seq.assessment import compare_runs
    from tfseq2seq.significance import render_comparison

    with progress_bar() as report:
        found = compare_runs(run_folders, split, report, to_values(set_), workers, samples)
    if as_json:
        print(json.dumps(
            {system: {name: dataclasses.asdict(value) for name, value in metrics.items()}
             for system, metrics in found.items()}, indent=2))
    else:
        Console().print(render_comparison(found, title=split))


def predict(
    run_folder: RunArgument,
    source: Annotated[
        Path | None, typer.Argument(help="Lines of UTF-8, plain or .gz; default, or -: standard input.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Packed if named .gz; default: standard output.")] = None,
    n_best: Annotated[int, typer.Option(help="Hypotheses a line, best first; at most decode.beam_size.")] = 1,
    scores: Annotated[bool, typer.Option("--scores", help="The same as --format tsv.")] = False,
    output_format: Annotated[str | None, typer.Option("--format", help=FORMATS_HELP, show_default=False)] = None,
    workers: WorkersOption = None,
    replicas: ReplicasOption = None,
    window: WindowOption = 10_000,
    batch_tokens: BatchTokensOption = None,
    set_: DecodeSetOption = None,
    restart: RestartOption = False,
) -> None:
    """Answer the lines of a file of any size with a run's best checkpoint, in their order.

    One line in, one answer out: an empty line is a source too; "\\n" or "\\r\\n" ends a line; a line beyond
    export.max_source_length tokens is cut there, and counted. A file is read once before it is decoded, so that bytes
    that are not UTF-8 are refused at once, with the line's number.

    Interrupted, even by kill -9, the same command goes on after the last whole window: it lies in OUTPUT.part, what
    it is of in OUTPUT.part.json, until OUTPUT is complete. From or to a pipe there is no going on.
    """
    if scores and output_format == "text":
        raise typer.BadParameter("--format text holds no scores; give tsv or jsonl, or leave out --scores.")
    output_format = output_format or ("tsv" if scores or n_best > 1 else "text")
    source = None if source == Path("-") else source
    arguments.with_hypotheses(arguments.check_trained(run_folder, to_values(set_)), n_best)
    arguments.check_prediction(source, output, n_best, output_format, workers, replicas)
    import_tensorflow()
    from tfseq2seq.prediction import count_gpus, share_cores

    replicas = replicas or max(1, count_gpus())
    workers = share_cores(workers or (1 if replicas > 1 else None))
    from tfseq2seq.runs import open_run, predict_file

    run, prepared = open_run(run_folder, to_values(set_))
    predict_file(
        run, prepared, run_folder, source, output, num_hypotheses=n_best, output_format=output_format, window=window,
        batch_tokens=batch_tokens, workers=workers, replicas=replicas, restart=restart)


def distill(
    run_folder: RunArgument,
    output: Annotated[Path, typer.Argument(help="The data folder to make.", show_default=False)],
    closest: Annotated[bool, typer.Option(
        "--closest",
        help="Of decode.beam_size answers the one closest to the reference, by sentence BLEU or chrF.")] = False,
    workers: WorkersOption = None,
    replicas: ReplicasOption = None,
    window: WindowOption = 10_000,
    batch_tokens: BatchTokensOption = None,
    set_: DecodeSetOption = None,
    restart: RestartOption = False,
) -> None:
    """Make a data folder for a student: a run's train sources with its own answers, and its valid and test pairs.

    The student trains on it by `tfseq2seq train RECIPE --data OUTPUT`. Interrupted, the same command goes on.
    """
    arguments.check_trained(run_folder, to_values(set_))
    arguments.check_distilled(output)
    arguments.check_devices(workers, replicas)
    import_tensorflow()
    from tfseq2seq.prediction import count_gpus, share_cores

    replicas = replicas or max(1, count_gpus())
    workers = share_cores(workers or (1 if replicas > 1 else None))
    from tfseq2seq.runs import open_run
    from tfseq2seq.sequence_distillation import distill_run

    run, prepared = open_run(run_folder, to_values(set_))
    count = distill_run(
        run, prepared, run_folder, output, closest=closest, window=window, batch_tokens=batch_tokens, workers=workers,
        replicas=replicas, restart=restart)
    show.print(
        f"{escape(str(output))}: {count:,} train pairs; next: {command('train', 'RECIPE', '--data', output)}",
        highlight=False, soft_wrap=True)
