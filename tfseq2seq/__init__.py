"""Sequence-to-sequence learning on TensorFlow 2 and Keras 3.

The map, in the order of the data; names in brackets are packages beside this one:

    config          what a recipe may say                 structures   what the stages hand on
    [pipelines]     obtain, check, prepare and batch the pairs
    tokenizers      strings <-> ids, inside the graph
    layers          embeddings, positions, recurrence, convolution, attention, the Transformer's
    encoders        read the source                       decoders     write the target, one step at a time
    model           Seq2Seq: both of them, as a Keras model
    losses          cross-entropy per real target token   optimization rates, clipping
    training        fit, watch (callbacks, plots), keep (checkpoints, files), go on
    decoding        search: from a step function to ranked hypotheses
    options         what a recipe, and a row, asks of the search
    generation      strings in, strings out: tokenizers, model and search joined (alignment)
    prediction      files of any size in, answers out in their order (output)
    evaluation      strings in, numbers out
    [serving]       export as a SavedModel, serve it over gRPC, ask it
    cli             the commands                          cpu          what TensorFlow is told before them

Importing this package is cheap: TensorFlow loads with the first public name that needs it.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that holds it.
_HOMES = {
    "Run": "tfseq2seq.config",
    "ConfigError": "tfseq2seq.config",
    "load_recipe": "tfseq2seq.config",
    "parse_recipe": "tfseq2seq.config",
    "train_tokenizer": "tfseq2seq.tokenizers",
    "load_tokenizer": "tfseq2seq.tokenizers",
    "ENCODERS": "tfseq2seq.encoders",
    "DECODERS": "tfseq2seq.decoders",
    "Seq2Seq": "tfseq2seq.model",
    "build_model": "tfseq2seq.model",
    "TokenCrossEntropy": "tfseq2seq.losses",
    "search": "tfseq2seq.decoding",
    "Generator": "tfseq2seq.generation",
    "METRICS": "tfseq2seq.evaluation",
    "evaluate": "tfseq2seq.evaluation",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfseq2seq' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
