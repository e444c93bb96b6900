"""Comparison, logic, selection and casts."""

from __future__ import annotations

import math
from typing import Any

from ...ir import types
from ...ir.types import TensorType, broadcast_shapes
from ..convert import as_value, broadcast, builder, cast, is_number, on_tape, promoted, weak_kind
from ..tensor import Tensor
from .apply import as_bool, binary, floating, located_errors


@on_tape
def equal(x: Any, y: Any) -> Tensor:
    """``x == y``, bool."""
    return binary("eq", x, y)


@on_tape
def not_equal(x: Any, y: Any) -> Tensor:
    """``x != y``, bool."""
    return binary("ne", x, y)


@on_tape
def less(x: Any, y: Any) -> Tensor:
    """``x < y``, bool."""
    return binary("lt", x, y)


@on_tape
def less_equal(x: Any, y: Any) -> Tensor:
    """``x <= y``, bool."""
    return binary("le", x, y)


@on_tape
def greater(x: Any, y: Any) -> Tensor:
    """``x > y``, bool."""
    return binary("gt", x, y)


@on_tape
def greater_equal(x: Any, y: Any) -> Tensor:
    """``x >= y``, bool."""
    return binary("ge", x, y)


@on_tape
def isnan(x: Any) -> Tensor:
    """Where ``x`` is NaN."""
    value = as_value(x)
    return Tensor(builder().ne(value, value))


@on_tape
def isinf(x: Any) -> Tensor:
    """Where ``x`` is an infinity."""
    value = floating(x)
    return Tensor(builder().eq(builder().abs(value), math.inf))


@on_tape
def isfinite(x: Any) -> Tensor:
    """Where ``x`` is neither NaN nor an infinity."""
    value = floating(x)
    return Tensor(builder().lt(builder().abs(value), math.inf))


@on_tape
def logical_and(x: Any, y: Any) -> Tensor:
    """``x and y``, bool."""
    return binary("bit_and", Tensor(as_bool(x)), Tensor(as_bool(y)))


@on_tape
def logical_or(x: Any, y: Any) -> Tensor:
    """``x or y``, bool."""
    return binary("bit_or", Tensor(as_bool(x)), Tensor(as_bool(y)))


@on_tape
def logical_xor(x: Any, y: Any) -> Tensor:
    """Whether exactly one of ``x`` and ``y`` is true."""
    return binary("bit_xor", Tensor(as_bool(x)), Tensor(as_bool(y)))


@on_tape
def logical_not(x: Any) -> Tensor:
    """``not x``, bool."""
    return Tensor(builder().bit_not(as_bool(x)))


@on_tape
def bitwise_and(x: Any, y: Any) -> Tensor:
    """``x & y`` of integers or bools."""
    return binary("bit_and", x, y)


@on_tape
def bitwise_or(x: Any, y: Any) -> Tensor:
    """``x | y`` of integers or bools."""
    return binary("bit_or", x, y)


@on_tape
def bitwise_xor(x: Any, y: Any) -> Tensor:
    """``x ^ y`` of integers or bools."""
    return binary("bit_xor", x, y)


@on_tape
def bitwise_invert(x: Any) -> Tensor:
    """``~x`` of an integer or bool."""
    return Tensor(builder().bit_not(as_value(x)))


@on_tape
def bitwise_left_shift(x: Any, y: Any) -> Tensor:
    """``x << y``, the amount modulo the width."""
    return binary("shift_left", x, y)


@on_tape
def bitwise_right_shift(x: Any, y: Any) -> Tensor:
    """``x >> y``, the amount modulo the width."""
    return binary("shift_right", x, y)


@on_tape
def where(condition: Any, x: Any, y: Any) -> Tensor:
    """``x`` where the condition holds, else ``y``; all three broadcast."""
    test = as_bool(condition)
    weak = "".join(weak_kind(v) for v in (x, y) if is_number(v))
    a, b = (None if is_number(v) else as_value(v) for v in (x, y))
    present = [v for v in (a, b) if v is not None]
    with located_errors("where", test, *present):
        dtype = promoted([v.type.dtype for v in present], weak)
        shape = broadcast_shapes(test.type.shape, *[v.type.shape for v in present])
    build, beside = builder(), [test.type, *[v.type for v in present]]
    first, second = (
        build.splat(given, TensorType(dtype, shape), "where", beside) if v is None else broadcast(cast(v, dtype), shape)
        for given, v in ((x, a), (y, b))
    )
    return Tensor(build.where(broadcast(test, shape), first, second))


@on_tape
def astype(x: Any, dtype: Any) -> Tensor:
    """``x`` in another dtype; float to integer saturates, and NaN gives 0."""
    return Tensor(cast(as_value(x), types.dtype(dtype)))


@on_tape
def stop_gradient(x: Any) -> Tensor:
    """``x``, through which no gradient passes."""
    return Tensor(builder().stop_gradient(as_value(x)))
