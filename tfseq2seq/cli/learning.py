"""Commands up to a trained run."""

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.folders import refuse_no_run
from tfseq2seq import arguments
from tfseq2seq.cli.shared import DataOption, RecipeArgument, RunArgument, RunsOption, SetOption, load
from tfseq2seq.console import command, progress_bar, show
from tfseq2seq.quiet import import_tensorflow


def check(
    recipe: RecipeArgument, data: DataOption = None, set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Look at the data before training: counts, broken pairs, leakage, out-of-vocabulary rate."""
    from pipelines.origins import check_origins

    run = load(recipe, data, set_)
    check_origins(run.data)
    import_tensorflow()
    from pipelines.prepare import check_data

    with progress_bar() as report_progress:
        report = check_data(run, report_progress)
    print(json.dumps(report.as_dict(), indent=2)) if as_json else Console().print(report.render())


def describe(
    recipe: RecipeArgument, data: DataOption = None, set_: SetOption = None,
    length: Annotated[int, typer.Option(min=1, help="Tokens of each sentence that operations are counted for.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Look at the model before training: layers, parameters, memory, operations per token. Needs no data."""
    run = load(recipe, data, set_)
    import_tensorflow()
    import tensorflow as tf

    from tfseq2seq.description import describe as describe_run

    with contextlib.suppress(RuntimeError):  # devices are in use already, by whoever called from Python
        tf.config.set_visible_devices([], "GPU")  # a training may need all of it
    description = describe_run(run, length)
    print(json.dumps(description.as_dict(), indent=2)) if as_json else Console().print(description.render())


def prepare(
    recipe: RecipeArgument, data: DataOption = None, set_: SetOption = None, runs: RunsOption = Path("runs"),
) -> None:
    """Obtain the data, filter and split it, train the tokenizers; `train` does this by itself."""
    run = load(recipe, data, set_)
    arguments.check_preparation(run, runs / run.name)
    import_tensorflow()
    from tfseq2seq.runs import prepare_run

    prepare_run(run, runs / run.name)
    options = [] if data is None else ["--data", data]
    options += [part for each in set_ or [] for part in ("--set", each)]
    options += [] if runs == Path("runs") else ["--runs", runs]
    show.print(
        f"prepared in {escape(str(runs / run.name))}; next: {command('train', recipe, *options)}", highlight=False,
        soft_wrap=True)


def train(
    recipe: RecipeArgument, data: DataOption = None, set_: SetOption = None, runs: RunsOption = Path("runs"),
) -> None:
    """Train, or go on training: the same command continues from the last checkpoint.

    Ctrl-C and SIGTERM save a checkpoint and exit with 130 and 143. On several hosts run it on each, with TF_CONFIG
    in the environment and --runs on a file system that they share.
    """
    run = load(recipe, data, set_)
    arguments.check_training(run, runs / run.name)
    import_tensorflow()
    from tfseq2seq.runs import train_run

    train_run(run, runs / run.name)


def largest_batch(
    recipe: RecipeArgument, data: DataOption = None, set_: SetOption = None,
    memory: Annotated[float | None, typer.Option(
        help="GB that training may take, on CPUs; default: what is free.", show_default=False)] = None,
    margin: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the memory to leave.")] = 0.1,
) -> None:
    """Find the largest data.batch_tokens whose training steps fit in memory, by trying. Trains nothing."""
    from pipelines.origins import check_origins

    run = load(recipe, data, set_)
    check_origins(run.data)
    import_tensorflow()
    from tfseq2seq.largest_batch import find_for_run

    with progress_bar() as report:
        found = find_for_run(run, report, None if memory is None else int(memory * 1e9), margin)
    show.print(found.render(), highlight=False)
    print(found.batch_tokens)


def feed(
    run_folder: RunArgument,
    port: Annotated[int, typer.Option(min=0, max=65534, help="It and the next one are taken; 0: free ones.")] = 5050,
    host: Annotated[str, typer.Option(help="Name or address by which trainings reach this machine.")] = "localhost",
    workers: Annotated[int, typer.Option(min=1, help="Processes that make batches.")] = 1,
) -> None:
    """Make the batches of a run's training beside it or on another machine, until Ctrl-C or SIGTERM.

    Training asks for them with --set train.data_service=grpc://HOST:PORT, and learns the same as without. For further
    machines, start the command on each with a --host of its own and a run folder of the same data (`tfseq2seq prepare`
    makes it), and give training all addresses: they take turns. Whoever reaches the ports can run graphs here: leave
    them open in a network that you trust alone.
    """
    refuse_no_run(run_folder)
    import_tensorflow()
    from pipelines.feed_server import serve_feed

    def ready(address: str) -> None:
        show.print(
            f"feeding {run_folder} at {address}; train with: --set train.data_service={address}", highlight=False,
            soft_wrap=True)

    serve_feed(run_folder, port, host, workers, ready)


def average(
    run_folder: RunArgument,
    output: Annotated[Path, typer.Argument(help="The folder of the new run.", show_default=False)],
    last: Annotated[int | None, typer.Option(min=1, help="So many of the newest checkpoints.")] = None,
    best: Annotated[int | None, typer.Option(min=1, help="So many of the best ones that are kept.")] = None,
) -> None:
    """Make a run whose weights are the mean of several checkpoints of another one."""
    arguments.check_trained(run_folder)
    arguments.check_average(output, last, best)
    import_tensorflow()
    from tfseq2seq.runs import average_run

    steps = average_run(run_folder, output, last, best)
    named = ", ".join(f"{step:,}" for step in steps)
    show.print(
        f"{escape(str(output))}: the mean of the steps {named}\nnext: {command('evaluate', output)}", highlight=False,
        soft_wrap=True)


def demo(
    task: Annotated[str, typer.Option(help="pronunciation (minutes) or translation (an hour).")] = "pronunciation",
    pair: Annotated[str, typer.Option(help="For translation: source-target, as en-fr.")] = "en-fr",
    minutes: Annotated[float | None, typer.Option(help="Longest training time; default: the task's own.")] = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """From nothing to answers over gRPC: obtain data, train, score, export, serve, ask."""
    from tfseq2seq.demo import run_demo

    run_demo(task, pair, minutes, runs, Console())
