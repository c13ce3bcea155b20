"""Which split a pair belongs to: by a hash of what it belongs to, the same on every machine, never by position."""

import hashlib

from pipelines.pairs import Pair, Splits


def side(splits: Splits, key: str, valid: float, test: float) -> list[Pair]:
    """The split that `key` belongs to.

    Args:
        splits: all of them.
        key: what must stay on one side, as a chapter, or a word with its variants.
        valid, test: shares of all keys.
    """
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if share < test:
        return splits.test
    return splits.valid if share < test + valid else splits.train
