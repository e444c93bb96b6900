"""Writing kernels: positions in nests of loops, loads, stores and loops, as text of LLVM functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ...ir import Value
from ...ir.scalar import Scalar
from ...ir.types import DType, bool_, u8
from ...passes.loops import REDUCED, Access, Nest
from . import narrow
from .vector import VectorBuilder

LANES = 16
SIDE_BY_SIDE = tuple(range(LANES))
MOST_LOADS = 4
"""Vectors of neighbours that are loaded in place of lanes one by one."""
STREAM_ALIGNMENT = 16
STREAMED = "!0 = !{i32 1}"


def memory_type(dtype: DType) -> str:
    """The LLVM type of an element in memory: a bool is a byte, and a 16-bit float a word of its bits."""
    return "i8" if dtype is bool_ else {"f32": "float", "f64": "double"}.get(dtype.name, f"i{dtype.bits}")


def from_memory(builder: VectorBuilder, name: str, dtype: DType) -> Scalar:
    """The register of what was loaded from memory."""
    if dtype is bool_:
        return builder.op(f"icmp ne {builder.type_of(u8)} {name}, {builder.constant(0, u8).code}", dtype)
    return narrow.loaded(builder, name, dtype) if dtype.narrow else Scalar(dtype, name)


def to_memory(builder: VectorBuilder, x: Scalar) -> str:
    """What is stored of a register."""
    if x.dtype is bool_:
        return str(builder.op(f"zext {builder.type_of(bool_)} {x.code} to {builder.type_of(u8)}", u8).code)
    return str((narrow.word(builder, x) if x.dtype.narrow else x).code)


def item_size(dtype: DType) -> int:
    """Bytes of an element in memory."""
    return max(dtype.bits // 8, 1)


class _Builder(VectorBuilder):
    """A builder that numbers and declares for the whole kernel."""

    def __init__(self, width: int, writer: MemoryWriter, lines: list[str]) -> None:
        super().__init__(width)
        self.writer, self.lines = writer, lines
        self.declarations, self.functions = writer.declarations, writer.functions

    def fresh(self, hint: str = "t") -> str:
        return self.writer.fresh(hint)


class Section:
    """A stretch of straight code, and the block in which it ends."""

    def __init__(self, writer: MemoryWriter, label: str) -> None:
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


def _suffix(dtype: DType) -> str:
    return {"f32": "f32", "f64": "f64"}.get(dtype.name, memory_type(dtype))


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


def _cover(offsets: Sequence[int]) -> tuple[int, list[int]]:
    """How many neighbours to load at once, and where, to have all offsets: nothing outside of the first and the last is loaded."""
    low, high = min(offsets), max(offsets)
    span = min(LANES, 1 << ((high - low + 1).bit_length() - 1))
    starts: list[int] = []
    for at in sorted(set(offsets)):
        if not starts or at >= starts[-1] + span:
            starts.append(min(at, high - span + 1))
    return span, starts


class MemoryWriter:
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
        return spot.point is None and any(access.strides[d] and self.nest.dims[d].size > 1 for d in self.lane_dims)

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

    # Loads and stores

    def load(
        self, base: str, dtype: DType, access: Access, spot: Spot, only: Mask | None, at: Section | None = None
    ) -> Scalar:
        """An element (or vector) of memory; ``only`` are the lanes that may be read, ``at`` where ``base`` is known."""
        if at is None:
            pointer, section = self.pointer(base, dtype, access, spot)
            if only is not None:
                section = self.section(self.met(access, spot, only))
        else:
            section, pointer = at, base
            offset = self.int(
                at, "add", self.position(access, spot, at, range(len(access.strides))), str(access.offset)
            )
            if offset != "0":
                pointer = self.fresh("p")
                at.lines.append(f"  {pointer} = getelementptr {memory_type(dtype)}, ptr {base}, i64 {offset}")
        size = item_size(dtype)
        if not self.is_wide(access, spot):
            if only is not None:
                allowed = self.fresh("p")
                section.lines.append(f"  {allowed} = select i1 {only.code}, ptr {pointer}, ptr {base}")
                pointer = allowed
            name = self.fresh("x")
            section.lines.append(f"  {name} = load {memory_type(dtype)}, ptr {pointer}, align {size}")
            return self._from_memory(name, dtype, 1, section)
        offsets = self.offsets(access)
        mask = self._both(spot.mask, only.code if only else None, section)
        kind = f"<{LANES} x {memory_type(dtype)}>"
        if offsets == SIDE_BY_SIDE:
            name = self.fresh("x")
            if mask is None:
                section.lines.append(f"  {name} = load {kind}, ptr {pointer}, align {size}")
            else:
                suffix = f"v{LANES}{_suffix(dtype)}"
                self.declarations.add(f"declare {kind} @llvm.masked.load.{suffix}.p0(ptr, i32, <{LANES} x i1>, {kind})")
                section.lines.append(
                    f"  {name} = call {kind} @llvm.masked.load.{suffix}.p0(ptr {pointer}, i32 {size}, "
                    f"<{LANES} x i1> {mask}, {kind} zeroinitializer)"
                )
        elif only is None and len((cover := _cover(offsets[: spot.count]))[1]) <= MOST_LOADS:
            name = self._picked_out(pointer, dtype, offsets[: spot.count], cover, section)
        else:
            steps = ", ".join(f"i64 {n}" for n in offsets)
            pointers = self.fresh("g")
            section.lines.append(
                f"  {pointers} = getelementptr {memory_type(dtype)}, ptr {pointer}, <{LANES} x i64> <{steps}>"
            )
            name = self._gather(pointers, dtype, mask, section)
        return self._from_memory(name, dtype, LANES, section)

    def _picked_out(
        self, pointer: str, dtype: DType, offsets: Sequence[int], cover: tuple[int, list[int]], section: Section
    ) -> str:
        """Elements at some offsets out of vectors of neighbours; lanes without an offset are 0.

        No lane of a shuffle that is not used is given an element: LLVM 20 to 22 read a wrong one for AVX-512 where a shuffle of two
        64-bit vectors needs its first two lanes only and the others are given too.
        """
        span, starts = cover
        kind, one = f"<{span} x {memory_type(dtype)}>", memory_type(dtype)
        parts: list[str] = []
        for start in starts:
            at, part = self.fresh("p"), self.fresh("x")
            section.lines += [
                f"  {at} = getelementptr {one}, ptr {pointer}, i64 {start}",
                f"  {part} = load {kind}, ptr {at}, align {item_size(dtype)}",
            ]
            parts.append(part)
        unused = [None] * (LANES - len(offsets))
        home = [next(n for n, s in enumerate(starts) if s <= at < s + span) for at in offsets]
        index = [at - starts[n] + span * (n % 2) for at, n in zip(offsets, home, strict=True)]
        found: list[str] = []
        for n in range(0, len(parts), 2):
            chosen = [i if h // 2 == n // 2 else None for i, h in zip(index, home, strict=True)]
            pair = parts[n], parts[n + 1] if n + 1 < len(parts) else "poison"
            found.append(self._shuffled(pair, kind, [*chosen, *unused], section))
        whole = f"<{LANES} x {one}>"
        if len(found) > 1:
            chosen = [lane + LANES * (h // 2) for lane, h in enumerate(home)]
            found = [self._shuffled((found[0], found[1]), whole, [*chosen, *unused], section)]
        if not unused:
            return found[0]
        name, used = self.fresh("s"), ", ".join(f"i1 {'true' if n < len(offsets) else 'false'}" for n in range(LANES))
        section.lines.append(f"  {name} = select <{LANES} x i1> <{used}>, {whole} {found[0]}, {whole} zeroinitializer")
        return name

    def _shuffled(self, pair: tuple[str, str], kind: str, chosen: Sequence[int | None], section: Section) -> str:
        """Elements of a pair of vectors by their numbers; a lane with ``None`` is not used."""
        name = self.fresh("s")
        mask = ", ".join(f"i32 {'poison' if n is None else n}" for n in chosen)
        section.lines.append(
            f"  {name} = shufflevector {kind} {pair[0]}, {kind} {pair[1]}, <{len(chosen)} x i32> <{mask}>"
        )
        return name

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
        return from_memory(section.builder(width), name, dtype)

    def _streams(self, n: int) -> bool:
        """Whether a result is written past the caches: by the last loop over a row, which computes little between two vectors.

        All its vectors lie at multiples of ``STREAM_ALIGNMENT``.
        """
        if n not in self.streamed or self.nest.phases == 1 or self.nest.function.results[n] in self.saved:
            return False
        access, size = self.nest.stores[n], item_size(self.nest.function.results[n].type.dtype)
        others = [s for d, s in enumerate(access.strides) if d not in self.lane_dims and self.nest.dims[d].size > 1]
        return all(s * size % STREAM_ALIGNMENT == 0 for s in (access.offset, *others))

    def store(self, x: Scalar, n: int, spot: Spot, wide: bool) -> None:
        """Write an element (or vector) of a result; lanes that do not count are left alone."""
        access, base = self.nest.stores[n], self.results[n]
        pointer, section = self.pointer(base, x.dtype, access, spot)
        dtype = x.dtype
        kind = f"<{LANES} x {memory_type(dtype)}>" if wide else memory_type(dtype)
        code = to_memory(section.builder(LANES if wide else 1), x)
        size = item_size(dtype)
        whole = not wide or (spot.mask is None and self.offsets(access) == SIDE_BY_SIDE)
        if wide and whole and self._streams(n):
            self.declarations.add(STREAMED)
            section.lines.append(f"  store {kind} {code}, ptr {pointer}, align {STREAM_ALIGNMENT}, !nontemporal !0")
        elif whole:
            section.lines.append(f"  store {kind} {code}, ptr {pointer}, align {size}")
        else:
            self._store_some(code, dtype, pointer, self.offsets(access)[: spot.count], section)

    def _store_some(self, code: str, dtype: DType, pointer: str, offsets: Sequence[int], section: Section) -> None:
        """Write the first lanes of a vector at some offsets.

        Neighbours are written in pieces of 8, 4, 2 and 1: masked stores are slow where they are not native.
        """
        one, start = memory_type(dtype), 0
        while start < len(offsets):
            run = next((n for n in range(1, len(offsets) - start) if offsets[start + n] != offsets[start] + n), None)
            width = min(8, 1 << ((run or len(offsets) - start).bit_length() - 1))
            piece = self._shuffled((code, "poison"), f"<{LANES} x {one}>", range(start, start + width), section)
            at = pointer
            if offsets[start]:
                at = self.fresh("p")
                section.lines.append(f"  {at} = getelementptr {one}, ptr {pointer}, i64 {offsets[start]}")
            section.lines.append(f"  store <{width} x {one}> {piece}, ptr {at}, align {item_size(dtype)}")
            start += width

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
