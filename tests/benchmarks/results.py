"""What a decoding benchmark says of its answers and of its times."""

import math
import statistics
import zlib
from typing import NamedTuple


class Decoded(NamedTuple):
    """The best hypothesis of one source.

    Attributes:
        tokens: ids, ended by EOS where the search ended by itself.
        log_probability: of all tokens, nats; NaN where the side cannot say it.
    """

    tokens: tuple[int, ...]
    log_probability: float


def checksum(answers):
    """Eight digits that change with any token or the order of the answers, and the sum of their own scores in nats.

    Scores are summed, not hashed: the order in which threads add moves their last bits. The sum is left out where a
    side does not say its scores.
    """
    text = ";".join(",".join(map(str, answer.tokens)) for answer in answers)
    total = math.fsum(answer.log_probability for answer in answers)
    return f"{zlib.crc32(text.encode()):08x}" + ("" if math.isnan(total) else f" {total:.2f}")


def repeats(answers, others, tolerance=1e-3):
    """Whether all tokens are equal, and all log-probabilities but for `tolerance` nats, or both unsaid."""
    return equal_share(answers, others) == 1 and all(
        abs(one.log_probability - two.log_probability) <= tolerance
        or (math.isnan(one.log_probability) and math.isnan(two.log_probability))
        for one, two in zip(answers, others, strict=True))


def num_tokens(answers):
    """Tokens of all answers, end tokens included."""
    return sum(len(answer.tokens) for answer in answers)


def mean_log_probability(answers):
    """Nats an answer."""
    return statistics.fmean(answer.log_probability for answer in answers)


def equal_share(answers, others):
    """Share of sources with the same tokens on both sides."""
    return statistics.fmean(one.tokens == two.tokens for one, two in zip(answers, others, strict=True))


def largest_difference(answers, others):
    """Of the log-probabilities of answers with the same tokens, in nats; 0 where there are none."""
    return max(
        (abs(one.log_probability - two.log_probability)
         for one, two in zip(answers, others, strict=True) if one.tokens == two.tokens), default=0.0)


def median_ratio(ours, theirs):
    """Their seconds divided by ours, turn by turn: above 1 ours is faster."""
    return statistics.median(two / one for one, two in zip(ours, theirs, strict=True))


def table(head, rows):
    """Lines of a Markdown table with columns of equal width; the first is to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in [cells[0], rule, *cells[1:]]:
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join([row[0].ljust(widths[0]), *others]) + " |")
    return "\n".join(lines)
