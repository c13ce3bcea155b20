"""Encoders read the source: `call(source, mask, training) -> EncoderOutput`."""

from tfseq2seq.encoders.recurrent import RecurrentEncoder

ENCODERS = {"recurrent": RecurrentEncoder}
