"""What a decoding benchmark says of its answers and of its times."""

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
    """Eight digits that change with any token of any answer or with the order of the answers."""
    text = ";".join(",".join(map(str, answer.tokens)) for answer in answers)
    return f"{zlib.crc32(text.encode()):08x}"


def num_tokens(answers):
    """Tokens of all answers, end tokens included."""
    return sum(len(answer.tokens) for answer in answers)


def mean_log_probability(answers):
    """Nats an answer; the second checksum, which a change in a score moves."""
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
