"""Decoders write the target: `start(encoded)`, then `step` in search or `call` in training."""

from tfseq2seq.decoders.attentional import AttentionalDecoder

DECODERS = {"attentional": AttentionalDecoder}
