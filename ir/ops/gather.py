"""Indexing by data: gathers and the scatter-adds that are their transposes.

Indices count from 0 and are never negative; one outside its axis raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import OutOfRangeError, ShapeError
from ..graph import Value
from ..op import Attr, Check, Elementwise, Gather, IndexWalk, Random, Sample, Scatter, need_kind
from ..scalar import Scalar, ScalarBuilder
from ..types import Array, TensorType, i64, u64

Rules = tuple[Callable[[], Value] | None, ...]


def _size(types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> int:
    return int(attrs["size"]) if "size" in attrs else types[0].shape[int(attrs["axis"])]


def _inside(s: ScalarBuilder, index: Scalar, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> Scalar:
    return s.compare("lt", s.convert(index, u64), s.constant(_size(types, attrs), u64))


def _message(bad: Any, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> str:
    size = _size(types, attrs)
    return f"index {bad} is out of range for an axis of size {size}\n  rule: 0 <= index < {size}"


IN_RANGE = Check(1, _inside, OutOfRangeError, _message)


def _need_axis(name: str, axis: int, rank: int) -> None:
    if not 0 <= axis < rank:
        raise ShapeError(f"{name} along axis {axis} of an array of rank {rank}\n  rule: the axis is inside the rank")


def _span(shape: tuple[int, ...], start: int, stop: int | None = None) -> int:
    return int(np.prod(shape[start:stop], dtype=np.int64))


def _shared(types: tuple[TensorType, ...], axis: int, size: int) -> IndexWalk:
    part, index = types
    return IndexWalk(_span(part.shape, 0, axis), size, _span(part.shape, axis + index.rank), index.size, True)


def _along(types: tuple[TensorType, ...], axis: int, size: int) -> IndexWalk:
    shape = types[1].shape
    return IndexWalk(_span(shape, 0, axis), size, _span(shape, axis + 1), shape[axis], False)


class Take(Gather):
    """``y = x`` with axis ``axis`` replaced by the axes of ``indices``: ``y[a, j, b] = x[a, indices[j], b]``.

    Backward: ``dx`` is ``dy`` added at the indices.
    """

    name = "take"
    attrs = {"axis": Attr("int")}
    check = IN_RANGE

    def infer(self, x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
        need_kind("the indices of take", indices, "iu")
        _need_axis("take", axis, x.rank)
        return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))

    def eval(self, xp: Any, x: Array, indices: Array, *, axis: int) -> Array:
        return xp.take(x, indices.astype(np.int64), axis=axis)

    def walk(self, types: tuple[TensorType, ...], *, axis: int) -> IndexWalk:
        x, indices = types
        return IndexWalk(_span(x.shape, 0, axis), x.shape[axis], _span(x.shape, axis + 1), indices.size, True)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, indices: Value, *, axis: int) -> Rules:
        return (lambda: build.scatter_add(dy, indices, axis=axis, size=x.type.shape[axis]), None)

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, indices: Value, *, axis: int
    ) -> Value | None:
        return None if tangents[0] is None else build.take(tangents[0], indices, axis=axis)

    def samples(self, random: Random) -> Iterable[Sample]:
        for shape, index, axis in (
            ((5,), (3,), 0),
            ((4, 3), (2, 2), 1),
            ((4, 3), (), 0),
            ((2, 3, 2), (4,), 1),
            ((3,), (0,), 0),
        ):
            for d in (np.int64, np.uint8):
                yield Sample(
                    (random.uniform(-2, 2, shape), np.asarray(random.integers(0, shape[axis], index)).astype(d)),
                    {"axis": axis},
                )


def _wrapped_inside(s: ScalarBuilder, index: Scalar, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> Scalar:
    """Whether ``-size <= index < size``, of an unsigned index ``index < size``."""
    size = int(attrs["size"])
    if types[0].dtype.kind == "u":
        return s.compare("lt", s.convert(index, u64), s.constant(size, u64))
    wide = s.convert(index, i64)
    return s.bit_and(s.compare("ge", wide, s.constant(-size, i64)), s.compare("lt", wide, s.constant(size, i64)))


def _wrapped_message(bad: Any, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> str:
    size = int(attrs["size"])
    return f"index {bad} is out of range for an axis of size {size}\n  rule: {-size} <= index < {size}"


class WrapIndex(Elementwise):
    """``y`` is ``x`` where it is not negative, else ``x + size``: positions on an axis of ``size``, i64.  Backward: zero.

    One outside ``-size..size-1`` raises.
    """

    name = "wrap_index"
    arity = 1
    accepts = "iu"
    rounding = "correct"
    attrs = {"size": Attr("int")}
    check = Check(0, _wrapped_inside, OutOfRangeError, _wrapped_message)

    def infer(self, *types: TensorType, **attrs: Any) -> TensorType:
        need_kind("wrap_index", types[0], self.accepts)
        if attrs["size"] < 0:
            raise ShapeError(f"wrap_index on an axis of size {attrs['size']}\n  rule: a size is not negative")
        return types[0].with_dtype(i64)

    def eval(self, xp: Any, x: Array, *, size: int) -> Array:
        at = x.astype(np.int64)
        return xp.where(at < 0, at + size, at)

    def scalar(self, s: ScalarBuilder, x: Scalar, *, size: int) -> Scalar:
        at = s.convert(x, i64)
        return s.select(s.compare("lt", at, s.constant(0, i64)), s.add(at, s.constant(size, i64)), at)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, size: int) -> Rules:
        return (None,)

    def examples(self) -> Iterable[Mapping[str, Any]]:
        return ({"size": 100},)

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (np.int64, np.int8, np.int32, np.uint8, np.uint64):
            low = 0 if np.dtype(d).kind == "u" else -100
            for shape in ((5,), (2, 3), (), (0,)):
                yield Sample((np.asarray(random.integers(low, 100, shape)).astype(d),), {"size": 100}, False)
        yield Sample((np.array([-128, 127], np.int8),), {"size": 300}, False)


class ScatterAdd(Scatter):
    """Zeros with ``size`` elements along ``axis``, and ``x`` added at ``indices``, in their order: the transpose of ``take``."""

    name = "scatter_add"
    attrs = {"axis": Attr("int"), "size": Attr("int")}
    check = IN_RANGE

    def infer(self, x: TensorType, indices: TensorType, *, axis: int, size: int) -> TensorType:
        need_kind("the indices of scatter_add", indices, "iu")
        need_kind("scatter_add", x, "fiu")
        if size < 0 or not 0 <= axis <= x.rank - indices.rank or x.shape[axis : axis + indices.rank] != indices.shape:
            raise ShapeError(
                f"scatter_add of {x} at {indices} along axis {axis}\n  rule: the axes from {axis} on are those of the indices"
            )
        return x.with_shape((*x.shape[:axis], size, *x.shape[axis + indices.rank :]))

    def eval(self, xp: Any, x: Array, indices: Array, *, axis: int, size: int) -> Array:
        result = xp.zeros((*x.shape[:axis], size, *x.shape[axis + indices.ndim :]), x.dtype)
        xp.add.at(result, (*[slice(None)] * axis, indices.astype(np.int64)), x)
        return result

    def walk(self, types: tuple[TensorType, ...], *, axis: int, size: int) -> IndexWalk:
        return _shared(types, axis, size)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, indices: Value, *, axis: int, size: int) -> Rules:
        return (lambda: build.take(dy, indices, axis=axis), None)

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, indices: Value, **attrs: Any
    ) -> Value | None:
        return None if tangents[0] is None else build.scatter_add(tangents[0], indices, **attrs)

    def samples(self, random: Random) -> Iterable[Sample]:
        for shape, index, axis, size in (
            ((3,), (3,), 0, 5),
            ((2, 3, 2), (3,), 1, 2),
            ((4,), (), 0, 3),
            ((0, 2), (0,), 0, 4),
            ((6, 2), (6,), 0, 2),
        ):
            yield Sample(
                (random.uniform(-2, 2, shape), np.asarray(random.integers(0, size, index))),
                {"axis": axis, "size": size},
            )


class TakeAlongAxis(Gather):
    """``y[a, j, b] = x[a, indices[a, j, b], b]``, the other axes equal.  Backward: ``dy`` added at the indices."""

    name = "take_along_axis"
    attrs = {"axis": Attr("int")}
    check = IN_RANGE

    def infer(self, x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
        need_kind("the indices of take_along_axis", indices, "iu")
        _need_axis("take_along_axis", axis, x.rank)
        if indices.rank != x.rank or any(
            n != m for a, (n, m) in enumerate(zip(x.shape, indices.shape, strict=True)) if a != axis
        ):
            raise ShapeError(f"take_along_axis of {x} at {indices} along axis {axis}\n  rule: all other axes are equal")
        return x.with_shape(indices.shape)

    def eval(self, xp: Any, x: Array, indices: Array, *, axis: int) -> Array:
        return xp.take_along_axis(x, indices.astype(np.int64), axis)

    def walk(self, types: tuple[TensorType, ...], *, axis: int) -> IndexWalk:
        return _along(types, axis, types[0].shape[axis])

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, indices: Value, *, axis: int) -> Rules:
        return (lambda: build.scatter_add_along_axis(dy, indices, axis=axis, size=x.type.shape[axis]), None)

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, indices: Value, *, axis: int
    ) -> Value | None:
        return None if tangents[0] is None else build.take_along_axis(tangents[0], indices, axis=axis)

    def samples(self, random: Random) -> Iterable[Sample]:
        for shape, index, axis in (
            ((5,), (3,), 0),
            ((4, 3), (4, 1), 1),
            ((4, 3), (2, 3), 0),
            ((2, 3, 2), (2, 5, 2), 1),
        ):
            yield Sample((random.uniform(-2, 2, shape), random.integers(0, shape[axis], index)), {"axis": axis})


class ScatterAddAlongAxis(Scatter):
    """Zeros with ``size`` elements along ``axis``, and ``x`` added at ``indices``: the transpose of ``take_along_axis``."""

    name = "scatter_add_along_axis"
    attrs = {"axis": Attr("int"), "size": Attr("int")}
    check = IN_RANGE

    def infer(self, x: TensorType, indices: TensorType, *, axis: int, size: int) -> TensorType:
        need_kind("the indices of scatter_add_along_axis", indices, "iu")
        need_kind("scatter_add_along_axis", x, "fiu")
        _need_axis("scatter_add_along_axis", axis, x.rank)
        if size < 0 or indices.shape != x.shape:
            raise ShapeError(f"scatter_add_along_axis of {x} at {indices}\n  rule: both have one shape")
        return x.with_shape([size if a == axis else n for a, n in enumerate(x.shape)])

    def eval(self, xp: Any, x: Array, indices: Array, *, axis: int, size: int) -> Array:
        result = xp.zeros([size if a == axis else n for a, n in enumerate(x.shape)], x.dtype)
        grid = list(xp.indices(x.shape, sparse=True))
        grid[axis] = indices.astype(np.int64)
        xp.add.at(result, tuple(grid), x)
        return result

    def walk(self, types: tuple[TensorType, ...], *, axis: int, size: int) -> IndexWalk:
        return _along(types, axis, size)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, indices: Value, *, axis: int, size: int) -> Rules:
        return (lambda: build.take_along_axis(dy, indices, axis=axis), None)

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, indices: Value, **attrs: Any
    ) -> Value | None:
        return None if tangents[0] is None else build.scatter_add_along_axis(tangents[0], indices, **attrs)

    def samples(self, random: Random) -> Iterable[Sample]:
        for shape, axis, size in (((3,), 0, 5), ((4, 1), 1, 3), ((2, 3, 2), 1, 2)):
            yield Sample((random.uniform(-2, 2, shape), random.integers(0, size, shape)), {"axis": axis, "size": size})
