"""Tied embeddings are one table each, and need one vocabulary."""

import pytest

from tests.contracts.cases import TIED, model_config, shared
from tfseq2seq.model import build_model

PAIR = {"source_target": "recurrent+attentional", "target_output": "convolutional+recurrent",
        "all": "transformer+transformer"}


@pytest.mark.parametrize("tied", TIED)
def test_tied_embeddings_are_one_variable(tied):
    model = shared(f"{PAIR[tied]}+{tied}")
    tables = [variable for variable in model.trainable_variables if "embedding" in variable.path]
    assert len(tables) == {"source_target": 1, "target_output": 2, "all": 1}[tied]
    assert (model.output_layer is None) == (tied != "source_target")


@pytest.mark.parametrize("tied", ["source_target", "all"])
def test_tied_sides_need_one_vocabulary(tied):
    with pytest.raises(ValueError, match="set share_tokenizer = true. Received: 11 source and 10 target ids"):
        build_model(model_config(f"{PAIR[tied]}+{tied}"), 11, 10)
