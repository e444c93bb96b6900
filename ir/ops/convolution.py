"""Convolution and pooling over the last axes: products, sums and extrema of windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ..errors import DtypeError, ShapeError
from ..graph import Value
from ..op import OPS, Attr, Composite, Random, Sample, need_kind
from ..types import Array, Shape, TensorType, bool_, f32, f64, i32
from .contract import product_rule
from .reduce import keep_axes
from .windows import CASES, SLIDING, count_of, elements, places, size_first

Rules = tuple[Callable[[], Value] | None, ...]
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
        of = f" in {groups} groups" if groups != 1 else ""
        if groups < 1 or kernels % groups:
            raise ShapeError(f"conv of {x} and {w}{of}\n  rule: the groups divide the {kernels} output channels")
        if channels != w.shape[1] * groups:
            raise ShapeError(
                f"conv of {x} and {w}{of}: {channels} channels, and the weight takes {w.shape[1] * groups}\n"
                "  rule: x is [N, C, *axes] and w is [O, C / groups, *size]"
            )
        return x.with_shape((x.shape[0], kernels, *places(self.name, x, w.shape[2:], stride, dilation)))

    def eval(self, xp: Any, x: Array, w: Array, *, stride: Shape, dilation: Shape, groups: int) -> Array:
        size = w.shape[2:]
        count = count_of(x.shape[2:], size, stride, dilation)
        wide = x.astype(np.float64).reshape((x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
        kernels = w.astype(np.float64).reshape((groups, w.shape[0] // groups, *w.shape[1:]))
        y = xp.zeros((x.shape[0], groups, w.shape[0] // groups, *count))
        for k in product(*map(range, size)):
            y += xp.einsum("goc,ngc...->ngo...", kernels[(..., *k)], wide[elements(k, count, stride, dilation)])
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
            windows = build.permute_dims(windows, axes=size_first(windows.type.rank, len(form.size)))
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
        return product_rule(build, build.conv, tangents, (x, w), attrs)

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
        windows = build.windows(x, **{n: attrs[n] for n in SLIDING})
        rank = windows.type.rank
        return build.permute_dims(windows, axes=size_first(rank, m)), tuple(range(rank - 2 * m, rank - m))

    @staticmethod
    def _added(build: Any, windows: Value, shape: Sequence[int], attrs: Mapping[str, Any]) -> Value:
        """The cotangent of an array of some shape from that of its windows ``[..., *places, *size]``."""
        own = tuple(shape[len(shape) - len(attrs["size"]) :])
        return build.overlap_add(windows, shape=own, stride=attrs["stride"], dilation=attrs["dilation"])

    @staticmethod
    def _of_windows(xp: Any, x: Array, attrs: Mapping[str, Any]) -> tuple[Array, Shape]:
        """The windows as ``[..., *places, *size]``, and the axes of ``size``."""
        m = len(attrs["size"])
        windows = OPS["windows"].eval(xp, x, **{n: attrs[n] for n in SLIDING})
        return windows, tuple(range(windows.ndim - m, windows.ndim))

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32):
            for lead, shape, size, stride, dilation in CASES:
                x = random.uniform(-2, 2, (*lead, *shape)).astype(d.numpy)
                yield Sample((x,), {"size": size, "stride": stride, "dilation": dilation}, d is f64)


class MaxPool(Pool):
    """``y`` is the largest element of each window, NaN if there is one; ``-inf`` is in ``low`` elements before and ``high`` behind.

    Backward: ``dy`` to the first largest element of a window in row-major order, padding aside, or to its last NaN.
    """

    name = "max_pool"
    attrs = {**SLIDING, "low": Attr("ints", None), "high": Attr("ints", None)}

    def infer(self, x: TensorType, *, low: Shape = (), high: Shape = (), **sliding: Any) -> TensorType:
        m = len(sliding["size"])
        if any(len(w) not in (0, m) or min(w, default=0) < 0 for w in (low, high)) or m > x.rank:
            raise ShapeError(
                f"max_pool of {x} padded by {list(low)} and {list(high)}\n  rule: one number, not negative, for each windowed axis"
            )
        widths = self._widths(x.rank, {"low": low, "high": high})
        return super().infer(x.with_shape([n + a + b for n, a, b in zip(x.shape, *widths, strict=True)]), **sliding)

    @staticmethod
    def _widths(rank: int, attrs: Mapping[str, Any]) -> tuple[Shape, Shape]:
        """The padding before and behind each of ``rank`` axes."""
        low, high = ((0,) * (rank - len(w)) + tuple(w) for w in (attrs.get("low", ()), attrs.get("high", ())))
        return low, high

    def _padded(self, build: Any, x: Value, attrs: Mapping[str, Any]) -> Value:
        """``x`` with zeros, or False, around it."""
        low, high = self._widths(x.type.rank, attrs)
        return build.pad(x, low=low, high=high, interior=(0,) * x.type.rank) if any((*low, *high)) else x

    def _inside(self, build: Any, x: Value, attrs: Mapping[str, Any]) -> Value | None:
        """Which elements of the padded ``x`` are its own; None where all are."""
        own = build.splat(True, x.type.with_dtype(bool_))
        inside = self._padded(build, own, attrs)
        return None if inside is own else inside

    def _lowest(self, build: Any, x: Value, attrs: Mapping[str, Any]) -> Value:
        """``x`` with ``-inf`` around it."""
        inside, padded = self._inside(build, x, attrs), self._padded(build, x, attrs)
        return padded if inside is None else build.where(inside, padded, build.splat(-math.inf, padded.type))

    def eval(self, xp: Any, x: Array, **attrs: Any) -> Array:
        pairs = list(zip(*self._widths(x.ndim, attrs), strict=True))
        x = xp.pad(x, pairs, constant_values=-np.inf) if pairs else x
        windows, axes = self._of_windows(xp, x, attrs)
        return xp.max(windows, axis=axes) if windows.size else xp.sum(windows, axis=axes)

    def decompose(self, build: Any, x: Value, **attrs: Any) -> Value:
        windows, axes = self._windows(build, self._lowest(build, x, attrs), attrs)
        return build.max(windows, axes=axes)

    def _chosen(self, build: Any, y: Value, x: Value, attrs: Mapping[str, Any]) -> tuple[Value, Shape]:
        """bool ``[..., *size, *places]``: where each window has its result, and the axes of ``size``."""
        windows, axes = self._windows(build, self._lowest(build, x, attrs), attrs)
        shape = windows.type.shape
        found = build.eq(windows, keep_axes(build, y, windows, axes))
        inside = self._inside(build, x, attrs)
        if inside is not None:
            found = build.bit_and(found, self._windows(build, inside, attrs)[0])
        count = math.prod(attrs["size"])
        numbers = build.iota(dtype=i32, shape=(count,), axis=0)
        column = tuple(n if a in axes else 1 for a, n in enumerate(shape))
        numbers = build.broadcast_to(build.reshape(numbers, shape=column), shape=shape)
        # A NaN is ranked by minus its number, so that the least is the last one.
        ranks = build.where(build.ne(windows, windows), build.bit_not(numbers), build.where(found, numbers, count))
        least = build.min(ranks, axes=axes)
        number = build.where(build.lt(least, 0), build.bit_not(least), least)
        return build.eq(numbers, keep_axes(build, number, numbers, axes)), axes

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, **attrs: Any) -> Rules:
        def rule() -> Value:
            chosen, axes = self._chosen(build, y, x, attrs)
            spread = keep_axes(build, dy, chosen, axes)
            given = build.where(chosen, spread, build.splat(0.0, spread.type))
            given = build.permute_dims(given, axes=size_first(given.type.rank, len(axes)))
            low, high = self._widths(x.type.rank, attrs)
            padded = [n + a + b for n, a, b in zip(x.type.shape, low, high, strict=True)]
            dx = self._added(build, given, padded, attrs)
            if dx.type == x.type:
                return dx
            stop = tuple(n + a for n, a in zip(x.type.shape, low, strict=True))
            return build.slice(dx, start=low, stop=stop, step=(1,) * len(stop))

        return (rule,)

    def jvp(self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, **attrs: Any) -> Value | None:
        if tangents[0] is None:
            return None
        chosen, axes = self._chosen(build, y, x, attrs)
        tangent = self._windows(build, self._padded(build, tangents[0], attrs), attrs)[0]
        return build.sum(build.where(chosen, tangent, build.splat(0.0, tangent.type)), axes=axes)

    def samples(self, random: Random) -> Iterable[Sample]:
        yield from super().samples(random)
        for d in (f64, f32):
            for shape, size, low, high in (((5,), (3,), (1,), (1,)), ((2, 4, 3), (2, 3), (1, 0), (0, 2))):
                x = random.uniform(-2, 2, shape).astype(d.numpy)
                one, stride = (1,) * len(size), (2,) * len(size)
                yield Sample(
                    (x,), {"size": size, "stride": stride, "dilation": one, "low": low, "high": high}, d is f64
                )


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
            part = build.div(dy, float(math.prod(size)))
            part = build.reshape(part, shape=(*part.type.shape, *(1,) * len(size)))
            return self._added(build, build.broadcast_to(part, shape=(*y.type.shape, *size)), x.type.shape, attrs)

        return (rule,)

    def jvp(self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, **attrs: Any) -> Value | None:
        return None if tangents[0] is None else build.avg_pool(tangents[0], **attrs)
