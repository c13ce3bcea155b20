"""Commands that ask a server; none of them needs TensorFlow."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tfseq2seq.console import progress_bar, show
from tfseq2seq.quiet import import_tensorflow

CONNECTION, SECURITY, SEARCH, LOAD = "Connection", "Security", "What is asked for", "Load"
SIGNATURE_HELP = (
    "serving_default (the recipe's search), greedy, beam, sample, alternatives (to what follows the prefix), score, or "
    "tokenize. Default: serving_default, or beam with options.")
DEFAULT_PORT = 8500  # TensorFlow Serving's, of gRPC
ADDRESS_HELP = f"host:port of the gRPC server, or host for port {DEFAULT_PORT}; or http://host:port of its REST API."

RestOption = Annotated[bool, typer.Option(
    "--rest", help="The address is of the REST API, also without http:// before it.", rich_help_panel=CONNECTION)]
ModelOption = Annotated[str, typer.Option(help="The served model.", rich_help_panel=CONNECTION)]
VersionOption = Annotated[int | None, typer.Option(
    "--model-version", help="Default: the one the server chooses, its highest.", show_default=False,
    rich_help_panel=CONNECTION)]
LabelOption = Annotated[str | None, typer.Option(
    "--label", help="Of a version, instead of its number.", rich_help_panel=CONNECTION)]
TlsOption = Annotated[bool, typer.Option(
    "--tls", help="Encrypt, and trust known authorities; an option below or https:// does so too.",
    rich_help_panel=SECURITY)]
CaOption = Annotated[Path | None, typer.Option(
    "--ca-file", help="PEM certificates that the server's must descend from.", rich_help_panel=SECURITY)]
CertificateOption = Annotated[Path | None, typer.Option(
    "--certificate", help="PEM chain of this client, for a server that asks for one.", rich_help_panel=SECURITY)]
KeyOption = Annotated[Path | None, typer.Option(
    "--key", help="PEM private key of the certificate.", rich_help_panel=SECURITY)]
ServerNameOption = Annotated[str | None, typer.Option(
    "--server-name", help="The name in the server's certificate, where the address has another.",
    rich_help_panel=SECURITY)]
TokenOption = Annotated[str | None, typer.Option(
    "--token", envvar="TFSEQ2SEQ_TOKEN", show_envvar=True, help="Bearer token; better given by the variable, which no "
    "list of processes shows.", rich_help_panel=SECURITY)]
RECORDINGS = (".wav", ".flac", ".ogg", ".mp3")  # what a name ends in whose file is sent whole


def _tls(tls: bool, ca_file: Path | None, certificate: Path | None, key: Path | None, server_name: str | None) -> Any:
    from serving.client import Tls

    if tls or any(each is not None for each in (ca_file, certificate, key, server_name)):
        return Tls(ca_file, certificate, key, server_name)
    return None


def request(
    texts: Annotated[list[str] | None, typer.Argument(help="Strings to send; default: standard input's lines.")] = None,
    file: Annotated[Path | None, typer.Option(
        "--file", "-f", help="Send the lines of this file; or, of speech, this recording (.wav, .flac, .ogg, .mp3).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all that is told, an object a text.")] = False,
    address: Annotated[str, typer.Option(help=ADDRESS_HELP, rich_help_panel=CONNECTION)] = f"127.0.0.1:{DEFAULT_PORT}",
    rest: RestOption = False,
    model_name: ModelOption = "tfseq2seq",
    model_version: VersionOption = None,
    label: LabelOption = None,
    timeout: Annotated[float, typer.Option(
        help="Seconds to wait for each request, further tries included.", rich_help_panel=CONNECTION)] = 60.0,
    tries: Annotated[int, typer.Option(
        min=1, help="How often a request is sent while the server is unavailable.", rich_help_panel=CONNECTION)] = 5,
    tls: TlsOption = False,
    ca_file: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    server_name: ServerNameOption = None,
    token: TokenOption = None,
    signature: Annotated[
        str | None, typer.Option(help=SIGNATURE_HELP, show_default=False, rich_help_panel=SEARCH)] = None,
    target: Annotated[list[str] | None, typer.Option(
        help="For score: one target a text, in order.", rich_help_panel=SEARCH)] = None,
    prefix: Annotated[str | None, typer.Option(help="What an answer begins with.", rich_help_panel=SEARCH)] = None,
    phrase: Annotated[list[str] | None, typer.Option(
        help="For beam: what an answer contains. May be repeated.", rich_help_panel=SEARCH)] = None,
    length_penalty: Annotated[float | None, typer.Option(
        help="Of the score; 0 turns it off.", rich_help_panel=SEARCH)] = None,
    min_length: Annotated[int | None, typer.Option(
        help="Tokens, end token included.", rich_help_panel=SEARCH)] = None,
    max_length: Annotated[int | None, typer.Option(
        help="Tokens, end token included.", rich_help_panel=SEARCH)] = None,
    temperature: Annotated[float | None, typer.Option(
        help="For sample; 0 takes the likeliest token.", rich_help_panel=SEARCH)] = None,
    top_k: Annotated[int | None, typer.Option(
        help="For sample: tokens that may be drawn; 0 is all.", rich_help_panel=SEARCH)] = None,
    top_p: Annotated[float | None, typer.Option(
        help="For sample: share of probability that may be drawn.", rich_help_panel=SEARCH)] = None,
    min_p: Annotated[float | None, typer.Option(
        help="For sample: least share of the likeliest's probability.", rich_help_panel=SEARCH)] = None,
    seed: Annotated[int | None, typer.Option(
        help="For sample: the same one gives the same answers.", rich_help_panel=SEARCH)] = None,
) -> None:
    """Send raw strings to a server; print each hypothesis with its score, best first.

    What is not given is as it was exported.
    """
    from serving.client import Retry, connect
    from serving.signatures import BEAM, SERVING_DEFAULT

    asked = {
        "prefix": prefix, "phrases": phrase, "length_penalty": length_penalty, "min_length": min_length,
        "max_length": max_length, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "seed": seed}
    asked = {name: value for name, value in asked.items() if value is not None and value != []}
    signature = signature or (BEAM if asked else SERVING_DEFAULT)
    _check_request(signature, asked)
    if file and texts:
        raise typer.BadParameter(f"give TEXTS or --file, not both. Received: {len(texts)} texts and --file {file}.")
    lines: list[str]
    sent: list[Any]
    if file and file.suffix.lower() in RECORDINGS:
        import_tensorflow()
        from pipelines.recordings import read_recording

        lines, sent = [str(file)], [read_recording(file)]
    else:
        lines = sent = _lines(texts, file)
    with connect(
        _with_port(address, rest), rest=rest, model=model_name, timeout=timeout, version=model_version, label=label,
        retry=Retry(tries=tries), tls=_tls(tls, ca_file, certificate, key, server_name), token=token,
    ) as client:
        _answer(client, signature, lines, sent, list(target or []), asked, as_json)


def _with_port(address: str, rest: bool) -> str:
    """An address as gRPC understands it: without a port it would ask 443."""
    if rest or "/" in address:  # "http://host", or "unix:/run/socket"
        return address
    if re.fullmatch(r"[^:\[\]]+|\[[0-9a-fA-F:.]+\]", address):
        return f"{address}:{DEFAULT_PORT}"
    if re.fullmatch(r"([^:\[\]]+|\[[0-9a-fA-F:.]+\]):\d+", address):
        return address
    raise typer.BadParameter(
        f"--address needs HOST:PORT, or HOST for port {DEFAULT_PORT}; an IPv6 address stands in [brackets]. "
        f"Received: {address!r}.")


def _lines(texts: list[str] | None, file: Path | None) -> list[str]:
    if file:
        from pipelines.reading import read_lines

        return list(read_lines(file))
    return list(texts) if texts else [line.rstrip("\n") for line in sys.stdin]


def _check_request(signature: str, asked: dict[str, Any]) -> None:
    from serving.signatures import SIGNATURES

    if signature not in SIGNATURES:
        raise typer.BadParameter(f"--signature must be one of {', '.join(SIGNATURES)}. Received: {signature!r}.")
    for name in asked.keys() - SIGNATURES[signature].inputs.keys():
        takers = [each for each, known in SIGNATURES.items() if name in known.inputs]
        option = "--phrase" if name == "phrases" else f"--{name.replace('_', '-')}"
        raise typer.BadParameter(f"{option} needs --signature {' or '.join(takers)}. Received: {signature}.")


def _answer(
    client: Any, signature: str, lines: list[str], sent: list[Any], targets: list[str], asked: dict[str, Any],
    as_json: bool,
) -> None:
    """Asks for what is sent, and prints the answers, each beside its line."""
    from serving.signatures import SCORE, TOKENIZE

    if signature == SCORE:
        if len(targets) != len(lines):
            raise typer.BadParameter(
                f"score needs one --target a text. Received: {len(lines)} texts, {len(targets)} targets.")
        for pair, each in zip(zip(lines, targets, strict=True), client.score_tokens(sent, targets), strict=True):
            report = {"source": pair[0], "target": pair[1], "token_log_probabilities": each}
            line = "\t".join((f"{sum(each):.4f}", *pair))
            print(_as_json(report | {"log_probability": sum(each)}) if as_json else line)
    elif signature == TOKENIZE:
        for text, tokens in zip(lines, client.tokenize(sent), strict=True):
            print(_as_json({"text": text, **tokens._asdict()}) if as_json else f"{text}\t{' '.join(tokens.tokens)}")
    else:
        for text, row in zip(lines, _hypotheses(client, signature, sent, asked), strict=True):
            _print_row(text, row, as_json)


def _hypotheses(client: Any, signature: str, lines: list[Any], asked: dict[str, Any]) -> list[list[Any]]:
    from serving.signatures import ALTERNATIVES, SAMPLE

    if signature == SAMPLE:
        return client.sample(lines, **asked)
    if signature == ALTERNATIVES:
        return client.alternatives(lines, asked.get("prefix"))
    return client.predict(lines, signature, **asked)


def _print_row(text: str, row: list[Any], as_json: bool) -> None:
    if as_json:
        told = [
            {key: value for key, value in each._asdict().items() if value is not None and key != "truncated"}
            for each in row]
        cut = {"truncated": True} if any(each.truncated for each in row) else {}
        print(_as_json({"text": text, **cut, "hypotheses": told}))
        return
    for hypothesis in row:
        print(f"{text}\t{hypothesis.score:.4f}\t{hypothesis.text}")


def _as_json(report: dict[str, Any]) -> str:
    return json.dumps(report, ensure_ascii=False)


def bench_serving(
    address: Annotated[str, typer.Argument(help=ADDRESS_HELP)],
    file: Annotated[Path, typer.Option("--file", "-f", help="Texts to send, one a line, over and over.")],
    callers: Annotated[int | None, typer.Option(
        help="Closed loop: so many ask, and wait for their answer before they ask again. Default: 16, without --rate.",
        show_default=False, rich_help_panel=LOAD)] = None,
    rate: Annotated[float | None, typer.Option(
        help="Open loop: requests a second, at random times; latency counts from when one was meant to start.",
        show_default=False, rich_help_panel=LOAD)] = None,
    seconds: Annotated[float, typer.Option(help="How long, at most an hour.", rich_help_panel=LOAD)] = 10.0,
    warm_up: Annotated[float, typer.Option(
        help="Seconds of the same load before, not counted.", rich_help_panel=LOAD)] = 2.0,
    requests: Annotated[int, typer.Option(help="At most so many.", rich_help_panel=LOAD)] = 1_000_000,
    rows: Annotated[int, typer.Option(help="Texts in a request.", rich_help_panel=LOAD)] = 1,
    signature: Annotated[list[str] | None, typer.Option(
        help="NAME or NAME=SHARE; repeated, a mix: greedy=3 and beam=1. Default: serving_default.", show_default=False,
        rich_help_panel=LOAD)] = None,
    draw_seed: Annotated[int, typer.Option(help="Of arrivals and of the mix.", rich_help_panel=LOAD)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw latency over time and its distribution (PNG).")] = None,
    rest: RestOption = False,
    model_name: ModelOption = "tfseq2seq",
    model_version: VersionOption = None,
    label: LabelOption = None,
    timeout: Annotated[float, typer.Option(
        help="Seconds to wait for each request; then it has failed.", rich_help_panel=CONNECTION)] = 30.0,
    tls: TlsOption = False,
    ca_file: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    server_name: ServerNameOption = None,
    token: TokenOption = None,
) -> None:
    """Ask a server as many do, and tell latencies, throughput and errors; nothing that fails is sent again."""
    from serving import bench
    from serving.client import Retry, connect_async

    load = bench.Load(
        16 if callers is None and rate is None else callers, rate, seconds, warm_up, requests, rows,
        _shares(signature), draw_seed)
    texts = _lines(None, file)
    # Over REST each request under way holds a thread here.
    parallel = load.callers or bench.MOST_THREADS
    client = connect_async(
        _with_port(address, rest), rest=rest, model=model_name, timeout=timeout, version=model_version, label=label,
        rows=rows, retry=Retry(tries=1), tls=_tls(tls, ca_file, certificate, key, server_name), token=token,
        parallel=parallel)
    with progress_bar() as report:
        result = bench.run(
            client, texts, load, lambda done: report("asking", min(done, warm_up + seconds), warm_up + seconds))
    if plot:
        bench.plot(result).savefig(plot)
    print(result.json() if as_json else result.text())
    if result.client_cpu > 0.8:
        show.print(
            f"this command took {100 * result.client_cpu:.0f} % of a core: it may be what limits the throughput",
            highlight=False)


def _shares(signatures: list[str] | None) -> dict[str, float]:
    from serving.signatures import SERVING_DEFAULT

    shares = {}
    for each in signatures or [SERVING_DEFAULT]:
        name, _, share = each.partition("=")
        try:
            shares[name] = float(share or 1)
        except ValueError:
            raise typer.BadParameter(f"--signature needs NAME or NAME=SHARE. Received: {each!r}.") from None
    return shares
