"""A kernel function as one LLVM function: its nest of loops with explicit vectors of 16 lanes.

``void @kernel(ptr arguments, i64 begin, i64 end)`` runs units ``begin`` to ``end``: vectors of a flat map, rows, or bands of columns.
``arguments`` points to the addresses of the kernel's operands, then of its results.  Units are independent, so how they are dealt to
threads cannot change a bit.

Sums have one order whatever computes them.  Along a row: 16 lanes, lane ``j`` adding ``x[j], x[16 + j], ...`` from ``-0.0``, folded
16-8-4-2-1; over 16384 elements, each run of 16384 by that rule, and the runs' sums by that rule again.  Down a column: rows in order in
blocks of 256, the blocks' sums in order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from ...ir import Instruction, Value
from ...ir.op import Elementwise, Gather, Join, Random32, Reduce, Source, View
from ...ir.scalar import Scalar
from ...ir.types import DType, bool_, i64, u32, u64
from ...passes.loops import OUTER, REDUCED, Access, Bound, Nest, rules
from ...passes.rewrite import splat_of
from . import philox
from .vector import VectorBuilder

LANES = 16
ROW_RUN = 16384
COLUMN_RUN = 256
FAST_VECTORS = 4
UNROLLED = 4
"""Rows of up to this many vectors are written out, their values kept in registers."""
BAND = 4
TEMPORARY_BYTES = 1 << 17
STREAM_ALIGNMENT = 16
STREAMED = "!0 = !{i32 1}"
RECOMPUTED_COST = 2
COSTS = {"div": 6, "sqrt": 6, "exp": 20, "log": 20, "log1p": 25, "expm1": 25, "tanh": 25, "sigmoid": 22, "erf": 30, "sin": 30,
         "cos": 30, "pow": 80, "floor_divide": 20, "remainder": 20}  # fmt: skip


def memory_type(dtype: DType) -> str:
    """The LLVM type of an element in memory."""
    return "i8" if dtype is bool_ else {"f32": "float", "f64": "double"}.get(dtype.name, f"i{dtype.bits}")


def item_size(dtype: DType) -> int:
    """Bytes of an element in memory."""
    return max(dtype.bits // 8, 1)


class _Builder(VectorBuilder):
    """A builder that numbers and declares for the whole kernel."""

    def __init__(self, width: int, writer: NestWriter, lines: list[str]) -> None:
        super().__init__(width)
        self.writer, self.lines = writer, lines
        self.declarations, self.functions = writer.declarations, writer.functions

    def fresh(self, hint: str = "t") -> str:
        return self.writer.fresh(hint)


class Section:
    """A stretch of straight code, and the block in which it ends."""

    def __init__(self, writer: NestWriter, label: str) -> None:
        self.lines: list[str] = []
        self.label = label
        self._builders = {w: _Builder(w, writer, self.lines) for w in (1, LANES)}

    def builder(self, width: int) -> _Builder:
        builder = self._builders[width]
        builder.label = self.label
        return builder

    def end(self, builder: VectorBuilder) -> None:
        """Take over the block in which a builder ended."""
        self.label = builder.label


@dataclass
class Carry:
    """A value that goes from one round of a loop to the next."""

    type: str
    now: str


@dataclass
class Spot:
    """Where in the loops code runs: the reduced or lane index, which vector of several, and the lanes that count (None: all)."""

    index: str = "0"
    vector: int = 0
    lane: str = "0"
    mask: str | None = None
    count: int = LANES
    point: str | None = None


@dataclass(frozen=True)
class Mask:
    """The lanes that may be read: an i1, or a vector of them."""

    code: str
    width: int


@dataclass
class _Running:
    """A reduction under way in one vector: its lanes, and for floating maxima whether a NaN was met."""

    reduction: Instruction
    lanes: Carry
    nan: Carry | None = None
    total: Carry | None = None
    spot: Spot = field(default_factory=Spot)


class NestWriter:
    """Writes one kernel; ``text`` is the function, ``units`` how many units it has and ``cost`` about how many cycles a unit takes."""

    def __init__(self, nest: Nest, name: str, fast: bool = False, streamed: Collection[int] = ()) -> None:
        """``streamed`` are the numbers of results that are written past the caches; they lie at multiples of ``STREAM_ALIGNMENT``."""
        self.nest, self.name, self.fast, self.streamed = nest, name, fast, streamed
        self.declarations: set[str] = set()
        self.functions: dict[str, str] = {}
        self._count = 0
        self.memo: dict[str, dict[object, Scalar]] = {"entry": {}, "row": {}, "loop": {}}
        self.pointers: dict[object, str] = {}
        self.entry = self.row = self.here = Section(self, "entry")
        self.outer_index: dict[int, str] = {}
        self.saved: dict[Value, int] = {}
        self.temporaries: dict[Value, str] = {}
        self.phase = 0
        self.lane_dim = len(nest.dims) - 1
        self._costs: dict[Value, int] = {}
        self.work = 0
        """About how many cycles the whole kernel takes on one core."""
        f = nest.function
        self.places: dict[Value, str] = {}
        for n, v in enumerate((*f.arguments, *f.results)):
            slot = self.fresh("slot")
            pointer = self.fresh("p")
            self.entry.lines += [
                f"  {slot} = getelementptr ptr, ptr %arguments, i64 {n}",
                f"  {pointer} = load ptr, ptr {slot}",
            ]
            if n < len(f.arguments):
                self.places[v] = pointer
        self.results = [f"%p{2 * (len(f.arguments) + n) + 1}" for n in range(len(f.results))]
        self._write()
        if STREAMED in self.declarations:
            self.entry.lines.append("  fence seq_cst")
        body = "\n".join(self.entry.lines)
        if fast:
            body = re.sub(r" = (fadd|fsub|fmul) ", r" = \1 contract ", body)
        self.text = f"define void @{name}(ptr %arguments, i64 %begin, i64 %end) {{\nentry:\n{body}\n  ret void\n}}"

    # Small parts

    def fresh(self, hint: str = "t") -> str:
        self._count += 1
        return f"%{hint}{self._count - 1}"

    def int(self, section: Section, op: str, a: str, b: str) -> str:
        """An i64 operation, done now where both operands are numbers."""
        if op == "mul" and "1" in (a, b):
            return b if a == "1" else a
        if op in ("add", "mul") and "0" in (a, b):
            return "0" if op == "mul" else b if a == "0" else a
        if a.lstrip("-").isdigit() and b.lstrip("-").isdigit():
            x, y = int(a), int(b)
            return str({"add": x + y, "mul": x * y, "udiv": x // y if y else 0, "urem": x % y if y else 0}[op])
        if op == "udiv" and b == "1":
            return a
        if op == "urem" and b == "1":
            return "0"
        name = self.fresh("i")
        section.lines.append(f"  {name} = {op} i64 {a}, {b}")
        return name

    def vector(self, dtype: DType) -> str:
        return self.entry.builder(LANES).type_of(dtype)

    def _loops_over(self, d: int) -> bool:
        """Whether a dimension is run through inside a unit."""
        if self.nest.reductions:
            return self.nest.dims[d].role == REDUCED
        return d == self.lane_dim

    def scope(self, access: Access, spot: Spot) -> str:
        varies = [d for d, s in enumerate(access.strides) if s and self.nest.dims[d].size > 1]
        if spot.point is not None and any(self.nest.dims[d].role == REDUCED for d in varies):
            return "row"
        if any(self._loops_over(d) for d in varies):
            return "loop"
        return "row" if varies else "entry"

    def is_wide(self, access: Access, spot: Spot) -> bool:
        """Whether a value differs from lane to lane."""
        return bool(access.strides[self.lane_dim]) and self.nest.dims[self.lane_dim].size > 1 and spot.point is None

    def section(self, scope: str) -> Section:
        return {"entry": self.entry, "row": self.row, "loop": self.here}[scope]

    # Positions

    def position(self, access: Access, spot: Spot, section: Section, dims: Sequence[int]) -> str:
        """The part of a position that some dimensions add (for the lane dimension, of lane 0), without the offset."""
        total = "0"
        for d in dims:
            if access.strides[d] and self.nest.dims[d].size > 1:
                index = self.index(d, spot, section)
                total = self.int(section, "add", total, self.int(section, "mul", index, str(access.strides[d])))
        return total

    def index(self, d: int, spot: Spot, section: Section) -> str:
        """The index of a dimension here."""
        dims = self.nest.dims
        if dims[d].role == REDUCED:
            flat = spot.index if spot.point is None else spot.point
            inner, over = 1, [n for n, x in enumerate(dims) if x.role == REDUCED]
            for n in over:
                if n > d:
                    inner *= dims[n].size
            index = self.int(section, "udiv", flat, str(inner))
            return index if d == over[0] else self.int(section, "urem", index, str(dims[d].size))
        if d == self.lane_dim and not (self.nest.reductions and self.nest.lanes_reduced):
            return spot.lane
        return self.outer_index[d]

    def pointer(self, base: str, dtype: DType, access: Access, spot: Spot) -> tuple[str, Section]:
        """The address of an access (of lane 0), its outer part computed outside the loop."""
        scope = self.scope(access, spot)
        section = self.section(scope)
        inner = [d for d in range(len(access.strides)) if self._moves(d)]
        outer = [d for d in range(len(access.strides)) if d not in inner]
        key = (base, access.offset, tuple(access.strides[d] for d in outer), memory_type(dtype))
        start = self.pointers.get(key)
        if start is None:
            varies = any(access.strides[d] and self.nest.dims[d].size > 1 for d in outer)
            home = self.row if varies else self.entry
            offset = self.int(home, "add", self.position(access, spot, home, outer), str(access.offset))
            start = base
            if offset != "0":
                start = self.fresh("p")
                home.lines.append(f"  {start} = getelementptr {memory_type(dtype)}, ptr {base}, i64 {offset}")
            self.pointers[key] = start
        moved = self.position(access, spot, section, inner)
        if moved == "0":
            return start, section
        pointer = self.fresh("p")
        section.lines.append(f"  {pointer} = getelementptr {memory_type(dtype)}, ptr {start}, i64 {moved}")
        return pointer, section

    def _moves(self, d: int) -> bool:
        """Whether a dimension's index differs inside a unit."""
        return self._loops_over(d) or d == self.lane_dim

    # Loads and stores

    def load(
        self, base: str, dtype: DType, access: Access, spot: Spot, only: Mask | None, at: Section | None = None
    ) -> Scalar:
        """An element (or vector) of memory; ``only`` are the lanes that may be read, ``at`` where ``base`` is known."""
        if at is None:
            pointer, section = self.pointer(base, dtype, access, spot)
        else:
            section, pointer = at, base
            offset = self.int(
                at, "add", self.position(access, spot, at, range(len(access.strides))), str(access.offset)
            )
            if offset != "0":
                pointer = self.fresh("p")
                at.lines.append(f"  {pointer} = getelementptr {memory_type(dtype)}, ptr {base}, i64 {offset}")
        size = item_size(dtype)
        if only is not None:
            section = self.here
        if not self.is_wide(access, spot):
            if only is not None:
                allowed = self.fresh("p")
                section.lines.append(f"  {allowed} = select i1 {only.code}, ptr {pointer}, ptr {base}")
                pointer = allowed
            name = self.fresh("x")
            section.lines.append(f"  {name} = load {memory_type(dtype)}, ptr {pointer}, align {size}")
            return self._from_memory(name, dtype, 1, section)
        stride = access.strides[self.lane_dim]
        mask = self._both(spot.mask, only.code if only else None, section)
        kind = f"<{LANES} x {memory_type(dtype)}>"
        suffix = f"v{LANES}{_suffix(dtype)}"
        name = self.fresh("x")
        if stride == 1:
            if mask is None:
                section.lines.append(f"  {name} = load {kind}, ptr {pointer}, align {size}")
            else:
                self.declarations.add(f"declare {kind} @llvm.masked.load.{suffix}.p0(ptr, i32, <{LANES} x i1>, {kind})")
                section.lines.append(
                    f"  {name} = call {kind} @llvm.masked.load.{suffix}.p0(ptr {pointer}, i32 {size}, "
                    f"<{LANES} x i1> {mask}, {kind} zeroinitializer)"
                )
        else:
            steps = ", ".join(f"i64 {n * stride}" for n in range(LANES))
            pointers = self.fresh("g")
            section.lines.append(
                f"  {pointers} = getelementptr {memory_type(dtype)}, ptr {pointer}, <{LANES} x i64> <{steps}>"
            )
            name = self._gather(pointers, dtype, mask, section)
        return self._from_memory(name, dtype, LANES, section)

    def _gather(self, pointers: str, dtype: DType, mask: str | None, section: Section) -> str:
        kind, suffix = f"<{LANES} x {memory_type(dtype)}>", f"v{LANES}{_suffix(dtype)}"
        self.declarations.add(
            f"declare {kind} @llvm.masked.gather.{suffix}.v{LANES}p0(<{LANES} x ptr>, i32, <{LANES} x i1>, {kind})"
        )
        name = self.fresh("x")
        section.lines.append(
            f"  {name} = call {kind} @llvm.masked.gather.{suffix}.v{LANES}p0(<{LANES} x ptr> {pointers}, i32 {item_size(dtype)}, "
            f"<{LANES} x i1> {mask or 'splat (i1 true)'}, {kind} zeroinitializer)"
        )
        return name

    def _both(self, a: str | None, b: str | None, section: Section) -> str | None:
        if a is None or b is None:
            return a or b
        name = self.fresh("m")
        section.lines.append(f"  {name} = and <{LANES} x i1> {a}, {b}")
        return name

    def _from_memory(self, name: str, dtype: DType, width: int, section: Section) -> Scalar:
        if dtype is not bool_:
            return Scalar(dtype, name)
        flag = self.fresh("b")
        kind = "i8" if width == 1 else f"<{width} x i8>"
        section.lines.append(f"  {flag} = icmp ne {kind} {name}, {'0' if width == 1 else 'zeroinitializer'}")
        return Scalar(dtype, flag)

    def _streams(self, n: int) -> bool:
        """Whether a result is written past the caches: by the last loop over a row, which computes little between two vectors.

        All its vectors lie at multiples of ``STREAM_ALIGNMENT``.
        """
        if n not in self.streamed or self.nest.phases == 1 or self.nest.function.results[n] in self.saved:
            return False
        access, size = self.nest.stores[n], item_size(self.nest.function.results[n].type.dtype)
        others = [s for d, s in enumerate(access.strides) if d != self.lane_dim and self.nest.dims[d].size > 1]
        return all(s * size % STREAM_ALIGNMENT == 0 for s in (access.offset, *others))

    def store(self, x: Scalar, n: int, spot: Spot, wide: bool) -> None:
        """Write an element (or vector) of a result; lanes that do not count are left alone."""
        access, base = self.nest.stores[n], self.results[n]
        pointer, section = self.pointer(base, x.dtype, access, spot)
        code, dtype = x.code, x.dtype
        kind = f"<{LANES} x {memory_type(dtype)}>" if wide else memory_type(dtype)
        if dtype is bool_:
            byte = self.fresh("b")
            section.lines.append(f"  {byte} = zext {f'<{LANES} x i1>' if wide else 'i1'} {code} to {kind}")
            code = byte
        size = item_size(dtype)
        stride = access.strides[self.lane_dim]
        if wide and spot.mask is None and stride == 1 and self._streams(n):
            self.declarations.add(STREAMED)
            section.lines.append(f"  store {kind} {code}, ptr {pointer}, align {STREAM_ALIGNMENT}, !nontemporal !0")
        elif not wide or (spot.mask is None and stride == 1):
            section.lines.append(f"  store {kind} {code}, ptr {pointer}, align {size}")
        elif stride != 1:
            pointers = self.fresh("g")
            steps = ", ".join(f"i64 {n * stride}" for n in range(LANES))
            section.lines.append(
                f"  {pointers} = getelementptr {memory_type(dtype)}, ptr {pointer}, <{LANES} x i64> <{steps}>"
            )
            suffix = f"v{LANES}{_suffix(dtype)}.v{LANES}p0"
            self.declarations.add(
                f"declare void @llvm.masked.scatter.{suffix}({kind}, <{LANES} x ptr>, i32, <{LANES} x i1>)"
            )
            mask = spot.mask or "splat (i1 true)"
            section.lines.append(
                f"  call void @llvm.masked.scatter.{suffix}({kind} {code}, <{LANES} x ptr> {pointers}, i32 {size}, <{LANES} x i1> {mask})"
            )
        else:
            self._store_some(code, dtype, pointer, spot.count, section)

    def _store_some(self, code: str, dtype: DType, pointer: str, count: int, section: Section) -> None:
        """Write the first lanes of a vector in pieces of 8, 4, 2 and 1: masked stores are slow where they are not native."""
        one, size = memory_type(dtype), item_size(dtype)
        start = 0
        for width in (8, 4, 2, 1):
            if count - start < width:
                continue
            lanes = ", ".join(f"i32 {start + n}" for n in range(width))
            piece, at = self.fresh("x"), pointer
            section.lines.append(
                f"  {piece} = shufflevector <{LANES} x {one}> {code}, <{LANES} x {one}> poison, <{width} x i32> <{lanes}>"
            )
            if start:
                at = self.fresh("p")
                section.lines.append(f"  {at} = getelementptr {one}, ptr {pointer}, i64 {start}")
            section.lines.append(f"  store <{width} x {one}> {piece}, ptr {at}, align {size}")
            start += width

    # Values

    def operand(self, v: Value, access: Access, spot: Spot, width: int, only: Mask | None = None) -> Scalar:
        """A value at a width: constants are written in, narrower values spread over the lanes."""
        constant = _splat(v)
        if constant is not None:
            return self.entry.builder(width).constant(constant, v.type.dtype)
        found = self.evaluate(v, access, spot, only)
        if width == 1 or self.is_wide(access, spot):
            return found
        return self.spread(found, self.scope(access, spot) if only is None else "loop")

    def spread(self, x: Scalar, scope: str) -> Scalar:
        memo, section = self.memo[scope], self.section(scope)
        key = ("spread", x.code)
        if key not in memo:
            kind, one = self.vector(x.dtype), self.entry.builder(1).type_of(x.dtype)
            first, name = self.fresh("s"), self.fresh("s")
            section.lines += [
                f"  {first} = insertelement {kind} poison, {one} {x.code}, i64 0",
                f"  {name} = shufflevector {kind} {first}, {kind} poison, <{LANES} x i32> zeroinitializer",
            ]
            memo[key] = Scalar(x.dtype, name)
        return memo[key]

    def evaluate(self, v: Value, access: Access, spot: Spot, only: Mask | None = None) -> Scalar:
        """A value under an access, computed where it is first needed and outside every loop that it does not depend on."""
        scope, wide = self.scope(access, spot) if only is None else "loop", self.is_wide(access, spot)
        memo = self.memo[scope]
        if v.owner is not None and isinstance(v.owner.op, Reduce):
            return memo[(v, access, spot.vector if wide else None, None, None)]
        each = wide or (scope == "loop" and self.nest.lanes_reduced)
        if only is not None:
            only = self._mask_at(only, LANES if wide else 1)
        key = (v, access, spot.vector if each else None, spot.point, only)
        found = memo.get(key)
        if found is None:
            found = memo[key] = self._compute(v, access, spot, scope, wide, only)
            if scope == "loop" and only is None and self.saved.get(v) == self.phase and access == self.nest.full():
                self._keep(v, found, spot)
        return found

    def _mask_at(self, mask: Mask, width: int) -> Mask:
        """A mask at another width: of all lanes whether one is set, or one flag for all lanes."""
        if mask.width == width:
            return mask
        name, first = self.fresh("m"), self.fresh("m")
        if width == 1:
            self.here.lines += [
                f"  {first} = bitcast <{LANES} x i1> {mask.code} to i{LANES}",
                f"  {name} = icmp ne i{LANES} {first}, 0",
            ]
        else:
            self.here.lines += [
                f"  {first} = insertelement <{LANES} x i1> poison, i1 {mask.code}, i64 0",
                f"  {name} = shufflevector <{LANES} x i1> {first}, <{LANES} x i1> poison, <{LANES} x i32> zeroinitializer",
            ]
        return Mask(name, width)

    def _compute(self, v: Value, access: Access, spot: Spot, scope: str, wide: bool, only: Mask | None) -> Scalar:
        nest, width = self.nest, LANES if wide else 1
        if v in self.places:
            lies = nest.argument_access(v, access)
            found = self.load(self.places[v], v.type.dtype, lies, spot, only)
            return self.spread(found, scope) if wide and not self.is_wide(lies, spot) else found
        if scope == "loop" and access == nest.full() and self.saved.get(v, self.phase) < self.phase:
            return self._kept(v, spot)
        i = v.owner
        assert i is not None
        op, section = i.op, self.section(scope)
        if isinstance(op, View):
            inner = nest.view(i, access)
            return self.operand(i.operands[0], inner, spot, width, only)
        if isinstance(op, Elementwise):
            operands = [self.operand(o, access, spot, width, only) for o in i.operands]
            builder = section.builder(width)
            result: Scalar = op.scalar(builder, *operands, **i.attrs)
            section.end(builder)
            return result
        if isinstance(op, Source):
            return self._source(i, access, spot, section, width)
        if isinstance(op, Join):
            return self._join(i, access, spot, section, width, only)
        if isinstance(op, Random32):
            return self._random(op, i, access, spot, section, width)
        if isinstance(op, Gather):
            return (
                self._picked(i, access, spot)
                if nest.is_picked(i)
                else self._taken(i, access, spot, section, width, only)
            )
        raise AssertionError(f"{op.name} was not finished before it is read")

    def _lanes(self, access: Access, spot: Spot, section: Section, width: int) -> str:
        """A position as i64 operand, lane by lane where wide."""
        every = range(len(access.strides))
        first = self.int(section, "add", self.position(access, spot, section, every), str(access.offset))
        if width == 1:
            return first
        stride = access.strides[self.lane_dim]
        steps = ", ".join(f"i64 {n * stride}" for n in range(LANES))
        name, whole, total = self.fresh("i"), self.fresh("i"), self.fresh("i")
        section.lines += [
            f"  {name} = insertelement <{LANES} x i64> poison, i64 {first}, i64 0",
            f"  {whole} = shufflevector <{LANES} x i64> {name}, <{LANES} x i64> poison, <{LANES} x i32> zeroinitializer",
            f"  {total} = add <{LANES} x i64> {whole}, <{steps}>",
        ]
        return total

    def _source(self, i: Instruction, access: Access, spot: Spot, section: Section, width: int) -> Scalar:
        axes = self.nest.coordinates(access, i.result.type.shape)
        builder = section.builder(width)

        def index(axis: int) -> Scalar:
            return Scalar(i64, self._lanes(axes[axis], spot, section, width))

        made: Scalar = rules(i).element(builder, index, **i.attrs)
        section.end(builder)
        return made

    def _condition(self, bounds: list[Bound], spot: Spot, section: Section, width: int) -> str | None:
        """Whether the bounds hold, i1 or a vector of them."""
        kind = "i64" if width == 1 else f"<{width} x i64>"
        flags: list[str] = []
        for b in bounds:
            wide = width != 1 and self.is_wide(b.position, spot)
            at = self._lanes(b.position, spot, section, LANES if wide else 1)
            flag = self.fresh("c")
            if wide or width == 1:
                size = str(b.size) if width == 1 else f"splat (i64 {b.size})"
                section.lines.append(f"  {flag} = icmp ult {kind} {at}, {size}")
            else:
                one = self.fresh("c")
                section.lines.append(f"  {one} = icmp ult i64 {at}, {b.size}")
                first = self.fresh("c")
                section.lines += [
                    f"  {first} = insertelement <{LANES} x i1> poison, i1 {one}, i64 0",
                    f"  {flag} = shufflevector <{LANES} x i1> {first}, <{LANES} x i1> poison, <{LANES} x i32> zeroinitializer",
                ]
            flags.append(flag)
        while len(flags) > 1:
            name = self.fresh("c")
            section.lines.append(
                f"  {name} = and {'i1' if width == 1 else f'<{width} x i1>'} {flags.pop()}, {flags.pop()}"
            )
            flags.append(name)
        return flags[0] if flags else None

    def _join(
        self, i: Instruction, access: Access, spot: Spot, section: Section, width: int, only: Mask | None
    ) -> Scalar:
        dtype = i.result.type.dtype
        builder = section.builder(width)
        total = builder.constant(0, dtype)
        for operand, inner, bounds in self.nest.blocks(i, access):
            condition = self._condition(bounds, spot, section, width)
            allowed = only
            if condition is not None:
                allowed = Mask(condition, width)
            if condition is not None and only is not None:
                both = self.fresh("c")
                section.lines.append(
                    f"  {both} = and {'i1' if width == 1 else f'<{width} x i1>'} {condition}, {only.code}"
                )
                allowed = Mask(both, width)
            part = self.operand(operand, inner, spot, width, allowed)
            if condition is None:
                total = part
            else:
                builder = section.builder(width)
                total = builder.select(Scalar(bool_, condition), part, total)
                section.end(builder)
        return total

    def _random(self, op: Random32, i: Instruction, access: Access, spot: Spot, section: Section, width: int) -> Scalar:
        key = self.places[i.operands[0]]
        words = [self.fresh("k"), self.fresh("k")]
        at = self.fresh("p")
        self.entry.lines += [
            f"  {at} = getelementptr i32, ptr {key}, i64 1",
            f"  {words[0]} = load i32, ptr {key}, align 4",
            f"  {words[1]} = load i32, ptr {at}, align 4",
        ]
        aligned = width != 1 and access.strides[self.lane_dim] == 1 and access.offset % 4 == 0
        aligned = aligned and all(
            s % 4 == 0 or d == self.lane_dim or self.nest.dims[d].size == 1 for d, s in enumerate(access.strides)
        )
        name = self.fresh("w")
        if aligned:
            self.functions["philox_run"] = philox.RUN
            at = self._lanes(access, spot, section, 1)
            section.lines.append(f"  {name} = call <16 x i32> @philox_run(i64 {at}, i32 {words[0]}, i32 {words[1]})")
        else:
            function = f"philox_each_{width}"
            self.functions[function] = philox.each(width)
            kinds = ("i64", "i32") if width == 1 else (f"<{width} x i64>", f"<{width} x i32>")
            at = self._lanes(access, spot, section, width)
            section.lines.append(
                f"  {name} = call {kinds[1]} @{function}({kinds[0]} {at}, i32 {words[0]}, i32 {words[1]})"
            )
        builder = section.builder(width)
        result: Scalar = op.scalar(builder, Scalar(u32, name), **i.attrs)
        section.end(builder)
        return result

    def _inside(self, i: Instruction, index: Scalar, size: int, section: Section, width: int) -> str:
        """An index as i64, moved inside its axis where it is not (the check has raised then)."""
        builder = section.builder(width)
        wide = builder.convert(index, u64)
        inside = builder.compare("lt", wide, builder.constant(size, u64))
        chosen = builder.select(inside, wide, builder.constant(0, u64))
        section.end(builder)
        return str(chosen.code)

    def _picked(self, i: Instruction, access: Access, spot: Spot) -> Scalar:
        size = rules(i).walk(tuple([o.type for o in i.operands]), **i.attrs).size
        index = self.operand(i.operands[1], access, spot, 1)
        at = self._inside(i, index, size, self.row, 1)
        return self.operand(i.operands[0], self.nest.full(), Spot(point=at), 1)

    def _taken(
        self, i: Instruction, access: Access, spot: Spot, section: Section, width: int, only: Mask | None
    ) -> Scalar:
        whole, dtype = i.operands[0], i.operands[0].type.dtype
        size = rules(i).walk(tuple([o.type for o in i.operands]), **i.attrs).size
        to_index, base, step = self.nest.gather(i, access)
        base = Access(base.offset + self.nest.layouts[self.nest.argument_index[whole]].offset, base.strides)
        wide_index = self.is_wide(to_index, spot)
        index = self.operand(i.operands[1], to_index, spot, LANES if wide_index else 1, only)
        home = self.section(self.scope(to_index, spot))
        at = self._inside(i, index, size, home, LANES if wide_index else 1)
        if not wide_index:
            start = self.fresh("p")
            home.lines.append(
                f"  {start} = getelementptr {memory_type(dtype)}, ptr {self.places[whole]}, i64 {self.int(home, 'mul', at, str(step))}"
            )
            return self.load(start, dtype, base, spot, only, section)
        lanes = self._lanes(base, spot, section, LANES)
        scaled, total, pointers = self.fresh("i"), self.fresh("i"), self.fresh("g")
        section.lines += [
            f"  {scaled} = mul <{LANES} x i64> {at}, splat (i64 {step})",
            f"  {total} = add <{LANES} x i64> {scaled}, {lanes}",
            f"  {pointers} = getelementptr {memory_type(dtype)}, ptr {self.places[whole]}, <{LANES} x i64> {total}",
        ]
        name = self._gather(pointers, dtype, self._both(spot.mask, only.code if only else None, section), section)
        return self._from_memory(name, dtype, LANES, section)

    # What is kept from one phase to the next

    def cost(self, v: Value) -> int:
        """About how many cycles a vector of a value takes from what is in memory."""
        pending = [v]
        while pending:
            x = pending[-1]
            if x in self._costs:
                pending.pop()
                continue
            i = x.owner
            if x in self.places or i is None or isinstance(i.op, (Source, Reduce)):
                self._costs[x] = 0
                continue
            missing = [o for o in i.operands if o not in self._costs]
            if missing:
                pending += missing
                continue
            own = COSTS.get(i.op.name, 1) if isinstance(i.op, Elementwise) else 40 if isinstance(i.op, Random32) else 0
            self._costs[x] = own + sum(self._costs[o] for o in set(i.operands))
        return self._costs[v]

    def _plan_phases(self) -> None:
        """Decide what is kept: values of one phase that a later one reads and that cost more than to read them again."""
        full = self.nest.full()
        first: dict[Value, int] = {}
        for phase in range(self.nest.phases):
            pending = [(o, full) for o in self._phase_operands(phase)]
            pending += [(r, full) for r, _ in self._phase_results(phase)]
            seen: set[tuple[Value, Access]] = set()
            while pending:
                v, access = pending.pop()
                if (v, access) in seen or v in self.places or self.scope(access, Spot()) != "loop":
                    continue
                seen.add((v, access))
                if access == full:
                    if first.setdefault(v, phase) < phase and self.cost(v) > RECOMPUTED_COST:
                        self.saved[v] = first[v]
                        continue
                assert v.owner is not None
                if not isinstance(v.owner.op, Reduce):
                    pending += self.nest.reads(v.owner, access)
        dims = self.nest.dims
        count = 1
        for d in dims:
            count *= d.size if d.role == REDUCED else 1
        room = -(-count // LANES) * LANES if self.nest.lanes_reduced else count * LANES * self.band
        written = {r: n for n, r in enumerate(self.nest.function.results) if self.nest.accesses[n] == full}
        for v in list(self.saved):
            if v in written and self.nest.levels[v] == self.saved[v]:
                continue
            size = room * item_size(v.type.dtype)
            if sum(room * item_size(t.type.dtype) for t in self.temporaries) + size > TEMPORARY_BYTES:
                del self.saved[v]
                continue
            name = self.temporaries[v] = self.fresh("kept")
            self.entry.lines.append(f"  {name} = alloca [{room} x {memory_type(v.type.dtype)}], align 64")

    def _phase_operands(self, phase: int) -> list[Value]:
        return [i.operands[0] for i in self.nest.reductions if self.nest.levels[i.result] == phase + 1]

    def _phase_results(self, phase: int) -> list[tuple[Value, int]]:
        full, levels = self.nest.full(), self.nest.levels
        return [
            (r, n)
            for n, r in enumerate(self.nest.function.results)
            if self.nest.accesses[n] == full and levels[r] == phase
        ]

    def _slot(self, v: Value, spot: Spot) -> tuple[str, Access] | str:
        """Where a kept value lies: a result's memory, or a temporary."""
        if v not in self.temporaries:
            n = next(n for n, r in enumerate(self.nest.function.results) if r is v)
            return self.results[n], self.nest.full()
        at = spot.index
        if not self.nest.lanes_reduced:
            scaled = self.int(self.here, "mul", spot.index, str(LANES * self.band))
            at = self.int(self.here, "add", scaled, str(spot.vector * LANES))
        pointer = self.fresh("p")
        self.here.lines.append(
            f"  {pointer} = getelementptr {memory_type(v.type.dtype)}, ptr {self.temporaries[v]}, i64 {at}"
        )
        return pointer

    def _keep(self, v: Value, x: Scalar, spot: Spot) -> None:
        slot = self._slot(v, spot)
        if isinstance(slot, tuple):
            return  # the result itself is written at the end of the phase
        kind, code = f"<{LANES} x {memory_type(x.dtype)}>", x.code
        if x.dtype is bool_:
            code = self.fresh("b")
            self.here.lines.append(f"  {code} = zext <{LANES} x i1> {x.code} to {kind}")
        self.here.lines.append(f"  store {kind} {code}, ptr {slot}, align {item_size(x.dtype)}")

    def _kept(self, v: Value, spot: Spot) -> Scalar:
        slot, dtype = self._slot(v, spot), v.type.dtype
        if isinstance(slot, tuple):
            return self.load(slot[0], dtype, slot[1], spot, None)
        name = self.fresh("x")
        self.here.lines.append(
            f"  {name} = load <{LANES} x {memory_type(dtype)}>, ptr {slot}, align {item_size(dtype)}"
        )
        return self._from_memory(name, dtype, LANES, self.here)

    # Loops

    def loop(self, begin: str, end: str, carries: Sequence[Carry], body: Callable[[str], None], step: int = 1) -> None:
        """``for index in range(begin, end, step)``, known to run at least once; ``body`` writes into ``here`` and moves the carries on."""
        parent, name = self.here, self.fresh("loop")[1:]
        index, after = self.fresh("n"), self.fresh("n")
        before = [c.now for c in carries]
        phis = [self.fresh("a") for _ in carries]
        for c, phi in zip(carries, phis, strict=True):
            c.now = phi
        self.here = Section(self, name)
        body(index)
        inside = self.here
        self.here = parent
        more, done = self.fresh("m"), f"{name}.done"
        lines = [
            f"  br label %{name}",
            f"{name}:",
            f"  {index} = phi i64 [ {begin}, %{parent.label} ], [ {after}, %{inside.label} ]",
        ]
        for c, phi, first in zip(carries, phis, before, strict=True):
            lines.append(f"  {phi} = phi {c.type} [ {first}, %{parent.label} ], [ {c.now}, %{inside.label} ]")
        lines += inside.lines
        lines += [
            f"  {after} = add i64 {index}, {step}",
            f"  {more} = icmp ult i64 {after}, {end}",
            f"  br i1 {more}, label %{name}, label %{done}",
            f"{done}:",
        ]
        parent.lines += lines
        parent.label = done

    def _clear_loop(self) -> None:
        self.memo["loop"] = {}

    def _tail_mask(self, count: int) -> str:
        return "<" + ", ".join(f"i1 {'true' if n < count else 'false'}" for n in range(LANES)) + ">"

    def _units(self, total: int, body: Callable[[str], None]) -> None:
        """The loop over the units of this call."""
        self.units = total
        if total == 1:
            body("0")
            return
        some, run, done = self.fresh("m"), self.fresh("run")[1:], self.fresh("out")[1:]
        row = Section(self, run)
        self.row = self.here = row
        guard = [
            f"  {some} = icmp ult i64 %begin, %end",
            f"  br i1 {some}, label %{run}.first, label %{done}",
            f"{run}.first:",
        ]
        outer = Section(self, f"{run}.first")
        self.here = outer
        self.loop("%begin", "%end", [], lambda n: self._unit(n, body))
        self.here = self.entry
        self.entry.lines += [*guard, *outer.lines, f"  br label %{done}", f"{done}:"]
        self.entry.label = done

    def _unit(self, n: str, body: Callable[[str], None]) -> None:
        self.row = self.here
        body(n)
        self.row = self.entry

    def _outer(self, flat: str, dims: Sequence[int]) -> None:
        """The indices of outer dimensions from a flat one."""
        for n in reversed(range(len(dims))):
            d = dims[n]
            size = str(self.nest.dims[d].size)
            self.outer_index[d] = flat if n == 0 else self.int(self.row, "urem", flat, size)
            if n:
                flat = self.int(self.row, "udiv", flat, size)

    # Kinds of kernels

    def _write(self) -> None:
        nest = self.nest
        dims = nest.dims
        self.band = BAND
        if not nest.reductions:
            self._map()
        elif nest.lanes_reduced:
            self._plan_phases()
            rows = [d for d, x in enumerate(dims) if x.role == OUTER]
            total = 1
            for d in rows:
                total *= dims[d].size
            self._units(total, lambda n: self._row(n, rows))
        else:
            self._column()
        per = sum(self.cost(r) + 1 for r in nest.function.results) + sum(
            self.cost(i.operands[0]) for i in nest.reductions
        )
        self.work = nest.size * (per + 2 * (len(nest.function.arguments) + len(nest.function.results))) // LANES

    def _store_all(self, results: Sequence[tuple[Value, int]], spot: Spot) -> None:
        """Evaluate all, then write all: an operand may lie where a result goes."""
        values: list[tuple[Scalar, int, bool]] = []
        for r, n in results:
            access = self.nest.accesses[n]
            wide = self.is_wide(access, spot)
            values.append((self.operand(r, access, spot, LANES if wide else 1), n, wide))
        for value, n, wide in values:
            self.store(value, n, spot, wide)

    def _map(self) -> None:
        nest = self.nest
        everything = [(r, n) for n, r in enumerate(nest.function.results)]
        length = nest.dims[self.lane_dim].size
        full, rest = divmod(length, LANES)

        def vectors(begin: str, end: str) -> None:
            def body(n: str) -> None:
                self._clear_loop()
                self._store_all(everything, Spot(lane=self.int(self.here, "mul", n, str(LANES))))

            self.loop(begin, end, [], body)

        def tail() -> None:
            self._clear_loop()
            self._store_all(everything, Spot(lane=str(full * LANES), mask=self._tail_mask(rest), count=rest))

        if length == 1:
            self.units = 1
            self._store_all(everything, Spot())
            return
        if len(nest.dims) > 1:
            outer = list(range(len(nest.dims) - 1))
            total = 1
            for d in outer:
                total *= nest.dims[d].size

            def row(n: str) -> None:
                self._outer(n, outer)
                self.memo["row"], self.pointers = {}, dict(self.pointers)
                if full:
                    vectors("0", str(full))
                if rest:
                    tail()

            self._units(total, row)
            return
        self.units = full + bool(rest)
        if full:
            stop, over, some = self.fresh("n"), self.fresh("m"), self.fresh("m")
            run, done = self.fresh("run")[1:], self.fresh("out")[1:]
            inner = Section(self, run)
            self.here = inner
            vectors("%begin", stop)
            self.here = self.entry
            self.entry.lines += [
                f"  {over} = icmp ult i64 %end, {full}",
                f"  {stop} = select i1 {over}, i64 %end, i64 {full}",
                f"  {some} = icmp ult i64 %begin, {stop}",
                f"  br i1 {some}, label %{run}, label %{done}",
                f"{run}:", *inner.lines, f"  br label %{done}", f"{done}:",
            ]  # fmt: skip
            self.entry.label = done
        if rest and full:
            last, run, done = self.fresh("m"), self.fresh("run")[1:], self.fresh("out")[1:]
            inner = Section(self, run)
            self.here = inner
            tail()
            self.here = self.entry
            self.entry.lines += [
                f"  {last} = icmp ugt i64 %end, {full}", f"  br i1 {last}, label %{run}, label %{done}",
                f"{run}:", *inner.lines, f"  br label %{done}", f"{done}:",
            ]  # fmt: skip
            self.entry.label = done
        elif rest:
            tail()

    # Reductions

    def _start(self, phase: int, spots: Sequence[Spot]) -> list[_Running]:
        """The reductions of a phase, one for each vector that they run in."""
        running: list[_Running] = []
        for i in self.nest.reductions:
            if self.nest.levels[i.result] != phase + 1:
                continue
            dtype = i.result.type.dtype
            kind, first = self.vector(dtype), self._identity(i)
            for spot in spots:
                r = _Running(i, Carry(kind, first), spot=spot)
                if _finds_extremum(i) and dtype.floating:
                    r.nan = Carry(f"<{LANES} x i1>", "zeroinitializer")
                if rules(i).combine == "sum":
                    r.total = Carry(kind, first)
                running.append(r)
        return running

    def _identity(self, i: Instruction, width: int = LANES) -> str:
        dtype = i.result.type.dtype
        op: Reduce = i.op  # type: ignore[assignment]
        value = -0.0 if op.combine == "sum" and dtype.floating else op.identity(dtype)
        return str(self.entry.builder(width).constant(value, dtype).code)

    def _combine(self, i: Instruction, a: str, b: str, section: Section, kind: str) -> str:
        """``a`` combined with ``b``; of two equal extrema the second."""
        dtype, name = i.result.type.dtype, self.fresh("r")
        combine: str = rules(i).combine
        if combine == "sum":
            section.lines.append(f"  {name} = {'fadd' if dtype.floating else 'add'} {kind} {a}, {b}")
            return name
        sign = "u" if dtype.kind == "u" else "s"
        relation = {"max": "gt", "min": "lt"}[combine]
        compare = f"fcmp o{relation}" if dtype.floating else f"icmp {sign}{relation}"
        better = self.fresh("c")
        flags = kind.split(" x ")[0] + " x i1>" if kind.startswith("<") else "i1"
        section.lines += [
            f"  {better} = {compare} {kind} {a}, {b}",
            f"  {name} = select {flags} {better}, {kind} {a}, {kind} {b}",
        ]
        return name

    def _accumulate(self, r: _Running, spot: Spot) -> None:
        """One more vector into a reduction's lanes."""
        i, here = r.reduction, self.here
        x = self.operand(i.operands[0], self.nest.full(), spot, LANES)
        new = self._combine(i, r.lanes.now, str(x.code), here, r.lanes.type)
        keep = spot.mask if self.nest.lanes_reduced else None
        if keep is not None:
            chosen = self.fresh("r")
            here.lines.append(
                f"  {chosen} = select <{LANES} x i1> {keep}, {r.lanes.type} {new}, {r.lanes.type} {r.lanes.now}"
            )
            new = chosen
        r.lanes.now = new
        if r.nan is not None:
            flag, name = self.fresh("c"), self.fresh("c")
            here.lines.append(f"  {flag} = fcmp uno {r.lanes.type} {x.code}, {x.code}")
            flag = self._both(flag, keep, here) or flag
            here.lines.append(f"  {name} = or <{LANES} x i1> {r.nan.now}, {flag}")
            r.nan.now = name

    def fold(self, i: Instruction, lanes: str, section: Section) -> str:
        """16 lanes to one: lane ``j`` with ``j + h`` for ``h`` = 8, 4, 2, 1."""
        dtype = i.result.type.dtype
        one = self.entry.builder(1).type_of(dtype)
        width, now = LANES, lanes
        while width > 1:
            half = width // 2
            kind, small = f"<{width} x {one}>", f"<{half} x {one}>"
            low, high = self.fresh("f"), self.fresh("f")
            for name, start in ((low, 0), (high, half)):
                mask = ", ".join(f"i32 {start + n}" for n in range(half))
                section.lines.append(f"  {name} = shufflevector {kind} {now}, {kind} poison, <{half} x i32> <{mask}>")
            now = self._combine(i, low, high, section, small)
            width = half
        name = self.fresh("f")
        section.lines.append(f"  {name} = extractelement <1 x {one}> {now}, i64 0")
        return name

    def _with_nan(self, r: _Running, result: str, section: Section) -> str:
        """A floating extremum, NaN where one was met (in any lane of a row, in its own lane of a column)."""
        if r.nan is None:
            return result
        dtype, row = r.reduction.result.type.dtype, self.nest.lanes_reduced
        builder = section.builder(1 if row else LANES)
        nan = builder.constant(float("nan"), dtype).code
        flag = r.nan.now
        if row:
            bits, flag = self.fresh("c"), self.fresh("c")
            section.lines += [
                f"  {bits} = bitcast <{LANES} x i1> {r.nan.now} to i{LANES}",
                f"  {flag} = icmp ne i{LANES} {bits}, 0",
            ]
        name, kind = self.fresh("r"), builder.type_of(dtype)
        section.lines.append(
            f"  {name} = select {'i1' if row else f'<{LANES} x i1>'} {flag}, {kind} {nan}, {kind} {result}"
        )
        return name

    def _finished(self, r: _Running, result: str) -> None:
        key = (r.reduction.result, self.nest.reduced(), None if self.nest.lanes_reduced else r.spot.vector, None, None)
        scope = self.scope(self.nest.reduced(), Spot())
        self.memo[scope][key] = Scalar(r.reduction.result.type.dtype, self._with_nan(r, result, self.here))

    def _row(self, n: str, rows: Sequence[int]) -> None:
        nest = self.nest
        self._outer(n, rows)
        self.memo["row"] = {}
        if not rows:
            self.memo["entry"] = {}
        count = 1
        for d in nest.dims:
            count *= d.size if d.role == REDUCED else 1
        full, rest = divmod(count, LANES)
        few = full + bool(rest) <= UNROLLED
        self._clear_loop()
        for phase in range(nest.phases):
            self.phase = phase
            spots = [Spot(vector=v) for v in range(FAST_VECTORS if self.fast and not few else 1)]
            running, results = self._start(phase, spots), self._phase_results(phase)
            if not running and not results:
                continue

            def one(
                index: str,
                vector: int,
                mask: str | None,
                running: list[_Running] = running,
                results: list[tuple[Value, int]] = results,
            ) -> None:
                spot = Spot(index=index, vector=vector, mask=mask, count=LANES if mask is None else count % LANES)
                for r in running:
                    if few or r.spot.vector == vector:
                        self._accumulate(r, spot)
                self._store_all(results, spot)

            if few:
                self.saved = {}
                for v in range(full + bool(rest)):
                    one(str(v * LANES), v, self._tail_mask(rest) if v == full else None)
            else:
                self._run_through(count, running, one)
            running = self._together(running)
            for r in running:
                if count <= ROW_RUN or r.total is None or self.fast:
                    self._finished(r, self.fold(r.reduction, r.lanes.now, self.here))
                else:
                    self._finished(r, self.fold(r.reduction, r.total.now, self.here))
        self._store_all(
            [(r, k) for k, r in enumerate(nest.function.results) if nest.accesses[k] != nest.full()], Spot()
        )

    def _together(self, running: list[_Running]) -> list[_Running]:
        """The sums of ``fast`` rows brought together; exact rows have one each."""
        first: dict[Instruction, _Running] = {}
        for r in running:
            known = first.setdefault(r.reduction, r)
            if known is r:
                continue
            known.lanes.now = self._combine(r.reduction, known.lanes.now, r.lanes.now, self.here, r.lanes.type)
            if known.nan is not None and r.nan is not None:
                name = self.fresh("c")
                self.here.lines.append(f"  {name} = or <{LANES} x i1> {known.nan.now}, {r.nan.now}")
                known.nan.now = name
        return list(first.values())

    def _run_through(self, count: int, running: list[_Running], one: Callable[[str, int, str | None], None]) -> None:
        """All vectors of a row in loops; sums of long rows in runs."""
        carried = [c for r in running for c in (r.lanes, r.nan) if c is not None]
        if self.fast:
            group = LANES * FAST_VECTORS
            whole = count - count % group

            def body(index: str) -> None:
                self._clear_loop()
                for v in range(FAST_VECTORS):
                    one(self.int(self.here, "add", index, str(v * LANES)), v, None)

            if whole:
                self.loop("0", str(whole), carried, body, group)
            self._clear_loop()
            for start in range(whole, count, LANES):
                left = count - start
                one(str(start), (start - whole) // LANES, None if left >= LANES else self._tail_mask(left))
            return

        def vectors(begin: str, end: str) -> None:
            def body(index: str) -> None:
                self._clear_loop()
                one(index, 0, None)

            self.loop(begin, end, carried, body, LANES)

        def rest_of(start: str, size: int) -> None:
            whole = size - size % LANES
            if whole:
                vectors(start, self.int(self.here, "add", start, str(whole)))
            if size % LANES:
                self._clear_loop()
                one(self.int(self.here, "add", start, str(whole)), 0, self._tail_mask(size % LANES))

        if count <= ROW_RUN:
            rest_of("0", count)
            return
        sums = [r for r in running if r.total is not None]

        def run(number: str, size: int) -> None:
            for r in sums:
                r.lanes.now = self._identity(r.reduction)
            rest_of(self.int(self.here, "mul", number, str(ROW_RUN)), size)
            for r in sums:
                self._add_run(r, number)

        outer = [
            c for r in running for c in ((r.nan, r.lanes) if r.total is None else (r.nan, r.total)) if c is not None
        ]
        self.loop("0", str(count // ROW_RUN), outer, lambda n: run(n, ROW_RUN))
        if count % ROW_RUN:
            run(str(count // ROW_RUN), count % ROW_RUN)

    def _add_run(self, r: _Running, number: str) -> None:
        """The sum of a run into the lane that its number chooses."""
        assert r.total is not None
        one, here = self.entry.builder(1).type_of(r.reduction.result.type.dtype), self.here
        part = self.fold(r.reduction, r.lanes.now, here)
        lane = self.int(here, "urem", number, str(LANES))
        before, name = self.fresh("r"), self.fresh("r")
        here.lines.append(f"  {before} = extractelement {r.total.type} {r.total.now}, i64 {lane}")
        after = self._combine(r.reduction, before, part, here, one)
        here.lines.append(f"  {name} = insertelement {r.total.type} {r.total.now}, {one} {after}, i64 {lane}")
        r.total.now = name

    def _column(self) -> None:
        nest = self.nest
        dims = nest.dims
        outer = [d for d, x in enumerate(dims) if x.role != REDUCED and d != self.lane_dim]
        width = dims[self.lane_dim].size
        self.band = min(BAND if len(nest.function.instructions) <= 40 else 2, -(-width // LANES))
        self._plan_phases()
        whole, rest = divmod(width, LANES * self.band)
        bands = whole + bool(rest)
        total = bands
        for d in outer:
            total *= dims[d].size

        def unit(n: str) -> None:
            self._outer(self.int(self.row, "udiv", n, str(bands)), outer)
            number = self.int(self.row, "urem", n, str(bands))
            first = self.int(self.row, "mul", number, str(self.band * LANES))
            spots = [
                Spot(vector=k, lane=self.int(self.row, "add", first, str(k * LANES)))
                for k in range(self.band if whole else 0)
            ]
            start = whole * self.band * LANES
            last = [Spot(vector=k, lane=str(start + k * LANES)) for k in range(-(-rest // LANES))]
            if rest % LANES:
                last[-1].mask, last[-1].count = self._tail_mask(rest % LANES), rest % LANES
            if not (spots and last):
                self._column_band(spots or last)
                return
            self._either(
                f"icmp ult i64 {number}, {whole}", lambda: self._column_band(spots), lambda: self._column_band(last)
            )

        self._units(total, unit)

    def _either(self, condition: str, yes: Callable[[], None], no: Callable[[], None]) -> None:
        """Two bodies of a unit, of which one runs."""
        row, flag, label = self.row, self.fresh("m"), self.fresh("side")[1:]
        row.lines += [f"  {flag} = {condition}", f"  br i1 {flag}, label %{label}.yes, label %{label}.no"]
        for side, body in (("yes", yes), ("no", no)):
            kept = dict(self.memo["row"]), dict(self.pointers)
            self.row = self.here = section = Section(self, f"{label}.{side}")
            body()
            row.lines += [f"{label}.{side}:", *section.lines, f"  br label %{label}.join"]
            self.memo["row"], self.pointers = kept
        row.lines.append(f"{label}.join:")
        row.label = f"{label}.join"
        self.row = self.here = row

    def _column_band(self, spots: Sequence[Spot]) -> None:
        nest = self.nest
        count = 1
        for d in nest.dims:
            count *= d.size if d.role == REDUCED else 1
        self.memo["row"] = {}
        for phase in range(nest.phases):
            self.phase = phase
            self._column_phase(count, spots)
        reduced = [(r, k) for k, r in enumerate(nest.function.results) if nest.accesses[k] != nest.full()]
        for spot in spots:
            self._store_all(reduced, spot)

    def _column_phase(self, count: int, spots: Sequence[Spot]) -> None:
        running, results = self._start(self.phase, spots), self._phase_results(self.phase)
        if not running and not results:
            return

        def rows(begin: str, end: str) -> None:
            def body(index: str) -> None:
                self._clear_loop()
                for spot in spots:
                    spot.index = index
                for r in running:
                    self._accumulate(r, r.spot)
                for spot in spots:
                    self._store_all(results, spot)

            self.loop(begin, end, [c for r in running for c in (r.lanes, r.nan) if c is not None], body)

        def run(number: str, size: int) -> None:
            for r in running:
                if r.total is not None:
                    r.lanes.now = self._identity(r.reduction)
            begin = self.int(self.here, "mul", number, str(COLUMN_RUN))
            rows(begin, self.int(self.here, "add", begin, str(size)))
            for r in running:
                if r.total is not None:
                    r.total.now = self._combine(r.reduction, r.total.now, r.lanes.now, self.here, r.total.type)

        if count <= COLUMN_RUN:
            rows("0", str(count))
            for r in running:
                self._finished(r, r.lanes.now)
            return
        carried = [
            c for r in running for c in ((r.nan, r.lanes) if r.total is None else (r.nan, r.total)) if c is not None
        ]
        self.loop("0", str(count // COLUMN_RUN), carried, lambda n: run(n, COLUMN_RUN))
        if count % COLUMN_RUN:
            run(str(count // COLUMN_RUN), count % COLUMN_RUN)
        for r in running:
            self._finished(r, (r.total or r.lanes).now)


def _finds_extremum(i: Instruction) -> bool:
    return rules(i).combine in ("max", "min")


def _suffix(dtype: DType) -> str:
    return {"f32": "f32", "f64": "f64"}.get(dtype.name, memory_type(dtype))


def _splat(v: Value) -> float | bool | None:
    """The number that a constant repeats."""
    i = v.owner
    while i is not None and isinstance(i.op, View):
        i = i.operands[0].owner
    literal = splat_of(i.result) if i is not None and isinstance(i.op, Source) else None
    return literal.data.reshape(-1)[0].item() if literal is not None and literal.type.size else None
