"""The native table's elementwise entries: a primitive on whole arrays, 16 lanes at a time.

What is left after the last whole vector is copied to a buffer of one vector and runs through the same code, so an element's bits do
not depend on its place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ...ir.scalar import Scalar
from ...ir.types import Array, DType, bool_
from . import engine
from .vector import VectorBuilder

WIDTH = 16
BRIEF = 4096
Call = Callable[..., None]


def memory_type(dtype: DType) -> str:
    """The LLVM type of an element in memory; a bool is a byte."""
    return "i8" if dtype is bool_ else VectorBuilder(1).scalar_type(dtype)


def _load(builder: VectorBuilder, pointer: str, dtype: DType) -> Scalar:
    kind = f"<{WIDTH} x {memory_type(dtype)}>"
    loaded = builder.op(f"load {kind}, ptr {pointer}, align {dtype.bits // 8}", dtype)
    return builder.op(f"icmp ne {kind} {loaded.code}, zeroinitializer", dtype) if dtype is bool_ else loaded


def _store(builder: VectorBuilder, value: Scalar, pointer: str) -> None:
    kind, code = f"<{WIDTH} x {memory_type(value.dtype)}>", value.code
    if value.dtype is bool_:
        code = builder.op(f"zext {builder.type_of(bool_)} {code} to {kind}", bool_).code
    builder.lines.append(f"  store {kind} {code}, ptr {pointer}, align {value.dtype.bits // 8}")


def _operands(primitive: str, operand: DType, arity: int) -> list[DType]:
    return [bool_, operand, operand] if primitive == "select" else [operand] * arity


def text(primitive: str, operand: DType, result: DType, arity: int) -> str:
    """The module of an entry: ``void @<primitive>_<dtype>(ptr a, [ptr b, [ptr c,]] ptr out, i64 n)``."""
    dtypes = [*_operands(primitive, operand, arity), result]
    names = [*"abc"[:arity], "out"]
    builder = VectorBuilder(WIDTH)
    builder.label = "loop"
    kinds = {n: memory_type(d) for n, d in zip(names, dtypes, strict=True)}
    for n in names:
        builder.lines.append(f"  %at.{n} = getelementptr {kinds[n]}, ptr %from.{n}, i64 %i")
    values = tuple(_load(builder, f"%at.{n}", d) for n, d in zip(names[:-1], dtypes[:-1], strict=True))
    _store(builder, builder.emit(primitive, values, result), "%at.out")
    sizes = {n: d.bits // 8 for n, d in zip(names, dtypes, strict=True)}
    buffers = [f"  %buffer.{n} = alloca <{WIDTH} x {kinds[n]}>, align 64" for n in names]
    head: list[str] = []
    ends: list[str] = []
    copies: list[str] = []
    for n, d in zip(names, dtypes, strict=True):
        head.append(f"  %from.{n} = phi ptr [ %{n}, %entry ], [ %buffer.{n}, %rest ]")
        ends += [
            f"  %bytes.{n} = mul i64 %left, {sizes[n]}",
            f"  %end.{n} = getelementptr {kinds[n]}, ptr %{n}, i64 %whole",
        ]
        if n != "out":  # the unused lanes hold ones, with which no function is slow
            one = VectorBuilder(WIDTH).constant(1, d).code if d is not bool_ else "zeroinitializer"
            copies.append(f"  store <{WIDTH} x {kinds[n]}> {one}, ptr %buffer.{n}, align 64")
            copies.append(
                f"  call void @llvm.memcpy.p0.p0.i64(ptr %buffer.{n}, ptr %end.{n}, i64 %bytes.{n}, i1 false)"
            )
    body = [
        "entry:", *buffers, f"  %whole = and i64 %n, -{WIDTH}", f"  %left = and i64 %n, {WIDTH - 1}", *ends, "  br label %begin",
        "begin:", *head, "  %last = phi i1 [ false, %entry ], [ true, %rest ]",
        f"  %stop = phi i64 [ %whole, %entry ], [ {WIDTH}, %rest ]", "  %none = icmp eq i64 %stop, 0",
        "  br i1 %none, label %after, label %loop",
        "loop:", f"  %i = phi i64 [ 0, %begin ], [ %next, %{builder.label} ]", *builder.lines, f"  %next = add i64 %i, {WIDTH}",
        "  %more = icmp ult i64 %next, %stop", "  br i1 %more, label %loop, label %after",
        "after:", "  br i1 %last, label %copy, label %check",
        "check:", "  %even = icmp eq i64 %left, 0", "  br i1 %even, label %exit, label %rest",
        "rest:", *copies, "  br label %begin",
        "copy:", "  call void @llvm.memcpy.p0.p0.i64(ptr %end.out, ptr %buffer.out, i64 %bytes.out, i1 false)", "  br label %exit",
        "exit:", "  ret void",
    ]  # fmt: skip
    parameters = ", ".join(f"ptr %{n}" for n in names)
    memcpy = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"
    parts = [memcpy, *sorted(builder.declarations), *builder.functions.values()]
    head_line = f"define void @{primitive}_{operand.name}({parameters}, i64 %n) {{"
    return "\n".join([*parts, head_line, *body, "}", _arrays(f"{primitive}_{operand.name}", names), ""])


def _arrays(name: str, names: list[str]) -> str:
    """The function ``<name>_arrays``: the same of NumPy's array objects, whose first field is the address of the elements."""
    lines: list[str] = []
    for n in names:
        lines.append(f"  %field.{n} = getelementptr i8, ptr %{n}, i64 {object.__basicsize__}")
        lines.append(f"  %data.{n} = load ptr, ptr %field.{n}")
    parameters, passed = (", ".join(f"ptr %{prefix}{n}" for n in names) for prefix in ("", "data."))
    head = f"define void @{name}_arrays({parameters}, i64 %n) {{"
    return "\n".join([head, *lines, f"  call void @{name}({passed}, i64 %n)", "  ret void", "}"])


@cache
def _abi_known() -> bool:
    """Whether an array object is laid out as ``_arrays`` takes it to be."""
    probe = np.zeros(3, np.float32)
    return ctypes.c_void_p.from_address(id(probe) + object.__basicsize__).value == probe.ctypes.data


@cache
def entry(primitive: str, operand: DType, result: DType, arity: int) -> Call:
    """An entry, called as ``entry(*operands, out)`` with C-contiguous arrays of one size; ``out`` may be an operand.

    Code is made, or read from the disk cache, at the first call.  Calls of fewer than ``BRIEF`` elements keep the interpreter's lock,
    which is quicker than to give it up.
    """
    calls: list[Any] = []

    def load() -> None:
        library = engine.load(text(primitive, operand, result, arity), about=f"{primitive} {operand.name}")
        name, known = f"{primitive}_{operand.name}", _abi_known()
        parameters = [ctypes.py_object if known else ctypes.c_void_p] * (arity + 1)
        address = library.address(f"{name}_arrays" if known else name)
        # All at once: another thread may ask for them meanwhile.
        calls[:] = [make(None, *parameters, ctypes.c_int64)(address) for make in (ctypes.PYFUNCTYPE, ctypes.CFUNCTYPE)]

    def one(a: Any, out: Array) -> None:
        if not isinstance(a, np.ndarray):  # NumPy's scalars have another layout
            a = np.array(a)
        if not calls:
            load()
        n = out.size
        calls[n >= BRIEF](a, out, n)

    def several(*arrays: Any) -> None:
        whole: list[Any] = [a if isinstance(a, np.ndarray) else np.array(a) for a in arrays]
        if not calls:
            load()
        n = arrays[-1].size
        calls[n >= BRIEF](*(whole if _abi_known() else [a.ctypes.data for a in whole]), n)

    return one if arity == 1 and _abi_known() else several
