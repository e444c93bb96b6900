"""New tensors: constants, ranges and random draws."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import types
from ...ir.errors import ArgumentValueError
from ...ir.literal import need_fit
from ...ir.op import need_kind
from ...ir.ops.nn import is_class
from ...ir.types import TensorType, f64, i64
from ..arguments import Number
from ..convert import as_value, builder, cast, float_dtype, on_tape, promoted, weak_kind
from ..tensor import Tensor
from .apply import as_shape, chosen_key, located_errors


@on_tape
def full(shape: int | Sequence[int], fill_value: Number, dtype: Any = None) -> Tensor:
    """A tensor whose elements are all ``fill_value``; a number that the dtype does not hold is an error."""
    kind = types.dtype(dtype) if dtype is not None else promoted([], weak_kind(fill_value))
    return Tensor(builder().splat(fill_value, TensorType(kind, as_shape(shape)), "full"))


@on_tape
def zeros(shape: int | Sequence[int], dtype: Any = None) -> Tensor:
    """A tensor of zeros, in the runtime's floating dtype by default."""
    return full(shape, 0.0, dtype if dtype is not None else float_dtype())


@on_tape
def ones(shape: int | Sequence[int], dtype: Any = None) -> Tensor:
    """A tensor of ones, in the runtime's floating dtype by default."""
    return full(shape, 1.0, dtype if dtype is not None else float_dtype())


@on_tape
def zeros_like(x: Any) -> Tensor:
    """Zeros of ``x``'s shape and dtype."""
    return Tensor(builder().splat(0, as_value(x).type))


@on_tape
def ones_like(x: Any) -> Tensor:
    """Ones of ``x``'s shape and dtype."""
    return Tensor(builder().splat(1, as_value(x).type))


@on_tape
def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None) -> Tensor:
    """``start, start + step, ...`` below ``stop``; i64 for integers, else the runtime's floating dtype."""
    begin, end = (0, start) if stop is None else (start, stop)
    if not (math.isfinite(begin) and math.isfinite(end) and math.isfinite(step) and step):
        raise ArgumentValueError(
            f"arange from {begin} to {end} by {step}\n  rule: they are finite, and the step is not 0"
        )
    integer = all(isinstance(x, (int, np.integer)) for x in (begin, end, step))
    # Of integers the quotient is exact, as Python's are; NumPy rounds that of floats up too.
    count = -((begin - end) // step) if integer else math.ceil((end - begin) / step)
    kind = types.dtype(dtype) if dtype is not None else (i64 if integer else float_dtype())
    wide = i64 if integer else f64
    build, shape = builder(), as_shape(builtins.max(0, int(count)))
    with located_errors("arange"):
        if shape[0]:
            for number, held in ((begin, kind), (begin + (shape[0] - 1) * step, kind), (begin, wide), (step, wide)):
                need_fit(number, held)
            need_fit(step, i64 if kind.integer else wide)
    if (begin, step) == (0, 1):
        return Tensor(build.iota(dtype=kind, shape=shape, axis=0))
    # NumPy's own rule: the distance is that of the first two elements.
    distance = step if integer else (begin + step) - begin
    steps = build.mul(build.iota(dtype=wide, shape=shape, axis=0), distance)
    return Tensor(cast(build.add(steps, begin), kind))


@on_tape
def one_hot(x: Any, num_classes: int, dtype: Any = None) -> Tensor:
    """1 at each class index along a new last axis, else 0; a class outside ``0..num_classes-1`` gives zeros."""
    value = as_value(x)
    with located_errors("one_hot", value):
        need_kind("one_hot", value.type, "iu")
    hot = is_class(builder(), value, as_shape(num_classes)[0])
    return Tensor(cast(hot, types.dtype(dtype) if dtype is not None else float_dtype()))


def _draw(name: str, shape: int | Sequence[int], dtype: Any, key: Any) -> Tensor:
    build = builder()
    kind = types.dtype(dtype) if dtype is not None else float_dtype()
    return Tensor(getattr(build, name)(chosen_key(key), shape=as_shape(shape), dtype=kind))


@on_tape
def random_uniform(shape: int | Sequence[int], dtype: Any = None, key: Any = None) -> Tensor:
    """Uniform draws on ``[0, 1)``, multiples of ``2**-24``, truncated in 16-bit floats."""
    return _draw("uniform", shape, dtype, key)


@on_tape
def random_normal(shape: int | Sequence[int], dtype: Any = None, key: Any = None) -> Tensor:
    """Standard normal draws."""
    return _draw("normal", shape, dtype, key)
