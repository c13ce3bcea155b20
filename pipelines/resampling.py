"""Samples of one rate to those of another, in the graph."""

import math

import tensorflow as tf

_REACH = 10  # zero crossings of the filter on either side
_BETA = 5.0  # of its Kaiser window
_AT_ONCE = 8  # values of the filter that are multiplied together: all of them would take 60 times the samples' memory


def resample(samples, rate, target_rate):
    """Changes the rate by a low-pass filter over the samples with zeros between them, as `scipy.signal.resample_poly`.

    With up / down = target_rate / rate in lowest terms: y[n] = sum over k of x[k] h[n down - k up], h(t) = up times a
    sinc that ends at the lower of both Nyquist frequencies, times a Kaiser window of `_REACH` max(up, down) on either
    side, of sum up.

    Args:
        samples: [L] float32.
        rate: scalar int, Hz of the samples, at least 1.
        target_rate: scalar int, Hz.
    Returns:
        [ceil(L target_rate / rate)] float32.
    """
    rate, target_rate = (tf.cast(each, tf.int64) for each in (rate, target_rate))
    return tf.cond(rate == target_rate, lambda: samples, lambda: _resample(samples, rate, target_rate))


def _resample(samples, rate, target_rate):
    divisor, _ = tf.while_loop(
        lambda a, b: b > 0, lambda a, b: (b, tf.math.floormod(a, b)), (target_rate, rate))  # Euclid's
    up, down = target_rate // divisor, rate // divisor
    most = tf.maximum(up, down)
    reach = _REACH * most
    times = tf.cast(tf.range(-reach, reach + 1), tf.float32) / tf.cast(most, tf.float32)
    angles = math.pi * times
    sinc = tf.where(times == 0, 1.0, tf.math.divide_no_nan(tf.sin(angles), angles))
    inside = 1.0 - tf.square(times / _REACH)
    kaiser = tf.math.bessel_i0(_BETA * tf.sqrt(tf.maximum(inside, 0.0)))
    taps = sinc * kaiser
    taps *= tf.cast(up, tf.float32) / tf.reduce_sum(taps)
    num_samples = tf.size(samples, tf.int64)
    num_outputs = -(-num_samples * up // down)
    # Output n is at n * down among the zeros; the last sample that the filter there reaches is number `last[n]`.
    edge = tf.range(num_outputs) * down + reach
    last, first_tap = edge // up, edge % up  # [n]
    num_taps = 2 * reach // up + 1
    num_taps += -num_taps % _AT_ONCE
    taps = tf.pad(taps, [[0, (_AT_ONCE + 1) * up]])  # those that a phase lacks are 0
    padded = tf.pad(samples, [[num_taps, num_taps]])

    def add(i, total):
        some = i + tf.range(_AT_ONCE, dtype=tf.int64)
        places = tf.clip_by_value(last[:, None] - some, -num_taps, num_samples + num_taps - 1)
        products = tf.gather(taps, first_tap[:, None] + some * up) * tf.gather(padded, places + num_taps)
        return i + _AT_ONCE, total + tf.reduce_sum(products, 1)

    _, total = tf.while_loop(
        lambda i, total: i < num_taps, add, (tf.constant(0, tf.int64), tf.zeros([num_outputs])))
    return total
