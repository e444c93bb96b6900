"""The LLVM target: a planned function as one native function, products included.

``i64 run(ptr bases)`` runs the steps of the function in order, one for each instruction that has code.  ``bases`` holds the
addresses of the arena, the constants and the current and next buffers of state.  It returns 0, or the number of the failing check with the
bad element behind it; nothing that a later call reads has been written then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from ...ir import Builder, Function, GraphBuilder, Instruction, IRError, Module, Value
from ...ir.op import Contract, Control, Join, Key, Layout, Reduce, Scatter, Source, View
from ...ir.record import blame
from ...ir.types import Array, DType, Shape, TensorType
from ...passes.fuse import form_of
from ...passes.loops import Nest, grouped
from ...passes.rewrite import splat_of
from ..native import philox
from ..native.nest import NestWriter
from ..native.nest_memory import memory_type
from ..native.routines import MEMSET, argmax, check_loop, scatter_add
from ..state import aligned_bytes
from .memory import Memory, Number, Ref, window

PARALLEL_CYCLES = 80_000
"""Estimated cycles from which a kernel is shared between threads, in pieces of about half of it."""
MOST_CHUNKS = 16
STREAM_BYTES = 1 << 22
"""Results of this size that the program does not read again are written past the caches."""


class Program:
    """The text of one program: a module for each kernel, and ``main`` with the steps and ``run``."""

    def __init__(self, function: Function, module: Module, fast: bool = False) -> None:
        self.function, self.module, self.fast = function, module, fast
        self.memory = Memory(function)
        self.constants: list[Array] = []
        self._constant_refs: dict[bytes, Ref] = {}
        self.kernels: dict[str, str] = {}  # name -> text
        self.known: dict[object, tuple[str, int, int]] = {}  # form -> name, units, work
        self.support: dict[str, str] = {}
        self.steps: dict[Instruction, str] = {}
        self.texts: list[str] = []
        self.fails: list[Callable[[Any], IRError]] = []
        self.main = ""
        self.buffers: list[str] = ["arena", "constants", "status"]
        self.names: dict[Instruction, list[str]] = {}
        self.streamed = self._streamed()
        self.may_commit = True
        """Whether new state may be written over the old: nothing that is copied last reads it."""

    # Memory

    def base(self, buffer: str) -> int:
        """The number of a buffer among the bases."""
        if buffer not in self.buffers:
            self.buffers.append(buffer)
        return self.buffers.index(buffer)

    def constant(self, array: Array, dtype: DType) -> Ref:
        """A constant array of the program; equal bytes lie once."""
        data = np.ascontiguousarray(array, dtype.numpy)
        form = data.tobytes() + dtype.name.encode()
        if form not in self._constant_refs:
            offset = sum(-(-c.nbytes // 64) * 64 for c in self.constants)
            self.constants.append(data)
            self._constant_refs[form] = Ref("constants", offset, dtype, Layout.contiguous(array.shape))
        return self._constant_refs[form].shaped(array.shape)

    def ref(self, v: Value) -> Ref:
        """Where a value lies; a constant is laid down."""
        found = self.memory.refs.get(v)
        if isinstance(found, Ref):
            return found
        if isinstance(found, Number):
            return self.constant(np.full(v.type.shape, np.frombuffer(found.value, found.dtype.numpy)[0]), found.dtype)
        source = v.owner
        assert source is not None
        if isinstance(source.op, View):
            inner = self.ref(source.operands[0])
            data = self.constants_array(inner)
            ref = self.constant(np.asarray(source.op.eval(np, data, **source.attrs)), v.type.dtype)
        else:
            assert isinstance(source.op, Source)
            ref = self.constant(source.op.literal(**source.attrs), v.type.dtype)
        self.memory.refs[v] = ref
        return ref

    def constants_array(self, ref: Ref) -> Array:
        """The elements of a constant."""
        return window({"constants": self.blob()}, ref)

    def blob(self) -> Array:
        """All constants, each aligned."""
        whole = aligned_bytes(sum(-(-c.nbytes // 64) * 64 for c in self.constants))
        at = 0
        for c in self.constants:
            whole[at : at + c.nbytes] = c.reshape(-1).view(np.uint8)
            at += -(-c.nbytes // 64) * 64
        return whole

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

    # Kernels

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

    def alone(self, i: Instruction) -> tuple[Function, list[Value]]:
        """A kernel function of one instruction, and the values it takes; numbers are written in."""
        recorder = GraphBuilder()
        made: dict[Value, Value] = {}
        taken: list[Value] = []
        for o in i.operands:
            if o not in made and splat_of(o) is None:
                made[o] = recorder.argument(o.type)
                taken.append(o)
        for o in i.operands:
            if o not in made:
                assert o.owner is not None
                made[o] = recorder.bind(o.owner.op, (), o.owner.attrs)[0]
        results = recorder.bind(i.op, tuple([made[o] for o in i.operands]), i.attrs)
        function = recorder.function("k", [(made[o], None) for o in taken], [(r, None) for r in results])
        return function, taken

    def fill(self, ref: Ref, value: Any) -> list[str]:
        """The lines that write one number everywhere."""
        recorder = GraphBuilder()
        made = Builder(recorder).splat(value, TensorType(ref.dtype, ref.layout.shape))
        return self.kernel(recorder.function("k", [], [(made, None)]), [], [ref])

    def copy(self, to: Ref, source: Ref, shape: Shape) -> list[str]:
        """The lines that move an array."""
        recorder = GraphBuilder()
        x = recorder.argument(TensorType(source.dtype, shape))
        made = Builder(recorder).reshape(x, shape=shape)
        return self.kernel(recorder.function("k", [(x, None)], [(made, None)]), [source], [to])

    # Instructions

    def generate(self) -> None:
        f = self.function
        for v in f.arguments:
            self.memory.refs[v] = self.memory.resolve(v)
        for i in f.instructions:
            self._instruction(i)
        self._updates()
        self.main = self._text()

    def _instruction(self, i: Instruction) -> None:
        op = i.op
        if isinstance(op, Source) or (isinstance(op, View) and i.result.place is None):
            return  # constants are laid down when they are met
        for r in i.results:
            self.memory.refs[r] = self.memory.resolve(r)
        if isinstance(op, View) and i.result.place is not None and i.result.place.kind == "alias":
            return
        pieces: list[list[str]] = []
        for checked, operand in self._checks(i):
            pieces.append(self._check(checked, operand))
        results = [cast(Ref, self.memory.refs[r]) for r in i.results]
        if isinstance(op, Join):
            pieces += self._join(op, i, results[0])
        elif isinstance(op, Key):
            pieces.append(self._key(op, i, results[0]))
        elif all(r.type.size == 0 for r in i.results):
            pass
        elif isinstance(op, Control):
            kernel = self.module[i.attrs[op.bodies[0]]]
            pieces.append(self.kernel(kernel, [self.ref(o) for o in i.operands], results))
        elif isinstance(op, Contract):
            pieces.append(self._contract(op, i, results[0]))
        elif isinstance(op, Scatter):
            pieces.append(self._scatter(op, i, results[0]))
        elif isinstance(op, Reduce) and (op.combine == "argmax" or i.operands[0].type.size == 0):
            pieces.append(
                self._argmax(op, i, results[0])
                if op.combine == "argmax"
                else self.fill(results[0], op.identity(i.result.type.dtype))
            )
        else:
            pieces += self._single(i, results)
        if pieces:
            self.step(i, pieces)

    def step(self, i: Instruction, pieces: Sequence[list[str]]) -> None:
        """One step of the program: pieces run in order until a check fails."""
        names = self.names.setdefault(i, [])
        for piece in pieces:
            name = f"s{len(self.texts)}"
            names.append(name)
            self.texts.append(
                f"define i64 @{name}(ptr %bases) {{\n"
                + "\n".join(piece)
                + ("" if piece[-1].startswith("  ret") else "\n  ret i64 0")
                + "\n}"
            )

    def _single(self, i: Instruction, results: list[Ref]) -> list[list[str]]:
        """An instruction as a kernel of its own."""
        function, taken = self.alone(i)
        return [self.kernel(function, [self.ref(o) for o in taken], results)]

    def _rows(self, v: Value) -> Ref:
        ref = self.ref(v)
        assert ref.layout.is_contiguous, f"{v!r} is not in rows"
        return ref

    def _contract(self, op: Contract, i: Instruction, out: Ref) -> list[str]:
        a, b = i.operands
        lines: list[str] = []
        places = [self.address(lines, self._rows(o), start=True) for o in (a, b)]
        places.append(self.address(lines, out, start=True))
        flags = [bool(i.attrs[name]) for name in op.transposes]
        m, k = a.type.shape[-2:][::-1] if flags[0] else a.type.shape[-2:]
        n = b.type.shape[-2] if flags[1] else b.type.shape[-1]
        batches = int(np.prod(a.type.shape[:-2], dtype=np.int64))
        numbers = ", ".join(f"i64 {int(x)}" for x in (batches, m, k, n, *flags))
        name = f"tapeir_contract_{a.type.dtype.name}"
        self.support[name] = f"declare void @{name}(ptr, ptr, ptr, i64, i64, i64, i64, i64, i64)"
        lines.append(f"  call void @{name}({', '.join(f'ptr {p}' for p in places)}, {numbers})")
        return lines

    def _scatter(self, op: Scatter, i: Instruction, out: Ref) -> list[str]:
        part, index = i.operands
        walk = op.walk((part.type, index.type), **i.attrs)
        name, text = scatter_add(part.type.dtype, index.type.dtype)
        self.support.update({"memset": MEMSET, name: text})
        lines: list[str] = []
        places = [self.address(lines, r, start=True) for r in (self._rows(part), self._rows(index), out)]
        numbers = ", ".join(f"i64 {int(x)}" for x in (walk.outer, walk.size, walk.inner, walk.count, walk.shared))
        lines.append(f"  call void @{name}({', '.join(f'ptr {p}' for p in places)}, {numbers})")
        return lines

    def _argmax(self, op: Reduce, i: Instruction, out: Ref) -> list[str]:
        x = i.operands[0]
        axes: Shape = i.attrs["axes"]
        ref, shape = self.ref(x), x.type.shape
        groups = grouped(len(shape), axes)
        lines: list[str] = []
        places = [self.address(lines, r, start=True) for r in (ref, out)]
        kept = [(shape[a], ref.layout.strides[a]) for a in (*groups[0], *groups[2])]
        over = [(shape[a], ref.layout.strides[a]) for a in axes]
        name, text = argmax(x.type.dtype, tuple(kept), tuple(over))
        self.support[name] = text
        lines.append(f"  call void @{name}({', '.join(f'ptr {p}' for p in places)})")
        return lines

    def _join(self, op: Join, i: Instruction, out: Ref) -> list[list[str]]:
        if not i.result.type.size:
            return []
        pieces: list[list[str]] = []
        copies: list[tuple[Ref, Value]] = []
        strides = out.layout.strides
        for o, block in zip(i.operands, op.blocks(tuple([o.type for o in i.operands]), **i.attrs), strict=True):
            start = out.layout.offset + sum(a * s for a, s in zip(block.start, strides, strict=True))
            layout = Layout(o.type.shape, tuple(s * k for s, k in zip(strides, block.step, strict=True)), start)
            part = out._replace(layout=layout)
            if o.type.size and not same_bytes(part, self.ref(o)):
                copies.append((part, o))
        if sum(o.type.size for o in i.operands) != i.result.type.size and (
            copies or not any(o.type.size for o in i.operands)
        ):
            pieces.append(self.fill(out, 0))
        pieces += [self.copy(part, self.ref(o), o.type.shape) for part, o in copies]
        return pieces

    def _key(self, op: Key, i: Instruction, out: Ref) -> list[str]:
        self.support["fold_in"] = philox.fold_in()
        lines: list[str] = []
        to, source = self.address(lines, out, start=True), self.address(lines, self.ref(i.operands[0]), start=True)
        data = op.data(**i.attrs)
        if data is None:
            number = i.operands[1]
            at = self.address(lines, self.ref(number), start=True)
            kind = memory_type(number.type.dtype)
            lines.append(f"  %number = load {kind}, ptr {at}")
            word = "%number"
            if kind != "i64":
                lines.append(f"  %wide = {'zext' if number.type.dtype.kind == 'u' else 'sext'} {kind} %number to i64")
                word = "%wide"
        else:
            word = str(data)
        lines.append(f"  call void @fold_in(ptr {to}, ptr {source}, i64 {word})")
        return lines

    # Checks

    def _checks(self, i: Instruction) -> list[tuple[Instruction, Ref]]:
        """The checks of an instruction, or of those inside its kernel, and the arrays that they look at."""
        if not isinstance(i.op, Control):
            rule = i.op.check
            if rule is None or not rule.applies(tuple([o.type for o in i.operands])):
                return []
            return [(i, self.ref(i.operands[rule.operand]))]
        kernel = self.module[i.attrs[i.op.bodies[0]]]
        given = dict(zip(kernel.arguments, map(self.ref, i.operands), strict=True))
        found: list[tuple[Instruction, Ref]] = []
        for inner in kernel.instructions:
            rule = inner.op.check
            if isinstance(inner.op, View) and inner.operands[0] in given:
                layout = inner.op.layout(given[inner.operands[0]].layout, **inner.attrs)
                if layout is not None:
                    given[inner.result] = given[inner.operands[0]]._replace(layout=layout)
            if rule is not None and rule.applies(tuple([o.type for o in inner.operands])):
                operand = inner.operands[rule.operand]
                found.append((inner, given[operand] if operand in given else self.ref(operand)))
        return found

    def _check(self, i: Instruction, ref: Ref) -> list[str]:
        """The lines that look for the first element that an op does not take."""
        rule = i.op.check
        assert rule is not None
        types = tuple([o.type for o in i.operands])
        operand = i.operands[rule.operand].type
        number = len(self.fails)

        def error(status: Array) -> IRError:
            bad = status.view(operand.dtype.numpy)[0]
            return blame(cast(Any, rule.error)(rule.message(bad, types, i.attrs)), i.op.name, types, i.location)

        self.fails.append(error)
        if not operand.size:
            return ["  ret i64 0"]
        name, text, declarations = check_loop(rule, operand, types, i.attrs, ref.layout)
        self.support[name] = text
        for declaration in declarations:
            self.support[declaration] = declaration
        lines: list[str] = []
        at, status = (
            self.address(lines, ref),
            self.address(lines, Ref("status", 0, operand.dtype, Layout.contiguous(()))),
        )
        lines += [
            f"  %good = call i1 @{name}(ptr {at}, ptr {status})",
            f"  %code = select i1 %good, i64 0, i64 {number + 1}",
            "  ret i64 %code",
        ]
        return lines

    # State

    def _updates(self) -> None:
        """New state that does not lie in its buffer yet is moved there, last."""
        f = self.function
        pieces: list[list[str]] = []
        for v, mark in zip(f.results, f.marks, strict=True):
            if mark is not None and mark.kind == "update" and v.type.size:
                to, source = self.memory.state(mark.of, v, "next"), self.ref(v)
                if not same_bytes(to, source):
                    pieces.append(self.copy(to, source, v.type.shape))
                    self.may_commit &= not source.buffer.startswith(("state", "next"))
        begin = len(self.texts)
        for piece in pieces:
            self.texts.append(
                f"define i64 @s{len(self.texts)}(ptr %bases) {{\n" + "\n".join(piece) + "\n  ret i64 0\n}"
            )
        self.commits = [f"s{n}" for n in range(begin, len(self.texts))]

    def _text(self) -> str:
        """The main module: steps, and ``run``, which calls them."""
        lines = ["define i64 @run(ptr %bases) {", "entry:"]
        names = [*[n for i in self.function.instructions for n in self.names.get(i, ())], *self.commits]
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
            ]
        )

    @property
    def failing(self) -> str:
        """Names of the steps that may fail, as text to look in."""
        return " ".join(t.split("{")[0] for t in self.texts if "%code = select" in t)


def same_bytes(a: Ref, b: Ref) -> bool:
    """Whether two refs are the same elements of the same memory."""

    def start(ref: Ref) -> int:
        return ref.offset + ref.layout.offset * ref.dtype.numpy.itemsize

    return (a.buffer, start(a)) == (b.buffer, start(b)) and (
        a.layout.strides == b.layout.strides or (a.layout.is_contiguous and b.layout.is_contiguous)
    )
