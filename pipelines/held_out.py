"""Which split a pair belongs to: by a hash of what it belongs to, the same on every machine, never by position."""

import hashlib

from pipelines.pairs import Pair, Splits


def split_of(key: str, valid: float, test: float) -> str:
    """"train", "valid" or "test": where a key belongs, by its hash; so it is the same on every machine.

    Args:
        key: what must not be in two splits, as a source, a chapter, or a word with its variants.
        valid, test: their shares of all keys, from 0 to 1.
    """
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if share < test:
        return "test"
    return "valid" if share < test + valid else "train"


def side(splits: Splits, key: str, valid: float, test: float) -> list[Pair]:
    """The pairs of the split that a key belongs to, see `split_of`."""
    return getattr(splits, split_of(key, valid, test))
