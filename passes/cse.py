"""cse: two ops with equal operands and attributes are one.  The first stays, with its location."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir import Builder, Function, Instruction, Value
from .manager import Context, Pass, per_function
from .rewrite import sweep


def _cse(function: Function, context: Context) -> bool:
    """Equal ops are computed once."""
    seen: dict[Any, Instruction] = {}

    def visit(build: Builder, i: Instruction) -> Sequence[Value] | None:
        form = (i.op, i.operands, tuple(i.attrs.items()))
        first = seen.setdefault(form, i)
        if first is i:
            context.note(i, "cse: no op before it is equal")
        return first.results if first is not i and context.spend("cse", i) else None

    return sweep(function, visit, context)


cse = Pass("cse", per_function(_cse))
