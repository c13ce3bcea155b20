"""Decoders write the target: `start(encoded)`, then `step` in search or `call` in training."""

from tfseq2seq.decoders.attentional import AttentionalDecoder
from tfseq2seq.decoders.recurrent import RecurrentDecoder
from tfseq2seq.decoders.transformer import TransformerDecoder

DECODERS = {
    "recurrent": RecurrentDecoder,
    "attentional": AttentionalDecoder,
    "transformer": TransformerDecoder,
}


def make_decoder(table, output_units=None, **kwargs):
    """The decoder of a recipe's table (`tfseq2seq.config`); `output_units` None leaves the width to the decoder."""
    options = {name: value for name, value in table if name not in ("kind", "preset")}
    return DECODERS[table.kind](**options, output_units=output_units, **kwargs)
