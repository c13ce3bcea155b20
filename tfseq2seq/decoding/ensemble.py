"""Several models that answer as one."""

import tensorflow as tf

COMBINATIONS = ("log_linear", "linear")


def combine(steps, weights=None, combination="log_linear"):
    """One step function of several models over the same target ids.

    "log_linear": log p = sum over m of w[m] log p[m], made to sum to 1 again (Sockeye's; a geometric mean); "linear":
    p = sum over m of w[m] p[m]. The attention is the weighted mean where every model gives one, else there is none.

    Args:
        steps: step functions as `search` takes them, one a model.
        weights: numbers above 0, one a model; they are divided by their sum. Default: all alike.
        combination: a name of `COMBINATIONS`.
    Returns:
        A step function whose state and memory are tuples, one of each model.
    Raises:
        ValueError: no model, not one weight a model, a weight that is not above 0, or an unknown combination.
    """
    steps = list(steps)
    weights = [1.0] * len(steps) if weights is None else list(weights)
    if not steps or len(weights) != len(steps) or min(weights) <= 0:
        raise ValueError(
            "combine needs at least one model, and one weight above 0 for each. "
            f"Received: {len(steps)} models, weights={weights}.")
    if combination not in COMBINATIONS:
        raise ValueError(
            f"combine needs combination to be one of {', '.join(COMBINATIONS)}. Received: combination={combination!r}.")
    weights = [weight / sum(weights) for weight in weights]

    def step(tokens, states, memories):
        found = [one(tokens, state, memory) for one, state, memory in zip(steps, states, memories, strict=True)]
        parts = [tf.nn.log_softmax(tf.cast(logits, tf.float32)) for logits, _, _ in found]
        if combination == "log_linear":
            logits = tf.add_n([weight * part for weight, part in zip(weights, parts, strict=True)])
        else:
            logits = tf.reduce_logsumexp(
                tf.stack([part + tf.math.log(weight) for weight, part in zip(weights, parts, strict=True)]), 0)
        attentions = [attention for _, _, attention in found]
        attention = None
        if all(each is not None and each.shape[-1] != 0 for each in attentions):
            attention = tf.add_n([
                weight * tf.cast(each, tf.float32) for weight, each in zip(weights, attentions, strict=True)])
        return logits, tuple(state for _, state, _ in found), attention

    return step
