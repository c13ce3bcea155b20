"""The command line: what a user's mistake prints, and what the commands do on a finished run."""

import contextlib
import io
import json
import socket
import sys

import pytest

import tfseq2seq
from serving.client import Client
from serving.server import EmbeddedServer
from tfseq2seq import cli, runs
from tfseq2seq.chat import RunPartner, ServedPartner


def run(monkeypatch, *arguments):
    """Runs the console script; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["tfseq2seq", *map(str, arguments)])
    monkeypatch.setattr(cli.show, "width", 1000)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


@pytest.fixture
def fails(monkeypatch, capsys):
    """Runs a command that must fail; returns the one line that it prints."""

    def check(*arguments, code=1):
        assert run(monkeypatch, *arguments) == code
        told = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in told if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in "\n".join(told)
        return errors[0]

    return check


@pytest.fixture
def pairs(tmp_path):
    """A folder of three files of pairs, and a function that writes one of them anew."""

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path

    for name in ("train", "valid", "test"):
        write(f"{name}.tsv", b"ab\tA B\n")
    return write


def test_version_and_help(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == tfseq2seq.__version__
    assert run(monkeypatch, "--help") == 0
    assert "from raw text to an answered gRPC request" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_key_names_the_file_and_the_nearest_key(fails, tmp_path):
    recipe = tmp_path / "wrong.toml"
    recipe.write_text('name = "x"\n[train]\nlearning_rat = 1.0\n')
    told = fails("train", recipe)
    assert str(recipe) in told and "'train.learning_rat'" in told and "learning_rate" in told


@pytest.mark.parametrize("content, text", [
    (b"", "empty"),
    (b"ab\n", "column"),
    (b"ab\tA\x00B\n\x00\x00", "binary"),
    (b"ab\t\xff\xfe\n", "UTF-8"),
])
def test_broken_data_name_the_file(fails, pairs, tiny_recipe, tmp_path, content, text):
    folder = pairs("train.tsv", content)
    told = fails("train", tiny_recipe, "--data", folder, "--runs", tmp_path / "runs")
    assert "train.tsv" in told and text in told
    assert not (tmp_path / "runs" / "tiny" / "config.json").exists()


def test_unequal_line_counts_are_counted(fails, tmp_path):
    (tmp_path / "a").write_text("x\ny\n")
    (tmp_path / "b").write_text("x\n")
    recipe = tmp_path / "pairs.toml"
    files = json.dumps([str(tmp_path / "a"), str(tmp_path / "b")])
    recipe.write_text(f'name = "x"\n[data]\ntrain = {files}\nvalid = {files}\n')
    told = fails("check", recipe)
    assert "2" in told and "1" in told and "lines" in told


def test_a_folder_that_cannot_be_written_is_named(fails, tiny_recipe, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in fails("train", tiny_recipe, "--runs", tmp_path / "file")


def test_a_run_folder_of_another_config_is_refused(fails, tiny_recipe, tiny_run):
    told = fails("train", tiny_recipe, "--runs", tiny_run.parent, "--set", "model.embedding_units=13")
    assert "another config" in told and "embedding_units" in told


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_a_folder_without_a_run_is_named(fails, tmp_path, command):
    assert "holds no run" in fails(command, tmp_path)


def test_a_taken_port_is_named(fails, exported):
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in fails("serve", exported, "--port", port)


def test_serving_nothing_says_what_to_do(fails, tmp_path):
    assert str(tmp_path) in fails("serve", tmp_path)


def test_a_broken_file_of_models_is_named(fails, tmp_path):
    (tmp_path / "models.config").write_text("model_config_list {")
    assert "models.config" in fails("serve", "--model-config-file", tmp_path / "models.config")


def test_serving_needs_a_folder_or_a_file_of_models(monkeypatch, capsys, exported):
    for arguments in ([], [str(exported), "--model-config-file", "models.config"]):
        assert run(monkeypatch, "serve", *arguments) == 2
        assert "serve needs FOLDER or --model-config-file, and not both" in capsys.readouterr().err


def test_no_server_there_is_one_line(fails):
    assert "127.0.0.1:9" in fails("request", "ab", "--address", "127.0.0.1:9", "--timeout", "2")


def test_a_wrong_argument_is_usage(monkeypatch, capsys):
    assert run(monkeypatch, "train", "x.toml", "--set", "steps") == 2
    assert "--set needs KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("command", [
    "check", "describe", "prepare", "largest-batch", "feed", "train", "evaluate", "predict", "chat", "distill",
    "export", "serve", "request", "demo"])
def test_every_command_has_help(monkeypatch, capsys, command):
    assert run(monkeypatch, command, "--help") == 0
    assert "Usage: tfseq2seq " + command in capsys.readouterr().out


def test_check_reports_in_json(monkeypatch, capsys, tiny_recipe):
    assert run(monkeypatch, "check", tiny_recipe, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["train"]["pairs"] == 180 and report["leakage"]["test"]["pair"] == 0


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli-export")
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, "export", tiny_run, "--output", folder) == 0
    return folder


def test_predict_and_request_print_the_same_answers(monkeypatch, capsys, tiny_run, exported, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("abca\ndab\n")
    assert run(monkeypatch, "predict", tiny_run, lines, "--n-best", 3) == 0
    predicted = [row.split("\t") for row in capsys.readouterr().out.splitlines()]
    with EmbeddedServer(exported, port=0) as server:
        address = f"127.0.0.1:{server.port}"
        assert run(monkeypatch, "request", "--file", lines, "--address", address) == 0
        asked = [row.split("\t") for row in capsys.readouterr().out.splitlines()]
        assert run(
            monkeypatch, "request", "ab", "--address", address, "--signature", "score", "--target", "B A") == 0
        assert float(capsys.readouterr().out.split("\t")[0]) < 0
    assert [row[2] for row in predicted] == [row[2] for row in asked]
    assert [row[0] for row in predicted] == ["1"] * 3 + ["2"] * 3


def test_a_talk_with_a_run_and_with_its_server_is_the_same(monkeypatch, capsys, tiny_run, exported):
    def talk(*arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO("abca\n\n  dab \n/nothing\n/reset\nabca\n/quit\nnever\n"))
        assert run(monkeypatch, "chat", *arguments) == 0
        return capsys.readouterr().out.splitlines()

    alone = talk(tiny_run)
    assert alone[2:4] == ["(no command /nothing; /reset begins anew, /quit ends (so does Ctrl-D))", "(a new talk)"]
    assert len(alone) == 5 and alone[0] == alone[4]
    with EmbeddedServer(exported, port=0) as server:
        assert talk(f"127.0.0.1:{server.port}", "--turns", 1) == alone
        with_turns = talk(f"127.0.0.1:{server.port}")  # all turns are sent, with the separator's letters
        assert talk(tiny_run, "--turns", 4) == with_turns
        client = Client(server.address)
        served = ServedPartner(client)
        # The export reads 32 tokens, an end token among them: letters here.
        assert [served.fits("a" * length) for length in (3, 30, 31, 32, 50)] == [True, True, False, False, False]
    generator = runs.best_generator(*runs.open_run(tiny_run), tiny_run)
    assert [RunPartner(generator).fits("a" * length) for length in (3, 30, 31, 32, 50)] == [
        True, True, True, False, False]


def test_a_talk_needs_a_run_or_an_address(fails, tmp_path):
    assert "host:port of a server. Received: 'nowhere', which is neither" in fails("chat", "nowhere")
    assert "Leave --set out" in fails("chat", "127.0.0.1:9", "--set", "decode.beam_size=1")
    assert "holds no run" in fails("chat", tmp_path)


def test_evaluate_prints_json(monkeypatch, capsys, tiny_run):
    assert run(monkeypatch, "evaluate", tiny_run, "--json", "--lines", 5) == 0
    scores = json.loads(capsys.readouterr().out)
    assert 0 <= scores["tiny"]["word_error_rate"]["value"] <= 100
