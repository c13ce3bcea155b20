"""What a layer does not know it refuses when it is made, not at the first batch and not in silence."""

import pytest

from tfseq2seq.layers.attention import MultiHeadAttention
from tfseq2seq.layers.bridge import Bridge
from tfseq2seq.layers.multihead import SelfAttention
from tfseq2seq.layers.pooling import Pooling
from tfseq2seq.layers.stack import Stack
from tfseq2seq.layers.transformer import TransformerStack

STACK = {"layers": 1, "units": 8, "heads": 2, "feed_forward_units": 8}


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Stack(1, False, "layernorm", 0.0, False),
     "Stack needs normalization to be one of none, layer, rms. Received: normalization='layernorm'"),
    (lambda: Bridge("dens", [(4,)]), "Bridge needs kind to be one of auto, copy, .* Received: kind='dens'"),
    (lambda: Pooling("avg"), "Pooling needs kind to be one of mean, max, attentive. Received: kind='avg'"),
    (lambda: TransformerStack(**STACK, positions="sinusodial"), "positions to be one of .* positions='sinusodial'"),
    (lambda: TransformerStack(**STACK, norm="Pre"), "norm to be one of pre, post. Received: norm='Pre'"),
    (lambda: TransformerStack(**STACK, normalization="none"), "normalization to be one of layer, rms. Received"),
    (lambda: TransformerStack(**STACK, activation="silu"), "activation to be one of relu, .* activation='silu'"),
    (lambda: TransformerStack(**{**STACK, "heads": 3}), "a multiple of heads. Received: units=8, heads=3"),
    (lambda: SelfAttention(8, 0), "a multiple of heads. Received: units=8, heads=0"),
    (lambda: MultiHeadAttention(10, 4), "a multiple of heads. Received: units=10, heads=4"),
])
def test_unknown_names_and_heads_that_do_not_divide_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
