"""Commands from a run to an answered request."""

from pathlib import Path
from typing import Annotated

import typer

from tfseq2seq.cli.shared import DecodeSetOption, RunArgument, to_values
from tfseq2seq.console import progress_bar, show
from tfseq2seq.quiet import import_tensorflow


def export(
    run_folder: RunArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: RUN/export.")] = None,
    version: Annotated[int | None, typer.Option(help="Default: the next free number.")] = None,
    set_: DecodeSetOption = None,
) -> None:
    """Write the best checkpoint as a SavedModel for TensorFlow Serving, after proving that it answers the same."""
    import_tensorflow()
    from tfseq2seq.runs import export_run, open_run

    run, prepared = open_run(run_folder, to_values(set_))
    with progress_bar() as report:
        path = export_run(run, prepared, run_folder, output or run_folder / "export", version, report)
    show.print(f"exported to {path}; next: tfseq2seq serve {path.parent}", highlight=False)


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
