"""The answer that is most like all others (minimum Bayes risk), in the graph.

Of M answers drawn from the model, the one with the highest mean utility against all of them is the one whose expected
loss is least (Kumar & Byrne, 2004, N04-1022; Eikema & Aziz, 2020, arXiv:2005.10283, eq. 4).
"""

import tensorflow as tf

UTILITIES = ("chrf", "bleu")
_NOTHING = -1  # after the end of a string


def expected_utility(texts, utility="chrf", weights=None):
    """Mean utility of each answer as a hypothesis, with every answer of its source as the reference, itself included.

    "chrf" is sacreBLEU's sentence chrF2 (Popovic, 2015, W15-3049: character n-grams to 6, beta 2, white space left
    out, orders that neither side has left out); "bleu" sacreBLEU's sentence BLEU of words between white space with
    exponential smoothing and effective order (Chen & Cherry, 2014, W14-3346, method 3).

    Args:
        texts: [B, M] string, valid UTF-8; M is static.
        utility: a name of `UTILITIES`.
        weights: [B, M] float32, of each answer as a reference, or None for all alike; 0 leaves one out.
    Returns:
        [B, M] float32, in percent.
    Raises:
        ValueError: an unknown utility.
    """
    if utility not in UTILITIES:
        raise ValueError(
            f"expected_utility needs utility to be one of {', '.join(UTILITIES)}. Received: utility={utility!r}.")
    weights = tf.ones(tf.shape(texts)) if weights is None else weights
    score = _chrf if utility == "chrf" else _bleu

    def of_source(pair):
        answers, weight = pair
        utilities = score(_units(answers, utility))  # [M, M]
        return tf.linalg.matvec(utilities, weight / tf.reduce_sum(weight))

    return tf.map_fn(of_source, (texts, weights), fn_output_signature=tf.TensorSpec([texts.shape[1]], tf.float32))


def _units(texts, utility):
    """[M] strings to [M, L] int64: characters without white space, or words."""
    if utility == "chrf":
        bare = tf.strings.regex_replace(texts, r"\s", "")
        units = tf.cast(tf.strings.unicode_decode(bare, "UTF-8"), tf.int64)
    else:
        words = tf.strings.split(texts)
        units = words.with_flat_values(tf.strings.to_hash_bucket_fast(words.flat_values, 2**62))
    return units.to_tensor(_NOTHING)


def _matches(units, order):
    """How often n-grams of each row are found in each other: [M, M] matches (clipped), and [M] numbers of n-grams."""
    count = tf.maximum(tf.shape(units)[1] - order + 1, 0)
    windows = tf.stack([units[:, i : i + count] for i in range(order)], -1)  # [M, L', order]
    there = windows[:, :, -1] != _NOTHING  # [M, L']
    # The same n-grams get the same number, that of their first place among all of them.
    flat = tf.reshape(windows, [-1, order])
    key = flat[:, 0]
    for i in range(1, order):
        _, key = tf.unique(key)
        _, last = tf.unique(flat[:, i])
        key = tf.cast(key, tf.int64) * tf.cast(tf.size(last) + 1, tf.int64) + tf.cast(last, tf.int64)
    names, number = tf.unique(key)
    number = tf.reshape(number, tf.shape(there))
    rows = tf.zeros_like(number) + tf.range(tf.shape(units)[0])[:, None]
    counts = tf.scatter_nd(
        tf.stack([tf.boolean_mask(rows, there), tf.boolean_mask(number, there)], -1),
        tf.ones([tf.reduce_sum(tf.cast(there, tf.int32))]), [tf.shape(units)[0], tf.size(names)])  # [M, names]
    shared = tf.map_fn(lambda row: tf.reduce_sum(tf.minimum(row, counts), 1), counts)  # [M, M]
    return shared, tf.reduce_sum(counts, 1)


def _chrf(units, orders=6, beta=2.0):
    precisions, recalls, effective = 0.0, 0.0, 0.0
    for order in range(1, orders + 1):
        shared, numbers = _matches(units, order)
        both = tf.cast((numbers[:, None] > 0) & (numbers[None] > 0), tf.float32)
        precisions += both * shared / tf.maximum(numbers[:, None], 1.0)
        recalls += both * shared / tf.maximum(numbers[None], 1.0)
        effective += both
    precision, recall = (tf.math.divide_no_nan(each, effective) for each in (precisions, recalls))
    return 100.0 * tf.math.divide_no_nan((1 + beta**2) * precision * recall, beta**2 * precision + recall)


def _bleu(units, orders=4):
    lengths = tf.reduce_sum(tf.cast(units != _NOTHING, tf.float32), 1)
    logs, effective, smooth, going_on, any_match = 0.0, 0.0, 1.0, True, False
    for order in range(1, orders + 1):
        shared, numbers = _matches(units, order)
        there = tf.logical_and(going_on, numbers[:, None] > 0)
        smooth = tf.where(there & (shared == 0), smooth * 2.0, smooth)
        precision = tf.where(shared == 0, 1.0 / (smooth * tf.maximum(numbers[:, None], 1.0)),
                             shared / tf.maximum(numbers[:, None], 1.0))
        logs += tf.where(there, tf.math.log(precision), 0.0)
        effective += tf.cast(there, tf.float32)
        any_match, going_on = tf.logical_or(any_match, shared > 0), there
    brevity = tf.minimum(0.0, 1.0 - lengths[None] / tf.maximum(lengths[:, None], 1e-9))
    score = 100.0 * tf.exp(tf.math.divide_no_nan(logs, effective) + brevity)
    return tf.where(any_match & (effective > 0), score, 0.0)
