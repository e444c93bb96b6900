"""What running a program gave, results or an error, and whether two runs agree bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from strategies import same_bits

from tapeir.ir import IRError
from tapeir.ir.types import Array

Outcome = tuple[Array, ...] | IRError


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
