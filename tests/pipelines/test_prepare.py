"""A prepared run: made once, whole or not at all, and read back."""

import pytest

from pipelines import prepare as module
from pipelines.pairs import DataError
from pipelines.prepare import load_prepared, prepare
from tfseq2seq.config import ConfigError, parse_recipe


@pytest.fixture
def run(tmp_path):
    data = tmp_path / "pairs"
    data.mkdir()
    (data / "train.tsv").write_text("ab\tA B\nba\tB A\n\tA\nb\tB\n", encoding="utf-8")
    (data / "valid.tsv").write_text("b\tB\n", encoding="utf-8")
    (data / "test.tsv").write_text("a\tA\n", encoding="utf-8")
    return parse_recipe({
        "name": "small", "task": "pronunciation",
        "data": {
            "folder": str(data), "source_tokenizer": {"kind": "characters"}, "target_tokenizer": {"kind": "words"}}})


def quiet(*_):
    pass


def test_what_is_prepared_is_filtered_kept_and_read_back(run, tmp_path):
    first = prepare(run, tmp_path / "small", quiet)
    assert first.train == [("ab", "A B"), ("ba", "B A")]
    assert {reason: count for reason, count in first.left_out.items() if count} == {"empty": 1, "leaked": 1}
    assert first.source_tokenizer.vocabulary()[4:] == ["a", "b"]
    again = load_prepared(tmp_path / "small")
    assert (again.train, again.valid, again.test) == (first.train, first.valid, first.test)
    assert again.target_tokenizer.vocabulary() == first.target_tokenizer.vocabulary()
    assert again.run == run


def test_a_second_call_reads_back_what_the_first_made(run, tmp_path):
    prepare(run, tmp_path / "small", quiet)
    (tmp_path / "pairs" / "train.tsv").unlink()
    assert prepare(run, tmp_path / "small", quiet).train == [("ab", "A B"), ("ba", "B A")]


def test_only_keys_that_shape_nothing_may_change(run, tmp_path):
    prepare(run, tmp_path / "small", quiet)
    longer = run.model_copy(update={"train": run.train.model_copy(update={"steps": 77})})
    (tmp_path / "small" / "checkpoints" / "step-00000001").mkdir(parents=True)  # something is trained
    assert prepare(longer, tmp_path / "small", quiet).run.train.steps == 77
    other = run.model_copy(update={"train": run.train.model_copy(update={"seed": 7})})
    with pytest.raises(ConfigError, match=r"another config.*train.seed = 7, the folder has 1"):
        prepare(other, tmp_path / "small", quiet)


def test_before_anything_is_trained_training_and_model_may_change(run, tmp_path):
    values = run.model_dump(mode="json")
    prepare(run, tmp_path / "small", quiet)
    (tmp_path / "small" / "checkpoints" / ".writing-00000001").mkdir(parents=True)  # of a training that was killed
    values["train"]["seed"], values["model"]["encoder"] = 7, {"kind": "transformer", "layers": 1}
    other = parse_recipe(values)
    assert prepare(other, tmp_path / "small", quiet).run == load_prepared(tmp_path / "small").run == other
    values["data"]["max_source_length"] = 3
    with pytest.raises(ConfigError, match=r"another config.*data.max_source_length = 3, the folder has 128"):
        prepare(parse_recipe(values), tmp_path / "small", quiet)


def test_a_model_of_fewer_encoders_than_the_prepared_lines_have_sources_is_refused(run, tmp_path):
    (tmp_path / "pairs" / "train.tsv").write_text("ab | c | d\tA B\n", encoding="utf-8")
    values = run.model_dump(mode="json")
    values["data"]["source_separator"] = "|"
    values["model"]["encoder"] = {"kind": "parallel", "encoders": [{"kind": "recurrent"}] * 3}
    prepare(parse_recipe(values), tmp_path / "small", quiet)
    values["model"]["encoder"]["encoders"].pop()
    with pytest.raises(DataError, match="train pair 1 must have at most 2 sources.*Received: 3 sources"):
        prepare(parse_recipe(values), tmp_path / "small", quiet)
    assert len(load_prepared(tmp_path / "small").run.model.encoder.encoders) == 3


def test_a_failure_leaves_nothing_behind(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_config", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(run, tmp_path / "small", quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs"]


def test_one_tokenizer_serves_both_sides_where_they_share_it(run, tmp_path):
    shared = run.model_copy(update={"data": run.data.model_copy(update={"share_tokenizer": True})})
    prepared = prepare(shared, tmp_path / "small", quiet)
    assert prepared.source_tokenizer is prepared.target_tokenizer
    assert set("abAB") <= set(prepared.source_tokenizer.vocabulary())


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        load_prepared(tmp_path)
