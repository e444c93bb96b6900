"""Groups of ops that become one kernel, and how what they read must lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..ir import Instruction, Value
from ..ir.op import Layout
from ..ir.types import Shape
from .loops import rules


@dataclass(eq=False)
class Group:
    """Ops that become one kernel: over ``size`` elements, of which reductions leave those of ``split``'s outer and inner part."""

    size: int
    depth: int
    split: Shape | None = None
    members: list[Instruction] = field(default_factory=list[Instruction])
    reduced: set[Value] = field(default_factory=set[Value])
    reads: set[Value] = field(default_factory=set[Value])
    inlined: set[Value] = field(default_factory=set[Value])
    checks: set[int] = field(default_factory=set[int])
    """Its ops that can fail, by their numbers among those of the function."""
    consumed: bool = False
    joins: bool = False
    first: int = 0
    """The depth at which it began."""
    into: Group | None = None

    @property
    def kept(self) -> int:
        """Elements left by the reductions."""
        return self.split[0] * self.split[2] if self.split else -1


def find(group: Group) -> Group:
    """The group that a group has become part of."""
    while group.into is not None:
        group = group.into
    return group


def view_layout(i: Instruction, layout: Layout | None) -> Layout | None:
    """How the result of a view lies, given how its operand does."""
    return None if layout is None else rules(i).layout(layout, **i.attrs)


def is_plain(layout: Layout | None, size: int) -> bool:
    """Whether a view shows all elements of its source in their order."""
    return layout is not None and layout.is_contiguous and layout.offset == 0 and math.prod(layout.shape) == size


def spreads(layout: Layout | None, split: Shape) -> bool:
    """Whether a view shows the results of a reduction at every element that they came from."""
    if layout is None or layout.offset:
        return False
    expected: list[int] = []
    sizes, step, part = list(split), 1, 2
    left = sizes[2]
    for n in reversed(layout.shape):
        while part > 0 and left == 1:
            part -= 1
            left = sizes[part]
        if n == 1:
            expected.append(0)
            continue
        if left % n:
            return False
        expected.append(0 if part == 1 else step)
        step *= 1 if part == 1 else n
        left //= n
    return all(n == 1 or s == e for n, s, e in zip(layout.shape, layout.strides, reversed(expected), strict=True))
