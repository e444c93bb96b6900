"""The ``ops`` namespace: the Python array API's names and semantics, and PyTorch's for neural networks.

Every function takes tensors, parameters, arrays and Python numbers.  Outside every frame it computes at once on an eager
tape and returns arrays.  Errors name the user's line.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import types
from ..ir.errors import DtypeError, IRError, ShapeError
from ..ir.graph import Value
from ..ir.record import blame, draw_key, here
from ..ir.types import Shape, TensorType, bool_, broadcast_shapes, i64, normalize_axes, normalize_axis
from .convert import as_value, broadcast, builder, cast, float_dtype, is_number, on_tape, promoted, together, weak_kind
from .tensor import Tensor

Axis = int | Sequence[int] | None


def _located(name: str, *values: Value) -> Any:
    """Context that gives type errors raised inside the user's line and the operand types."""

    class Located:
        def __enter__(self) -> None: ...

        def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
            if isinstance(error, IRError) and not error.locations:
                raise blame(error, name, tuple(v.type for v in values), here()) from None

    return Located()


def _binary(name: str, a: Any, b: Any, **options: Any) -> Tensor:
    left, right = together(name, a, b, **options)
    return Tensor(getattr(builder(), name)(left, right))


def _floating(x: Any) -> Value:
    """The value in a floating dtype: its own, else the frame's."""
    value = as_value(x)
    return value if value.type.dtype.floating else cast(value, float_dtype())


def _unary(name: str, x: Any) -> Tensor:
    return Tensor(getattr(builder(), name)(_floating(x)))


# Arithmetic


@on_tape
def add(x: Any, y: Any) -> Tensor:
    """``x + y``."""
    return _binary("add", x, y)


@on_tape
def subtract(x: Any, y: Any) -> Tensor:
    """``x - y``."""
    return _binary("sub", x, y)


@on_tape
def multiply(x: Any, y: Any) -> Tensor:
    """``x * y``."""
    return _binary("mul", x, y)


@on_tape
def divide(x: Any, y: Any) -> Tensor:
    """``x / y``; integers are divided in the runtime's floating dtype."""
    return _binary("div", x, y, floating=True)


@on_tape
def floor_divide(x: Any, y: Any) -> Tensor:
    """``floor(x / y)``, Python's ``//``; an integer divisor of 0 raises."""
    return _binary("floor_divide", x, y)


@on_tape
def remainder(x: Any, y: Any) -> Tensor:
    """Python's ``%``; an integer divisor of 0 raises."""
    return _binary("remainder", x, y)


@on_tape
def pow(x: Any, y: Any) -> Tensor:
    """``x ** y``; a constant exponent 0.5, 1, 2, 3 or -1 becomes a square root or products."""
    if is_number(y) and not is_number(x):
        value = as_value(x)
        dtype = promoted([value.type.dtype], weak_kind(y))
        base, build = Tensor(cast(value, dtype)), builder()
        if y == 1:
            return base
        if y == 2:
            return Tensor(build.mul(base.value, base.value))
        if y == 3:
            return Tensor(build.mul(build.mul(base.value, base.value), base.value))
        if y == -1 and dtype.floating:
            return Tensor(build.div(1.0, base.value))
        if y == 0.5:
            return Tensor(build.sqrt(base.value))
    return _binary("pow", x, y, floating=True)


@on_tape
def negative(x: Any) -> Tensor:
    """``-x``."""
    return Tensor(builder().neg(as_value(x)))


@on_tape
def abs(x: Any) -> Tensor:
    """``|x|``."""
    return Tensor(builder().abs(as_value(x)))


@on_tape
def sign(x: Any) -> Tensor:
    """-1, 0 or 1; NaN stays."""
    return Tensor(builder().sign(as_value(x)))


@on_tape
def floor(x: Any) -> Tensor:
    """The largest integer not above ``x``, in ``x``'s dtype."""
    value = as_value(x)
    return Tensor(builder().floor(value) if value.type.dtype.floating else value)


@on_tape
def ceil(x: Any) -> Tensor:
    """The smallest integer not below ``x``, in ``x``'s dtype."""
    value = as_value(x)
    build = builder()
    return Tensor(build.neg(build.floor(build.neg(value))) if value.type.dtype.floating else value)


@on_tape
def round(x: Any) -> Tensor:
    """The nearest integer, halves to even, in ``x``'s dtype."""
    value = as_value(x)
    return Tensor(builder().round(value) if value.type.dtype.floating else value)


@on_tape
def square(x: Any) -> Tensor:
    """``x * x``."""
    value = as_value(x)
    return Tensor(builder().mul(value, value))


@on_tape
def sqrt(x: Any) -> Tensor:
    """The square root."""
    return _unary("sqrt", x)


@on_tape
def rsqrt(x: Any) -> Tensor:
    """``1 / sqrt(x)``."""
    build = builder()
    return Tensor(build.div(1.0, build.sqrt(_floating(x))))


@on_tape
def exp(x: Any) -> Tensor:
    """``e**x``."""
    return _unary("exp", x)


@on_tape
def expm1(x: Any) -> Tensor:
    """``e**x - 1``."""
    return _unary("expm1", x)


@on_tape
def log(x: Any) -> Tensor:
    """The natural logarithm."""
    return _unary("log", x)


@on_tape
def log1p(x: Any) -> Tensor:
    """``ln(1 + x)``."""
    return _unary("log1p", x)


@on_tape
def tanh(x: Any) -> Tensor:
    """The hyperbolic tangent."""
    return _unary("tanh", x)


@on_tape
def sigmoid(x: Any) -> Tensor:
    """``1 / (1 + e**-x)``."""
    return _unary("sigmoid", x)


@on_tape
def erf(x: Any) -> Tensor:
    """The error function."""
    return _unary("erf", x)


@on_tape
def sin(x: Any) -> Tensor:
    """The sine of an angle in radians."""
    return _unary("sin", x)


@on_tape
def cos(x: Any) -> Tensor:
    """The cosine of an angle in radians."""
    return _unary("cos", x)


@on_tape
def maximum(x: Any, y: Any) -> Tensor:
    """The larger operand; NaN if one is NaN."""
    return _binary("maximum", x, y)


@on_tape
def minimum(x: Any, y: Any) -> Tensor:
    """The smaller operand; NaN if one is NaN."""
    return _binary("minimum", x, y)


@on_tape
def clip(x: Any, min: Any = None, max: Any = None) -> Tensor:
    """``x`` held between ``min`` and ``max``."""
    result = Tensor(as_value(x))
    if min is not None:
        result = maximum(result, min)
    return result if max is None else minimum(result, max)


# Comparison and logic


@on_tape
def equal(x: Any, y: Any) -> Tensor:
    """``x == y``, bool."""
    return _binary("eq", x, y)


@on_tape
def not_equal(x: Any, y: Any) -> Tensor:
    """``x != y``, bool."""
    return _binary("ne", x, y)


@on_tape
def less(x: Any, y: Any) -> Tensor:
    """``x < y``, bool."""
    return _binary("lt", x, y)


@on_tape
def less_equal(x: Any, y: Any) -> Tensor:
    """``x <= y``, bool."""
    return _binary("le", x, y)


@on_tape
def greater(x: Any, y: Any) -> Tensor:
    """``x > y``, bool."""
    return _binary("gt", x, y)


@on_tape
def greater_equal(x: Any, y: Any) -> Tensor:
    """``x >= y``, bool."""
    return _binary("ge", x, y)


@on_tape
def isnan(x: Any) -> Tensor:
    """Where ``x`` is NaN."""
    value = as_value(x)
    return Tensor(builder().ne(value, value))


@on_tape
def isinf(x: Any) -> Tensor:
    """Where ``x`` is an infinity."""
    value = _floating(x)
    return Tensor(builder().eq(builder().abs(value), math.inf))


@on_tape
def isfinite(x: Any) -> Tensor:
    """Where ``x`` is neither NaN nor an infinity."""
    value = _floating(x)
    return Tensor(builder().lt(builder().abs(value), math.inf))


def _bool(x: Any) -> Value:
    return cast(as_value(x), bool_)


@on_tape
def logical_and(x: Any, y: Any) -> Tensor:
    """``x and y``, bool."""
    return _binary("bit_and", Tensor(_bool(x)), Tensor(_bool(y)))


@on_tape
def logical_or(x: Any, y: Any) -> Tensor:
    """``x or y``, bool."""
    return _binary("bit_or", Tensor(_bool(x)), Tensor(_bool(y)))


@on_tape
def logical_xor(x: Any, y: Any) -> Tensor:
    """Whether exactly one of ``x`` and ``y`` is true."""
    return _binary("bit_xor", Tensor(_bool(x)), Tensor(_bool(y)))


@on_tape
def logical_not(x: Any) -> Tensor:
    """``not x``, bool."""
    return Tensor(builder().bit_not(_bool(x)))


@on_tape
def bitwise_and(x: Any, y: Any) -> Tensor:
    """``x & y`` of integers or bools."""
    return _binary("bit_and", x, y)


@on_tape
def bitwise_or(x: Any, y: Any) -> Tensor:
    """``x | y`` of integers or bools."""
    return _binary("bit_or", x, y)


@on_tape
def bitwise_xor(x: Any, y: Any) -> Tensor:
    """``x ^ y`` of integers or bools."""
    return _binary("bit_xor", x, y)


@on_tape
def bitwise_invert(x: Any) -> Tensor:
    """``~x`` of an integer or bool."""
    return Tensor(builder().bit_not(as_value(x)))


@on_tape
def bitwise_left_shift(x: Any, y: Any) -> Tensor:
    """``x << y``, the amount modulo the width."""
    return _binary("shift_left", x, y)


@on_tape
def bitwise_right_shift(x: Any, y: Any) -> Tensor:
    """``x >> y``, the amount modulo the width."""
    return _binary("shift_right", x, y)


@on_tape
def where(condition: Any, x: Any, y: Any) -> Tensor:
    """``x`` where the condition holds, else ``y``; all three broadcast."""
    test = _bool(condition)
    weak = "".join(weak_kind(v) for v in (x, y) if is_number(v))
    a, b = (None if is_number(v) else as_value(v) for v in (x, y))
    present = [v for v in (a, b) if v is not None]
    with _located("where", test, *present):
        dtype = promoted([v.type.dtype for v in present], weak)
        shape = broadcast_shapes(test.type.shape, *[v.type.shape for v in present])
    build = builder()
    first, second = (
        build.splat(given, TensorType(dtype, shape)) if v is None else broadcast(cast(v, dtype), shape)
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


# Reductions


def _reduce(name: str, x: Any, axis: Axis, keepdims: bool) -> Tensor:
    value = as_value(x)
    with _located(name, value):
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
    value = _floating(x)
    with _located("mean", value):
        axes = normalize_axes(axis, value.type.rank)
    total = builder().sum(value, axes=axes, keepdims=keepdims)
    return Tensor(builder().div(total, _count(value.type.shape, axes)))


@on_tape
def var(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The variance over axes: squared distances from the mean summed, over the count minus ``correction``."""
    value = _floating(x)
    with _located("var", value):
        axes = normalize_axes(axis, value.type.rank)
    centred = subtract(Tensor(value), mean(Tensor(value), axes, keepdims=True))
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


# Shape


@on_tape
def reshape(x: Any, shape: int | Sequence[int]) -> Tensor:
    """The elements in row-major order under another shape; one size may be -1."""
    value = as_value(x)
    wanted = (shape,) if isinstance(shape, int) else tuple(shape)
    with _located("reshape", value):
        if wanted.count(-1) > 1:
            raise ShapeError(f"reshape to {list(wanted)}\n  rule: at most one size is -1")
        if -1 in wanted:
            rest = math.prod(n for n in wanted if n != -1)
            if rest == 0 or value.type.size % rest:
                raise ShapeError(f"{value.type.size} elements do not fill {list(wanted)}\n  rule: the number of elements stays")
            wanted = tuple(value.type.size // rest if n == -1 else n for n in wanted)
    return Tensor(value if wanted == value.type.shape else builder().reshape(value, shape=wanted))


@on_tape
def permute_dims(x: Any, axes: Sequence[int]) -> Tensor:
    """Axis ``i`` of the result is axis ``axes[i]`` of ``x``."""
    value = as_value(x)
    with _located("permute_dims", value):
        order = tuple(normalize_axis(a, value.type.rank) for a in axes)
    return Tensor(builder().permute_dims(value, axes=order))


@on_tape
def matrix_transpose(x: Any) -> Tensor:
    """The last two axes swapped."""
    value = as_value(x)
    rank = value.type.rank
    with _located("matrix_transpose", value):
        if rank < 2:
            raise ShapeError("a matrix has two axes\n  rule: rank 2 or more")
    return Tensor(builder().permute_dims(value, axes=(*range(rank - 2), rank - 1, rank - 2)))


@on_tape
def broadcast_to(x: Any, shape: Sequence[int]) -> Tensor:
    """``x`` repeated to ``shape`` under NumPy's rule."""
    return Tensor(broadcast(as_value(x), tuple(shape)))


@on_tape
def expand_dims(x: Any, axis: int = 0) -> Tensor:
    """A new axis of size 1 at ``axis``."""
    value = as_value(x)
    with _located("expand_dims", value):
        at = normalize_axis(axis, value.type.rank + 1)
    shape = value.type.shape
    return Tensor(builder().reshape(value, shape=(*shape[:at], 1, *shape[at:])))


@on_tape
def squeeze(x: Any, axis: Axis = None) -> Tensor:
    """Axes of size 1 removed (all of them by default)."""
    value = as_value(x)
    with _located("squeeze", value):
        gone = normalize_axes(axis, value.type.rank) if axis is not None else tuple(a for a, n in enumerate(value.type.shape) if n == 1)
        if any(value.type.shape[a] != 1 for a in gone):
            raise ShapeError(f"axes {list(gone)} are not all of size 1\n  rule: only axes of size 1 are removed")
    return reshape(Tensor(value), [n for a, n in enumerate(value.type.shape) if a not in gone])


@on_tape
def flip(x: Any, axis: Axis = None) -> Tensor:
    """``x`` reversed along axes (all by default)."""
    value = as_value(x)
    with _located("flip", value):
        axes = normalize_axes(axis, value.type.rank)
    return Tensor(builder().flip(value, axes=axes))


@on_tape
def concat(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """The arrays one after the other along an axis."""
    values = [as_value(a) for a in arrays]
    with _located("concat", *values):
        if not values:
            raise ShapeError("concat of nothing\n  rule: at least one array")
        dtype = promoted([v.type.dtype for v in values])
        at = normalize_axis(axis, values[0].type.rank)
    return Tensor(builder().concat(*[cast(v, dtype) for v in values], axis=at))


@on_tape
def stack(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """The arrays joined along a new axis."""
    return concat([expand_dims(a, axis) for a in arrays], axis)


@on_tape
def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """NumPy's split: into equal sections, or at the given positions."""
    value = as_value(x)
    with _located("split", value):
        at = normalize_axis(axis, value.type.rank)
        size = value.type.shape[at]
        if isinstance(sections, int):
            if sections < 1 or size % sections:
                raise ShapeError(f"axis {at} of size {size} does not split into {sections}\n  rule: equal sections")
            step = size // sections
            bounds = [i * step for i in range(sections + 1)]
        else:
            bounds = [0, *sections, size]
    lead = (slice(None),) * at
    return [index(Tensor(value), (*lead, slice(a, b))) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


@on_tape
def pad(x: Any, pad_width: int | Sequence[Any], constant_values: float = 0) -> Tensor:
    """NumPy's pad with a constant: ``pad_width`` is one number, ``(before, after)`` or such a pair per axis."""
    value = as_value(x)
    rank = value.type.rank
    pairs = [tuple(p) for p in np.broadcast_to(np.asarray(pad_width), (rank, 2)).tolist()]
    low, high = tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
    build, interior = builder(), (0,) * rank
    padded = build.pad(value, low=low, high=high, interior=interior)
    if constant_values == 0:
        return Tensor(padded)
    inside = build.pad(build.splat(True, value.type.with_dtype(bool_)), low=low, high=high, interior=interior)
    return Tensor(build.where(inside, padded, build.splat(constant_values, padded.type)))


# Indexing


@on_tape
def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """``x`` at integer indices along an axis; an index out of range raises IndexError."""
    value, at = as_value(x), as_value(indices)
    with _located("take", value, at):
        if axis is None:
            if value.type.rank != 1:
                raise ShapeError(f"take without an axis of {value.type}\n  rule: the axis may be left out only for rank 1")
            axis = 0
        axis = normalize_axis(axis, value.type.rank)
    return Tensor(builder().take(value, at, axis=axis))


@on_tape
def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Tensor:
    """``x`` at one index per element along an axis, the other axes broadcast."""
    value, at = as_value(x), as_value(indices)
    with _located("take_along_axis", value, at):
        axis = normalize_axis(axis, value.type.rank)
        if at.type.rank != value.type.rank:
            raise ShapeError("take_along_axis\n  rule: both operands have one rank")
        shapes = [tuple(1 if a == axis else n for a, n in enumerate(v.type.shape)) for v in (value, at)]
        shape = broadcast_shapes(*shapes)
    value, at = (broadcast(v, (*shape[:axis], v.type.shape[axis], *shape[axis + 1 :])) for v in (value, at))
    return Tensor(builder().take_along_axis(value, at, axis=axis))


def _is_indices(item: Any) -> bool:
    return isinstance(item, (Tensor, np.ndarray, list)) and not (isinstance(item, Tensor) and item.dtype is bool_)


@on_tape
def index(x: Any, item: Any) -> Tensor:
    """NumPy-style indexing with integers, slices, ``None``, ``...`` and at most one integer array."""
    value = as_value(x)
    items = item if isinstance(item, tuple) else (item,)
    rank = value.type.rank
    used = builtins.sum(1 for i in items if i is not None and i is not Ellipsis)  # pyright: ignore[reportUnknownVariableType]
    with _located("indexing", value):
        if used > rank or builtins.sum(1 for i in items if i is Ellipsis) > 1:  # pyright: ignore[reportUnknownVariableType]
            raise ShapeError(f"{used} indices into {value.type}\n  rule: at most one index per axis, and one ...")
    if Ellipsis not in [i for i in items if i is None or i is Ellipsis]:  # pyright: ignore[reportUnknownVariableType]
        items = (*items, Ellipsis)
    full: list[Any] = []
    for i in items:  # pyright: ignore[reportUnknownVariableType]
        full.extend([slice(None)] * (rank - used) if i is Ellipsis else [i])
    start, stop, step = ([0] * rank for _ in range(3))
    flipped: list[int] = []
    shape: list[int] = []
    gathered: tuple[int, Value] | None = None
    axis = 0
    for i in full:
        if i is None:
            shape.append(1)
            continue
        size = value.type.shape[axis]
        start[axis], stop[axis], step[axis] = 0, size, 1
        if isinstance(i, slice):
            a, b, s = i.indices(size)
            length = len(range(a, b, s))
            if s < 0:
                flipped.append(axis)
                a, s = a + (length - 1) * s, -s
            a = a if length else 0
            start[axis], stop[axis], step[axis] = a, a + (length - 1) * s + 1 if length else a, s
            shape.append(length)
        elif _is_indices(i):
            if gathered is not None:
                with _located("indexing", value):
                    raise ShapeError("two index arrays\n  rule: at most one; combine them with ops.take after a reshape")
            array: Any = np.asarray(i) if isinstance(i, list) else i
            if isinstance(array, np.ndarray) and array.dtype == np.bool_:
                array = np.flatnonzero(array)
            if isinstance(array, np.ndarray) and array.dtype.kind == "i":
                array = np.where(array < 0, array + size, array)
            gathered = (axis, as_value(array))
            shape.extend(gathered[1].type.shape)
        elif isinstance(i, (int, np.integer)):
            position = int(i) + size if i < 0 else int(i)
            if not 0 <= position < size:
                with _located("indexing", value):
                    raise ShapeError(f"index {i} into axis {axis} of size {size}\n  rule: {-size} <= index < {size}")
            start[axis], stop[axis] = position, position + 1
        else:
            raise TypeError(f"an index is an integer, a slice, None, ... or one integer array, not {type(i).__name__}")
        axis += 1
    build = builder()
    if (tuple(start), tuple(stop), tuple(step)) != ((0,) * rank, value.type.shape, (1,) * rank):
        value = build.slice(value, start=tuple(start), stop=tuple(stop), step=tuple(step))
    if flipped:
        value = build.flip(value, axes=tuple(flipped))
    if gathered is not None:
        value = build.take(value, gathered[1], axis=gathered[0])
    return Tensor(value if value.type.shape == tuple(shape) else build.reshape(value, shape=tuple(shape)))


# Creation


def _shape(shape: int | Sequence[int]) -> Shape:
    return (shape,) if isinstance(shape, int) else tuple(shape)


@on_tape
def full(shape: int | Sequence[int], fill_value: float, dtype: Any = None) -> Tensor:
    """A tensor whose elements are all ``fill_value``."""
    kind = types.dtype(dtype) if dtype is not None else promoted([], weak_kind(fill_value))
    return Tensor(builder().splat(fill_value, TensorType(kind, _shape(shape))))


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
    numbers = np.arange(begin, end, step)
    kind = types.dtype(dtype) if dtype is not None else (i64 if numbers.dtype.kind == "i" else float_dtype())
    if (begin, step) == (0, 1):
        return Tensor(builder().iota(dtype=kind, shape=numbers.shape, axis=0))
    return Tensor(builder().literal(numbers, kind))


@on_tape
def one_hot(x: Any, num_classes: int, dtype: Any = None) -> Tensor:
    """1 at each class index along a new last axis, else 0; a class outside ``0..num_classes-1`` gives zeros."""
    value = as_value(x)
    build = builder()
    shape = (*value.type.shape, num_classes)
    classes = build.iota(dtype=value.type.dtype, shape=shape, axis=len(shape) - 1)
    given = build.broadcast_to(build.reshape(value, shape=(*value.type.shape, 1)), shape=shape)
    return Tensor(cast(build.eq(given, classes), types.dtype(dtype) if dtype is not None else float_dtype()))


# Products


def _untransposed(value: Value) -> tuple[Value, bool]:
    """The operand of a swap of the last two axes and True, else the value itself and False."""
    owner, rank = value.owner, value.type.rank
    if owner is not None and owner.op.name == "permute_dims" and owner.attrs["axes"] == (*range(rank - 2), rank - 1, rank - 2):
        return owner.operands[0], True
    return value, False


@on_tape
def matmul(x: Any, y: Any) -> Tensor:
    """The matrix product over the last two axes; leading axes broadcast, and a 1-D operand is a row or column."""
    a, b = as_value(x), as_value(y)
    with _located("matmul", a, b):
        if not a.type.rank or not b.type.rank:
            raise ShapeError("matmul of a scalar\n  rule: rank 1 or more; use * for scalars")
        dtype = promoted([a.type.dtype, b.type.dtype])
    if dtype is bool_:
        raise DtypeError("matmul takes no bools", here())
    a, b = cast(a, dtype), cast(b, dtype)
    build = builder()
    row, column = a.type.rank == 1, b.type.rank == 1
    if row:
        a = build.reshape(a, shape=(1, *a.type.shape))
    if column:
        b = build.reshape(b, shape=(*b.type.shape, 1))
    lead = a.type.shape[:-2]
    flatten = b.type.rank == 2 and a.type.rank > 2
    if flatten:
        a = build.reshape(a, shape=(math.prod(a.type.shape[:-1]), a.type.shape[-1]))
    elif a.type.shape[:-2] != b.type.shape[:-2]:
        with _located("matmul", a, b):
            lead = broadcast_shapes(a.type.shape[:-2], b.type.shape[:-2])
        a, b = broadcast(a, (*lead, *a.type.shape[-2:])), broadcast(b, (*lead, *b.type.shape[-2:]))
    (a, flip_a), (b, flip_b) = _untransposed(a), _untransposed(b)
    y = build.matmul(a, b, transpose_a=flip_a, transpose_b=flip_b)
    shape = y.type.shape
    if flatten:
        shape = (*lead, shape[-1])
    if row:
        shape = (*shape[:-2], shape[-1])
    if column:
        shape = shape[:-1]
    return Tensor(y if shape == y.type.shape else build.reshape(y, shape=shape))


# Neural networks


@on_tape
def relu(x: Any) -> Tensor:
    """0 where ``x <= 0``, else ``x``."""
    return _unary("relu", x)


@on_tape
def gelu(x: Any, approximate: str = "none") -> Tensor:
    """``x * P(X <= x)`` for a standard normal X; ``approximate="tanh"`` is the tanh form."""
    return Tensor(builder().gelu(_floating(x), approximate=approximate))


@on_tape
def silu(x: Any) -> Tensor:
    """``x * sigmoid(x)``."""
    return _unary("silu", x)


@on_tape
def softplus(x: Any) -> Tensor:
    """``ln(1 + e**x)``."""
    return _unary("softplus", x)


def _along(name: str, x: Any, axis: int) -> Tensor:
    value = _floating(x)
    with _located(name, value):
        at = normalize_axis(axis, value.type.rank)
    return Tensor(getattr(builder(), name)(value, axis=at))


@on_tape
def softmax(x: Any, axis: int = -1) -> Tensor:
    """``e**x`` normalised to sum 1 along an axis."""
    return _along("softmax", x, axis)


@on_tape
def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """The logarithm of ``softmax``, computed without overflow."""
    return _along("log_softmax", x, axis)


@on_tape
def layer_norm(x: Any, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """PyTorch's layer_norm over the last axes, which have ``normalized_shape``."""
    value, shape = _floating(x), _shape(normalized_shape)
    with _located("layer_norm", value):
        if value.type.shape[-len(shape) :] != shape:
            raise ShapeError(f"the last axes are not {list(shape)}\n  rule: normalized_shape is the shape of the last axes")
    result = Tensor(builder().layer_norm(value, rank=len(shape), eps=eps))
    if weight is not None:
        result = multiply(result, weight)
    return result if bias is None else add(result, bias)


@on_tape
def embedding(x: Any, weight: Any) -> Tensor:
    """Rows of ``weight`` at integer indices; an index out of range raises IndexError."""
    return take(weight, x, axis=0)


@on_tape
def dropout(x: Any, p: float = 0.5, key: Any = None) -> Tensor:
    """Zeros each element with probability ``p`` and scales the others by ``1 / (1 - p)``.

    ``key`` is a ``key[]`` tensor; by default the draw's place in the model gives it.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout with p = {p}; it is a probability")
    value, build = _floating(x), builder()
    if p == 0:
        return Tensor(value)
    kept = build.mask(key.value if key is not None else draw_key(build), p=1 - p, shape=value.type.shape)
    scaled = build.mul(value, 1 / (1 - p)) if p < 1 else value
    return Tensor(build.where(kept, scaled, build.splat(0.0, value.type)))


@on_tape
def scaled_dot_product_attention(query: Any, key: Any, value: Any, attn_mask: Any = None, is_causal: bool = False, scale: float | None = None) -> Tensor:
    """PyTorch's attention: ``softmax(q @ k^T * scale) @ v``; a bool mask is True where attention is allowed."""
    q, k, v = (_floating(t) for t in (query, key, value))
    factor = scale if scale is not None else 1 / math.sqrt(q.type.shape[-1])
    operands = [q, k, v]
    if attn_mask is not None:
        operands.append(broadcast(_bool(attn_mask), (*q.type.shape[:-1], k.type.shape[-2])))
    return Tensor(builder().scaled_dot_product_attention(*operands, causal=is_causal, scale=factor))


@on_tape
def cross_entropy(prediction: Any, target: Any) -> Tensor:
    """The mean over rows of ``-ln softmax(prediction)[target]``: ``[N, C]`` with integer ``[N]`` or floating ``[N, C]``."""
    x, t = _floating(prediction), as_value(target)
    return Tensor(builder().cross_entropy(x, cast(t, x.type.dtype) if t.type.dtype.floating else t))


@on_tape
def mse(prediction: Any, target: Any) -> Tensor:
    """The mean squared difference; shapes must be equal."""
    x, t = as_value(prediction), as_value(target)
    with _located("mse", x, t):
        if x.type.shape != t.type.shape:
            remedy = f"reshape the target with target.reshape{x.type.shape}" if x.type.size == t.type.size else "give both one shape"
            raise ShapeError(f"prediction {x.type} and target {t.type}\n  rule: shapes are equal\n  remedy: {remedy}")
    difference = subtract(Tensor(x), Tensor(t))
    return mean(multiply(difference, difference))


# Randomness


def _draw(name: str, shape: int | Sequence[int], dtype: Any, key: Any) -> Tensor:
    build = builder()
    kind = types.dtype(dtype) if dtype is not None else float_dtype()
    return Tensor(getattr(build, name)(key.value if key is not None else draw_key(build), shape=_shape(shape), dtype=kind))


@on_tape
def random_uniform(shape: int | Sequence[int], dtype: Any = None, key: Any = None) -> Tensor:
    """Uniform draws on ``[0, 1)``, multiples of ``2**-24``."""
    return _draw("uniform", shape, dtype, key)


@on_tape
def random_normal(shape: int | Sequence[int], dtype: Any = None, key: Any = None) -> Tensor:
    """Standard normal draws."""
    return _draw("normal", shape, dtype, key)
