"""Reductions over axes."""

from __future__ import annotations

import math
from typing import Any

from ...ir import types
from ...ir.errors import DtypeError
from ...ir.types import Shape, bool_, i64, reduced_axes, u64
from ..convert import as_value, builder, cast, on_tape
from ..tensor import Tensor
from .apply import Axis, as_bool, floating, located_errors
from .arithmetic import sqrt, subtract
from .logic import equal, where
from .shape import reshape


def _reduce(name: str, x: Any, axis: Axis, keepdims: bool) -> Tensor:
    value = as_value(x)
    with located_errors(name, value):
        axes = reduced_axes(axis, value.type.rank)
    return Tensor(getattr(builder(), name)(value, axes=axes, keepdims=keepdims))


@on_tape
def sum(x: Any, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
    """The sum over axes (all by default), in ``dtype``: by default unsigned integers add up in u64, other integers and bools in i64."""
    value = as_value(x)
    if dtype is not None:
        value = cast(value, types.dtype(dtype))
    elif not value.type.dtype.floating:
        value = cast(value, u64 if value.type.dtype.kind == "u" else i64)
    return _reduce("sum", Tensor(value), axis, keepdims)


def _count(shape: Shape, axes: Shape) -> float:
    return float(math.prod(shape[a] for a in axes))


@on_tape
def mean(x: Any, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
    """The arithmetic mean over axes (all by default), in a floating ``dtype``, by default ``x``'s own or the frame's."""
    value = floating(x) if dtype is None else cast(as_value(x), types.dtype(dtype))
    with located_errors("mean", value):
        if not value.type.dtype.floating:
            raise DtypeError(f"mean in {value.type.dtype}\n  rule: a mean is floating")
        axes = reduced_axes(axis, value.type.rank)
    total = builder().sum(value, axes=axes, keepdims=keepdims)
    return Tensor(builder().div(total, _count(value.type.shape, axes)))


@on_tape
def var(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The variance over axes: squared distances from the mean summed, over the count minus ``correction``.

    The divisor is at least 0, so that with a correction of the count or more the variance is infinite or NaN.
    """
    value = floating(x)
    with located_errors("var", value):
        axes = reduced_axes(axis, value.type.rank)
    kept = [1 if a in axes else n for a, n in enumerate(value.type.shape)]
    centred = subtract(Tensor(value), reshape(mean(Tensor(value), axes), kept))
    total = builder().sum(builder().mul(centred.value, centred.value), axes=axes, keepdims=keepdims)
    freedom = _count(value.type.shape, axes) - correction
    return Tensor(builder().div(total, freedom if freedom > 0 else 0.0))


@on_tape
def std(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The square root of the variance. Its derivative is 0 where nothing varies, as in PyTorch."""
    variance = var(x, axis, correction, keepdims)
    flat = equal(variance, 0.0)
    return where(flat, 0.0, sqrt(where(flat, 1.0, variance)))


@on_tape
def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element over axes (all by default)."""
    return _reduce("max", x, axis, keepdims)


@on_tape
def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element over axes (all by default)."""
    return _reduce("min", x, axis, keepdims)


@on_tape
def any(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether an element over axes (all by default) is not 0, bool; NaN is not 0, and of no elements none is."""
    return Tensor(cast(_reduce("sum", Tensor(cast(as_bool(x), i64)), axis, keepdims).value, bool_))


@on_tape
def all(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether every element over axes (all by default) is not 0, bool; of no elements every one is."""
    return Tensor(builder().bit_not(any(Tensor(builder().bit_not(as_bool(x))), axis, keepdims).value))


@on_tape
def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position of the first largest element along an axis (of the flattened tensor by default), i64."""
    return _reduce("argmax", x, axis, keepdims)


@on_tape
def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position of the first smallest element along an axis (of the flattened tensor by default), i64."""
    value = as_value(x)
    order = builder().neg(value) if value.type.dtype.floating else builder().bit_not(value)
    return _reduce("argmax", Tensor(order), axis, keepdims)
