"""Sliding windows over the last axes, their adjoint, and what is made of them: convolution and pooling.

``windows`` is a view, so a target copies windows only where a product needs them in rows.  Its adjoint ``overlap_add`` is a sum of
zero-padded windows of windows: a sum with one order, and no addition at computed places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np

from ..errors import DtypeError, ShapeError
from ..graph import Value
from ..op import Attr, Composite, Layout, Random, Sample, View, need_kind
from ..types import Array, Shape, TensorType, f32, f64, i32, i64
from .reduce import keep_axes

Rules = tuple[Callable[[], Value] | None, ...]
SLIDING = {"size": Attr("ints"), "stride": Attr("ints"), "dilation": Attr("ints")}


def extents(size: Shape, dilation: Shape) -> Shape:
    """How many elements of each axis a window reaches over."""
    return tuple((n - 1) * d + 1 for n, d in zip(size, dilation, strict=True))


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
    return tuple((n - r) // s + 1 for n, r, s in zip(shape, reach, stride, strict=True))


def _at(k: Shape, count: Shape, stride: Shape, dilation: Shape) -> tuple[Any, ...]:
    """The index of element ``k`` of every window."""
    spans = zip(k, count, stride, dilation, strict=True)
    return (..., *[slice(i * d, i * d + (n - 1) * s + 1, s) for i, n, s, d in spans])


def _before(rank: int, m: int) -> tuple[int, ...]:
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
        reach = extents(size, dilation)
        count = tuple((n - r) // s + 1 for n, r, s in zip(layout.shape[lead:], reach, stride, strict=True))
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
            result[_at(k, count, stride, dilation)] += x[(..., *k)]
        return result

    def decompose(self, build: Any, x: Value, *, shape: Shape, stride: Shape, dilation: Shape) -> Value:
        # Element k of a window is number k // stride in its phase k % stride.  Elements of one phase lie a whole number of strides apart,
        # so each phase is summed for itself: with zeros around all places, windows of the padded places are the terms of a sum.
        m, lead = len(shape), x.type.rank - 2 * len(shape)
        phases = stride if any(s > 1 for s in stride) else ()
        x = build.permute_dims(x, axes=_before(x.type.rank, m))
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
        x = build.permute_dims(x, axes=_before(x.type.rank, m))
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


TOGETHER = 1 << 18
"""About how many elements the windows of one product of a convolution have: so many stay in a processor's cache."""


class _Products:
    """The matrices of a convolution: ``parts`` of the images, one product each (and each group of channels)."""

    def __init__(self, build: Any, x: Shape, w: Shape, count: Shape, groups: int) -> None:
        self.build, self.count, self.size = build, count, w[2:]
        self.groups, self.terms, self.outputs = groups, math.prod(w[1:]), w[0]
        batch, each = x[0], max(groups * self.terms * math.prod(count), 1)
        together = [n for n in range(1, batch + 1) if batch % n == 0]
        self.images_each = min(together, key=lambda n: abs(math.log(n * each / TOGETHER)), default=0)
        self.parts = batch // self.images_each if batch else 1
        self.outer = (self.parts,) if self.parts > 1 else ()

    def kernels(self, w: Value) -> Value:
        """``w`` as matrices ``[O / groups, terms]``, for every part the same."""
        matrix = (*self._each_group(), self.outputs // self.groups, self.terms)
        w = self.build.reshape(w, shape=matrix)
        return self.build.broadcast_to(w, shape=(*self.outer, *matrix)) if self.outer else w

    def _each_group(self) -> Shape:
        return (self.groups,) if self.groups > 1 else ()

    def _by_part(self, x: Value, channels: tuple[int, ...], places: tuple[int, ...], rows: int) -> Value:
        """Matrices ``[rows, images * places]`` of each part; ``channels`` and ``places`` are axes of ``x``, whose first is of images."""
        n = len(self.outer)
        x = self.build.reshape(x, shape=(*self.outer, self.images_each, *x.type.shape[1:]))
        x = self.build.permute_dims(x, axes=(*range(n), *[a + n for a in channels], n, *[a + n for a in places]))
        columns = self.images_each * math.prod(self.count)
        return self.build.reshape(x, shape=(*self.outer, *self._each_group(), rows, columns))

    def columns(self, windows: Value) -> Value:
        """Windows ``[N, C, *places, *size]`` as columns."""
        m = len(self.size)
        return self._by_part(windows, (1, *range(2 + m, 2 + 2 * m)), tuple(range(2, 2 + m)), self.terms)

    def rows(self, y: Value) -> Value:
        """Images ``[N, O, *places]`` as a row for each output channel."""
        return self._by_part(y, (1,), tuple(range(2, 2 + len(self.size))), self.outputs // self.groups)

    def images(self, matrices: Value, channels: Shape) -> Value:
        """Matrices as ``[images, *channels, *places]``, of each part if there are several."""
        first, n = len(self.outer), len(channels)
        x = self.build.reshape(matrices, shape=(*self.outer, *channels, self.images_each, *self.count))
        order = (*range(first), first + n, *range(first, first + n), *range(first + n + 1, x.type.rank))
        return self.build.permute_dims(x, axes=order)


class Conv(Composite):
    """Cross-correlation of ``x [N, C, *axes]`` with ``w [O, C / groups, *size]``: ``[N, O, *places]``, in PyTorch's layouts.

    ``y[n, o, i] = sum over c, k of w[o, c, k] * x[n, g * C / groups + c, i * stride + k * dilation]``, ``g`` being the group of ``o``.
    It is a product of ``w`` and the windows as columns, ``[C * size, images * places]``, of some images at a time; so are its gradients.
    """

    name = "conv"
    arity = 2
    attrs = {"stride": Attr("ints"), "dilation": Attr("ints"), "groups": Attr("int", 1)}

    def infer(self, x: TensorType, w: TensorType, *, stride: Shape, dilation: Shape, groups: int) -> TensorType:
        need_kind(self.name, x, "f")
        if w.dtype is not x.dtype:
            raise DtypeError(f"conv of {x} and {w}\n  rule: operands have one dtype")
        if x.rank < 2 or w.rank != x.rank or len(stride) != x.rank - 2:
            raise ShapeError(
                f"conv of {x} and {w} with stride {list(stride)}\n"
                "  rule: x is [N, C, *axes], w is [O, C / groups, *size], and there is a stride for each of the axes"
            )
        channels, kernels = x.shape[1], w.shape[0]
        if groups < 1 or kernels % groups or channels != w.shape[1] * groups:
            raise ShapeError(
                f"conv of {x} and {w} in {groups} groups\n"
                "  rule: w is [O, C / groups, *size], and the groups divide O and C"
            )
        return x.with_shape((x.shape[0], kernels, *places(self.name, x, w.shape[2:], stride, dilation)))

    def eval(self, xp: Any, x: Array, w: Array, *, stride: Shape, dilation: Shape, groups: int) -> Array:
        size = w.shape[2:]
        reach = extents(size, dilation)
        count = tuple((n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, stride, strict=True))
        wide = x.astype(np.float64).reshape(
            (x.shape[0], groups, -1, *x.shape[2:])
            if x.size
            else (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
        )
        kernels = w.astype(np.float64).reshape((groups, w.shape[0] // groups, *w.shape[1:]))
        y = xp.zeros((x.shape[0], groups, w.shape[0] // groups, *count))
        for k in product(*map(range, size)):
            y += xp.einsum("goc,ngc...->ngo...", kernels[(..., *k)], wide[_at(k, count, stride, dilation)])
        return y.reshape((x.shape[0], w.shape[0], *count)).astype(x.dtype)

    def decompose(self, build: Any, x: Value, w: Value, *, stride: Shape, dilation: Shape, groups: int) -> Value:
        count = places(self.name, x.type, w.type.shape[2:], stride, dilation)
        form = _Products(build, x.type.shape, w.type.shape, count, groups)
        y = build.matmul(
            form.kernels(w), form.columns(build.windows(x, size=form.size, stride=stride, dilation=dilation))
        )
        return build.reshape(form.images(y, w.type.shape[:1]), shape=(x.type.shape[0], w.type.shape[0], *count))

    def vjp(
        self, build: Any, dy: Value, y: Value, x: Value, w: Value, *, stride: Shape, dilation: Shape, groups: int
    ) -> Rules:
        form = _Products(build, x.type.shape, w.type.shape, y.type.shape[2:], groups)

        def of_x() -> Value:
            columns = build.matmul(form.kernels(w), form.rows(dy), transpose_a=True)
            windows = form.images(columns, (x.type.shape[1], *form.size))
            windows = build.permute_dims(windows, axes=_before(windows.type.rank, len(form.size)))
            added = build.overlap_add(windows, shape=x.type.shape[2:], stride=stride, dilation=dilation)
            return build.reshape(added, shape=x.type.shape)

        def of_w() -> Value:
            windows = build.windows(x, size=form.size, stride=stride, dilation=dilation)
            parts = build.matmul(form.rows(dy), form.columns(windows), transpose_b=True)
            whole = build.sum(parts, axes=(0,)) if form.outer else parts
            return build.reshape(whole, shape=w.type.shape)

        return (of_x, of_w)

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, w: Value, **attrs: Any
    ) -> Value | None:
        """Bilinear, as a product is."""
        dx, dw = tangents
        terms = [build.conv(dx, w, **attrs)] if dx is not None else []
        if dw is not None:
            terms.append(build.conv(x, dw, **attrs))
        return build.add(*terms) if len(terms) == 2 else terms[0] if terms else None

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32):
            for shape, kernel, stride, dilation, groups in (
                ((2, 3, 5), (4, 3, 3), (1,), (1,), 1),
                ((1, 4, 7), (2, 2, 2), (2,), (2,), 2),
                ((2, 2, 5, 4), (3, 2, 2, 3), (1, 1), (1, 1), 1),
                ((2, 3, 6, 5), (3, 1, 3, 2), (2, 1), (1, 2), 3),
                ((0, 2, 3, 3), (2, 2, 1, 1), (1, 1), (1, 1), 1),
                ((1, 1, 3, 2, 3), (2, 1, 2, 1, 2), (1, 1, 1), (1, 1, 1), 1),
                ((3, 2), (4, 2), (), (), 1),
            ):
                x, w = (random.uniform(-1, 1, s).astype(d.numpy) for s in (shape, kernel))
                yield Sample((x, w), {"stride": stride, "dilation": dilation, "groups": groups}, d is f64)


class Pool(Composite):
    """Base of the pools: the windows of the last axes, each as one number."""

    arity = 1
    attrs = SLIDING

    def infer(self, x: TensorType, *, size: Shape, stride: Shape, dilation: Shape) -> TensorType:
        need_kind(self.name, x, "f")
        return x.with_shape((*x.shape[: x.rank - len(size)], *places(self.name, x, size, stride, dilation)))

    @staticmethod
    def _windows(build: Any, x: Value, attrs: Mapping[str, Any]) -> tuple[Value, Shape]:
        """The windows as ``[..., *size, *places]``, and the axes of ``size``."""
        m = len(attrs["size"])
        windows = build.windows(x, **attrs)
        rank = windows.type.rank
        return build.permute_dims(windows, axes=_before(rank, m)), tuple(range(rank - 2 * m, rank - m))

    @staticmethod
    def _of_windows(xp: Any, x: Array, attrs: Mapping[str, Any]) -> tuple[Array, Shape]:
        """The windows as ``[..., *places, *size]``, and the axes of ``size``."""
        m = len(attrs["size"])
        windows = Windows.eval(Windows(), xp, x, **attrs) if m else x
        return windows, tuple(range(windows.ndim - m, windows.ndim))

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32):
            for lead, shape, size, stride, dilation in CASES:
                x = random.uniform(-2, 2, (*lead, *shape)).astype(d.numpy)
                yield Sample((x,), {"size": size, "stride": stride, "dilation": dilation}, d is f64)


class MaxPool(Pool):
    """``y`` is the largest element of each window, NaN if there is one.  Backward: ``dy`` to the first such element in row-major order."""

    name = "max_pool"

    def eval(self, xp: Any, x: Array, **attrs: Any) -> Array:
        windows, axes = self._of_windows(xp, x, attrs)
        return xp.max(windows, axis=axes) if windows.size else xp.sum(windows, axis=axes)

    def decompose(self, build: Any, x: Value, **attrs: Any) -> Value:
        windows, axes = self._windows(build, x, attrs)
        return build.max(windows, axes=axes)

    def _chosen(self, build: Any, y: Value, x: Value, attrs: Mapping[str, Any]) -> tuple[Value, Shape]:
        """bool ``[..., *size, *places]``: where each window has its result, and the axes of ``size``."""
        windows, axes = self._windows(build, x, attrs)
        shape = windows.type.shape
        found = build.bit_or(build.eq(windows, keep_axes(build, y, windows, axes)), build.ne(windows, windows))
        count = math.prod(attrs["size"])
        numbers = build.iota(dtype=i32, shape=(count,), axis=0)
        column = tuple(n if a in axes else 1 for a, n in enumerate(shape))
        numbers = build.broadcast_to(build.reshape(numbers, shape=column), shape=shape)
        first = build.min(build.where(found, numbers, count), axes=axes)
        return build.eq(numbers, keep_axes(build, first, numbers, axes)), axes

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, **attrs: Any) -> Rules:
        def rule() -> Value:
            chosen, axes = self._chosen(build, y, x, attrs)
            rank = chosen.type.rank
            spread = keep_axes(build, dy, chosen, axes)
            given = build.where(chosen, spread, build.splat(0.0, spread.type))
            m = len(axes)
            given = build.permute_dims(given, axes=_before(rank, m))
            shape = x.type.shape[x.type.rank - m :]
            return build.overlap_add(given, shape=shape, stride=attrs["stride"], dilation=attrs["dilation"])

        return (rule,)

    def jvp(self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, **attrs: Any) -> Value | None:
        if tangents[0] is None:
            return None
        chosen, axes = self._chosen(build, y, x, attrs)
        tangent = self._windows(build, tangents[0], attrs)[0]
        return build.sum(build.where(chosen, tangent, build.splat(0.0, tangent.type)), axes=axes)


class AvgPool(Pool):
    """``y`` is the mean of each window.  Backward: ``dy`` in equal parts to the elements of its window."""

    name = "avg_pool"

    def eval(self, xp: Any, x: Array, **attrs: Any) -> Array:
        windows, axes = self._of_windows(xp, x.astype(np.float64), attrs)
        return (xp.sum(windows, axis=axes) / math.prod(attrs["size"])).astype(x.dtype)

    def decompose(self, build: Any, x: Value, **attrs: Any) -> Value:
        windows, axes = self._windows(build, x, attrs)
        return build.div(build.sum(windows, axes=axes), float(math.prod(attrs["size"])))

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, **attrs: Any) -> Rules:
        def rule() -> Value:
            size = attrs["size"]
            m, rank = len(size), y.type.rank
            part = build.div(dy, float(math.prod(size)))
            part = build.reshape(part, shape=(*part.type.shape, *(1,) * m))
            part = build.broadcast_to(part, shape=(*y.type.shape, *size))
            shape = x.type.shape[rank - m :]
            return build.overlap_add(part, shape=shape, stride=attrs["stride"], dilation=attrs["dilation"])

        return (rule,)

    def jvp(self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, **attrs: Any) -> Value | None:
        return None if tangents[0] is None else build.avg_pool(tangents[0], **attrs)
