"""`tfseq2seq request` against the fake model, which writes the options that it was sent behind its answers."""

import json
import sys

import pytest

from tests.serving.scripted import Script, grpc_server, secured
from tfseq2seq import cli


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command; returns its exit code, what it prints and what it complains of."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tfseq2seq", *arguments])
        monkeypatch.setattr(cli.show, "width", 1000)
        code = 0
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def request_(command, server):
    """`request` at the server's gRPC address."""
    return lambda *arguments: command("request", "--address", server.address, *arguments)


def test_the_default_signature_is_asked_where_nothing_is_asked_for(request_):
    assert request_("one", "x")[:2] == (0, "one\t-1.0000\tun\none\t-2.0000\tun!\nx\t-0.5000\tX\nx\t-1.5000\tX!\n")
    assert request_("x", "--signature", "greedy")[1] == "x\t-0.5000\tX\n"


def test_the_rest_api_answers_the_same(command, request_, server):
    expected = request_("one", "--json", "--signature", "beam")
    assert expected[0] == 0
    for address in (["--address", server.rest_address], ["--rest", "--address", server.rest_address.removeprefix("http://")]):
        assert command("request", "one", "--json", "--signature", "beam", *address)[:2] == expected[:2]


def test_a_version_that_is_not_there_is_told_in_one_line(request_):
    code, _, complaint = request_("one", "--model-version", "7")
    assert code == 1 and "NOT_FOUND: Servable not found for request: Specific(tfseq2seq, 7)" in complaint


def test_tls_and_token_go_along(command, certificates, monkeypatch):
    script = Script(token="secret")
    with grpc_server(script, secured("grpc", certificates)["credentials"]) as address:
        arguments = ("request", "ab", "--address", address, "--ca-file", str(certificates / "ca.pem"))
        assert command(*arguments, "--token", "secret")[:2] == (0, "ab\t2.0000\tAB\n")
        assert "UNAUTHENTICATED" in command(*arguments)[2]
        monkeypatch.setenv("TFSEQ2SEQ_TOKEN", "secret")
        assert command(*arguments)[0] == 0


def test_options_go_to_the_beam(request_):
    options = ["--prefix", "a ", "--phrase", "b", "--phrase", "c d", "--length-penalty", "0.5", "--max-length", "6"]
    code, told, _ = request_("x", *options, "--min-length", "2", "--json")
    assert code == 0
    assert json.loads(told) == {
        "text": "x",
        "hypotheses": [
            {
                "text": f"a X{mark}|2:6:b\nc d",
                "score": score - 0.5,
                "log_probability": score,
                "length": 2,
                "alignment": [[0, 0], [1, 2]],
                "token_log_probabilities": [score, 0.0],
                "tokens": [f"X{mark}", "</s>"],
            }
            for mark, score in (("", -0.5), ("!", -1.5))
        ],
    }
    assert request_("x", "--signature", "beam")[1] == "x\t-0.5000\tX|-1:-1:\nx\t-1.5000\tX!|-1:-1:\n"


def test_json_without_options_tells_what_the_default_signature_tells(request_):
    told = json.loads(request_("é", "--json")[1])
    assert told["text"] == "é" and told["hypotheses"][0].keys() == {"text", "score"}
    assert "truncated" not in told and json.loads(request_("x" * 10, "--json")[1])["truncated"]  # its limit is 9


def test_settings_of_draws_go_to_sample(request_):
    told = request_(
        "x", "--signature", "sample", "--temperature", "0.5", "--top-k", "3", "--top-p", "0.25", "--min-p", "0",
        "--seed", "9")[1]
    assert told.splitlines()[0] == "x\t-0.5000\tX|-1:-1:0.50:3:0.25:0.00:9"


def test_alternatives_follow_the_prefix(request_):
    assert request_("x", "--signature", "alternatives", "--prefix", "a")[1] == "x\t-0.5000\taX|\nx\t-1.5000\taX!|\n"


def test_a_pair_is_scored_token_by_token(request_):
    arguments = ["ab", "--signature", "score", "--target", "x"]
    assert request_(*arguments)[1] == "-1.5000\tab\tx\n"
    assert json.loads(request_(*arguments, "--json")[1]) == {
        "source": "ab", "target": "x", "token_log_probabilities": [-0.75, -0.75], "log_probability": -1.5}


def test_tokens_of_the_source_are_told(request_):
    assert request_("ab", "--signature", "tokenize")[1] == "ab\tab </s>\n"
    assert json.loads(request_("ab", "--signature", "tokenize", "--json")[1]) == {
        "text": "ab", "tokens": ["ab", "</s>"], "ids": [7, 3], "truncated": False}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--temperature", "0.5"], 2, "--temperature needs --signature sample. Received: beam."),
        (["--signature", "alternatives", "--phrase", "b"], 2, "--phrase needs --signature beam. Received: alter"),
        (["--signature", "greedy", "--prefix", "b"], 2, "needs --signature beam or sample or alternatives"),
        (["--signature", "beems"], 2, "one of serving_default, greedy, beam, sample, alternatives, score, tokenize."),
        (["--signature", "score"], 2, "score needs one --target a text. Received: 1 texts, 0 targets."),
        (["--max-length", "-1"], 1, "Client needs int32 numbers other than -1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(request_, arguments, code, message):
    told = request_("x", *arguments)
    assert told[0] == code and message in " ".join(told[2].replace("│", " ").split())


@pytest.mark.parametrize("load", [["--callers", "2"], ["--rate", "200"]])
def test_a_load_test_prints_its_figures_and_draws_them(command, tmp_path, load):
    lines, picture = tmp_path / "lines.txt", tmp_path / "load.png"
    lines.write_text("one\ntwo\n", encoding="utf-8")
    with grpc_server(Script()) as address:
        arguments = (
            "bench-serving", address, "--file", str(lines), *load, "--requests", "20", "--seconds", "30", "--warm-up",
            "0", "--rows", "2")
        code, told, _ = command(*arguments, "--json", "--plot", str(picture))
        assert code == 0
        numbers = json.loads(told)
        assert numbers["answered"] == 20 and numbers["errors"] == {} and numbers["load"]["rows"] == 2
        assert 0 < numbers["latency_ms"]["p50"] <= numbers["latency_ms"]["p99"] <= numbers["latency_ms"]["max"]
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert command(*arguments)[1].startswith("answered    20 requests in ")


def test_shares_that_are_no_numbers_are_refused(command, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("one\n", encoding="utf-8")
    told = command("bench-serving", "127.0.0.1:1", "-f", str(lines), "--signature", "greedy=much")
    assert told[0] == 2 and "NAME or NAME=SHARE. Received: 'greedy=much'" in " ".join(told[2].replace("│", " ").split())
