"""What running a program gave, results or an error, and whether two runs agree bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tapeir.ir import IRError
from tapeir.ir.types import Array

SUMS = """module @sums {
  func @main(%x: f32[ROWS, COLUMNS] input) -> (f32[ROWS], f32[COLUMNS], f32[ROWS], f32[COLUMNS], f32[]) {
    %0 = sum %x {axes = [1], keepdims = false} : f32[ROWS]
    %1 = sum %x {axes = [0], keepdims = false} : f32[COLUMNS]
    %2 = max %x {axes = [1], keepdims = false} : f32[ROWS]
    %3 = max %x {axes = [0], keepdims = false} : f32[COLUMNS]
    %4 = sum %x {axes = [0, 1], keepdims = false} : f32[]
    return %0, %1, %2, %3, %4
  }
}
"""
"""Sums and maxima of rows, of columns and of everything."""

Outcome = tuple[Array, ...] | IRError


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have one dtype, shape and bits; all NaNs count as one."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if a.dtype.kind not in "fV":
        return bool((a == b).all())
    with np.errstate(invalid="ignore"):  # bfloat16's isnan warns of signalling NaNs
        nan, other = np.isnan(a), np.isnan(b)
    word = np.dtype(f"u{a.dtype.itemsize}")
    return bool((nan == other).all()) and bool(((a.view(word) == b.view(word)) | nan).all())


def outcome(run: Callable[[Sequence[Array]], tuple[Array, ...]], arrays: Sequence[Array]) -> Outcome:
    """The results for copies of the arrays, or what was raised."""
    try:
        return run([a.copy() for a in arrays])
    except IRError as error:
        return error


def agree(a: Outcome, b: Outcome) -> bool:
    """Whether both gave the same bits, or raised the same."""
    if isinstance(a, IRError) or isinstance(b, IRError):
        return type(a) is type(b) and str(a) == str(b)
    return len(a) == len(b) and all(same_bits(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))
