"""Decoding: how outputs are searched, scored and ranked, for any step function."""

from tfseq2seq.decoding.beam import search, tile

__all__ = ["search", "tile"]
