"""`tfseq2seq request` against the fake model, which writes the options that it was sent behind its answers."""

import json
import sys

import pytest

from tfseq2seq import cli


@pytest.fixture
def request_(monkeypatch, capsys, server):
    """Runs the command; returns its exit code, what it prints and what it complains of."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tfseq2seq", "request", "--address", server.address, *arguments])
        monkeypatch.setattr(cli.show, "width", 1000)
        code = 0
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code or 0
        return code, *capsys.readouterr()

    return run


def test_the_default_signature_is_asked_where_nothing_is_asked_for(request_):
    assert request_("one", "x")[:2] == (0, "one\t-1.0000\tun\none\t-2.0000\tun!\nx\t-0.5000\tX\nx\t-1.5000\tX!\n")
    assert request_("x", "--signature", "greedy")[1] == "x\t-0.5000\tX\n"


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
    assert request_(*arguments)[1] == "-1.5000\tab\n"
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
