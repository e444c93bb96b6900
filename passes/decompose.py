"""decompose: a composite is replaced by its decomposition, again and again until none is left.

Names, sites of random draws and locations stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Builder, Function, Instruction, Value
from ..ir.op import Composite
from .manager import Context, Pass, per_function
from .rewrite import sweep


def _decompose(function: Function, context: Context) -> bool:
    """Composites become their decompositions."""

    def visit(build: Builder, i: Instruction) -> Sequence[Value] | None:
        if not isinstance(i.op, Composite):
            context.note(i, "decompose: it is no composite")
            return None
        if not context.spend("decompose", i):
            return None
        return i.op.expand(build, i.operands, i.attrs)

    changed = False
    while sweep(function, visit, context):
        changed = True
    return changed


decompose = Pass("decompose", per_function(_decompose))
