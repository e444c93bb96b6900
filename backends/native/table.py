"""The native kernel table: elementary functions, reductions and products in code of our own; the rest is NumPy's."""

from __future__ import annotations

from functools import cache

from ...ir.types import DType, f32, f64
from .. import kernels
from ..kernels import Call, Kernel, Table
from . import blas, elementwise, engine, math, reductions


class NativeTable(Table):
    """Entries for f32 and f64 compiled through llvmlite; 16-bit floats use f32's, other dtypes have one possible answer."""

    name = "native"

    @property
    def description(self) -> str:
        return f"native ({engine.target_description()}); products by {blas.description()}"

    @property
    def summary(self) -> str:
        return f"native code for {engine.processor()}; products by {kernels.blas().description}"

    def primitive(self, name: str, operand: DType, result: DType) -> Kernel:
        if name in math.FUNCTIONS and operand in (f32, f64):
            return _elementwise(name, operand, result)
        return super().primitive(name, operand, result)

    def reduction(self, combine: str, dtype: DType) -> Call:
        if combine in ("sum", "max", "min") and dtype in (f32, f64):
            return reductions.reduction(combine, dtype)
        return super().reduction(combine, dtype)

    def contract(self, dtype: DType) -> Call:
        return blas.contract if not dtype.floating or dtype in (f32, f64) else super().contract(dtype)


@cache
def _elementwise(name: str, operand: DType, result: DType) -> Kernel:
    arity = 2 if name in ("pow", "floor_divide", "remainder") else 1
    return Kernel(f"{name}_{operand}", elementwise.entry(name, operand, result, arity))
