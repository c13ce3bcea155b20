"""The command line. Each command is a thin call; TensorFlow is imported only inside them."""

import contextlib
import os
import sys
from typing import Annotated

import typer
from rich.markup import escape

from tfseq2seq import cpu
from tfseq2seq.cli import answering, asking, clusters, exporting, importing, learning, serving
from tfseq2seq.config import ConfigError
from tfseq2seq.console import command, show
from tfseq2seq.interruption import Interrupted

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

# In the order of the help.
COMMANDS = (
    learning.check, learning.describe, learning.prepare, learning.train, learning.largest_batch, learning.feed,
    learning.average, importing.import_model, answering.evaluate, answering.compare, answering.predict, answering.chat,
    answering.distill,
    serving.export, exporting.check_export, exporting.label, exporting.serving_config, serving.serve, asking.request,
    asking.bench_serving, clusters.bulk, clusters.prepare_corpus, learning.demo)
for each in COMMANDS:
    app.command("import" if each is importing.import_model else None)(each)  # no function can have that name


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
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(INTERRUPTED)  # `sys.exit` would wait for the batches that threads are decoding
    except Interrupted as interruption:
        show.print(f"{interruption}: saved; to go on: {command(*sys.argv[1:])}", highlight=False, soft_wrap=True)
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
