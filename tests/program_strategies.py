"""Hypothesis strategies of random programs: any ops that fit together, with gradients, and updates of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from strategies import VIEWS, Draw, fill, inputs_of, pad_attributes, shapes, subset, windows_attributes

from tapeir.ir import (
    OPS,
    Builder,
    GraphBuilder,
    Mark,
    Module,
    TensorType,
    TraceError,
    Value,
    reverse,
)
from tapeir.ir.literal import misfit
from tapeir.ir.types import Array, DType, Shape, bf16, bool_, f16, f32, f64, i16, i32, i64, key, u8, u32


class Program:
    """A module with one function ``@main`` and an array for each of its arguments."""

    def __init__(self, module: Module, arrays: tuple[Array, ...]) -> None:
        self.module = module
        self.arrays = arrays

    def __repr__(self) -> str:
        return f"{self.module}\n{list(self.arrays)!r}"


FLOATS = (f64, f32, f16, bf16)
PROGRAM_DTYPES = (f64, f32, i64, bool_, f16, bf16)
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
        return self.number(type)

    def number(self, type: TensorType) -> Value:
        """One number, everywhere; infinite where the dtype does not hold a large one."""
        value = self.one(CONSTANTS)
        if not type.dtype.floating:
            value = bool(value) if type.dtype is bool_ else self.one((0, 1, 2, 3, 5))
        elif misfit(value, type.dtype):
            value = math.copysign(math.inf, value)
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
        return (
            None if x is None else self.build.cast(x, dtype=self.one((f64, f32, i64, bool_, i32, u8, u32, f16, bf16)))
        )

    def bitcast(self) -> Value | None:
        x = self.pick(lambda t: t.dtype.kind in "fiu" and t.dtype.bits >= 16)
        if x is None:
            return None
        return self.build.bitcast(
            x, dtype=self.one({64: (f64, i64), 32: (f32, i32), 16: (f16, i16, bf16)}[x.type.dtype.bits])
        )

    def reduce(self) -> Value | None:
        x = self.pick(lambda t: t.dtype.kind in "fiu")
        if x is None:
            return None
        name = self.one(("sum", "max", "min", "argmax", "sum"))
        axes = subset(self.draw, x.type.rank)
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
        return None if x is None else self.build.pad(x, **pad_attributes(self.draw, x.type.rank))

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
            mask = TensorType(self.one((bool_, t.dtype)), (*t.shape[:-1], t.shape[-2]))
            masks = [self.partner(mask)] if self.yes() else []
            return self.build.scaled_dot_product_attention(x, self.partner(t), x, *masks, causal=self.yes(), scale=0.5)
        if name == "cross_entropy":
            if t.rank != 2:
                return None
            if self.yes():
                return self.build.cross_entropy(x, self.partner(t))
            return self.build.cross_entropy(x, self.build.literal(self.random.integers(0, t.shape[1], t.shape[0])))
        return getattr(self.build, name)(x, axis=self.draw(st.integers(0, t.rank - 1)))

    def clip(self) -> Value | None:
        x = self.pick(lambda t: t.dtype.kind in "fiu")
        if x is None:
            return None
        lower, upper = self.one(((True, True), (True, False), (False, True)))
        return self.build.clip(x, *[self.partner(x.type) for _ in range(lower + upper)], lower=lower, upper=upper)

    def windowed(self) -> Value | None:
        """Pools, convolutions, and sums of windows."""
        x = self.pick(lambda t: t.dtype in FLOATS and t.rank > 0 and t.size > 0)
        if x is None:
            return None
        name = self.one(("max_pool", "avg_pool", "overlap_add", "conv"))
        if name == "conv":
            shape = x.type.shape if x.type.rank > 2 else (1, 1, *x.type.shape)
            x = x if x.type.rank > 2 else self.build.reshape(x, shape=shape)
            attrs = windows_attributes(self.draw, shape[2:], len(shape) - 2)
            groups = self.one([n for n in (1, 2, 3) if shape[1] % n == 0])
            weight = self.partner(
                x.type.with_shape((groups * self.one((1, 2)), shape[1] // groups, *attrs.pop("size")))
            )
            return self.build.conv(x, weight, groups=groups, **attrs)
        attrs = windows_attributes(self.draw, x.type.shape)
        if name == "max_pool" and self.yes():
            attrs |= {n: tuple(self.one((0, 1, 2)) for _ in attrs["size"]) for n in ("low", "high")}
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
            self.bitcast, self.windowed, self.clip,
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
    slots: tuple[str, ...] = draw(st.sampled_from([(), ("m",), ("m", "v"), ("param",), ("", "m")]))
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
        leaves[n].append(g.number(t) if n == 0 or g.yes() else leaves[0][-1])
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
