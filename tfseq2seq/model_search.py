"""From source ids to hypotheses: models under the search, in the plain graph, in several parts, or compiled by XLA."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfseq2seq.decoding import combine, search
from tfseq2seq.model import Seq2Seq
from tfseq2seq.structures import PAD, Hypotheses

STEP = 16  # source tokens: a compiled search is compiled anew for each multiple of it


def find(
    models: list[Seq2Seq], source: tf.Tensor, *, weights: Any = None, combination: str = "log_linear",
    longest: int | None = None, **arguments: Any,
) -> Hypotheses:
    """Encodes the sources and searches.

    Args:
        models: one, or several that answer as one, see `decoding.combine`.
        source: [B, S] int32 ids, or [B, S, F + 1] features.
        weights, combination: of several models.
        longest: an int, the most steps that the search may take: then no shape changes from step to step.
        arguments: what `search` takes beside, without what follows from the sources.
    Returns:
        Hypotheses; with `longest` of as many steps.
    """
    encoded = [model.encode(source) for model in models]
    room = None if longest is None else longest * arguments["beam_size"]
    started = [model.start(each, room) for model, each in zip(models, encoded, strict=True)]
    memories, states = zip(*started, strict=True)
    batch_size = tf.shape(source)[0]
    num_rows = batch_size * arguments["beam_size"] if longest is None else None
    if len(models) == 1:
        step, state, memory = models[0].stepper(num_rows), states[0], memories[0]
    else:
        step = combine([model.stepper(num_rows) for model in models], weights, combination)
        state, memory = states, memories
    return search(
        step, state, memory, batch_size=batch_size, source_mask=encoded[0].mask, compact=longest is None,
        longest=longest, **arguments)


def find_in_parts(models: list[Seq2Seq], source: tf.Tensor, parts: int, **arguments: Any) -> Hypotheses:
    """As `find`, in several searches at once, each of every parts-th source.

    A search is one chain of small operations, most of them too small to be worth sharing out among cores; two chains
    with a core each need little more than half of the time of one with both.

    Args:
        parts: searches, at least 1; a part may be left without sources.
        models, source, arguments: see `find`.
    """
    if parts == 1:
        return find(models, source, **arguments)
    num_sources = tf.shape(source)[0]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)  # traced once for all parts
    def search_part(places):
        return find(models, tf.gather(source, places), places=places, **arguments)

    places = [tf.range(num_sources)[part::parts] for part in range(parts)]
    back = tf.math.invert_permutation(tf.concat(places, 0))
    found = [search_part(each) for each in places]
    return Hypotheses(*(tf.gather(_stack(leaves), back) for leaves in zip(*found, strict=True)))


def _stack(leaves):
    """Tensors of any shapes on top of each other, each filled with 0 to the shape of the largest."""
    shape = tf.reduce_max(tf.stack([tf.shape(leaf)[1:] for leaf in leaves]), 0)

    def fill(leaf):
        missing = tf.concat([[0], shape - tf.shape(leaf)[1:]], 0)
        return tf.ensure_shape(tf.pad(leaf, tf.stack([tf.zeros_like(missing), missing], 1)), leaf.shape)

    return tf.concat([fill(leaf) for leaf in leaves], 0)


def find_compiled(models: list[Seq2Seq], source: tf.Tensor, longest: int, **arguments: Any) -> Hypotheses:
    """As `find`, compiled by XLA at the first call with so many rows and source tokens, rounded up to `STEP`.

    What a step of few rows costs in the plain graph is a thousand small operations; compiled it is a few large ones.
    """
    width = tf.shape(source)[1]
    rest = [[0, 0]] * (source.shape.rank - 2)
    padded = tf.pad(source, [[0, 0], [0, -width % STEP], *rest], constant_values=PAD)

    @tf.function(jit_compile=True, autograph=False)
    def compiled(padded):
        return find(models, padded, longest=longest, **arguments)

    with _fixed_shapes(models):
        found = compiled(padded)
    return found._replace(attention=found.attention[..., :width])


@contextlib.contextmanager
def _fixed_shapes(models: list[Seq2Seq]) -> Iterator[None]:
    """Lets the models be traced with their padding, since XLA needs shapes that are known beforehand."""
    before = [model.remove_padding for model in models]
    for model in models:
        model.remove_padding = False
    try:
        yield
    finally:
        for model, remove in zip(models, before, strict=True):
            model.remove_padding = remove
