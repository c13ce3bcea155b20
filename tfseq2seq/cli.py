"""The command line. Each command is a thin call; TensorFlow is imported only inside them."""

import contextlib
import json
import os
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from tfseq2seq import cpu
from tfseq2seq.config import ConfigError
from tfseq2seq.console import progress_bar, show
from tfseq2seq.interruption import Interrupted
from tfseq2seq.quiet import import_tensorflow

# Before TensorFlow is imported anywhere: it calls a missing GPU an error, on every start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
cpu.prepare()

app = typer.Typer(
    help="Sequence-to-sequence learning on TensorFlow and Keras, from raw text to an answered gRPC request.",
    epilog="Exit codes: 0 done; 1 failed, with one line that says why; 2 wrong arguments; 130 Ctrl-C and 143 SIGTERM, "
    "in training after saving.",
    no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)

# Exit codes, beside 0 and typer's 2 for wrong arguments.
FAILED, INTERRUPTED = 1, 130  # SIGTERM in training gives 143

RecipeArgument = Annotated[Path, typer.Argument(help="A TOML recipe; see pipelines/recipes.", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, as runs/NAME.", show_default=False)]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="A folder with train, valid and test files, for the recipe's data.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A recipe key to override, as train.steps=100. May be repeated.")]
DecodeSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help=r"A key of \[decode] or \[export] to override, as decode.beam_size=8. May be repeated.")]
SplitOption = Annotated[str, typer.Option("--split", help="valid or test.")]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Batches decoded at once; default: the cores, or 1 on a GPU.")]
ReplicasOption = Annotated[
    int | None, typer.Option(min=1, help="Devices that decode a batch each; default: every GPU, or 1.")]
WindowOption = Annotated[
    int, typer.Option(min=1, help="Lines that are read, sorted by length and written together.")]
BatchTokensOption = Annotated[
    int | None, typer.Option(min=1, help="Padded source tokens in a batch; default: decode.batch_tokens.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Throw away what an interrupted run left.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Where run folders are made.")]
FORMATS_HELP = (
    "text: the best hypothesis; tsv: line number, score and text of each, with tab, line end and backslash in the text "
    "escaped; jsonl: an object a line. Default: text, or tsv for several hypotheses.")
SIGNATURE_HELP = (
    "serving_default (the recipe's search), greedy, beam, sample, alternatives (to what follows the prefix), or score. "
    "Default: serving_default, or beam with options.")
AddressOption = Annotated[str, typer.Option("--address", help="host:port of the gRPC server.")]


def _say_version(asked: bool) -> None:
    if asked:
        from tfseq2seq import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """The console script: a user's mistake ends in one line and exit code 1, never in a traceback.

    TFSEQ2SEQ_DEBUG=1 shows the traceback all the same.
    """
    try:
        app(prog_name="tfseq2seq")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Interrupted as interruption:
        again = shlex.join(["tfseq2seq", *sys.argv[1:]])
        show.print(f"{interruption}: saved; to go on: {escape(again)}", highlight=False, soft_wrap=True)
        sys.exit(128 + interruption.signal_number)
    except Exception as error:
        if os.environ.get("TFSEQ2SEQ_DEBUG") or not isinstance(error, _expected_errors()):
            raise
        show.print(f"[bold red]error:[/] {_one_line(error)}", highlight=False, soft_wrap=True)
        sys.exit(FAILED)


def _expected_errors() -> tuple[type[Exception], ...]:
    """What data, settings, disks and servers can cause; anything else is a fault of ours."""
    expected: tuple[type[Exception], ...] = (ValueError, OSError, RuntimeError, EOFError)
    if "tensorflow" in sys.modules:
        expected += (sys.modules["tensorflow"].errors.OpError,)
    return expected


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return escape(f"{error.filename}: {error.strerror}")
    text = str(error).strip() or type(error).__name__
    return escape(text if isinstance(error, ConfigError) else text.splitlines()[0])  # one line a key


@app.command()
def check(
    recipe: RecipeArgument, data: DataOption = None, set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Look at the data before training: counts, broken pairs, leakage, out-of-vocabulary rate."""
    run = _load(recipe, data, set_)
    from pipelines.prepare import check_data

    with progress_bar() as report_progress:
        report = check_data(run, report_progress)
    print(json.dumps(report.as_dict(), indent=2)) if as_json else Console().print(report.render())


@app.command()
def describe(
    recipe: RecipeArgument, data: DataOption = None, set_: SetOption = None,
    length: Annotated[int, typer.Option(min=1, help="Tokens of each sentence that operations are counted for.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Look at the model before training: layers, parameters, memory, operations per token. Needs no data."""
    run = _load(recipe, data, set_)
    import tensorflow as tf

    from tfseq2seq.description import describe as describe_run

    with contextlib.suppress(RuntimeError):  # devices are in use already, by whoever called from Python
        tf.config.set_visible_devices([], "GPU")  # a training may need all of it
    description = describe_run(run, length)
    print(json.dumps(description.as_dict(), indent=2)) if as_json else Console().print(description.render())


@app.command()
def prepare(
    recipe: RecipeArgument, data: DataOption = None, set_: SetOption = None, runs: RunsOption = Path("runs"),
) -> None:
    """Obtain the data, filter and split it, train the tokenizers; `train` does this by itself."""
    run = _load(recipe, data, set_)
    from tfseq2seq.runs import prepare_run

    prepare_run(run, runs / run.name)
    show.print(f"prepared in {runs / run.name}; next: tfseq2seq train {recipe}", highlight=False)


@app.command()
def train(
    recipe: RecipeArgument, data: DataOption = None, set_: SetOption = None, runs: RunsOption = Path("runs"),
) -> None:
    """Train, or go on training: the same command continues from the last checkpoint.

    Ctrl-C and SIGTERM save a checkpoint and exit with 130 and 143. On several hosts run it on each, with TF_CONFIG
    in the environment and --runs on a file system that they share.
    """
    run = _load(recipe, data, set_)
    from tfseq2seq.runs import train_run

    train_run(run, runs / run.name)


@app.command(name="largest-batch")
def largest_batch(
    recipe: RecipeArgument, data: DataOption = None, set_: SetOption = None,
    memory: Annotated[float | None, typer.Option(
        help="GB that training may take, on CPUs; default: what is free.", show_default=False)] = None,
    margin: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the memory to leave.")] = 0.1,
) -> None:
    """Find the largest data.batch_tokens whose training steps fit in memory, by trying. Trains nothing."""
    run = _load(recipe, data, set_)
    import_tensorflow()
    from tfseq2seq.largest_batch import find_for_run

    with progress_bar() as report:
        found = find_for_run(run, report, None if memory is None else int(memory * 1e9), margin)
    show.print(found.render(), highlight=False)
    print(found.batch_tokens)


@app.command()
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
    import_tensorflow()
    from pipelines.feed_server import serve_feed

    def ready(address: str) -> None:
        show.print(
            f"feeding {run_folder} at {address}; train with: --set train.data_service={address}", highlight=False,
            soft_wrap=True)

    serve_feed(run_folder, port, host, workers, ready)


@app.command()
def average(
    run_folder: RunArgument,
    output: Annotated[Path, typer.Argument(help="The folder of the new run.", show_default=False)],
    last: Annotated[int | None, typer.Option(min=1, help="So many of the newest checkpoints.")] = None,
    best: Annotated[int | None, typer.Option(min=1, help="So many of the best ones that are kept.")] = None,
) -> None:
    """Make a run whose weights are the mean of several checkpoints of another one."""
    import_tensorflow()
    from tfseq2seq.runs import average_run

    steps = average_run(run_folder, output, last, best)
    named = ", ".join(f"{step:,}" for step in steps)
    show.print(f"{output}: the mean of the steps {named}\nnext: tfseq2seq evaluate {output}", highlight=False)


@app.command()
def evaluate(
    run_folder: RunArgument,
    split: SplitOption = "test",
    lines: Annotated[int | None, typer.Option(help="Only the first so many sources.")] = None,
    workers: WorkersOption = None,
    set_: DecodeSetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Decode the held-out split with the best checkpoint and score it beside the task's baseline."""
    import_tensorflow()
    from tfseq2seq.prediction import share_cores

    workers = share_cores(workers)
    from tfseq2seq.evaluation import as_dict, render_table
    from tfseq2seq.runs import evaluate_run, open_run

    run, prepared = open_run(run_folder, _values(set_))
    with progress_bar() as report:
        scores = evaluate_run(run, prepared, run_folder, split, lines, report, workers)
    if as_json:
        print(json.dumps({system: as_dict(values) for system, values in scores.items()}, indent=2))
    else:
        Console().print(render_table(scores, title=f"{run.name}, {split}"))


@app.command()
def compare(
    run_folders: Annotated[list[Path], typer.Argument(help="Two or more run folders.", show_default=False)],
    split: SplitOption = "test",
    samples: Annotated[int, typer.Option(min=1, help="Of the paired bootstrap.")] = 1000,
    workers: WorkersOption = None,
    set_: DecodeSetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Decode a held-out split with the best checkpoints of several runs, and tell differences from chance."""
    import_tensorflow()
    from tfseq2seq.prediction import share_cores

    workers = share_cores(workers)
    import dataclasses

    from tfseq2seq.runs import compare_runs
    from tfseq2seq.significance import render_comparison

    with progress_bar() as report:
        found = compare_runs(run_folders, split, report, _values(set_), workers, samples)
    if as_json:
        print(json.dumps(
            {system: {name: dataclasses.asdict(value) for name, value in metrics.items()}
             for system, metrics in found.items()}, indent=2))
    else:
        Console().print(render_comparison(found, title=split))


@app.command()
def predict(
    run_folder: RunArgument,
    source: Annotated[
        Path | None, typer.Argument(help="Lines of UTF-8, plain or .gz; default, or -: standard input.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Packed if named .gz; default: standard output.")] = None,
    n_best: Annotated[int, typer.Option(help="Hypotheses a line, best first.")] = 1,
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
    import_tensorflow()
    from tfseq2seq.prediction import count_gpus, share_cores

    replicas = replicas or max(1, count_gpus())
    workers = share_cores(workers or (1 if replicas > 1 else None))
    from tfseq2seq.runs import open_run, predict_file

    if scores and output_format == "text":
        raise typer.BadParameter("--format text holds no scores; give tsv or jsonl, or leave out --scores.")
    run, prepared = open_run(run_folder, _values(set_))
    predict_file(
        run, prepared, run_folder, None if source == Path("-") else source, output, num_hypotheses=n_best,
        output_format=output_format or ("tsv" if scores or n_best > 1 else "text"), window=window,
        batch_tokens=batch_tokens, workers=workers, replicas=replicas, restart=restart)


@app.command()
def distill(
    run_folder: RunArgument,
    output: Annotated[Path, typer.Argument(help="The data folder to make.", show_default=False)],
    closest: Annotated[bool, typer.Option(
        "--closest", help="Of decode.beam_size answers the one closest to the reference, by sentence BLEU.")] = False,
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
    import_tensorflow()
    from tfseq2seq.prediction import count_gpus, share_cores

    replicas = replicas or max(1, count_gpus())
    workers = share_cores(workers or (1 if replicas > 1 else None))
    from tfseq2seq.runs import open_run
    from tfseq2seq.sequence_distillation import distill_run

    run, prepared = open_run(run_folder, _values(set_))
    count = distill_run(
        run, prepared, run_folder, output, closest=closest, window=window, batch_tokens=batch_tokens, workers=workers,
        replicas=replicas, restart=restart)
    show.print(f"{output}: {count:,} train pairs; next: tfseq2seq train RECIPE --data {output}", highlight=False)


@app.command()
def export(
    run_folder: RunArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: RUN/export.")] = None,
    version: Annotated[int | None, typer.Option(help="Default: the next free number.")] = None,
    set_: DecodeSetOption = None,
) -> None:
    """Write the best checkpoint as a SavedModel for TensorFlow Serving, after proving that it answers the same."""
    import_tensorflow()
    from tfseq2seq.runs import export_run, open_run

    run, prepared = open_run(run_folder, _values(set_))
    with progress_bar() as report:
        path = export_run(run, prepared, run_folder, output or run_folder / "export", version, report)
    show.print(f"exported to {path}; next: tfseq2seq serve {path.parent}", highlight=False)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="An export folder that holds VERSION/ folders.", show_default=False)],
    port: Annotated[int, typer.Option(help="gRPC port; 0 takes a free one.")] = 8500,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    model_name: Annotated[str, typer.Option(help="The name clients ask for.")] = "tfseq2seq",
    backend: Annotated[
        str, typer.Option(help="embedded, or tensorflow_model_server (on PATH; with --host 0.0.0.0).")] = "embedded",
    op_threads: Annotated[int | None, typer.Option(
        min=1, show_default=False, help="Threads that share one operation; 1 is best for requests that come side by "
        "side, with decode.parts and with decode.jit_compile. Default: as many as there are cores.")] = None,
) -> None:
    """Answer gRPC requests as TensorFlow Serving does."""
    import_tensorflow()
    from serving.server import serve as run_server

    def ready(address: str) -> None:
        show.print(
            f"serving {model_name} at {address}; ask with: tfseq2seq request \"TEXT\" --address {address}",
            highlight=False, soft_wrap=True)

    run_server(
        folder, port=port, host=host, model_name=model_name, backend=backend, on_ready=ready, op_threads=op_threads)


@app.command()
def request(
    texts: Annotated[list[str] | None, typer.Argument(help="Strings to send; default: standard input's lines.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Send the lines of this file.")] = None,
    address: AddressOption = "127.0.0.1:8500",
    model_name: Annotated[str, typer.Option(help="The served model.")] = "tfseq2seq",
    signature: Annotated[str | None, typer.Option(help=SIGNATURE_HELP, show_default=False)] = None,
    target: Annotated[list[str] | None, typer.Option(help="For score: one target a text, in order.")] = None,
    prefix: Annotated[str | None, typer.Option(help="What an answer begins with.")] = None,
    phrase: Annotated[
        list[str] | None, typer.Option(help="For beam: what an answer contains. May be repeated.")] = None,
    length_penalty: Annotated[float | None, typer.Option(help="Of the score; 0 turns it off.")] = None,
    min_length: Annotated[int | None, typer.Option(help="Tokens, end token included.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens, end token included.")] = None,
    temperature: Annotated[float | None, typer.Option(help="For sample; 0 takes the likeliest token.")] = None,
    top_k: Annotated[int | None, typer.Option(help="For sample: tokens that may be drawn; 0 is all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="For sample: share of probability that may be drawn.")] = None,
    min_p: Annotated[float | None, typer.Option(help="For sample: least share of the likeliest's probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="For sample: the same one gives the same answers.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all that is told, an object a text.")] = False,
) -> None:
    """Send raw strings to a server; print each hypothesis with its score, best first.

    What is not given is as it was exported.
    """
    from serving.client import Client
    from serving.signatures import BEAM, SCORE, SERVING_DEFAULT

    asked = {
        "prefix": prefix, "phrases": phrase, "length_penalty": length_penalty, "min_length": min_length,
        "max_length": max_length, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "seed": seed}
    asked = {name: value for name, value in asked.items() if value is not None and value != []}
    signature = signature or (BEAM if asked else SERVING_DEFAULT)
    _check_request(signature, asked)
    if file:
        from pipelines.reading import read_lines

        lines = read_lines(file)
    else:
        lines = list(texts) if texts else [line.rstrip("\n") for line in sys.stdin]
    client = Client(address, model=model_name, timeout=timeout)
    if signature == SCORE:
        targets = list(target or [])
        if len(targets) != len(lines):
            raise typer.BadParameter(
                f"score needs one --target a text. Received: {len(lines)} texts, {len(targets)} targets.")
        for pair, each in zip(zip(lines, targets, strict=True), client.score_tokens(lines, targets), strict=True):
            report = {"source": pair[0], "target": pair[1], "token_log_probabilities": each}
            print(_as_json(report | {"log_probability": sum(each)}) if as_json else f"{sum(each):.4f}\t{pair[0]}")
        return
    for text, row in zip(lines, _answers(client, signature, lines, asked), strict=True):
        if as_json:
            told = [{key: value for key, value in each._asdict().items() if value is not None} for each in row]
            print(_as_json({"text": text, "hypotheses": told}))
        else:
            for hypothesis in row:
                print(f"{text}\t{hypothesis.score:.4f}\t{hypothesis.text}")


def _check_request(signature: str, asked: dict[str, Any]) -> None:
    from serving.signatures import SIGNATURES

    if signature not in SIGNATURES:
        raise typer.BadParameter(f"--signature must be one of {', '.join(SIGNATURES)}. Received: {signature!r}.")
    for name in asked.keys() - SIGNATURES[signature].inputs.keys():
        takers = [each for each, known in SIGNATURES.items() if name in known.inputs]
        option = "--phrase" if name == "phrases" else f"--{name.replace('_', '-')}"
        raise typer.BadParameter(f"{option} needs --signature {' or '.join(takers)}. Received: {signature}.")


def _answers(client: Any, signature: str, lines: list[str], asked: dict[str, Any]) -> list[list[Any]]:
    from serving.signatures import ALTERNATIVES, SAMPLE

    if signature == SAMPLE:
        return client.sample(lines, **asked)
    if signature == ALTERNATIVES:
        return client.alternatives(lines, asked.get("prefix"))
    return client.predict(lines, signature, **asked)


def _as_json(report: dict[str, Any]) -> str:
    return json.dumps(report, ensure_ascii=False)


@app.command()
def demo(
    task: Annotated[str, typer.Option(help="pronunciation (minutes) or translation (an hour).")] = "pronunciation",
    pair: Annotated[str, typer.Option(help="For translation: source-target, as en-fr.")] = "en-fr",
    minutes: Annotated[float | None, typer.Option(help="Longest training time; default: the task's own.")] = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """From nothing to answers over gRPC: obtain data, train, score, export, serve, ask."""
    import_tensorflow()
    from tfseq2seq.demo import run_demo

    run_demo(task, pair, minutes, runs, Console())


def _load(recipe: Path, data: Path | None, overrides: list[str] | None) -> Any:
    from tfseq2seq.config import load_recipe

    values = _values(overrides)
    if data is not None:
        values |= {f"data.{key}": None for key in ("corpus", "pair", "train", "valid", "test")}
        values |= {"data.folder": str(data), "data.sets": []}
    run = load_recipe(recipe, values)
    import_tensorflow()
    from pipelines.tasks import find_task
    from tfseq2seq.evaluation import order_metrics

    try:
        order_metrics(find_task(run.task).metrics, run.train.metric)
    except ValueError as error:
        raise ConfigError(f"{recipe}: {error}") from None
    return run


def _values(overrides: list[str] | None) -> dict[str, Any]:
    """--set KEY=VALUE as plain values."""
    values: dict[str, Any] = {}
    for item in overrides or []:
        key, separator, text = item.partition("=")
        if not separator:
            raise typer.BadParameter(f"--set needs KEY=VALUE. Received: {item!r}.")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text  # a bare word is a string
    return values
