"""WAV bytes to samples in the graph, against soundfile and SciPy."""

import io
import struct

import numpy as np
import pytest
import scipy.signal
import soundfile
import tensorflow as tf

from pipelines.resampling import resample
from pipelines.wav import decode_wav, encode_wav

SAMPLES = np.random.default_rng(0).uniform(-0.9, 0.9, [101, 2])


@pytest.fixture(scope="module")
def decode():
    return tf.function(decode_wav, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.fixture(scope="module")
def change_rate():
    number = tf.TensorSpec([], tf.int32)
    return tf.function(resample, input_signature=[tf.TensorSpec([None], tf.float32), number, number])


def wav(samples=SAMPLES, rate=8000, kind="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_kind_of_wav_gives_the_samples_of_soundfile(decode, kind, subtype):
    content = wav(kind=kind, subtype=subtype)
    samples, rate = decode(content)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    np.testing.assert_allclose(samples, expected.mean(1), atol=1e-7)
    assert rate == 8000


def test_other_chunks_are_passed_over_and_what_is_cut_short_is_read_as_far_as_it_goes(decode):
    content = wav(SAMPLES[:, 0])
    expected = decode(content)[0].numpy()
    odd = content[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + content[12:]
    np.testing.assert_array_equal(decode(odd)[0], expected)
    np.testing.assert_array_equal(decode(content[:-3])[0], expected[:-2])  # a sample is 2 bytes
    assert decode(wav(SAMPLES[:0, 0]))[0].shape == [0]


@pytest.mark.parametrize(("content", "text"), [
    (b"", "needs the bytes of a WAV file"), (b"RIFF", "needs the bytes of a WAV file"),
    (b"fLaC" + bytes(60), "needs the bytes of a WAV file"), (wav()[:40], "needs the bytes of a WAV file"),
    (wav()[:20] + b"\x07" + wav()[21:], "tag")], ids=["nothing", "name", "flac", "no-data", "mu-law"])
def test_what_is_no_such_file_is_refused(content, text):
    with pytest.raises(tf.errors.InvalidArgumentError, match=text):
        decode_wav(tf.constant(content))


def test_floats_are_written_as_soundfile_reads_them():
    found, rate = soundfile.read(io.BytesIO(encode_wav(SAMPLES, 11_025)))
    np.testing.assert_allclose(found, SAMPLES, atol=1e-7)
    assert rate == 11_025


@pytest.mark.parametrize(("rate", "target"), [
    (8000, 16_000), (16_000, 8000), (44_100, 16_000), (16_000, 44_100), (90, 100), (11_127, 16_000), (8000, 8000)])
def test_resampling_is_that_of_scipy(change_rate, rate, target):
    samples = np.random.default_rng(1).normal(size=503).astype(np.float32)
    divisor = np.gcd(rate, target)
    expected = scipy.signal.resample_poly(samples.astype(float), target // divisor, rate // divisor)
    np.testing.assert_allclose(change_rate(samples, rate, target), expected, atol=1e-5)
    assert change_rate(samples[:0], rate, target).shape == [0]


def test_a_tone_keeps_its_pitch_and_one_beyond_the_band_is_gone(change_rate):
    times = np.arange(16_000) / 16_000
    low, high = (np.sin(2 * np.pi * hertz * times).astype(np.float32) for hertz in (440, 6000))
    found = change_rate(low + high, 16_000, 8000)
    np.testing.assert_allclose(found[100:-100], low[::2][100:-100], atol=2e-3)
