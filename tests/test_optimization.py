"""Schedules against their formulas."""

import keras
import pytest

from tfseq2seq.config import Train
from tfseq2seq.optimization import WarmupSchedule, make_optimizer, make_schedule


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


@pytest.mark.parametrize("name, kind", [
    ("adam", keras.optimizers.Adam), ("adamw", keras.optimizers.AdamW), ("sgd", keras.optimizers.SGD)])
def test_optimizer_by_name_with_its_schedule(name, kind):
    train = Train(optimizer=name, warmup_steps=10, learning_rate=0.5)
    rate = make_schedule(train, units=8)
    optimizer = make_optimizer(train, rate)
    assert isinstance(optimizer, kind)
    assert float(optimizer.learning_rate) == pytest.approx(0.05)  # step 1 of 10
    rate.scale.assign(0.5)
    assert float(optimizer.learning_rate) == pytest.approx(0.025)


def test_schedule_config_round_trip():
    schedule = WarmupSchedule("cosine", 1.0, 2, 8)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(again(5)) == float(schedule(5))
