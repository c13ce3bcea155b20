"""Training a prepared run: strategy, model, `fit`, and going on where it stopped."""

import contextlib
import dataclasses
import functools
from pathlib import Path

import keras
import tensorflow as tf
from rich.console import Console

from pipelines.batching import Batches
from pipelines.feeding import FeedReader, fingerprint
from pipelines.prepare import Prepared, load_prepared, make_batches
from tfseq2seq import callbacks, checkpoints, watching
from tfseq2seq.alarms import Alarms
from tfseq2seq.averaging import MovingAverage
from tfseq2seq.config import Run
from tfseq2seq.console import command, progress_bar
from tfseq2seq.distillation import load_distillation
from tfseq2seq.distribution import Hosts, distribute, make_strategy
from tfseq2seq.evaluation import TEACHER_FORCED, group_references, order_metrics
from tfseq2seq.generation import Generator
from tfseq2seq.hparams import write_hparams
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import Seq2Seq, build_model
from tfseq2seq.noise import SpecAugment, TokenNoise
from tfseq2seq.optimization import WarmupSchedule, make_optimizer, make_schedule
from tfseq2seq.rate_control import CutOnPlateau, Diverged, WatchForDivergence
from tfseq2seq.starting import start_from
from tfseq2seq.teacher_forcing import TeacherForcing

AVERAGED = "averaged.json"  # in a run's folder: its one checkpoint is a mean of these
IMPORTED = "imported.json"  # there: its one checkpoint is of another system
NUM_METRICS = 2  # of the task's, while training: TER alone would take longer than the decoding


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
        ValueError: the data leave nothing to train on, devices are missing, or training diverged too often.
        FeedError: `train.data_service` does not answer, or makes other batches.
    """
    settings = run.train
    if (folder / IMPORTED).exists():
        raise ValueError(
            f"{folder}: holds an imported model. Train a run of another name that starts from it, as with --set "
            f"name=tuned --set train.start_from={folder}.")
    if (folder / AVERAGED).exists():
        raise ValueError(f"{folder}: holds a mean of checkpoints, from which no training goes on; train another run.")
    strategy = make_strategy(settings.replicas)  # first of all, see there
    hosts = Hosts(strategy)
    show = show if hosts.is_chief else Console(quiet=True)
    keras.utils.set_random_seed(settings.seed)
    with progress_bar(show) as report:
        batches = make_batches(
            prepared, prepared.train, strategy.num_replicas_in_sync, for_training=True, progress=report)
    valid = make_batches(prepared, _spread(prepared.valid, settings.valid_lines), strategy.num_replicas_in_sync)
    feed = None
    if settings.data_service is not None:
        feed = FeedReader(settings.data_service, batches, fingerprint(prepared))
        feed.check()
        show.print(f"batches come from {', '.join(feed.addresses)}", highlight=False)
    model, rate = make_model(run, prepared, strategy, show)
    progress = _restore(folder / "checkpoints", model, hosts)
    rate.scale.assign(progress.rate_scale)
    first_step, ended = progress.step, _what_ended(progress, settings)
    if not progress.step and settings.start_from is not None:
        _start_from(run, prepared, model, show)
    if progress.step and ended is None:
        show.print(f"going on from step {progress.step} ({folder / 'checkpoints'})", highlight=False)
    show.print(
        f"{model.count_parameters():,} parameters, {batches.steps_per_epoch:,} steps an epoch, "
        f"{strategy.num_replicas_in_sync} replica(s), {batches.padding_share:.0%} padding"
        + (f"; {batches.num_left_out:,} over-long pairs left out" if batches.num_left_out else ""), highlight=False)
    task = prepared.task
    best, *others = order_metrics(task.metrics, settings.metric)
    metrics = tuple(name for name in (best, *others) if name not in TEACHER_FORCED)[:NUM_METRICS]
    log = _open_log(run, best, metrics, folder, hosts)
    alarms = Alarms(show, run.decode, progress, settings.warmup_steps)
    sources, targets = group_references(prepared.valid, task.multiple_references)
    lines, references = (_spread(side, settings.valid_lines) for side in (sources, targets))
    with callbacks.StopOnSignal(hosts) as stop:
        bar = callbacks.ShowProgress(progress, settings.steps, settings.max_minutes, show)
        generator = make_generator(run, prepared, model)
        after = [callbacks.Evaluate(
            progress, generator, lines, references, metrics, best, settings.patience,
            distribute(strategy, functools.partial(valid.dataset, shuffle=False, repeat=False)),
            valid.steps_per_epoch, stop, show, [alarms, watching.WriteSamples(generator, log.writer)])]
        if settings.schedule == "plateau":
            after.append(CutOnPlateau(progress, settings.plateau_patience, settings.plateau_factor, rate.scale))
        checkpoint_every = settings.checkpoint_every or settings.evaluate_every
        if hosts.is_chief:
            after.append(callbacks.SaveCheckpoints(
                folder / "checkpoints", progress, checkpoint_every, settings.keep_checkpoints))
        after.append(watching.WriteScalars(progress, log, batches.padding_share))
        profile = watching.Profile(progress, settings.profile_steps if hosts.is_chief else None, folder / "logs")
        watch = [
            profile, callbacks.CountSteps(progress, settings.max_minutes),
            watching.WriteTraces(progress, log, batches.shape_at, len(batches.shapes)), bar, stop,
            WatchForDivergence(progress, checkpoint_every, hosts), *after]
        try:
            _evaluate_if_due(model, progress, settings, [stop, *after])
            while stop.received is None:
                try:
                    _fit(model, batches, feed, progress, settings, watch)
                    break
                except Diverged as error:
                    _go_back(folder / "checkpoints", model, progress, settings, hosts, rate, error, show)
        finally:
            bar.bar.stop()
            profile.stop()
        stop.raise_if_received()
    alarms.say_last()
    _say_end(progress, first_step, ended, settings, folder, show)
    return progress


def _say_end(
    progress: callbacks.Progress, first_step: int, ended: str | None, settings, folder: Path, show: Console,
) -> None:
    best = "none" if progress.best_value is None else f"{progress.best_value:.2f} at step {progress.best_step}"
    lines = [f"done: {progress.step} steps in {progress.seconds / 60:.1f} minutes; best {best}"]
    if ended is not None and progress.step == first_step:
        limit = getattr(settings, ended)
        lines = [
            f"finished already, by train.{ended} = {limit}: {progress.step} steps in {progress.seconds / 60:.1f} "
            f"minutes; best {best}",
            f"to train more: the same command with --set train.{ended}={2 * limit}"]
    lines.append(f"next: {command('evaluate', folder)}")
    show.print("\n".join(lines), highlight=False, soft_wrap=True)


def make_model(
    run: Run, prepared: Prepared, strategy: tf.distribute.Strategy, show: Console,
) -> tuple[Seq2Seq, WarmupSchedule]:
    """A model as training begins with it, ready for `fit`, and the schedule of its optimizer."""
    with strategy.scope():
        rate = make_schedule(run.train, run.model.decoder.units)
        model = _compiled_model(run, prepared, rate)
        if run.train.teacher is not None:  # after the model, whose first weights are then as without
            model.distillation, step = load_distillation(run, prepared)
            show.print(f"teacher: step {step} of {run.train.teacher}", highlight=False)
    return model, rate


def _open_log(run: Run, best: str, metrics: tuple[str, ...], folder: Path, hosts: Hosts) -> watching.Log:
    if not hosts.is_chief:
        return watching.Log(tf.summary.create_noop_writer(), None)
    names = (f"best_{best}", *metrics, "loss", "length_ratio", "repetition")
    write_hparams(run, [watching.tag(f"valid_{name}") for name in names], folder / "logs")
    return watching.Log(tf.summary.create_file_writer(str(folder / "logs")), folder / "metrics.jsonl")


def _go_back(folder: Path, model: Seq2Seq, progress: callbacks.Progress, settings, hosts: Hosts, rate, error, show):
    """To the newest checkpoint, from where training goes on at half of the rate."""
    advice = "lower train.learning_rate, or give it more train.warmup_steps or a smaller train.clip_norm"
    if progress.divergences >= settings.divergence_retries:
        raise ValueError(
            f"training diverged {progress.divergences + 1} times, more often than train.divergence_retries = "
            f"{settings.divergence_retries} allows: {advice}. Received: {error}.") from error
    if not checkpoints.steps(folder):
        raise ValueError(
            f"training diverged before its first checkpoint: {advice}. Received: {error}.") from error
    lowered = {"rate_scale": progress.rate_scale / 2, "divergences": progress.divergences + 1}
    state = dataclasses.asdict(_restore(folder, model, hosts)) | lowered | {"seconds": progress.seconds}
    for name, value in state.items():
        setattr(progress, name, value)
    rate.scale.assign(progress.rate_scale)
    if hosts.is_chief:
        checkpoints.update_state(folder, progress.step, state)
    show.print(
        f"[bold]{error}[/]: going back to step {progress.step}, with the rate times {progress.rate_scale:g}",
        highlight=False)


def _evaluate_if_due(model: Seq2Seq, progress: callbacks.Progress, settings, watch: list) -> None:
    """Makes up for an evaluation that was interrupted, so that the best checkpoint and patience are as if not."""
    due = progress.step % settings.evaluate_every == 0 or _what_ended(progress, settings) is not None
    if progress.step and due and progress.evaluated_step != progress.step:
        logs: dict[str, float] = {}
        for callback in watch:
            callback.set_model(model)
            callback.on_epoch_end(0, logs)


def _compiled_model(run: Run, prepared: Prepared, rate: WarmupSchedule) -> Seq2Seq:
    settings = run.train
    model = build_model(
        run.model, prepared.source_tokenizer.vocabulary_size, prepared.target_tokenizer.vocabulary_size,
        settings.precision)
    model.teacher_forcing = TeacherForcing(
        settings.teacher_forcing_schedule, settings.teacher_forcing_ratio, settings.teacher_forcing_k)
    model.accumulation_steps, model.r_drop = settings.accumulation_steps, settings.r_drop
    model.guided_alignment_weight, model.ctc_weight = settings.guided_alignment_weight, settings.ctc_weight
    model.coverage_weight = settings.coverage_weight
    for side, tokenizer in (("source", prepared.source_tokenizer), ("target", prepared.target_tokenizer)):
        word_dropout, token_noise = (getattr(settings, f"{side}_{name}") for name in ("word_dropout", "token_noise"))
        if word_dropout or token_noise:
            model.noise[side] = TokenNoise(
                word_dropout, token_noise, tokenizer.vocabulary_size - run.model.num_copy_ids)
    if settings.spec_augment is not None:
        model.noise["source"] = SpecAugment(**settings.spec_augment.model_dump())
    for part in settings.freeze:
        _freeze(model, part)
    optimizer = make_optimizer(settings, rate)
    optimizer.global_clipnorm = settings.clip_norm or None
    model.compile(optimizer, loss=TokenCrossEntropy(settings.label_smoothing), jit_compile=settings.jit_compile)
    model.optimizer.build(model.trainable_variables)
    if settings.average_decay is not None:
        model.moving_average = MovingAverage(model.weights, settings.average_decay)
    return model


def _freeze(model: Seq2Seq, part: str) -> None:
    layer = getattr(model, part)
    if layer is None:
        raise ValueError(
            f"train.freeze names {part}, which this model does not have: its output is tied to the target embedding. "
            f"Received: model.share_embeddings = \"{model.config.share_embeddings}\".")
    for weight in layer.weights:
        weight.trainable = False
    if not model.trainable_variables:
        raise ValueError("train.freeze leaves nothing to train: name fewer parts.")


def _start_from(run: Run, prepared: Prepared, model: Seq2Seq, show: Console) -> None:
    """Gives the model the weights of another run's best checkpoint. Raises ValueError, CheckpointError."""
    folder = Path(str(run.train.start_from)).expanduser()
    other = load_prepared(folder)
    generator = load_generator(other.run, other, folder)
    known = start_from(model, generator.model, _vocabularies(prepared), _vocabularies(other))
    if model.moving_average is not None:
        model.moving_average.restart()
    sizes = [len(tokens) for tokens in _vocabularies(prepared)]
    show.print(
        f"starting from step {generator.step} of {folder}; it knows {known[0]:,} of {sizes[0]:,} source and "
        f"{known[1]:,} of {sizes[1]:,} target tokens", highlight=False)


def _vocabularies(prepared: Prepared) -> tuple[list[str], list[str]]:
    """Tokens of source and target that have a vector each."""
    names = (each.vocabulary() for each in (prepared.source_tokenizer, prepared.target_tokenizer))
    source, target = (each[: len(each) - prepared.run.model.num_copy_ids] for each in names)
    return source, target


def _fit(
    model: Seq2Seq, batches: Batches, feed: FeedReader | None, progress: callbacks.Progress, settings, watch: list,
) -> None:
    """Runs `fit` so that its epochs end at multiples of `evaluate_every`, wherever it starts."""
    every = settings.evaluate_every
    while _what_ended(progress, settings) is None:
        left, first = settings.steps - progress.step, every - progress.step % every
        # A first epoch up to the next multiple, then all whole ones at once, then what is left.
        length, epochs = (every, left // every) if first == every <= left else (min(first, left), 1)
        make = functools.partial(batches.dataset, progress.step, read=feed.read if feed else None)
        with feed.explaining_loss() if feed else contextlib.nullcontext():
            data = distribute(model.distribute_strategy, make)
            model.fit(data, steps_per_epoch=length, epochs=epochs, verbose=0, shuffle=False, callbacks=watch)
        if model.stop_training:
            return


def _what_ended(progress: callbacks.Progress, settings) -> str | None:
    """The key of [train] by which no step is left; None where one is."""
    if progress.step >= settings.steps:
        return "steps"
    if settings.max_minutes is not None and progress.seconds >= 60 * settings.max_minutes:
        return "max_minutes"
    if settings.patience is not None and progress.evaluations_without_better >= settings.patience:
        return "patience"
    return None


def _restore(folder: Path, model: Seq2Seq, hosts: Hosts) -> callbacks.Progress:
    state = checkpoints.restore_latest(folder, checkpoints.parts(model))
    progress = callbacks.Progress(**state) if state else callbacks.Progress()
    hosts.agree(progress.step, f"the run's folder, {folder.parent}, on a file system that all of them share")
    return progress


def _spread(items: list, most: int) -> list:
    """At most so many items, evenly spread: files are often sorted, and their start is no sample."""
    count = min(len(items), most)
    return [items[i * len(items) // count] for i in range(count)]
