"""Reductions over axes."""

from __future__ import annotations

import math
from typing import Any

from ...ir.types import Shape, bool_, i64, normalize_axes
from ..convert import as_value, builder, cast, on_tape
from ..tensor import Tensor
from .apply import Axis, floating, located_errors
from .arithmetic import sqrt, subtract
from .shape import reshape


def _reduce(name: str, x: Any, axis: Axis, keepdims: bool) -> Tensor:
    value = as_value(x)
    with located_errors(name, value):
        axes = normalize_axes(axis, value.type.rank)
    return Tensor(getattr(builder(), name)(value, axes=axes, keepdims=keepdims))


@on_tape
def sum(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over axes (all by default); bools are counted in i64."""
    value = as_value(x)
    return _reduce("sum", Tensor(cast(value, i64) if value.type.dtype is bool_ else value), axis, keepdims)


def _count(shape: Shape, axes: Shape) -> float:
    return float(math.prod(shape[a] for a in axes))


@on_tape
def mean(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean over axes (all by default), floating."""
    value = floating(x)
    with located_errors("mean", value):
        axes = normalize_axes(axis, value.type.rank)
    total = builder().sum(value, axes=axes, keepdims=keepdims)
    return Tensor(builder().div(total, _count(value.type.shape, axes)))


@on_tape
def var(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The variance over axes: squared distances from the mean summed, over the count minus ``correction``."""
    value = floating(x)
    with located_errors("var", value):
        axes = normalize_axes(axis, value.type.rank)
    kept = [1 if a in axes else n for a, n in enumerate(value.type.shape)]
    centred = subtract(Tensor(value), reshape(mean(Tensor(value), axes), kept))
    total = builder().sum(builder().mul(centred.value, centred.value), axes=axes, keepdims=keepdims)
    return Tensor(builder().div(total, _count(value.type.shape, axes) - correction))


@on_tape
def std(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The square root of the variance."""
    return sqrt(var(x, axis, correction, keepdims))


@on_tape
def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element over axes (all by default)."""
    return _reduce("max", x, axis, keepdims)


@on_tape
def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element over axes (all by default)."""
    return _reduce("min", x, axis, keepdims)


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
