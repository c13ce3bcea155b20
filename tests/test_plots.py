"""Pictures."""

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq.plots import attention_png


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("tokens", [["a", "b", "</s>"], ["$$", r"$\x$", "▁中文"]])
def test_a_heat_map_is_a_png_whatever_the_tokens(tokens):
    weights = np.eye(3)
    image = tf.io.decode_png(attention_png(tokens, tokens, weights), channels=1).numpy()
    assert min(image.shape[:2]) > 50
    # Weight 1 is black, weight 0 white; the diagonal is a third of the cells.
    assert 0.05 < (image < 30).mean() < 0.34
