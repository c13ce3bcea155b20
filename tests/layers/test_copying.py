"""The pointer-generator's distribution, beside twins that add probabilities up by id, as the paper writes it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.layers.copying import FLOOR, Copier

KNOWN, COPIES = 7, 3  # ids of the vocabulary; two slots, and the id that stands for nothing
# The end token (3), padding (0) and unknown words beyond the slots (1) cannot be copied; 8 stands there twice.
SOURCE = np.array([[4, 8, 5, 8, 7, 3], [6, 1, 6, 3, 0, 0]], np.int32)
SOURCES = np.array([0, 1, 0, 1, 1])  # of five rows


@pytest.fixture(scope="module")
def parts():
    random = np.random.default_rng(3)
    keras.utils.set_random_seed(3)
    memory = random.normal(size=[2, 6, 4])
    weights = np.exp(random.normal(size=[5, 6])) * (SOURCE[SOURCES] != 0)
    values = {
        "logits": random.normal(size=[5, KNOWN]) * 3, "outputs": random.normal(size=[5, 3]),
        "embedded": random.normal(size=[5, 2]), "attention": weights / weights.sum(1, keepdims=True)}
    copier = Copier(COPIES)
    run(copier, memory, values)
    for variable in copier.trainable_variables:
        variable.assign_add(random.normal(0.0, 0.5, variable.shape))
    return copier, memory, values


def run(copier, memory, values, source=SOURCE):
    copies = copier.start(tf.constant(source), tf.cast(memory, tf.float32), KNOWN)
    tensors = {name: tf.cast(value, tf.float32) for name, value in values.items()}
    return copier(copies=copies, sources=tf.constant(SOURCES, tf.int32), **tensors)


def twin(copier, memory, values):
    """[R, V + copies] float64 probabilities."""
    of_context, of_step, bias = (variable.numpy().astype(np.float64) for variable in copier.trainable_variables)
    found = []
    for row, number in enumerate(SOURCES):
        attention = values["attention"][row]
        context = attention @ memory[number]
        step = np.concatenate([values["outputs"][row], values["embedded"][row]])
        generate = 1 / (1 + np.exp(-(context @ of_context + step @ of_step + bias)[0]))
        vocabulary = np.exp(values["logits"][row]) / np.exp(values["logits"][row]).sum()
        mixed = np.zeros([KNOWN + COPIES])
        for weight, token in zip(attention, SOURCE[number], strict=True):
            if token > 3:
                mixed[token] += (1 - generate) * weight
        left = sum(weight for weight, token in zip(attention, SOURCE[number], strict=True) if token <= 3)
        mixed[:KNOWN] += (generate + (1 - generate) * left) * vocabulary
        found.append(mixed)
    return np.array(found)


def test_probabilities_are_those_of_the_formula(parts):
    expected = twin(*parts)
    np.testing.assert_allclose(expected.sum(1), 1.0)
    found = np.exp(run(*parts).numpy().astype(np.float64))
    np.testing.assert_allclose(found, np.maximum(expected, FLOOR), rtol=1e-5)
    assert (expected[:, KNOWN] > 0).tolist() == (SOURCES == 0).tolist()  # a slot of the first source alone


def test_gradients_are_those_of_the_plain_formula(parts):
    """Autodiff of probabilities that are added up in a dense array, in float64."""
    copier, memory, values = parts
    labels = np.array([8, 6, 7, 2, 4])  # copied twice, known and copied, copied, generated, generated
    names = list(values)
    tensors = [tf.constant(values[name], tf.float64) for name in names]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        logits, outputs, embedded, attention = tensors
        of_context, of_step, bias = (
            tf.cast(tf.convert_to_tensor(variable), tf.float64) for variable in copier.trainable_variables)
        context = tf.einsum("rs,rse->re", attention, tf.gather(tf.constant(memory, tf.float64), SOURCES))
        generate = tf.sigmoid(context @ of_context + tf.concat([outputs, embedded], -1) @ of_step + bias)
        copied = tf.one_hot(SOURCE[SOURCES], KNOWN + COPIES, dtype=tf.float64) * (SOURCE[SOURCES] > 3)[:, :, None]
        left = tf.reduce_sum(attention * (SOURCE[SOURCES] <= 3), 1, keepdims=True)
        mixed = (1 - generate) * tf.einsum("rs,rsv->rv", attention, copied) + tf.pad(
            (generate + (1 - generate) * left) * tf.nn.softmax(logits), [[0, 0], [0, COPIES]])
        loss = -tf.reduce_sum(tf.math.log(tf.gather(mixed, labels, batch_dims=1)))
    expected = tape.gradient(loss, tensors)
    tensors = [tf.constant(values[name], tf.float32) for name in names]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        found = run(copier, memory, dict(zip(names, tensors, strict=True)))
        loss = -tf.reduce_sum(tf.gather(found, labels, batch_dims=1))
    for name, one, other in zip(names, tape.gradient(loss, tensors), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("gate", [-200.0, 200.0])
def test_a_gate_that_is_shut_leaves_all_finite(parts, gate):
    copier, memory, values = parts
    bias = copier.trainable_variables[2]
    before = bias.numpy()
    bias.assign([gate])
    try:
        with tf.GradientTape() as tape:
            found = run(copier, memory, values)
            loss = tf.reduce_sum(tf.gather(found, [8, 6, 7, 2, 4], batch_dims=1))
        assert np.isfinite(found).all()
        assert all(np.isfinite(gradient).all() for gradient in tape.gradient(loss, copier.trainable_variables))
        total = np.exp(found.numpy().astype(np.float64)).sum(1)
        np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    finally:
        bias.assign(before)


def test_a_source_without_words_is_answered_by_generating(parts):
    copier, memory, values = parts
    empty = np.where(SOURCE == 0, 0, 3).astype(np.int32)
    found = run(copier, memory, values, empty).numpy()
    logits = values["logits"]
    np.testing.assert_allclose(
        found[:, :KNOWN], logits - np.log(np.exp(logits).sum(1, keepdims=True)), atol=1e-5)
