"""The elements of a kernel: where they lie, what they are, and how they are read and written.

What a kernel does with its threads is in ``nest.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir import Instruction, Value
from ...ir.op import Elementwise, Gather, Join, Random32, Source, View
from ...ir.scalar import Scalar, scalar_of
from ...ir.types import DType, i64, u32, u64
from ...passes.loops import REDUCED, Access, Bound, Nest, rules
from ...passes.rewrite import repeated_number
from .builder import CBuilder, loaded, number, register_type, stored

UNROLLED = 4
"""Elements a thread of a cheap map computes before it writes any: neighbours, read and written together where they can be."""
WIDE_BYTES = 16
"""What neighbours that are read together begin at a multiple of."""
WIDE = {
    "f32": ("float4", 4), "i32": ("int4", 4), "u32": ("uint4", 4), "f64": ("double2", 2), "i64": ("longlong2", 2),
    "u64": ("ulonglong2", 2), "f16": ("ushort4", 4), "bf16": ("ushort4", 4), "i16": ("short4", 4), "u16": ("ushort4", 4),
    "i8": ("char4", 4), "u8": ("uchar4", 4), "bool": ("uchar4", 4),
}  # fmt: skip
"""What several elements of a dtype are read as, and how many those are."""


class Neighbours:
    """Where the neighbours of a thread are read together: the innermost index of the first, the one at hand, and what was read."""

    def __init__(self, first: str) -> None:
        self.first, self.number = first, 0
        self.read: dict[object, str] = {}


class ElementWriter:
    """Writes the values of a nest of loops at the place that ``index`` says, each once in a stretch of code."""

    def __init__(self, nest: Nest, aligned: Sequence[bool] | None, fast: bool) -> None:
        self.nest = nest
        self.c = CBuilder(fast)
        self.index: list[str] = ["0"] * len(nest.dims)
        self.memo: dict[object, Scalar] = {}
        self.reduced: dict[Value, Scalar] = {}
        self.kept: dict[Value, str] = {}
        f = nest.function
        sizes = [v.type.size for v in (*f.arguments, *f.results)]
        self.int = "long long" if max(nest.size, *sizes, 0) * 2 >= 1 << 31 else "int"
        self.places = {a: f"a{n}" for n, a in enumerate(f.arguments)}
        names = [*self.places.values(), *(f"r{n}" for n in range(len(f.results)))]
        self.aligned = dict(zip(names, aligned or [True] * len(names), strict=True))
        self.wide: Neighbours | None = None

    # Positions

    def integer(self, expression: str, hint: str = "i") -> str:
        """A whole number under a name, unless it is one already."""
        if expression.lstrip("-").isdigit() or expression.isidentifier():
            return expression
        name = self.c.fresh(hint)
        self.c.line(f"const {self.int} {name} = {expression};")
        return name

    def unravel(self, flat: str, dims: Sequence[int]) -> None:
        """Set the indices of dimensions from their flat one."""
        sizes = [self.nest.dims[d].size for d in dims]
        for n, d in enumerate(dims):
            inner = math.prod(sizes[n + 1 :])
            text = flat if inner == 1 else f"{flat} / {inner}"
            self.index[d] = self.integer(
                text if n == 0 else f"{text} % {sizes[n]}" if inner == 1 else f"({text}) % {sizes[n]}"
            )

    def position(self, access: Access) -> str:
        """A position in elements, as an expression."""
        terms = [
            f"{index} * {stride}" if stride != 1 else index
            for index, stride, dim in zip(self.index, access.strides, self.nest.dims, strict=True)
            if stride and dim.size > 1 and index != "0"
        ]
        if access.offset or not terms:
            terms.append(str(access.offset))
        return " + ".join(terms)

    # Values

    def operand(self, v: Value, access: Access) -> Scalar:
        """A value at this place; numbers are written in."""
        constant = repeated_number(v)
        return self.c.constant(constant, v.type.dtype) if constant is not None else self.evaluate(v, access)

    def evaluate(self, v: Value, access: Access) -> Scalar:
        """A value at this place, computed once in a stretch of code."""
        if v in self.reduced:
            return self.reduced[v]
        form = (v, access)
        if form not in self.memo:
            self.memo[form] = self._compute(v, access)
        return self.memo[form]

    def _compute(self, v: Value, access: Access) -> Scalar:
        nest = self.nest
        if v in self.places:
            return self._element(self.places[v], v.type.dtype, nest.argument_access(v, access))
        if v in self.kept and access == nest.full():
            return Scalar(v.type.dtype, self.kept[v])
        i = v.owner
        assert i is not None
        op = i.op
        if isinstance(op, View):
            return self.operand(i.operands[0], nest.view(i, access))
        if isinstance(op, Elementwise):
            return scalar_of(op, self.c, [self.operand(o, access) for o in i.operands], i.attrs, v.type.dtype)
        if isinstance(op, Source):
            axes = nest.coordinates(access, i.result.type.shape)

            def index(axis: int) -> Scalar:
                return Scalar(i64, f"(long long)({self.position(axes[axis])})")

            made: Scalar = rules(i).element(self.c, index, **i.attrs)
            return made
        if isinstance(op, Join):
            return self._join(i, access)
        if isinstance(op, Random32):
            words = f"((const unsigned *){self.places[i.operands[0]]})"
            word = self.c.name(
                f"philox_word((unsigned long long)({self.position(access)}), {words}[0], {words}[1])", u32
            )
            return scalar_of(op, self.c, [word], i.attrs, v.type.dtype)
        assert isinstance(op, Gather), f"{op.name} was not finished before it is read"
        return self._picked(i, access) if nest.is_picked(i) else self._taken(i, access)

    def _element(self, base: str, dtype: DType, access: Access) -> Scalar:
        """An element of an argument; of neighbours that lie together, all are read at once."""
        wide = self.wide
        if wide is None or not self.together(base, dtype, access):
            return self.load(base, dtype, self.position(access))
        kind, lanes = WIDE[dtype.name]
        part, lane = divmod(wide.number, lanes)
        form = (base, access, part)
        if form not in wide.read:
            here = self.index[-1]
            self.index[-1] = wide.first
            at = self.position(access) + (f" + {part * lanes}" if part else "")
            self.index[-1] = here
            wide.read[form] = self.c.fresh("w")
            self.c.line(f"const {kind} {wide.read[form]} = *(const {kind} *)({base} + {at});")
        return self.c.name(loaded(f"{wide.read[form]}.{'xyzw'[lane]}", dtype), dtype)

    def together(self, base: str, dtype: DType, access: Access) -> bool:
        """Whether the ``UNROLLED`` neighbours of a thread lie side by side and begin at a multiple of their size."""
        *outer, inner = access.strides
        return (
            dtype.name in WIDE
            and self.aligned[base]
            and inner == 1
            and all(s % UNROLLED == 0 for s in (*outer, access.offset))
        )

    def load(self, base: str, dtype: DType, position: str) -> Scalar:
        """An element of memory."""
        return self.c.name(loaded(f"{base}[{position}]", dtype), dtype)

    def _condition(self, bounds: Sequence[Bound]) -> str:
        parts: list[str] = []
        for b in bounds:
            at = self.integer(self.position(b.position))
            parts.append(f"{at} >= 0 && {at} < {b.size}")
        return " && ".join(parts)

    def _join(self, i: Instruction, access: Access) -> Scalar:
        dtype = i.result.type.dtype
        total = self.c.fresh()
        self.c.line(f"{register_type(dtype)} {total} = {number(0, dtype)};")
        for operand, inner, bounds in self.nest.blocks(i, access):
            if not bounds:
                self.c.line(f"{total} = {self.operand(operand, inner).code};")
                continue
            condition = self._condition(bounds)
            outside, wide = self.memo, self.wide
            with self.c.block(f"if ({condition})"):
                self.memo, self.wide = dict(outside), None
                self.c.line(f"{total} = {self.operand(operand, inner).code};")
            self.memo, self.wide = outside, wide
        return Scalar(dtype, total)

    def _inside(self, index: Scalar, size: int) -> str:
        """An index moved inside its axis where it is not (the check has raised then)."""
        wide = self.c.convert(index, u64)
        inside = self.c.compare("lt", wide, self.c.constant(size, u64))
        return self.integer(f"({self.int})({inside.code} ? {wide.code} : 0)")

    def _picked(self, i: Instruction, access: Access) -> Scalar:
        """One element of the reduced row of a value that the kernel computes."""
        size = rules(i).walk(tuple([o.type for o in i.operands]), **i.attrs).size
        at = self._inside(self.operand(i.operands[1], access), size)
        here, memo, kept = list(self.index), self.memo, self.kept
        self.memo, self.kept = {}, {}
        self.unravel(at, [d for d, x in enumerate(self.nest.dims) if x.role == REDUCED])
        found = self.operand(i.operands[0], self.nest.full())
        self.index, self.memo, self.kept = here, memo, kept
        return found

    def _taken(self, i: Instruction, access: Access) -> Scalar:
        whole = i.operands[0]
        size = rules(i).walk(tuple([o.type for o in i.operands]), **i.attrs).size
        to_index, base, step = self.nest.gather(i, access)
        offset = self.nest.layouts[self.nest.argument_index[whole]].offset
        at = self._inside(self.operand(i.operands[1], to_index), size)
        position = self.position(Access(base.offset + offset, base.strides))
        return self.load(self.places[whole], whole.type.dtype, f"{at} * {step} + {position}")

    # Results

    def values(self, results: Sequence[int]) -> list[tuple[int, str, str]]:
        """Results by number, each as its position in memory and its value: all are known before one is written."""
        found: list[tuple[int, str, str]] = []
        for n in results:
            r = self.nest.function.results[n]
            code = str(self.operand(r, self.nest.accesses[n]).code)
            found.append((n, self.integer(self.position(self.nest.stores[n]), "o"), code))
        return found

    def write(self, values: Sequence[tuple[int, str, str]]) -> None:
        """Write results where they belong."""
        for n, position, code in values:
            dtype = self.nest.function.results[n].type.dtype
            self.c.line(f"r{n}[{position}] = {stored(code, dtype)};")
