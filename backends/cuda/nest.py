"""A kernel function as one CUDA kernel.

The kernel's arguments are the addresses of the function's arguments, then of its results.  A map gives a thread one element, or four a
block apart where an element is cheap.  Rows and columns are taken by a team: a row by a warp or a block whose threads lie along it, a
column by the threads of a block that share its lane.  Every sum has one order, whatever computes it, which depends on its length alone:
thread ``t`` of ``T`` adds ``x[t], x[t + T], ...`` as ``backends/sums.py`` says; lanes of a warp are folded 16-8-4-2-1, warps in order;
the teams of columns are folded in halves.  There are no atomic operations on floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Instruction, Value
from ...ir.op import Reduce
from ...ir.scalar import Scalar
from ...ir.types import DType, f32, f64, i64, u64
from ...passes.loops import OUTER, REDUCED, Access, Nest, rules
from ...passes.rewrite import repeated_number
from ..sums import BLOCK as TERMS
from ..sums import blocks
from .builder import NARROW, memory_type, number, register_type, stored
from .device import Launch
from .elements import UNROLLED, WIDE, ElementWriter, Neighbours
from .long_sums import LongSum, end_blocks, end_terms, finish

HEAD = "const long long *status"
GUARD = "  if (*status) return;"
"""How kernels begin: after a failed check nothing is done."""
WARP = 32
BLOCK = 256
MOST_THREADS = 1024
SEGMENT = 512
"""Elements of a column that one block adds up; more are added by several, the last of which adds what they found."""
SHORT = 16
"""Elements from which a column is shared between threads."""
ALONE = 128
"""Threads of a block whose columns are one thread's each."""
CHEAP = 24
"""Instructions up to which a map is cheap."""
MOST_KEPT = 16
"""Elements of a value that a thread keeps from one phase to the next."""


def row_threads(count: int) -> int:
    """How many threads share a row of ``count`` elements."""
    if count <= WARP * MOST_KEPT:
        return WARP
    return BLOCK if count <= BLOCK * MOST_KEPT else MOST_THREADS


def column_teams(count: int) -> int:
    """How many threads share a column of ``count`` elements; a short one (a window's) is one thread's."""
    if count < SHORT:
        return 1
    for teams in (32, 16, 8, 4, 2):
        if count >= 4 * teams:
            return teams
    return 1


@dataclass(frozen=True)
class _Apart:
    """Segments of columns by blocks of their own: how many lanes, groups of lanes and segments there are, and which are this block's."""

    lanes: int
    groups: int
    segments: int
    group: str
    segment: str


class KernelWriter(ElementWriter):
    """Writes one kernel: ``text`` is its definition and ``launch`` how it is started."""

    def __init__(
        self, nest: Nest, name: str, aligned: Sequence[bool] | None = None, fast: bool = False, apart: bool = False
    ) -> None:
        """``aligned`` says of each argument and result whether its buffer's bytes begin at a multiple of ``WIDE_BYTES``; ``apart``
        that no result lies where an argument does.
        """
        super().__init__(nest, aligned, fast)
        f = nest.function
        self.shared: list[str] = []
        self._shared_arrays: dict[tuple[str, str], str] = {}
        self.scratch = 0
        """Bytes that blocks of one launch share, behind a counter for each group of blocks."""
        self.counters = 0
        self.launch = Launch(1, (1, 1))
        if not nest.reductions:
            self._map()
        elif nest.lanes_reduced:
            self._rows()
        else:
            self._columns()
        only = "__restrict__ " if apart else ""
        given = [f"const {_pointer(a.type.dtype)}{only}a{n}" for n, a in enumerate(f.arguments)]
        taken = [f"{_pointer(r.type.dtype)}{only}r{n}" for n, r in enumerate(f.results)]
        if self.counters:
            taken += ["unsigned *counters", "unsigned char *scratch"]
            self.launch = Launch(self.launch.blocks, self.launch.threads, self.counters, self.scratch)
        bound = math.prod(self.launch.threads)
        head = f'extern "C" __global__ void __launch_bounds__({bound}) {name}({", ".join([HEAD, *given, *taken])}) {{'
        self.text = "\n".join([head, *(f"  {line}" for line in self.shared), GUARD, *self.c.lines, "}"])

    # Maps

    def _map(self) -> None:
        nest = self.nest
        everything, size = list(range(len(nest.function.results))), nest.size
        cheap = len(nest.function.instructions) <= CHEAP and size >= UNROLLED * BLOCK
        each = UNROLLED if cheap else 1
        self.launch = Launch(max(1, -(-size // (each * BLOCK))), (BLOCK, 1))
        dims = list(range(len(nest.dims)))

        def element(flat: str) -> list[tuple[int, str, str]]:
            self.memo = {}
            self.unravel(flat, dims)
            return self.values(everything)

        if cheap and nest.dims[-1].size % UNROLLED == 0:
            self._neighbours(size)
            return
        start = self.integer(f"({self.int})blockIdx.x * {each * BLOCK} + ({self.int})threadIdx.x", "n")
        if each > 1:
            with self.c.block(f"if ({start} + {(each - 1) * BLOCK} < {size})"):
                self.write(
                    [
                        v
                        for u in range(each)
                        for v in element(self.integer(f"{start} + {u * BLOCK}", "n") if u else start)
                    ]
                )
                self.c.line("return;")
            at = self.c.fresh("n")
            with self.c.block(f"for ({self.int} {at} = {start}; {at} < {size}; {at} += {BLOCK})"):
                self.write(element(at))
        else:
            with self.c.block(f"if ({start} < {size})"):
                self.write(element(start))

    def _neighbours(self, size: int) -> None:
        """``UNROLLED`` neighbours a thread; the innermost dimension is a multiple of them."""
        nest = self.nest
        start = self.integer(f"(({self.int})blockIdx.x * {BLOCK} + ({self.int})threadIdx.x) * {UNROLLED}", "n")
        with self.c.block(f"if ({start} < {size})"):
            self.unravel(start, list(range(len(nest.dims))))
            self.wide = Neighbours(self.index[-1])
            found: list[list[tuple[int, str, str]]] = []
            for u in range(UNROLLED):
                self.memo, self.wide.number = {}, u
                if u:
                    self.index[-1] = self.integer(f"{self.wide.first} + {u}")
                found.append(self.values(list(range(len(nest.function.results)))))
            for n in range(len(nest.function.results)):
                results = [values[n] for values in found]
                dtype = nest.function.results[n].type.dtype
                if not self.together(f"r{n}", dtype, nest.stores[n]):
                    self.write(results)
                    continue
                kind, lanes = WIDE[dtype.name]
                for k in range(0, UNROLLED, lanes):
                    codes = ", ".join(stored(code, dtype) for _, _, code in results[k : k + lanes])
                    self.c.line(f"*({kind} *)(r{n} + {results[k][1]}) = {kind}{{{codes}}};")

    # Teams

    def _rows(self) -> None:
        nest = self.nest
        count = math.prod(d.size for d in nest.dims if d.role == REDUCED)
        rows = math.prod(d.size for d in nest.dims if d.role != REDUCED)
        threads = row_threads(count)
        together = BLOCK // WARP if threads == WARP else 1
        self.launch = Launch(max(1, -(-rows // together)), (threads, together))
        row = self.integer(
            f"({self.int})blockIdx.x" + (f" * {together} + ({self.int})threadIdx.y" if together > 1 else ""), "row"
        )
        if together > 1 and rows % together:
            self.c.line(f"if ({row} >= {rows}) return;")
        self.unravel(row, [d for d, x in enumerate(nest.dims) if x.role == OUTER])
        self._phases(count, threads, "(int)threadIdx.x", None)

    def _columns(self) -> None:
        nest = self.nest
        count = math.prod(d.size for d in nest.dims if d.role == REDUCED)
        lanes = math.prod(d.size for d in nest.dims if d.role != REDUCED)
        teams = column_teams(min(count, SEGMENT))
        width = WARP if teams > 1 else ALONE
        groups, segments = max(1, -(-lanes // width)), -(-count // SEGMENT)
        apart = segments > 1 and all(level <= 1 for level in nest.levels.values()) and not self._after_sums()
        self.launch = Launch(groups * (segments if apart else 1), (width, teams))
        group = self.integer(f"({self.int})blockIdx.x" + (f" % {groups}" if apart else ""), "group")
        lane = self.integer(f"{group} * {width} + ({self.int})threadIdx.x", "lane")
        active = None
        if lanes % width:
            active = self.c.fresh("active")
            self.c.line(f"const bool {active} = {lane} < {lanes};")
        self.unravel(lane, [d for d, x in enumerate(nest.dims) if x.role != REDUCED])
        if apart:
            segment = self.integer(f"(int)blockIdx.x / {groups}", "segment")
            self._apart(count, teams, active, lane, _Apart(lanes, groups, segments, group, segment))
        else:
            self._phases(count, teams, "(int)threadIdx.y", active, segments)

    def _after_sums(self) -> bool:
        """Whether a result of every element needs a sum that is finished."""
        nest = self.nest
        return any(nest.accesses[n] == nest.full() and nest.levels[r] > 0 for n, r in enumerate(nest.function.results))

    def _phases(self, count: int, threads: int, thread: str, active: str | None, segments: int = 1) -> None:
        """Run through the reduced dimension as often as it takes; ``thread`` of ``threads`` takes every so manieth element.

        Of a column of several segments each is added up by itself.
        """
        nest, each = self.nest, -(-count // threads) if segments == 1 else SEGMENT // threads
        first = self.integer(thread, "t")
        saved = self._saved(each) if segments == 1 else {}
        arrays = {v: self.c.fresh("kept") for v in saved}
        for v, name in arrays.items():
            self.c.line(f"{register_type(v.type.dtype)} {name}[{each}];")
        for phase in range(nest.phases):
            running = [i for i in nest.reductions if nest.levels[i.result] == phase + 1]
            results = [
                n
                for n, r in enumerate(nest.function.results)
                if nest.accesses[n] == nest.full() and nest.levels[r] == phase
            ]
            if not running and not results:
                continue
            totals = self._totals(running)
            if segments == 1:
                self._stretch(phase, count, threads, each, first, "", active, results, totals, (saved, arrays))
            else:
                parts_of = column_teams(segments)
                rounds, at = -(-segments // parts_of), self.c.fresh("s")
                long = self._long(totals, rounds)
                with self.c.block(f"for (int {at} = 0; {at} < {segments}; ++{at})"):
                    parts = self._totals(running)
                    begin = f"{at} * {SEGMENT} + "
                    self._stretch(phase, count, threads, each, first, begin, active, results, parts, ({}, {}))
                    for i, part in parts.items():
                        self._fold_teams(i, part, threads)
                        with self.c.block(f"if (threadIdx.y == (unsigned){at} % {parts_of}u)"):
                            self.c.line(f"{totals[i]} = {self._combined(i, totals[i], part)};")
                    if long:
                        with self.c.block(f"if ({at} % {parts_of} == {parts_of - 1} || {at} == {segments - 1})"):
                            end_terms(self.c, long, f"({at} / {parts_of})", rounds)
                finish(self.c, long, rounds)
            self.kept = {}
            for i, total in totals.items():
                self.reduced[i.result] = self._folded(i, total, threads if segments == 1 else column_teams(segments))
        self._write_reduced(first, active)

    def _totals(self, running: Sequence[Instruction]) -> dict[Instruction, str]:
        """A variable for each reduction, which holds its identity."""
        totals = {i: self.c.fresh("sum") for i in running}
        for i, total in totals.items():
            self.c.line(f"{register_type(i.result.type.dtype)} {total} = {self._identity(i)};")
        return totals

    def _long(self, totals: dict[Instruction, str], terms: int) -> list[LongSum]:
        """Of variables that add up so many terms, those that do it in blocks."""
        if terms <= TERMS:
            return []
        return [
            LongSum.of(self.c, register_type(i.result.type.dtype), total, self._identity(i), terms)
            for i, total in totals.items()
            if i.result.type.dtype.floating and rules(i).combine == "sum"
        ]

    def _stretch(
        self,
        phase: int,
        count: int,
        threads: int,
        each: int,
        first: str,
        begin: str,
        active: str | None,
        results: Sequence[int],
        totals: dict[Instruction, str],
        kept: tuple[dict[Value, int], dict[Value, str]],
    ) -> None:
        """A thread's ``each`` elements of a phase: results are written and totals added to."""
        at, block, long = self.c.fresh("k"), self.c.fresh("b"), self._long(totals, each)
        begins, ends = (f"{block} * {TERMS}", f"min({block} * {TERMS} + {TERMS}, {each})") if long else ("0", str(each))
        if each <= MOST_KEPT:
            self.c.lines.append("#pragma unroll")
        with self.c.block(f"for (int {block} = 0; {block} < {blocks(each)}; ++{block})" if long else ""):
            with self.c.block(f"for (int {at} = {begins}; {at} < {ends}; ++{at})"):
                place = self.integer(f"{begin}{first} + {at} * {threads}" if each > 1 or begin else first, "j")
                conditions = [f"{place} < {count}"] if count % (SEGMENT if begin else threads) else []
                conditions += [active] if active else []
                with self.c.block(f"if ({' && '.join(conditions)})" if conditions else ""):
                    self._term(phase, at, place, results, totals, kept)
            end_blocks(self.c, long, block)
        finish(self.c, long, each)

    def _term(
        self,
        phase: int,
        at: str,
        place: str,
        results: Sequence[int],
        totals: dict[Instruction, str],
        kept: tuple[dict[Value, int], dict[Value, str]],
    ) -> None:
        """A thread's element number ``at``, which is at ``place``."""
        nest, (saved, arrays) = self.nest, kept
        over = [d for d, x in enumerate(nest.dims) if x.role == REDUCED]
        self.memo = {}
        self.kept = {v: f"{arrays[v]}[{at}]" for v, made in saved.items() if made < phase}
        here = list(self.index)
        self.unravel(place, over)
        values = self.values(results)
        for i, total in totals.items():
            x = self.operand(i.operands[0], nest.full())
            self.c.line(f"{total} = {self._combined(i, total, str(x.code))};")
        for v, made in saved.items():
            if made == phase:
                self.c.line(f"{arrays[v]}[{at}] = {self.evaluate(v, nest.full()).code};")
        self.write(values)
        self.index = here

    def _write_reduced(self, first: str, active: str | None) -> None:
        """One thread of a team writes what the team has one of."""
        nest = self.nest
        self.memo = {}
        reduced = [n for n in range(len(nest.function.results)) if nest.accesses[n] != nest.full()]
        if reduced:
            conditions = [f"{first} == 0", *([active] if active else [])]
            with self.c.block(f"if ({' && '.join(conditions)})"):
                self.write(self.values(reduced))

    def _apart(self, count: int, teams: int, active: str | None, lane: str, apart: _Apart) -> None:
        """Every segment by a block of its own; the last to come adds up what all have found, in the order of the segments."""
        first = self.integer("(int)threadIdx.y", "t")
        over = [i for i in self.nest.reductions if self.nest.levels[i.result] == 1]
        results = [n for n in range(len(self.nest.function.results)) if self.nest.accesses[n] == self.nest.full()]
        parts = self._totals(over)
        begin = f"{apart.segment} * {SEGMENT} + "
        self._stretch(0, count, teams, SEGMENT // teams, first, begin, active, results, parts, ({}, {}))
        found: dict[Instruction, str] = {}
        for i, part in parts.items():
            self._fold_teams(i, part, teams)
            kind = register_type(i.result.type.dtype)
            found[i] = self.c.fresh("found")
            self.c.line(f"volatile {kind} *const {found[i]} = (volatile {kind} *)(scratch + {self.scratch});")
            self.scratch += -(-apart.segments * apart.lanes * 8 // 256) * 256
            with self.c.block(f"if ({' && '.join([f'{first} == 0', *([active] if active else [])])})"):
                self.c.line(f"{found[i]}[(long long){apart.segment} * {apart.lanes} + {lane}] = {part};")
        self.counters = apart.groups
        self.shared.append("__shared__ bool last;")
        self.c.line("__threadfence();")
        self.c.line("__syncthreads();")
        with self.c.block("if (threadIdx.x == 0 && threadIdx.y == 0)"):
            self.c.line(f"last = atomicAdd(&counters[{apart.group}], 1u) == {apart.segments - 1}u;")
            self.c.line(f"if (last) counters[{apart.group}] = 0u;")
        self.c.line("__syncthreads();")
        self.c.line("if (!last) return;")
        self.c.line("__threadfence();")
        folding = column_teams(apart.segments)
        rounds, totals = -(-apart.segments // folding), self._totals(over)
        at, turn, long = self.c.fresh("s"), self.c.fresh("n"), self._long(totals, rounds)
        inside = f"{first} < {folding}" + (f" && {active}" if active else "")
        with self.c.block(f"if ({inside})"):
            with self.c.block(f"for (int {turn} = 0; {turn} < {rounds}; ++{turn})"):
                self.c.line(f"const int {at} = {first} + {turn} * {folding};")
                with self.c.block(f"if ({at} < {apart.segments})"):
                    for i, total in totals.items():
                        kind, part = register_type(i.result.type.dtype), self.c.fresh()
                        self.c.line(f"const {kind} {part} = {found[i]}[(long long){at} * {apart.lanes} + {lane}];")
                        self.c.line(f"{total} = {self._combined(i, total, part)};")
                end_terms(self.c, long, turn, rounds)
            finish(self.c, long, rounds)
        for i, total in totals.items():
            self.reduced[i.result] = self._folded(i, total, folding)
        self._write_reduced(first, active)

    def _saved(self, each: int) -> dict[Value, int]:
        """Values that a later phase reads again, and the phase that first has them; none where a thread has too many elements."""
        nest, full = self.nest, self.nest.full()
        room = MOST_KEPT
        first: dict[Value, int] = {}
        again: dict[Value, int] = {}
        for phase in range(nest.phases):
            pending = [(i.operands[0], full) for i in nest.reductions if nest.levels[i.result] == phase + 1]
            pending += [
                (r, full)
                for n, r in enumerate(nest.function.results)
                if nest.accesses[n] == full and nest.levels[r] == phase
            ]
            seen: set[tuple[Value, Access]] = set()
            while pending:
                v, access = pending.pop()
                if (v, access) in seen or v in self.places or repeated_number(v) is not None or v.owner is None:
                    continue
                seen.add((v, access))
                if access == full:
                    if first.setdefault(v, phase) < phase:
                        again[v] = first[v]
                        continue
                if not isinstance(v.owner.op, Reduce):
                    pending += nest.reads(v.owner, access)
        saved: dict[Value, int] = {}
        for v, phase in again.items():
            words = each * (2 if v.type.dtype in (f64, i64, u64) else 1)
            if words <= room:
                saved[v] = phase
                room -= words
        return saved

    # Reductions

    def _identity(self, i: Instruction) -> str:
        dtype = i.result.type.dtype
        op: Reduce = i.op  # type: ignore[assignment]
        return number(-0.0 if op.combine == "sum" and dtype.floating else op.identity(dtype), dtype)

    def _combined(self, i: Instruction, a: str, b: str) -> str:
        """``a`` combined with ``b``; of two equal extrema the second, and NaN if one is."""
        dtype, combine = i.result.type.dtype, rules(i).combine
        if combine == "sum":
            kind = register_type(dtype)
            return f"{a} + {b}" if dtype.floating else f"({kind})((unsigned long long){a} + (unsigned long long){b})"
        better = f"{a} {'>' if combine == 'max' else '<'} {b}"
        return f"{better} || {a} != {a} ? {a} : {b}" if dtype.floating else f"{better} ? {a} : {b}"

    def _folded(self, i: Instruction, total: str, threads: int) -> Scalar:
        """A reduction's result, known to all threads of a team."""
        dtype = i.result.type.dtype
        kind = register_type(dtype)
        if self.nest.lanes_reduced:
            self._fold_warp(i, total)
            if threads > WARP:
                self._fold_warps(i, total, threads // WARP)
        else:
            self._fold_teams(i, total, threads)
        if dtype in NARROW and rules(i).combine == "sum":
            return self.c.rounded(Scalar(f32, total), dtype)
        if dtype.floating and rules(i).combine != "sum":
            return self.c.name(f"{total} != {total} ? {number(math.nan, dtype)} : {total}", dtype)
        done = self.c.fresh()
        self.c.line(f"const {kind} {done} = {total};")
        return Scalar(dtype, done)

    def _fold_warp(self, i: Instruction, total: str) -> None:
        dtype = i.result.type.dtype
        word = f"({register_type(dtype)})" if dtype.bits < 32 else ""
        for half in (16, 8, 4, 2, 1):
            other = self.c.fresh()
            self.c.line(f"const {register_type(dtype)} {other} = {word}__shfl_down_sync(0xffffffffu, {total}, {half});")
            self.c.line(f"{total} = {self._combined(i, total, other)};")
        self.c.line(f"{total} = {word}__shfl_sync(0xffffffffu, {total}, 0);")

    def _fold_warps(self, i: Instruction, total: str, warps: int) -> None:
        kind, of_warps = register_type(i.result.type.dtype), self.c.fresh("warps")
        self.shared.append(f"__shared__ {kind} {of_warps}[{warps}];")
        self.c.line(f"if ((threadIdx.x & 31u) == 0u) {of_warps}[threadIdx.x >> 5] = {total};")
        self.c.line("__syncthreads();")
        self.c.line(f"{total} = {of_warps}[0];")
        at = self.c.fresh("w")
        with self.c.block(f"for (int {at} = 1; {at} < {warps}; ++{at})"):
            self.c.line(f"{total} = {self._combined(i, total, f'{of_warps}[{at}]')};")

    def _fold_teams(self, i: Instruction, total: str, teams: int) -> None:
        """``total`` of the first ``teams`` in halves, known to all."""
        if teams == 1:
            self._from_first(i, total)
            return
        kind = register_type(i.result.type.dtype)
        parts = self._shared_array("teams", kind, f"[{teams}][{WARP}]")
        rows = self.launch.threads[1]
        everyone = "" if teams == rows else f"if (threadIdx.y < {teams}) "
        self.c.line(f"{everyone}{parts}[threadIdx.y][threadIdx.x] = {total};")
        self.c.line("__syncthreads();")
        halves = [teams >> n for n in range(1, teams.bit_length())]
        for half in halves:
            mine, other = f"{parts}[threadIdx.y][threadIdx.x]", f"{parts}[threadIdx.y + {half}][threadIdx.x]"
            self.c.line(f"if (threadIdx.y < {half}) {mine} = {self._combined(i, mine, other)};")
            self.c.line("__syncthreads();")
        self.c.line(f"{total} = {parts}[0][threadIdx.x];")
        self.c.line("__syncthreads();")

    def _shared_array(self, hint: str, kind: str, shape: str) -> str:
        """An array of the block's for all who leave it with a barrier: one of each type and shape, because there is little room."""
        form = kind, shape
        if form not in self._shared_arrays:
            self._shared_arrays[form] = self.c.fresh(hint)
            self.shared.append(f"__shared__ {kind} {self._shared_arrays[form]}{shape};")
        return self._shared_arrays[form]

    def _from_first(self, i: Instruction, total: str) -> None:
        """``total`` of the first team, known to all."""
        if self.launch.threads[1] == 1:
            return
        found = self._shared_array("first", register_type(i.result.type.dtype), f"[{WARP}]")
        self.c.line(f"if (threadIdx.y == 0) {found}[threadIdx.x] = {total};")
        self.c.line("__syncthreads();")
        self.c.line(f"{total} = {found}[threadIdx.x];")
        self.c.line("__syncthreads();")


def _pointer(dtype: DType) -> str:
    return f"{memory_type(dtype)} *"
