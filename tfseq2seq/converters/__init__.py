"""Models of other systems become runs of ours: one file or package a system, each little more than a table of names."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfseq2seq.converters.addons import read_addons
from tfseq2seq.converters.base import Conversion, replay, write_run
from tfseq2seq.converters.eole import read_eole
from tfseq2seq.converters.opennmt_py import read_opennmt_py
from tfseq2seq.converters.opennmt_tf import read_opennmt_tf
from tfseq2seq.converters.tensorflow_nmt import read_nmt
from tfseq2seq.converters.transformers import read_transformers
from tfseq2seq.converters.weights import ConversionError

__all__ = ["SYSTEMS", "Conversion", "ConversionError", "convert", "replay", "write_run"]

# System -> what reads a path of its, with the options that a user gave.
SYSTEMS: dict[str, Callable[..., Conversion]] = {
    "transformers": read_transformers,
    "nmt": read_nmt,
    "opennmt_tf": read_opennmt_tf,
    "addons": read_addons,
    "opennmt_py": read_opennmt_py,
    "eole": read_eole,
}


def convert(system: str, path: str, **options: Any) -> Conversion:
    """Reads a model of another system.

    Args:
        system: a name of `SYSTEMS`.
        path: its folder or file; of some systems also the name of a model to fetch.
        options: of the system, as source_language; those that are None are not given.
    Raises:
        ConversionError: the system is unknown, does not take an option, or what lies there cannot be converted.
    """
    if system not in SYSTEMS:
        raise ConversionError(f"import knows the systems {', '.join(SYSTEMS)}. Received: {system!r}.")
    read, given = SYSTEMS[system], {name: value for name, value in options.items() if value is not None}
    known = inspect.signature(read).parameters
    for name, value in given.items():
        if name not in known:
            flag = f"--{name.replace('_', '-')}"
            raise ConversionError(f"import {system} takes no {flag}: leave it out. Received: {value!r}.")
    return read(path, **given)


def import_model(system: str, path: str, output: Path, **options: Any) -> Conversion:
    """Reads a model of another system and makes a run folder of it. Raises as `convert` and `write_run`."""
    conversion = convert(system, path, **options)
    write_run(conversion, output, {"system": system, "path": path})
    return conversion
