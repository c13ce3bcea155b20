"""Word-level knowledge distillation: a trained model says in training what else would have been likely."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from pipelines.prepare import Prepared, load_prepared
from tfseq2seq import checkpoints
from tfseq2seq.config import Run
from tfseq2seq.config.model import longest
from tfseq2seq.layers.padding import RealSteps
from tfseq2seq.losses import teacher_cross_entropy
from tfseq2seq.model import Seq2Seq, build_model
from tfseq2seq.structures import PAD


class Distillation:
    """Mixes a teacher's distributions into the loss of a student.

    loss = (1 - alpha) L_NLL + alpha L_WORD-KD, each a mean over the real tokens of the global batch (Kim & Rush, 2016,
    arXiv:1606.07947, section 3.1), with a temperature in the second, see `teacher_cross_entropy`.

    It is no Keras object, so that a model that holds it does not take the teacher's weights for its own: not in its
    files and checkpoints, and not in its optimizer.

    Args:
        teacher: `Seq2Seq` of any family; it reads without dropout and is not trained.
        weight: alpha, in [0, 1].
        temperature: tau, above 0.
    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, teacher: Seq2Seq, weight: float, temperature: float = 1.0):
        if not (0 <= weight <= 1 and temperature > 0):
            raise ValueError(
                "Distillation needs a weight in [0, 1] and a temperature above 0. Received: "
                f"weight={weight}, temperature={temperature}.")
        self.teacher, self.weight, self.temperature = teacher, weight, temperature

    def teacher_logits(self, inputs: dict[str, tf.Tensor], labels: tf.Tensor, remove_padding: bool) -> tf.Tensor:
        """What the teacher says of each real label, having read the source and the true tokens before.

        Args:
            inputs: {"source": [B, S] int32, "target": [B, T] int32}.
            labels: [B, T] int32.
            remove_padding: whether steps of padding are left out, which XLA cannot do.
        Returns:
            [R, V] float32; R is B * T where padding stays.
        """
        self.teacher.remove_padding = remove_padding
        return self.teacher.call_on_real_steps(inputs, RealSteps(labels != PAD, remove_padding))[0]

    def mix(
        self, loss: tf.Tensor, logits: tf.Tensor, teacher_logits: tf.Tensor, weights: tf.Tensor, passes: int = 1,
    ) -> tf.Tensor:
        """The whole loss of this replica's tokens.

        Args:
            loss: scalar, their loss by the references.
            logits: [C * R, V] float32, of C passes over R tokens; R may be 0.
            teacher_logits: [R, V] float32, from `teacher_logits`.
            weights: [C * R] float32, 1 / (C * real tokens of the global batch), 0 on padding.
            passes: C.
        Returns:
            Scalar float32, nats per token.
        """
        num_tokens = tf.shape(teacher_logits)[0]
        logits = tf.reshape(logits, [passes, num_tokens, logits.shape[-1]])
        losses = teacher_cross_entropy(logits, teacher_logits, tf.constant(self.temperature))  # [C, R]
        taught = tf.reduce_sum(losses * tf.reshape(weights, [passes, num_tokens]))
        return (1.0 - self.weight) * loss + self.weight * taught


def load_distillation(run: Run, prepared: Prepared) -> tuple[Distillation, int]:
    """The run's teacher at its best checkpoint; to be called in the strategy's scope, when the student is made.

    Args:
        run: the student's recipe, with `train.teacher`.
        prepared: the student's data.
    Returns:
        The distillation, and the training step of the teacher's checkpoint.
    Raises:
        ValueError: the teacher's vocabularies are others, or it does not reach the student's lengths.
        ConfigError, CheckpointError: the folder holds no run, or no checkpoint.
    """
    settings = run.train
    folder = Path(str(settings.teacher)).expanduser()
    other = load_prepared(folder)
    sizes = []
    for side in ("source", "target"):
        mine, given = (getattr(each, f"{side}_tokenizer").vocabulary() for each in (prepared, other))
        if mine != given:
            different = sum(one != two for one, two in zip(mine, given, strict=False)) + abs(len(mine) - len(given))
            raise ValueError(
                f"train.teacher needs a run with the same {side} vocabulary: train teacher and student on the same "
                f"data, with the same data.{side}_tokenizer and data.share_tokenizer. Received: {folder}, with "
                f"{len(given):,} tokens there and {len(mine):,} here, {different:,} of them different.")
        sizes.append(len(mine))
    _check_reach(run, other.run, folder)
    teacher = build_model(other.run.model, sizes[0], sizes[1], settings.precision)
    step = checkpoints.restore_best(folder / "checkpoints", teacher)
    return Distillation(teacher, settings.teacher_weight, settings.teacher_temperature), step


def _check_reach(run: Run, teacher: Run, folder: Path) -> None:
    """Raises ValueError where the teacher cannot read what the student reads."""
    if run.data.source_separator != teacher.data.source_separator:
        raise ValueError(
            "train.teacher needs a run with the same data.source_separator. Received: "
            f"{run.data.source_separator!r} here, {teacher.data.source_separator!r} in {folder}.")
    lengths: tuple[tuple[Any, str, int], ...] = (
        (teacher.model.encoder, "source", run.data.max_source_length),
        (teacher.model.decoder, "target", run.data.max_target_length))
    for table, side, length in lengths:
        limit = longest(table)
        if limit is not None and limit < length:
            raise ValueError(
                f"train.teacher must reach data.max_{side}_length = {length}: lower it, or take a teacher with more "
                f"max_positions. Received: {folder}, whose max_positions = {limit}.")
