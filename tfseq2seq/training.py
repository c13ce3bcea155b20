"""Training a prepared run: strategy, model, `fit`, and going on where it stopped."""

import functools
from pathlib import Path

import keras
import tensorflow as tf
from rich.console import Console

from pipelines.batching import Batches
from pipelines.prepare import Prepared
from pipelines.text import encode_pairs
from tfseq2seq import callbacks, checkpoints
from tfseq2seq.config import Run
from tfseq2seq.evaluation import group_references
from tfseq2seq.generation import Generator
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import Seq2Seq, build_model
from tfseq2seq.optimization import make_optimizer

NUM_METRICS = 2  # of the task's, while training: TER alone would take longer than the decoding


def make_strategy(replicas: int | None = None) -> tf.distribute.Strategy:
    """`MirroredStrategy` over the visible devices: all GPUs, else all (logical) CPUs.

    Args:
        replicas: use only the first so many; default all.
    Raises:
        ValueError: fewer devices than replicas.
    """
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if replicas is not None and replicas > len(devices):
        raise ValueError(
            f"train.replicas = {replicas} needs as many devices. Received: {len(devices)} "
            f"({', '.join(device.name for device in devices)}).")
    return _mirrored(tuple(device.name for device in devices[:replicas]))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # One a process: a second one reuses the keys of the first one's collectives, and TensorFlow then
    # aborts with "Shape mismatch in the collective instance".
    return tf.distribute.MirroredStrategy(devices)


def make_generator(run: Run, prepared: Prepared, model: Seq2Seq, step: int = 0) -> Generator:
    """The run's search over `model`, whose weights are of training step `step`."""
    return Generator(
        model, prepared.source_tokenizer, prepared.target_tokenizer, run.decode, run.export.max_source_length, step)


def load_generator(run: Run, prepared: Prepared, folder: Path) -> Generator:
    """The run's best checkpoint, ready to answer; the model carries no optimizer.

    Raises:
        CheckpointError: there is no readable checkpoint in `folder`/checkpoints.
    """
    model = build_model(
        run.model, prepared.source_tokenizer.vocabulary_size, prepared.target_tokenizer.vocabulary_size)
    step = checkpoints.restore_best(folder / "checkpoints", model)
    return make_generator(run, prepared, model, step)


def train(run: Run, prepared: Prepared, folder: Path, show: Console) -> callbacks.Progress:
    """Trains until `steps`, `max_minutes` or `patience` end it; goes on from the newest checkpoint.

    Args:
        run: the recipe.
        prepared: data and tokenizers from `pipelines.prepare`.
        folder: the run's folder; gets checkpoints/, logs/ (TensorBoard) and metrics.jsonl.
        show: where progress is shown.
    Returns:
        How far it came, with the best metric.
    Raises:
        Interrupted: Ctrl-C or SIGTERM; everything is saved.
        ValueError: the data leave nothing to train on, or devices are missing.
    """
    settings = run.train
    keras.utils.set_random_seed(settings.seed)
    strategy = make_strategy(settings.replicas)
    batches = _batches(prepared, prepared.train, strategy.num_replicas_in_sync)
    valid = _batches(prepared, _spread(prepared.valid, settings.valid_lines), strategy.num_replicas_in_sync)
    with strategy.scope():
        model = _compiled_model(run, prepared)
    progress = _restore(folder / "checkpoints", model)
    if progress.step:
        show.print(f"going on from step {progress.step} ({folder / 'checkpoints'})", highlight=False)
    show.print(
        f"{model.count_parameters():,} parameters, {batches.steps_per_epoch:,} steps an epoch, "
        f"{strategy.num_replicas_in_sync} replica(s), {batches.padding_share:.0%} padding"
        + (f"; {batches.num_left_out:,} over-long pairs left out" if batches.num_left_out else ""), highlight=False)
    task, writer = prepared.task, tf.summary.create_file_writer(str(folder / "logs"))
    sources, targets = group_references(prepared.valid, task.multiple_references)
    lines, references = (_spread(side, settings.valid_lines) for side in (sources, targets))
    with callbacks.StopOnSignal() as stop:
        bar = callbacks.ShowProgress(progress, settings.steps, settings.max_minutes, show)
        evaluate = callbacks.Evaluate(
            progress, make_generator(run, prepared, model), lines, references,
            task.ordered_metrics(settings.metric)[:NUM_METRICS], settings.patience,
            valid.dataset(shuffle=False, repeat=False), stop, show, writer)
        save = callbacks.SaveCheckpoints(
            folder / "checkpoints", progress, settings.checkpoint_every or settings.evaluate_every,
            settings.keep_checkpoints)
        scalars = callbacks.WriteScalars(progress, writer, folder / "metrics.jsonl", batches.padding_share)
        watch = [callbacks.CountSteps(progress, settings.max_minutes), bar, stop, evaluate, save, scalars]
        try:
            _evaluate_if_due(model, progress, settings, (evaluate, save, scalars))
            _fit(model, batches, progress, settings, watch)
        finally:
            bar.bar.stop()
        stop.raise_if_received()
    return progress


def _evaluate_if_due(model: Seq2Seq, progress: callbacks.Progress, settings, watch: tuple) -> None:
    """Makes up for an evaluation that was interrupted, so that the best checkpoint and patience are as if not."""
    ended = progress.step >= settings.steps or _finished(progress, settings)
    due = progress.step % settings.evaluate_every == 0 or ended
    if progress.step and due and progress.evaluated_step != progress.step:
        logs: dict[str, float] = {}
        for callback in watch:
            callback.set_model(model)
            callback.on_epoch_end(0, logs)


def _compiled_model(run: Run, prepared: Prepared) -> Seq2Seq:
    settings = run.train
    model = build_model(
        run.model, prepared.source_tokenizer.vocabulary_size, prepared.target_tokenizer.vocabulary_size,
        settings.precision)
    model.teacher_forcing_ratio = settings.teacher_forcing_ratio
    model.accumulation_steps = settings.accumulation_steps
    optimizer = make_optimizer(settings, run.model.decoder.units)
    optimizer.global_clipnorm = settings.clip_norm or None
    model.compile(optimizer, loss=TokenCrossEntropy(settings.label_smoothing), jit_compile=settings.jit_compile)
    model.optimizer.build(model.trainable_variables)
    return model


def _fit(model: Seq2Seq, batches: Batches, progress: callbacks.Progress, settings, watch: list) -> None:
    """Runs `fit` so that its epochs end at multiples of `evaluate_every`, wherever it starts."""
    every = settings.evaluate_every
    while progress.step < settings.steps and not _finished(progress, settings):
        left, first = settings.steps - progress.step, every - progress.step % every
        # A first epoch up to the next multiple, then all whole ones at once, then what is left.
        length, epochs = (every, left // every) if first == every <= left else (min(first, left), 1)
        model.fit(
            batches.dataset(start_step=progress.step), steps_per_epoch=length, epochs=epochs, verbose=0,
            shuffle=False, callbacks=watch)
        if model.stop_training:
            return


def _finished(progress: callbacks.Progress, settings) -> bool:
    if settings.max_minutes is not None and progress.seconds >= 60 * settings.max_minutes:
        return True
    return settings.patience is not None and progress.evaluations_without_better >= settings.patience


def _restore(folder: Path, model: Seq2Seq) -> callbacks.Progress:
    state = checkpoints.restore_latest(folder, checkpoints.parts(model))
    return callbacks.Progress(**state) if state else callbacks.Progress()


def _batches(prepared: Prepared, pairs: list[tuple[str, str]], replicas: int) -> Batches:
    data = prepared.run.data
    encoded = encode_pairs(pairs, prepared.source_tokenizer, prepared.target_tokenizer)
    return Batches(
        encoded, batch_tokens=data.batch_tokens, num_lengths=data.num_lengths, replicas=replicas,
        seed=prepared.run.train.seed, max_source_length=data.max_source_length,
        max_target_length=data.max_target_length)


def _spread(items: list, most: int) -> list:
    """At most so many items, evenly spread: files are often sorted, and their start is no sample."""
    count = min(len(items), most)
    return [items[i * len(items) // count] for i in range(count)]
