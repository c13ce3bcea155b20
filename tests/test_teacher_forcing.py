"""Teacher forcing: which token the decoder reads at each step of training."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.config import Model, load_recipe
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model
from tfseq2seq.teacher_forcing import TeacherForcing

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


@pytest.fixture(scope="module")
def transformer():
    keras.utils.set_random_seed(1)
    table = {"kind": "transformer", "layers": 1, "units": 8, "heads": 2, "feed_forward_units": 8, "dropout": 0.0}
    model = build_model(Model(embedding_units=8, encoder=table, decoder=table), 10, 10)
    for variable in model.trainable_variables:
        variable.assign(variable * 4)
    return model


def test_rows_have_coins_of_their_own(model):
    coins = np.array([[True, True], [False, True], [True, False], [False, False]])  # [T, B]
    found = model.call_with_sampling(INPUTS, tf.constant(coins)).numpy()
    for row in range(2):
        alone = model.call_with_sampling(INPUTS, tf.constant(coins[:, row])).numpy()
        np.testing.assert_allclose(found[row], alone[row], atol=1e-5)


def test_the_second_pass_of_a_transformer_reads_what_the_first_found_likeliest(transformer):
    coins = np.array([[True, True], [False, True], [True, False], [False, False]])  # [T, B]
    first = np.argmax(transformer(INPUTS).numpy(), -1)
    read = TARGET.copy()
    read[0, 1], read[0, 3], read[1, 2] = first[0, 0], first[0, 2], first[1, 1]  # BOS and padding stay
    assert (read != TARGET).any()
    expected = transformer({"source": SOURCE, "target": read}).numpy()
    found = transformer.call_with_sampling(INPUTS, tf.constant(coins)).numpy()
    np.testing.assert_allclose(found[TARGET != 0], expected[TARGET != 0], atol=1e-5)
    plain = transformer.call_with_sampling(INPUTS, tf.constant([True] * 4)).numpy()
    np.testing.assert_allclose(plain[TARGET != 0], transformer(INPUTS).numpy()[TARGET != 0], atol=1e-5)


def test_the_gradient_goes_through_the_second_pass_alone(transformer):
    def loss(read):
        return tf.reduce_sum(tf.nn.log_softmax(read)[..., 4])

    coins = tf.constant([[True], [False], [False], [True]])
    with tf.GradientTape() as tape:
        found = loss(transformer.call_with_sampling(INPUTS, coins))
    gradients = tape.gradient(found, transformer.trainable_variables)
    read = TARGET.copy()
    read[:, 1:3] = np.argmax(transformer(INPUTS).numpy(), -1)[:, :2]
    with tf.GradientTape() as tape:
        expected = loss(transformer({"source": SOURCE, "target": read}))
    for one, two in zip(gradients, tape.gradient(expected, transformer.trainable_variables), strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(one), tf.convert_to_tensor(two), atol=1e-4)


@pytest.mark.parametrize("family", ["recurrent", "transformer"])
def test_the_ratio_is_the_share_of_true_tokens_in_training(monkeypatch, transformer, family):
    model = transformer if family == "transformer" else build_model(
        Model(embedding_units=6, encoder={"units": 4}, decoder=DECODERS["fixed"]), 10, 10)
    model.compile("adam", loss=TokenCrossEntropy())
    seen, plain = [], model.call_with_sampling
    monkeypatch.setattr(model, "teacher_forcing", TeacherForcing("constant", 0.3))

    def watch(inputs, coins, training):
        assert training
        seen.append(coins.numpy())
        return plain(inputs, coins, training)

    monkeypatch.setattr(model, "call_with_sampling", watch)
    weights = np.ones([2, 4], np.float32)
    for _ in range(30):
        model._real_logits(INPUTS, tf.constant(LABELS), tf.constant(weights), training=True)
    assert 0.18 < np.mean(seen) < 0.42  # 240 coins, four standard deviations
    assert any((coins[:, 0] != coins[:, 1]).any() for coins in seen)
    model._real_logits(INPUTS, tf.constant(LABELS), tf.constant(weights), training=False)
    assert len(seen) == 30  # the validation loss reads true tokens only


@pytest.mark.parametrize("schedule, least, k, step, expected", [
    ("constant", 0.3, None, 7, 0.3),
    ("linear", 0.2, 0.1, 3, 0.7), ("linear", 0.2, 0.1, 100, 0.2),
    ("exponential", 0.1, 0.5, 3, 0.125), ("exponential", 0.1, 0.5, 9, 0.1),
    ("inverse_sigmoid", 0.0, 10.0, 0, 10 / 11), ("inverse_sigmoid", 0.0, 10.0, 30, 10 / (10 + np.exp(3.0))),
    ("inverse_sigmoid", 0.0, 10.0, 100_000, 0.0),
])
def test_schedules_are_those_of_the_paper(schedule, least, k, step, expected):
    assert float(TeacherForcing(schedule, least, k)(step)) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("arguments", [
    ("step",), ("constant", 1.5), ("constant", 0.5, 2.0), ("linear", 0.0), ("linear", 0.0, 0.0),
    ("exponential", 0.0, 1.5), ("inverse_sigmoid", 0.0, 0.5)])
def test_wrong_schedules_are_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        TeacherForcing(*arguments)


@pytest.mark.parametrize("family, compiled", [
    ("recurrent", {}), ("transformer", {}), ("transformer", {"jit_compile": True})])
def test_fit_draws_anew_at_each_step(transformer, monkeypatch, family, compiled):
    """With rate 0 the loss changes with the coins alone."""
    keras.utils.set_random_seed(1)
    model = transformer if family == "transformer" else build_model(
        Model(embedding_units=6, encoder={"units": 4, "dropout": 0.0}, decoder=DECODERS["fixed"]), 10, 10)
    if family == "recurrent":
        for variable in model.trainable_variables:
            variable.assign(variable * 4)
    monkeypatch.setattr(model, "teacher_forcing", TeacherForcing("constant", 0.5))
    model.compile(keras.optimizers.SGD(0.0), loss=TokenCrossEntropy(), **compiled)
    data = tf.data.Dataset.from_tensors((INPUTS, LABELS)).repeat()
    losses = model.fit(data, steps_per_epoch=1, epochs=8, verbose=0, shuffle=False).history["loss"]
    assert len({round(loss, 4) for loss in losses}) > 2


def test_the_share_follows_the_optimizers_steps(transformer, monkeypatch):
    transformer.compile("adam", loss=TokenCrossEntropy())
    monkeypatch.setattr(transformer, "teacher_forcing", TeacherForcing("linear", 0.0, 0.5))
    seen, plain = [], transformer.call_with_sampling
    monkeypatch.setattr(
        transformer, "call_with_sampling",
        lambda inputs, coins, training: seen.append(coins.numpy().mean()) or plain(inputs, coins, training))
    weights = tf.ones([2, 4])
    for step, share in ((0, 1.0), (2, 0.0)):
        transformer.optimizer.iterations.assign(step)
        transformer._real_logits(INPUTS, tf.constant(LABELS), weights, training=True)
        assert seen[-1] == share


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
