"""Checkpoints are whole or not there."""

import logging

import keras
import pytest
import tensorflow as tf

from tfseq2seq import checkpoints
from tfseq2seq.config import Model
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import build_model


def save(folder, step, value, keep=3, **state):
    checkpoints.save(folder, step, {"weights": [tf.Variable(value)]}, {"step": step, **state}, keep)


class Holder:
    """Stands for a model with one weight."""

    def __init__(self, value):
        self.variable = tf.Variable(value)
        self.weights = [self]

    @property
    def value(self):
        return self.variable


def test_what_was_saved_is_read_back(tmp_path):
    save(tmp_path, 10, 1.5)
    save(tmp_path, 20, 2.5)
    holder = Holder(0.0)
    assert checkpoints.restore_latest(tmp_path, {"weights": [holder.value]}) == {"step": 20}
    assert holder.value.numpy() == 2.5


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, float(step), keep=2, best_step=1)
    assert checkpoints.steps(tmp_path) == [1, 5, 6]
    assert checkpoints.best_step(tmp_path) == 1
    holder = Holder(0.0)
    assert checkpoints.restore_best(tmp_path, holder) == 1
    assert holder.value.numpy() == 1.0


@pytest.mark.parametrize("damage", ["cut", "state", "missing"])
def test_a_damaged_newest_one_is_passed_over_with_a_warning(tmp_path, caplog, damage):
    save(tmp_path, 1, 1.0)
    save(tmp_path, 2, 2.0)
    newest = tmp_path / "step-00000002"
    if damage == "cut":
        data = next(newest.glob("weights.data*"))
        data.write_bytes(data.read_bytes()[:1])
    elif damage == "state":
        (newest / "state.json").write_text("{")
    else:
        (newest / "weights.index").unlink()
    holder = Holder(0.0)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.restore_latest(tmp_path, {"weights": [holder.value]}) == {"step": 1}
    assert holder.value.numpy() == 1.0
    assert "step-00000002 is damaged" in caplog.text


def test_none_that_can_be_read_is_an_error_and_none_at_all_is_none(tmp_path):
    assert checkpoints.restore_latest(tmp_path, {"weights": [tf.Variable(0.0)]}) is None
    save(tmp_path, 1, 1.0)
    (tmp_path / "step-00000001" / "state.json").unlink()
    with pytest.raises(checkpoints.CheckpointError, match="none of its 1 checkpoints can be read"):
        checkpoints.restore_latest(tmp_path, {"weights": [tf.Variable(0.0)]})
    with pytest.raises(checkpoints.CheckpointError, match="holds no checkpoint; train first"):
        checkpoints.restore_best(tmp_path / "empty", Holder(0.0))


def test_a_full_disk_leaves_the_old_ones(tmp_path, monkeypatch):
    save(tmp_path, 1, 1.0)

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    with pytest.raises(OSError, match="cannot write a checkpoint to .*No space left on device"):
        save(tmp_path, 2, 2.0)
    assert checkpoints.steps(tmp_path) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_every_variable_of_a_model_in_training_is_a_part():
    model = build_model(Model(embedding_units=4, encoder={"units": 4}, decoder={"units": 4, "layers": 2}), 8, 8)
    model.compile(keras.optimizers.Adam(), loss=TokenCrossEntropy())
    model.optimizer.build(model.trainable_variables)
    parts = checkpoints.parts(model)
    assert len(parts["weights"]) == len(model.trainable_variables)
    # Two moments a weight, the step and the rate.
    assert len(parts["optimizer"]) == 2 * len(model.trainable_variables) + 2
    assert len(parts["random_states"]) == 6  # coins; dropout: 2 in the encoder, 3 in the decoder


def test_a_state_is_written_anew_beside_the_same_weights(tmp_path):
    save(tmp_path, 1, 1.0, best_step=-1)
    assert checkpoints.best_step(tmp_path) is None
    checkpoints.update_state(tmp_path, 1, {"step": 1, "best_step": 1})
    assert checkpoints.best_step(tmp_path) == 1
    holder = Holder(0.0)
    assert checkpoints.restore_latest(tmp_path, {"weights": [holder.value]}) == {"step": 1, "best_step": 1}
    assert holder.value.numpy() == 1.0
