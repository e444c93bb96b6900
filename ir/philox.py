"""Counter-based random words: Philox4x32-10.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).  Element ``i`` of a draw is
word ``i % 4`` of the block with counter ``(i // 4 low, i // 4 high, 0, 0)``; ``fold_in`` uses the counters
``(data low, data high, 0, 1)``, so that the two never meet.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from .errors import ArgumentValueError
from .types import Array

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
ROUNDS = 10
AT_ONCE = 1 << 12
"""Blocks that are computed together: their scratch stays in a core's cache."""
SCRATCH_ROWS = 8
"""Rows of ``uint64[blocks]`` that ``philox`` needs as scratch."""


def round_keys(key: Array) -> Array:
    """The ten keys of the rounds, ``uint64[10, 2, 1]``, from ``uint32[2]``."""
    rounds = np.arange(ROUNDS, dtype=np.uint64)[:, None]
    return ((key.astype(np.uint64) + rounds * _WEYL) & _LOW)[:, :, None]


def philox(counters: Array, key: Array, out: Array, scratch: Array) -> None:
    """Ten rounds over ``counters`` (``uint64[4, blocks]``, words 0, 2, 1, 3) into ``out`` (``uint32[blocks, 4]``).

    ``scratch`` is ``uint64[8, blocks]``; ``counters`` is not changed.
    """
    even, odd, product, high = scratch[0:2], scratch[2:4], scratch[4:6], scratch[6:8]
    even[...] = counters[0:2]
    odd[...] = counters[2:4]
    for round_key in round_keys(key):
        np.multiply(even, _MULTIPLIERS, product)
        np.right_shift(product, _SHIFT, high)
        np.bitwise_xor(high[::-1], odd, even)
        np.bitwise_xor(even, round_key, even)
        np.bitwise_and(product[::-1], _LOW, odd)
    out[:, 0] = even[0]
    out[:, 1] = odd[0]
    out[:, 2] = even[1]
    out[:, 3] = odd[1]


def counters(blocks: int, first: int = 0) -> Array:
    """Counters ``first..first+blocks-1`` of a draw, in the order ``philox`` takes them."""
    result = np.zeros((4, blocks), np.uint64)
    index = np.arange(first, first + blocks, dtype=np.uint64)
    result[0] = index & _LOW
    result[2] = index >> _SHIFT
    return result


def words(key: Array, count: int) -> Array:
    """The first ``count`` words of the draw of ``key`` (``uint32[2]``), ``uint32[count]``."""
    blocks = -(-count // 4)
    out = np.empty((blocks, 4), np.uint32)
    scratch = np.empty((SCRATCH_ROWS, min(blocks, AT_ONCE)), np.uint64)
    for first in range(0, blocks, AT_ONCE):
        part = out[first : first + AT_ONCE]
        philox(counters(len(part), first), key, part, scratch[:, : len(part)])
    return out.reshape(-1)[:count]


def fold_in(key: Array, data: int) -> Array:
    """A new key, ``uint32[2]``, from a key and 64 bits of data.  One block, so plain integers are quicker than arrays."""
    low = 0xFFFFFFFF
    k0, k1 = int(key[0]), int(key[1])
    c0, c1, c2, c3 = data & low, (data >> 32) & low, 0, 1
    for _ in range(ROUNDS):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & low, (p0 >> 32) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return np.array([c0, c1], np.uint32)


@lru_cache(maxsize=4096)
def site_word(site: str) -> int:
    """The 64 bits that a draw's site stands for: the first 8 bytes of its SHA-256, little-endian."""
    return int.from_bytes(hashlib.sha256(site.encode("utf-8", "surrogatepass")).digest()[:8], "little")


def key_of_seed(seed: int) -> Array:
    """The key that a seed stands for, ``uint32[2]``; raises ``ValueError`` unless ``0 <= seed < 2**64``."""
    if not 0 <= seed < 1 << 64:
        raise ArgumentValueError(f"seed {seed} is outside 0..2**64-1")
    return np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
