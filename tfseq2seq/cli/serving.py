"""Commands from a run to an answered request."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tfseq2seq.cli.shared import DecodeSetOption, RunArgument, to_values
from tfseq2seq.console import progress_bar, show
from tfseq2seq.quiet import import_tensorflow

SIGNATURE_HELP = (
    "serving_default (the recipe's search), greedy, beam, sample, alternatives (to what follows the prefix), or score. "
    "Default: serving_default, or beam with options.")
RECORDINGS = (".wav", ".flac", ".ogg", ".mp3")
AddressOption = Annotated[str, typer.Option("--address", help="host:port of the gRPC server.")]


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


def request(
    texts: Annotated[list[str] | None, typer.Argument(help="Strings to send; default: standard input's lines.")] = None,
    file: Annotated[Path | None, typer.Option(
        "--file", "-f", help="Send the lines of this file; or, of speech, this recording (.wav, .flac, .ogg, .mp3).")
    ] = None,
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
    contents: list[Any] | None = None
    if file and file.suffix.lower() in RECORDINGS:
        import_tensorflow()
        from pipelines.recordings import read_recording

        lines, contents = [str(file)], [read_recording(file)]
    elif file:
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
        scores = client.score_tokens(contents or lines, targets)
        for pair, each in zip(zip(lines, targets, strict=True), scores, strict=True):
            report = {"source": pair[0], "target": pair[1], "token_log_probabilities": each}
            print(_as_json(report | {"log_probability": sum(each)}) if as_json else f"{sum(each):.4f}\t{pair[0]}")
        return
    for text, row in zip(lines, _answers(client, signature, contents or lines, asked), strict=True):
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


def _answers(client: Any, signature: str, lines: list[Any], asked: dict[str, Any]) -> list[list[Any]]:
    from serving.signatures import ALTERNATIVES, SAMPLE

    if signature == SAMPLE:
        return client.sample(lines, **asked)
    if signature == ALTERNATIVES:
        return client.alternatives(lines, asked.get("prefix"))
    return client.predict(lines, signature, **asked)


def _as_json(report: dict[str, Any]) -> str:
    return json.dumps(report, ensure_ascii=False)
