"""The demo, over a tiny recipe: every stage, and the ten questions at its end."""

import pytest
from rich.console import Console

from tfseq2seq import demo


def test_the_demo_goes_all_the_way_and_says_what_next(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(demo.RECIPES, "pronunciation", tiny_recipe)
    console = Console(record=True, width=200, quiet=False, file=open("/dev/null", "w"))
    demo.run_demo("pronunciation", "en-fr", 0.05, tmp_path, console)
    told = console.export_text()
    for stage in ("1 of 4", "2 of 4", "3 of 4", "4 of 4", "letters in context", "What next", "tensorboard --logdir"):
        assert stage in told
    assert f" of {demo.NUM_QUESTIONS} right. All of it took" in told
    assert (tmp_path / "tiny" / "export" / "1" / "saved_model.pb").exists()


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--task must be one of pronunciation, translation. Received: 'poetry'"):
        demo.run_demo("poetry", "en-fr", None, tmp_path, Console(quiet=True))
