"""Sequence-level knowledge distillation: a data folder whose train targets are what a run answers."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from pipelines.pairs import Pair, tags_of, untagged, weight_of
from pipelines.prepare import Prepared
from pipelines.reading import stream_lines
from tfseq2seq.alarms import written_with_spaces
from tfseq2seq.arguments import DISTILLED, check_distilled, with_hypotheses
from tfseq2seq.config import Run
from tfseq2seq.console import show
from tfseq2seq.files import write_atomically
from tfseq2seq.generation import Answer
from tfseq2seq.output import FileOutput, Window
from tfseq2seq.prediction import WINDOW, Replicas, predict_and_tell
from tfseq2seq.runs import best_generator, fingerprint_of, strategy_over


def distill_run(
    run: Run, prepared: Prepared, folder: Path, output: Path, *, closest: bool = False, window: int = WINDOW,
    batch_tokens: int | None = None, workers: int = 1, replicas: int = 1, restart: bool = False,
    console: Console = show,
) -> int:
    """Makes a data folder for a student of the run's best checkpoint; called again after an interruption, it goes on.

    Its train targets are what the run's search answers the train sources with, L_SEQ-KD of Kim & Rush, 2016,
    arXiv:1606.07947, section 3.2; with `closest` of the beam's answers the one most like the reference (section 3.3).
    Its valid and test pairs are the run's own. Pairs keep their weights and their tags.

    Args:
        run: the teacher's recipe; its [decode] is how it answers.
        prepared: its data.
        folder: the run's folder.
        output: the folder to make; an existing one must be empty, or hold what an interrupted call left.
        closest: whether all `decode.beam_size` answers are compared with the reference, see `closest_answer`.
        window: lines that are read, sorted and written together.
        batch_tokens: most padded source tokens in a batch; default the recipe's.
        workers: batches decoded at once, see `tfseq2seq.prediction.share_cores`.
        replicas: devices that decode a batch each, in step.
        restart: throw away what an interrupted call left.
        console: where progress is shown.
    Returns:
        The number of train pairs; sources with no or an empty answer have none.
    Raises:
        ValueError: `output` holds other files, or what was left in it is of another command.
        CheckpointError: there is no checkpoint.
        OSError: `output` cannot be written.
    """
    run = with_hypotheses(run, run.decode.beam_size if closest else 1)
    check_distilled(output)
    output.mkdir(parents=True, exist_ok=True)
    strategy = strategy_over(replicas)
    with strategy.scope() if strategy else contextlib.nullcontext():
        generator = best_generator(run, prepared, folder)
    for name, pairs in (("valid", prepared.valid), ("test", prepared.test)):
        if pairs:
            write_atomically(output / f"{name}.jsonl", "".join(map(_row, pairs)))
    fingerprint = fingerprint_of(
        run, generator, folder / "data" / "train.jsonl.gz", "closest answers" if closest else "best answers", window,
        batch_tokens)

    spaced = written_with_spaces(target for _, target in prepared.train)

    def render(first: int, part: Window) -> str:
        pairs = prepared.train[first - 1 : first - 1 + len(part.lines)]
        chosen = (
            (pair, closest_answer(answers, pair[1], spaced) if closest else answers[0].text)
            for pair, answers in zip(pairs, part.answers, strict=True) if answers)
        return "".join(_row(pair, target) for pair, target in chosen if target.strip())

    with contextlib.closing(FileOutput(output / DISTILLED, fingerprint, restart)) as results:
        predict_and_tell(
            generator, [source for source, _ in prepared.train], results, render, console, len(prepared.train),
            window=window, batch_tokens=batch_tokens, workers=workers,
            replicas=Replicas(generator, strategy) if strategy else None)
    return sum(1 for _ in stream_lines(output / DISTILLED))


def closest_answer(answers: Sequence[Answer], reference: str, spaced: bool = True) -> str:
    """The answer with the highest sentence BLEU; of equal ones the first, which the model finds likelier.

    (Sequence-level interpolation, Kim & Rush, 2016, section 3.3; there BLEU with other smoothing.) BLEU is that of
    `sacrebleu.sentence_bleu`: exponential smoothing, and no n-grams longer than the answer (Post, 2018,
    arXiv:1804.08771). Where words are not spaced, a sentence would be a word of it: there it is chrF, of
    `sacrebleu.sentence_chrf` (Popovic, 2015).

    Args:
        answers: at least one, best first.
        reference: the true target.
        spaced: whether targets have white space between words.
    """
    metric = BLEU(effective_order=True) if spaced else CHRF()
    return max(answers, key=lambda answer: metric.sentence_score(answer.text, [reference]).score).text


def _row(pair: Pair, target: str | None = None) -> str:
    """A line of .jsonl: the pair as it is known, perhaps with another target."""
    row: dict[str, Any] = {"source": untagged(pair)[0], "target": pair[1] if target is None else target}
    if weight_of(pair) != 1:
        row["weight"] = weight_of(pair)
    if tags_of(pair):
        row["tags"] = tags_of(pair)
    return json.dumps(row, ensure_ascii=False) + "\n"
