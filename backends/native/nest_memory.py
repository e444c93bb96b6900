"""Writing kernels: loads, stores and loops, as text of LLVM functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir.scalar import Scalar
from ...ir.types import DType, bool_, u8
from ...passes.loops import Access
from . import narrow
from .nest_positions import LANES, SIDE_BY_SIDE, Carry, Mask, PositionWriter, Section, Spot, item_size, memory_type
from .vector import VectorBuilder

MOST_LOADS = 4
"""Vectors of neighbours that are loaded in place of lanes one by one."""
STREAM_ALIGNMENT = 16
STREAMED = "!0 = !{i32 1}"


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


def _suffix(dtype: DType) -> str:
    return {"f32": "f32", "f64": "f64"}.get(dtype.name, memory_type(dtype))


def _cover(offsets: Sequence[int]) -> tuple[int, list[int]]:
    """How many neighbours to load at once, and where, to have all offsets: nothing outside of the first and the last is loaded."""
    low, high = min(offsets), max(offsets)
    span = min(LANES, 1 << ((high - low + 1).bit_length() - 1))
    starts: list[int] = []
    for at in sorted(set(offsets)):
        if not starts or at >= starts[-1] + span:
            starts.append(min(at, high - span + 1))
    return span, starts


class MemoryWriter(PositionWriter):
    """What reads and writes memory, and loops."""

    # Loads and stores

    def load(
        self, base: str, dtype: DType, access: Access, spot: Spot, only: Mask | None, at: Section | None = None
    ) -> Scalar:
        """An element (or vector) of memory; ``only`` are the lanes that may be read, ``at`` where ``base`` is known."""
        if self.is_wide(access, spot) and self.is_broken(access):
            return self._load_across(base, dtype, access, spot, only)
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
            if mask is None:
                name = self.fresh("x")
                section.lines.append(f"  {name} = load {kind}, ptr {pointer}, align {size}")
            else:
                name = self._masked_load(pointer, dtype, mask, "zeroinitializer", section)
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

    def _load_across(self, base: str, dtype: DType, access: Access, spot: Spot, only: Mask | None) -> Scalar:
        """A vector that goes on in the next row: two pieces of neighbours, or lanes one by one."""
        section = self.section(self.met(access, spot, only))
        mask = self._both(spot.mask, only.code if only else None, section)
        last = self.across[-1]
        if access.strides[last] != 1 or self.nest.dims[last].size < LANES or dtype.bits < 32:
            pointers = self.fresh("g")
            section.lines.append(
                f"  {pointers} = getelementptr {memory_type(dtype)}, ptr {base}, "
                f"<{LANES} x i64> {self.lanes(access, spot, section, LANES)}"
            )
            return self._from_memory(self._gather(pointers, dtype, mask, section), dtype, LANES, section)
        name = "zeroinitializer"
        for begin, lead, part in self._rows_across(spot, section):
            at, pointer = Spot(index=begin), self.fresh("p")
            position = self.position(access, at, section, range(len(access.strides)))
            start = self.int(section, "add", self.int(section, "add", position, str(access.offset)), lead)
            section.lines.append(f"  {pointer} = getelementptr {memory_type(dtype)}, ptr {base}, i64 {start}")
            name = self._masked_load(pointer, dtype, str(self._both(part, mask, section)), name, section)
        return self._from_memory(name, dtype, LANES, section)

    def _rows_across(self, spot: Spot, section: Section) -> list[tuple[str, str, str]]:
        """The row that a vector begins in and the next: an index there, how far before it lane 0 would lie, and the lanes in that row."""
        size, memo = self.nest.dims[self.across[-1]].size, self.memo["loop"]
        row = self.int(section, "udiv", spot.index, str(size))
        after = self.int(section, "mul", self.int(section, "add", row, "1"), str(size))
        left = self.int(section, "add", after, self.int(section, "mul", spot.index, "-1"))
        key = ("rows", spot.index)
        if key not in memo:
            narrow, here = self.fresh("i"), self.fresh("c")
            section.lines.append(f"  {narrow} = trunc i64 {left} to i32")
            lanes = ", ".join(f"i32 {n}" for n in range(LANES))
            section.lines.append(f"  {here} = icmp ult <{LANES} x i32> <{lanes}>, {self._splat(narrow, 32, section)}")
            memo[key] = Scalar(bool_, here)
        here, there = str(memo[key].code), self.fresh("c")
        section.lines.append(f"  {there} = xor <{LANES} x i1> {here}, splat (i1 true)")
        return [(spot.index, "0", here), (after, self.int(section, "mul", left, "-1"), there)]

    def _masked_load(self, pointer: str, dtype: DType, mask: str, other: str, section: Section) -> str:
        """Neighbours where a mask is set, and ``other`` elsewhere."""
        kind, suffix, name = f"<{LANES} x {memory_type(dtype)}>", f"v{LANES}{_suffix(dtype)}", self.fresh("x")
        self.declarations.add(f"declare {kind} @llvm.masked.load.{suffix}.p0(ptr, i32, <{LANES} x i1>, {kind})")
        section.lines.append(
            f"  {name} = call {kind} @llvm.masked.load.{suffix}.p0(ptr {pointer}, i32 {item_size(dtype)}, "
            f"<{LANES} x i1> {mask}, {kind} {other})"
        )
        return name

    def _picked_out(
        self, pointer: str, dtype: DType, offsets: Sequence[int], cover: tuple[int, list[int]], section: Section
    ) -> str:
        """Elements at some offsets out of vectors of neighbours; lanes without an offset are 0.

        Lanes of a shuffle that are not used are poison.  LLVM 22 for AVX-512 computes a wrong element where only the first two lanes of
        a shuffle of 64-bit elements are used, and its other lanes are elements too.
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
