"""A kernel function as one LLVM function: its nest of loops with explicit vectors of 16 lanes.

``void @kernel(ptr arguments, i64 begin, i64 end)`` runs units ``begin`` to ``end``: vectors of a flat map, rows, or bands of columns.
``arguments`` points to the addresses of the kernel's operands, then of its results.  Units are independent, so how they are dealt to
threads cannot change a bit.

Sums have one order whatever computes them.  A column is added up as ``backends/sums.py`` says.  So is each of a row's 16 lanes, lane
``j`` having ``x[j], x[16 + j], ...``; then the lanes are folded 16-8-4-2-1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from ...ir import Value
from ...ir.scalar import Scalar
from ...passes.loops import OUTER, REDUCED, Nest
from ..sums import BLOCK
from .nest_memory import STREAMED
from .nest_positions import LANES, Section, Spot
from .nest_reductions import ReductionWriter, Running

FAST_VECTORS = 4
UNROLLED = 4
"""Rows of up to this many vectors are written out, their values kept in registers."""
BAND = 4


class NestWriter(ReductionWriter):
    """Writes one kernel, a flat map, rows or columns.

    ``text`` is the function, ``units`` how many units it has and ``work`` about how many cycles all of them take on one core.
    """

    def __init__(self, nest: Nest, name: str, fast: bool = False, streamed: Collection[int] = ()) -> None:
        """``streamed`` are the numbers of results that are written past the caches; they lie at multiples of ``STREAM_ALIGNMENT``."""
        super().__init__(nest, fast, streamed)
        self._write()
        if STREAMED in self.declarations:
            self.entry.lines.append("  fence seq_cst")
        body = "\n".join([*self.allocated, *self.entry.lines])
        if fast:
            body = re.sub(r" = (fadd|fsub|fmul) ", r" = \1 contract ", body)
        self.text = f"define void @{name}(ptr %arguments, i64 %begin, i64 %end) {{\nentry:\n{body}\n  ret void\n}}"

    def _write(self) -> None:
        nest = self.nest
        dims = nest.dims
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
        length = self.width
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
        if len(nest.dims) > len(self.lane_dims):
            outer = list(range(len(nest.dims) - len(self.lane_dims)))
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

    # Rows

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
                running: list[Running] = running,
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
                self._finished(r, self.fold(r.reduction, r.lanes.now, self.here))
        self._store_all(
            [(r, k) for k, r in enumerate(nest.function.results) if nest.accesses[k] != nest.full()], Spot()
        )

    def _run_through(self, count: int, running: list[Running], one: Callable[[str, int, str | None], None]) -> None:
        """All vectors of a row in loops, ``FAST_VECTORS`` side by side in fast numerics; sums in blocks."""
        carried = [c for r in running for c in (r.lanes, r.nan) if c is not None]
        side_by_side = FAST_VECTORS if self.fast else 1
        step = side_by_side * LANES

        def vectors(begin: str, end: str) -> None:
            def body(index: str) -> None:
                self._clear_loop()
                for v in range(side_by_side):
                    one(self.int(self.here, "add", index, str(v * LANES)) if v else index, v, None)

            self.loop(begin, end, carried, body, step)

        def block(number: str) -> None:
            begin = self.int(self.here, "mul", number, str(BLOCK * step))
            vectors(begin, self.int(self.here, "add", begin, str(BLOCK * step)))

        def rest(number: str) -> None:
            begin = int(number) * BLOCK * step
            whole = (count - begin) // step * step
            if whole:
                vectors(str(begin), str(begin + whole))
            self._clear_loop()
            for v, start in enumerate(range(begin + whole, count, LANES)):
                left = count - start
                one(str(start), v, None if left >= LANES else self._tail_mask(left))

        if any(r.in_blocks for r in running):
            self.in_blocks(running, count // (BLOCK * step), block, rest if count % (BLOCK * step) else None)
        else:
            rest("0")

    def _column(self) -> None:
        nest = self.nest
        dims = nest.dims
        outer = [d for d, x in enumerate(dims) if x.role != REDUCED and d not in self.lane_dims]
        width = self.width
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

        def block(number: str) -> None:
            begin = self.int(self.here, "mul", number, str(BLOCK))
            rows(begin, self.int(self.here, "add", begin, str(BLOCK)))

        if not any(r.in_blocks for r in running):
            rows("0", str(count))
        else:
            self.in_blocks(
                running,
                count // BLOCK,
                block,
                (lambda n: rows(str(int(n) * BLOCK), str(count))) if count % BLOCK else None,
            )
        for r in running:
            self._finished(r, r.lanes.now)

    # Units

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
