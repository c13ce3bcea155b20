"""Pictures."""

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq import plots
from tfseq2seq.plots import attention_figure, attention_png

pytestmark = pytest.mark.filterwarnings("error")  # matplotlib's of missing glyphs and of axes without extent


@pytest.mark.parametrize("tokens", [["a", "b", "</s>"], ["$$", r"$\x$", "▁中文"]])
def test_a_heat_map_is_a_png_whatever_the_tokens(tokens):
    weights = np.eye(3)
    image = tf.io.decode_png(attention_png(tokens, tokens, weights), channels=1).numpy()
    assert min(image.shape[:2]) > 50
    # Weight 1 is black, weight 0 white; the diagonal is a third of the cells.
    assert 0.05 < (image < 30).mean() < 0.34


def labels_of(figure):
    """The text and the extent in dots of each label, of the source and of the target."""
    figure.draw_without_rendering()
    (axes,) = figure.axes
    return [
        [(label.get_text(), label.get_window_extent()) for label in axis.get_ticklabels() if label.get_text()]
        for axis in (axes.xaxis, axes.yaxis)]


@pytest.mark.parametrize("lengths", [(4, 3), (40, 30), (90, 60), (128, 128), (1, 200), (200, 1), (700, 900)])
def test_no_two_labels_touch_and_no_picture_is_huge(lengths):
    sides = [["wwww" * (1 + i % 7) for i in range(length)] for length in lengths]
    figure = attention_figure(*sides, np.full(lengths[::-1], 0.5))
    width, height = figure.canvas.get_width_height()
    assert max(width, height) <= 1200
    for length, labels in zip(lengths, labels_of(figure)):
        extents = [extent for _, extent in labels]
        assert not any(one.overlaps(two) for i, one in enumerate(extents) for two in extents[i + 1 :])
        assert all(0 <= extent.x0 and extent.x1 <= width for extent in extents)
        assert all(0 <= extent.y0 and extent.y1 <= height for extent in extents)
        assert len(labels) >= min(length, 40)


@pytest.mark.parametrize("num_source, num_target", [(5, 0), (0, 0), (5, 1), (1, 1)])
def test_an_answer_of_no_token_or_one_is_drawn(num_source, num_target):
    weights = np.full([num_target, num_source], 0.5)
    png = attention_png(["a"] * num_source, ["b"] * num_target, weights)
    image = tf.io.decode_png(png, channels=1).numpy()
    assert ((image > 100) & (image < 200)).mean() > 0.02 or not weights.size
    assert (image < 100).any()


def test_labels_show_white_space_and_name_what_no_font_has(monkeypatch):
    tokens = [" ", "\t", "a b", "x" * 40, "\ue123", "été"]
    labels = [text for text, _ in labels_of(attention_figure(tokens, ["y"], np.ones([1, 6])))[0]]
    assert labels == ["␣", "U+0009", "a␣b", "x" * 15 + "…", "U+E123", "été"]


def test_a_character_is_drawn_by_the_first_font_that_has_it():
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    assert plots._family("a") == "DejaVu Sans"
    for character in "a中文नमสวم":
        family = plots._family(character)
        assert family is None or ord(character) in FT2Font(findfont(family)).get_charmap()
