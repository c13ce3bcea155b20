"""Starting from another run's weights, and training some of them alone."""

import io

import numpy as np
import pytest
from rich.console import Console

from tfseq2seq import runs
from tfseq2seq.config import Model, load_recipe
from tfseq2seq.model import build_model
from tfseq2seq.starting import start_from
from tfseq2seq.training import load_generator

QUIET = Console(quiet=True)
CONFIG = {
    "embedding_units": 6, "encoder": {"kind": "recurrent", "units": 4}, "decoder": {"kind": "attentional", "units": 8}}
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]


def weights(model):
    return [weight.numpy() for weight in model.weights]


def test_tokens_that_both_know_take_their_vectors_along():
    mine = [*SPECIAL, "b", "new", "a"], [*SPECIAL, "Y", "X"]
    theirs = [*SPECIAL, "a", "b", "c"], [*SPECIAL, "X", "gone", "Y", "Z"]
    model, other = (build_model(Model(**CONFIG), *map(len, vocabularies)) for vocabularies in (mine, theirs))
    before = weights(model)
    assert start_from(model, other, mine, theirs) == (6, 6)
    source, given = model.source_embedding.table.numpy(), other.source_embedding.table.numpy()
    np.testing.assert_array_equal(source[[0, 1, 2, 3, 4, 6]], given[[0, 1, 2, 3, 5, 4]])
    (own,) = [w for w, v in zip(before, model.weights, strict=True) if v is model.source_embedding.table]
    np.testing.assert_array_equal(source[5], own[5])
    np.testing.assert_array_equal(
        model.target_embedding.table.numpy(), other.target_embedding.table.numpy()[[0, 1, 2, 3, 6, 4]])
    for name in ("kernel", "bias"):
        mine_, theirs_ = (getattr(each.output_layer, name).numpy() for each in (model, other))
        np.testing.assert_array_equal(mine_, theirs_[..., [0, 1, 2, 3, 6, 4]])
    for part in ("encoder", "decoder"):
        for one, two in zip(getattr(model, part).weights, getattr(other, part).weights, strict=True):
            np.testing.assert_array_equal(one.numpy(), two.numpy())


@pytest.mark.parametrize("share", ["target_output", "all"])
def test_shared_tables_too(share):
    tokens, others = [*SPECIAL, "b", "new", "a"], [*SPECIAL, "a", "b", "c", "d"]
    config = Model(**CONFIG, share_embeddings=share)
    model, other = (build_model(config, len(names), len(names)) for names in (tokens, others))
    assert start_from(model, other, (tokens, tokens), (others, others)) == (6, 6)
    np.testing.assert_array_equal(
        model.target_embedding.table.numpy()[[0, 1, 2, 3, 4, 6]],
        other.target_embedding.table.numpy()[[0, 1, 2, 3, 5, 4]])


def test_another_network_is_refused():
    model, other = (build_model(Model(**{**CONFIG, "embedding_units": units}), 8, 8) for units in (6, 7))
    with pytest.raises(ValueError, match=r"same \[model\] table. Received: model.embedding_units = 6, there 7"):
        start_from(model, other, ([], []), ([], []))


def test_a_training_starts_where_another_run_ended(tiny_recipe, tiny_run, tmp_path):
    said = io.StringIO()
    settings = {"train.start_from": str(tiny_run), "train.learning_rate": 1e-12, "train.average_decay": 0.9}
    run = load_recipe(tiny_recipe, {**settings, "train.steps": 2, "train.evaluate_every": 2})
    runs.train_run(run, tmp_path / "run", Console(file=said, width=200))
    generators = [load_generator(*runs.open_run(folder), folder) for folder in (tiny_run, tmp_path / "run")]
    assert f"starting from step {generators[0].step} of {tiny_run}; it knows" in said.getvalue()
    for one, two in zip(*(weights(generator.model) for generator in generators), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_what_is_frozen_stays(tiny_recipe, tiny_run, tmp_path):
    settings = {
        "train.start_from": str(tiny_run), "train.freeze": ["encoder", "source_embedding"], "train.steps": 2,
        "train.evaluate_every": 2}
    run = load_recipe(tiny_recipe, settings)
    runs.train_run(run, tmp_path / "run", QUIET)
    models = [load_generator(*runs.open_run(folder), folder).model for folder in (tiny_run, tmp_path / "run")]
    for part in ("encoder", "source_embedding"):
        for one, two in zip(*(getattr(model, part).weights for model in models), strict=True):
            np.testing.assert_array_equal(one.numpy(), two.numpy())
    for part in ("decoder", "target_embedding", "output_layer"):
        for one, two in zip(*(getattr(model, part).weights for model in models), strict=True):
            assert (one.numpy() != two.numpy()).any(), one.path


def test_what_a_model_lacks_cannot_be_frozen(tiny_recipe, tmp_path):
    run = load_recipe(tiny_recipe, {"train.freeze": ["output_layer"], "model.share_embeddings": "target_output"})
    with pytest.raises(ValueError, match="train.freeze names output_layer, which this model does not have"):
        runs.train_run(run, tmp_path / "run", QUIET)
    everything = ["encoder", "decoder", "source_embedding", "target_embedding", "output_layer"]
    with pytest.raises(ValueError, match="leaves nothing to train"):
        runs.train_run(load_recipe(tiny_recipe, {"train.freeze": everything}), tmp_path / "other", QUIET)
