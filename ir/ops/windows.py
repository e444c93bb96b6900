"""Sliding windows over the last axes, and their adjoint.

``windows`` is a view, so a target copies windows only where a product needs them in rows.  Its adjoint ``overlap_add`` is a sum of
zero-padded windows of windows: a sum with one order, and no addition at computed places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..graph import Value
from ..op import Attr, Composite, Layout, Random, Sample, View, need_kind
from ..types import Array, Shape, TensorType, f32, f64, i64

Rules = tuple[Callable[[], Value] | None, ...]
SLIDING = {"size": Attr("ints"), "stride": Attr("ints"), "dilation": Attr("ints")}


def extents(size: Shape, dilation: Shape) -> Shape:
    """How many elements of each axis a window reaches over."""
    return tuple((n - 1) * d + 1 for n, d in zip(size, dilation, strict=True))


def count_of(shape: Shape, size: Shape, stride: Shape, dilation: Shape) -> Shape:
    """How many places windows have along axes of a shape into which they fit."""
    return tuple((n - r) // s + 1 for n, r, s in zip(shape, extents(size, dilation), stride, strict=True))


def places(name: str, x: TensorType, size: Shape, stride: Shape, dilation: Shape) -> Shape:
    """How many places windows have along each of the last axes; raises ``ShapeError`` where there are none."""
    m = len(size)
    if not m == len(stride) == len(dilation) <= x.rank or any(n < 1 for n in (*size, *stride, *dilation)):
        raise ShapeError(
            f"{name} of {x} with size {list(size)}, stride {list(stride)} and dilation {list(dilation)}\n"
            "  rule: one number for each of the last axes, all at least 1"
        )
    reach = extents(size, dilation)
    shape = x.shape[x.rank - m :]
    if any(n < r for n, r in zip(shape, reach, strict=True)):
        raise ShapeError(
            f"{name} of {x}: windows reach over {list(reach)} elements of axes of {list(shape)}\n  rule: a window fits into its axis"
        )
    return count_of(shape, size, stride, dilation)


def elements(k: Shape, count: Shape, stride: Shape, dilation: Shape) -> tuple[Any, ...]:
    """The index of element ``k`` of every window."""
    spans = zip(k, count, stride, dilation, strict=True)
    return (..., *[slice(i * d, i * d + (n - 1) * s + 1, s) for i, n, s, d in spans])


def size_first(rank: int, m: int) -> tuple[int, ...]:
    """The permutation that puts the last ``m`` axes before the ``m`` in front of them."""
    lead = rank - 2 * m
    return (*range(lead), *range(lead + m, rank), *range(lead, lead + m))


CASES: tuple[tuple[Shape, Shape, Shape, Shape, Shape], ...] = (
    ((2,), (5,), (3,), (1,), (1,)),
    ((), (7,), (3,), (2,), (1,)),
    ((2,), (8,), (3,), (2,), (2,)),
    ((1,), (6,), (2,), (3,), (1,)),
    ((0,), (4,), (2,), (1,), (2,)),
    ((2, 2), (5, 4), (2, 3), (1, 1), (1, 1)),
    ((1, 2), (6, 5), (2, 2), (2, 2), (1, 1)),
    ((2,), (7, 7), (3, 2), (2, 1), (1, 3)),
    ((), (3, 2, 3), (2, 1, 2), (1, 1, 1), (1, 1, 1)),
)
"""Leading axes, windowed axes, size, stride, dilation."""


class Windows(View):
    """Windows over the last axes, as ``[..., *places, *size]``: ``y[..., i, k] = x[..., i * stride + k * dilation]`` along each of them.

    Backward: ``overlap_add`` of ``dy``.
    """

    name = "windows"
    attrs = SLIDING

    def infer(self, x: TensorType, *, size: Shape, stride: Shape, dilation: Shape) -> TensorType:
        count = places(self.name, x, size, stride, dilation)
        return x.with_shape((*x.shape[: x.rank - len(size)], *count, *size))

    def eval(self, xp: Any, x: Array, *, size: Shape, stride: Shape, dilation: Shape) -> Array:
        after = (slice(None),) * (len(size) - 1)
        for n, s, d in zip(size, stride, dilation, strict=True):
            ends = [(k * d, k * d - (n - 1) * d or None) for k in range(n)]
            x = xp.stack([x[(..., slice(first, last, s), *after)] for first, last in ends], axis=-1)
        return x

    def layout(self, layout: Layout, *, size: Shape, stride: Shape, dilation: Shape) -> Layout | None:
        lead = len(layout.shape) - len(size)
        count = count_of(layout.shape[lead:], size, stride, dilation)
        own = layout.strides[lead:]
        strides = (
            *layout.strides[:lead],
            *[t * s for t, s in zip(own, stride, strict=True)],
            *[t * d for t, d in zip(own, dilation, strict=True)],
        )
        return Layout((*layout.shape[:lead], *count, *size), strides, layout.offset)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, size: Shape, stride: Shape, dilation: Shape) -> Rules:
        shape = x.type.shape[x.type.rank - len(size) :]
        return (lambda: build.overlap_add(dy, shape=shape, stride=stride, dilation=dilation),)

    def samples(self, random: Random) -> Iterable[Sample]:
        for lead, shape, size, stride, dilation in CASES:
            x = random.uniform(-2, 2, (*lead, *shape))
            yield Sample((x,), {"size": size, "stride": stride, "dilation": dilation})


class OverlapAdd(Composite):
    """The adjoint of ``windows``: ``y[..., i * stride + k * dilation]`` is the sum of all ``x[..., i, k]``, and 0 where there are none.

    ``shape`` is that of the last axes of the result.  Backward: ``windows`` of ``dy``.
    """

    name = "overlap_add"
    arity = 1
    attrs = {"shape": Attr("ints"), "stride": Attr("ints"), "dilation": Attr("ints")}

    def infer(self, x: TensorType, *, shape: Shape, stride: Shape, dilation: Shape) -> TensorType:
        need_kind(self.name, x, "fiu")
        m = len(shape)
        if x.rank < 2 * m:
            raise ShapeError(
                f"overlap_add of {x} to {list(shape)}\n  rule: two axes for each of the result's last axes"
            )
        lead, size = x.shape[: x.rank - 2 * m], x.shape[x.rank - m :]
        result = x.with_shape((*lead, *shape))
        count = places(self.name, result, size, stride, dilation)
        if x.shape != (*lead, *count, *size):
            raise ShapeError(
                f"overlap_add of {x} to {list(shape)}\n  rule: the operand has the shape of the result's windows, {[*lead, *count, *size]}"
            )
        return result

    def eval(self, xp: Any, x: Array, *, shape: Shape, stride: Shape, dilation: Shape) -> Array:
        m = len(shape)
        lead, count, size = x.shape[: x.ndim - 2 * m], x.shape[x.ndim - 2 * m : x.ndim - m], x.shape[x.ndim - m :]
        result = xp.zeros((*lead, *shape), x.dtype)
        for k in product(*map(range, size)):
            result[elements(k, count, stride, dilation)] += x[(..., *k)]
        return result

    def decompose(self, build: Any, x: Value, *, shape: Shape, stride: Shape, dilation: Shape) -> Value:
        # Element k of a window is number k // stride in its phase k % stride.  Elements of one phase lie a whole number of strides apart,
        # so each phase is summed for itself: with zeros around all places, windows of the padded places are the terms of a sum.
        m, lead = len(shape), x.type.rank - 2 * len(shape)
        phases = stride if any(s > 1 for s in stride) else ()
        x = build.permute_dims(x, axes=size_first(x.type.rank, m))
        if phases:
            x = self._by_phase(build, x, stride, dilation)
            dilation = tuple(1 if s > 1 else d for s, d in zip(stride, dilation, strict=True))
        head = lead + len(phases)
        x = self._summed(build, x, head, m, dilation)
        if phases:
            order = (*range(lead), *[a for j in range(m) for a in (head + j, lead + j)])
            found = [n * s for n, s in zip(x.type.shape[head:], stride, strict=True)]
            x = build.reshape(build.permute_dims(x, axes=order), shape=(*x.type.shape[:lead], *found))
        stop = (*x.type.shape[:lead], *map(min, x.type.shape[lead:], shape))
        none = (0,) * x.type.rank
        if stop != x.type.shape:
            x = build.slice(x, start=none, stop=stop, step=(1,) * x.type.rank)
        high = (*none[:lead], *[w - n for w, n in zip(shape, stop[lead:], strict=True)])
        return build.pad(x, low=none, high=high, interior=none) if any(high) else x

    @staticmethod
    def _by_phase(build: Any, x: Value, stride: Shape, dilation: Shape) -> Value:
        """``[..., *size, *places]`` as ``[..., *phases, *terms, *places]``, with zeros for the elements that the last term lacks."""
        m, rank = len(stride), x.type.rank
        lead = rank - 2 * m
        spread = tuple(d if s > 1 else 1 for s, d in zip(stride, dilation, strict=True))
        reach = extents(x.type.shape[lead : lead + m], spread)
        high = tuple(-r % s for r, s in zip(reach, stride, strict=True))
        none, rest = (0,) * lead, (0,) * m
        if any(high) or any(d > 1 for d in spread):
            interior = (*none, *[d - 1 for d in spread], *rest)
            x = build.pad(x, low=(0,) * rank, high=(*none, *high, *rest), interior=interior)
        split = [n for r, h, s in zip(reach, high, stride, strict=True) for n in ((r + h) // s, s)]
        x = build.reshape(x, shape=(*x.type.shape[:lead], *split, *x.type.shape[lead + m :]))
        terms = range(lead, lead + 2 * m, 2)
        return build.permute_dims(
            x, axes=(*range(lead), *[a + 1 for a in terms], *terms, *range(lead + 2 * m, lead + 3 * m))
        )

    @staticmethod
    def _summed(build: Any, x: Value, head: int, m: int, step: Shape) -> Value:
        """``y[..., i + k * step]`` is the sum of all ``x[..., k, i]``.

        Of ``x`` with zeros around every row ``i``, that is the sum of windows whose element ``k`` lies ``step`` less than a row further.
        """
        outer, terms, count = x.type.shape[:head], x.type.shape[head : head + m], x.type.shape[head + m :]
        reach = tuple((n - 1) * d for n, d in zip(terms, step, strict=True))
        length = tuple(n + r for n, r in zip(count, reach, strict=True))
        if not any(n > 1 for n in terms):
            return build.reshape(x, shape=(*outer, *length))
        none = (0,) * head
        x = build.permute_dims(x, axes=(*range(head), *[a for j in range(m) for a in (head + j, head + m + j)]))
        if any(reach):
            around = (*none, *[a for r in reach for a in (0, r)])
            x = build.pad(x, low=around, high=around, interior=(0,) * x.type.rank)
        rows = tuple(n + r for n, r in zip(length, reach, strict=True))
        apart = tuple(max(n - d, 1) for n, d in zip(rows, step, strict=True))
        x = build.reshape(x, shape=(*outer, *[n * r for n, r in zip(terms, rows, strict=True)]))
        stop = [r + (n - 1) * d + w for r, n, d, w in zip(reach, terms, apart, length, strict=True)]
        x = build.slice(x, start=(*none, *reach), stop=(*outer, *stop), step=(1,) * x.type.rank)
        x = build.windows(x, size=terms, stride=(1,) * m, dilation=apart)
        x = build.permute_dims(x, axes=size_first(x.type.rank, m))
        return build.sum(x, axes=tuple(range(head, head + m)))

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, shape: Shape, stride: Shape, dilation: Shape) -> Rules:
        size = x.type.shape[x.type.rank - len(shape) :]
        return (lambda: build.windows(dy, size=size, stride=stride, dilation=dilation),)

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32, i64):
            for lead, shape, size, stride, dilation in CASES:
                count = places(self.name, TensorType(d, (*lead, *shape)), size, stride, dilation)
                x = np.asarray(random.uniform(-9, 9, (*lead, *count, *size))).astype(d.numpy)
                yield Sample((x,), {"shape": shape, "stride": stride, "dilation": dilation}, d is f64)
