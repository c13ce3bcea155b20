"""What is wrong with answers whatever the metric: too short, too long, or the same words over and over.

Both are counted in tokens between white space; in text that is written without spaces, in characters.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console

LENGTH_RATIOS = 0.8, 1.25  # at 0.8 BLEU's brevity penalty alone takes 22 % of the score; 1.25 is as far above
MOST_REPETITION = 0.05  # share of answers; people's own sentences hardly ever loop
LONGEST_NGRAM, TIMES = 4, 3

References = Sequence[Sequence[str]]


def length_ratio(answers: Sequence[str], references: References) -> float | None:
    """Tokens of all answers divided by tokens of their references, as BLEU's brevity penalty counts them.

    Of several references the one of nearest length counts, of two as near the shorter one (Papineni et al., 2002,
    section 2.2.2).

    Args:
        answers: N strings.
        references: N lists of right answers, each with at least one.
    Returns:
        At least 0; 1 is as long as the references. None where these hold no token at all.
    """
    cut = _cutter(references)
    said = wanted = 0
    for answer, line in zip(answers, references, strict=True):
        length = len(cut(answer))
        said += length
        wanted += min((len(cut(reference)) for reference in line), key=lambda other: (abs(other - length), other))
    return said / wanted if wanted else None


def repetition(answers: Sequence[str], references: References) -> float:
    """Share of the answers that loop and have no reference that does, see `loops`.

    Args:
        answers: N strings, at least one.
        references: N lists of right answers.
    Returns:
        In [0, 1].
    """
    cut = _cutter(references)
    looping = [
        loops(cut(answer)) and not any(loops(cut(reference)) for reference in line)
        for answer, line in zip(answers, references, strict=True)]
    return sum(looping) / len(looping)


def loops(tokens: Sequence[str]) -> bool:
    """Whether some n-gram of at most 4 tokens stands there 3 times or more in immediate succession.

    (Holtzman et al., 2020, arXiv:1904.09751, figure 9, look for phrases of at least 2 tokens that end a text so. A
    translation that loops may come out of it again, and one token is enough, hence the difference.)
    """
    for n in range(1, LONGEST_NGRAM + 1):
        same = 0  # tokens in a row, each equal to the n-th before it
        for token, before in zip(tokens[n:], tokens, strict=False):
            same = same + 1 if token == before else 0
            if same == n * (TIMES - 1):
                return True
    return False


def _cutter(references: References) -> Callable[[str], Sequence[str]]:
    """Cuts at white space, or into characters where there is none."""
    spaced = written_with_spaces(reference for line in references for reference in line)
    return str.split if spaced else lambda text: "".join(text.split())


def written_with_spaces(texts: Iterable[str]) -> bool:
    """Whether at least half of the texts of two characters and more have white space between words."""
    found = [len(text.split()) > 1 for text in texts if len(text) > 1]
    return 2 * sum(found) >= len(found)


class Alarms:
    """Says so where the answers of an evaluation are far too short, far too long or loop.

    An alarm is said at the second evaluation in a row that gives it, and not before the warm-up of the rate has ended,
    as a model that has hardly begun to learn gives most of them; and then only once, until it is over. What the last
    evaluation gives `say_last` says in any case.

    Args:
        show: rich console.
        decode: `tfseq2seq.config.Decode`, whose values the advice names.
        progress: whose `alarms` and `alarms_said` are kept up to date.
        warmup_steps: of the rate.
    """

    def __init__(self, show: Console, decode: Any, progress: Any, warmup_steps: int):
        self.show, self.decode, self.progress, self.warmup_steps = show, decode, progress, warmup_steps
        self._figures: dict[str, float] = {}  # of the last evaluation here

    def __call__(
        self, step: int, lines: Sequence[str], answers: Sequence[str], references: References) -> dict[str, float]:
        """The figures of an evaluation: "length_ratio", where the references are not all empty, and "repetition"."""
        found = {"length_ratio": length_ratio(answers, references), "repetition": repetition(answers, references)}
        figures = {name: value for name, value in found.items() if value is not None}
        self._step, self._figures = step, figures
        before, self.progress.alarms = self.progress.alarms, {}
        for name, value in figures.items():
            alarm = _alarm(name, value)
            if alarm is not None:
                self.progress.alarms[name] = alarm
                if alarm == before.get(name) and step > self.warmup_steps:
                    self._say(name, alarm)
            elif self.progress.alarms_said.pop(name, None):
                self.show.print(f"step {step}: {name} is {value:.2f}, within its bounds again", highlight=False)
        return figures

    def say_last(self) -> None:
        """Says what the last evaluation gave, if there was one here, and was not said yet."""
        for name, alarm in self.progress.alarms.items():
            if name in self._figures:
                self._say(name, alarm)

    def _say(self, name: str, alarm: str) -> None:
        if self.progress.alarms_said.get(name) == alarm:
            return
        self.progress.alarms_said[name] = alarm
        bounds, meaning, keys = ADVICE[alarm]
        received = ", ".join(f"decode.{key} = {getattr(self.decode, key)}" for key in keys)
        self.show.print(
            f"[bold yellow]step {self._step}: {name} is {self._figures[name]:.2f}, {bounds}[/]: {meaning} "
            f"Received: {received}.", highlight=False)


def _alarm(name: str, value: float) -> str | None:
    if name == "repetition":
        return "looping" if value > MOST_REPETITION else None
    return "short" if value < LENGTH_RATIOS[0] else "long" if value > LENGTH_RATIOS[1] else None


# Alarm -> what bound was passed, what it means and what to try, and the keys of [decode] that matter.
ADVICE = {
    "short": (
        f"below {LENGTH_RATIOS[0]}",
        "the answers are much shorter than their references. Usually the model is not trained enough yet, the search "
        "prefers short answers, or a limit cuts them off. Try more train.steps, a higher decode.length_penalty or "
        "decode.max_length, or a decode.min_length_ratio.",
        ("length_penalty", "max_length", "min_length_ratio")),
    "long": (
        f"above {LENGTH_RATIOS[1]}",
        "the answers are much longer than their references. Usually the model does not find the end, or goes round in "
        "circles (see repetition), or training pairs do not match (see `tfseq2seq check`). Try more train.steps, a "
        "lower decode.length_penalty or a decode.max_length_ratio.",
        ("length_penalty", "max_length", "max_length_ratio")),
    "looping": (
        f"above {MOST_REPETITION}",
        f"so large a share of the answers say the same 1 to {LONGEST_NGRAM} tokens {TIMES} times in a row, and their "
        "references do not. Usually the model is not trained enough yet, or its attention does not move on (see the "
        "attention pictures). Try more train.steps, decode.block_ngrams = 4, a decode.repetition_penalty of 1.1 or a "
        "decode.coverage_penalty of 0.2.",
        ("block_ngrams", "repetition_penalty", "coverage_penalty")),
}
