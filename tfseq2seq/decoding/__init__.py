"""Decoding: how outputs are searched, scored and ranked, for any step function."""

from tfseq2seq.decoding.beam import search
from tfseq2seq.decoding.ensemble import combine
from tfseq2seq.decoding.minimum_risk import expected_utility
from tfseq2seq.decoding.sampling import Sampling
from tfseq2seq.decoding.state import tile
from tfseq2seq.decoding.trie import Trie

__all__ = ["Sampling", "Trie", "combine", "expected_utility", "search", "tile"]
