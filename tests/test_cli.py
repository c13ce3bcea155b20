"""The command line: what a user's mistake prints, and what the commands do on a finished run."""

import contextlib
import io
import json
import re
import shlex
import shutil
import socket
import subprocess
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


def test_texts_beside_a_file_are_refused(monkeypatch, capsys, tmp_path):
    (tmp_path / "lines").write_text("ab\n")
    assert run(monkeypatch, "request", "text", "--file", tmp_path / "lines") == 2
    assert "give TEXTS or --file, not both" in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize("given, asked", [
    ("localhost", "localhost:8500"), ("10.0.0.1", "10.0.0.1:8500"), ("[::1]", "[::1]:8500"),
    ("localhost:9", "localhost:9"), ("[::1]:9", "[::1]:9"), ("unix:///run/socket", "unix:///run/socket"),
    ("http://localhost", "http://localhost"),
    ("::1", None), ("localhost:", None), ("localhost:http", None), ("", None)])
def test_an_address_without_a_port_gets_that_of_the_server(monkeypatch, capsys, given, asked):
    found = []
    monkeypatch.setattr("serving.client.connect", lambda address, **_: found.append(address) or sys.exit(0))
    assert run(monkeypatch, "request", "text", "--address", given) == (0 if asked else 2)
    assert found == ([asked] if asked else [])
    if not asked:
        assert "--address needs HOST:PORT" in capsys.readouterr().err


@pytest.mark.parametrize("command", [
    "check", "describe", "prepare", "largest-batch", "feed", "train", "evaluate", "predict", "chat", "distill",
    "export", "serve", "request", "demo"])
def test_every_command_has_help(monkeypatch, capsys, command):
    assert run(monkeypatch, command, "--help") == 0
    assert "Usage: tfseq2seq " + command in capsys.readouterr().out


INTERRUPTED = """
import concurrent.futures, time
from tfseq2seq import cli
pool = concurrent.futures.ThreadPoolExecutor(1)
def app(**settings):
    pool.submit(time.sleep, 600)  # as a batch that is being decoded; the interpreter waits for it at its end
    print("written")
    raise KeyboardInterrupt
cli.app = app
cli.main()
"""


def test_ctrl_c_ends_the_process_whatever_its_threads_do():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (130, "written\n", "")


def test_the_help_of_predict_names_the_most_hypotheses(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "predict", "--help") == 0
    assert "best first; at most decode.beam_size." in " ".join(capsys.readouterr().out.split())


def test_check_reports_in_json(monkeypatch, capsys, tiny_recipe):
    assert run(monkeypatch, "check", tiny_recipe, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["train"]["pairs"] == 180 and report["leakage"]["test"]["pair"] == 0


def test_prepare_names_the_whole_next_command(monkeypatch, capsys, tiny_recipe, tmp_path):
    pairs, runs = tmp_path / "two words [1]", tmp_path / "it's runs"
    shutil.copytree(tiny_recipe.parent, pairs)
    options = ["--data", str(pairs), "--set", "name=other", "--set", "train.seed=2", "--runs", str(runs)]
    assert run(monkeypatch, "prepare", tiny_recipe, *options) == 0
    told = capsys.readouterr().err.split("next: ")[1]
    assert shlex.split(told) == ["tfseq2seq", "train", str(tiny_recipe), *options]
    assert (runs / "other" / "config.json").exists()


MISTAKES = """
import json, sys
from tfseq2seq import cli
cli.show.width = 1000
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["tfseq2seq", *arguments]
    try:
        cli.main()
    except SystemExit as stopped:
        print("exit", stopped.code, "tensorflow" in sys.modules, file=sys.stderr)
"""


def test_wrong_arguments_are_told_before_tensorflow_is_loaded(tiny_recipe, tiny_run, tmp_path):
    (tmp_path / "file").write_text("ab\n")
    (tmp_path / "prepared").mkdir()
    shutil.copy(tiny_run / "config.json", tmp_path / "prepared")
    (tmp_path / "wrong.toml").write_text(tiny_recipe.read_text() + "[train.optimizer_options]\nx = {}\n")
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "export" / "1").mkdir(parents=True)
        (tmp_path / "export" / "1" / "saved_model.pb").touch()
        mistakes = {
            f"train {tmp_path}/no.toml": "no.toml: cannot read the recipe",
            f"train {tmp_path}/wrong.toml": "wrong.toml",
            f"train {tiny_recipe} --set train.metric=blue": "Did you mean 'bleu'?",
            f"train {tiny_recipe} --set task=translate": "Did you mean 'translation'?",
            f"train {tiny_recipe} --set train.teacher={tmp_path}": "holds no run",
            f"train {tiny_recipe} --set train.start_from={tmp_path}/prepared": "holds no checkpoint",
            f"train {tiny_recipe} --data {tmp_path}/no": "no: no such folder",
            f"train {tiny_recipe} --runs {tiny_run.parent} --set train.seed=9": "another config",
            f"prepare {tiny_recipe} --runs {tmp_path}/file": "needed is a folder",
            f"check {tiny_recipe} --data {tmp_path}": "holds no train.tsv",
            f"largest-batch {tiny_recipe} --data {tmp_path}": "holds no train.tsv",
            f"describe {tiny_recipe} --set model.embedding_units=0": "model.embedding_units",
            f"feed {tmp_path}": "holds no run",
            f"average {tiny_run} {tmp_path}/new": "average needs --last or --best",
            f"evaluate {tmp_path}": "holds no run",
            f"evaluate {tmp_path}/prepared": "holds no checkpoint",
            f"evaluate {tiny_run} --split train": "--split must be valid or test",
            f"evaluate {tiny_run} --set decode.beam_size=0": "decode.beam_size",
            f"evaluate {tiny_run} --set decode.others=['{tmp_path}']": "holds no run",
            f"compare {tiny_run}": "compare needs at least two runs",
            f"predict {tiny_run} {tmp_path}/no": "no such file",
            f"predict {tiny_run} --format xml": "--format must be one of",
            f"predict {tiny_run} --n-best 5": "--n-best must be from 1",
            f"predict {tiny_run} --workers 2 --replicas 2": "leave one of them out",
            f"predict {tiny_run} --set decode.only_from={tmp_path}/no": "decode.only_from needs a file",
            f"distill {tiny_run} {tmp_path}": "must be an empty folder",
            f"export {tiny_run} --output {tmp_path}/file": "needed is a folder",
            f"serve {tmp_path}": "Received: no version folder",
            f"serve {tmp_path}/export --port {port}": f"cannot listen on 127.0.0.1:{port}: address already in use",
            f"serve {tmp_path}/export --port 70000": "port from 0 to 65535",
            f"serve {tmp_path}/export --backend flask": "needs backend 'embedded'",
            "request ab --signature beems": "--signature must be one of",
            "demo --task poetry": "--task must be one of",
            "demo --task translation --pair en-xx": "no language 'xx'",
        }
        commands = json.dumps([command.split() for command in mistakes])
        done = subprocess.run([sys.executable, "-c", MISTAKES, commands], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    parts = re.split(r"exit ([012]) (True|False)\n", done.stderr)
    told = list(zip(mistakes.items(), parts[::3], parts[1::3], parts[2::3]))
    assert len(told) == len(mistakes)
    for (command, message), text, code, loaded in told:
        assert (message in text, code in "12", loaded) == (True, True, "False"), f"{command}: {text}"


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
        score, *pair = capsys.readouterr().out.rstrip("\n").split("\t")
        assert float(score) < 0 and pair == ["ab", "B A"]
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


def test_evaluate_prints_json(monkeypatch, capsys, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "copied")  # whose recipe has another name, as that of a mean has
    assert run(monkeypatch, "evaluate", tmp_path / "copied", "--json", "--lines", 5) == 0
    scores = json.loads(capsys.readouterr().out)
    assert 0 <= scores["copied"]["word_error_rate"]["value"] <= 100
