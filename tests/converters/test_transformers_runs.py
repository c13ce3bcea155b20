"""Run folders made of models of Transformers."""

import json
import shutil

import pytest
from rich.console import Console

from pipelines.prepare import load_prepared
from tests.converters.theirs import fixture_folder
from tfseq2seq import converters, runs
from tfseq2seq.config import load_recipe


def without_expected(name, folder):
    shutil.copytree(
        fixture_folder(name), folder, copy_function=shutil.copyfile,
        ignore=shutil.ignore_patterns("expected.json", "*.wav"))
    return str(folder)


def test_a_run_answers_as_the_model_that_it_was_made_of(tmp_path):
    run = tmp_path / "mine"
    conversion = converters.import_model("transformers", str(fixture_folder("marian")), run)
    assert converters.replay(conversion, run, lambda *_: None) == (12, 12)
    about = json.loads((run / "imported.json").read_text())
    assert about["system"] == "transformers" and about["weights"] == conversion.num_weights
    prepared = load_prepared(run)
    assert prepared.run.data.tokenizers_from == prepared.run.train.start_from == str(run)
    with pytest.raises(ValueError, match="holds an imported model. Train a run of another name"):
        runs.train_run(prepared.run, run, Console(quiet=True))


@pytest.mark.parametrize("name", ["marian", "whisper"])
def test_without_answers_to_compare_there_are_made_up_sources(name, tmp_path):
    conversion = converters.import_model("transformers", without_expected(name, tmp_path / name), tmp_path / "mine")
    assert converters.replay(conversion, tmp_path / "mine", lambda *_: None) is None
    prepared = load_prepared(tmp_path / "mine")
    sources = [source for source, _ in prepared.valid]
    assert len({*sources}) == len(sources) >= 3
    if name == "whisper":
        front_end = prepared.source_tokenizer
        features = front_end.features([open(path, "rb").read() for path in sources])
        assert {len(each) for each in features} == {200}  # frames of a window, whatever the recording


@pytest.mark.slow
def test_training_goes_on_from_an_imported_model(tmp_path):
    run, data = tmp_path / "mine", tmp_path / "data"
    conversion = converters.import_model("transformers", str(fixture_folder("marian")), run)
    data.mkdir()
    lines = [each.source for each in conversion.expected if each.source.strip()]
    for name in ("train", "valid"):
        pairs = "".join(f"{one}\t{' '.join(other.split())}\n" for one, other in zip(lines, lines[1:]))
        (data / f"{name}.tsv").write_text(pairs)
    recipe = load_recipe(run / "config.json", {
        "name": "tuned", "data.folder": str(data), "data.batch_tokens": 512, "data.filter": False, "train.steps": 6,
        "train.evaluate_every": 3, "train.warmup_steps": 2, "train.learning_rate": 1e-3, "train.valid_lines": 2,
        "decode.max_length": 6})
    runs.train_run(recipe, tmp_path / "tuned", Console(quiet=True))
    rows = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["valid_loss"] for row in rows if "valid_loss" in row]
    assert losses[-1] < losses[0]
    tokenizer = load_prepared(tmp_path / "tuned").target_tokenizer
    assert tokenizer.content() == conversion.target_tokenizer.content()
