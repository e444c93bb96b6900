"""Indexing by integers, slices and integer arrays."""

from __future__ import annotations

import builtins
from functools import partial
from typing import Any
from typing import cast as typed

import numpy as np

from ...ir.errors import ArgumentTypeError, OutOfRangeError, ShapeError
from ...ir.graph import Value
from ...ir.types import Array, bool_, broadcast_shapes, normalize_axis
from ..convert import as_value, broadcast, builder, on_tape, to_array
from ..tensor import Tensor
from .apply import located_errors


@on_tape
def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """``x`` at integer indices along an axis; an index out of range raises IndexError."""
    value, at = as_value(x), as_value(indices)
    with located_errors("take", value, at):
        if axis is None:
            if value.type.rank != 1:
                raise ShapeError(
                    f"take without an axis of {value.type}\n  rule: the axis may be left out only for rank 1"
                )
            axis = 0
        axis = normalize_axis(axis, value.type.rank)
    return Tensor(builder().take(value, at, axis=axis))


@on_tape
def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Tensor:
    """``x`` at one index per element along an axis, the other axes broadcast."""
    value, at = as_value(x), as_value(indices)
    with located_errors("take_along_axis", value, at):
        axis = normalize_axis(axis, value.type.rank)
        if at.type.rank != value.type.rank:
            raise ShapeError("take_along_axis\n  rule: both operands have one rank")
        shapes = [tuple(1 if a == axis else n for a, n in enumerate(v.type.shape)) for v in (value, at)]
        shape = broadcast_shapes(*shapes)
    value, at = (broadcast(v, (*shape[:axis], v.type.shape[axis], *shape[axis + 1 :])) for v in (value, at))
    return Tensor(builder().take_along_axis(value, at, axis=axis))


def _is_indices(item: Any) -> bool:
    return isinstance(item, (Tensor, np.ndarray, list)) and not (isinstance(item, Tensor) and item.dtype is bool_)


def _positions(array: Array, size: int) -> Array:
    """A fixed index array counted from 0: bools select, negative positions count from the end."""
    if array.dtype.kind == "b":
        if array.shape != (size,):
            raise ShapeError(
                f"a mask of shape {list(array.shape)} on an axis of size {size}\n  rule: one bool per element of one axis"
            )
        return np.flatnonzero(array)
    if not array.size:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ArgumentTypeError(f"an index array holds integers or bools, not {array.dtype}")
    outside = array[(array < -size) | (array >= size)]
    if outside.size:
        raise OutOfRangeError(
            f"index {outside[0]} is out of range for an axis of size {size}\n  rule: {-size} <= index < {size}"
        )
    return np.where(array < 0, array + size, array)


def index(x: Any, item: Any) -> Tensor:
    """NumPy-style indexing with integers, slices, ``None``, ``...`` and at most one integer or bool array.

    An index array of Python or NumPy is fixed: negative positions count from the end.  In a tensor they are out of range.
    """
    return on_tape(partial(_index, item=item))(x)


def _index(x: Any, item: Any) -> Tensor:
    value = as_value(x)
    items: tuple[Any, ...] = typed(tuple[Any, ...], item) if isinstance(item, tuple) else (item,)
    rank = value.type.rank
    used = builtins.sum(1 for i in items if i is not None and i is not Ellipsis)
    with located_errors("indexing", value):
        if used > rank or builtins.sum(1 for i in items if i is Ellipsis) > 1:
            raise ShapeError(f"{used} indices into {value.type}\n  rule: at most one index per axis, and one ...")
    if Ellipsis not in [i for i in items if i is None or i is Ellipsis]:
        items = (*items, Ellipsis)
    full: list[Any] = []
    for i in items:
        full.extend([slice(None)] * (rank - used) if i is Ellipsis else [i])
    chosen = [n for n, i in enumerate(full) if i is not None and not isinstance(i, slice)]
    if any(_is_indices(full[n]) for n in chosen) and chosen and chosen[-1] - chosen[0] >= len(chosen):
        with located_errors("indexing", value):
            raise ShapeError(
                "a slice stands between an integer and an index array\n"
                "  rule: they are neighbours (NumPy would move their axis first)\n  remedy: index in two steps"
            )
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
                with located_errors("indexing", value):
                    raise ShapeError(
                        "two index arrays\n  rule: at most one; combine them with ops.take after a reshape"
                    )
            with located_errors("indexing", value):
                gathered = (axis, as_value(i if isinstance(i, Tensor) else _positions(to_array(i), size)))
            shape.extend(gathered[1].type.shape)
        elif isinstance(i, (int, np.integer)) and not isinstance(i, bool):
            position = i.__index__()
            position += size if position < 0 else 0
            if not 0 <= position < size:
                with located_errors("indexing", value):
                    raise ShapeError(f"index {i} into axis {axis} of size {size}\n  rule: {-size} <= index < {size}")
            start[axis], stop[axis] = position, position + 1
        else:
            raise ArgumentTypeError(
                f"an index is an integer, a slice, None, ... or one integer array, not {type(i).__name__}"
            )
        axis += 1
    build = builder()
    if (tuple(start), tuple(stop), tuple(step)) != ((0,) * rank, value.type.shape, (1,) * rank):
        value = build.slice(value, start=tuple(start), stop=tuple(stop), step=tuple(step))
    if flipped:
        value = build.flip(value, axes=tuple(flipped))
    if gathered is not None:
        value = build.take(value, gathered[1], axis=gathered[0])
    return Tensor(value if value.type.shape == tuple(shape) else build.reshape(value, shape=tuple(shape)))
