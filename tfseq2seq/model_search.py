"""From source ids to hypotheses: models under the search, in the plain graph or compiled by XLA."""

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
        source: [B, S] int32 ids.
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
    if len(models) == 1:
        step, state, memory = models[0].stepper(), states[0], memories[0]
    else:
        step = combine([model.stepper() for model in models], weights, combination)
        state, memory = states, memories
    return search(
        step, state, memory, batch_size=tf.shape(source)[0], source_mask=encoded[0].mask, compact=longest is None,
        longest=longest, **arguments)


def find_compiled(models: list[Seq2Seq], source: tf.Tensor, longest: int, **arguments: Any) -> Hypotheses:
    """As `find`, compiled by XLA at the first call with so many rows and source tokens, rounded up to `STEP`.

    What a step of few rows costs in the plain graph is a thousand small operations; compiled it is a few large ones.
    """
    width = tf.shape(source)[1]
    padded = tf.pad(source, [[0, 0], [0, -width % STEP]], constant_values=PAD)

    @tf.function(jit_compile=True)
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
