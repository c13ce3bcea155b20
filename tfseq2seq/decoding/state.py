"""What a search carries from step to step, as it moves it: rows of hypotheses, and what those of a source share."""

import tensorflow as tf

from tfseq2seq.structures import Shared


def tile(state, beam_size):
    """Repeats each row beam_size times: [B, ...] to [B * K, ...]. What is Shared stays as it is."""
    return _map(lambda leaf: tf.repeat(leaf, beam_size, axis=0), lambda leaf: leaf, state)


def reorder(state, rows):
    """The rows of hypotheses that others go on from. What is Shared stays as it is."""
    return _map(lambda leaf: tf.gather(leaf, rows), lambda leaf: leaf, state)


def leave(leaving, state, hypotheses, sources):
    """What stays where any source leaves; else all as it is, without a copy.

    Args:
        leaving: scalar bool.
        state: nest of tensors with a row for each hypothesis, and Shared parts with one for each source.
        hypotheses: rows of hypotheses that stay, or None: they are left out already.
        sources: rows of sources that stay.
    Returns:
        As `state`.
    """
    def gone():
        return tf.nest.flatten(_map(
            lambda leaf: leaf if hypotheses is None else tf.gather(leaf, hypotheses),
            lambda leaf: tf.gather(leaf, sources), state))

    leaves = tf.nest.flatten(state)
    if not leaves or (hypotheses is None and not any(tf.nest.flatten(_map(lambda _: False, lambda _: True, state)))):
        return state
    found = tf.cond(leaving, gone, lambda: leaves)
    return tf.nest.pack_sequence_as(state, found if isinstance(found, list | tuple) else [found])


def _map(of_hypotheses, of_sources, state):
    """Two functions of leaves: of those that have a row for each hypothesis, and of those in Shared parts."""
    def each(part):
        if isinstance(part, Shared):
            return Shared(tf.nest.map_structure(of_sources, part.part))
        if hasattr(part, "_fields"):
            return type(part)(*map(each, part))
        if isinstance(part, tuple | list):
            return type(part)(map(each, part))
        if isinstance(part, dict):
            return {name: each(value) for name, value in part.items()}
        return of_hypotheses(part)

    return each(state)
