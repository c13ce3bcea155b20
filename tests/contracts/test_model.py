"""What the network of every pair keeps: steps, padding, time, memory shared by a beam, config and files."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.contracts.cases import EACH_CASE, LABELS, PAIRS, SOURCE, TARGET, model_config, shared
from tfseq2seq.config import Model
from tfseq2seq.decoding import tile
from tfseq2seq.layers.conformer import ConformerStack
from tfseq2seq.layers.transformer import TransformerStack
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model
from tfseq2seq.structures import PAD


@pytest.fixture(scope="module", params=PAIRS)
def model(request):
    return shared(request.param)


@pytest.fixture(scope="module")
def expected(model):
    """Logits and gradients of the batch."""
    return gradients_of(model)


def logits_of(model, source=SOURCE, target=TARGET):
    return model({"source": tf.constant(source), "target": tf.constant(target)}).numpy()


def gradients_of(model, source=SOURCE, target=TARGET, labels=LABELS):
    """Logits, and the gradient of the sum over real tokens for every weight, None where there is none."""
    with tf.GradientTape() as tape:
        logits = model({"source": tf.constant(source), "target": tf.constant(target)})
        loss = TokenCrossEntropy(0.1)(tf.constant(labels), logits)
    gradients = tape.gradient(loss, model.trainable_variables)
    return logits.numpy(), [None if each is None else tf.convert_to_tensor(each).numpy() for each in gradients]


def assert_equal_gradients(found, expected):
    """To 1e-5 of the largest."""
    largest = max(np.abs(gradient).max() for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * largest)


def test_call_equals_a_loop_of_step(model):
    memory, state = model.start(model.encode(tf.constant(SOURCE)))
    inputs = {"source": tf.constant(SOURCE), "target": tf.constant(TARGET)}
    expected, attentions = model.call_with_attention(inputs)
    for t in range(TARGET.shape[1]):
        logits, state, attention = model.step(tf.constant(TARGET[:, t]), state, memory)
        real = TARGET[:, t] != PAD
        np.testing.assert_allclose(logits[real], expected[:, t][real], atol=1e-5)
        np.testing.assert_allclose(attention[real], attentions[:, t][real], atol=1e-5)


def test_hypotheses_of_one_source_share_its_memory(model):
    """B * K rows over B memories give what B * K sources of their own give."""
    tokens = tf.constant([4, 5, 6, 7, 8, 9])
    memory, state = model.start(model.encode(tf.constant(SOURCE)))
    logits, _, attention = model.step(tokens, tile(state, 3), memory)
    memory, state = model.start(model.encode(tf.constant(np.repeat(SOURCE, 3, 0))))
    own, _, own_attention = model.step(tokens, state, memory)
    np.testing.assert_allclose(logits, own, atol=1e-5)
    np.testing.assert_allclose(attention, own_attention, atol=1e-5)


def test_padding_never_changes_a_real_value(model, expected):
    alone = logits_of(model, SOURCE[1:, :4], TARGET[1:, :2])
    np.testing.assert_allclose(expected[0][1:, :2], alone, atol=1e-5)
    encoded, own = model.encode(tf.constant(SOURCE)), model.encode(tf.constant(SOURCE[1:, :4]))
    np.testing.assert_allclose(encoded.memory[1][encoded.mask[1]], own.memory[0][own.mask[0]], atol=1e-5)
    np.testing.assert_array_equal(encoded.memory[1][~encoded.mask[1]], 0.0)
    np.testing.assert_allclose(encoded.context[1], own.context[0], atol=1e-5)
    states, own_states = tf.nest.flatten(encoded.final_state), tf.nest.flatten(own.final_state)
    for state, own_state in zip(states, own_states, strict=True):
        np.testing.assert_allclose(state[1], own_state[0], atol=1e-5)


def test_a_later_target_token_changes_nothing_earlier(model, expected):
    changed = TARGET.copy()
    changed[0, 2] = 9
    before, after = expected[0], logits_of(model, target=changed)
    np.testing.assert_allclose(after[0, :2], before[0, :2], atol=1e-6)
    np.testing.assert_allclose(after[1], before[1], atol=1e-6)
    assert (np.abs(after[0, 2:] - before[0, 2:]).max(-1) > 1e-3).all()  # but the token and what follows it


def test_gradients_are_finite_and_reach_every_weight(model, expected):
    logits, gradients = expected
    assert np.isfinite(logits).all()
    names = [variable.path for variable in model.trainable_variables]
    assert [name for name, each in zip(names, gradients, strict=True) if each is None] == []
    assert [name for name, each in zip(names, gradients, strict=True) if not np.isfinite(each).all()] == []
    assert [name for name, each in zip(names, gradients, strict=True) if not np.any(each)] == []


def test_a_row_of_padding_gives_no_nan_and_no_gradient(model, expected):
    logits, found = gradients_of(model, *(np.vstack([ids, np.zeros_like(ids[:1])]) for ids in (SOURCE, TARGET, LABELS)))
    assert np.isfinite(logits).all()
    assert np.isfinite(logits_of(model, np.zeros_like(SOURCE))).all()  # an empty source with a target
    np.testing.assert_allclose(logits[:2], expected[0], atol=1e-5)
    assert_equal_gradients(found, expected[1])


@pytest.mark.parametrize(
    "pair", [pair for pair in PAIRS if re.search("'(trans|con)former'", repr(model_config(pair)))])
def test_leaving_padding_out_changes_nothing(pair):
    """Transformers and Conformers leave padding out of their rows, but where XLA needs shapes known beforehand."""
    model, found = shared(pair), []
    kinds = TransformerStack | ConformerStack
    stacks = [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]
    assert stacks
    for remove in (False, True):  # the last is how they are made
        for stack in stacks:
            stack.remove_padding = remove
        found.append(gradients_of(model))
    (logits, gradients), (expected, expected_gradients) = found
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert_equal_gradients(gradients, expected_gradients)


def test_saved_and_loaded_it_answers_the_same(model, expected, tmp_path):
    """The config makes the same model again, the file holds its weights."""
    assert Model.model_validate_json(model.config.model_dump_json()) == model.config
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.config == model.config
    np.testing.assert_allclose(logits_of(loaded), expected[0], atol=1e-5)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.set_weights([np.zeros_like(weight) for weight in loaded.get_weights()])
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(logits_of(loaded), expected[0], atol=1e-5)


@pytest.mark.parametrize("pair", EACH_CASE)
def test_config_round_trip_makes_the_same_encoder_and_decoder(pair):
    """Keras' own, so that the two serve in other models."""
    model = shared(pair)
    target, mask = model.embed_target(tf.constant(TARGET)), tf.constant(TARGET != PAD)

    def run(encoder, decoder):
        encoded = encoder.read(tf.constant(SOURCE), model.embed_source)
        memory, state = decoder.start(encoded)
        return encoded, *decoder(target, state, memory, mask=mask)

    parts = model.encoder, model.decoder
    again = [type(part).from_config(part.get_config()) for part in parts]
    run(*again)  # makes the weights
    for part, copy in zip(parts, again):
        copy.set_weights(part.get_weights())
    for found, expected in zip(tf.nest.flatten(run(*again)), tf.nest.flatten(run(*parts)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


RECURRENT, CONVOLUTION = {"kind": "recurrent", "units": 4}, {"kind": "convolutional", "units": 4, "layers": 1}
TRANSFORMER = {"kind": "transformer", "units": 4, "heads": 1, "layers": 1, "feed_forward_units": 4}


@pytest.mark.parametrize(("encoder", "by_default"), [
    (RECURRENT, False), (TRANSFORMER, True), (CONVOLUTION, False),
    ({"kind": "sequence", "encoders": [CONVOLUTION, TRANSFORMER]}, False),
    ({"kind": "sequence", "encoders": [TRANSFORMER, RECURRENT]}, True),
    ({"kind": "parallel", "encoders": [TRANSFORMER, TRANSFORMER]}, True),
    ({"kind": "parallel", "encoders": [TRANSFORMER, CONVOLUTION]}, False)], ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("asked", [None, True, False])
def test_embeddings_are_scaled_for_a_transformer_or_as_the_recipe_says(encoder, by_default, asked):
    """Vaswani et al., 2017, section 3.4: times the root of the width."""
    model = build_model(
        Model(embedding_units=16, scale_embeddings=asked, encoder=encoder, decoder={"kind": "recurrent", "units": 4}),
        9, 9)
    ids, factor = tf.constant([[4, 7]]), 4.0 if (by_default if asked is None else asked) else 1.0
    np.testing.assert_allclose(model.embed_source(ids), tf.gather(model.source_embedding.table, ids) * factor)
    target = 4.0 if asked else 1.0
    np.testing.assert_allclose(model.embed_target(ids), tf.gather(model.target_embedding.table, ids) * target)
