"""Writing kernels: positions in nests of loops, of one element and of the lanes of a vector.

Along a row the lanes of a vector are 16 elements in order.  Where the reduced dimension is several and the last of them is no multiple
of 16 (the rows of a crop), a vector goes on in the next row: its lanes are then *broken*, and each has indices of its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...ir import Value
from ...ir.scalar import Scalar
from ...ir.types import DType, bool_, i32, i64
from ...passes.loops import REDUCED, Access, Nest
from .vector import VectorBuilder

LANES = 16
SIDE_BY_SIDE = tuple(range(LANES))


def memory_type(dtype: DType) -> str:
    """The LLVM type of an element in memory: a bool is a byte, and a 16-bit float a word of its bits."""
    return "i8" if dtype is bool_ else {"f32": "float", "f64": "double"}.get(dtype.name, f"i{dtype.bits}")


def item_size(dtype: DType) -> int:
    """Bytes of an element in memory."""
    return max(dtype.bits // 8, 1)


class _Builder(VectorBuilder):
    """A builder that numbers and declares for the whole kernel."""

    def __init__(self, width: int, writer: PositionWriter, lines: list[str]) -> None:
        super().__init__(width)
        self.writer, self.lines = writer, lines
        self.declarations, self.functions = writer.declarations, writer.functions

    def fresh(self, hint: str = "t") -> str:
        return self.writer.fresh(hint)


class Section:
    """A stretch of straight code, and the block in which it ends."""

    def __init__(self, writer: PositionWriter, label: str) -> None:
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


SCOPES = ("entry", "row", "loop")
"""Where code is written, from the outermost to the innermost."""


@dataclass(frozen=True)
class Mask:
    """The lanes that may be read: an i1, or a vector of them."""

    code: str
    width: int
    scope: str
    """Where it is known."""


def _lane_dims(nest: Nest) -> tuple[int, ...]:
    """The dimensions of lanes: the last one, and others before it as long as all together fill part of a vector evenly.

    A vector then begins where all but the first of them are at 0, so its lanes lie at the same offsets from its first everywhere.
    """
    last = len(nest.dims) - 1
    if nest.reductions and nest.lanes_reduced:
        return (last,)
    free = [d for d, x in enumerate(nest.dims) if x.role != REDUCED]
    taken, width = [last], nest.dims[last].size
    for d in reversed(free[:-1]):
        if width >= LANES or LANES % width:
            break
        taken.insert(0, d)
        width *= nest.dims[d].size
    return tuple(taken)


class PositionWriter:
    """The state of writing one kernel, and what knows nothing of its values."""

    def __init__(self, nest: Nest, fast: bool, streamed: Collection[int]) -> None:
        self.nest, self.fast, self.streamed = nest, fast, streamed
        self.declarations: set[str] = set()
        self.functions: dict[str, str] = {}
        self.allocated: list[str] = []
        """Memory that the kernel needs, as instructions for its beginning."""
        self._count = 0
        self.memo: dict[str, dict[object, Scalar]] = {"entry": {}, "row": {}, "loop": {}}
        self.pointers: dict[object, str] = {}
        self.entry = self.row = self.here = Section(self, "entry")
        self.outer_index: dict[int, str] = {}
        self.saved: dict[Value, int] = {}
        self.temporaries: dict[Value, str] = {}
        self.phase = 0
        self.lane_dims = _lane_dims(nest)
        """The dimensions along which the lanes of a vector lie, the last of them fastest."""
        self.width = math.prod(nest.dims[d].size for d in self.lane_dims)
        """How many lanes there are side by side."""
        over = nest.reduced_dims
        goes_on = bool(over) and nest.lanes_reduced and len(over) > 1 and nest.dims[over[-1]].size % LANES != 0
        self.across: tuple[int, ...] = over if goes_on else self.lane_dims
        """The dimensions whose indices differ from lane to lane: more than those of lanes where a vector goes on in the next row."""
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
        return d in self.lane_dims

    def scope(self, access: Access, spot: Spot) -> str:
        varies = [d for d, s in enumerate(access.strides) if s and self.nest.dims[d].size > 1]
        if spot.point is not None and any(self.nest.dims[d].role == REDUCED for d in varies):
            return "row"
        if any(self._loops_over(d) for d in varies):
            return "loop"
        return "row" if varies else "entry"

    def met(self, access: Access, spot: Spot, only: Mask | None) -> str:
        """The scope in which a value under an access is known, if it is read under a mask."""
        scope = self.scope(access, spot)
        return scope if only is None else max(scope, only.scope, key=SCOPES.index)

    def is_wide(self, access: Access, spot: Spot) -> bool:
        """Whether a value differs from lane to lane."""
        return spot.point is None and any(access.strides[d] and self.nest.dims[d].size > 1 for d in self.across)

    def is_broken(self, access: Access) -> bool:
        """Whether the lanes of a vector are not equally far apart: it goes on in the next row, which lies elsewhere."""
        steps = [(access.strides[d], self.nest.dims[d].size) for d in self.across]
        return self.across != self.lane_dims and any(a != b * n for (a, _), (b, n) in pairwise(steps))

    def offsets(self, access: Access) -> tuple[int, ...]:
        """How far the lanes of a vector lie from its first."""
        found = [0]
        for d in reversed(self.lane_dims):
            size = LANES if d == self.lane_dims[0] else self.nest.dims[d].size
            found = [n * access.strides[d] + f for n in range(size) for f in found][:LANES]
        return tuple(found)

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
        if d not in self.lane_dims:
            return self.outer_index[d]
        inner = math.prod(dims[n].size for n in self.lane_dims[1:])
        return self.int(section, "udiv", spot.lane, str(inner)) if d == self.lane_dims[0] else "0"

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
        return self._loops_over(d) or d in self.lane_dims

    def reach(self, access: Access) -> int:
        """More than the size of any position, lanes that do not count included."""
        return abs(access.offset) + sum(
            abs(s) * (d.size + LANES) for s, d in zip(access.strides, self.nest.dims, strict=True)
        )

    def lanes(self, access: Access, spot: Spot, section: Section, width: int, bits: int = 64) -> str:
        """A position as an integer operand, lane by lane where wide."""
        broken = width != 1 and self.is_broken(access)
        every = [d for d in range(len(access.strides)) if not (broken and d in self.across)]
        first = self.int(section, "add", self.position(access, spot, section, every), str(access.offset))
        if width == 1:
            return first
        if bits != 64:
            narrow = self.fresh("i")
            section.lines.append(f"  {narrow} = trunc i64 {first} to i{bits}")
            first = narrow
        whole = self._splat(first, bits, section)
        steps = (
            self._steps_across(access, spot, section, bits)
            if broken
            else "<" + ", ".join(f"i{bits} {n}" for n in self.offsets(access)) + ">"
        )
        total = self.fresh("i")
        section.lines.append(f"  {total} = add <{LANES} x i{bits}> {whole}, {steps}")
        return total

    def _splat(self, number: str, bits: int, section: Section) -> str:
        """An integer in all lanes."""
        kind, name, whole = f"<{LANES} x i{bits}>", self.fresh("i"), self.fresh("i")
        section.lines += [
            f"  {name} = insertelement {kind} poison, i{bits} {number}, i64 0",
            f"  {whole} = shufflevector {kind} {name}, {kind} poison, <{LANES} x i32> zeroinitializer",
        ]
        return whole

    def _steps_across(self, access: Access, spot: Spot, section: Section, bits: int) -> str:
        """What the reduced dimensions add to a position, lane by lane, where lanes go on in the next row."""
        dtype = i32 if self.reach(access) < 1 << 31 and self.nest.size < 1 << 30 else i64
        kind, total = self.vector(dtype), "zeroinitializer"
        for d in reversed(self.across):
            if access.strides[d]:
                step, name = self.fresh("i"), self.fresh("i")
                index = self._index_across(d, spot, section, dtype)
                section.lines += [
                    f"  {step} = mul {kind} {index}, splat (i{dtype.bits} {access.strides[d]})",
                    f"  {name} = add {kind} {total}, {step}",
                ]
                total = name
        if dtype.bits == bits:
            return total
        name = self.fresh("i")
        section.lines.append(
            f"  {name} = {'sext' if dtype.bits < bits else 'trunc'} {kind} {total} to <{LANES} x i{bits}>"
        )
        return name

    def _index_across(self, d: int, spot: Spot, section: Section, dtype: DType) -> str:
        """The index of a reduced dimension, lane by lane: it counts on from the first lane's, and carries into the one before."""
        memo, key = self.memo["loop"], ("across", spot.index, dtype, d)
        if key in memo:
            return str(memo[key].code)
        kind, bits = self.vector(dtype), dtype.bits
        more = "<" + ", ".join(f"i{bits} {n}" for n in range(LANES)) + ">"
        for each in reversed(self.across):
            first, index = self.index(each, spot, section), self.fresh("i")
            if bits != 64:
                narrow = self.fresh("i")
                section.lines.append(f"  {narrow} = trunc i64 {first} to i{bits}")
                first = narrow
            section.lines.append(f"  {index} = add {kind} {self._splat(first, bits, section)}, {more}")
            if each != self.across[0]:
                size = f"splat (i{bits} {self.nest.dims[each].size})"
                more, back, inside = (self.fresh("i") for _ in range(3))
                section.lines += [
                    f"  {more} = udiv {kind} {index}, {size}",
                    f"  {back} = mul {kind} {more}, {size}",
                    f"  {inside} = sub {kind} {index}, {back}",
                ]
                index = inside
            memo["across", spot.index, dtype, each] = Scalar(dtype, index)
        return str(memo[key].code)
