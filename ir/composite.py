"""What a composite stands for: its decomposition as a function."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .build import Builder
from .graph import Function, Instruction, Module
from .op import Composite, Control
from .record import GraphBuilder
from .types import TensorType


@lru_cache(maxsize=4096)
def _decomposition(op: Composite, types: tuple[TensorType, ...], attrs: tuple[tuple[str, Any], ...]) -> Function:
    recorder = GraphBuilder()
    recorder.at = ()
    operands = [recorder.argument(t) for t in types]
    outputs = op.expand(Builder(recorder), operands, dict(attrs))
    return recorder.function(op.name, [(v, None) for v in operands], [(v, None) for v in outputs])


def decomposition(op: Composite, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> Function:
    """The function of a composite for operand types; its own composites are not expanded."""
    return _decomposition(op, types, tuple(attrs.items()))


def can_fail(i: Instruction, module: Module | None = None) -> bool:
    """Whether running an instruction may raise: it has a check, or its decomposition or a function it owns holds one that has."""
    types = tuple([o.type for o in i.operands])
    bodies: list[Function] = []
    if isinstance(i.op, Composite):
        bodies = [decomposition(i.op, types, i.attrs)]
    elif isinstance(i.op, Control) and module is not None:
        bodies = [module[i.attrs[name]] for name in i.op.bodies]
    if bodies:
        return any(can_fail(inner, module) for body in bodies for inner in body.instructions)
    return i.op.check is not None and i.op.check.applies(types)
