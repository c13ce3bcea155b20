"""Every recipe is whole: it can be read, and what it names is there."""

from pathlib import Path

import pytest

import pipelines
from pipelines.sources import CORPORA
from pipelines.tasks import TASKS, find_task
from tfseq2seq.config import load_recipe
from tfseq2seq.evaluation import order_metrics

RECIPES = [  # of text
    path for path in sorted((Path(pipelines.__file__).parent / "recipes").glob("*.toml"))
    if load_recipe(path).data.audio is None]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_what_there_is(path):
    run = load_recipe(path)
    task = find_task(run.task)
    order_metrics(task.metrics, run.train.metric)
    if run.data.corpus is not None:
        assert CORPORA[run.data.corpus].files(run.data.pair)
    assert run.export.max_source_length >= run.data.max_source_length  # evaluation cuts nothing that training reads


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_it_is_run(path):
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert "tfseq2seq " in path.read_text(encoding="utf-8").partition("\nname = ")[0]


def test_every_task_has_a_recipe():
    assert {load_recipe(path).task for path in RECIPES} >= TASKS.keys() - {"speech"}
