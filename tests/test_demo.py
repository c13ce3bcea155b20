"""The demo, over a tiny recipe: every stage, and the ten questions at its end."""

import pytest
from rich.console import Console

from tfseq2seq import demo


@pytest.mark.slow  # what it does is tested piece by piece
def test_the_demo_goes_all_the_way_and_says_what_next(tiny_recipe, tmp_path, monkeypatch):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe.read_text().replace("[train]\n", "[train]\nmax_minutes = 5\n"))
    monkeypatch.setitem(demo.RECIPES, "pronunciation", recipe)
    console = Console(record=True, width=80, quiet=False, file=open("/dev/null", "w"))
    demo.run_demo("pronunciation", "en-fr", 0.001, tmp_path, console)
    told = console.export_text()
    for stage in (
            "1 of 4: training", "2 of 4: scoring on the test split", "3 of 4: exporting a SavedModel",
            "4 of 4: serving it", "letters in context", "What next", "tensorboard --logdir"):
        assert stage in told
    assert "…" not in told  # nothing is cut at 80 columns
    assert told.count("This model is hardly trained: it had 1 of 24 steps") == 2  # beside the scores and the answers
    assert "about 5 minutes on two cores" in told
    assert f" of {demo.NUM_QUESTIONS} right. All of it took" in told
    assert (tmp_path / "tiny" / "export" / "1" / "saved_model.pb").exists()


def test_a_model_of_enough_steps_is_not_called_untrained():
    assert demo.too_little(12, 24, 5.0) == "" != demo.too_little(11, 24, 5.0)


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--task must be one of pronunciation, translation. Received: 'poetry'"):
        demo.run_demo("poetry", "en-fr", None, tmp_path, Console(quiet=True))
