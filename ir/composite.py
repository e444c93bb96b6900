"""What a composite stands for: its decomposition as a function."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .build import Builder
from .graph import Function
from .op import Composite, Op
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


def can_fail(op: Op, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> bool:
    """Whether running the op may raise: it has a check, or its decomposition has."""
    if isinstance(op, Composite):
        body = decomposition(op, types, attrs)
        return any(can_fail(i.op, tuple([o.type for o in i.operands]), i.attrs) for i in body.instructions)
    return op.check is not None and op.check.applies(types)
