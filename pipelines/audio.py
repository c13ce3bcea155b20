"""Recordings to features, in the graph: training, evaluation and the SavedModel share it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.resampling import resample
from pipelines.wav import decode_wav
from tfseq2seq.config import Audio

FLOOR = 1e-10  # least energy: about what the rounding to 16 bits leaves
VARIANCE_FLOOR = 1e-5  # added to variances: a feature that never changes becomes 0
_SPEED_UNIT = 100  # speeds are so many parts of one

_WAV = tf.TensorSpec([None], tf.string)


def mel_filters(audio: Audio, fft_size: int) -> np.ndarray:
    """Triangles over the frequencies of a Fourier transform, evenly spaced on the mel scale.

    Args:
        audio: its rate, number of bins, band and scale.
        fft_size: samples of the transform.
    Returns:
        [fft_size / 2 + 1, mel_bins] float32.
    Raises:
        ValueError: a triangle holds no frequency.
    """
    to_mel, to_hertz = (_slaney_mel, _slaney_hertz) if audio.mel_scale == "slaney" else (_htk_mel, _htk_hertz)
    lowest, highest = (float(to_mel(np.float64(edge))) for edge in audio.band)
    edges = to_hertz(np.linspace(lowest, highest, audio.mel_bins + 2))
    frequencies = np.arange(fft_size // 2 + 1) * audio.sample_rate / fft_size
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if audio.mel_scale == "slaney":
        filters *= 2.0 / (edges[2:] - edges[:-2])
    if not filters.any(0).all() and audio.normalization != "peak":
        raise ValueError(
            "data.audio.mel_bins must be fewer, or data.audio.window longer: some bins hold no frequency of the "
            f"transform. Received: mel_bins={audio.mel_bins}, {fft_size} samples, {audio.sample_rate} Hz.")
    return filters.astype(np.float32)


def _htk_mel(hertz):
    return 2595.0 * np.log10(1.0 + hertz / 700.0)


def _htk_hertz(mel):
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def _slaney_mel(hertz):
    """3 mel are 200 Hz up to 1 kHz, mel 15; above, 27 mel are a factor of 6.4."""
    return np.where(hertz < 1000.0, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000.0) / 1000.0) / np.log(6.4))


def _slaney_hertz(mel):
    return np.where(mel < 15, mel * 200 / 3, 1000.0 * np.exp((mel - 15) * np.log(6.4) / 27))


class FrontEnd(tf.Module):
    """WAV bytes or samples to features; models are built of it as of a source tokenizer.

    Frame t sees a window around sample t * hop, zeros beyond both ends. Its features are log(max(energy, `FLOOR`)) in
    the mel filters, normalized as the recipe says. One more value of each frame says whether it is real, see
    `structures.source_mask`.

    Args:
        audio: the recipe's table.
        mean, deviation: [mel_bins] float of all of train, where the normalization is "global".
    Attributes:
        vocabulary_size: features a frame, the one that says whether it is real not among them.
    Raises:
        ValueError: the mel filters are too narrow, or "global" lacks its numbers.
    """

    kind = "audio"

    def __init__(self, audio: Audio, mean: Any = None, deviation: Any = None):
        super().__init__(name="front_end")
        if (audio.normalization == "global") != (mean is not None):
            raise ValueError(
                "FrontEnd needs mean and deviation for normalization = \"global\", and for no other. Received: "
                f"normalization=\"{audio.normalization}\", mean {'missing' if mean is None else 'given'}.")
        self.audio, self.vocabulary_size = audio, audio.mel_bins
        self.window, self.hop = (round(seconds * audio.sample_rate) for seconds in (audio.window, audio.hop))
        self.fft_size = audio.fft_size or 1 << (self.window - 1).bit_length()
        self.chunk = None if audio.chunk is None else round(audio.chunk * audio.sample_rate)  # samples
        before = (self.fft_size - self.window) // 2
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)  # Hann's, periodic
        self._window = np.pad(window, [before, self.fft_size - self.window - before]).astype(np.float32)
        self._filters = mel_filters(audio, self.fft_size)
        self.mean, self.deviation = (
            None if each is None else np.asarray(each, np.float32) for each in (mean, deviation))
        self._traced = tf.function(
            self._log_mel_of, input_signature=[_WAV, tf.TensorSpec([], tf.int32)], autograph=False)

    def vocabulary(self) -> list[str]:
        """Names of the features."""
        return [f"mel {i}" for i in range(self.vocabulary_size)]

    def content(self) -> bytes:
        """All that features depend on."""
        about = self.audio.model_dump(mode="json") | {
            name: None if value is None else value.tolist()
            for name, value in (("mean", self.mean), ("deviation", self.deviation))}
        return json.dumps(about).encode()

    def save(self, folder: Path) -> None:
        """Writes what `load_front_end` reads."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "front-end.json").write_bytes(self.content())

    def read(self, wav: tf.Tensor, max_length: int) -> tuple[tf.Tensor, tf.Tensor]:
        """WAV files to the sources of a model.

        Args:
            wav: [N] string, N = 0 included, see `decode_wav`.
            max_length: frames, at least 1; what is longer is cut there.
        Returns:
            [N, S, mel_bins + 1] float32, S the most frames of a row and at least 1, 0 on padding; and [N] bool, whether
            a row was cut.
        Raises:
            tf.errors.InvalidArgumentError: a string is no WAV file.
        """
        samples = self._samples_of(wav, 1)
        lengths = tf.cast(samples.row_lengths(), tf.int32)
        return self._sources(samples.to_tensor(shape=[None, None]), lengths, max_length)

    def read_samples(
        self, samples: tf.Tensor, num_samples: tf.Tensor, sample_rate: tf.Tensor, max_length: int,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `read`, of samples.

        Args:
            samples: [N, L] float32, in [-1, 1].
            num_samples: [N] int32, those that are real, 0 to L.
            sample_rate: [N] int32, Hz.
            max_length: frames.
        """
        def one_row(row):
            return tf.RaggedTensor.from_tensor(resample(row[0][: row[1]], row[2], self.audio.sample_rate)[None])[0]

        fine = (num_samples >= 0) & (num_samples <= tf.shape(samples)[1]) & (sample_rate > 0)
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(fine), [
                "samples needs num_samples from 0 to its width and a sample_rate above 0. Received: width",
                tf.shape(samples)[1], "num_samples", num_samples, "sample_rate", sample_rate])]):
            resampled = tf.map_fn(one_row, (samples, num_samples, sample_rate), fn_output_signature=_ROW)
        lengths = tf.cast(resampled.row_lengths(), tf.int32)
        return self._sources(resampled.to_tensor(shape=[None, None]), lengths, max_length)

    def num_frames(self, num_samples: Any) -> Any:
        """Real frames of a recording of so many samples, or of each of several."""
        frames = 1 + num_samples // self.hop
        return frames if self.chunk is None else frames * 0 + self.chunk // self.hop

    def log_mel(self, samples: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Features without normalization.

        Args:
            samples: [N, L] float32, at the recipe's rate.
            lengths: [N] int32, samples that are real.
        Returns:
            [N, 1 + L // hop, mel_bins] float32, of which `num_frames(length)` are real; with a chunk just these.
        """
        real = tf.sequence_mask(lengths, tf.shape(samples)[1], tf.float32)
        half = self.fft_size // 2
        samples *= real
        number = 1 + tf.shape(samples)[1] // self.hop
        if self.chunk is not None:
            samples = samples[:, : self.chunk]
            samples = tf.pad(samples, [[0, 0], [0, self.chunk - tf.shape(samples)[1]]])
            number = self.chunk // self.hop
        padded = tf.pad(samples, [[0, 0], [half, half]], "REFLECT" if self.audio.reflect else "CONSTANT")
        frames = tf.signal.frame(padded, self.fft_size, self.hop)[:, :number]
        energies = tf.square(tf.abs(tf.signal.rfft(frames * self._window)))  # [N, T, fft_size / 2 + 1]
        rows = tf.matmul(tf.reshape(energies, [-1, self.fft_size // 2 + 1]), self._filters)
        shape = tf.shape(frames)
        return tf.math.log(tf.maximum(tf.reshape(rows, [shape[0], shape[1], self.vocabulary_size]), FLOOR))

    def normalize(self, features: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """[N, T, mel_bins] log-mel features as models read them, from the real frames that `mask` [N, T] says."""
        if self.audio.normalization == "none":
            return features
        if self.audio.normalization == "global":
            return (features - self.mean) / self.deviation
        real = tf.cast(mask, tf.float32)[:, :, None]
        if self.audio.normalization == "peak":
            features = features / math.log(10.0)
            peak = tf.reduce_max(tf.where(real > 0, features, features.dtype.min), [1, 2], keepdims=True)
            return (tf.maximum(features, peak - 8.0) + 4.0) / 4.0
        count = tf.reduce_sum(real, 1, keepdims=True)
        mean = tf.math.divide_no_nan(tf.reduce_sum(features * real, 1, keepdims=True), count)
        variance = tf.math.divide_no_nan(tf.reduce_sum(tf.square(features - mean) * real, 1, keepdims=True), count)
        return (features - mean) * tf.math.rsqrt(variance + VARIANCE_FLOOR)

    def features(self, wav: Sequence[bytes], speed: float = 1.0) -> list[np.ndarray]:
        """Log-mel features of files, without normalization: of each [T, mel_bins] float32. Raises as `decode_wav`.

        Args:
            wav: the bytes of the files.
            speed: above 1 the recordings are played faster, at a higher pitch.
        """
        features, frames = self._traced(tf.constant(wav, tf.string, [len(wav)]), round(speed * _SPEED_UNIT))
        return [row[:length] for row, length in zip(features.numpy(), frames.numpy(), strict=True)]

    def _log_mel_of(self, wav, speed):
        samples = self._samples_of(wav, speed)
        lengths = tf.cast(samples.row_lengths(), tf.int32)
        return self.log_mel(samples.to_tensor(shape=[None, None]), lengths), self.num_frames(lengths)

    def _samples_of(self, wav, speed):
        """[N] WAV files to [N, (L)] samples at the recipe's rate; `speed` in parts of `_SPEED_UNIT`, or 1 for none."""
        def one_row(content):
            samples, rate = decode_wav(content)
            rate = tf.cast(rate, tf.int64)
            unit = 1 if isinstance(speed, int) else _SPEED_UNIT
            return resample(samples, rate * tf.cast(speed, tf.int64), self.audio.sample_rate * unit)

        return tf.map_fn(one_row, wav, fn_output_signature=_ROW)

    def _sources(self, samples, lengths, max_length):
        frames = self.num_frames(lengths)
        cut = frames > max_length if self.chunk is None else (frames > max_length) | (lengths > self.chunk)
        features = self.log_mel(samples, lengths)[:, :max_length]
        mask = tf.sequence_mask(tf.minimum(frames, max_length), tf.shape(features)[1])
        features = self.normalize(features, mask)
        real = tf.cast(mask, tf.float32)[:, :, None]
        return tf.concat([features * real, real], 2), cut


_ROW = tf.RaggedTensorSpec([None], tf.float32, ragged_rank=0)


def load_front_end(folder: Path) -> FrontEnd:
    """Reads what `FrontEnd.save` wrote."""
    about = json.loads((Path(folder) / "front-end.json").read_text(encoding="utf-8"))
    mean, deviation = about.pop("mean"), about.pop("deviation")
    return FrontEnd(Audio.model_validate(about), mean, deviation)
