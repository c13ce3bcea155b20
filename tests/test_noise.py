"""Noise on what a model reads."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tfseq2seq.config import ConfigError, Model, load_recipe
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model
from tfseq2seq.noise import SpecAugment, TokenNoise

IDS = np.tile(np.array([[2, 4, 5, 6, 7, 8, 9, 3, 0, 0]], np.int32), [2000, 1])
SEED = tf.constant([1, 2])


def test_so_many_tokens_are_dropped_and_drawn():
    found = TokenNoise(0.1, 0.2, 1000)(IDS, SEED).numpy()
    words = IDS >= 4
    np.testing.assert_array_equal(found[~words], IDS[~words])
    assert (found[words] == 1).mean() == pytest.approx(0.1, abs=0.011)  # 12,000 tokens, four standard deviations
    drawn = found[words & (found != IDS) & (found != 1)]
    assert len(drawn) / words.sum() == pytest.approx(0.2, abs=0.015)
    assert drawn.min() >= 4 and drawn.max() < 1000
    counts, _ = np.histogram(drawn, bins=4, range=(4, 1000))  # as likely as any other
    assert (np.abs(counts - len(drawn) / 4) < 4 * np.sqrt(len(drawn) * 3 / 16)).all()


def test_the_same_seed_gives_the_same_noise_and_none_changes_nothing():
    noise = TokenNoise(0.3, 0.3, 20)
    np.testing.assert_array_equal(noise(IDS, SEED), noise(IDS, SEED))
    assert (noise(IDS, SEED).numpy() != noise(IDS, SEED + 1).numpy()).any()
    np.testing.assert_array_equal(TokenNoise(0.0, 0.0, 20)(IDS, SEED), IDS)
    assert (TokenNoise(1.0, 0.0, 20)(IDS, SEED).numpy()[IDS >= 4] == 1).all()


def test_a_training_step_reads_the_noise_and_its_labels_stay(monkeypatch):
    keras.utils.set_random_seed(1)
    model = build_model(Model(embedding_units=6, encoder={"units": 4}, decoder={"units": 4}), 20, 20)
    model.compile("sgd", loss=TokenCrossEntropy())
    model.noise = {"source": TokenNoise(1.0, 0.0, 20), "target": TokenNoise(0.0, 1.0, 20)}
    seen, plain = [], model._real_logits

    def watch(inputs, labels, weights, training, encoded=None):
        seen.append(({name: ids.numpy() for name, ids in inputs.items()}, labels))
        return plain(inputs, labels, weights, training, encoded)

    monkeypatch.setattr(model, "_real_logits", watch)
    inputs = {"source": tf.constant([[9, 8, 3]]), "target": tf.constant([[2, 7, 7, 7, 7, 7, 7, 7]])}
    labels = tf.constant([[7, 7, 7, 7, 7, 7, 7, 3]])
    for _ in range(2):
        model.gradients(inputs, labels, tf.fill([1, 8], 1 / 8))
    (one, one_labels), (two, _) = seen
    np.testing.assert_array_equal(one["source"], [[1, 1, 3]])
    assert one["target"][0, 0] == 2 and (one["target"][0, 1:] != 7).sum() >= 4
    assert (one["target"] != two["target"]).any()  # drawn anew at each step
    np.testing.assert_array_equal(one_labels, labels)


def test_more_noise_than_tokens_is_refused(tiny_recipe):
    with pytest.raises(ConfigError, match="source_word_dropout and source_token_noise must be at most 1 together"):
        load_recipe(tiny_recipe, {"train.source_word_dropout": 0.6, "train.source_token_noise": 0.6})


# SpecAugment


def spectrum(rows=400, lengths=(30, 12), width=10):
    """Ones, with frames of padding behind the real ones, [rows, 30, width + 1]."""
    real = (np.arange(30) < np.resize(lengths, rows)[:, None]).astype(np.float32)
    return np.repeat(real[:, :, None], width + 1, 2)


def test_masks_hide_bands_and_stretches_as_widely_as_the_paper_draws_them():
    noise = SpecAugment(frequency_masks=1, frequency_width=4, time_masks=0)
    found = noise(tf.constant(spectrum(4000)), tf.constant([1, 2])).numpy()
    hidden = found[:, 0, :-1] == 0
    np.testing.assert_array_equal(found[:, :30, :-1][::2] == 0, np.broadcast_to(hidden[::2, None], (2000, 30, 10)))
    widths = hidden.sum(1)
    assert scipy.stats.chisquare(np.bincount(widths, minlength=5)).pvalue > 1e-3  # evenly 0 to 4
    starts = hidden[widths == 3].argmax(1)
    assert scipy.stats.chisquare(np.bincount(starts, minlength=8)).pvalue > 1e-3  # evenly 0 to 10 - 3
    assert (np.diff(hidden.astype(int), axis=1) == 1).sum(1).max() == 1  # in one piece

    noise = SpecAugment(frequency_masks=0, time_masks=1, time_width=6, time_share=0.25)
    found = noise(tf.constant(spectrum(4000)), tf.constant([3, 4])).numpy()
    for first, length, widest in ((0, 30, 6), (1, 12, 3)):  # a quarter of 12 frames
        hidden = found[first::2, :length, 0] == 0
        widths = hidden.sum(1)
        assert scipy.stats.chisquare(np.bincount(widths, minlength=widest + 1)).pvalue > 1e-3
        starts = hidden[widths == 2].argmax(1)
        assert scipy.stats.chisquare(np.bincount(starts, minlength=length - 1)).pvalue > 1e-3


def test_masks_leave_alone_what_says_which_frames_are_real():
    source = spectrum()
    noise = SpecAugment(2, 4, 2, 10, 0.5)
    found = noise(tf.constant(source), tf.constant([1, 2])).numpy()
    np.testing.assert_array_equal(found[:, :, -1], source[:, :, -1])
    assert 0.3 < (found[:, :, :-1].sum() / source[:, :, :-1].sum()) < 0.8
    np.testing.assert_array_equal(noise(tf.constant(source), tf.constant([1, 2])), found)
    assert np.any(noise(tf.constant(source), tf.constant([1, 3])).numpy() != found)
    wide = SpecAugment(1, 99, 1, 99, 1.0)(tf.constant(source), tf.constant([1, 2])).numpy()  # more than there is
    assert np.isfinite(wide).all()
