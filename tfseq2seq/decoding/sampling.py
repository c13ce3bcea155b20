"""Drawing tokens, the same ones for the same seed in whatever company."""

from typing import Any, NamedTuple

import tensorflow as tf

_INFINITY = float("inf")


class Sampling(NamedTuple):
    """How tokens are drawn; each is a number for all sources or [B], one each.

    The logits are divided by the temperature; of these the `top_k` likeliest stay (Fan et al., 2018, arXiv:1805.04833),
    of them the fewest whose probabilities, made to sum to 1, reach `top_p` (Holtzman et al., 2020, arXiv:1904.09751),
    and of them those at least `min_p` times as likely as the likeliest (Nguyen et al., 2024, arXiv:2407.01082). The
    likeliest always stays.

    Attributes:
        temperature: at least 0; 0 takes the likeliest token.
        top_k: at least 0; 0 keeps all.
        top_p: in (0, 1]; 1 keeps all.
        min_p: in [0, 1]; 0 keeps all.
        seed: any int. The draws of a source depend on its seed, the number of the draw and the step alone.
    """

    temperature: Any = 1.0
    top_k: Any = 0
    top_p: Any = 1.0
    min_p: Any = 0.0
    seed: Any = 1


def draw(logits, sampling, sources, numbers, step):
    """One token for each row.

    Args:
        logits: [R, V] float32; -inf where a token is not allowed.
        sampling: `Sampling`.
        sources: [R] int32, of each row.
        numbers: [R] int32, of the draw within its source.
        step: scalar int32.
    Returns:
        [R] int32.
    """
    def rows(value, dtype):
        value = tf.cast(value, dtype)
        return tf.gather(value, sources) if value.shape.rank else tf.fill(tf.shape(sources), value)

    temperature = rows(sampling.temperature, tf.float32)
    chance = uniform(rows(sampling.seed, tf.int64), numbers, step)[:, None]  # [R, 1]
    greedy = (temperature == 0)[:, None]
    scaled = logits / tf.where(greedy, 1.0, temperature[:, None])
    if _keeps_all(sampling):
        order = None
        kept = tf.nn.softmax(scaled)
    else:
        values, order = tf.math.top_k(scaled, logits.shape[1])  # [R, V], likeliest first
        kept = _filtered(
            tf.nn.softmax(values), rows(sampling.top_k, tf.int32), rows(sampling.top_p, tf.float32),
            rows(sampling.min_p, tf.float32))
    total = tf.cumsum(kept, 1)
    place = tf.reduce_sum(tf.cast(total <= chance * total[:, -1:], tf.int32), 1, keepdims=True)
    place = tf.minimum(place, logits.shape[1] - 1)
    drawn = place if order is None else tf.gather(order, place, batch_dims=1)
    return tf.where(greedy, tf.argmax(logits, 1, output_type=tf.int32)[:, None], drawn)[:, 0]


def uniform(seeds, numbers, step):
    """Numbers in [0, 1) that depend on nothing else (SplitMix64, Steele et al., 2014, doi:10.1145/2714064.2660195).

    `tf.random.stateless_uniform` takes one seed for a whole batch: a row would then depend on its place in it.

    Args:
        seeds: [R] int64.
        numbers: [R] int32.
        step: scalar int32.
    Returns:
        [R] float32, multiples of 2^-24.
    """
    mixed = _mix(tf.bitcast(seeds, tf.uint64))
    for part in (numbers, step):
        mixed = _mix(mixed + tf.cast(part, tf.uint64))
    return tf.cast(tf.bitwise.right_shift(mixed, tf.constant(40, tf.uint64)), tf.float32) * 2.0**-24


def _mix(values):
    values += tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = _fold(values, shift) * tf.constant(factor, tf.uint64)
    return _fold(values, 31)


def _fold(values, shift):
    return tf.bitwise.bitwise_xor(values, tf.bitwise.right_shift(values, tf.constant(shift, tf.uint64)))


def _keeps_all(sampling):
    """Whether it is known, before anything runs, that no token is left out."""
    return all(
        not tf.is_tensor(value) and value == all_
        for value, all_ in ((sampling.top_k, 0), (sampling.top_p, 1.0), (sampling.min_p, 0.0)))


def _filtered(probabilities, top_k, top_p, min_p):
    """[R, V] probabilities, largest first, with 0 for those that are left out."""
    width = probabilities.shape[1]
    rank = tf.range(width)
    kept = tf.where(rank < tf.where(top_k == 0, width, top_k)[:, None], probabilities, 0.0)
    before = tf.cumsum(kept, 1, exclusive=True) / tf.reduce_sum(kept, 1, keepdims=True)
    kept = tf.where((before < top_p[:, None]) | (top_p >= 1.0)[:, None] | (rank == 0), kept, 0.0)
    return tf.where(kept >= min_p[:, None] * kept[:, :1], kept, 0.0)
