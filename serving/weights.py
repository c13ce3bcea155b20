"""Weights in fewer bytes: stored in half of the bits or in 8, and computed with in float32."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

KINDS = ("float32", "float16", "bfloat16", "int8")
# Name of a weight -> the axis of its output channels, each of which has a scale; of a table these are its rows, as they
# are the outputs where it is the output layer too. What is not named here, as a bias, stays float32 with int8.
CHANNELS = {"kernel": -1, "recurrent_kernel": -1, "projection": -1, "table": 0}


class PackedWeights:
    """The weights of models as they are stored.

    int8: scale[c] = max |w[..., c]| / 127 of each output channel c, q = round(w / scale), half to even; w is then
    q * scale, off by at most scale / 2.

    Args:
        models: Keras models; one weight may belong to several.
        kind: "float16", "bfloat16" or "int8".
    Attributes:
        module: holds the stored weights; to be saved along with the functions.
        variables: the models' weights.
    Raises:
        ValueError: another kind, or a weight that float16 cannot hold.
    """

    def __init__(self, models: Sequence[Any], kind: str):
        if kind not in KINDS[1:]:
            raise ValueError(f"PackedWeights needs a kind of {', '.join(KINDS[1:])}. Received: {kind!r}.")
        unique = {id(variable): variable for model in models for variable in model.weights}
        self.variables = [variable for variable in unique.values() if variable.dtype == "float32"]
        self.module = tf.Module(name="weights")
        self.module.stored, self.module.scales = [], {}
        for number, variable in enumerate(self.variables):
            values = variable.numpy()
            if kind != "int8":
                stored = tf.cast(values, kind)
                _check_range(variable, values, stored)
            elif variable.name in CHANNELS and values.ndim > 1:
                stored, scale = quantize(values, CHANNELS[variable.name])
                self.module.scales[str(number)] = tf.Variable(scale, trainable=False)
            else:
                stored = values
            self.module.stored.append(tf.Variable(stored, trainable=False))

    def unpacked(self) -> list[tf.Tensor]:
        """Each weight in float32, as it is computed with; in a graph, unpacked there."""
        scales = self.module.scales
        values = [tf.cast(stored, tf.float32) for stored in self.module.stored]
        return [value * scales[str(i)] if str(i) in scales else value for i, value in enumerate(values)]

    def in_graph(self) -> contextlib.AbstractContextManager[Any]:
        """A context where the models compute with what is stored, to be entered while a function is traced."""
        return keras.StatelessScope(state_mapping=list(zip(self.variables, self.unpacked(), strict=True)))


def quantize(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 values of the same shape, and a float32 scale for each place of the axis, with the other axes 1."""
    others = tuple(each for each in range(values.ndim) if each != axis % values.ndim)
    scale = np.abs(values).max(others, keepdims=True) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return np.clip(np.rint(values / scale), -127, 127).astype(np.int8), scale


@contextlib.contextmanager
def rounded(models: Sequence[Any], kind: str) -> Iterator[PackedWeights]:
    """Gives models, for a while, the weights that they have once they are stored and unpacked again.

    Raises as `PackedWeights`.
    """
    packed = PackedWeights(models, kind)
    before = [variable.numpy() for variable in packed.variables]
    try:
        for variable, value in zip(packed.variables, packed.unpacked(), strict=True):
            variable.assign(value)
        yield packed
    finally:
        for variable, value in zip(packed.variables, before, strict=True):
            variable.assign(value)


def _check_range(variable: Any, values: np.ndarray, stored: tf.Tensor) -> None:
    if np.isfinite(values).all() and not np.isfinite(tf.cast(stored, tf.float32)).all():
        raise ValueError(
            f"export.weights = \"float16\" holds numbers up to 65504; take \"bfloat16\". Received: {variable.path} "
            f"with {np.abs(values).max():g}.")
