"""A float64 reference of a function, and how far results are from each other in units in the last place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_dtypes import finfo

from ..ir import Function, Instruction, IRError, Module, TensorType, Value
from ..ir.float_mode import standard_mode
from ..ir.graph import Symbol
from ..ir.literal import Literal
from ..ir.op import Control
from ..ir.types import Array, DType, f64


def rounding_ulp(dtype: np.dtype[Any]) -> int:
    """How many units apart two results may be, or that much of the largest term of a sum, by another order of rounding.

    A narrow dtype is rounded from a wider one: there a few units are all that an order can move.
    """
    return 256 if dtype.itemsize >= 4 else 4


def _wide_type(type: TensorType) -> TensorType:
    return type.with_dtype(f64) if type.dtype.floating else type


def _wide_array(array: Array, type: TensorType) -> Array:
    return array.astype(np.float64) if type.dtype.floating else array


def _wide_attr(value: Any) -> Any:
    if isinstance(value, DType) and value.floating:
        return f64
    if isinstance(value, Literal) and value.type.dtype.floating:
        with np.errstate(all="ignore"):
            return Literal(value.data.astype(np.float64), value.type.with_dtype(f64))
    return value


def wide(i: Instruction, arrays: Sequence[Array], module: Module | None = None) -> tuple[Array, ...]:
    """An op's meaning in float64: floating operands and results are float64, draws come from the same words.

    An op that reads the bits of its operand is done in the operand's own dtype.
    """
    types = tuple([o.type for o in i.operands])
    attrs: dict[str, Any] = {name: _wide_attr(value) for name, value in i.attrs.items()}
    with np.errstate(all="ignore"):
        if isinstance(i.op, Control):

            def call(symbol: Symbol, *operands: Array) -> tuple[Array, ...]:
                assert module is not None
                body = module[symbol]
                known = wide_values(body, operands, module)
                return tuple([known[v] for v in body.results])

            return tuple(i.op.eval(np, *arrays, call=call, **attrs))
        try:
            i.op.result_types(tuple(map(_wide_type, types)), attrs)
            given = list(arrays)
        except IRError:
            attrs = dict(i.attrs)
            given = [a.astype(t.dtype.numpy) for a, t in zip(arrays, types, strict=True)]
        made: Any = i.op.eval(np, *given, **attrs)
        results = made if len(i.results) > 1 else (made,)
        return tuple([_wide_array(np.asarray(a), r.type) for a, r in zip(results, i.results, strict=True)])


def wide_values(function: Function, arrays: Sequence[Array], module: Module | None = None) -> dict[Value, Array]:
    """Every value of a function in float64."""
    known: dict[Value, Array] = {
        v: _wide_array(np.asarray(a), v.type) for v, a in zip(function.arguments, arrays, strict=True)
    }
    with standard_mode():
        for i in function.instructions:
            known.update(zip(i.results, wide(i, [known[o] for o in i.operands], module), strict=True))
    return known


def distances(function: Function, found: Mapping[str, Sequence[Array]]) -> dict[str, float]:
    """How far results are from a float64 evaluation of a recorded function: the largest difference in any element.

    ``function`` has the arrays of its arguments, ``found`` the loss and the gradients by name.  A distance is relative to the largest
    element of all gradients.
    """
    reference = wide_values(function, [np.asarray(v.array) for v in function.arguments])
    wide = [
        reference[v] for v, m in zip(function.results, function.marks, strict=True) if m is None or m.kind == "grad"
    ]
    scale = max((float(np.abs(a).max(initial=0.0)) for a in wide[1:]), default=0.0) or 1.0
    return {
        name: max(float(np.abs(np.asarray(a) - b).max(initial=0.0)) for a, b in zip(arrays, wide, strict=True)) / scale
        for name, arrays in found.items()
    }


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays of one dtype and shape are bitwise equal; all NaNs count as one."""
    return bool(_equal(a, b).all())


def _equal(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "fV":
        return np.asarray(a == b)
    x, y = _ordered(a), _ordered(b)
    return np.asarray((x == y) & (np.signbit(a) == np.signbit(b)) | np.isnan(a) & np.isnan(b))


def _unit(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The distance from 1 to the next number, and the smallest number above 0."""
    info: Any = finfo(dtype)  # pyright: ignore[reportUnknownVariableType]
    return float(info.eps), float(info.smallest_subnormal)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def _ordered(x: Array) -> Array:
    """Floats as integers in the order of their values; neighbours differ by one, and both zeros are 0."""
    width = 8 * x.dtype.itemsize
    bits = np.ascontiguousarray(x).view(f"i{x.dtype.itemsize}").reshape(x.shape).astype(np.int64)
    magnitude = bits & np.int64((1 << (width - 1)) - 1)
    return np.where(bits < 0, -magnitude, magnitude)


def ulp_apart(a: Array, b: Array) -> Array:
    """How many steps between neighbouring numbers lie between, as float64; NaN beside a number is infinitely far."""
    x, y = _ordered(a), _ordered(b)
    with np.errstate(all="ignore"):
        rough = np.abs(x.astype(np.float64) - y.astype(np.float64))
        apart = np.where(
            rough < 2.0**52, np.abs(x - y).astype(np.float64), rough
        )  # the difference of integers may wrap
        nan_a, nan_b = np.isnan(a), np.isnan(b)
    return np.where(nan_a | nan_b, np.where(nan_a & nan_b, 0.0, np.inf), apart)


def ulp_from(a: Array, reference: Array) -> Array:
    """Distance of each element from a float64 reference, in units in the last place of ``a``'s dtype at the reference."""
    eps, smallest = _unit(a.dtype)
    with np.errstate(all="ignore"):
        value = a.astype(np.float64)
        unit = np.ldexp(eps, np.frexp(reference)[1] - 1)
        apart = np.abs(value - reference) / np.maximum(unit, smallest)
        same = (value == reference) | (np.isnan(value) & np.isnan(reference))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


def grade(a: Array, b: Array, scale: float = 0.0) -> str:
    """``none``, ``rounding`` or ``real``: whether two results are equal, differ by rounding, or by more.

    ``scale`` is the size of the terms that a sum was made of: where they cancel, rounding moves a small result by many units.
    """
    if same_bits(a, b):
        return "none"
    if a.dtype.kind not in "fV":
        return "real"
    with np.errstate(all="ignore"):
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
        limit = rounding_ulp(a.dtype)
        close = (ulp_apart(a, b) <= limit) | (apart <= limit * _unit(a.dtype)[0] * scale)
    return "rounding" if bool(close.all()) else "real"
