"""Ops that own functions of the module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..errors import VerifyError
from ..graph import Function
from ..op import Absent, Attr, Control, Random, Sample
from ..types import Array, TensorType


class Fused(Control):
    """One kernel over its operands: the function ``kernel`` of the module, run as a unit."""

    name = "fused"
    results = -1
    attrs = {"kernel": Attr("symbol")}
    bodies = ("kernel",)
    rounding = "pinned"

    def infer(self, *types: TensorType, kernel: Function) -> tuple[TensorType, ...]:
        wanted = tuple(a.type for a in kernel.arguments)
        if types != wanted:
            raise VerifyError(
                f"fused @{kernel.name} takes ({', '.join(map(str, wanted))}), not ({', '.join(map(str, types))})"
            )
        return tuple(r.type for r in kernel.results)

    def eval(self, xp: Any, *operands: Array, call: Callable[..., tuple[Array, ...]], kernel: str) -> tuple[Array, ...]:
        return call(kernel, *operands)

    def samples(self, random: Random) -> Iterable[Sample]:
        return ()

    vjp = Absent("it is made after differentiation")
    jvp = Absent("it is made after differentiation")
