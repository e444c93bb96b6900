"""Guards: checks of a run that are off unless asked for.

``nonfinite`` finds the op that first made a NaN or an infinity; ``recorded`` records a program again from time to time and compares.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Function, NonFiniteError, Value
from ..ir.errors import ArgumentValueError
from ..ir.types import Array

RECORDED_EVERY = 64
"""Calls between two checks of the guard ``recorded``, unless it says another number."""
RULE = "it is 'nonfinite', 'recorded' or 'recorded:N' for a check every N calls, two of them joined by a comma, or None"


@dataclass(frozen=True)
class Guards:
    """Which checks are on: ``nonfinite``, and after how many calls ``recorded`` compares again (0: never)."""

    nonfinite: bool = False
    recorded: int = 0

    @classmethod
    def of(cls, text: str | None) -> Guards:
        """The guards of a setting; raises ``ValueError`` for one that there is not."""
        guards: dict[str, int] = {}
        for word in [] if text is None else str(text).split(","):
            found = re.fullmatch(r"(nonfinite)|(recorded)(?::([1-9][0-9]{0,8}))?", word)
            if found is None:
                raise ArgumentValueError(f"guard={text!r}: {RULE}")
            guards[found[1] or found[2]] = int(found[3] or RECORDED_EVERY)
        return cls("nonfinite" in guards, guards.get("recorded", 0))

    def is_due(self, call: int) -> bool:
        """Whether the program of a call, counted from 1, is to be recorded again and compared: also at calls 2, 4, 8, ... at first."""
        return bool(self.recorded) and (
            call % self.recorded == 0 or (call < self.recorded and call & (call - 1) == 0 and call > 1)
        )


def is_finite(array: Array) -> bool:
    """Whether an array holds neither NaN nor infinity."""
    return array.dtype.kind not in "fV" or bool(np.isfinite(np.asarray(array)).all())


def nonfinite_error(function: Function) -> NonFiniteError | None:
    """The error for a recorded function whose values hold arrays; None when all its results are finite.

    It names the first op that made a NaN or infinity out of finite operands and whose result reaches the function's results
    through values that are not finite; or the argument that held one already.
    """
    bad: set[Value] = {v for v in function.results if not is_finite(v.array)}
    if not bad:
        return None
    for i in reversed(function.instructions):
        if any(r in bad for r in i.results):
            bad.update(o for o in i.operands if not is_finite(o.array))
    for argument, role in zip(function.arguments, function.roles, strict=True):
        if argument in bad:
            kind, at = _first(argument.array)
            batch = " of this batch" if role == "input" else ""
            return NonFiniteError(f"{role} %{argument.name} holds {kind} at index {list(at)}{batch} before any op ran")
    for i in function.instructions:
        if any(r in bad for r in i.results) and all(is_finite(o.array) for o in i.operands):
            kind, at = _first(next(r for r in i.results if r in bad).array)
            types = ", ".join(str(o.type) for o in i.operands)
            return NonFiniteError(
                f"{i.op.name} made {kind} at index {list(at)} of finite operands\n  operands: {types}", i.location
            )
    return NonFiniteError("a result is not finite")


def _first(array: Array) -> tuple[str, Sequence[int]]:
    array = np.asarray(array)
    at = np.argwhere(~np.isfinite(array))[0]
    return str(array[tuple(at)]), [int(n) for n in at]
