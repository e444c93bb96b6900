"""Hypothesis strategies of shapes, arrays with special values, and samples per op family."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tapeir.ir import (
    OPS,
    Function,
    Op,
    Sample,
    TensorType,
)
from tapeir.ir.op import Elementwise, Random32, Reduce
from tapeir.ir.op import Key as KeyOp
from tapeir.ir.types import DTYPES, Array, DType, Shape, bool_, f32, f64, i32, i64, key, type_of, u8

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


def subset(draw: Draw, rank: int) -> Shape:
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
    axes = subset(draw, len(shape))
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


def windows_attributes(draw: Draw, shape: Shape, axes: int | None = None) -> dict[str, Shape]:
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
    "flip": lambda draw, shape: {"axes": subset(draw, len(shape))},
    "slice": _slice,
    "windows": windows_attributes,
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
    attrs: dict[str, Any] = windows_attributes(draw, shape, len(shape) - 2 if name == "conv" else None)
    if name == "max_pool" and draw(st.booleans()):
        attrs |= {n: tuple(draw(st.integers(0, 2)) for _ in attrs["size"]) for n in ("low", "high")}
    if name.endswith("pool"):
        return Sample((fill(random, TensorType(d, shape), False),), attrs, d is f64)
    size = attrs.pop("size")
    if name == "conv":
        attrs["groups"] = draw(st.sampled_from([n for n in (1, 2, 3) if shape[1] % n == 0]))
        kernel = (attrs["groups"] * draw(st.integers(0, 3)), shape[1] // attrs["groups"], *size)
        return Sample(tuple(fill(random, TensorType(d, s), False) for s in (shape, kernel)), attrs, d is f64)
    windows = OPS["windows"].result_types((TensorType(d, shape),), {"size": size, **attrs})[0]
    return Sample((fill(random, windows, False),), {"shape": shape[len(shape) - len(size) :], **attrs}, d is f64)


def pad_attributes(draw: Draw, rank: int) -> dict[str, Shape]:
    return {n: tuple(draw(st.integers(0, 2)) for _ in range(rank)) for n in ("low", "high", "interior")}


@st.composite
def join_samples(draw: Draw, name: str) -> Sample:
    """Operands of ``pad`` or ``concat``."""
    d: DType = draw(st.sampled_from([f64, f64, f32, i64, bool_]))
    random = draw(generators())
    if name == "pad":
        shape: Shape = draw(shapes())
        return Sample((fill(random, TensorType(d, shape), False),), pad_attributes(draw, len(shape)), d is f64)
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


ELEMENTWISE = [op for op in OPS.values() if isinstance(op, Elementwise)]
REDUCE = [op for op in OPS.values() if isinstance(op, Reduce)]
