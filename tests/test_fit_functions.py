"""A batch taken in parts, on one device; `tests/test_distribution.py` has replicas and hosts."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.distribution import FAMILIES, make_batch
from tfseq2seq.config import Model
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model


def gradient(family, parts, precision="float32", **compiled):
    """What the optimizer is given for five rows, of which two are padding, and the metrics."""
    keras.utils.set_random_seed(1)
    model = build_model(Model(embedding_units=8, **FAMILIES[family]), 11, 10, precision)
    model.accumulation_steps = parts
    model.compile(keras.optimizers.SGD(1.0, momentum=0.5), loss=TokenCrossEntropy(0.1), **compiled)
    source, target, labels = (each[2:7] for each in make_batch())
    data = tf.data.Dataset.from_tensors(({"source": source, "target": target}, labels))
    logs = model.fit(data, epochs=1, verbose=0, shuffle=False).history
    assert model.optimizer.iterations.numpy() == 1
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return [-variable.numpy() for variable in optimizer.momentums], logs


@functools.cache
def of_the_whole(family):
    return gradient(family, 1)


# Seven parts of five rows are of one row or of padding.
@pytest.mark.parametrize("family, parts, compiled", [
    ("transformer", 3, {}), ("recurrent", 7, {}), ("transformer", 2, {"jit_compile": True})])
def test_rows_that_do_not_divide_and_xla_change_nothing(family, parts, compiled):
    whole, (found, logs) = of_the_whole(family), gradient(family, parts, **compiled)
    largest = max(np.abs(each).max() for each in whole[0])
    for one, two in zip(whole[0], found, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6 * largest)
    for name, value in whole[1].items():
        assert logs[name] == pytest.approx(value, rel=1e-5), name


def test_a_loss_that_is_scaled_is_scaled_once():
    (whole, _), (parts, _) = (gradient("transformer", parts, "mixed_float16") for parts in (1, 2))
    largest = max(np.abs(each).max() for each in whole)
    assert largest < 1  # scaled it would be thousands
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, two, atol=0.03 * largest)
