"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..graph import Value
from ..op import Absent, Reduce
from ..types import Array, DType, Shape, i64

Rules = tuple[Callable[[], Value] | None, ...]


def keep_axes(build: Any, value: Value, of: Value, axes: Shape) -> Value:
    """``value`` (``of`` reduced over ``axes``) with those axes back as size 1, then broadcast to ``of``'s shape."""
    kept = tuple(1 if a in axes else n for a, n in enumerate(of.type.shape))
    if value.type.shape != kept:
        value = build.reshape(value, shape=kept)
    return value if kept == of.type.shape else build.broadcast_to(value, shape=of.type.shape)


class Sum(Reduce):
    """``y`` is the sum of ``x`` over ``axes``; an empty sum is 0.  Backward: ``dx = dy`` broadcast."""

    name = "sum"
    combine = "sum"

    def identity(self, dtype: DType) -> Any:
        return 0

    def eval(self, xp: Any, x: Array, *, axes: Shape, keepdims: bool) -> Array:
        return xp.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, axes: Shape, keepdims: bool) -> Rules:
        return (lambda: keep_axes(build, dy, x, axes),)

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, *, axes: Shape, keepdims: bool
    ) -> Value | None:
        return None if tangents[0] is None else build.sum(tangents[0], axes=axes, keepdims=keepdims)


class Max(Reduce):
    """``y`` is the largest ``x`` over ``axes``, NaN if there is one.  Backward: ``dy`` in equal parts to the elements equal to ``y``."""

    name = "max"
    combine = "max"
    needs_element = True

    def identity(self, dtype: DType) -> Any:
        return -np.inf if dtype.floating else np.iinfo(dtype.numpy).min

    def eval(self, xp: Any, x: Array, *, axes: Shape, keepdims: bool) -> Array:
        return (
            xp.max(x, axis=axes, keepdims=keepdims)
            if x.size
            else xp.zeros(self.empty(x.shape, axes, keepdims), x.dtype)
        )

    @staticmethod
    def empty(shape: Shape, axes: Shape, keepdims: bool) -> Shape:
        return tuple(1 if a in axes else n for a, n in enumerate(shape) if keepdims or a not in axes)

    def _chosen(self, build: Any, y: Value, x: Value, axes: Shape) -> Value:
        """1 where ``x`` is the result, divided by how many there are."""
        hits = build.cast(build.eq(x, keep_axes(build, y, x, axes)), dtype=x.type.dtype)
        return build.div(hits, keep_axes(build, build.sum(hits, axes=axes), x, axes))

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, axes: Shape, keepdims: bool) -> Rules:
        return (lambda: build.mul(keep_axes(build, dy, x, axes), self._chosen(build, y, x, axes)),)

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, *, axes: Shape, keepdims: bool
    ) -> Value | None:
        if tangents[0] is None:
            return None
        return build.sum(build.mul(tangents[0], self._chosen(build, y, x, axes)), axes=axes, keepdims=keepdims)


class Min(Max):
    """``y`` is the smallest ``x`` over ``axes``, NaN if there is one.  Backward: ``dy`` in equal parts to the elements equal to ``y``."""

    name = "min"
    combine = "min"

    def identity(self, dtype: DType) -> Any:
        return np.inf if dtype.floating else np.iinfo(dtype.numpy).max

    def eval(self, xp: Any, x: Array, *, axes: Shape, keepdims: bool) -> Array:
        return (
            xp.min(x, axis=axes, keepdims=keepdims)
            if x.size
            else xp.zeros(self.empty(x.shape, axes, keepdims), x.dtype)
        )


class Argmax(Reduce):
    """The i64 position of the first largest element (or first NaN) in the row-major order of ``axes``."""

    name = "argmax"
    combine = "argmax"
    accepts = "fiub"
    needs_element = True

    def identity(self, dtype: DType) -> Any:
        return 0

    def result_dtype(self, dtype: DType) -> DType:
        return i64

    def eval(self, xp: Any, x: Array, *, axes: Shape, keepdims: bool) -> Array:
        kept = [a for a in range(x.ndim) if a not in axes]
        rows = (
            xp.transpose(x, (*kept, *axes)).reshape((*[x.shape[a] for a in kept], -1))
            if x.size
            else xp.zeros((*[x.shape[a] for a in kept], 1))
        )
        result = xp.argmax(rows, axis=-1)
        return xp.expand_dims(result, axes) if keepdims else xp.asarray(result)

    vjp = Absent("the result is an index")
    jvp = Absent("the result is an index")
