"""Bar charts as SVG inside HTML: no script, colours from the page, the numbers told to screen readers."""

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, LEFT, BAR, GAP = 640, 190, 16, 12  # dots: of all, of the labels, of a bar, between groups
TICKS = 5
FEWEST_LABELS = 42  # characters of a label, about as many as LEFT holds at 12 dots


def bar_chart(name: str, title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Bars from left to right, a group for each part and in it a bar for each system, with its value.

    Args:
        name: of the chart in the page, letters, digits and hyphens; no two have the same.
        title: what it shows.
        groups: labels of the groups.
        series: values of the groups, at least 0, by system; the n-th system's bars have the class `bar-n`.
    """
    each = len(series) * BAR + GAP
    bottom = 8 + len(groups) * each
    top_value = nice_top(max((value for values in series.values() for value in values), default=0))
    scale = (WIDTH - LEFT - 56) / top_value
    told = "; ".join(
        f"{group}: " + ", ".join(f"{system} {values[number]:.2f}" for system, values in series.items())
        for number, group in enumerate(groups))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {bottom + 24}" role="img" aria-labelledby="{name}-title {name}-told">',
        f'<title id="{name}-title">{html.escape(title)}</title><desc id="{name}-told">{html.escape(told)}</desc>']
    for tick in range(TICKS + 1):
        value = top_value * tick / TICKS
        x = LEFT + value * scale
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="4" x2="{x:.1f}" y2="{bottom}"/>'
            f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
    for number, group in enumerate(groups):
        y = 8 + number * each
        middle = y + len(series) * BAR / 2 + 4
        label = group if len(group) <= FEWEST_LABELS else group[: FEWEST_LABELS - 1] + "…"
        parts.append(f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{html.escape(label)}</text>')
        for place, values in enumerate(series.values()):
            width, top = values[number] * scale, y + place * BAR
            parts.append(
                f'<rect class="bar-{place}" x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR - 2}"/>'
                f'<text class="value" x="{LEFT + width + 5:.1f}" y="{top + 11}">{values[number]:.1f}</text>')
    return "".join(parts) + "</svg>"


def nice_top(value: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is at least `value`; 1 where that is 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))
