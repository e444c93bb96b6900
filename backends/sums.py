"""The order in which a CPU adds up long sums, stated once for all who do it.

The terms of a sum are added one after the other in blocks of ``BLOCK``, from ``-0.0``, the identity of addition.  The blocks' sums are then
added in pairs: neighbours first, then neighbours among the results, and a last one without a neighbour waits for the next round.
That splits any number of blocks at the largest power of two below it, so the order depends on the number of terms alone.  The error
grows with ``BLOCK + log2(n / BLOCK)`` instead of ``n`` (Higham, The accuracy of floating point summation, 1993).

Code that meets one block after the other needs no array of all their sums.  It keeps those that wait, one for each power of two: the
sum of block ``i`` takes in those at levels 0 to ``merges(i) - 1``, from the lowest, and waits at level ``merges(i)``; at the end
``waiting`` says which levels are left, and each is added to what the lower ones gave.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.types import Array

BLOCK = 32


def blocks(count: int) -> int:
    """How many blocks there are of ``count`` terms."""
    return -(-count // BLOCK)


def merges(number: int) -> int:
    """How many sums that wait a block's sum takes in: the ones at the end of its number, written in binary."""
    return ((number + 1) & ~number).bit_length() - 1


def waiting(number: int) -> list[int]:
    """The levels of the sums that wait after so many blocks, from the lowest."""
    return [level for level in range(number.bit_length()) if number >> level & 1]


def add_pairs(parts: Array, out: Array) -> None:
    """``out [outer, inner]`` is the sum of the blocks' sums ``parts [outer, blocks, inner]``."""
    while (count := parts.shape[1]) > 1:
        last = parts[:, count - count % 2 :]
        together = np.add(parts[:, : count - 1 : 2], parts[:, 1::2])
        parts = np.concatenate([together, last], 1) if count % 2 else together
    np.copyto(out, parts[:, 0])


def add_columns(x: Array, out: Array) -> None:
    """``out [outer, inner]`` is the sum of ``x [outer, n, inner]`` over its middle axis; ``n`` is not 0."""
    outer, n, inner = x.shape
    whole, rest = divmod(n, BLOCK)
    parts: Any = np.empty((outer, blocks(n), inner), x.dtype)
    if whole:
        np.add.reduce(x[:, : n - rest].reshape(outer, whole, BLOCK, inner), 2, None, parts[:, :whole])
    if rest:
        np.add.reduce(x[:, n - rest :], 1, None, parts[:, whole])
    add_pairs(parts, out)
