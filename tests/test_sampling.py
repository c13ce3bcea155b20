"""Teacher forcing: which token the decoder reads at each step of training."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.config import Model, load_recipe
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model

RECIPE = Path(__file__).parents[1] / "pipelines" / "recipes" / "seed.toml"
SOURCE = np.array([[4, 5, 6, 3], [7, 3, 0, 0]], np.int32)
TARGET = np.array([[2, 4, 5, 6], [2, 6, 7, 0]], np.int32)
LABELS = np.array([[4, 5, 6, 3], [6, 7, 3, 0]], np.int32)
INPUTS = {"source": SOURCE, "target": TARGET}
DECODERS = {
    "fixed": {"kind": "recurrent", "units": 8, "dropout": 0.0},
    "feeding": {"kind": "attentional", "units": 8, "dropout": 0.0, "input_feeding": True, "cell": "gru"},
}


@pytest.fixture(scope="module", params=DECODERS)
def model(request):
    keras.utils.set_random_seed(1)
    model = build_model(
        Model(embedding_units=6, encoder={"units": 4, "dropout": 0.0}, decoder=DECODERS[request.param]), 10, 10)
    for variable in model.trainable_variables:  # far from the start, so that the likeliest token changes
        variable.assign(variable * 4)
    return model


def test_with_the_true_token_at_every_step_it_is_the_plain_call(model):
    found = model.call_with_sampling(INPUTS, tf.constant([True] * 4))
    np.testing.assert_allclose(found[TARGET != 0], model(INPUTS)[TARGET != 0], atol=1e-5)


@pytest.mark.parametrize("coins", [[False] * 4, [True, False, True, False], [False, True, True, False]])
def test_without_it_a_step_reads_what_the_step_before_found_likeliest(model, coins):
    memory, state = model.start(model.encode(tf.constant(SOURCE)))
    tokens, expected = tf.constant(TARGET[:, 0]), []  # BOS whatever its coin
    for t in range(4):
        if t and coins[t]:
            tokens = tf.constant(TARGET[:, t])
        logits, state, _ = model.step(tokens, state, memory)
        expected.append(logits.numpy())
        tokens = tf.argmax(logits, -1, output_type=tf.int32)
    found = model.call_with_sampling(INPUTS, tf.constant(coins))
    np.testing.assert_allclose(found, np.stack(expected, 1), atol=1e-5)


def test_the_ratio_is_the_share_of_true_tokens_in_training(monkeypatch):
    model = build_model(Model(embedding_units=6, encoder={"units": 4}, decoder=DECODERS["fixed"]), 10, 10)
    model.compile("adam", loss=TokenCrossEntropy())
    model.teacher_forcing_ratio, seen = 0.3, []
    plain = model.call_with_sampling

    def watch(inputs, coins, training):
        assert training
        seen.append(coins.numpy())
        return plain(inputs, coins, training)

    monkeypatch.setattr(model, "call_with_sampling", watch)
    weights = np.ones([2, 4], np.float32)
    for _ in range(60):
        model._real_logits(INPUTS, tf.constant(LABELS), tf.constant(weights), training=True)
    assert 0.18 < np.mean(seen) < 0.42  # 240 coins, four standard deviations
    model._real_logits(INPUTS, tf.constant(LABELS), tf.constant(weights), training=False)
    assert len(seen) == 60  # the validation loss reads true tokens only


def test_masks_that_all_steps_share_are_drawn_once_for_the_loop():
    """With one mask, a state that is fed its own zeros stays where the mask put it."""
    table = {**DECODERS["fixed"], "dropout": 0.5, "dropout_per_sequence": True}
    model = build_model(Model(embedding_units=6, encoder={"units": 4, "dropout": 0.0}, decoder=table), 10, 10)
    outputs = []
    finish = model.decoder.stack.finish
    model.decoder.stack.finish = lambda *arguments: outputs.append(finish(*arguments)) or outputs[-1]
    with tf.init_scope():
        model.call_with_sampling(INPUTS, tf.constant([True] * 4), training=True)
    dropped = [output.numpy() == 0 for output in outputs]
    assert 0.2 < dropped[0].mean() < 0.8
    for later in dropped[1:]:
        np.testing.assert_array_equal(later, dropped[0])


def test_the_seed_recipe_is_the_classic_pair():
    run = load_recipe(RECIPE)
    model = run.model
    assert (model.encoder.bidirectional, model.encoder.merge_states, model.encoder.layers) == (True, True, 1)
    assert (model.decoder.kind, model.decoder.bridge, model.encoder.units) == ("recurrent", "copy", model.decoder.units)
    assert run.train.teacher_forcing_ratio == 0.5
