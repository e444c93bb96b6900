"""decompose: a composite is replaced by its decomposition, again and again until none is left.

A reduction over axes that are no neighbours becomes one of the permuted operand, and one that keeps its axes a reshape::

    sum(x, axes = [0, 2], keepdims = true)  is  reshape(sum(permute_dims(x, [1, 0, 2]), axes = [1, 2]))

Names, sites of random draws and locations stay, and a composite that the target computes whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Builder, Function, Instruction, Value
from ..ir.op import Composite, Reduce
from .loops import are_neighbours, grouped
from .manager import Context, Pass, per_function
from .rewrite import sweep


def _plain(build: Builder, i: Instruction) -> tuple[Value, ...]:
    """A reduction over neighbours, without its axes, in views."""
    x, axes = i.operands[0], i.attrs["axes"]
    groups = grouped(x.type.rank, axes)
    order = sum(groups, ())
    if order != tuple(range(x.type.rank)):
        x = build.permute_dims(x, axes=order)
    start = len(groups[0])
    attrs = {"axes": tuple(range(start, start + len(axes))), "keepdims": False}
    made = build.recorder.bind(i.op, (x,), attrs)[0]
    return (made if made.type == i.result.type else build.reshape(made, shape=i.result.type.shape),)


def _decompose(function: Function, context: Context) -> bool:
    """Composites become their decompositions."""

    def visit(build: Builder, i: Instruction) -> Sequence[Value] | None:
        if isinstance(i.op, Reduce) and (i.attrs["keepdims"] or not are_neighbours(i.attrs["axes"])):
            return _plain(build, i) if context.spend("plain reduction", i) else None
        if not isinstance(i.op, Composite):
            context.note(i, "decompose: it is no composite")
            return None
        if context.keeps(i):
            context.note(i, "decompose: the target computes it whole")
            return None
        if not context.spend("decompose", i):
            return None
        return i.op.expand(build, i.operands, i.attrs)

    changed = False
    while sweep(function, visit, context):
        changed = True
    return changed


decompose = Pass("decompose", per_function(_decompose))
