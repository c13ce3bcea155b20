"""Commands from a run to an answered request."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipelines.folders import refuse_file_above
from serving.starting import check_server
from tfseq2seq import arguments
from tfseq2seq.cli.shared import DecodeSetOption, RunArgument, to_values
from tfseq2seq.console import command, progress_bar, show
from tfseq2seq.quiet import import_tensorflow

MODELS, WORK, LIMITS, SECURITY = "Models and versions", "Work", "Limits", "Security"  # panels of the help


def export(
    run_folder: RunArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: RUN/export.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Default: the next free number.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Give the new version this label, as stable. May be repeated.")] = None,
    weights: Annotated[str | None, typer.Option(
        help="float32, float16, bfloat16 or int8, as they are stored. Default: export.weights of the recipe.")] = None,
    set_: DecodeSetOption = None,
) -> None:
    """Write the best checkpoint as a SavedModel for TensorFlow Serving, after proving that it answers the same."""
    output = output or run_folder / "export"
    arguments.check_trained(run_folder, to_values(set_))
    refuse_file_above(output)
    import_tensorflow()
    from serving.folders import change_labels, check_label
    from tfseq2seq.runs import export_run, open_run

    for name in label or []:
        check_label(name)
    run, prepared = open_run(run_folder, to_values(set_) | ({"export.weights": weights} if weights else {}))
    with progress_bar() as report:
        path = export_run(run, prepared, run_folder, output, version, report)
    if label:
        change_labels(path.parent, dict.fromkeys(label, int(path.name)))
    show.print(
        f"exported to {escape(str(path))}; next: {command('serve', path.parent)}", highlight=False, soft_wrap=True)


def serve(
    folder: Annotated[
        Path | None, typer.Argument(help="An export folder that holds VERSION/ folders.", show_default=False)] = None,
    port: Annotated[int, typer.Option(help="gRPC port; 0 takes a free one.")] = 8500,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    rest_port: Annotated[int | None, typer.Option(
        show_default=False, help="Port of the REST API, the page and the metrics, as 8501; 0 takes a free one. "
        "Default: none.")] = None,
    model_name: Annotated[str, typer.Option(help="The name clients ask for.")] = "tfseq2seq",
    backend: Annotated[
        str, typer.Option(help="embedded, or tensorflow_model_server (on PATH; with --host 0.0.0.0).")] = "embedded",
    model_config_file: Annotated[Path | None, typer.Option(
        show_default=False, rich_help_panel=MODELS, help="Models and versions, as TensorFlow Serving's models.config; "
        "instead of FOLDER.")] = None,
    poll_seconds: Annotated[float, typer.Option(
        min=0, rich_help_panel=MODELS, help="How often to look for new versions; 0 is never.")] = 2.0,
    op_threads: Annotated[int | None, typer.Option(
        min=1, show_default=False, rich_help_panel=WORK, help="Threads that share one operation; 1 is best for "
        "requests that come side by side, with decode.parts and with decode.jit_compile. Default: as many as there are "
        "cores.")] = None,
    workers: Annotated[int | None, typer.Option(
        min=1, show_default=False, rich_help_panel=WORK, help="Requests worked on at once, those that wait for a batch "
        "included. Default: 4 a core, and twice --max-batch-size at least.")] = None,
    batching: Annotated[bool, typer.Option(
        rich_help_panel=WORK, help="Compute rows of several requests together.")] = True,
    max_batch_size: Annotated[int, typer.Option(
        min=1, rich_help_panel=WORK, help="Rows of a batch, and so of a request.")] = 32,
    batch_timeout_micros: Annotated[int, typer.Option(
        min=0, rich_help_panel=WORK, help="Microseconds that a batch waits to be full.")] = 2000,
    num_batch_threads: Annotated[int | None, typer.Option(
        min=1, show_default=False, rich_help_panel=WORK, help="Batches computed at once. Default: half of the "
        "cores.")] = None,
    max_enqueued_batches: Annotated[int, typer.Option(
        min=1, rich_help_panel=WORK, help="Full batches that may wait, of each signature.")] = 100,
    max_waiting: Annotated[int, typer.Option(
        min=0, rich_help_panel=LIMITS, help="Requests that may wait for a worker; more get RESOURCE_EXHAUSTED.")] = 256,
    max_request_bytes: Annotated[int, typer.Option(
        min=1, rich_help_panel=LIMITS, help="Size of a request.")] = 4 << 20,
    max_rows: Annotated[int, typer.Option(min=1, rich_help_panel=LIMITS, help="Rows of a request.")] = 1024,
    rest_timeout: Annotated[float, typer.Option(
        min=0.001, rich_help_panel=LIMITS, help="Seconds until a REST request gives up.")] = 30.0,
    grace: Annotated[float, typer.Option(
        min=0, rich_help_panel=LIMITS, help="Seconds that requests get to end after SIGTERM.")] = 30.0,
    certificate: Annotated[Path | None, typer.Option(
        show_default=False, rich_help_panel=SECURITY, help="PEM file; with --key it turns on TLS on both "
        "ports.")] = None,
    key: Annotated[Path | None, typer.Option(
        show_default=False, rich_help_panel=SECURITY, help="PEM file of the certificate's key.")] = None,
    client_ca: Annotated[Path | None, typer.Option(
        show_default=False, rich_help_panel=SECURITY, help="PEM file; clients must show a certificate that it "
        "signed.")] = None,
    token_file: Annotated[Path | None, typer.Option(
        show_default=False, rich_help_panel=SECURITY, help="File with the bearer token that requests must bring. "
        "Default: the environment variable TFSEQ2SEQ_TOKEN, or no token.")] = None,
    log_format: Annotated[
        str, typer.Option(help="A line for each request on standard error: none, text or json.")] = "none",
) -> None:
    """Answer gRPC and REST requests as TensorFlow Serving does."""
    if (folder is None) == (model_config_file is None):
        raise typer.BadParameter("serve needs FOLDER or --model-config-file, and not both.")
    check_server(folder, port, host, backend)
    import_tensorflow()
    from serving.answers import read_config_file
    from serving.security import read_token
    from serving.server import serve as run_server
    from serving.settings import BATCHING, Batching, Limits, Security

    def ready(address: str) -> None:
        name = model_name if model_config_file is None else str(model_config_file)
        show.print(
            f"serving {name} at {address}; ask with: tfseq2seq request \"TEXT\" --address {address}",
            highlight=False, soft_wrap=True)
        if rest_port:
            scheme = "https" if certificate else "http"
            show.print(f"page and REST API at {scheme}://{host}:{rest_port}", highlight=False, soft_wrap=True)

    joined = Batching(
        max_batch_size=max_batch_size, batch_timeout_micros=batch_timeout_micros,
        num_batch_threads=num_batch_threads or BATCHING.num_batch_threads, max_enqueued_batches=max_enqueued_batches)
    run_server(
        folder, port=port, host=host, model_name=model_name, backend=backend, on_ready=ready, op_threads=op_threads,
        models=read_config_file(model_config_file) if model_config_file else (), workers=workers,
        batching=joined if batching else None, poll_seconds=poll_seconds, rest_port=rest_port, log_format=log_format,
        limits=Limits(
            max_waiting=max_waiting, max_request_bytes=max_request_bytes, max_rows=max_rows, rest_timeout=rest_timeout,
            grace=grace),
        security=Security(certificate=certificate, key=key, client_ca=client_ca, token=read_token(token_file)))
