"""A traced function as a program of another framework, for timing beside it: ``torch`` or ``jax.numpy`` text, a line per primitive.

Composites and kernels have to be gone (stage ``optimized``).  Ops are written by family, so no op is named: elementwise rules through
their scalar primitives, views through their own ``eval`` on a writer that looks like an array namespace, the rest through their lowering
rules.  Random words are Philox in the framework's own 64-bit integers, so draws are TapeIR's.  Checks are left out: what raises here is
undefined there.  Results agree with the interpreter to rounding.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ..ir import BackendError, Function, Instruction, TensorType, Value
from ..ir.op import Contract, Elementwise, Gather, Join, Key, Random32, Reduce, Scatter, Source, View
from ..ir.scalar import Scalar, ScalarBuilder
from ..ir.types import Array, DType, Shape, key, u16, u32, u64
from ..passes.rewrite import splat_of

OPERATORS = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "neg": "-{}", "fma": "{} * {} + {}", "pow": "{} ** {}",
    "eq": "{} == {}", "ne": "{} != {}", "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "is_nan": "{0} != {0}",
    "and": "{} & {}", "or": "{} | {}", "xor": "{} ^ {}", "not": "~{}", "shift_left": "{} << {}", "shift_right": "{} >> {}",
    "floor_divide": "{} // {}", "remainder": "{} % {}",
}  # fmt: skip
"""Primitives that both frameworks write as Python operators."""
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
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
        parts = [f"{s.start}:{s.stop}:{s.step}" for s in index]
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
    def words(self, parts: Sequence[Code]) -> Code:
        """Arrays interleaved: a new last axis."""

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
                k0, k1 = (self.line(f"({k} + {w}) & {_LOW}") for k, w in zip((k0, k1), _WEYL, strict=True))
            p0, p1 = (self.line(f"{m} * {c}") for m, c in zip(_MULTIPLIERS, (c0, c2), strict=True))
            c0, c2 = (self.line(f"(({p} >> 32) & {_LOW}) ^ {c} ^ {k}") for p, c, k in ((p1, c1, k0), (p0, c3, k1)))
            c1, c3 = self.line(f"{p1} & {_LOW}"), self.line(f"{p0} & {_LOW}")
        return [c0, c1, c2, c3]

    def _keys(self, v: Value) -> list[str]:
        words = self.wide(self.array(v))
        return [self.line(f"{words!s}[{n}]") for n in (0, 1)]

    def _draw(self, source: Value, type: TensorType) -> Code:
        blocks = -(-type.size // 4)
        if not blocks:
            return self.full(type.shape, 0, u32)
        words = self._philox([self.counters(blocks), "0", "0", "0"], self._keys(source))
        flat = self.reshape(self.words([Code(w, self) for w in words]), (4 * blocks,))
        return self.reshape(self.narrow(self.line(f"{flat!s}[:{type.size}]"), u32), type.shape)

    def _fold(self, op: Key, i: Instruction) -> Code:
        data = op.data(**i.attrs)
        if data is None:
            number = self.wide(self.array(i.operands[1]))
            low, high = self.line(f"{number} & {_LOW}"), self.line(f"({number} >> 32) & {_LOW}")
        else:
            low, high = str(data & _LOW), str(data >> 32)
        words = self._philox([low, high, "0", "1"], self._keys(i.operands[0]))
        return self.narrow(self.words([Code(w, self) for w in words[:2]]), key)

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
                f"{_tuple(names)} = {whole}"
                for names, whole in ((given[True], "state"), (given[False], "inputs"))
                if names
            ),
            *_freed(self.lines, {*state, *outputs}),
            f"return {_tuple(state)}, {_tuple(outputs)}",
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
        exec(compile(source, f"<{self.namespace} of @{self.function.name}>", "exec"), scope)
        return Peer(self.function, source, scope["step"], self.hold, self.host)


def _tuple(names: Sequence[str]) -> str:
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


# JAX


class JaxWriter(Writer):
    """``jax.numpy``; the text is jitted whole."""

    namespace = "jnp"
    functions = {
        "abs": "jnp.abs({})", "sqrt": "jnp.sqrt({})", "floor": "jnp.floor({})", "rint": "jnp.rint({})",
        "select": "jnp.where({}, {}, {})", "exp": "jnp.exp({})", "log": "jnp.log({})", "log1p": "jnp.log1p({})",
        "expm1": "jnp.expm1({})", "tanh": "jnp.tanh({})", "sigmoid": "jax.nn.sigmoid({})", "erf": "jax.lax.erf({})",
        "sin": "jnp.sin({})", "cos": "jnp.cos({})", "pow": "jnp.power({}, {})",
    }  # fmt: skip

    def __init__(self, function: Function) -> None:
        super().__init__(function)
        self.jax: Any = import_module("jax")
        self.jax.config.update("jax_enable_x64", True)
        self.jnp: Any = import_module("jax.numpy")

    def scope(self) -> dict[str, Any]:
        return {"jax": self.jax, "jnp": self.jnp, "np": np, "saturate": _saturate}

    def constant(self, value: float | bool, dtype: DType) -> Scalar:
        return Scalar(dtype, self.keep(np.asarray(value).astype(dtype.numpy)[()], "k"))

    def dtype(self, dtype: DType) -> str:
        return f'"{dtype.numpy.name}"'

    def full(self, shape: Shape, value: Any, dtype: DType) -> Code:
        number = self.keep(np.asarray(value).astype(dtype.numpy)[()], "k")
        return self.line(f"jnp.full({tuple(shape)}, {number}, {self.dtype(dtype)})")

    def hold(self, array: Array) -> Any:
        return self.jnp.asarray(array)

    def host(self, x: Any, type: TensorType) -> Array:
        return np.asarray(x)

    def wide(self, x: str) -> Code:
        return self.line(f'{x}.astype("int64")')

    def narrow(self, x: str, dtype: DType) -> Code:
        return self.line(f"{x}.astype({self.dtype(dtype)})")

    def _convert(self, a: Scalar, dtype: DType) -> str:
        if a.dtype.floating and dtype.integer:
            return self.line(f"saturate(jnp, {a.code}, np.{dtype.numpy.name})")
        zero = f"{a.code} != 0" if dtype.kind == "b" else f"{a.code}.astype({self.dtype(dtype)})"
        return self.line(zero)

    def _bits(self, a: Scalar, dtype: DType) -> str:
        return self.line(f"jax.lax.bitcast_convert_type({a.code}, {self.dtype(dtype)})")

    def transpose(self, x: str, axes: Shape) -> Code:
        return self.line(f"jnp.transpose({x}, {tuple(axes)})")

    def transposed(self, x: Code) -> str:
        return f"{x!s}.swapaxes(-1, -2)"

    def reduction(self, combine: str, x: Code, axes: Shape, type: TensorType, keepdims: bool) -> Code:
        dtype = f", dtype={self.dtype(type.dtype)}" if combine == "sum" else ""
        return self.line(f"jnp.{combine}({x}, axis={axes}, keepdims={keepdims}{dtype})")

    def argmax(self, rows: Code) -> Code:
        return self.line(f"jnp.argmax({rows}, axis=-1)")

    def chosen(self, x: Code, index: Code, shared: bool) -> Code:
        return self.line(f"jnp.take({x}, {index}, axis=1)" if shared else f"jnp.take_along_axis({x}, {index}, axis=1)")

    def added(self, shape: Shape, dtype: DType, index: Code, x: Code, shared: bool) -> Code:
        zeros = self.full(shape, 0, dtype)
        if shared:
            return self.line(f"{zeros!s}.at[:, {index}, :].add({x})")
        outer, inner = (
            self.keep(np.arange(shape[a]).reshape(form), "c") for a, form in ((0, (-1, 1, 1)), (2, (1, 1, -1)))
        )
        return self.line(f"{zeros!s}.at[{outer}, {index}, {inner}].add({x})")

    def joined(self, parts: Sequence[Code], axis: int) -> Code:
        return self.line(f"jnp.concatenate({_tuple(parts)}, axis={axis})")

    def laid(self, out: Code, index: str, x: Code) -> Code:
        return self.line(f"{out!s}.at[{index}].set({x})")

    def words(self, parts: Sequence[Code]) -> Code:
        return self.line(f"jnp.stack({_tuple(parts)}, axis=-1)")

    def counters(self, count: int) -> Code:
        return self.line(f'jnp.arange({count}, dtype="int64")')


def _saturate(xp: Any, x: Any, dtype: Any) -> Any:
    """Float to integer by TapeIR's rule: out of range saturates, NaN gives 0."""
    info = np.iinfo(dtype)
    inside = xp.where((x > float(info.min)) & (x < float(info.max)), x, 0).astype(dtype)
    low, high = dtype(info.min), dtype(info.max)
    return xp.where(x != x, dtype(0), xp.where(x >= float(info.max), high, xp.where(x <= float(info.min), low, inside)))


# PyTorch


class Number(str):
    """A constant written as a number."""

    __slots__ = ()


_STORED = {u16: "int32", u32: "int64", u64: "int64", key: "int64"}
"""Unsigned dtypes that torch computes little in are held in wider ones, or as the same 64 bits."""
_MASKED = {u16: 0xFFFF, u32: _LOW}
_SIGN = -(1 << 63)


class TorchWriter(Writer):
    """``torch`` functions on tensors of the CPU."""

    namespace = "torch"
    functions = {
        "abs": "torch.abs({})", "sqrt": "torch.sqrt({})", "floor": "torch.floor({})", "rint": "torch.round({})",
        "select": "torch.where({}, {}, {})", "exp": "torch.exp({})", "log": "torch.log({})", "log1p": "torch.log1p({})",
        "expm1": "torch.expm1({})", "tanh": "torch.tanh({})", "sigmoid": "torch.sigmoid({})", "erf": "torch.erf({})",
        "sin": "torch.sin({})", "cos": "torch.cos({})",
    }  # fmt: skip

    def __init__(self, function: Function) -> None:
        super().__init__(function)
        self.torch: Any = import_module("torch")

    def scope(self) -> dict[str, Any]:
        helpers = {"saturate": _torch_saturate, "shift_right": _torch_shift_right, "from_u64": _torch_from_u64}
        return {"torch": self.torch, "inf": math.inf, "nan": math.nan, **helpers}

    def dtype(self, dtype: DType) -> str:
        return f"torch.{_STORED.get(dtype, dtype.numpy.name)}"

    def hold(self, array: Array) -> Any:
        if array.dtype.name in ("uint16", "uint32", "uint64"):
            array = array.astype(np.int32 if array.itemsize == 2 else np.int64)
        return self.torch.from_numpy(np.array(array))

    def host(self, x: Any, type: TensorType) -> Array:
        return np.asarray(x.detach().numpy()).astype(type.dtype.numpy)

    # Numbers

    def constant(self, value: float | bool, dtype: DType) -> Scalar:
        return Scalar(dtype, Number(self._number(value, dtype)))

    def _number(self, value: Any, dtype: DType) -> str:
        number = np.asarray(value).astype(dtype.numpy).item()
        return repr(number - (1 << 64) if dtype is u64 and number >= 1 << 63 else number)

    def full(self, shape: Shape, value: Any, dtype: DType) -> Code:
        return self.line(f"torch.full({tuple(shape)}, {self._number(value, dtype)}, dtype={self.dtype(dtype)})")

    def tensor(self, a: Scalar) -> str:
        if not isinstance(a.code, Number):
            return a.code
        return self.line(f"torch.full((), {a.code!s}, dtype={self.dtype(a.dtype)})")

    def emit(self, primitive: str, arguments: tuple[Scalar, ...], dtype: DType) -> Scalar:
        if primitive in self.functions:  # tensors alone, but for a choice between a tensor and a number
            free = 2 if primitive == "select" and not isinstance(arguments[1].code, Number) else -1
            arguments = tuple(a if n == free else Scalar(a.dtype, self.tensor(a)) for n, a in enumerate(arguments))
        elif all(isinstance(a.code, Number) for a in arguments):
            arguments = (Scalar(arguments[0].dtype, self.tensor(arguments[0])), *arguments[1:])
        operand = arguments[-1].dtype
        if operand is u64:
            arguments = self._of_u64(primitive, arguments)
        made = super().emit(primitive, arguments, dtype)
        if dtype in _MASKED and primitive not in ("convert", "bits"):
            made = Scalar(dtype, self.line(f"{made.code} & {_MASKED[dtype]}"))
        return made

    def _of_u64(self, primitive: str, arguments: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        """Operands whose order as signed integers is theirs as unsigned ones; raises ``BackendError`` where that does not help."""
        if primitive in ("floor_divide", "remainder", "pow", "abs"):
            raise BackendError(f"torch has no {primitive} of u64")
        if primitive not in ("lt", "le", "gt", "ge"):
            return arguments
        return tuple(Scalar(a.dtype, self.line(f"{self.tensor(a)} ^ {_SIGN}")) for a in arguments)

    def _shift_right(self, a: Scalar, b: Scalar, dtype: DType) -> str:
        return self.line(f"shift_right({a.code}, {b.code})" if dtype is u64 else f"{a.code} >> {b.code}")

    def _convert(self, a: Scalar, dtype: DType) -> str:
        x = self.tensor(a)
        if dtype.kind == "b":
            return self.line(f"{x} != 0")
        if a.dtype.floating and dtype.integer:
            info = np.iinfo(dtype.numpy)
            if dtype is u64:
                raise BackendError("torch has no conversion of floats to u64")
            return self.line(f"saturate({x}, {info.min}, {info.max}, {self.dtype(dtype)})")
        if a.dtype is u64 and dtype.floating:
            return self.line(f"from_u64({x}, {self.dtype(dtype)})")
        return self._cut(self.line(f"{x}.to({self.dtype(dtype)})"), dtype)

    def _cut(self, x: Code, dtype: DType) -> Code:
        return self.line(f"{x} & {_MASKED[dtype]}") if dtype in _MASKED else x

    def _bits(self, a: Scalar, dtype: DType) -> str:
        x, signed = self.tensor(a), f"torch.int{dtype.bits}"
        if a.dtype in _MASKED:
            x = self.line(f"{x}.to({signed})")
        if dtype in _STORED:
            return self._cut(self.line(f"{x}.view({signed}).to({self.dtype(dtype)})"), dtype)
        return self.line(f"{x}.view({self.dtype(dtype)})")

    # Arrays

    def wide(self, x: str) -> Code:
        return self.line(f"{x}.to(torch.int64)")

    def narrow(self, x: str, dtype: DType) -> Code:
        return Code(x, self)

    def transposed(self, x: Code) -> str:
        return f"{x!s}.mT"

    def reduction(self, combine: str, x: Code, axes: Shape, type: TensorType, keepdims: bool) -> Code:
        if combine == "sum":
            made = self.line(f"torch.sum({x}, dim={axes}, keepdim={keepdims}, dtype={self.dtype(type.dtype)})")
            return self._cut(made, type.dtype)
        if type.dtype is u64:
            raise BackendError(f"torch has no {combine} of u64")
        return self.line(f"torch.a{combine}({x}, dim={axes}, keepdim={keepdims})")

    def argmax(self, rows: Code) -> Code:
        return self.line(f"torch.argmax({rows}, dim=-1)")

    def chosen(self, x: Code, index: Code, shared: bool) -> Code:
        return self.line(f"torch.index_select({x}, 1, {index})" if shared else f"torch.gather({x}, 1, {index})")

    def added(self, shape: Shape, dtype: DType, index: Code, x: Code, shared: bool) -> Code:
        zeros = self.full(shape, 0, dtype)
        return self.line(f"{zeros!s}.{'index_add' if shared else 'scatter_add'}(1, {index}, {x})")

    def joined(self, parts: Sequence[Code], axis: int) -> Code:
        return self.line(f"torch.cat({_tuple(parts)}, dim={axis})")

    def laid(self, out: Code, index: str, x: Code) -> Code:
        self.lines.append(f"{out!s}[{index}] = {x}")
        return out

    def words(self, parts: Sequence[Code]) -> Code:
        return self.line(f"torch.stack({_tuple(parts)}, dim=-1)")

    def counters(self, count: int) -> Code:
        return self.line(f"torch.arange({count})")


def _torch_saturate(x: Any, low: int, high: int, dtype: Any) -> Any:
    """Float to integer by TapeIR's rule: out of range saturates, NaN gives 0."""
    inside = x.where((x > float(low)) & (x < float(high)), 0).to(dtype)
    inside = inside.where(x < float(high), high).where(x > float(low), low)
    return inside.where(x == x, 0)


def _torch_shift_right(x: Any, n: Any) -> Any:
    """Unsigned 64 bits, held in int64, moved down by less than 64."""
    half = (x >> 1) & ((1 << 63) - 1)
    if isinstance(n, int):
        return half >> (n - 1) if n else x
    return (half >> (n - 1).clamp(min=0)).where(n != 0, x)


def _torch_from_u64(x: Any, dtype: Any) -> Any:
    """Unsigned 64 bits, held in int64, as floats; an odd last bit of large ones decides their rounding."""
    half = ((x >> 1) & ((1 << 63) - 1)) | (x & 1)
    return x.to(dtype).where(x >= 0, half.to(dtype) * 2)


WRITERS: dict[str, type[Writer]] = {"torch": TorchWriter, "jax": JaxWriter}
