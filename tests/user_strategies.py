"""Hypothesis strategies of programs as users write them: Python text over ``tapeir.ops``, with arrays to call it with.

A program is grown line by line while it is traced, so that each line fits the shapes that the lines before it gave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from strategies import fill

import tapeir as tp
from tapeir import ops
from tapeir.ir import IRError, TensorType
from tapeir.ir.types import DTYPES, Array, DType, Shape, bool_, f32, f64, i64

MOST = 6000
"""Elements of a value, at most."""
SIDES = (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 20, 31, 33, 48, 64, 91, 100)
UNARY = ("abs", "negative", "square", "sign", "exp", "tanh", "sigmoid", "relu", "gelu", "silu", "softplus", "sin", "floor", "round",
         "log1p", "sqrt", "stop_gradient", "erf")  # fmt: skip
BINARY = ("+", "-", "*", "/", "+", "-", "*")
INTEGER = ("+", "-", "*", "&", "|", "^", "+", "*")
NUMBERS = ("0.5", "2.0", "-1.5", "3.0", "0.1")


class UserProgram:
    """``function`` over ``arrays``; ``source`` is its text and ``floating`` the numbers of the arguments that it has gradients for."""

    def __init__(self, arrays: Sequence[Array], source: str) -> None:
        self.arrays, self.source = tuple(arrays), source
        scope: dict[str, Any] = {"ops": ops}
        exec(source, scope)
        self.function: Callable[..., Any] = scope["f"]
        self.floating = tuple(n for n, a in enumerate(arrays) if a.dtype.kind == "f")

    def loss(self, *arrays: Any) -> Any:
        """The sum of all floating results."""
        total: Any = 0.0
        for result in self.function(*arrays):
            if result.dtype.floating:
                total = total + ops.astype(ops.sum(result), "float64")
        return total

    def __repr__(self) -> str:
        kinds = ", ".join(f"{a.dtype}{list(a.shape)}" for a in self.arrays)
        return f"{self.source}\n# of {kinds}\n{list(self.arrays)!r}"


def _text(slices: Sequence[slice]) -> str:
    def one(s: slice) -> str:
        parts = ["" if p is None else str(p) for p in (s.start, s.stop, s.step)]
        return ":".join(parts if s.step is not None else parts[:2])

    return ", ".join(map(one, slices))


class _Growth:
    """Grows the lines of one program; a step that finds no fitting value gives None, one that fails is left out."""

    def __init__(self, random: Random, names: dict[str, Any], failing: bool) -> None:
        self.random, self.values, self.failing = random, dict(names), failing
        self.index = next(reversed(names))
        """An argument that is mostly left to what takes an index."""
        self.lines: list[str] = []
        self.kept: list[str] = []

    def number(self, count: int) -> int:
        return self.random.randrange(count)

    def one(self, options: Sequence[Any]) -> Any:
        return options[self.number(len(options))]

    def yes(self) -> bool:
        return self.number(2) == 1

    def rarely(self) -> bool:
        return self.number(8) == 7

    def pick(self, test: Callable[[TensorType], bool] = lambda t: True) -> str | None:
        """A value that fits, late ones more often: Hypothesis shrinks 0 to the latest."""
        fitting = [n for n, v in self.values.items() if test(v.value.type)]
        fitting = [n for n in fitting if n != self.index or self.rarely()]
        if not fitting:
            return None
        return fitting[-1 - self.number(self.number(len(fitting)) + 1)]

    def type(self, name: str) -> TensorType:
        return self.values[name].value.type

    def axes(self, name: str) -> Shape:
        """Axes to reduce: any, neighbours or not."""
        rank = self.type(name).rank
        if self.yes():
            return tuple(range(self.number(rank + 1), rank))
        some = tuple(a for a in range(rank) if self.yes())
        return some if some or not rank else (self.number(rank),)

    def dtype(self) -> DType:
        return self.one((f32, f64, i64, bool_, DTYPES["i32"], DTYPES["u8"]))

    def line(self, expression: str) -> str | None:
        """The name of a value that an expression gives; None where it is refused or too large."""
        try:
            made = eval(expression, {"ops": ops}, self.values)
        except IRError:
            return None
        if made.value.type.size > MOST or made.value.type.rank > 6:
            return None
        name = f"v{len(self.lines)}"
        self.lines.append(f"    {name} = {expression}")
        self.values[name] = made
        return name

    # Steps

    def kept_part(self) -> str | None:
        """A part of a value that is returned, and something made of it."""
        part = self.one((self.cut, self.cut, self.view, self.join))()
        name = part and self.line(part)
        if not name:
            return None
        self.kept.append(name)
        if self.yes() and self.type(name).dtype.floating:
            square = self.line(f"{name} * {name}")
            return square and f"ops.{self.one(('sum', 'mean'))}({square}, axis={self.axes(square)})"
        return f"ops.{self.one(('sum', 'mean'))}(ops.astype({name}, 'float32'), axis={self.axes(name)})"

    def unary(self) -> str | None:
        x = self.pick(lambda t: t.dtype.floating)
        return x and f"ops.{self.one(UNARY)}({x})"

    def binary(self) -> str | None:
        x = self.pick(lambda t: t.dtype is not bool_)
        if x is None:
            return None
        t = self.type(x)
        fits = self.pick(lambda o: o.dtype is t.dtype and _broadcasts(t.shape, o.shape)) or x
        other = self.one(NUMBERS) if t.dtype.floating and self.yes() else fits
        if t.dtype.integer and (self.rarely() or (self.failing and self.yes())):
            return f"{x} {self.one(('//', '%'))} {other}"
        a, b = (x, other) if self.yes() else (other, x)
        return f"{a} {self.one(BINARY if t.dtype.floating else INTEGER)} {b}"

    def compare(self) -> str | None:
        x = self.pick(lambda t: t.dtype is not bool_)
        return x and f"{x} {self.one(('>', '<=', '==', '!='))} {self.one(('0', '1'))}"

    def where(self) -> str | None:
        x = self.pick()
        if x is None:
            return None
        t = self.type(x)
        mask = self.pick(lambda o: o.dtype is bool_ and _broadcasts(t.shape, o.shape)) or f"{x} == {x}"
        other = self.pick(lambda o: o.dtype is t.dtype and _broadcasts(t.shape, o.shape)) or x
        return f"ops.where({mask}, {x}, {other})" if self.yes() else f"ops.where({mask}, {other}, {x})"

    def astype(self) -> str | None:
        x = self.pick()
        return x and f"ops.astype({x}, {self.dtype().name!r})".replace("'f32'", "'float32'")

    def cut(self) -> str | None:
        """A slice: edges cut off, strides, negative steps, one row."""
        x = self.pick(lambda t: t.rank > 0)
        if x is None:
            return None
        cuts: list[slice] = []
        for n in self.type(x).shape:
            kind = self.number(8)
            cuts.append(
                slice(None) if kind < 2 else slice(1, None) if kind == 2 else slice(None, -1) if kind == 3
                else slice(1, -1) if kind == 4 else slice(None, None, self.one((2, 3))) if kind == 5
                else slice(None, None, self.one((-1, -2))) if kind == 6
                else slice(self.number(n + 1), self.number(n + 1))
            )  # fmt: skip
        text = _text(cuts)
        if self.rarely():
            text = f"0{text[text.index(',') :]}" if "," in text else "0"
        return f"{x}[{text}]"

    def reduce(self) -> str | None:
        x = self.pick()
        if x is None:
            return None
        t, axes = self.type(x), self.axes(x)
        names = ["sum", "mean", "mean", "sum"] if t.dtype is not bool_ else []
        names += ["var", "std"] if t.dtype.floating else []
        whole = all(t.shape[a] for a in axes) and t.dtype is not bool_
        names += ["max", "min"] if whole else []
        if not names:
            return f"ops.sum(ops.astype({x}, 'i64'), axis={axes}, keepdims={self.yes()})"
        return f"ops.{self.one(names)}({x}, axis={axes}, keepdims={self.yes()})"

    def argmax(self) -> str | None:
        x = self.pick(lambda t: t.rank > 0 and t.size > 0 and t.dtype is not bool_)
        return x and f"ops.argmax({x}, axis={self.number(self.type(x).rank)}, keepdims={self.yes()})"

    def view(self) -> str | None:
        x = self.pick()
        if x is None:
            return None
        t = self.type(x)
        kind = self.one(("flip", "permute_dims", "reshape", "reshape", "expand_dims", "broadcast_to", "flatten"))
        if kind == "flip":
            return f"ops.flip({x}, axis={self.axes(x)})"
        if kind == "permute_dims":
            return f"ops.permute_dims({x}, {tuple(self.random.sample(range(t.rank), t.rank))})"
        if kind == "expand_dims":
            return f"ops.expand_dims({x}, {self.number(t.rank + 1)})"
        if kind == "broadcast_to":
            shape = (self.one((1, 2, 5)), *(self.one((3, 7)) if n == 1 and self.yes() else n for n in t.shape))
            return f"ops.broadcast_to({x}, {shape})" if math.prod(shape) <= MOST else None
        if kind == "flatten" or not t.rank:
            return f"ops.reshape({x}, (-1,))" if t.size else None
        axis = self.number(t.rank)
        if self.yes() and axis + 1 < t.rank:
            return f"ops.reshape({x}, {(*t.shape[:axis], t.shape[axis] * t.shape[axis + 1], *t.shape[axis + 2 :])})"
        part = self.one([n for n in range(1, 9) if t.shape[axis] % n == 0])
        return f"ops.reshape({x}, {(*t.shape[:axis], t.shape[axis] // part, part, *t.shape[axis + 1 :])})"

    def join(self) -> str | None:
        x = self.pick(lambda t: t.rank > 0)
        if x is None:
            return None
        t = self.type(x)
        axis = self.number(t.rank)
        kind = self.one(("roll", "pad", "concat", "stack"))
        if kind == "roll":
            lead = ":, " * axis
            shift = self.number(max(t.shape[axis], 1))
            return f"ops.concat([{x}[{lead}{shift}:], {x}[{lead}:{shift}]], axis={axis})"
        if kind == "pad":
            return f"ops.pad({x}, {[(self.one((0, 1, 2)), self.one((0, 1, 3))) for _ in t.shape]})"
        if kind == "stack":
            other = self.pick(lambda o: o == t) or x
            return f"ops.stack([{x}, {other}], axis={axis})"

        def joins(o: TensorType) -> bool:
            return (
                o.dtype is t.dtype and o.rank == t.rank and all(a == axis or o.shape[a] == n for a, n in enumerate(t.shape))
            )  # fmt: skip

        return f"ops.concat([{x}, {self.pick(joins) or x}], axis={axis})"

    def take(self) -> str | None:
        x = self.pick(lambda t: t.rank > 0)
        index = (self.rarely() and self.pick(lambda t: t.dtype.integer and t.rank <= 2 and t.size <= 40)) or self.index
        if x is None:
            return None
        axis = self.number(self.type(x).rank)
        bounded = (
            index if self.failing or self.rarely() else f"ops.clip({index}, 0, {max(self.type(x).shape[axis] - 1, 0)})"
        )
        size = self.type(x).size // max(self.type(x).shape[axis], 1) * self.type(index).size
        return f"ops.take({x}, {bounded}, axis={axis})" if size <= MOST else None

    def along(self) -> str | None:
        x = self.pick(lambda t: t.rank > 0 and t.size > 0 and t.dtype is not bool_)
        if x is None:
            return None
        axis = self.number(self.type(x).rank)
        return f"ops.take_along_axis({x}, ops.argmax({x}, axis={axis}, keepdims=True), axis={axis})"

    def normalize(self) -> str | None:
        x = self.pick(lambda t: t.dtype.floating and t.rank > 0 and t.size > 0)
        if x is None:
            return None
        axis = self.number(self.type(x).rank)
        name = self.one(("softmax", "log_softmax", "centre"))
        return (
            f"{x} - ops.mean({x}, axis={axis}, keepdims=True)" if name == "centre" else f"ops.{name}({x}, axis={axis})"
        )

    def matmul(self) -> str | None:
        x = self.pick(lambda t: t.rank == 2 and t.dtype.floating and t.shape[1] <= 64)
        if x is None:
            return None
        t = self.type(x)
        other = self.pick(lambda o: o.dtype is t.dtype and o.rank == 2 and o.shape[0] == t.shape[1])
        if other is None or self.yes():
            return f"ops.matmul({x}, ops.matrix_transpose({x}))" if t.shape[0] <= 64 else None
        return f"ops.matmul({x}, {other})"

    def pool(self) -> str | None:
        x = self.pick(lambda t: t.rank == 4 and t.dtype.floating and t.size > 0 and min(t.shape[2:]) >= 2)
        return x and f"ops.{self.one(('max_pool', 'avg_pool'))}({x}, 2, stride={self.one((1, 2))})"

    def steps(self) -> tuple[Callable[[], str | None], ...]:
        if self.failing:
            return (self.take, self.binary, self.take, self.unary, self.binary, self.cut, self.reduce, self.astype, self.where,
                    self.view, self.take, self.binary, self.argmax, self.kept_part)  # fmt: skip
        return (
            self.cut, self.reduce, self.unary, self.binary, self.cut, self.reduce, self.view, self.cut, self.binary, self.join,
            self.compare, self.where, self.astype, self.take, self.normalize, self.argmax, self.along, self.matmul, self.pool,
            self.cut, self.reduce, self.unary, self.binary, self.join, self.view, self.normalize, self.binary, self.reduce,
            self.kept_part, self.kept_part, self.kept_part, self.kept_part,
        )  # fmt: skip

    def grow(self) -> None:
        """One more line, if it fits."""
        expression = self.one(self.steps())()
        if expression:
            self.line(expression)


def _broadcasts(whole: Shape, part: Shape) -> bool:
    """Whether an array of a shape broadcasts to another."""
    return len(part) <= len(whole) and all(
        n in (1, m) for n, m in zip(reversed(part), reversed(whole), strict=False)
    )  # fmt: skip


def _argument(random: Random) -> TensorType:
    """A few sides, some of them longer than a vector; rarely an axis without elements."""
    shape: list[int] = []
    for _ in range(random.choice((0, 1, 2, 2, 2, 3, 3, 3, 4, 4))):
        side = random.choice(SIDES) if random.randrange(50) else 0
        if math.prod(shape) * side <= MOST // 2:
            shape.append(side)
    return TensorType(random.choice((f32, f32, f64, i64, bool_)), tuple(shape))


def _index(random: Random) -> TensorType:
    return TensorType(random.choice((i64, DTYPES["i32"], DTYPES["u8"])), (random.choice((1, 2, 5, 17)),))


def program_of(random: Random, most: int, floating: bool = False, failing: bool = False) -> UserProgram:
    """A program of up to ``most`` lines and several results, some of which are views, reductions or arguments.

    ``floating``: it has an argument to take gradients of; ``failing``: it has ops that can fail, and inputs for which they do.
    """
    types = [_argument(random) for _ in range(random.choice((1, 1, 2)))]
    if floating and not any(t.dtype.floating for t in types):
        types[0] = types[0].with_dtype(f32)
    types.append(_index(random))
    names = [f"x{n}" for n in range(len(types))]
    text = ""

    def grown(*tensors: Any) -> Any:
        nonlocal text
        growth = _Growth(random, dict(zip(names, tensors, strict=True)), failing)
        wanted = random.randint(2, most)
        for _ in range(3 * wanted):
            if len(growth.lines) < wanted:
                growth.grow()
        made = [n for n in growth.values if n not in names] or [names[0]]
        unread = [n for n in made if sum(n in line for line in growth.lines) == 1]
        more = [random.choice(made if random.randrange(10) else names) for _ in range(random.randrange(4))]
        results = [made[-1], *unread[-4:-1], *growth.kept[:3], *more]
        text = "\n".join([f"def f({', '.join(names)}):", *growth.lines, f"    return {', '.join(results)},"])
        return tuple(growth.values[n] for n in results)

    tp.trace(grown, *types)
    numbers, wild = np.random.default_rng(random.randrange(1 << 16)), not random.randrange(4)
    arrays = [fill(numbers, t, wild) for t in types[:-1]]
    most_index = random.choice((1, 5, 100)) if failing else 3
    index = np.asarray(numbers.integers(0, most_index, types[-1].shape), types[-1].dtype.numpy)
    return UserProgram([*arrays, index], text)


def user_programs(most: int = 12, **options: bool) -> st.SearchStrategy[UserProgram]:
    """Programs from a seed each, as ``program_of`` makes them."""
    return st.randoms(use_true_random=True).map(lambda random: program_of(random, most, **options))
