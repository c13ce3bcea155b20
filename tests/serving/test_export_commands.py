"""The commands around exports, as they are typed."""

import shutil
import sys

import pytest

from tfseq2seq import cli


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the console script; returns its exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tfseq2seq", *map(str, arguments)])
        monkeypatch.setattr(cli.show, "width", 1000)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, *capsys.readouterr()

    return run


def test_check_export_tells_what_is_right(command, exported, server):
    code, _, told = command("check-export", exported, "--address", server.address)
    assert code == 0
    assert f"{exported / '1'}: " in told and "3 by beam" in told and f"the server at {server.address} too" in told


def test_check_export_fails_with_one_line(command, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "m")
    (tmp_path / "m" / "1" / "assets.extra" / "export.json").write_text("{}")
    code, _, told = command("check-export", tmp_path / "m")
    assert code == 1 and "error: " in told and "assets.extra/export.json was changed" in told


def test_labels_are_given_and_shown(command, tmp_path):
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    first, second = f"{tmp_path}/1\n", f"{tmp_path}/2\n"
    assert command("label", tmp_path, "stable=1", "old=1")[:2] == (0, f"1\told,stable\t{first}2\t\t{second}")
    moved = f"1\t\t{first}2\tstable\t{second}"
    assert command("label", tmp_path, "stable=2", "--remove", "old")[1] == moved
    assert command("label", tmp_path)[1] == moved
    assert command("label", tmp_path, "stable")[0] == 2
    code, _, told = command("label", tmp_path, "stable=3")
    assert code == 1 and "needs one of the versions 1, 2. Received: 3" in told
