"""`tfseq2seq demo`: the whole way on real data, from an empty folder to answers over gRPC."""

import shlex
import time
from importlib import resources
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.origins import check_origins
from serving.client import Client
from tfseq2seq.config import load_recipe
from tfseq2seq.console import progress_bar
from tfseq2seq.evaluation import group_references, render_table
from tfseq2seq.quiet import import_tensorflow

RECIPES = {"pronunciation": "demo_pronunciation.toml", "translation": "demo_translation.toml"}
NUM_QUESTIONS = 10


def run_demo(task: str, pair: str, minutes: float | None, runs: Path, show: Console) -> None:
    """Runs every stage and prints what it found.

    Args:
        task: "pronunciation" or "translation".
        pair: for translation: languages, as "en-fr".
        minutes: longest training time; default the recipe's.
        runs: where the run's folder is made.
        show: where the story is told.
    Raises:
        ValueError: an unknown task.
    """
    if task not in RECIPES:
        raise ValueError(f"--task must be one of {', '.join(RECIPES)}. Received: {task!r}.")
    started = time.monotonic()
    overrides: dict[str, object] = {} if minutes is None else {"train.max_minutes": minutes}
    if task == "translation":
        overrides |= {"data.pair": pair, "name": f"demo-translation-{pair}"}
    with resources.as_file(resources.files("pipelines") / "recipes" / RECIPES[task]) as recipe:
        run, usual = load_recipe(recipe, overrides), load_recipe(recipe).train.max_minutes
    folder = runs / run.name
    check_origins(run.data)
    import_tensorflow()  # only now: a mistake above is told at once
    from serving.server import EmbeddedServer
    from tfseq2seq.assessment import evaluate_run
    from tfseq2seq.runs import export_run, open_run, train_run

    minutes = run.train.max_minutes
    _stage(show, 1, f"training: {task}")
    show.print(f"At most {minutes:g} minutes. Ctrl-C saves; the same command goes on.", highlight=False)
    progress = train_run(run, folder)
    note = too_little(progress.step, run.train.steps, usual)

    _stage(show, 2, "scoring on the test split, beside a cheap baseline")
    run, prepared = open_run(folder)
    with progress_bar() as report:
        scores = evaluate_run(run, prepared, folder, "test", None, report)
    show.print(render_table(scores))
    show.print(note, highlight=False)

    _stage(show, 3, "exporting a SavedModel, replaying held-out lines")
    with progress_bar() as report:
        path = export_run(run, prepared, folder, folder / "export", None, report)
    show.print(f"wrote {escape(str(path))}", highlight=False)

    _stage(show, 4, "serving it over gRPC, asking unseen test lines")
    sources, references = group_references(prepared.test, prepared.task.multiple_references)
    # Evenly spread over the test split: nobody picked them.
    rows = range(0, len(sources), max(1, len(sources) // NUM_QUESTIONS))[:NUM_QUESTIONS]
    answers = []
    with progress_bar() as report:
        report("starting the server", 0, None)
        with EmbeddedServer(folder / "export", port=0) as server, Client(server.address) as client:
            for row in rows:
                answers += client.predict([sources[row]])
                report("asking", len(answers), len(rows))
    whole = prepared.task.metric == "word_error_rate"  # then an answer is right or wrong
    table = Table("source", "answer", "score", "reference", *(["right"] if whole else []))
    right = 0
    for row, hypotheses in zip(rows, answers, strict=True):
        same = hypotheses[0].text in references[row]
        right += same
        cells = (sources[row], hypotheses[0].text, f"{hypotheses[0].score:.2f}", references[row][0])
        table.add_row(*map(escape, cells), *(["yes" if same else "no"] if whole else []))
    show.print(table)
    spent = (time.monotonic() - started) / 60
    show.print((f"{right} of {len(rows)} right. " if whole else "") + f"All of it took {spent:.1f} minutes.")
    show.print(note, highlight=False)
    volume = shlex.quote(f"{(folder / 'export').resolve()}:/models/tfseq2seq")
    told = (
        f"What next:\n"
        f"  look inside      tensorboard --logdir {folder / 'logs'}\n"
        f"  serve            tfseq2seq serve {folder / 'export'}\n"
        f"  ask              tfseq2seq request {shlex.quote(sources[rows[0]])}\n"
        f"  in Docker        docker run -p 8500:8500 -v {volume} "
        f"-e MODEL_NAME=tfseq2seq tensorflow/serving\n"
        f"  your own pairs   a folder with train.tsv, valid.tsv, test.tsv (source<TAB>target), then\n"
        f"                   tfseq2seq train RECIPE.toml --data FOLDER   (recipes: {_recipes_folder()})")
    show.print(escape(told), highlight=False, soft_wrap=True)


def too_little(step: int, steps: int, minutes: float | None) -> str:
    """What to say beside the scores of a training that had less than half of its steps; else nothing."""
    if 2 * step >= steps:
        return ""
    return (
        f"[bold]This model is hardly trained:[/] it had {step:,} of {steps:,} steps, its answers say nothing yet.\n"
        f"All steps take about {minutes:g} minutes on two cores: the same command with --minutes {minutes:g}, or "
        "without, goes on from here.\n")


def _stage(show: Console, number: int, text: str) -> None:
    show.rule(f"[bold]{number} of 4: {text}", align="left")


def _recipes_folder() -> str:
    return str(resources.files("pipelines") / "recipes")
