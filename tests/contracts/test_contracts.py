"""What every encoder with every decoder must keep, tested over the pairs in the two dicts."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.config import Model
from tfseq2seq.decoders import DECODERS
from tfseq2seq.encoders import ENCODERS
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import Seq2Seq, build_model
from tfseq2seq.structures import BOS, EOS, PAD

SMALL = {"units": 8, "dropout": 0.0}
TRANSFORMER = {"kind": "transformer", **SMALL, "layers": 2, "heads": 2, "feed_forward_units": 16}
CONVOLUTIONAL = {"kind": "convolutional", **SMALL, "layers": 2, "max_positions": 16}
# Each family in each of its shapes: (name of the case, the table of the recipe).
ENCODER_CASES = {
    "recurrent-lstm-bidirectional": {"kind": "recurrent", **SMALL, "units": 4, "layers": 2},
    "recurrent-gru-residual": {
        "kind": "recurrent", **SMALL, "cell": "gru", "bidirectional": False, "layers": 2, "residual": True,
        "normalization": "layer", "dropout_per_sequence": True, "pooling": "mean"},
    "convolutional": CONVOLUTIONAL,
    "transformer-pre": TRANSFORMER,
    "transformer-post-gated-relative": {
        **TRANSFORMER, "norm": "post", "normalization": "rms", "activation": "gelu", "gated": True,
        "positions": "relative", "pooling": "max"},
    "sequence": {"kind": "sequence", "encoders": [
        CONVOLUTIONAL, {"kind": "recurrent", **SMALL, "units": 4}]},
    "parallel": {"kind": "parallel", "encoders": [
        {"kind": "recurrent", **SMALL, "units": 4}, {**TRANSFORMER, "positions": "learned", "max_positions": 16}]},
}
DECODER_CASES = {
    "recurrent-lstm": {"kind": "recurrent", **SMALL, "layers": 2},
    "attentional-lstm-general": {"kind": "attentional", **SMALL, "layers": 2},
    "attentional-gru-additive-feeding": {
        "kind": "attentional", **SMALL, "cell": "gru", "attention": "additive", "input_feeding": True,
        "layers": 2, "residual": True, "normalization": "rms", "bridge": "pooled"},
    "attentional-lstm-dot-zero": {"kind": "attentional", **SMALL, "attention": "dot", "bridge": "zero"},
    "transformer-pre": TRANSFORMER,
    "transformer-post-rotary": {**TRANSFORMER, "norm": "post", "positions": "rotary", "activation": "swish"},
}
PAIRS = list(itertools.product(ENCODER_CASES, DECODER_CASES))
# An EOS in the middle is one more token to all but the parallel encoder, which begins its next source there.
SOURCE = np.array([[4, 5, EOS, 6, 7, EOS], [8, EOS, 9, EOS, PAD, PAD]], np.int32)
TARGET = np.array([[BOS, 4, 5, 6], [BOS, 7, PAD, PAD]], np.int32)
LABELS = np.array([[4, 5, 6, EOS], [7, EOS, PAD, PAD]], np.int32)


def test_every_family_has_a_case():
    assert {case["kind"] for case in ENCODER_CASES.values()} == set(ENCODERS)
    assert {case["kind"] for case in DECODER_CASES.values()} == set(DECODERS)


def make(pair, precision="float32", **extra):
    keras.utils.set_random_seed(1)
    encoder, decoder = ENCODER_CASES[pair[0]], DECODER_CASES[pair[1]]
    config = Model(embedding_units=8, encoder=encoder, decoder=decoder, **extra)
    return build_model(config, 11, 10, precision)


@pytest.fixture(scope="module", params=PAIRS, ids="+".join)
def model(request):
    return make(request.param)


def logits_of(model, source=SOURCE, target=TARGET):
    return model({"source": tf.constant(source), "target": tf.constant(target)}).numpy()


def test_call_equals_a_loop_of_step(model):
    memory, state = model.start(model.encode(tf.constant(SOURCE)))
    expected, attentions = model.call_with_attention({"source": tf.constant(SOURCE), "target": tf.constant(TARGET)})
    for t in range(TARGET.shape[1]):
        logits, state, attention = model.step(tf.constant(TARGET[:, t]), state, memory)
        real = TARGET[:, t] != PAD
        np.testing.assert_allclose(logits[real], expected[:, t][real], atol=1e-5)
        np.testing.assert_allclose(attention[real], attentions[:, t][real], atol=1e-5)


def test_hypotheses_of_one_source_share_its_memory(model):
    """B * K rows over B memories give what B * K sources of their own give."""
    memory, state = model.start(model.encode(tf.constant(SOURCE)))
    tokens = tf.constant([4, 5, 6, 7, 8, 9])
    tiled = tf.nest.map_structure(lambda leaf: tf.repeat(leaf, 3, 0), state)
    shared, _, attention = model.step(tokens, tiled, memory)
    memory, state = model.start(model.encode(tf.constant(np.repeat(SOURCE, 3, 0))))
    own, _, own_attention = model.step(tokens, state, memory)
    np.testing.assert_allclose(shared, own, atol=1e-5)
    np.testing.assert_allclose(attention, own_attention, atol=1e-5)


def test_padding_never_changes_a_real_value(model):
    together = logits_of(model)
    alone = logits_of(model, SOURCE[1:, :4], TARGET[1:, :1])
    np.testing.assert_allclose(together[1:, :1], alone, atol=1e-5)
    encoded, own = model.encode(tf.constant(SOURCE)), model.encode(tf.constant(SOURCE[1:, :4]))
    np.testing.assert_allclose(encoded.memory[1][encoded.mask[1]], own.memory[0][own.mask[0]], atol=1e-5)
    np.testing.assert_array_equal(encoded.memory[1][~encoded.mask[1]], 0.0)
    np.testing.assert_allclose(encoded.context[1], own.context[0], atol=1e-5)


def test_a_later_target_token_changes_nothing_earlier(model):
    changed = TARGET.copy()
    changed[:, 2] = 9
    np.testing.assert_array_equal(logits_of(model)[:, :2], logits_of(model, target=changed)[:, :2])


def test_a_row_of_padding_gives_no_nan_and_no_gradient(model):
    loss = TokenCrossEntropy(0.1)
    rows = np.vstack([SOURCE, np.zeros_like(SOURCE[:1])])
    targets, labels = (np.vstack([ids, np.zeros_like(ids[:1])]) for ids in (TARGET, LABELS))
    gradients = []
    for size in (2, 3):
        with tf.GradientTape() as tape:
            logits = model({"source": tf.constant(rows[:size]), "target": tf.constant(targets[:size])})
            value = loss(tf.constant(labels[:size]), logits)
        assert np.isfinite(logits.numpy()).all()
        gradients.append([tf.convert_to_tensor(g) for g in tape.gradient(value, model.trainable_variables)])
    for two, three in zip(*gradients, strict=True):
        np.testing.assert_allclose(two, three, atol=1e-5)


def test_config_round_trip_makes_the_same_model(model):
    again = Seq2Seq.from_config(model.get_config())
    assert [v.shape for v in again.trainable_variables] == [v.shape for v in model.trainable_variables]
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(logits_of(again), logits_of(model))


def test_saved_and_loaded_it_answers_the_same(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = Seq2Seq.from_config(model.get_config())
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(logits_of(fresh), logits_of(model))


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_plain_compile_fit_and_evaluate_learn(pair):
    model = make(pair)
    model.compile(keras.optimizers.Adam(0.02, global_clipnorm=1.0), loss=TokenCrossEntropy())
    inputs = {"source": SOURCE, "target": TARGET}
    logits = logits_of(model).astype(np.float64)[LABELS != PAD]
    nats = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), LABELS[LABELS != PAD]]
    before = model.evaluate(inputs, LABELS, verbose=0, return_dict=True)
    model.fit(inputs, LABELS, epochs=15, verbose=0)
    after = model.evaluate(inputs, LABELS, verbose=0, return_dict=True)
    assert after["loss"] < 0.7 * before["loss"]
    assert before["loss"] == pytest.approx(nats.mean(), rel=1e-4)  # of the 6 real tokens
    assert before["perplexity"] == pytest.approx(np.exp(before["loss"]), rel=1e-4)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_close_and_trains(precision):
    exact, mixed = make(PAIRS[0]), make(PAIRS[0], precision)
    mixed.set_weights(exact.get_weights())
    np.testing.assert_allclose(logits_of(mixed), logits_of(exact), atol=0.05)
    mixed.compile(keras.optimizers.Adam(0.02, global_clipnorm=1.0), loss=TokenCrossEntropy())
    losses = mixed.fit({"source": SOURCE, "target": TARGET}, LABELS, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("share", ["target_output", "all"])
def test_tied_embeddings_are_one_variable(share):
    config = Model(
        embedding_units=6, share_embeddings=share, encoder=ENCODER_CASES[PAIRS[0][0]],
        decoder=DECODER_CASES[PAIRS[0][1]])
    model = build_model(config, 10, 10)
    tables = [v for v in model.trainable_variables if v.shape == (10, 6)]
    assert len(tables) == (1 if share == "all" else 2)
    assert np.isfinite(logits_of(model)).all()


def test_tied_sides_need_one_vocabulary():
    with pytest.raises(ValueError, match="set share_tokenizer = true. Received: 11 source and 10 target ids"):
        make(PAIRS[0], share_embeddings="source_target")


def test_a_loss_that_does_not_sum_is_refused():
    model = make(PAIRS[0])
    model.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="compile with loss=tfseq2seq.TokenCrossEntropy"):
        model.fit({"source": SOURCE, "target": TARGET}, LABELS, verbose=0)
