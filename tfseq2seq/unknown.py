"""A word where many of the source's characters are none that the model was trained on."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from tfseq2seq.structures import UNK
from tfseq2seq.tokenizers import Tokenizer

MANY = 0.1  # share of the tokens
LOOKED_AT = 1000  # lines that are encoded together
_SHOWN = 60  # characters of the example


def watch_unknown(lines: Iterable[str], tokenizer: Any, tell: Callable[[str], None]) -> Iterator[str]:
    """Hands the lines on; tells once, as soon as it is seen, that many of their tokens are unknown.

    Args:
        lines: of the source.
        tokenizer: of the source; recordings have none, and nothing unknown.
        tell: is given the sentence.
    """
    part: list[str] = []
    told = not isinstance(tokenizer, Tokenizer)
    for line in lines:
        yield line
        if not told:
            part.append(line)
        if len(part) == LOOKED_AT:
            told = _tell(part, tokenizer, tell)
            part = []
    if part:
        _tell(part, tokenizer, tell)


def _tell(lines: list[str], tokenizer: Tokenizer, tell: Callable[[str], None]) -> bool:
    unknown = _unknown(lines, tokenizer)
    share = _share(unknown)
    if share < MANY:
        return False
    shares = [sum(row) / max(1, len(row)) for row in unknown.to_list()]
    example = lines[shares.index(max(shares))]
    shown = example if len(example) <= _SHOWN else example[:_SHOWN] + "…"
    hints = [
        f" In {name} case it would be {other:.0%}: write the source so, or train with data.source_tokenizer.case = "
        f"\"{name}\"."
        for name, change in (("lower", str.lower), ("upper", str.upper))
        if (other := _share(_unknown([change(line) for line in lines], tokenizer))) < share / 2]
    tell(
        f"{share:.0%} of the source's tokens are unknown to the model, which was not trained on them, as in "
        f"{shown!r}.{''.join(hints[:1])}")
    return True


def _unknown(lines: list[str], tokenizer: Tokenizer) -> tf.RaggedTensor:
    """[N, (S)] bool, True on unknown tokens."""
    ids = tokenizer.encode(tf.constant(lines, tf.string, shape=[len(lines)]))
    return ids.with_flat_values(tf.equal(ids.flat_values, UNK))


def _share(unknown: tf.RaggedTensor) -> float:
    flat = tf.cast(unknown.flat_values, tf.float64)
    return float(tf.reduce_mean(flat)) if len(flat) else 0.0
