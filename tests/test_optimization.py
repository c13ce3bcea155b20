"""Schedules against their formulas, optimizers against Keras' own."""

import typing

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tfseq2seq.config import ConfigError, Train, parse_recipe
from tfseq2seq.optimization import OPTIMIZERS, WarmupSchedule, check_optimizer, make_optimizer, make_schedule
from tfseq2seq.runs import prepare_run, train_run


@pytest.mark.parametrize("kind, step, expected", [
    ("constant", 0, 0.25), ("constant", 9, 1.0), ("plateau", 0, 0.25), ("plateau", 9, 1.0),
    ("inverse_square_root", 1, 0.5), ("inverse_square_root", 3, 1.0), ("inverse_square_root", 15, 0.5),
    ("linear", 3, 1.0), ("linear", 7, 0.5), ("linear", 11, 0.0), ("linear", 99, 0.0),
    ("cosine", 3, 1.0), ("cosine", 7, 0.5), ("cosine", 11, 0.0),
])
def test_schedule_by_hand(kind, step, expected):
    schedule = WarmupSchedule(kind, peak=1.0, warmup_steps=4, total_steps=12)
    assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)


def test_noam_is_equation_3():
    schedule = WarmupSchedule("noam", peak=2.0, warmup_steps=4, units=16)
    assert float(schedule(1)) == pytest.approx(2.0 * 0.25 * 2 * 4**-1.5)  # rising
    assert float(schedule(99)) == pytest.approx(2.0 * 0.25 * 100**-0.5)  # falling


@pytest.mark.parametrize("arguments, text", [
    ({"kind": "step", "peak": 1.0}, "Received: kind='step'"),
    ({"kind": "noam", "peak": 1.0}, "warmup_steps >= 1"),
    ({"kind": "linear", "peak": 1.0, "warmup_steps": 5, "total_steps": 5}, "more steps than warm-up"),
])
def test_wrong_schedules_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        WarmupSchedule(**arguments)


def test_every_optimizer_of_keras_has_a_name():
    known = {
        name for name, kind in vars(keras.optimizers).items()
        if isinstance(kind, type) and issubclass(kind, keras.optimizers.Optimizer)}
    others = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "ScheduleFreeAdamW"}
    assert {kind.__name__ for kind, _ in OPTIMIZERS.values()} == known - others
    assert set(typing.get_args(Train.model_fields["optimizer"].annotation)) == set(OPTIMIZERS)


GRADIENTS = np.random.default_rng(0).normal(size=(6, 4, 3)).astype(np.float32)


def step(optimizer, weights, gradients):
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [weights])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_by_name_with_its_schedule(name):
    train = Train(optimizer=name, warmup_steps=10, learning_rate=0.5)
    rate = make_schedule(train, units=8)
    optimizer, reference = make_optimizer(train, rate), OPTIMIZERS[name][0].__mro__
    assert float(optimizer.learning_rate) == pytest.approx(0.05)  # step 1 of 10
    rate.scale.assign(0.5)
    assert float(optimizer.learning_rate) == pytest.approx(0.025)
    rate.scale.assign(1.0)
    # Against Keras' own class, whose rate is set by hand before each step.
    kind = next(each for each in reference if each.__module__.startswith("keras."))
    plain = kind(0.0, **OPTIMIZERS[name][1])
    one, two = (keras.Variable(np.ones([4, 3], np.float32), name="kernel") for _ in range(2))
    for number, gradient in enumerate(GRADIENTS, start=1):
        step(optimizer, one, [gradient])
        plain.learning_rate = 0.5 * number / 10
        step(plain, two, [gradient])
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    assert np.abs(one - np.ones([4, 3])).min() > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_from_its_variables(name):
    def make():
        train = Train(optimizer=name, warmup_steps=1, learning_rate=0.1)
        weights = keras.Variable(np.ones([4, 3], np.float32), name="kernel")
        optimizer = make_optimizer(train, make_schedule(train, units=8))
        optimizer.build([weights])
        return optimizer, weights

    (whole, one), (first, two), (second, three) = make(), make(), make()
    step(whole, one, GRADIENTS)
    step(first, two, GRADIENTS[:3])
    three.assign(two)
    assert len(second.variables) == len(first.variables)
    for variable, value in zip(second.variables, first.variables, strict=True):
        variable.assign(value)
    step(second, three, GRADIENTS[3:])
    np.testing.assert_array_equal(one, three)


def test_options_go_to_the_optimizer_and_others_are_refused():
    train = Train(optimizer="sgd", optimizer_options={"momentum": 0.9, "nesterov": True})
    optimizer = make_optimizer(train, make_schedule(train, units=8))
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    for name, options in (("adam", {"betta_1": 0.5}), ("adam", {"amsgrad": True}), ("sgd", {"clipnorm": 1.0})):
        with pytest.raises(ValueError, match=rf'optimizer_options of "{name}" are .*Received: {next(iter(options))}'):
            check_optimizer(Train(optimizer=name, optimizer_options=options))


@pytest.mark.parametrize("name, options, message", [
    ("adam", {"beta_1": "x"}, None),
    ("adam", {"beta_1": True}, "beta_1 must be at least 0 and below 1. Received: True"),
    ("adam", {"beta_2": 1}, "beta_2 must be at least 0 and below 1. Received: 1"),
    ("adamw", {"weight_decay": -0.1}, "weight_decay must be a number of at least 0. Received: -0.1"),
    ("adamw", {"weight_decay": ["x"]}, r"weight_decay must be a number of at least 0. Received: \['x'\]"),
    ("sgd", {"nesterov": 1}, "nesterov must be true or false. Received: 1"),
    ("lion", {"beta_1": 0.0}, "beta_1 must be above 0 and below 1. Received: 0.0"),
    ("ftrl", {"learning_rate_power": 0.5}, "learning_rate_power must be a number of at most 0. Received: 0.5"),
    ("muon", {"ns_steps": 0.5}, "ns_steps must be a whole number of at least 1. Received: 0.5"),
    ("muon", {"muon_b": True}, "muon_b must be a number. Received: True"),
    ("muon", {"exclude_layers": 3}, "exclude_layers must be a list of names. Received: 3"),
])
def test_values_that_an_optimizer_cannot_use_are_refused_before_anything_is_prepared(
        name, options, message, tmp_path):
    values = {"name": "x", "data": {"folder": "nowhere"}, "train": {
        "optimizer": name, "optimizer_options": options}}
    if message is None:
        with pytest.raises(ConfigError, match=r"'train.optimizer_options.beta_1' must be of type bool or int or float"):
            parse_recipe(values)
        return
    for begin in (train_run, prepare_run):
        with pytest.raises(ValueError, match=f"train.optimizer_options.{message}"):
            begin(parse_recipe(values), tmp_path / "run", Console(quiet=True))


@pytest.mark.parametrize("name, options", [
    ("sgd", {"momentum": 0}), ("adam", {"beta_1": 0, "epsilon": 0}), ("lion", {"beta_1": 0.5}),
    ("ftrl", {"learning_rate_power": 0, "initial_accumulator_value": 1}), ("adafactor", {"beta_2_decay": -1}),
    ("muon", {"ns_steps": 2, "muon_b": -1, "exclude_layers": ["a"], "nesterov": False, "adam_lr_ratio": 2})])
def test_values_at_their_bounds_train(name, options):
    train = Train(optimizer=name, optimizer_options=options, warmup_steps=1)
    weights = keras.Variable(np.ones([4, 3], np.float32), name="kernel")
    step(make_optimizer(train, make_schedule(train, units=8)), weights, GRADIENTS)
    assert np.isfinite(weights).all()


def test_schedule_config_round_trip():
    schedule = WarmupSchedule("cosine", 1.0, 2, 8)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(again(5)) == float(schedule(5))
