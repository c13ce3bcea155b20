"""Tied embeddings are one table each, and need one vocabulary."""

import pytest

from tests.contracts.cases import PAIRS, TIED, model_config, shared
from tfseq2seq.model import build_model

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
