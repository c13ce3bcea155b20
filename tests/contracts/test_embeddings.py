"""Tied embeddings are one table each, and need one vocabulary; and what is read of the sources."""

import numpy as np
import pytest
import tensorflow as tf

from tests.contracts.cases import PAIRS, TIED, model_config, shared
from tfseq2seq.config import Model
from tfseq2seq.model import build_model
from tfseq2seq.structures import EOS, PAD

TIED_PAIRS = [pair for pair in PAIRS if pair.endswith(TIED)]


@pytest.mark.parametrize("pair", TIED_PAIRS)
def test_tied_embeddings_are_one_variable(pair):
    model, tied = shared(pair), pair.split("+")[2]
    tables = [variable for variable in model.trainable_variables if "embedding" in variable.path]
    assert len(tables) == {"source_target": 1, "target_output": 2, "all": 1}[tied]
    assert (model.output_layer is None) == (tied != "source_target")


@pytest.mark.parametrize("pair", [pair for pair in TIED_PAIRS if not pair.endswith("target_output")])
def test_tied_sides_need_one_vocabulary(pair):
    with pytest.raises(ValueError, match="set share_tokenizer = true. Received: 11 source and 10 target ids"):
        build_model(model_config(pair), 11, 10)


def test_sources_may_be_read_without_their_end():
    config = {"embedding_units": 6, "encoder": {"units": 4, "dropout": 0.0}, "decoder": {"units": 8, "dropout": 0.0}}
    with_end, without = (
        build_model(Model.model_validate({**config, "source_end": end}), 11, 10) for end in (True, False))
    without.set_weights(with_end.get_weights())
    ids = tf.constant([[5, 6, 7, EOS], [4, 9, EOS, PAD]])
    found = without.encode(ids)
    np.testing.assert_array_equal(found.mask, [[True, True, True, False], [True, True, False, False]])
    for row, length in ((0, 3), (1, 2)):
        # The same encoder, given the tokens alone.
        tokens = ids[row : row + 1, :length]
        alone = with_end.encoder(with_end.embed_source(tokens), mask=tf.ones_like(tokens, tf.bool))
        np.testing.assert_allclose(found.memory[row, :length], alone.memory[0], atol=1e-6)
        np.testing.assert_allclose(found.context[row], alone.context[0], atol=1e-6)
    empty = without.encode(tf.constant([[EOS, PAD, PAD], [5, 6, EOS]]))
    np.testing.assert_array_equal(empty.mask[0], [True, False, False])
