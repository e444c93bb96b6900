"""Writing a function as straight-line text of another framework: what the frameworks share."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import BackendError, Function, Instruction, TensorType, Value
from ...ir.escape import comment
from ...ir.op import Contract, Elementwise, Gather, Join, Key, Random32, Reduce, Scatter, Source, View
from ...ir.scalar import Scalar, ScalarBuilder
from ...ir.types import Array, DType, Shape, key, u32
from ...passes.rewrite import splat_of

OPERATORS = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "neg": "-{}", "fma": "{} * {} + {}", "pow": "{} ** {}",
    "eq": "{} == {}", "ne": "{} != {}", "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "is_nan": "{0} != {0}",
    "and": "{} & {}", "or": "{} | {}", "xor": "{} ^ {}", "not": "~{}", "shift_left": "{} << {}", "shift_right": "{} >> {}",
    "floor_divide": "{} // {}", "remainder": "{} % {}",
}  # fmt: skip
"""Primitives that both frameworks write as Python operators."""
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF
ROUNDS = 10


class Code(str):
    """The name of an array in the text; indexing it is written down."""

    __slots__ = ("writer",)
    writer: Writer

    def __new__(cls, text: str, writer: Writer) -> Code:
        made = super().__new__(cls, text)
        made.writer = writer
        return made

    def __getitem__(self, index: Any) -> Code:
        parts = ["..." if s is ... else f"{s.start}:{s.stop}:{s.step}" for s in index]
        return self.writer.line(f"{self!s}[{', '.join(parts)}]" if parts else str(self))


@dataclass(frozen=True)
class Peer:
    """A function in another framework: its text, and how it is run.

    ``step(state, inputs) -> (new state, other results)``: tuples of the framework's arrays in the order of the function's arguments and
    results.  ``load`` and ``host`` carry an array there and back.
    """

    function: Function
    source: str
    step: Callable[[tuple[Any, ...], tuple[Any, ...]], tuple[tuple[Any, ...], tuple[Any, ...]]]
    load: Callable[[Array], Any]
    host: Callable[[Any, TensorType], Array]

    def split(self, arrays: Sequence[Array]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """State and inputs in the framework, for one array per argument."""
        loaded = [
            (role not in ("input", None), self.load(a)) for role, a in zip(self.function.roles, arrays, strict=True)
        ]
        return tuple(a for own, a in loaded if own), tuple(a for own, a in loaded if not own)

    def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """All results for all arguments, in order, as ``Executable.run`` gives them."""
        f = self.function
        state, outputs = self.step(*self.split(arrays))
        new, rest = dict(zip((v for v, _ in f.state()), state, strict=True)), iter(outputs)
        made = [new[m.of] if m is not None and m.kind == "update" else next(rest) for m in f.marks]
        return tuple(self.host(a, v.type) for a, v in zip(made, f.results, strict=True))


class Writer(ScalarBuilder):
    """Writes a function as straight-line text of one framework."""

    namespace = ""
    functions: Mapping[str, str] = {}
    """Primitives that are functions, and their text."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {}
        self.names: dict[Value, Code] = {}
        self._made = 0

    # Text

    def line(self, expression: str) -> Code:
        """A new name for an expression."""
        name = Code(f"v{self._made}", self)
        self._made += 1
        self.lines.append(f"{name} = {expression}")
        return name

    def keep(self, value: Any, prefix: str) -> str:
        """The name of an object that the text uses."""
        name = f"{prefix}{len(self.constants)}"
        self.constants[name] = value
        return name

    def array(self, v: Value) -> Code:
        """The name of a value's array."""
        if v not in self.names:
            literal = splat_of(v)
            assert literal is not None
            self.names[v] = self.full(v.type.shape, literal.scalar, v.type.dtype)
        return self.names[v]

    def element(self, v: Value) -> Scalar:
        """A value as the operand of a scalar rule: a number where all its elements are one."""
        literal = splat_of(v)
        return Scalar(v.type.dtype, self.array(v)) if literal is None else self.constant(literal.scalar, v.type.dtype)

    def emit(self, primitive: str, arguments: tuple[Scalar, ...], dtype: DType) -> Scalar:
        special = getattr(self, f"_{primitive}", None)
        if special is not None:
            return Scalar(dtype, special(*arguments, dtype))
        codes = [a.code for a in arguments]
        if primitive in self.functions:
            return Scalar(dtype, self.line(self.functions[primitive].format(*codes)))
        return Scalar(dtype, self.line(OPERATORS[primitive].format(*codes)))

    # What a framework says

    @abstractmethod
    def dtype(self, dtype: DType) -> str:
        """The text of a dtype."""

    @abstractmethod
    def full(self, shape: Shape, value: Any, dtype: DType) -> Code:
        """An array of one number."""

    @abstractmethod
    def hold(self, array: Array) -> Any:
        """A constant array of the framework."""

    @abstractmethod
    def wide(self, x: str) -> Code:
        """Integers as int64, and whether wrapped or not: only their low bits are used."""

    @abstractmethod
    def narrow(self, x: str, dtype: DType) -> Code:
        """What ``wide`` gave, below 2**32, as the framework holds a dtype."""

    @abstractmethod
    def reduction(self, combine: str, x: Code, axes: Shape, type: TensorType, keepdims: bool) -> Code:
        """An entry of the kernel table over at least one axis."""

    @abstractmethod
    def argmax(self, rows: Code) -> Code:
        """Positions in the last axis, as i64."""

    @abstractmethod
    def transposed(self, x: Code) -> str:
        """The last two axes exchanged."""

    @abstractmethod
    def chosen(self, x: Code, index: Code, shared: bool) -> Code:
        """``x[:, index, :]``, or along axis 1."""

    @abstractmethod
    def added(self, shape: Shape, dtype: DType, index: Code, x: Code, shared: bool) -> Code:
        """Zeros with ``x`` added at ``[:, index, :]``, or along axis 1."""

    @abstractmethod
    def joined(self, parts: Sequence[Code], axis: int) -> Code:
        """Arrays one after the other."""

    @abstractmethod
    def laid(self, out: Code, index: str, x: Code) -> Code:
        """``out`` with ``x`` at an index."""

    @abstractmethod
    def counters(self, count: int) -> Code:
        """``0..count-1`` as int64."""

    # What views call

    def reshape(self, x: str, shape: Shape) -> Code:
        return self.line(f"{self.namespace}.reshape({x}, {tuple(shape)})")

    def broadcast_to(self, x: str, shape: Shape) -> Code:
        return self.line(f"{self.namespace}.broadcast_to({x}, {tuple(shape)})")

    def flip(self, x: str, axes: Shape) -> Code:
        return self.line(f"{self.namespace}.flip({x}, {tuple(axes)})")

    def transpose(self, x: str, axes: Shape) -> Code:
        return self.line(f"{self.namespace}.permute({x}, {tuple(axes)})")

    def stack(self, parts: Sequence[str], axis: int) -> Code:
        return self.line(f"{self.namespace}.stack({tuple_of(parts)}, {axis})")

    # Ops, by family

    def instruction(self, i: Instruction) -> None:
        """Write one instruction."""
        op, type_ = i.op, i.result.type
        if splat_of(i.result) is not None:
            return  # written where it is used
        if isinstance(op, Source):
            literal = op.literal(**i.attrs)
            if literal.size and not any(literal.strides):
                made = self.full(type_.shape, literal.reshape(-1)[0].item(), type_.dtype)
            else:
                made = Code(self.keep(self.hold(np.ascontiguousarray(literal)), "c"), self)
        elif isinstance(op, View):
            made = op.eval(self, self.array(i.operands[0]), **i.attrs)
        elif isinstance(op, Elementwise):
            made = self._elementwise(op, i)
        elif isinstance(op, Reduce):
            made = self._reduce(op, i)
        elif isinstance(op, Contract):
            a, b = (
                self.transposed(self.array(o)) if i.attrs[flag] else self.array(o)
                for o, flag in zip(i.operands, op.transposes, strict=True)
            )
            made = self.line(f"{self.namespace}.matmul({a}, {b})")
        elif isinstance(op, Gather):
            made = self._gather(op, i)
        elif isinstance(op, Scatter):
            made = self._scatter(op, i)
        elif isinstance(op, Join):
            made = self._join(op, i)
        elif isinstance(op, Random32):
            words = Scalar(u32, self._draw(i.operands[0], type_))
            made = op.scalar(self, words, **i.attrs).code
        elif isinstance(op, Key):
            made = self._fold(op, i)
        else:
            raise BackendError(f"{op.name} is no op that another framework is given: decompose and inline come first")
        self.names[i.result] = made

    def _elementwise(self, op: Elementwise, i: Instruction) -> Code:
        made = op.scalar(self, *[self.element(o) for o in i.operands], **i.attrs)
        code = Code(self.tensor(made), self)
        return self.broadcast_to(code, i.result.type.shape) if all(map(splat_of, i.operands)) else code

    def tensor(self, a: Scalar) -> str:
        """A scalar's text as an array, even where it is a number."""
        return a.code

    def _reduce(self, op: Reduce, i: Instruction) -> Code:
        x, result = i.operands[0], i.result.type
        axes: Shape = tuple(i.attrs["axes"])
        if op.combine == "argmax":
            kept = tuple(a for a in range(x.type.rank) if a not in axes)
            size = math.prod([x.type.shape[a] for a in axes])
            rows = self.reshape(self.transpose(self.array(x), (*kept, *axes)), (*[x.type.shape[a] for a in kept], size))
            return self.reshape(self.argmax(rows), result.shape)
        if not axes:
            return self.array(x)
        if x.type.size == 0:
            return self.full(result.shape, op.identity(result.dtype), result.dtype)
        return self.reduction(op.combine, self.array(x), axes, result, bool(i.attrs["keepdims"]))

    def _gather(self, op: Gather, i: Instruction) -> Code:
        whole, index = i.operands
        walk = op.walk((whole.type, index.type), **i.attrs)
        x = self.reshape(self.array(whole), (walk.outer, walk.size, walk.inner))
        shape = (walk.count,) if walk.shared else (walk.outer, walk.count, walk.inner)
        made = self.chosen(x, self.reshape(self.wide(self.array(index)), shape), walk.shared)
        return self.reshape(made, i.result.type.shape)

    def _scatter(self, op: Scatter, i: Instruction) -> Code:
        part, index = i.operands
        walk = op.walk((part.type, index.type), **i.attrs)
        x = self.reshape(self.array(part), (walk.outer, walk.count, walk.inner))
        shape = (walk.count,) if walk.shared else (walk.outer, walk.count, walk.inner)
        at = self.reshape(self.wide(self.array(index)), shape)
        made = self.added((walk.outer, walk.size, walk.inner), part.type.dtype, at, x, walk.shared)
        return self.reshape(made, i.result.type.shape)

    def _join(self, op: Join, i: Instruction) -> Code:
        types = tuple([o.type for o in i.operands])
        blocks = op.blocks(types, **i.attrs)
        apart = [a for a in range(i.result.type.rank) if len({b.start[a] for b in blocks}) > 1]
        full = sum(t.size for t in types) == i.result.type.size
        if full and len(blocks) > 1 and len(apart) <= 1:
            # Blocks that fill the result and differ along one axis lie one after the other.
            axis = apart[0] if apart else 0
            order = sorted(range(len(blocks)), key=lambda n: blocks[n].start[axis])
            used = [n for n in order if types[n].size or len(order) == 1]
            return self.joined([self.array(i.operands[n]) for n in used or order[:1]], axis)
        made = self.full(i.result.type.shape, 0, i.result.type.dtype)
        for o, block in zip(i.operands, blocks, strict=True):
            if o.type.size:
                last = [a + (n - 1) * s + 1 for a, n, s in zip(block.start, o.type.shape, block.step, strict=True)]
                index = ", ".join(f"{a}:{b}:{s}" for a, b, s in zip(block.start, last, block.step, strict=True))
                made = self.laid(made, index or "...", self.array(o))
        return made

    # Random words

    def _philox(self, counters: Sequence[str], keys: Sequence[str]) -> list[str]:
        """Ten rounds over int64 arrays that hold 32-bit words (see ``ir/philox.py``)."""
        c0, c1, c2, c3 = counters
        k0, k1 = keys
        for n in range(ROUNDS):
            if n:
                k0, k1 = (self.line(f"({k} + {w}) & {LOW}") for k, w in zip((k0, k1), _WEYL, strict=True))
            p0, p1 = (self.line(f"{m} * {c}") for m, c in zip(_MULTIPLIERS, (c0, c2), strict=True))
            c0, c2 = (self.line(f"(({p} >> 32) & {LOW}) ^ {c} ^ {k}") for p, c, k in ((p1, c1, k0), (p0, c3, k1)))
            c1, c3 = self.line(f"{p1} & {LOW}"), self.line(f"{p0} & {LOW}")
        return [c0, c1, c2, c3]

    def _keys(self, v: Value) -> list[str]:
        words = self.wide(self.array(v))
        return [self.line(f"{words!s}[{n}]") for n in (0, 1)]

    def _draw(self, source: Value, type: TensorType) -> Code:
        blocks = -(-type.size // 4)
        if not blocks:
            return self.full(type.shape, 0, u32)
        words = self._philox([self.counters(blocks), "0", "0", "0"], self._keys(source))
        flat = self.reshape(self.stack(words, -1), (4 * blocks,))
        return self.reshape(self.narrow(self.line(f"{flat!s}[:{type.size}]"), u32), type.shape)

    def _fold(self, op: Key, i: Instruction) -> Code:
        data = op.data(**i.attrs)
        if data is None:
            number = self.wide(self.array(i.operands[1]))
            low, high = self.line(f"{number} & {LOW}"), self.line(f"({number} >> 32) & {LOW}")
        else:
            low, high = str(data & LOW), str(data >> 32)
        words = self._philox([low, high, "0", "1"], self._keys(i.operands[0]))
        return self.narrow(self.stack(words[:2], -1), key)

    # The program

    def write(self) -> str:
        """``step``, which takes and returns tuples of arrays."""
        f = self.function
        given: dict[bool, list[str]] = {True: [], False: []}
        for n, (v, role) in enumerate(zip(f.arguments, f.roles, strict=True)):
            self.names[v] = Code(f"a{n}", self)
            given[role not in ("input", None)].append(f"a{n}")
        for i in f.instructions:
            self.instruction(i)
        updates: dict[Value, str] = {}
        outputs: list[str] = []
        for v, mark in zip(f.results, f.marks, strict=True):
            if mark is not None and mark.kind == "update":
                updates[mark.of] = self.array(v)
            else:
                outputs.append(self.array(v))
        state = [updates.get(v, self.names[v]) for v, _ in f.state()]
        body = [
            *(
                f"{tuple_of(names)} = {whole}"
                for names, whole in ((given[True], "state"), (given[False], "inputs"))
                if names
            ),
            *_freed(self.lines, {*state, *outputs}),
            f"return {tuple_of(state)}, {tuple_of(outputs)}",
        ]
        return "\n".join(["def step(state, inputs):", *[f"    {line}" for line in body], ""])

    @abstractmethod
    def scope(self) -> dict[str, Any]:
        """The names that the text uses besides its constants."""

    @abstractmethod
    def host(self, x: Any, type: TensorType) -> Array:
        """An array of the framework as one of NumPy."""

    def peer(self) -> Peer:
        """The program, ready to run."""
        source = self.write()
        scope = {**self.scope(), **self.constants}
        exec(compile(source, f"<{self.namespace} of @{comment(self.function.name)}>", "exec"), scope)
        return Peer(self.function, source, scope["step"], self.hold, self.host)


def tuple_of(names: Sequence[str]) -> str:
    """A tuple of names as text."""
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def _freed(lines: Sequence[str], kept: set[str]) -> list[str]:
    """The lines, each followed by ``del`` of what it is the last to use."""
    seen = set(kept)
    result: list[str] = []
    for line in reversed(lines):
        done = [n for n in dict.fromkeys(re.findall(r"\bv\d+\b", line)) if n not in seen]
        seen.update(done)
        result.append(f"{line}; del {', '.join(done)}" if done else line)
    return result[::-1]
