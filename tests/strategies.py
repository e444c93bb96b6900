"""All Hypothesis strategies: shapes, arrays with special values, samples per op family, and random programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tapeir.ir import (
    OPS,
    Builder,
    Function,
    GraphBuilder,
    Mark,
    Module,
    Op,
    Sample,
    TensorType,
    TraceError,
    Value,
    reverse,
)
from tapeir.ir.op import Elementwise, Random32, Reduce
from tapeir.ir.op import Key as KeyOp
from tapeir.ir.types import DTYPES, Array, DType, Shape, bool_, f32, f64, i32, i64, key, type_of, u8, u32

Draw = Callable[..., Any]
SPECIAL = (
    math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 5e-324, -5e-324, 1e-310, 1e-45, -1e-40, 2.2250738585072014e-308,
    1.1754944e-38, 1e30, -1e30, 3.4e38, 1.7976931348623157e308, -1.7976931348623157e308, 1e300, 0.1, 88.8, -104.0, 709.9, -745.2,
    2.0**31, 2.0**53, 2.0**63, -(2.0**63), 1e5, 3.0, 1 / 3,
)  # fmt: skip
SPECIAL_INTEGERS = (0, 1, -1, 2, 3, 7, 63, 64, -9, 1 << 31, (1 << 63) - 1, -(1 << 63), 255, -128)


def special_floats(dtype: DType) -> Array:
    """The special values in a floating dtype; what does not fit becomes infinite or zero."""
    with np.errstate(all="ignore"):
        return np.array(SPECIAL).astype(dtype.numpy)


def fill(random: np.random.Generator, type: TensorType, wild: bool) -> Array:
    """Random elements of a type; with ``wild`` about a third are special values."""
    d, shape = type.dtype, type.array_shape
    if d is key:
        return random.integers(0, 1 << 32, shape, np.uint64).astype(np.uint32)
    if d is bool_:
        return random.integers(0, 2, shape).astype(np.bool_)
    with np.errstate(all="ignore"):
        if d.floating:
            tame = random.uniform(-3, 3, shape).astype(d.numpy)
            special = random.choice(special_floats(d), shape)
        else:
            tame = random.integers(0 if d.kind == "u" else -9, 10, shape).astype(d.numpy)
            special = random.choice(np.array(SPECIAL_INTEGERS, np.int64), shape).astype(d.numpy)
    return np.asarray(np.where(random.random(shape) < 1 / 3, special, tame) if wild else tame).astype(d.numpy)


def inputs_of(function: Function, seed: int, wild: bool) -> tuple[Array, ...]:
    """One array per argument of a function, from a seed."""
    random = np.random.default_rng(seed)
    return tuple(fill(random, a.type, wild) for a in function.arguments)


def operand_types(op: Op, operands: Sequence[Array]) -> tuple[TensorType, ...]:
    """The tensor types of a sample's operands: the first one of a random op is a key."""
    keyed = isinstance(op, (Random32, KeyOp))
    return tuple(key[()] if keyed and n == 0 else type_of(a) for n, a in enumerate(operands))


def generators() -> st.SearchStrategy[np.random.Generator]:
    """NumPy generators, one per seed."""
    return st.integers(0, (1 << 32) - 1).map(np.random.default_rng)


def shapes(min_rank: int = 0, max_rank: int = 4, max_size: int = 5, empty: bool = True) -> st.SearchStrategy[Shape]:
    """Shapes with size-1 and (unless ``empty`` is False) size-0 axes."""
    side = st.sampled_from([1, 2, 3]) | st.integers(0 if empty else 1, max_size)
    return st.lists(side, min_size=min_rank, max_size=max_rank).map(tuple)


@st.composite
def arrays(draw: Draw, dtype: DType, shape: Shape | None = None) -> Array:
    """Arrays of a dtype, special values among them or not."""
    found: Shape = draw(shapes()) if shape is None else shape
    return fill(draw(generators()), TensorType(dtype, found), draw(st.booleans()))


def _subset(draw: Draw, rank: int) -> Shape:
    return tuple(a for a in range(rank) if draw(st.booleans()))


NUMBERS = [d for d in DTYPES.values() if d.kind in "fiub" and d.name not in ("f16", "bf16")]


@st.composite
def elementwise_samples(draw: Draw, op: Elementwise) -> Sample:
    """Operands inside an elementwise op's domain, on any shape."""
    dtypes = [d for d in NUMBERS if d.kind in op.accepts]
    d: DType = f64 if f64 in dtypes and draw(st.booleans()) else draw(st.sampled_from(dtypes))
    shape: Shape = draw(shapes())
    random = draw(generators())
    operands = tuple(np.asarray(op.example(random, d, shape, n)) for n in range(op.arity or 0))
    if op.name == "cast":
        return Sample(operands, {"dtype": draw(st.sampled_from(NUMBERS))}, False)
    if op.name == "bitcast":
        return Sample(
            operands,
            {"dtype": draw(st.sampled_from([t for t in NUMBERS if t.bits == d.bits and t.kind in "fiu"]))},
            False,
        )
    return Sample(operands, draw(st.sampled_from(list(op.examples()))), d is f64 and op.name != "stop_gradient")


@st.composite
def reduce_samples(draw: Draw, op: Reduce) -> Sample:
    """Operands of a reduction on any shape over any axes that it takes."""
    d: DType = draw(st.sampled_from([f64, f64, f32, i64, i32, u8]))
    shape: Shape = draw(shapes(max_size=20, max_rank=3) | shapes())
    axes = _subset(draw, len(shape))
    if op.needs_element and math.prod(shape) == 0:
        axes = tuple(a for a in axes if shape[a])
    x = fill(draw(generators()), TensorType(d, shape), False)
    return Sample((x,), {"axes": axes, "keepdims": draw(st.booleans())}, d is f64)


def _factors(draw: Draw, size: int) -> Shape:
    """A shape of ``size`` elements."""
    if size == 0:
        found = draw(shapes(1, 3))
        return found if 0 in found else (*found, 0)
    result: list[int] = []
    while size > 1:
        n = draw(st.sampled_from([n for n in range(2, size + 1) if size % n == 0]))
        result.append(n)
        size //= n
    while len(result) < 4 and draw(st.booleans()):
        result.insert(draw(st.integers(0, len(result))), 1)
    return tuple(result)


def _wider(draw: Draw, shape: Shape) -> Shape:
    own = tuple(draw(st.integers(0, 4)) if n == 1 and draw(st.booleans()) else n for n in shape)
    return (*draw(shapes(max_rank=2, max_size=3)), *own)


def _slice(draw: Draw, shape: Shape) -> dict[str, Shape]:
    low = 0 if draw(st.integers(0, 4)) == 0 else 1  # how many elements of each axis stay at least
    rows = draw(st.booleans())  # whole rows: contiguous, away from the start
    start: list[int] = []
    stop: list[int] = []
    for axis, n in enumerate(shape):
        whole = rows and axis > 0
        start.append(0 if whole else draw(st.integers(0, max(n - low, 0))))
        stop.append(n if whole else draw(st.integers(min(start[-1] + low, n), n)))
    step = tuple(1 if rows else draw(st.integers(1, 3)) for _ in shape)
    return {"start": tuple(start), "stop": tuple(stop), "step": step}


def _windows(draw: Draw, shape: Shape, axes: int | None = None) -> dict[str, Shape]:
    """Windows over some last axes, or just over ``axes`` of them."""
    m: int = draw(st.integers(0, len(shape))) if axes is None else axes
    while any(n == 0 for n in shape[len(shape) - m :]):
        m -= 1
    sides = shape[len(shape) - m :]
    size = tuple(draw(st.integers(1, min(n, 3))) for n in sides)
    dilation = tuple(draw(st.integers(1, (n - 1) // (k - 1))) if k > 1 else 1 for n, k in zip(sides, size, strict=True))
    return {"size": size, "stride": tuple(draw(st.integers(1, 3)) for _ in sides), "dilation": dilation}


VIEWS: dict[str, Callable[[Draw, Shape], dict[str, Any]]] = {
    "reshape": lambda draw, shape: {"shape": _factors(draw, math.prod(shape))},
    "permute_dims": lambda draw, shape: {"axes": tuple(draw(st.permutations(range(len(shape)))))},
    "broadcast_to": lambda draw, shape: {"shape": _wider(draw, shape)},
    "flip": lambda draw, shape: {"axes": _subset(draw, len(shape))},
    "slice": _slice,
    "windows": _windows,
}
"""Attributes of each view op for an operand's shape."""


@st.composite
def view_attributes(draw: Draw, name: str, shape: Shape) -> dict[str, Any]:
    """Attributes that a view op takes for an operand of a shape."""
    return VIEWS[name](draw, shape)


@st.composite
def view_samples(draw: Draw, name: str) -> Sample:
    """An operand of any shape and attributes that a view op takes for it."""
    d: DType = draw(st.sampled_from([f64, f64, f32, i64, bool_]))
    shape: Shape = draw(shapes())
    return Sample((fill(draw(generators()), TensorType(d, shape), d is not f64),), VIEWS[name](draw, shape), d is f64)


@st.composite
def windowed_samples(draw: Draw, name: str) -> Sample:
    """Operands of the ops that see their last axes through windows."""
    d: DType = draw(st.sampled_from([f64, f64, f32]))
    random = draw(generators())
    shape: Shape = draw(shapes(2 if name == "conv" else 0, max_size=9).filter(lambda s: 0 not in s[2:]))
    attrs: dict[str, Any] = _windows(draw, shape, len(shape) - 2 if name == "conv" else None)
    if name.endswith("pool"):
        return Sample((fill(random, TensorType(d, shape), False),), attrs, d is f64)
    size = attrs.pop("size")
    if name == "conv":
        attrs["groups"] = draw(st.sampled_from([n for n in (1, 2, 3) if shape[1] % n == 0]))
        kernel = (attrs["groups"] * draw(st.integers(0, 3)), shape[1] // attrs["groups"], *size)
        return Sample(tuple(fill(random, TensorType(d, s), False) for s in (shape, kernel)), attrs, d is f64)
    windows = OPS["windows"].result_types((TensorType(d, shape),), {"size": size, **attrs})[0]
    return Sample((fill(random, windows, False),), {"shape": shape[len(shape) - len(size) :], **attrs}, d is f64)


def _pad(draw: Draw, rank: int) -> dict[str, Shape]:
    return {n: tuple(draw(st.integers(0, 2)) for _ in range(rank)) for n in ("low", "high", "interior")}


@st.composite
def join_samples(draw: Draw, name: str) -> Sample:
    """Operands of ``pad`` or ``concat``."""
    d: DType = draw(st.sampled_from([f64, f64, f32, i64, bool_]))
    random = draw(generators())
    if name == "pad":
        shape: Shape = draw(shapes())
        return Sample((fill(random, TensorType(d, shape), False),), _pad(draw, len(shape)), d is f64)
    shape = draw(shapes(1))
    axis: int = draw(st.integers(0, len(shape) - 1))
    sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    parts = [TensorType(d, (*shape[:axis], n, *shape[axis + 1 :])) for n in sizes]
    return Sample(tuple(fill(random, t, False) for t in parts), {"axis": axis}, d is f64)


@st.composite
def matmul_samples(draw: Draw) -> Sample:
    """Operands of ``matmul``, empty and size-1 axes included."""
    d: DType = draw(st.sampled_from([f64, f64, f32, i64]))
    batch: Shape = draw(shapes(max_rank=2, max_size=3))
    m, k, n = (draw(st.sampled_from([1, 2, 3, 8]) | st.integers(0, 40)) for _ in range(3))
    ta, tb = draw(st.booleans()), draw(st.booleans())
    random = draw(generators())
    a = fill(random, TensorType(d, (*batch, k, m) if ta else (*batch, m, k)), False)
    b = fill(random, TensorType(d, (*batch, n, k) if tb else (*batch, k, n)), False)
    return Sample((a, b), {"transpose_a": ta, "transpose_b": tb}, d is f64)


@st.composite
def indexed_samples(draw: Draw, name: str) -> Sample:
    """Operands of the gathers and scatters, with indices in range."""
    d: DType = draw(st.sampled_from([f64, f64, f32, i64]))
    random = draw(generators())
    index_type = draw(st.sampled_from([np.int64, np.int32, np.uint8]))
    shape: Shape = draw(shapes(1, 3))
    axis: int = draw(st.integers(0, len(shape) - 1))
    size = max(shape[axis], 1)
    shape = (*shape[:axis], size, *shape[axis + 1 :])
    count: Shape = draw(shapes(max_rank=2)) if name in ("take", "scatter_add") else (draw(st.integers(0, 5)),)
    part = (*shape[:axis], *count, *shape[axis + 1 :])
    along = name.endswith("along_axis")
    index = np.asarray(random.integers(0, size, part if along else count)).astype(index_type)
    if name.startswith("take"):
        return Sample((fill(random, TensorType(d, shape), False), index), {"axis": axis}, d is f64)
    return Sample((fill(random, TensorType(d, part), False), index), {"axis": axis, "size": size}, d is f64)


# Random programs


class Program:
    """A module with one function ``@main`` and an array for each of its arguments."""

    def __init__(self, module: Module, arrays: tuple[Array, ...]) -> None:
        self.module = module
        self.arrays = arrays

    def __repr__(self) -> str:
        return f"{self.module}\n{list(self.arrays)!r}"


FLOATS = (f64, f32)
PROGRAM_DTYPES = (f64, f32, i64, bool_)
MAX_SIZE = 200
UNARY = {
    "f": ("neg", "abs", "sign", "floor", "round", "sqrt", "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos",
          "stop_gradient", "relu", "silu", "softplus", "gelu", "neg", "gelu"),
    "i": ("neg", "abs", "sign", "bit_not", "stop_gradient"),
    "u": ("neg", "abs", "sign", "bit_not"),
    "b": ("bit_not", "stop_gradient"),
}  # fmt: skip
BINARY = {
    "f": ("add", "sub", "mul", "div", "maximum", "minimum", "pow", "floor_divide", "remainder", "add", "mul", "sub", "div"),
    "i": ("add", "sub", "mul", "maximum", "minimum", "bit_and", "bit_or", "bit_xor", "shift_left", "shift_right", "floor_divide",
          "remainder"),
    "b": ("bit_and", "bit_or", "bit_xor"),
}  # fmt: skip
BINARY["u"] = BINARY["i"]
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
CONSTANTS = (
    1.0, -0.0, 0.0, 2.0, 0.5, -1.0, 1.0, 3.0, -4.0, math.inf, -math.inf, math.nan, 0.1, 5e-324, 1e-45, 1e308, 3e38, 2.0**-60, 2.0**40,
)  # fmt: skip


class _Growth:
    """Grows one function op by op; a step that finds no fitting operand gives None."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.recorder = GraphBuilder()
        self.recorder.at = ()
        self.build = Builder(self.recorder)
        self.values: list[Value] = []
        self.keys: list[Value] = []
        self.random = np.random.default_rng(draw(st.integers(0, 1 << 16)))

    def one(self, options: Sequence[Any]) -> Any:
        return options[self.draw(st.integers(0, len(options) - 1))]

    def yes(self) -> bool:
        return self.draw(st.booleans())

    def pick(self, test: Callable[[TensorType], bool] = lambda t: True) -> Value | None:
        """A value that fits, late ones more often: Hypothesis shrinks 0 to the latest."""
        fitting = [v for v in self.values if test(v.type)]
        if not fitting:
            return None
        back: int = self.draw(st.integers(0, self.draw(st.integers(0, len(fitting) - 1))))
        return fitting[-1 - back]

    def partner(self, type: TensorType) -> Value:
        """A value of just this type: a known one, a broadcast one or a constant."""
        kind: int = self.draw(st.integers(0, 3))
        if kind == 0:
            return self.constant(type)
        if kind == 1:
            small = self.pick(
                lambda t: t.dtype is type.dtype and t.rank <= type.rank and t != type and _fits(t.shape, type.shape)
            )
            if small is not None:
                return self.build.broadcast_to(small, shape=type.shape)
        found = self.pick(lambda t: t == type)
        return self.constant(type) if found is None else found

    def constant(self, type: TensorType) -> Value:
        if self.yes():
            return self.build.literal(fill(self.random, type, self.yes()))
        value = self.one(CONSTANTS)
        if not type.dtype.floating:
            value = bool(value) if type.dtype is bool_ else self.one((0, 1, 2, 3, 5))
        return self.build.splat(value, type)

    # Steps

    def unary(self) -> Value | None:
        x = self.pick()
        if x is None:
            return None
        name = self.one(UNARY[x.type.dtype.kind])
        attrs = {"approximate": self.one(("none", "tanh"))} if name == "gelu" else {}
        return getattr(self.build, name)(x, **attrs)

    def binary(self) -> Value | None:
        x = self.pick()
        if x is None:
            return None
        other = self.partner(x.type)
        pair = (other, x) if self.yes() else (x, other)
        return getattr(self.build, self.one(BINARY[x.type.dtype.kind]))(*pair)

    def compare(self) -> Value | None:
        x = self.pick()
        return None if x is None else getattr(self.build, self.one(COMPARISONS))(x, self.partner(x.type))

    def where(self) -> Value | None:
        x = self.pick()
        if x is None:
            return None
        condition = self.partner(x.type.with_dtype(bool_))
        pair = (self.partner(x.type), x) if self.yes() else (x, self.partner(x.type))
        return self.build.where(condition, *pair)

    def cast(self) -> Value | None:
        x = self.pick()
        return None if x is None else self.build.cast(x, dtype=self.one((f64, f32, i64, bool_, i32, u8, u32)))

    def bitcast(self) -> Value | None:
        x = self.pick(lambda t: t.dtype.kind in "fiu" and t.dtype.bits in (32, 64))
        if x is None:
            return None
        return self.build.bitcast(x, dtype=self.one((f64, i64) if x.type.dtype.bits == 64 else (f32, i32)))

    def reduce(self) -> Value | None:
        x = self.pick(lambda t: t.dtype.kind in "fiu")
        if x is None:
            return None
        name = self.one(("sum", "max", "min", "argmax", "sum"))
        axes = _subset(self.draw, x.type.rank)
        if name != "sum" and x.type.size == 0:
            axes = tuple(a for a in axes if x.type.shape[a])
        return getattr(self.build, name)(x, axes=axes, keepdims=self.yes())

    def view(self) -> Value | None:
        x = self.pick()
        if x is None:
            return None
        name = self.one(tuple(VIEWS))
        attrs = VIEWS[name](self.draw, x.type.shape)
        made = OPS[name].result_types((x.type,), attrs)[0]
        if made.size > MAX_SIZE or made.rank > 5:
            return None
        return getattr(self.build, name)(x, **attrs)

    def pad(self) -> Value | None:
        x = self.pick(lambda t: t.size <= 30)
        return None if x is None else self.build.pad(x, **_pad(self.draw, x.type.rank))

    def concat(self) -> Value | None:
        x = self.pick(lambda t: t.rank > 0 and t.size < MAX_SIZE // 3)
        if x is None:
            return None
        t = x.type
        axis: int = self.draw(st.integers(0, t.rank - 1))

        def joins(o: TensorType) -> bool:
            same = o.dtype is t.dtype and o.rank == t.rank
            return same and all(a == axis or o.shape[a] == n for a, n in enumerate(t.shape)) and o.size < MAX_SIZE // 3

        others = [self.pick(joins) for _ in range(self.draw(st.integers(0, 2)))]
        return self.build.concat(x, *[o for o in others if o is not None], axis=axis)

    def indexed(self) -> Value | None:
        x = self.pick(lambda t: t.rank > 0 and t.size < 60)
        if x is None:
            return None
        shape = x.type.shape
        axis: int = self.draw(st.integers(0, x.type.rank - 1))
        name = self.one(("take", "take_along_axis", "scatter_add", "scatter_add_along_axis"))
        dtype = self.one((np.int64, np.int32, np.uint8))
        if name.startswith("scatter"):
            if x.type.dtype is bool_:
                return None
            size = self.draw(st.integers(1, 4))
            index = self.random.integers(0, size, shape if name != "scatter_add" else shape[axis : axis + 1]).astype(
                dtype
            )
            return getattr(self.build, name)(x, self.build.literal(index), axis=axis, size=size)
        if shape[axis] == 0:
            return None
        count: Shape = self.draw(shapes(max_rank=2, max_size=3)) if name == "take" else (self.draw(st.integers(0, 4)),)
        index = np.asarray(
            self.random.integers(
                0, shape[axis], count if name == "take" else (*shape[:axis], *count, *shape[axis + 1 :])
            )
        )
        return getattr(self.build, name)(x, self.build.literal(index.astype(dtype)), axis=axis)

    def matmul(self) -> Value | None:
        x = self.pick(lambda t: t.rank >= 2 and t.dtype.kind in "fiu")
        if x is None:
            return None
        if self.yes():
            return self.build.matmul(x, x, **self.one(({"transpose_a": True}, {"transpose_b": True})))
        ta, tb = self.yes(), self.yes()
        *batch, m, k = x.type.shape
        k = m if ta else k
        n = self.draw(st.integers(0, 4))
        other = self.partner(x.type.with_shape((*batch, n, k) if tb else (*batch, k, n)))
        return self.build.matmul(x, other, transpose_a=ta, transpose_b=tb)

    def composite(self) -> Value | None:
        x = self.pick(lambda t: t.dtype in FLOATS and t.rank > 0 and t.size > 0)
        if x is None:
            return None
        t = x.type
        name = self.one(("softmax", "log_softmax", "layer_norm", "cross_entropy", "attention"))
        if name == "layer_norm":
            return self.build.layer_norm(x, rank=self.draw(st.integers(1, t.rank)), eps=self.one((1e-5, 0.0, 1.0)))
        if name == "attention":
            if t.rank < 2:
                return None
            masks = [self.partner(TensorType(bool_, (*t.shape[:-1], t.shape[-2])))] if self.yes() else []
            return self.build.scaled_dot_product_attention(x, self.partner(t), x, *masks, causal=self.yes(), scale=0.5)
        if name == "cross_entropy":
            if t.rank != 2:
                return None
            if self.yes():
                return self.build.cross_entropy(x, self.partner(t))
            return self.build.cross_entropy(x, self.build.literal(self.random.integers(0, t.shape[1], t.shape[0])))
        return getattr(self.build, name)(x, axis=self.draw(st.integers(0, t.rank - 1)))

    def windowed(self) -> Value | None:
        """Pools, convolutions, and sums of windows."""
        x = self.pick(lambda t: t.dtype in FLOATS and t.rank > 0 and t.size > 0)
        if x is None:
            return None
        name = self.one(("max_pool", "avg_pool", "overlap_add", "conv"))
        if name == "conv":
            shape = x.type.shape if x.type.rank > 2 else (1, 1, *x.type.shape)
            x = x if x.type.rank > 2 else self.build.reshape(x, shape=shape)
            attrs = _windows(self.draw, shape[2:], len(shape) - 2)
            groups = self.one([n for n in (1, 2, 3) if shape[1] % n == 0])
            weight = self.partner(
                x.type.with_shape((groups * self.one((1, 2)), shape[1] // groups, *attrs.pop("size")))
            )
            return self.build.conv(x, weight, groups=groups, **attrs)
        attrs = _windows(self.draw, x.type.shape)
        if name != "overlap_add":
            return getattr(self.build, name)(x, **attrs)
        made = self.build.windows(x, **attrs)
        shape = x.type.shape[x.type.rank - len(attrs.pop("size")) :]
        return self.build.overlap_add(self.partner(made.type), shape=shape, **attrs) if made.type.size < 400 else None

    def source(self) -> Value | None:
        shape: Shape = self.draw(shapes(1, 3))
        if math.prod(shape) > MAX_SIZE:
            return None
        axis: int = self.draw(st.integers(0, len(shape) - 1))
        return (
            self.build.iota(dtype=self.one((f64, f32, i64)), shape=shape, axis=axis)
            if self.yes()
            else self.constant(TensorType(self.one(PROGRAM_DTYPES), shape))
        )

    def draws(self) -> Value | None:
        if not self.keys:
            return None
        origin = self.one(self.keys)
        if self.yes():
            numbers = [v for v in self.values if v.type.rank == 0 and v.type.dtype.integer]
            made = (
                self.build.fold_in(origin, self.one(numbers))
                if numbers and self.yes()
                else self.build.fold_in(origin, site=f"block:{self.draw(st.integers(0, 3))}")
            )
            self.keys.append(made)
            return None
        shape: Shape = self.draw(shapes(max_rank=3))
        if math.prod(shape) > MAX_SIZE:
            return None
        name = self.one(("uniform", "normal", "mask", "random_bits"))
        if name == "random_bits":
            return self.build.random_bits(origin, shape=shape)
        if name == "mask":
            return self.build.mask(origin, p=self.one((0.0, 0.1, 0.5, 1.0)), shape=shape)
        return getattr(self.build, name)(origin, shape=shape, dtype=self.one(FLOATS))

    def again(self) -> Value | None:
        """An op that is there already, once more."""
        made = [i for i in self.recorder.instructions if i.results[0].type.dtype is not key]
        if not made:
            return None
        i = self.one(made)
        return self.recorder.bind(i.op, i.operands, i.attrs)[0]

    def gradients(self) -> list[tuple[Value, Mark | None]]:
        """The gradients of a floating value with respect to the floating arguments that lead to it."""
        y = self.pick(lambda t: t.dtype.floating)
        inputs = [a for a in self.recorder.arguments if a.type.dtype.floating]
        if y is None or not inputs:
            return []
        count = len(self.recorder.instructions)
        try:
            found = reverse(self.recorder, list(self.recorder.instructions), [y], [self.partner(y.type)], inputs)
        except TraceError:  # bits have no derivative
            del self.recorder.instructions[count:]
            return []
        return [(v, Mark("grad", a)) for a, v in zip(inputs, found, strict=True) if v is not None]

    def steps(self) -> tuple[Callable[[], Value | None], ...]:
        return (
            self.unary, self.binary, self.binary, self.view, self.unary, self.view, self.view, self.reduce, self.compare, self.where,
            self.view, self.unary, self.reduce, self.binary,
            self.cast, self.concat, self.pad, self.indexed, self.matmul, self.composite, self.source, self.draws, self.again,
            self.bitcast, self.windowed,
        )  # fmt: skip


def _fits(small: Shape, wide: Shape) -> bool:
    return all(a in (1, b) for a, b in zip(reversed(small), reversed(wide), strict=False))


@st.composite
def programs(draw: Draw, max_ops: int = 60) -> Program:
    """Random functions of 1 to ``max_ops`` ops that verify, with arrays to run them on."""
    g = _Growth(draw)
    empty = draw(st.integers(0, 4)) == 4
    common: Shape = draw(shapes(max_rank=3, max_size=4, empty=empty))
    for n in range(draw(st.integers(1, 4))):
        shape = common if n == 0 or g.yes() else draw(shapes(max_rank=3, max_size=4, empty=empty))
        g.values.append(g.recorder.argument(TensorType(g.one(PROGRAM_DTYPES), shape), f"x{n}"))
    if g.yes():
        g.keys.append(g.recorder.argument(key[()], "key"))
    steps = g.steps()
    wanted: int = draw(st.integers(1, max_ops))
    for _ in range(2 * wanted):
        if len(g.recorder.instructions) >= wanted:
            break
        made = g.one(steps)()
        if made is not None and made.type.size <= MAX_SIZE:
            g.values.append(made)
    if not g.recorder.instructions:
        g.values.append(g.build.stop_gradient(g.values[0]))
    used = {o for i in g.recorder.instructions for o in i.operands}
    sinks = [v for v in g.values if v not in used]
    # All that nobody reads, or dce would leave little of a large program; or one value, so that it leaves little.
    results: list[Value] = sinks if sinks and draw(st.integers(0, 3)) else [g.values[-1]]
    for _ in range(draw(st.integers(0, 2))):
        back: int = draw(st.integers(0, len(g.values) - 1))
        results.append(g.values[-1 - back])
    marked: list[tuple[Value, Mark | None]] = [(v, None) for v in results]
    if draw(st.integers(0, 2)) == 2:
        marked += g.gradients()
    function = g.recorder.function("main", [(v, "input") for v in g.recorder.arguments], marked)
    return Program(Module("fuzz", [function]), inputs_of(function, draw(st.integers(0, 1 << 16)), g.yes()))


RULE_OPS = ("add", "sub", "mul", "div", "neg", "abs", "sqrt", "maximum", "where", "exp", "add", "mul")


@st.composite
def update_programs(draw: Draw, max_ops: int = 8) -> Program:
    """Functions like a training step: parameters and optimiser slots, and one elementwise rule that renews them all."""
    g = _Growth(draw)
    count: int = draw(st.integers(1, 4))
    slots = ("m", "v")[: draw(st.integers(0, 2))]
    main: DType = g.one(FLOATS)
    types = [
        TensorType(main if draw(st.integers(0, 5)) else g.one(FLOATS), draw(shapes(max_rank=3, max_size=4)))
        for _ in range(count)
    ]
    given = g.recorder.argument
    arguments: list[tuple[Value, str | None]] = []
    leaves: list[list[Value]] = []
    for n, t in enumerate(types):
        leaves.append([given(t, f"p{n}")])
        arguments.append((leaves[-1][0], "param"))
    for slot in slots:
        for n, t in enumerate(types):
            leaves[n].append(given(t, f"optimizer/{slot}/p{n}"))
            arguments.append((leaves[n][-1], "optimizer"))
    rate = {d: given(TensorType(d, ()), f"rate_{d}") for d in dict.fromkeys(t.dtype for t in types)}
    arguments += [(v, "input") for v in rate.values()]
    for n, t in enumerate(types):
        kind: int = draw(st.integers(0, 3))
        if kind == 0 and t.rank > 1:
            gradient = given(t.with_shape(t.shape[::-1]), f"g{n}")
            arguments.append((gradient, "input"))
            gradient = g.build.permute_dims(gradient, axes=tuple(reversed(range(t.rank))))
        elif kind == 1:
            gradient = g.build.exp(leaves[n][0])
        else:
            gradient = given(t, f"g{n}")
            arguments.append((gradient, "input"))
            gradient = g.build.mul(gradient, gradient) if kind == 2 else gradient
        leaves[n].append(gradient)
        g.values.append(gradient)
    for n, t in enumerate(types):
        leaves[n].append(g.build.broadcast_to(rate[t.dtype], shape=t.shape) if t.rank else rate[t.dtype])
        leaves[n].append(g.build.splat(g.one(CONSTANTS), t) if n == 0 or g.yes() else leaves[0][-1])
        if leaves[n][-1].type != t:
            leaves[n][-1] = g.build.splat(0.5, t)
    for _ in range(draw(st.integers(1, max_ops))):
        name = g.one(RULE_OPS)
        a, b, c = (draw(st.integers(0, len(leaves[0]) - 1)) for _ in range(3))
        for known in leaves:
            if name == "where":
                known.append(g.build.where(g.build.lt(known[a], known[b]), known[b], known[c]))
            elif name in ("neg", "abs", "sqrt", "exp"):
                known.append(getattr(g.build, name)(known[a]))
            else:
                known.append(getattr(g.build, name)(known[a], known[b]))
    results: list[tuple[Value, Mark | None]] = []
    if g.yes():
        results.append((g.build.sum(leaves[0][-1], axes=tuple(range(types[0].rank))), None))
    if g.yes():
        leaf: Value = g.one(g.one(leaves))
        results.append((leaf, None))
    for which in range(1 + len(slots)):
        chosen: int = draw(st.integers(0, len(leaves[0]) - 1))
        if draw(st.integers(0, 6)) == 6:
            continue
        results += [(known[chosen], Mark("update", known[which])) for known in leaves]
    if g.yes():
        results = [results[n] for n in draw(st.permutations(range(len(results))))]
    function = g.recorder.function("main", arguments, results)
    return Program(Module("fuzz", [function]), inputs_of(function, draw(st.integers(0, 1 << 16)), g.yes()))


ELEMENTWISE = [op for op in OPS.values() if isinstance(op, Elementwise)]
REDUCE = [op for op in OPS.values() if isinstance(op, Reduce)]
