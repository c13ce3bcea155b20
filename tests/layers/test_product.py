"""Products of few rows, with kernels that were widened before."""

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.config import Model
from tfseq2seq.layers import product
from tfseq2seq.layers.embedding import Embedding
from tfseq2seq.layers.linear import Linear
from tfseq2seq.model import Seq2Seq
from tfseq2seq.model_search import find

SIZES = {"units": 8, "dropout": 0.0, "layers": 2}
DECODERS = {
    "lstm": {"kind": "attentional", "input_feeding": True, **SIZES},
    "gru": {"kind": "recurrent", "cell": "gru", **SIZES},
    "transformer": {"kind": "transformer", "heads": 2, "feed_forward_units": 16, **SIZES}}


@pytest.mark.parametrize("columns", [product.ALIGNMENT, 3 * product.ALIGNMENT, product.ALIGNMENT + 8])
@pytest.mark.parametrize("num_rows", [1, product.FEW_ROWS - 1, product.FEW_ROWS, 40])
def test_a_widened_kernel_gives_the_product(columns, num_rows):
    random = np.random.default_rng(0)
    rows, values = (random.normal(size=shape).astype("float32") for shape in ((num_rows, 12), (12, columns)))
    kernel, bias = tf.Variable(values), tf.Variable(tf.zeros([product.ALIGNMENT]))

    @tf.function
    def widened(rows):
        kernels = product.widen_all([kernel, bias], "float32", tf.shape(rows)[0])
        with product.using(kernels):
            return product.multiply(rows, kernel), [tf.shape(each) for each in kernels.values()]

    found, shapes = widened(rows)
    np.testing.assert_allclose(found, rows @ values, rtol=1e-5, atol=1e-5)
    wide = columns + product.EXTRA * (num_rows >= product.FEW_ROWS)
    assert [shape.numpy().tolist() for shape in shapes] == ([] if columns % product.ALIGNMENT else [[12, wide]])


def test_a_layer_is_as_before_outside(monkeypatch):
    monkeypatch.setattr(product, "ALIGNMENT", 4)
    layer = Linear(8)
    rows = tf.random.normal([20, 3])
    before = layer(rows)
    with product.using(product.widen_all(layer.weights, "float32", tf.constant(20))):
        np.testing.assert_allclose(layer(rows), before, rtol=1e-5, atol=1e-6)
        layer.kernel.assign(layer.kernel * 2.0)
        np.testing.assert_allclose(layer(rows), before, rtol=1e-5, atol=1e-6)  # the copy, made before
    np.testing.assert_allclose(layer(rows), before * 2.0, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("decoder", "tied", "num_kernels"), [
    ("lstm", "none", 5), ("gru", "target_output", 4), ("transformer", "target_output", 12)])
def test_a_search_widens_every_kernel_of_its_steps_and_answers_as_before(monkeypatch, decoder, tied, num_kernels):
    model = Seq2Seq(
        Model(
            embedding_units=8, share_embeddings=tied, encoder={"kind": "recurrent", "units": 8, "dropout": 0.0},
            decoder=DECODERS[decoder]), 12, 12)
    for weights in model.trainable_variables:
        weights.assign(weights * 3.0)  # decided enough to have a best answer
    source, cuts = tf.constant([[5, 6, 7, 3], [8, 3, 0, 0]]), []

    def answers(alignment):
        monkeypatch.setattr(product, "ALIGNMENT", alignment)
        return tf.function(
            lambda source: find([model], source, vocabulary_size=12, beam_size=3, max_length=6),
            input_signature=[tf.TensorSpec([None, None], tf.int32)])(source)

    expected = answers(10**9)
    real_cut = product.cut
    monkeypatch.setattr(product, "cut", lambda *arguments: cuts.append(arguments) or real_cut(*arguments))
    monkeypatch.setattr(product, "FEW_ROWS", 6)
    found = answers(4)
    assert len(cuts) == num_kernels
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_logits_of_steps_are_widened_too(monkeypatch):
    monkeypatch.setattr(product, "ALIGNMENT", 4)
    layer = Embedding(12, 3)
    rows = tf.random.normal([20, 3])
    layer.build(None)
    expected = rows @ tf.transpose(layer.table)
    np.testing.assert_allclose(
        layer.logits_of_steps("float32", tf.constant(20))(rows), expected, rtol=1e-5, atol=1e-6)
