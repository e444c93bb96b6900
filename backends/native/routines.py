"""LLVM functions that are no nest of vectors: scatter-add, argmax, and the search for an element that an op does not take."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...ir.op import Check, Layout
from ...ir.types import DType, TensorType
from .nest_memory import from_memory
from .nest_positions import item_size, memory_type
from .vector import VectorBuilder

MEMSET = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)"
"""What ``scatter_add`` calls besides."""


def scatter_add(dtype: DType, index: DType) -> tuple[str, str]:
    """Name and text of ``(part, index, out, outer, size, inner, count, shared)``: zeros, then the parts added in their order."""
    kind, word = memory_type(dtype), memory_type(index)
    name = f"scatter_add_{dtype.name}_{index.name}"
    add = "fadd" if dtype.floating else "add"
    if word == "i64":
        widen = "add i64 %raw, 0"
    else:
        widen = f"{'zext' if index.kind == 'u' else 'sext'} {word} %raw to i64"
    text = f"""
define internal void @{name}(ptr %part, ptr %index, ptr %out, i64 %outer, i64 %size, i64 %inner, i64 %count, i64 %shared) {{
entry:
  %slab = mul i64 %size, %inner
  %whole = mul i64 %slab, %outer
  %bytes = mul i64 %whole, {item_size(dtype)}
  call void @llvm.memset.p0.i64(ptr %out, i8 0, i64 %bytes, i1 false)
  %rows = mul i64 %outer, %count
  %vectors = and i64 %inner, -8
  %each = icmp eq i64 %shared, 0
  %some = icmp ne i64 %rows, 0
  %wide = icmp ne i64 %inner, 0
  %any = and i1 %some, %wide
  br i1 %any, label %row, label %done
row:
  %r = phi i64 [ 0, %entry ], [ %r.next, %row.end ]
  %o = udiv i64 %r, %count
  %j = urem i64 %r, %count
  %base = mul i64 %o, %slab
  %from = mul i64 %r, %inner
  br i1 %each, label %lane, label %together
together:
  %at = getelementptr {word}, ptr %index, i64 %j
  %t.index = call i64 @{name}.index(ptr %at, i64 %size)
  %t.step = mul i64 %t.index, %inner
  %t.to = add i64 %base, %t.step
  %t.some = icmp ne i64 %vectors, 0
  br i1 %t.some, label %vector, label %rest
vector:
  %v = phi i64 [ 0, %together ], [ %v.next, %vector ]
  %v.from = add i64 %from, %v
  %v.to = add i64 %t.to, %v
  %v.p = getelementptr {kind}, ptr %part, i64 %v.from
  %v.q = getelementptr {kind}, ptr %out, i64 %v.to
  %v.x = load <8 x {kind}>, ptr %v.p, align {item_size(dtype)}
  %v.y = load <8 x {kind}>, ptr %v.q, align {item_size(dtype)}
  %v.z = {add} <8 x {kind}> %v.y, %v.x
  store <8 x {kind}> %v.z, ptr %v.q, align {item_size(dtype)}
  %v.next = add i64 %v, 8
  %v.more = icmp ult i64 %v.next, %vectors
  br i1 %v.more, label %vector, label %rest
rest:
  %left = icmp ult i64 %vectors, %inner
  br i1 %left, label %single, label %row.end
single:
  %s = phi i64 [ %vectors, %rest ], [ %s.next, %single ]
  %s.from = add i64 %from, %s
  %s.to = add i64 %t.to, %s
  %s.p = getelementptr {kind}, ptr %part, i64 %s.from
  %s.q = getelementptr {kind}, ptr %out, i64 %s.to
  %s.x = load {kind}, ptr %s.p
  %s.y = load {kind}, ptr %s.q
  %s.z = {add} {kind} %s.y, %s.x
  store {kind} %s.z, ptr %s.q
  %s.next = add i64 %s, 1
  %s.more = icmp ult i64 %s.next, %inner
  br i1 %s.more, label %single, label %row.end
lane:
  %i = phi i64 [ 0, %row ], [ %i.next, %lane ]
  %i.from = add i64 %from, %i
  %i.at = getelementptr {word}, ptr %index, i64 %i.from
  %i.index = call i64 @{name}.index(ptr %i.at, i64 %size)
  %i.step = mul i64 %i.index, %inner
  %i.row = add i64 %base, %i.step
  %i.to = add i64 %i.row, %i
  %i.p = getelementptr {kind}, ptr %part, i64 %i.from
  %i.q = getelementptr {kind}, ptr %out, i64 %i.to
  %i.x = load {kind}, ptr %i.p
  %i.y = load {kind}, ptr %i.q
  %i.z = {add} {kind} %i.y, %i.x
  store {kind} %i.z, ptr %i.q
  %i.next = add i64 %i, 1
  %i.more = icmp ult i64 %i.next, %inner
  br i1 %i.more, label %lane, label %row.end
row.end:
  %r.next = add i64 %r, 1
  %more = icmp ult i64 %r.next, %rows
  br i1 %more, label %row, label %done
done:
  ret void
}}

define internal i64 @{name}.index(ptr %at, i64 %size) alwaysinline {{
  %raw = load {word}, ptr %at
  %index = {widen}
  %inside = icmp ult i64 %index, %size
  %chosen = select i1 %inside, i64 %index, i64 0
  ret i64 %chosen
}}"""
    return name, text


def _offset(lines: list[str], flat: str, dims: Sequence[tuple[int, int]], prefix: str) -> str:
    """The position of a flat index in dimensions of (size, stride)."""
    total = "0"
    for n, (size, stride) in reversed(list(enumerate(dims))):
        if n:
            lines.append(f"  %{prefix}i{n} = urem i64 {flat}, {size}")
            lines.append(f"  %{prefix}f{n} = udiv i64 {flat}, {size}")
        index = f"%{prefix}i{n}" if n else flat
        lines += [f"  %{prefix}s{n} = mul i64 {index}, {stride}", f"  %{prefix}t{n} = add i64 {total}, %{prefix}s{n}"]
        total, flat = f"%{prefix}t{n}", f"%{prefix}f{n}"
    return total


def argmax(dtype: DType, kept: tuple[tuple[int, int], ...], over: tuple[tuple[int, int], ...]) -> tuple[str, str]:
    """Name and text of ``(x, out)``: for each kept index the i64 position of the first largest element (or NaN) over the others.

    Dimensions are (size, stride in elements).
    """
    kind = memory_type(dtype)
    rows, n = math.prod(s for s, _ in kept), math.prod(s for s, _ in over)
    start: list[str] = []
    row = _offset(start, "%r", kept, "k")
    step: list[str] = []
    at = _offset(step, "%j", over, "o")
    sign = "u" if dtype.kind in "ub" else "s"
    if dtype.floating:
        better = [
            f"  %above = fcmp ogt {kind} %x, %best",
            f"  %nan = fcmp uno {kind} %x, %x",
            f"  %known = fcmp ord {kind} %best, %best",
            "  %first = and i1 %nan, %known",
            "  %take = or i1 %above, %first",
        ]
    else:
        better = [f"  %take = icmp {sign}gt {kind} %x, %best"]
    body = "\n".join(
        [
            "entry:",
            "  br label %row",
            "row:",
            "  %r = phi i64 [ 0, %entry ], [ %r.next, %row.end ]",
            *start,
            f"  %p0 = getelementptr {kind}, ptr %x0, i64 {row}",
            f"  %x.first = load {kind}, ptr %p0",
            "  br label %element",
            "element:",
            "  %j = phi i64 [ 0, %row ], [ %j.next, %element ]",
            f"  %best = phi {kind} [ %x.first, %row ], [ %best.next, %element ]",
            "  %where = phi i64 [ 0, %row ], [ %where.next, %element ]",
            *step,
            f"  %p = getelementptr {kind}, ptr %p0, i64 {at}",
            f"  %x = load {kind}, ptr %p",
            *better,
            f"  %best.next = select i1 %take, {kind} %x, {kind} %best",
            "  %where.next = select i1 %take, i64 %j, i64 %where",
            "  %j.next = add i64 %j, 1",
            f"  %more = icmp ult i64 %j.next, {n}",
            "  br i1 %more, label %element, label %row.end",
            "row.end:",
            "  %q = getelementptr i64, ptr %out, i64 %r",
            "  store i64 %where.next, ptr %q",
            "  %r.next = add i64 %r, 1",
            f"  %rows.more = icmp ult i64 %r.next, {rows}",
            "  br i1 %rows.more, label %row, label %done",
            "done:",
            "  ret void",
        ]
    )
    name = "argmax_" + hashlib.sha256(f"{dtype}{kept}{over}".encode()).hexdigest()[:16]
    return name, f"define internal void @{name}(ptr %x0, ptr %out) {{\n{body}\n}}"


def check_loop(
    rule: Check, operand: TensorType, types: tuple[TensorType, ...], attrs: Mapping[str, Any], layout: Layout
) -> tuple[str, str, set[str]]:
    """Name, text and declarations of ``i1 (x, status)``: whether a check holds for all elements; the first bad one goes to ``status``."""
    dtype = operand.dtype
    builder = VectorBuilder(1)
    builder.label = "element"
    start: list[str] = []
    at = _offset(start, "%n", list(zip(layout.shape, layout.strides, strict=True)), "x")
    holds = rule.holds(builder, from_memory(builder, "%raw", dtype), types, attrs)
    body = "\n".join(
        [
            "entry:",
            f"  %first = getelementptr {memory_type(dtype)}, ptr %x, i64 {layout.offset}",
            "  br label %element",
            "element:",
            "  %n = phi i64 [ 0, %entry ], [ %n.next, %good ]",
            *start,
            f"  %p = getelementptr {memory_type(dtype)}, ptr %first, i64 {at}",
            f"  %raw = load {memory_type(dtype)}, ptr %p",
            *builder.lines,
            f"  br i1 {holds.code}, label %good, label %bad",
            "bad:",
            f"  store {memory_type(dtype)} %raw, ptr %status",
            "  ret i1 false",
            "good:",
            "  %n.next = add i64 %n, 1",
            f"  %more = icmp ult i64 %n.next, {operand.size}",
            "  br i1 %more, label %element, label %done",
            "done:",
            "  ret i1 true",
        ]
    )
    name = "check_" + hashlib.sha256(body.encode()).hexdigest()[:16]
    functions = "\n".join(
        [*builder.functions.values(), f"define internal i1 @{name}(ptr %x, ptr %status) {{\n{body}\n}}"]
    )
    return name, functions, builder.declarations
