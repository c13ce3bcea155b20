"""The seed recipe's model against its twin in PyTorch, with the twin's weights."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import pipelines
from tests.peers import copying
from tfseq2seq.config import load_recipe
from tfseq2seq.decoding import search
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import Seq2Seq
from tfseq2seq.structures import BOS, EOS, PAD

torch = pytest.importorskip("torch", reason="needs PyTorch: see tests/peers/README.md")
seed = pytest.importorskip("tests.peers.seed", reason="needs PyTorch: see tests/peers/README.md")
pytestmark = pytest.mark.peers

SOURCE_SIZE, TARGET_SIZE, EMBEDDING_UNITS, UNITS = 11, 13, 5, 7
RANDOM = np.random.default_rng(0)
SOURCE_MASK = np.arange(6) < np.array([[6], [2], [4], [1]])
TARGET_MASK = np.arange(9) < np.array([[9], [3], [7], [1]])
SOURCE = RANDOM.integers(4, SOURCE_SIZE, SOURCE_MASK.shape).astype(np.int32) * SOURCE_MASK
TARGET = RANDOM.integers(4, TARGET_SIZE, TARGET_MASK.shape).astype(np.int32)
TARGET[:, 0] = BOS
TARGET *= TARGET_MASK
INPUTS = {"source": tf.constant(SOURCE), "target": tf.constant(TARGET)}


@pytest.fixture(scope="module")
def twin():
    """The twin with weights so large that the likeliest token changes from step to step."""
    torch.manual_seed(3)
    module = seed.Seed(SOURCE_SIZE, TARGET_SIZE, EMBEDDING_UNITS, UNITS)
    with torch.no_grad():
        for weight in module.parameters():
            weight.uniform_(-1.5, 1.5)
        module.output.bias[seed.EOS] += 3.0  # so that some of its sentences end by themselves
    return module


@pytest.fixture(scope="module")
def model(twin):
    """The model of the recipe, narrower, with the twin's weights."""
    recipe = load_recipe(Path(pipelines.__file__).parent / "recipes" / "seed.toml")
    table = recipe.model.model_dump()
    table["embedding_units"] = EMBEDDING_UNITS
    table["encoder"]["units"] = table["decoder"]["units"] = UNITS
    model = Seq2Seq(table, SOURCE_SIZE, TARGET_SIZE)
    weights = copying.named_arrays(twin)
    copying.set_table(model.source_embedding, weights["source_embedding.weight"])
    copying.set_table(model.target_embedding, weights["target_embedding.weight"])
    encoder = copying.part(weights, "encoder")
    copying.set_lstm(model.encoder.forward[0], encoder, "l0")
    copying.set_lstm(model.encoder.backward[0], encoder, "l0_reverse")
    copying.set_linear(model.encoder.merge, copying.part(weights, "merge"))
    cell = {f"{name}_l0": value for name, value in copying.part(weights, "decoder").items()}
    copying.set_lstm(model.decoder.cells[0], cell)
    copying.set_linear(model.output_layer, copying.part(weights, "output"))
    assert model.count_parameters() == sum(weight.numel() for weight in twin.parameters()) - 3 * 4 * UNITS, (
        "the twin's three LSTMs have one bias more each, and nothing else")
    return model


def test_the_recipe_forces_half_of_the_tokens():
    recipe = load_recipe(Path(pipelines.__file__).parent / "recipes" / "seed.toml")
    assert recipe.train.teacher_forcing_ratio == 0.5


def test_logits_of_the_true_tokens_are_equal(model, twin):
    expected = twin(torch.tensor(SOURCE), torch.tensor(TARGET)).detach().numpy()
    np.testing.assert_allclose(model(INPUTS).numpy()[TARGET_MASK], expected[TARGET_MASK], atol=1e-5)


@pytest.mark.parametrize("coins", [
    [True, False, True, True, False, False, True, False, True], [False] * 9, [True] * 9],
    ids=["mixed", "its own tokens", "true tokens"])
def test_logits_with_given_coins_are_equal(model, twin, coins):
    expected = twin(torch.tensor(SOURCE), torch.tensor(TARGET), coins).detach().numpy()
    found = model.call_with_sampling(INPUTS, tf.constant(coins)).numpy()
    np.testing.assert_allclose(found[TARGET_MASK], expected[TARGET_MASK], atol=1e-5)
    # The test says something only where the two kinds of token differ.
    forced = twin(torch.tensor(SOURCE), torch.tensor(TARGET)).detach().numpy()
    assert np.allclose(expected, forced) == all(coins)


def test_gradients_with_given_coins_are_equal(model, twin):
    coins = [True, False, True, True, False, False, True, False, True]
    labels = np.concatenate([TARGET[:, 1:], np.zeros([4, 1], np.int32)], 1)
    labels[np.arange(4), TARGET_MASK.sum(1) - 1] = EOS
    twin.zero_grad()
    logits = twin(torch.tensor(SOURCE), torch.tensor(TARGET), coins)
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(labels).long().flatten(), ignore_index=PAD, reduction="sum").backward()
    tables = [model.source_embedding.table, model.target_embedding.table]
    with tf.GradientTape() as tape:
        found = model.call_with_sampling(INPUTS, tf.constant(coins))
        loss = TokenCrossEntropy()(tf.constant(labels), found)
    expected = [twin.source_embedding.weight.grad, twin.target_embedding.weight.grad]
    for gradient, their_gradient in zip(tape.gradient(loss, tables), expected, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(gradient), their_gradient.numpy(), atol=1e-5)


def test_greedy_decoding_gives_the_same_tokens(model, twin):
    max_length = 12
    sources = RANDOM.integers(4, SOURCE_SIZE, [40, 6]).astype(np.int32)
    sources *= np.arange(6) < RANDOM.integers(1, 7, [40, 1])
    with torch.no_grad():
        expected = twin.greedy(torch.tensor(sources), max_length)
    memory, state = model.start(model.encode(tf.constant(sources)))
    hypotheses = search(
        model.step, state, memory, batch_size=len(sources), vocabulary_size=TARGET_SIZE, beam_size=1,
        max_length=max_length)
    found = [row[:length].tolist() for row, length in zip(
        hypotheses.tokens[:, 0].numpy(), hypotheses.lengths[:, 0].numpy(), strict=True)]
    assert found == expected
    assert min(map(len, expected)) < max_length == max(map(len, expected)), "both ways of ending should occur"
