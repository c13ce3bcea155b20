"""Features of recordings: the formula written once more in NumPy, and what librosa gives, where it is installed."""

import io

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from pipelines.audio import FLOOR, FrontEnd, load_front_end, mel_filters
from pipelines.wav import encode_wav
from tfseq2seq.config import Audio

RATE = 8000
AUDIO = Audio(sample_rate=RATE, mel_bins=20, lowest_frequency=50.0, highest_frequency=3800.0)
RANDOM = np.random.default_rng(0)
RECORDINGS = [RANDOM.normal(scale=0.1, size=size).astype(np.float32) for size in (1003, 640, 0, 81)]
CONTENTS = [encode_wav(samples, RATE) for samples in RECORDINGS]


@pytest.fixture(scope="module")
def front_end():
    return FrontEnd(AUDIO)


@pytest.fixture(scope="module")
def read(front_end):
    return tf.function(
        lambda wav: front_end.read(wav, 500)[0], input_signature=[tf.TensorSpec([None], tf.string)])


def hertz_of(mel, scale):
    """Slaney's: 13 and a third of 200 / 3 Hz to 1 kHz, then log steps; HTK's by its inverse."""
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def mel_of(hertz, scale):
    """By bisection, so that no second formula is believed."""
    low, high = 0.0, 5000.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if hertz_of(middle, scale) < hertz else (low, middle)
    return low


def log_mel(samples, audio=AUDIO):
    """Frame by frame, bin by bin."""
    window, hop = round(audio.window * audio.sample_rate), round(audio.hop * audio.sample_rate)
    size = 256
    weights = np.zeros(size)
    weights[28 : 28 + window] = np.sin(np.pi * np.arange(window) / window) ** 2
    low, high = (mel_of(edge, audio.mel_scale) for edge in audio.band)
    step = (high - low) / (audio.mel_bins + 1)
    edges = [hertz_of(low + i * step, audio.mel_scale) for i in range(audio.mel_bins + 2)]
    frames = []
    for t in range(1 + len(samples) // hop):
        padded = np.concatenate([np.zeros(size // 2), samples, np.zeros(size)])[t * hop : t * hop + size]
        energies = np.abs(np.fft.rfft(padded * weights)) ** 2
        row = []
        for left, middle, right in zip(edges, edges[1:], edges[2:]):
            frequencies = np.arange(size // 2 + 1) * audio.sample_rate / size
            triangle = np.interp(frequencies, [left, middle, right], [0.0, 1.0, 0.0], left=0.0, right=0.0)
            area = 1.0 if audio.mel_scale == "htk" else (right - left) / 2
            row.append(np.log(max(energies @ triangle / area, FLOOR)))
        frames.append(row)
    return np.array(frames)


def normalized(features):
    return (features - features.mean(0)) / np.sqrt(features.var(0) + 1e-5)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_features_are_the_formula(scale):
    audio = AUDIO.model_copy(update={"mel_scale": scale})
    found = FrontEnd(audio).features(CONTENTS)
    for samples, features in zip(RECORDINGS, found, strict=True):
        np.testing.assert_allclose(features, log_mel(samples, audio), atol=1e-3)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_features_are_those_of_librosa(scale):
    librosa = pytest.importorskip("librosa")
    audio = Audio(mel_scale=scale, mel_bins=64, highest_frequency=7600.0)
    samples = RANDOM.normal(scale=0.1, size=16_000).astype(np.float32)
    energies = librosa.feature.melspectrogram(
        y=samples, sr=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=64, fmin=0.0, fmax=7600.0,
        htk=scale == "htk", norm="slaney" if scale == "slaney" else None)
    found, = FrontEnd(audio).features([encode_wav(samples, 16_000)])
    np.testing.assert_allclose(found, np.log(np.maximum(energies, FLOOR)).T, atol=1e-3)


def test_a_batch_of_recordings_gives_to_each_what_it_gives_alone(read):
    found = read(CONTENTS).numpy()
    assert found.shape == (4, 13, 21)  # a frame at each multiple of 80 samples
    for row, samples in enumerate(RECORDINGS):
        features = normalized(log_mel(samples))
        np.testing.assert_allclose(found[row, : len(features), :-1], features, atol=2e-3)
        np.testing.assert_array_equal(found[row, :, -1], [1.0] * len(features) + [0.0] * (13 - len(features)))
        np.testing.assert_array_equal(found[row, len(features) :], 0.0)
        alone = read(CONTENTS[row : row + 1]).numpy()[0]
        np.testing.assert_allclose(found[row, : len(features)], alone, atol=1e-5)
    assert read(tf.zeros([0], tf.string)).shape == [0, 1, 21]


def test_samples_give_what_their_file_gives(front_end, read):
    width = max(map(len, RECORDINGS))
    samples = np.full([4, width], 9.0, np.float32)  # what stands behind the real ones is not heard
    for row, recording in zip(samples, RECORDINGS, strict=True):
        row[: len(recording)] = recording
    lengths = np.array([len(each) for each in RECORDINGS], np.int32)
    found, _ = front_end.read_samples(samples, lengths, np.full(4, RATE, np.int32), 500)
    np.testing.assert_allclose(found, read(CONTENTS), atol=1e-5)
    faster, _ = front_end.read_samples(samples, lengths, np.full(4, 2 * RATE, np.int32), 500)
    expected = read([encode_wav(each, 2 * RATE) for each in RECORDINGS])
    np.testing.assert_allclose(faster, expected, atol=1e-4)
    assert front_end.read_samples(samples[:0], lengths[:0], lengths[:0], 500)[0].shape == [0, 1, 21]
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_samples from 0 to its width"):
        front_end.read_samples(samples, lengths + 2000, np.full(4, RATE, np.int32), 500)


def test_what_is_longer_is_cut_and_normalized_as_it_is_read(front_end):
    found = front_end.read(tf.constant(CONTENTS[:1]), 5)[0].numpy()[0]
    np.testing.assert_allclose(found[:, :-1], normalized(log_mel(RECORDINGS[0])[:5]), atol=2e-3)


def test_normalization_is_by_all_of_train_or_not_at_all(tmp_path):
    plain = FrontEnd(AUDIO.model_copy(update={"normalization": "none"}))
    features = plain.read(tf.constant(CONTENTS[:1]), 500)[0].numpy()[0, :, :-1]
    np.testing.assert_allclose(features, log_mel(RECORDINGS[0]), atol=1e-3)
    mean, deviation = np.arange(20.0), 1 + np.arange(20.0)
    audio = AUDIO.model_copy(update={"normalization": "global"})
    FrontEnd(audio, mean, deviation).save(tmp_path)
    loaded = load_front_end(tmp_path)
    assert loaded.audio == audio
    found = loaded.read(tf.constant(CONTENTS[:1]), 500)[0].numpy()[0, :, :-1]
    np.testing.assert_allclose(found, (features - mean) / deviation, atol=1e-4)
    with pytest.raises(ValueError, match="needs mean and deviation"):
        FrontEnd(audio)


def test_a_faster_recording_is_shorter_and_higher():
    """A tone of 400 Hz at 1.25 times the speed is one of 500 Hz."""
    times = np.arange(4000) / RATE
    tone, higher = (
        encode_wav(0.5 * np.sin(2 * np.pi * hertz * times[:size]), RATE) for hertz, size in ((400, 4000), (500, 3200)))
    front_end = FrontEnd(AUDIO)
    (fast,), (expected,) = front_end.features([tone], 1.25), front_end.features([higher])
    assert fast.shape == expected.shape == (41, 20)
    loudest = expected[5:-5].argmax(1)
    np.testing.assert_array_equal(fast[5:-5].argmax(1), loudest)
    np.testing.assert_allclose(fast[5:-5].max(1), expected[5:-5].max(1), atol=0.05)


def test_flat_filters_are_refused():
    with pytest.raises(ValueError, match="mel_bins must be fewer.*mel_bins=200, 256 samples"):
        mel_filters(Audio(sample_rate=RATE, mel_bins=200), 256)


@pytest.mark.parametrize(("values", "text"), [
    ({"highest_frequency": 9000.0}, "at most half of sample_rate"), ({"lowest_frequency": 8000.0}, "must be below"),
    ({"hop": 1e-5}, "at least one sample"), ({"speeds": [0.905]}, "hundredths"), ({"speeds": [1.0, 1.0]}, "different"),
    ({"min_duration": 2.0, "max_duration": 1.0}, "above min_duration")])
def test_settings_that_do_not_fit_are_refused(values, text):
    with pytest.raises(ValueError, match=text):
        Audio(**values)


def test_flac_gives_what_wav_gives(tmp_path, front_end):
    from pipelines.recordings import measure_recording, read_recording

    samples = np.round(RECORDINGS[0] * 2**15) / 2**15
    for kind in ("WAV", "FLAC"):
        soundfile.write(tmp_path / f"a.{kind.lower()}", samples, RATE, format=kind, subtype="PCM_16")
        assert measure_recording(tmp_path / f"a.{kind.lower()}") == (1003, RATE)
    found, expected = (front_end.features([read_recording(tmp_path / name)]) for name in ("a.flac", "a.wav"))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    assert soundfile.info(io.BytesIO(read_recording(tmp_path / "a.flac"))).subtype == "FLOAT"
