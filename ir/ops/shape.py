"""Ops that move elements without computing: views, joins, and sources of constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..graph import Value
from ..literal import Literal
from ..op import Attr, Block, Join, Layout, Random, Sample, Source, View, need_kind
from ..scalar import Scalar, ScalarBuilder
from ..types import Array, DType, Shape, TensorType, broadcast_shapes, f32, f64, i64

Rules = tuple[Callable[[], Value] | None, ...]


class Constant(Source):
    """Elements fixed when the op is recorded; a splat where all are bitwise equal."""

    name = "constant"
    attrs = {"value": Attr("literal")}

    def infer(self, *, value: Literal) -> TensorType:
        return value.type

    def literal(self, *, value: Literal) -> Array:
        return value.array

    def samples(self, random: Random) -> Iterable[Sample]:
        for array in (
            np.float32(0.1),
            np.array([1.0, -0.0, np.inf, np.nan]),
            np.zeros((0, 3)),
            np.arange(40),
            np.array([True, False]),
        ):
            yield Sample((), {"value": Literal.of(np.asarray(array))}, False)


class Iota(Source):
    """``y[i] = i[axis]``: each element its position along ``axis``."""

    name = "iota"
    attrs = {"dtype": Attr("dtype"), "shape": Attr("ints"), "axis": Attr("int", 0)}

    def infer(self, *, dtype: DType, shape: Shape, axis: int) -> TensorType:
        need_kind("iota", TensorType(dtype, shape), "fiu")
        if not 0 <= axis < len(shape):
            raise ShapeError(f"iota along axis {axis} of shape {list(shape)}\n  rule: the axis is inside the rank")
        return TensorType(dtype, shape)

    def literal(self, *, dtype: DType, shape: Shape, axis: int) -> Array:
        column = np.arange(shape[axis]).astype(dtype.numpy).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return np.broadcast_to(column, shape)

    def element(
        self, s: ScalarBuilder, index: Callable[[int], Scalar], *, dtype: DType, shape: Shape, axis: int
    ) -> Scalar:
        return s.convert(index(axis), dtype)

    def samples(self, random: Random) -> Iterable[Sample]:
        for d, shape, axis in ((i64, (5,), 0), (f32, (2, 3), 1), (f64, (2, 3), 0), (i64, (0, 2), 0)):
            yield Sample((), {"dtype": d, "shape": shape, "axis": axis}, False)


class Reshape(View):
    """The elements of ``x`` in row-major order under another shape.  Backward: ``dx`` is ``dy`` reshaped."""

    name = "reshape"
    attrs = {"shape": Attr("ints")}

    def infer(self, x: TensorType, *, shape: Shape) -> TensorType:
        if math.prod(shape) != x.size or any(n < 0 for n in shape):
            raise ShapeError(
                f"reshape of {x} to {list(shape)}: {x.size} elements and {math.prod(shape)}\n  rule: the number of elements stays"
            )
        return x.with_shape(shape)

    def eval(self, xp: Any, x: Array, *, shape: Shape) -> Array:
        return xp.reshape(x, shape)

    def layout(self, layout: Layout, *, shape: Shape) -> Layout | None:
        if layout.is_contiguous or 0 in shape:
            return Layout(shape, Layout.contiguous(shape).strides, layout.offset)
        # Axes that follow each other evenly are one run; every new axis is a part of one run, from the last on.
        runs: list[tuple[int, int]] = []
        for n, stride in zip(layout.shape, layout.strides, strict=True):
            if runs and n != 1 and runs[-1][1] == n * stride:
                runs[-1] = runs[-1][0] * n, stride
            elif n != 1:
                runs.append((n, stride))
        left, step, strides = 1, 0, list[int]()
        for n in reversed(shape):
            if left == 1 and n != 1:
                left, step = runs.pop()
            if left % n:
                return None
            strides.append(step if n != 1 else 0)
            left, step = left // n, step * n
        return Layout(shape, tuple(reversed(strides)), layout.offset)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, shape: Shape) -> Rules:
        return (lambda: build.reshape(dy, shape=x.type.shape),)

    def samples(self, random: Random) -> Iterable[Sample]:
        for old, new in (((2, 3), (3, 2)), ((2, 3), (6,)), ((), (1, 1)), ((0, 3), (3, 0)), ((4,), (4,))):
            yield Sample((random.uniform(-2, 2, old),), {"shape": new})
            yield Sample((random.integers(-9, 9, old),), {"shape": new}, False)


class PermuteDims(View):
    """``y``'s axis ``i`` is ``x``'s axis ``axes[i]``.  Backward: the inverse permutation."""

    name = "permute_dims"
    attrs = {"axes": Attr("ints")}

    def infer(self, x: TensorType, *, axes: Shape) -> TensorType:
        if sorted(axes) != list(range(x.rank)):
            raise ShapeError(f"permute_dims of {x} by {list(axes)}\n  rule: axes are a permutation of 0..{x.rank - 1}")
        return x.with_shape([x.shape[a] for a in axes])

    def eval(self, xp: Any, x: Array, *, axes: Shape) -> Array:
        return xp.transpose(x, axes)

    def layout(self, layout: Layout, *, axes: Shape) -> Layout | None:
        return Layout(tuple(layout.shape[a] for a in axes), tuple(layout.strides[a] for a in axes), layout.offset)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, axes: Shape) -> Rules:
        return (lambda: build.permute_dims(dy, axes=tuple(axes.index(a) for a in range(len(axes)))),)

    def samples(self, random: Random) -> Iterable[Sample]:
        for shape, axes in (((2, 3), (1, 0)), ((2, 3, 4), (2, 0, 1)), ((), ()), ((0, 3), (1, 0)), ((1, 5), (1, 0))):
            yield Sample((random.uniform(-2, 2, shape),), {"axes": axes})


class BroadcastTo(View):
    """``x`` repeated to ``shape`` under NumPy's rule.  Backward: ``dy`` summed over the repeated axes."""

    name = "broadcast_to"
    attrs = {"shape": Attr("ints")}

    def infer(self, x: TensorType, *, shape: Shape) -> TensorType:
        if len(shape) < x.rank or broadcast_shapes(x.shape, shape) != shape:
            raise ShapeError(
                f"broadcast of {x} to {list(shape)}\n  rule: right-aligned axes are equal, or the operand's is 1"
            )
        return x.with_shape(shape)

    def eval(self, xp: Any, x: Array, *, shape: Shape) -> Array:
        return xp.broadcast_to(x, shape)

    def layout(self, layout: Layout, *, shape: Shape) -> Layout | None:
        added = len(shape) - len(layout.shape)
        strides = [0] * added + [
            0 if n != m else s for n, m, s in zip(layout.shape, shape[added:], layout.strides, strict=True)
        ]
        return Layout(shape, tuple(strides), layout.offset)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, shape: Shape) -> Rules:
        def rule() -> Value:
            added = len(shape) - x.type.rank
            repeated = tuple(a for a in range(len(shape)) if a < added or (x.type.shape[a - added] != shape[a]))
            total = build.sum(dy, axes=repeated) if repeated else dy
            return total if total.type.shape == x.type.shape else build.reshape(total, shape=x.type.shape)

        return (rule,)

    def samples(self, random: Random) -> Iterable[Sample]:
        for old, new in (
            ((3,), (2, 3)),
            ((2, 1), (2, 3)),
            ((), (2,)),
            ((1, 3), (0, 3)),
            ((1,), (4, 1)),
            ((2, 3), (2, 3)),
        ):
            yield Sample((random.uniform(-2, 2, old),), {"shape": new})


class Flip(View):
    """``x`` reversed along ``axes``.  Backward: reversed again."""

    name = "flip"
    attrs = {"axes": Attr("ints")}

    def infer(self, x: TensorType, *, axes: Shape) -> TensorType:
        if list(axes) != sorted(set(axes)) or any(not 0 <= a < x.rank for a in axes):
            raise ShapeError(f"flip of {x} over {list(axes)}\n  rule: axes are increasing and inside the rank {x.rank}")
        return x

    def eval(self, xp: Any, x: Array, *, axes: Shape) -> Array:
        return xp.flip(x, axes)

    def layout(self, layout: Layout, *, axes: Shape) -> Layout | None:
        offset = layout.offset + sum(max(layout.shape[a] - 1, 0) * layout.strides[a] for a in axes)
        strides = tuple(-s if a in axes else s for a, s in enumerate(layout.strides))
        return Layout(layout.shape, strides, offset)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, axes: Shape) -> Rules:
        return (lambda: build.flip(dy, axes=axes),)

    def samples(self, random: Random) -> Iterable[Sample]:
        for shape, axes in (((4,), (0,)), ((2, 3), (0, 1)), ((2, 3), ()), ((0, 2), (0,)), ((1, 3), (1,))):
            yield Sample((random.uniform(-2, 2, shape),), {"axes": axes})


class Slice(View):
    """``y = x[start:stop:step]`` along every axis, steps positive.  Backward: ``dy`` spread into zeros."""

    name = "slice"
    attrs = {"start": Attr("ints"), "stop": Attr("ints"), "step": Attr("ints")}

    def infer(self, x: TensorType, *, start: Shape, stop: Shape, step: Shape) -> TensorType:
        if not len(start) == len(stop) == len(step) == x.rank or any(
            not 0 <= a <= b <= n or s < 1 for a, b, s, n in zip(start, stop, step, x.shape, strict=True)
        ):
            raise ShapeError(
                f"slice of {x} from {list(start)} to {list(stop)} by {list(step)}\n"
                "  rule: 0 <= start <= stop <= size and step >= 1, one per axis"
            )
        return x.with_shape([-(-(b - a) // s) for a, b, s in zip(start, stop, step, strict=True)])

    def eval(self, xp: Any, x: Array, *, start: Shape, stop: Shape, step: Shape) -> Array:
        return x[tuple(slice(a, b, s) for a, b, s in zip(start, stop, step, strict=True))]

    def layout(self, layout: Layout, *, start: Shape, stop: Shape, step: Shape) -> Layout | None:
        shape = tuple(-(-(b - a) // s) for a, b, s in zip(start, stop, step, strict=True))
        offset = layout.offset + sum(a * s for a, s in zip(start, layout.strides, strict=True))
        strides = tuple(s * k if n > 1 else s for s, k, n in zip(layout.strides, step, shape, strict=True))
        return Layout(shape, strides, offset)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, start: Shape, stop: Shape, step: Shape) -> Rules:
        def rule() -> Value:
            if y.type.size == 0:
                return build.splat(0, x.type)
            used = [a + (n - 1) * s + 1 for a, n, s in zip(start, y.type.shape, step, strict=True)]
            high = tuple(n - u for n, u in zip(x.type.shape, used, strict=True))
            return build.pad(dy, low=start, high=high, interior=tuple(s - 1 for s in step))

        return (rule,)

    def samples(self, random: Random) -> Iterable[Sample]:
        for shape, start, stop, step in (
            ((5,), (1,), (5,), (2,)),
            ((4, 3), (0, 1), (4, 2), (3, 1)),
            ((), (), (), ()),
            ((3,), (2,), (2,), (1,)),
            ((0, 2), (0, 0), (0, 2), (1, 1)),
        ):
            yield Sample((random.uniform(-2, 2, shape),), {"start": start, "stop": stop, "step": step})


class Pad(Join):
    """``x`` with ``low`` zeros before, ``high`` after and ``interior`` between neighbours, per axis.  Backward: a slice."""

    name = "pad"
    arity = 1
    attrs = {"low": Attr("ints"), "high": Attr("ints"), "interior": Attr("ints")}

    def infer(self, x: TensorType, *, low: Shape, high: Shape, interior: Shape) -> TensorType:
        need_kind("pad", x, "fiub")
        if not len(low) == len(high) == len(interior) == x.rank or min((*low, *high, *interior), default=0) < 0:
            raise ShapeError(
                f"pad of {x} by {list(low)}, {list(high)}, {list(interior)}\n  rule: one width per axis, none negative"
            )
        return x.with_shape(
            [a + n + max(n - 1, 0) * i + b for a, n, b, i in zip(low, x.shape, high, interior, strict=True)]
        )

    def eval(self, xp: Any, x: Array, *, low: Shape, high: Shape, interior: Shape) -> Array:
        result = xp.zeros(
            [a + n + max(n - 1, 0) * i + b for a, n, b, i in zip(low, x.shape, high, interior, strict=True)], x.dtype
        )
        result[
            tuple(
                slice(a, a + max(n - 1, 0) * (i + 1) + min(n, 1), i + 1)
                for a, n, i in zip(low, x.shape, interior, strict=True)
            )
        ] = x
        return result

    def blocks(self, types: tuple[TensorType, ...], *, low: Shape, high: Shape, interior: Shape) -> tuple[Block, ...]:
        return (Block(low, tuple(i + 1 if n > 1 else 1 for i, n in zip(interior, types[0].shape, strict=True))),)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, low: Shape, high: Shape, interior: Shape) -> Rules:
        def rule() -> Value:
            stop = tuple(
                a + max(n - 1, 0) * (i + 1) + min(n, 1) for a, n, i in zip(low, x.type.shape, interior, strict=True)
            )
            return build.slice(dy, start=low, stop=stop, step=tuple(i + 1 for i in interior))

        return (rule,)

    def samples(self, random: Random) -> Iterable[Sample]:
        for shape, low, high, interior in (
            ((3,), (1,), (2,), (0,)),
            ((2, 3), (0, 1), (1, 0), (2, 1)),
            ((), (), (), ()),
            ((0,), (1,), (1,), (3,)),
        ):
            yield Sample((random.uniform(-2, 2, shape),), {"low": low, "high": high, "interior": interior})


class Concat(Join):
    """The operands one after the other along ``axis``.  Backward: each gets its slice of ``dy``."""

    name = "concat"
    attrs = {"axis": Attr("int")}

    def infer(self, *types: TensorType, axis: int) -> TensorType:
        if not types or not 0 <= axis < types[0].rank:
            raise ShapeError(
                f"concat of {len(types)} operands along axis {axis}\n  rule: at least one operand, and the axis is inside the rank"
            )
        first = types[0]
        need_kind("concat", first, "fiub")
        for t in types[1:]:
            if (
                t.dtype is not first.dtype
                or t.rank != first.rank
                or any(n != m for a, (n, m) in enumerate(zip(t.shape, first.shape, strict=True)) if a != axis)
            ):
                raise ShapeError(
                    f"concat of {first} and {t} along axis {axis}\n  rule: one dtype, and all other axes equal"
                )
        return first.with_shape([sum(t.shape[a] for t in types) if a == axis else n for a, n in enumerate(first.shape)])

    def eval(self, xp: Any, *operands: Array, axis: int) -> Array:
        return xp.concatenate(operands, axis=axis)

    def blocks(self, types: tuple[TensorType, ...], *, axis: int) -> tuple[Block, ...]:
        blocks: list[Block] = []
        position = 0
        for t in types:
            blocks.append(Block(tuple(position if a == axis else 0 for a in range(t.rank)), (1,) * t.rank))
            position += t.shape[axis]
        return tuple(blocks)

    def vjp(self, build: Any, dy: Value, y: Value, *operands: Value, axis: int) -> Rules:
        def rule(block: Block, t: TensorType) -> Callable[[], Value]:
            stop = tuple(a + n for a, n in zip(block.start, t.shape, strict=True))
            return lambda: build.slice(dy, start=block.start, stop=stop, step=block.step)

        blocks = self.blocks(tuple(o.type for o in operands), axis=axis)
        return tuple(rule(block, o.type) for block, o in zip(blocks, operands, strict=True))

    def samples(self, random: Random) -> Iterable[Sample]:
        for shapes, axis in ((((2,), (3,)), 0), (((2, 3), (2, 1), (2, 0)), 1), (((1, 2),), 0)):
            yield Sample(tuple(random.uniform(-2, 2, s) for s in shapes), {"axis": axis})
