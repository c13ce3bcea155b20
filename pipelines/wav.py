"""WAV files to samples, in the graph: `tf.audio.decode_wav` reads 16-bit integers alone."""

import struct

import numpy as np
import tensorflow as tf

INTEGERS, FLOATS, _EXTENSIBLE = 1, 3, 0xFFFE  # the tags of formats; the last one's true tag stands further behind
# (tag, bits of a sample): from [n, bytes of a sample] uint8 to [n] float32
_SAMPLES = {
    (INTEGERS, 8): lambda parts: tf.cast(parts[:, 0], tf.float32) / 2**7 - 1.0,  # the only integers without a sign
    (INTEGERS, 16): lambda parts: tf.cast(tf.bitcast(parts, tf.int16), tf.float32) / 2**15,
    (INTEGERS, 24): lambda parts: tf.cast(
        tf.bitcast(tf.pad(parts, [[0, 0], [1, 0]]), tf.int32), tf.float32) / 2**31,
    (INTEGERS, 32): lambda parts: tf.cast(tf.bitcast(parts, tf.int32), tf.float32) / 2**31,
    (FLOATS, 32): lambda parts: tf.bitcast(parts, tf.float32),
    (FLOATS, 64): lambda parts: tf.cast(tf.bitcast(parts, tf.float64), tf.float32),
}


def decode_wav(content):
    """Samples of a WAV file of integers of 8, 16, 24 or 32 bits, or of floats of 32 or 64.

    Args:
        content: scalar string, the bytes of the file. One that is cut short gives the whole samples that are there.
    Returns:
        [L] float32 samples, integers in [-1, 1), the mean of all channels; and their rate in Hz, int32.
    Raises:
        tf.errors.InvalidArgumentError: these are not the bytes of such a file.
    """
    data = tf.io.decode_raw(content, tf.uint8)
    size = tf.size(data, tf.int64)

    def number(start, width):
        """Of so many bytes, the lowest first; those beyond the end are 0."""
        part = tf.cast(data[start : start + width], tf.int64)
        return tf.reduce_sum(part * 256 ** tf.range(tf.size(part, tf.int64)))

    def named(start, name):
        return number(start, 4) == int.from_bytes(name, "little")

    def look_at(place, form, samples, length):
        """One chunk: a name, a size, and so many bytes, one more where they are odd."""
        inside = number(place + 4, 4)
        form = tf.where(named(place, b"fmt "), place + 8, form)
        found = named(place, b"data")
        return (
            place + 8 + inside + inside % 2, form, tf.where(found, place + 8, samples),
            # A writer that did not know the size leaves a larger one.
            tf.where(found, tf.minimum(inside, size - place - 8), length))

    none = tf.constant(0, tf.int64)
    _, form, start, length = tf.while_loop(
        lambda place, form, samples, length: (samples == 0) & (place + 8 <= size), look_at,
        (tf.constant(12, tf.int64), none, none, none))
    is_wav = named(0, b"RIFF") & named(8, b"WAVE") & (form > 0) & (start > 0)
    with tf.control_dependencies([tf.debugging.Assert(is_wav, [
            "audio needs the bytes of a WAV file, RIFF with a chunk fmt and a chunk data. Received: bytes", size,
            "that begin with", data[:12]], summarize=12)]):
        tag, channels, rate, bits = (number(form + at, width) for at, width in ((0, 2), (2, 2), (4, 4), (14, 2)))
    tag = tf.where(tag == _EXTENSIBLE, number(form + 24, 2), tag)
    kind = tf.reduce_sum(tf.stack([
        (i + 1) * tf.cast((tag == known) & (bits == width), tf.int32) for i, (known, width) in enumerate(_SAMPLES)]))
    fine = (kind > 0) & (channels > 0) & (rate > 0) & (rate <= 2**20)
    with tf.control_dependencies([tf.debugging.Assert(fine, [
            "audio needs WAV of integers of 8, 16, 24 or 32 bits (tag 1) or floats of 32 or 64 (tag 3). Received: tag",
            tag, "bits", bits, "channels", channels, "Hz", rate])]):
        width = bits // 8
    length -= length % (width * channels)
    parts = tf.reshape(data[start : start + length], [-1, width])
    samples = tf.switch_case(kind - 1, [
        lambda read=read, size=bits // 8: read(tf.ensure_shape(parts[:, :size], [None, size]))
        for (_, bits), read in _SAMPLES.items()])
    return tf.reduce_mean(tf.reshape(samples, [-1, channels]), 1), tf.cast(rate, tf.int32)


def encode_wav(samples: np.ndarray, rate: int) -> bytes:
    """A WAV file of floats.

    Args:
        samples: [L] or [L, channels] float.
        rate: Hz.
    """
    content = np.asarray(samples, "<f4")
    channels = content.shape[1] if content.ndim == 2 else 1
    form = struct.pack("<HHIIHH", FLOATS, channels, rate, 4 * channels * rate, 4 * channels, 32)
    data = content.tobytes()
    return b"RIFF" + struct.pack("<I", 4 + 8 + len(form) + 8 + len(data)) + b"WAVEfmt " + struct.pack(
        "<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
