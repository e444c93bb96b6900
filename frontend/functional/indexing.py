"""Indexing by integers, slices and arrays, by NumPy's rules."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from typing import cast as typed

import numpy as np

from ...ir.errors import ArgumentTypeError, DtypeError, OutOfRangeError, ShapeError
from ...ir.graph import Value
from ...ir.source import public
from ...ir.types import Array, Shape, TensorType, bool_, broadcast_shapes, i64, normalize_axis
from ..convert import as_value, broadcast, builder, has_tensors, on_tape, to_array
from ..tensor import Operators, Tensor
from .apply import located_errors


@on_tape
def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """``x`` at integer indices along an axis; negative ones count from the end, and one out of range raises IndexError."""
    value = as_value(x)
    with located_errors("take", value):
        if axis is None:
            if value.type.rank != 1:
                raise ShapeError(
                    f"take without an axis of {value.type}\n  rule: the axis may be left out only for rank 1"
                )
            axis = 0
        axis = normalize_axis(axis, value.type.rank)
    return Tensor(builder().take(value, _wrapped(value, indices, axis), axis=axis))


@on_tape
def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Tensor:
    """``x`` at one index per element along an axis, the other axes broadcast; negative indices count from the end."""
    value = as_value(x)
    with located_errors("take_along_axis", value):
        axis = normalize_axis(axis, value.type.rank)
    at = _wrapped(value, indices, axis)
    with located_errors("take_along_axis", value, at):
        if at.type.rank != value.type.rank:
            raise ShapeError("take_along_axis\n  rule: both operands have one rank")
        shapes = [tuple(1 if a == axis else n for a, n in enumerate(v.type.shape)) for v in (value, at)]
        shape = broadcast_shapes(*shapes)
    value, at = (broadcast(v, (*shape[:axis], v.type.shape[axis], *shape[axis + 1 :])) for v in (value, at))
    return Tensor(builder().take_along_axis(value, at, axis=axis))


def _wrapped(of: Value, indices: Any, axis: int) -> Value:
    """Positions along an axis of ``of``, counted from 0."""
    size = of.type.shape[axis]
    if isinstance(indices, (range, np.ndarray)) or (
        isinstance(indices, (list, tuple)) and not has_tensors(typed(Sequence[Any], indices))
    ):
        with located_errors("indexing", of):
            return builder().literal(_positions(to_array(indices), size))
    at = as_value(indices)
    with located_errors("indexing", of, at):
        if not at.type.dtype.integer:
            raise DtypeError("an index array holds integers\n  remedy: cast it with ops.astype")
    return at if at.type.dtype.kind == "u" else builder().wrap_index(at, size=size)


def _positions(array: Array, size: int) -> Array:
    """A fixed index array counted from 0: negative positions count from the end."""
    if not array.size:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ArgumentTypeError(f"an index array holds integers or bools, not {array.dtype}")
    outside = array[(array < -size) | (array >= size)]
    if outside.size:
        raise OutOfRangeError(
            f"index {outside[0]} is out of range for an axis of size {size}\n  rule: {-size} <= index < {size}"
        )
    return np.where(array < 0, array + size, array).astype(np.int64)


@public
def index(x: Any, item: Any) -> Tensor:
    """NumPy's indexing with integers, slices, ``None``, ``...`` and arrays of integers or bools.

    Arrays broadcast together.  Their axes take the place of the indexed ones, or come first where a slice, ``None`` or ``...``
    stands between two of them or between one and an integer.  Negative positions count from the end, and one outside its axis raises
    IndexError.  A bool array of Python or NumPy selects; a bool tensor is refused, because the result's shape would
    depend on its elements.
    """
    return on_tape(partial(_index, item=item))(x)


@dataclass
class _Basic:
    """What integers and slices make of each axis of ``x``: a part of it, reversed perhaps, and dropped where an integer chose it."""

    start: list[int]
    stop: list[int]
    step: list[int]
    flipped: list[int]
    dropped: set[int]

    @classmethod
    def all(cls, shape: Shape) -> _Basic:
        """Every element."""
        return cls([0] * len(shape), list(shape), [1] * len(shape), [], set())

    def slice(self, axis: int, item: builtins.slice) -> None:
        """A slice of an axis, that is still whole."""
        first, last, step = item.indices(self.stop[axis])
        length = len(range(first, last, step))
        if step < 0:
            self.flipped.append(axis)
            first, step = first + (length - 1) * step, -step
        first = first if length else 0
        self.start[axis], self.stop[axis] = first, first + (length - 1) * step + 1 if length else first
        self.step[axis] = step

    def integer(self, axis: int, position: int) -> None:
        """One position of an axis."""
        size = self.stop[axis]
        if not -size <= position < size:
            raise OutOfRangeError(
                f"index {position} is out of range for axis {axis} of size {size}\n  rule: {-size} <= index < {size}"
            )
        self.start[axis], self.stop[axis] = position % size, position % size + 1
        self.dropped.add(axis)

    def of(self, value: Value) -> Value:
        """The part of a value, its rank unchanged."""
        build = builder()
        start, stop, step = tuple(self.start), tuple(self.stop), tuple(self.step)
        if (start, stop, step) != ((0,) * len(start), value.type.shape, (1,) * len(start)):
            value = build.slice(value, start=start, stop=stop, step=step)
        return build.flip(value, axes=tuple(sorted(self.flipped))) if self.flipped else value


def _is_array(item: Any) -> bool:
    return isinstance(item, (Operators, np.ndarray, list)) or hasattr(item, "__dlpack__")


def _is(item: Any, *classes: type) -> bool:
    return isinstance(item, classes)


def _prepared(value: Value, item: Any) -> Any:
    """An item as the loop below takes it: an integer, a slice, None, an Ellipsis, an array of integers, a tensor or a mask."""
    if item is None or item is Ellipsis or _is(item, slice):
        return item
    if _is(item, bool, np.bool_):
        raise ArgumentTypeError(
            "a bool is no index\n  remedy: an integer, or a bool array with one element per element"
        )
    if _is(item, int, np.integer):
        return int(item)
    if _is(item, list) and has_tensors(item):
        item = Tensor(as_value(item))
    if _is(item, Operators):
        item = Tensor(as_value(item))
        if item.dtype is bool_:
            raise ShapeError(
                f"a bool tensor as an index of {value.type}\n"
                "  rule: shapes are static, and how many elements it selects is not known before it runs\n"
                "  remedy: keep the shape with ops.where(mask, x, 0), or index with a NumPy array of bools"
            )
        return item
    if not _is_array(item):
        raise ArgumentTypeError(
            f"an index is an integer, a slice, None, ... or an array of integers or bools, not {type(item).__name__}"
        )
    array = to_array(item)
    if array.dtype.kind != "b":
        return array
    if not array.ndim:
        raise ArgumentTypeError(
            "a bool is no index\n  remedy: an integer, or a bool array with one element per element"
        )
    return _Mask(array)


class _Mask:
    """A fixed array of bools, which indexes as many axes as it has."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def positions(self, shape: Shape) -> list[Array]:
        """Where it is true, for each of its axes."""
        if self.array.shape != shape:
            raise ShapeError(
                f"a mask of shape {list(self.array.shape)} on axes of size {list(shape)}\n"
                "  rule: one bool per element of the axes that it indexes"
            )
        return [np.asarray(a) for a in np.nonzero(self.array)]


def _taken(item: Any) -> int:
    """How many axes an item indexes."""
    return 0 if item is None else item.array.ndim if isinstance(item, _Mask) else 1


def _spread(items: Sequence[Any], rank: int, type_: TensorType) -> list[Any]:
    """The items with slices for the axes that ``...`` stands for, and ``...`` itself left of them."""
    used = builtins.sum(_taken(i) for i in items if i is not Ellipsis)
    dots = builtins.sum(1 for i in items if i is Ellipsis)
    if used > rank or dots > 1:
        raise ShapeError(f"{used} indices into {type_}\n  rule: at most one index per axis, and one ...")
    full: list[Any] = []
    for i in items if dots else (*items, Ellipsis):
        full.extend([Ellipsis, *[slice(None)] * (rank - used)] if i is Ellipsis else [i])
    return full


def _index(x: Any, item: Any) -> Tensor:
    value = as_value(x)
    items: tuple[Any, ...] = typed(tuple[Any, ...], item) if isinstance(item, tuple) else (item,)
    shape, rank = value.type.shape, value.type.rank
    basic = _Basic.all(shape)
    gathers: list[tuple[int, Any]] = []
    result: list[int] = []
    """Sizes of the result's axes that no array makes."""
    chosen: list[tuple[int, int, bool]] = []
    """Of each array and integer: its place among the items, among the result's axes, and whether it is an array."""
    axis = 0
    with located_errors("indexing", value):
        for place, i in enumerate(_spread([_prepared(value, i) for i in items], rank, value.type)):
            if i is None:
                result.append(1)
            elif _is(i, slice):
                basic.slice(axis, i)
                result.append(len(range(*i.indices(shape[axis]))))
            elif i is not Ellipsis:
                chosen.append((place, len(result), not isinstance(i, int)))
                if isinstance(i, int):
                    basic.integer(axis, i)
                elif isinstance(i, _Mask):
                    found = i.positions(shape[axis : axis + i.array.ndim])
                    gathers.extend((axis + n, at) for n, at in enumerate(found))
                else:
                    gathers.append((axis, i))
            axis += 0 if i is Ellipsis else _taken(i)
    value = basic.of(value)
    if gathers:
        places = [place for place, _, _ in chosen]
        first = places[-1] - places[0] >= len(places)
        before = 0 if first else chosen[0][1]
        value, made = _gathered(value, gathers, basic.dropped, first)
        result[before:before] = made
    shape = tuple(result)
    return Tensor(value if value.type.shape == shape else builder().reshape(value, shape=shape))


def _gathered(value: Value, gathers: Sequence[tuple[int, Any]], dropped: set[int], first: bool) -> tuple[Value, Shape]:
    """``value`` at arrays along axes, as one gather along these axes joined; and the shape of the arrays.

    The axes of the arrays come first, or stay where the first of the gathered axes is.
    """
    build, axes = builder(), [axis for axis, _ in gathers]
    sizes = [value.type.shape[a] for a in axes]
    at, shape = _joined(value, [i for _, i in gathers], axes)
    kept = [a for a in range(value.type.rank) if a not in axes and a not in dropped]
    lead = [a for a in kept if a < axes[0]]
    adjacent = not any(axes[0] < a < axes[-1] for a in kept)
    if not adjacent:
        lead = []
        rest = [a for a in range(value.type.rank) if a not in axes]
        value = build.permute_dims(value, axes=(*axes, *rest))
        inner = [n for a, n in zip(rest, value.type.shape[len(axes) :], strict=True) if a not in dropped]
    else:
        inner = [value.type.shape[a] for a in kept if a > axes[0]]
    outer = [value.type.shape[a] for a in lead]
    joined = (*outer, math.prod(sizes), *inner)
    if value.type.shape != joined:
        value = build.reshape(value, shape=joined)
    value = build.take(value, at, axis=len(lead))
    if first and lead:
        n, m = len(lead), len(shape)
        value = build.permute_dims(value, axes=(*range(n, n + m), *range(n), *range(n + m, value.type.rank)))
    return value, shape


def _joined(value: Value, arrays: Sequence[Any], axes: Sequence[int]) -> tuple[Value, Shape]:
    """Arrays of positions on several axes as one of positions on these axes joined, and its shape."""
    shapes = [tuple(a.shape) for a in arrays]
    with located_errors("indexing", value):
        try:
            shape = broadcast_shapes(*shapes)
        except ShapeError as error:
            raise ShapeError(f"index arrays: {error.message}") from None
        fixed = {
            n: np.broadcast_to(_positions(a, value.type.shape[axes[n]]), shape)
            for n, a in enumerate(arrays)
            if _is(a, np.ndarray)
        }
    if len(arrays) == 1 and not fixed:
        return _wrapped(value, arrays[0], axes[0]), shape
    build = builder()
    total: Value | None = None
    number = np.zeros(shape, np.int64)
    for n, (array, axis) in enumerate(zip(arrays, axes, strict=True)):
        step = math.prod(value.type.shape[a] for a in axes[n + 1 :])
        if n in fixed:
            number = number + fixed[n] * step
            continue
        part = _wrapped(value, array, axis)
        if part.type.dtype is not i64:  # unsigned: nothing is below 0, and this checks the rest
            part = build.wrap_index(part, size=value.type.shape[axis])
        part = broadcast(build.mul(part, step) if step != 1 else part, shape)
        total = part if total is None else build.add(total, part)
    if total is None:
        return build.literal(number), shape
    return (build.add(total, build.literal(number)) if fixed else total), shape
