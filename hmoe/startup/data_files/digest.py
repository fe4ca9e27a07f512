"""The hash of a text by which inputs are divided into splits: the same in every process."""

from __future__ import annotations

import hashlib


def digest(text: str) -> int:
    """Returns a 64-bit number that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")
