"""Decoding: how outputs are searched, scored and ranked, for any step function."""

from tfseq2seq.decoding.beam import search, tile
from tfseq2seq.decoding.sampling import Sampling
from tfseq2seq.decoding.trie import Trie

__all__ = ["Sampling", "Trie", "search", "tile"]
