"""Reductions of arrays of any size, in the order that kernels use (see ``nest.py``): the tape's entries of the native table.

``void row_<combine>_<dtype>(ptr x, ptr out, i64 outer, i64 n)`` reduces each row of ``[outer, n]``, and
``void column_<combine>_<dtype>(ptr x, ptr out, i64 outer, i64 n, i64 inner)`` the middle axis of ``[outer, n, inner]``; ``n`` is not 0.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from string import Template

from ...ir.types import Array, DType, f32
from ..sums import BLOCK
from . import engine
from .nest_positions import LANES

LEVELS = 64
"""How many sums of blocks may wait: one for each power of two of an i64."""
# A sum carries no flag; an extremum takes the second of two equal elements, and remembers whether it met a NaN.
_PARTS = {
    "sum": ("  $r = fadd $kind $a, $b", ""),
    "max": ("  $r.c = fcmp ogt $kind $a, $b\n  $r = select $flags $r.c, $kind $a, $kind $b", "nan"),
    "min": ("  $r.c = fcmp olt $kind $a, $b\n  $r = select $flags $r.c, $kind $a, $kind $b", "nan"),
}


class _Text:
    """Text for one combine and dtype."""

    def __init__(self, combine: str, dtype: DType) -> None:
        self.combine, self.dtype = combine, dtype
        self.one = "float" if dtype is f32 else "double"
        self.wide = f"<{LANES} x {self.one}>"
        self.suffix = f"v{LANES}{dtype.name}"
        self.size = dtype.bits // 8
        first = {"sum": "0x8000000000000000", "max": "0xFFF0000000000000", "min": "0x7FF0000000000000"}[combine]
        self.first = first

    def combined(self, r: str, a: str, b: str, width: int, vector: bool = False) -> str:
        kind = self.one if width == 1 and not vector else f"<{width} x {self.one}>"
        flags = "i1" if width == 1 and not vector else f"<{width} x i1>"
        return Template(_PARTS[self.combine][0]).substitute(r=r, a=a, b=b, kind=kind, flags=flags)

    def fold(self, r: str, lanes: str) -> str:
        """16 lanes to one."""
        lines: list[str] = []
        width, now = LANES, lanes
        while width > 1:
            half = width // 2
            for part, start in (("l", 0), ("h", half)):
                mask = ", ".join(f"i32 {start + n}" for n in range(half))
                kind = f"<{width} x {self.one}>"
                lines.append(f"  {r}.{part}{half} = shufflevector {kind} {now}, {kind} poison, <{half} x i32> <{mask}>")
            lines.append(self.combined(f"{r}.{half}", f"{r}.l{half}", f"{r}.h{half}", half, True))
            now, width = f"{r}.{half}", half
        return "\n".join([*lines, f"  {r} = extractelement <1 x {self.one}> {now}, i64 0"])

    @property
    def nan(self) -> bool:
        return self.combine != "sum"

    def first_of(self, width: int) -> str:
        """The identity in every lane."""
        return self.first if width == 1 else f"splat ({self.one} {self.first})"

    def stack(self, kind: str) -> str:
        """Memory for the sums of blocks that wait."""
        return "" if self.nan else f"  %stack = alloca [{LEVELS} x {kind}], align 64"

    def push(self, kind: str, width: int, number: str, block: str, x: str, then: str) -> str:
        """The sum ``x`` of a block, known at the end of ``block``, takes in what waits for it, and waits; go on at ``then``."""
        if self.nan:
            return f"  br label %{then}"
        return f"""  br label %push
push:
  %bits = phi i64 [ {number}, %{block} ], [ %bits.next, %up ]
  %level = phi i64 [ 0, %{block} ], [ %level.next, %up ]
  %sum = phi {kind} [ {x}, %{block} ], [ %sum.next, %up ]
  %place = getelementptr {kind}, ptr %stack, i64 %level
  %odd = trunc i64 %bits to i1
  br i1 %odd, label %up, label %waits
up:
  %waiting = load {kind}, ptr %place, align {self.size}
{self.combined("%sum.next", "%waiting", "%sum", width)}
  %bits.next = lshr i64 %bits, 1
  %level.next = add i64 %level, 1
  br label %push
waits:
  store {kind} %sum, ptr %place, align {self.size}
  br label %{then}"""

    def collect(self, kind: str, width: int, number: str, block: str, x: str, then: str) -> str:
        """What waits after so many blocks, as ``%total``; ``x`` is the extremum, which waits for nothing."""
        if self.nan:
            return f"  br label %{then}\n{then}:\n  %total = phi {kind} [ {x}, %{block} ]"
        return f"""  br label %gather
gather:
  %left = phi i64 [ {number}, %{block} ], [ %left.next, %gathered ]
  %from.level = phi i64 [ 0, %{block} ], [ %from.level.next, %gathered ]
  %so.far = phi {kind} [ {self.first_of(width)}, %{block} ], [ %so.far.next, %gathered ]
  %is.there = trunc i64 %left to i1
  br i1 %is.there, label %take, label %gathered
take:
  %from = getelementptr {kind}, ptr %stack, i64 %from.level
  %taken = load {kind}, ptr %from, align {self.size}
{self.combined("%with", "%taken", "%so.far", width)}
  br label %gathered
gathered:
  %so.far.next = phi {kind} [ %so.far, %gather ], [ %with, %take ]
  %left.next = lshr i64 %left, 1
  %from.level.next = add i64 %from.level, 1
  %none = icmp eq i64 %left.next, 0
  br i1 %none, label %{then}, label %gather
{then}:
  %total = phi {kind} [ %so.far.next, %gathered ]"""

    def row(self) -> str:
        lanes = ", ".join(f"i64 {n}" for n in range(LANES))
        zeros = "zeroinitializer"
        nan_flag = f"  %v.uno = and <{LANES} x i1> {zeros}, {zeros}"
        if self.nan:
            nan_flag = f"  %v.uno = fcmp uno {self.wide} %v.x, %v.x"
        tail_flag = nan_flag.replace("%v.uno", "%t.uno0").replace("%v.x", "%t.x")
        identity = self.first_of(LANES)
        return f"""
declare {self.wide} @llvm.masked.load.{self.suffix}.p0(ptr, i32, <{LANES} x i1>, {self.wide})
define void @row(ptr %x, ptr %out, i64 %outer, i64 %n) {{
entry:
{self.stack(self.wide)}
  %some = icmp ne i64 %outer, 0
  br i1 %some, label %row, label %done
row:
  %o = phi i64 [ 0, %entry ], [ %o.next, %row.end ]
  %start = mul i64 %o, %n
  %base = getelementptr {self.one}, ptr %x, i64 %start
  br label %run
run:
  %c = phi i64 [ 0, %row ], [ %c.next, %run.next ]
  %acc0 = phi {self.wide} [ {identity}, %row ], [ {"%end.acc" if self.nan else identity}, %run.next ]
  %nan0 = phi <{LANES} x i1> [ {zeros}, %row ], [ %end.nan, %run.next ]
  %begin = mul i64 %c, {BLOCK * LANES}
  %limit0 = add i64 %begin, {BLOCK * LANES}
  %whole = icmp ult i64 %limit0, %n
  %limit = select i1 %whole, i64 %limit0, i64 %n
  %length = sub i64 %limit, %begin
  %full = and i64 %length, -{LANES}
  %stop = add i64 %begin, %full
  %any = icmp ne i64 %full, 0
  br i1 %any, label %vector, label %tail
vector:
  %v = phi i64 [ %begin, %run ], [ %v.next, %vector ]
  %acc = phi {self.wide} [ %acc0, %run ], [ %acc.next, %vector ]
  %v.nan = phi <{LANES} x i1> [ %nan0, %run ], [ %v.nan.next, %vector ]
  %v.p = getelementptr {self.one}, ptr %base, i64 %v
  %v.x = load {self.wide}, ptr %v.p, align {self.size}
{self.combined("%acc.next", "%acc", "%v.x", LANES)}
{nan_flag}
  %v.nan.next = or <{LANES} x i1> %v.nan, %v.uno
  %v.next = add i64 %v, {LANES}
  %v.more = icmp ult i64 %v.next, %stop
  br i1 %v.more, label %vector, label %tail
tail:
  %run.acc = phi {self.wide} [ %acc0, %run ], [ %acc.next, %vector ]
  %run.nan = phi <{LANES} x i1> [ %nan0, %run ], [ %v.nan.next, %vector ]
  %rest = sub i64 %length, %full
  %left.over = icmp ne i64 %rest, 0
  br i1 %left.over, label %last, label %run.end
last:
  %rest1 = insertelement <{LANES} x i64> poison, i64 %rest, i64 0
  %rests = shufflevector <{LANES} x i64> %rest1, <{LANES} x i64> poison, <{LANES} x i32> zeroinitializer
  %t.mask = icmp ugt <{LANES} x i64> %rests, <{lanes}>
  %t.p = getelementptr {self.one}, ptr %base, i64 %stop
  %t.x = call {self.wide} @llvm.masked.load.{self.suffix}.p0(ptr %t.p, i32 {self.size}, <{LANES} x i1> %t.mask, {self.wide} zeroinitializer)
{self.combined("%t.all", "%run.acc", "%t.x", LANES)}
  %t.acc = select <{LANES} x i1> %t.mask, {self.wide} %t.all, {self.wide} %run.acc
{tail_flag}
  %t.uno = and <{LANES} x i1> %t.uno0, %t.mask
  %t.nan = or <{LANES} x i1> %run.nan, %t.uno
  br label %run.end
run.end:
  %end.acc = phi {self.wide} [ %run.acc, %tail ], [ %t.acc, %last ]
  %end.nan = phi <{LANES} x i1> [ %run.nan, %tail ], [ %t.nan, %last ]
{self.push(self.wide, LANES, "%c", "run.end", "%end.acc", "run.next")}
run.next:
  %c.next = add i64 %c, 1
  %more = icmp ult i64 %limit, %n
  br i1 %more, label %run, label %row.total
row.total:
{self.collect(self.wide, LANES, "%c.next", "row.total", "%end.acc", "row.end")}
{self.fold("%result", "%total")}
{self._nan_row()}
  %q = getelementptr {self.one}, ptr %out, i64 %o
  store {self.one} %final, ptr %q, align {self.size}
  %o.next = add i64 %o, 1
  %rows = icmp ult i64 %o.next, %outer
  br i1 %rows, label %row, label %done
done:
  ret void
}}"""

    def _nan_row(self) -> str:
        if not self.nan:
            return f"  %final = select i1 true, {self.one} %result, {self.one} %result"
        return f"""  %bits = bitcast <{LANES} x i1> %end.nan to i{LANES}
  %is.nan = icmp ne i{LANES} %bits, 0
  %final = select i1 %is.nan, {self.one} 0x7FF8000000000000, {self.one} %result"""

    def column(self, width: int) -> str:
        """Columns ``from`` to ``to``, ``width`` at a time."""
        kind = self.one if width == 1 else f"<{width} x {self.one}>"
        flags = "i1" if width == 1 else f"<{width} x i1>"
        first = self.first_of(width)
        zero = "false" if width == 1 else "zeroinitializer"
        nan = "0x7FF8000000000000" if width == 1 else f"splat ({self.one} 0x7FF8000000000000)"
        return f"""
define internal void @column{width}(ptr %x, ptr %out, i64 %n, i64 %inner, i64 %from.column, i64 %to) {{
entry:
{self.stack(kind)}
  %some = icmp ult i64 %from.column, %to
  br i1 %some, label %column, label %done
column:
  %j = phi i64 [ %from.column, %entry ], [ %j.next, %column.end ]
  %base = getelementptr {self.one}, ptr %x, i64 %j
  br label %run
run:
  %number = phi i64 [ 0, %column ], [ %number.next, %run.next ]
  %c = phi i64 [ 0, %column ], [ %limit, %run.next ]
  %acc0 = phi {kind} [ {first}, %column ], [ {"%acc.next" if self.nan else first}, %run.next ]
  %nan0 = phi {flags} [ {zero}, %column ], [ %nan.next, %run.next ]
  %limit0 = add i64 %c, {BLOCK}
  %whole = icmp ult i64 %limit0, %n
  %limit = select i1 %whole, i64 %limit0, i64 %n
  br label %row
row:
  %r = phi i64 [ %c, %run ], [ %r.next, %row ]
  %acc = phi {kind} [ %acc0, %run ], [ %acc.next, %row ]
  %nan = phi {flags} [ %nan0, %run ], [ %nan.next, %row ]
  %at = mul i64 %r, %inner
  %p = getelementptr {self.one}, ptr %base, i64 %at
  %v = load {kind}, ptr %p, align {self.size}
{self.combined("%acc.next", "%acc", "%v", width)}
  %uno = fcmp uno {kind} %v, %v
  %nan.next = or {flags} %nan, %uno
  %r.next = add i64 %r, 1
  %more = icmp ult i64 %r.next, %limit
  br i1 %more, label %row, label %run.end
run.end:
{self.push(kind, width, "%number", "run.end", "%acc.next", "run.next")}
run.next:
  %number.next = add i64 %number, 1
  %runs = icmp ult i64 %limit, %n
  br i1 %runs, label %run, label %column.total
column.total:
{self.collect(kind, width, "%number.next", "column.total", "%acc.next", "column.end")}
  %final = select {flags} {"%nan.next" if self.nan else zero}, {kind} {nan}, {kind} %total
  %q = getelementptr {self.one}, ptr %out, i64 %j
  store {kind} %final, ptr %q, align {self.size}
  %j.next = add i64 %j, {width}
  %columns = icmp ult i64 %j.next, %to
  br i1 %columns, label %column, label %done
done:
  ret void
}}"""

    @property
    def widths(self) -> tuple[int, ...]:
        """How many columns are taken side by side, from the most: several vectors hide how long an addition takes."""
        return (LANES, 1) if self.nan else (4 * LANES, LANES, 4, 1)

    def columns(self) -> str:
        taken, calls = "0", list[str]()
        for width in self.widths:
            stop = f"%to{width}"
            calls.append(f"  {stop} = and i64 %inner, -{width}")
            calls.append(f"  call void @column{width}(ptr %p, ptr %q, i64 %n, i64 %inner, i64 {taken}, i64 {stop})")
            taken = stop
        each, called = "\n".join(map(self.column, self.widths)), "\n".join(calls)
        return f"""{each}
define void @column(ptr %x, ptr %out, i64 %outer, i64 %n, i64 %inner) {{
entry:
  %slab = mul i64 %n, %inner
  %some = icmp ne i64 %outer, 0
  br i1 %some, label %each, label %done
each:
  %o = phi i64 [ 0, %entry ], [ %o.next, %each ]
  %from = mul i64 %o, %slab
  %to = mul i64 %o, %inner
  %p = getelementptr {self.one}, ptr %x, i64 %from
  %q = getelementptr {self.one}, ptr %out, i64 %to
{called}
  %o.next = add i64 %o, 1
  %more = icmp ult i64 %o.next, %outer
  br i1 %more, label %each, label %done
done:
  ret void
}}"""


@cache
def reduction(combine: str, dtype: DType) -> Callable[[Array, Array], None]:
    """The entry that reduces ``[outer, n, inner]`` over its middle axis into ``[outer, inner]``, for f32 and f64."""
    text = _Text(combine, dtype)
    library = engine.load(f"{text.row()}\n{text.columns()}", about=f"{combine} of {dtype}")
    kinds = [ctypes.c_void_p] * 2
    row = ctypes.CFUNCTYPE(None, *kinds, *[ctypes.c_int64] * 2)(library.address("row"))
    column = ctypes.CFUNCTYPE(None, *kinds, *[ctypes.c_int64] * 3)(library.address("column"))

    def reduce(x: Array, out: Array) -> None:
        outer, n, inner = x.shape
        if n == 0:
            out.fill({"sum": 0.0, "max": float("-inf"), "min": float("inf")}[combine])
        elif inner == 1:
            row(x.ctypes.data, out.ctypes.data, outer, n)
        elif inner:
            column(x.ctypes.data, out.ctypes.data, outer, n, inner)

    return reduce
