"""The LLVM target: a planned function as one native function, products included.

``i64 run(ptr bases)`` runs the steps of the function in order, one for each instruction that has code, in the default
floating-point mode.  ``bases`` holds the addresses of the arena, the constants and the current and next buffers of state.  It returns
0, or the number of the failing check with the bad element behind it; nothing that a later call reads has been written then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ...ir import Function, Instruction, Module
from ...ir.op import Layout, Scatter
from ...ir.types import Shape
from ...passes.fuse import form_of
from ...passes.loops import Nest, grouped
from ..base import Sizes
from ..native import float_mode, philox
from ..native.nest import NestWriter
from ..native.nest_positions import memory_type
from ..native.routines import MEMSET, argmax, check_loop, scatter_add
from .lowering import Lowering
from .memory import Ref

PARALLEL_CYCLES = 80_000
"""Estimated cycles from which a kernel is shared between threads, in pieces of about half of it."""
MOST_CHUNKS = 16
STREAM_BYTES = 1 << 22
"""Results of this size that the program does not read again are written past the caches."""


class Program(Lowering[list[str]]):
    """The text of one program: a module for each kernel, and ``main`` with the steps and ``run``.  A piece is the lines of a function."""

    widens = True

    def __init__(self, function: Function, module: Module, fast: bool = False) -> None:
        super().__init__(function, module, fast)
        self.kernels: dict[str, str] = {}  # name -> text
        self.known: dict[object, tuple[str, int, int]] = {}  # form -> name, units, work
        self.support: dict[str, str] = {}
        self.products: set[str] = set()  # dtypes
        self.texts: list[str] = []
        self.last: list[str] = []
        self.buffers: list[str] = ["arena", "constants", "status"]
        self.names: dict[Instruction, list[str]] = {}
        self.streamed = self._streamed()
        self.lower()
        self.main = self._text()

    # Memory

    def base(self, buffer: str) -> int:
        """The number of a buffer among the bases."""
        if buffer not in self.buffers:
            self.buffers.append(buffer)
        return self.buffers.index(buffer)

    def address(self, lines: list[str], ref: Ref, start: bool = False) -> str:
        """An operand that points to a ref's memory, or with ``start`` to its first element."""
        n = self.base(ref.buffer)
        offset = ref.offset + (ref.layout.offset * ref.dtype.numpy.itemsize if start else 0)
        k = len(lines)
        lines += [f"  %b{k} = getelementptr ptr, ptr %bases, i64 {n}", f"  %p{k} = load ptr, ptr %b{k}"]
        if not offset:
            return f"%p{k}"
        lines.append(f"  %q{k} = getelementptr i8, ptr %p{k}, i64 {offset}")
        return f"%q{k}"

    def _streamed(self) -> set[str]:
        """The buffers of large results that no instruction reads."""
        read, caller = self.memory.readers(), self.memory.caller
        return {
            caller[v] for v in self.memory.outputs if v in caller and v.type.nbytes >= STREAM_BYTES and v not in read
        }

    # Pieces

    def kernel(self, function: Function, operands: Sequence[Ref], results: Sequence[Ref]) -> list[str]:
        """The lines that run a kernel function over refs."""
        layouts = tuple(r.layout for r in operands)
        targets = tuple(r.layout for r in results)
        streamed = tuple(n for n, r in enumerate(results) if r.buffer in self.streamed)
        form = (form_of(function), layouts, targets, streamed)
        if form not in self.known:
            writer = NestWriter(Nest(function, layouts, targets), "KERNEL", self.fast, streamed)
            text = "\n".join([*sorted(writer.declarations), *writer.functions.values(), writer.text])
            name = "k" + hashlib.sha256(text.encode()).hexdigest()[:24]
            self.kernels[name] = text.replace("@KERNEL", f"@{name}")
            self.known[form] = name, writer.units, writer.work
        name, units, work = self.known[form]
        lines: list[str] = [f"  %args = alloca [{len(operands) + len(results)} x ptr]"]
        for n, ref in enumerate((*operands, *results)):
            at = self.address(lines, ref)
            lines += [f"  %a{n} = getelementptr ptr, ptr %args, i64 {n}", f"  store ptr {at}, ptr %a{n}"]
        chunks = min(units, MOST_CHUNKS, work * 2 // PARALLEL_CYCLES) if work >= PARALLEL_CYCLES else 1
        if chunks > 1:
            lines.append(f"  call void @tapeir_parallel(ptr @{name}, ptr %args, i64 {units}, i64 {chunks})")
        else:
            lines.append(f"  call void @{name}(ptr %args, i64 0, i64 {units})")
        return lines

    def contract(self, i: Instruction, a: Ref, b: Ref, out: Ref, sizes: Sizes) -> list[str]:
        name = f"tapeir_contract_{a.dtype.name}"
        self.products.add(a.dtype.name)
        self.support[name] = f"declare void @{name}(ptr, ptr, ptr, i64, i64, i64, i64, i64, i64)"
        return self.call(name, (a, b, out), sizes)

    def call(self, name: str, refs: Sequence[Ref], numbers: Sequence[int]) -> list[str]:
        """The lines that call a function with the addresses of first elements, and numbers."""
        lines: list[str] = []
        places = [f"ptr {self.address(lines, r, start=True)}" for r in refs]
        lines.append(f"  call void @{name}({', '.join([*places, *(f'i64 {int(x)}' for x in numbers)])})")
        return lines

    def scatter(self, op: Scatter, i: Instruction, part: Ref, index: Ref, out: Ref) -> list[str]:
        walk = op.walk(tuple([o.type for o in i.operands]), **i.attrs)
        name, text = scatter_add(part.dtype, index.dtype)
        self.support.update({"memset": MEMSET, name: text})
        return self.call(name, (part, index, out), (walk.outer, walk.size, walk.inner, walk.count, walk.shared))

    def argmax(self, i: Instruction, x: Ref, out: Ref) -> list[str]:
        axes: Shape = i.attrs["axes"]
        shape = x.layout.shape
        groups = grouped(len(shape), axes)
        kept = [(shape[a], x.layout.strides[a]) for a in (*groups[0], *groups[2])]
        over = [(shape[a], x.layout.strides[a]) for a in axes]
        name, text = argmax(x.dtype, tuple(kept), tuple(over))
        self.support[name] = text
        return self.call(name, (x, out), ())

    def key(self, out: Ref, source: Ref, data: int | Ref) -> list[str]:
        self.support["fold_in"] = philox.fold_in()
        lines: list[str] = []
        to, key = self.address(lines, out, start=True), self.address(lines, source, start=True)
        word = str(data)
        if isinstance(data, Ref):
            at, kind, word = self.address(lines, data, start=True), memory_type(data.dtype), "%number"
            lines.append(f"  %number = load {kind}, ptr {at}")
            if kind != "i64":
                lines.append(f"  %wide = {'zext' if data.dtype.kind == 'u' else 'sext'} {kind} %number to i64")
                word = "%wide"
        lines.append(f"  call void @fold_in(ptr {to}, ptr {key}, i64 {word})")
        return lines

    def check(self, i: Instruction, ref: Ref, number: int) -> list[str]:
        rule, types = i.op.check, tuple([o.type for o in i.operands])
        assert rule is not None
        operand = types[rule.operand]
        if not operand.size:
            return ["  ret i64 0"]
        name, text, declarations = check_loop(rule, operand, types, i.attrs, ref.layout)
        self.support.update({name: text, **{d: d for d in declarations}})
        lines: list[str] = []
        at = self.address(lines, ref)
        status = self.address(lines, Ref("status", 0, operand.dtype, Layout.contiguous(())))
        lines += [
            f"  %good = call i1 @{name}(ptr {at}, ptr {status})",
            f"  %code = select i1 %good, i64 0, i64 {number}",
            "  ret i64 %code",
        ]
        return lines

    def step(self, i: Instruction | None, pieces: Sequence[list[str]]) -> None:
        names = self.names.setdefault(i, []) if i is not None else self.last
        for piece in pieces:
            name = f"s{len(self.texts)}"
            names.append(name)
            self.texts.append(
                f"define i64 @{name}(ptr %bases) {{\n"
                + "\n".join(piece)
                + ("" if piece[-1].startswith("  ret") else "\n  ret i64 0")
                + "\n}"
            )

    def _text(self) -> str:
        """The main module: steps, and ``run``, which calls them."""
        lines = ["define internal i64 @steps(ptr %bases) noinline {", "entry:"]
        names = [*[n for i in self.function.instructions for n in self.names.get(i, ())], *self.last]
        for name in names:
            lines.append(f"  %{name} = call i64 @{name}(ptr %bases)")
            if f"@{name}(" in self.failing:
                lines += [f"  %{name}.bad = icmp ne i64 %{name}, 0", f"  br i1 %{name}.bad, label %{name}.fail, label %{name}.go",
                          f"{name}.fail:", f"  ret i64 %{name}", f"{name}.go:"]  # fmt: skip
        lines += ["  ret i64 0", "}"]
        declared = [f"declare void @{name}(ptr, i64, i64)" for name in self.kernels]
        return "\n\n".join(
            [
                "declare void @tapeir_parallel(ptr, ptr, i64, i64)",
                *declared,
                *dict.fromkeys(self.support.values()),
                *self.texts,
                "\n".join(lines),
                float_mode.guarded("run", "steps"),
            ]
        )

    @property
    def failing(self) -> str:
        """Names of the steps that may fail, as text to look in."""
        return " ".join(t.split("{")[0] for t in self.texts if "%code = select" in t)
