"""Pictures of what a model does."""

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def attention_png(source: list[str], target: list[str], weights: np.ndarray) -> bytes:
    """Draws attention as a heat map, source tokens across, target tokens down.

    Args:
        source: S tokens.
        target: T tokens.
        weights: [T, S] in [0, 1].
    Returns:
        A PNG file's bytes.
    """
    figure = Figure(figsize=(1.5 + 0.32 * len(source), 1.2 + 0.26 * len(target)), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(weights, cmap="Greys", vmin=0.0, vmax=1.0, aspect="auto")
    # Between two dollars matplotlib reads mathematics, and fails on tokens that are none.
    axes.set_xticks(range(len(source)), [token.replace("$", r"\$") for token in source], rotation=90)
    axes.set_yticks(range(len(target)), [token.replace("$", r"\$") for token in target])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("source")
    axes.set_ylabel("target")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
