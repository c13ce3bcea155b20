"""Word-level distillation: what the student learns of its teacher, and that the teacher stays outside."""

import collections
import io
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tests.distribution import FAMILIES, make_batch
from tfseq2seq import checkpoints, runs
from tfseq2seq.config import ConfigError, Model, load_recipe, parse_recipe
from tfseq2seq.distillation import Distillation
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model
from tfseq2seq.noise import TokenNoise
from tfseq2seq.structures import PAD
from tfseq2seq.teacher_forcing import TeacherForcing

QUIET = Console(quiet=True)
FEEDING = {**FAMILIES["recurrent"], "decoder": {**FAMILIES["recurrent"]["decoder"], "input_feeding": True}}
SOURCE, TARGET, LABELS = (tf.constant(each[2:]) for each in make_batch())  # two rows of padding, four of tokens
INPUTS = {"source": SOURCE, "target": TARGET}
REAL = LABELS.numpy() != PAD
WEIGHTS = tf.constant(REAL / np.float32(REAL.sum()))


def make_pair(student="recurrent", teacher="transformer", weight=0.3, temperature=2.0, precision="float32", **compiled):
    """A student of the first seed and its teacher of the second, whose distributions are far from uniform."""
    models = []
    for seed, family in ((1, student), (2, teacher)):
        keras.utils.set_random_seed(seed)
        tables = FEEDING if family == "feeding" else FAMILIES[family]
        models.append(build_model(Model(embedding_units=8, **tables), 11, 10, precision))
    student, teacher = models
    for variable in teacher.trainable_variables:
        variable.assign(variable * 3)
    student.distillation = Distillation(teacher, weight, temperature)
    student.compile(keras.optimizers.SGD(1.0, momentum=0.5), loss=TokenCrossEntropy(0.1), **compiled)
    return student, teacher


def formula(student, teacher, weight, temperature):
    """The gradient of the papers' loss, by automatic differentiation of padded logits."""
    wanted = tf.nn.softmax(teacher(INPUTS) / temperature)
    with tf.GradientTape() as tape:
        logits = student(INPUTS)
        smoothed = 0.9 * tf.one_hot(LABELS, 10) + 0.1 / 10
        losses = (1 - weight) * tf.nn.softmax_cross_entropy_with_logits(smoothed, logits)
        losses += weight * temperature**2 * tf.nn.softmax_cross_entropy_with_logits(wanted, logits / temperature)
        loss = tf.reduce_sum(WEIGHTS * losses)
    return [tf.convert_to_tensor(each).numpy() for each in tape.gradient(loss, student.trainable_variables)]


def assert_close(found, expected, share=1e-5):
    largest = max(np.abs(each).max() for each in expected)
    assert largest > 1e-3
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=share * largest)


@pytest.mark.parametrize("student, teacher, weight, temperature", [
    ("recurrent", "transformer", 0.3, 2.0), ("transformer", "feeding", 0.7, 1.0), ("recurrent", "recurrent", 1.0, 1.0)])
def test_the_gradient_is_that_of_the_papers_formula(student, teacher, weight, temperature):
    student, teacher = make_pair(student, teacher, weight, temperature)
    expected = formula(student, teacher, weight, temperature)
    assert_close(student.gradients(INPUTS, LABELS, WEIGHTS), expected)


def test_two_passes_learn_the_mean_of_what_one_does():
    student, teacher = make_pair()
    expected = formula(student, teacher, 0.3, 2.0)
    student.r_drop = 5.0  # without dropout both passes say the same
    assert_close(student.gradients(INPUTS, LABELS, WEIGHTS), expected)


def fit_once(student):
    """What the optimizer is given for one batch."""
    data = tf.data.Dataset.from_tensors((INPUTS, LABELS))
    student.fit(data, epochs=1, verbose=0, shuffle=False)
    optimizer = getattr(student.optimizer, "inner_optimizer", student.optimizer)
    return [-variable.numpy() for variable in optimizer.momentums]


@pytest.mark.parametrize("teacher, parts, compiled", [
    ("transformer", 3, {}), ("feeding", 2, {"jit_compile": True})])
def test_parts_of_a_batch_and_xla_change_nothing(teacher, parts, compiled):
    student, teacher = make_pair("transformer", teacher, **compiled)
    expected = formula(student, teacher, 0.3, 2.0)
    student.accumulation_steps = parts
    assert_close(fit_once(student), expected)


def test_half_precision_scales_the_loss_once():
    expected = formula(*make_pair("transformer"), 0.3, 2.0)
    student, _ = make_pair("transformer", precision="mixed_float16")
    assert_close(fit_once(student), expected, 0.03)


REPLICAS = """
import json
import sys
import keras
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.distribution import FAMILIES, compare, take_step
from tfseq2seq.config import Model
from tfseq2seq.distillation import Distillation
from tfseq2seq.model import build_model
def teach(model):
    keras.utils.set_random_seed(2)
    model.distillation = Distillation(build_model(Model(embedding_units=8, **FAMILIES["recurrent"]), 11, 10), 0.7, 2.0)
cases = {"alone": (1, 1, None), "one": (1, 1, teach), "parts": (2, 2, teach)}
found = {name: take_step("transformer", *case[:2], False, None, case[2]) for name, case in cases.items()}
print(json.dumps({name: compare(each, found["one"])["difference"] for name, each in found.items()}))
"""


def test_replicas_and_parts_have_the_gradient_of_one_device():
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS], capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parts"] <= 1e-6
    assert found["alone"] > 0.1  # without the teacher it would be another one


def test_the_teacher_reads_true_tokens_whatever_the_student_reads(monkeypatch):
    student, _ = make_pair()
    student.teacher_forcing = TeacherForcing("constant", 0.0)
    student.noise = {"source": TokenNoise(0.5, 0.5, 11), "target": TokenNoise(0.5, 0.5, 10)}
    plain, seen = student.distillation.teacher_logits, []
    read = student.call_with_sampling
    monkeypatch.setattr(student.distillation, "teacher_logits", lambda inputs, *rest, **more: (
        seen.append(inputs), plain(inputs, *rest, **more))[1])
    monkeypatch.setattr(student, "call_with_sampling", lambda inputs, *rest: (
        seen.append(inputs), read(inputs, *rest))[1])
    student.gradients(INPUTS, LABELS, WEIGHTS)
    by_teacher, by_student = seen
    for side in INPUTS:
        np.testing.assert_array_equal(by_teacher[side], INPUTS[side])
        assert (by_student[side] != INPUTS[side]).numpy().any()


def test_a_student_comes_to_say_what_its_teacher_says():
    """Not what the references say, of which each place has one."""
    student, teacher = make_pair("recurrent", "transformer", weight=1.0, temperature=1.0)
    student.compile(keras.optimizers.Adam(0.02), loss=TokenCrossEntropy())
    data = tf.data.Dataset.from_tensors((INPUTS, LABELS)).repeat()
    student.fit(data, steps_per_epoch=200, epochs=1, verbose=0, shuffle=False)
    found, wanted = (tf.nn.softmax(model(INPUTS)).numpy()[REAL] for model in (student, teacher))
    assert np.abs(found - wanted).max() < 0.02
    assert np.abs(wanted - np.eye(10)[LABELS.numpy()[REAL]]).max() > 0.5


def test_nothing_of_the_teacher_belongs_to_the_student(tmp_path):
    student, teacher = make_pair()
    student.distillation, kept = None, student.distillation
    before = [list(getattr(student, name)) for name in ("weights", "variables", "trainable_variables", "layers")]
    student.distillation = kept
    known = teacher.get_weights()
    fit_once(student)
    after = [list(getattr(student, name)) for name in ("weights", "variables", "trainable_variables", "layers")]
    for one, two in zip(before, after, strict=True):
        assert [id(each) for each in one] == [id(each) for each in two]
    assert len(student.optimizer.variables) == 2 + len(student.trainable_variables)  # steps, rate and momentums
    for one, two in zip(known, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    assert loaded.distillation is None and len(loaded.variables) == len(student.variables)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"weight in \[0, 1\].*Received: weight=1.5"):
        Distillation(None, 1.5)
    with pytest.raises(ValueError, match="temperature above 0.*temperature=0"):
        Distillation(None, 0.5, 0.0)
    with pytest.raises(ConfigError, match="teacher_weight and teacher_temperature need a teacher"):
        parse_recipe({"name": "x", "train": {"teacher_weight": 0.2}})


# A whole training.


def settings(teacher, **more):
    transformer = {"kind": "transformer", "layers": 1, "units": 8, "heads": 2, "feed_forward_units": 8}
    return {
        "train.teacher": str(teacher), "train.steps": 2, "train.evaluate_every": 2, "model.encoder": transformer,
        "train.average_decay": 0.9, **more}


def test_a_training_with_a_teacher_keeps_the_student_alone_and_goes_on(tiny_recipe, tiny_run, tmp_path):
    said = io.StringIO()
    for steps in (2, 3):
        run = load_recipe(tiny_recipe, settings(tiny_run, **{"train.steps": steps}))
        runs.train_run(run, tmp_path / "run", Console(file=said, width=200))
    best = checkpoints.best_step(tiny_run / "checkpoints")
    assert said.getvalue().count(f"teacher: step {best} of {tiny_run}") == 2
    path = tmp_path / "run" / "checkpoints" / "step-00000003" / "weights"
    kept = collections.Counter(name.split("/")[0] for name, _ in tf.train.list_variables(str(path)))
    student = build_model(run.model, 8, 8)
    assert kept["weights"] == kept["means"] == len(student.weights)
    assert kept["optimizer"] == 1 + 2 * len(student.weights)  # the steps, and both of Adam's moments


@pytest.mark.parametrize("changed, text", [
    ({"data.target_tokenizer": {"kind": "words", "case": "lower"}},
     "same target vocabulary.*data.target_tokenizer.*8 tokens there and 8 here, 4 of them different"),
    ({"data.source_tokenizer": {"kind": "bytes"}}, "same source vocabulary.*8 tokens there and 260 here"),
    ({"train.teacher": "nowhere"}, "nowhere: holds no run"),
])
def test_a_teacher_of_other_vocabularies_is_refused(tiny_recipe, tiny_run, tmp_path, changed, text):
    run = load_recipe(tiny_recipe, settings(tiny_run, **changed))
    with pytest.raises(ValueError, match=text):
        runs.train_run(run, tmp_path / "run", QUIET)


def test_a_teacher_that_does_not_reach_the_lengths_is_refused(tiny_recipe, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("tfseq2seq.distillation.longest", lambda table: 20)
    with pytest.raises(ValueError, match="must reach data.max_source_length = 128: lower it.*max_positions = 20"):
        runs.train_run(load_recipe(tiny_recipe, settings(tiny_run)), tmp_path / "run", QUIET)
