"""Pictures of what a model does."""

import functools
import io
import math
import unicodedata

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

DOTS = 90  # per inch
LARGEST = 1200  # dots on a side
CELL = 0.32, 0.26  # inches, width and height, where there is room
LABEL = 0.17  # inches that a line of a label takes
LONGEST_LABEL = 16  # columns, a Chinese character takes two


def attention_png(source: list[str], target: list[str], weights: np.ndarray) -> bytes:
    """Draws attention as a heat map, see `attention_figure`; returns a PNG file's bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(attention_figure(source, target, weights)).print_png(buffer)
    return buffer.getvalue()


def attention_figure(source: list[str], target: list[str], weights: np.ndarray) -> Figure:
    """Attention as a heat map, source tokens across, target tokens down.

    However many there are, it is at most `LARGEST` dots wide and high: cells get smaller, and where labels would touch
    only every second one, every third one ... is written. A character that no installed font has stands as U+4E2D.

    Args:
        source: S tokens.
        target: T tokens; of an empty answer none.
        weights: [T, S] in [0, 1].
    """
    labels = [[_label(token) for token in side] for side in (source, target)]
    # Across there are the target's labels and the cells; down the source's labels, which stand upright, and the cells.
    room = [0.8 + 0.1 * max(map(_columns, side), default=0) for side in (labels[1], labels[0])]
    sides = [
        min(LARGEST / DOTS, margin + max(3, len(side)) * cell) for margin, side, cell in zip(room, labels, CELL)]
    figure = Figure(figsize=(sides[0], sides[1]), dpi=DOTS, layout="constrained")
    axes = figure.add_subplot()
    if weights.size:
        axes.imshow(weights, cmap="Greys", vmin=0.0, vmax=1.0, aspect="auto")
    else:
        axes.text(0.5, 0.5, "no tokens", ha="center", va="center", transform=axes.transAxes)
        axes.set(xlim=(-0.5, max(1, len(source)) - 0.5), ylim=(max(1, len(target)) - 0.5, -0.5))
    families = _families("".join(labels[0] + labels[1]))
    for axis, side, total, margin, rotation in zip((axes.xaxis, axes.yaxis), labels, sides, room, (90, 0)):
        every = max(1, math.ceil(LABEL * len(side) / (total - margin)))
        # Tokens may hold dollars, between which matplotlib reads mathematics.
        axis.set_ticks(
            range(0, len(side), every), side[::every], rotation=rotation, family=families, parse_math=False)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("source")
    axes.set_ylabel("target")
    return figure


def _label(token: str) -> str:
    """What is written for a token: white space to be seen, nothing that no font has, not too long."""
    characters = [
        "␣" if character == " " else
        character if character.isprintable() and _family(character) else f"U+{ord(character):04X}"
        for character in token]
    label = "".join(characters)
    while _columns(label) > LONGEST_LABEL:
        label = label.removesuffix("…")[:-1] + "…"
    return label


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _families(text: str) -> list[str]:
    """Fonts that together have each character, the default one first."""
    return list(dict.fromkeys(filter(None, map(_family, "a" + text))))


@functools.cache
def _family(character: str) -> str | None:
    """The first installed font that has a character: the default one, upright ones of normal weight, others."""
    default = findfont(FontProperties())
    fonts = sorted(
        fontManager.ttflist, key=lambda font: (
            font.fname != default, font.style != "normal", font.weight not in (400, "normal", "regular"), font.name))
    fitting = (font.name for font in fonts if ord(character) in _characters(font.fname))
    return next((name for name in fitting if "Last Resort" not in name), None)  # that one draws boxes


@functools.cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except RuntimeError:  # of pictures, as emoji, which matplotlib cannot draw
        return frozenset()
