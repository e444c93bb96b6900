"""A planned function as steps over its memory: what every target with kernels of its own shares.

A target says how a kernel function, a product, a scatter, an argmax, a key and a check become a piece of its program; which of them an
instruction needs, and over which memory, is decided here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np

from ...ir import BackendError, Builder, Function, GraphBuilder, Instruction, IRError, Module, Op, Value
from ...ir.memory import need_value
from ...ir.op import Composite, Contract, Control, Gather, Join, Key, Layout, Reduce, Scatter, Source, View
from ...ir.record import blame
from ...ir.types import Array, DType, Shape, TensorType, f32
from ...passes.loops import checks_of
from ...passes.plan import ALIGNMENT
from ...passes.rewrite import splat_of
from ..base import Sizes
from ..state import aligned_bytes
from .memory import Memory, Number, Ref, same_bytes, window

Piece = TypeVar("Piece")


class Lowering(ABC, Generic[Piece]):
    """One program under way: ``lower`` hands the pieces of each instruction to ``step``, in order, and last those that move new state."""

    widens: ClassVar[bool] = False
    """Whether products, scatters and argmax take 16-bit floats only as float32, so that the program widens and rounds round them."""

    def __init__(self, function: Function, module: Module, fast: bool = False) -> None:
        self.function, self.module, self.fast = function, module, fast
        self.memory = Memory(function)
        self.constants: list[Array] = []
        self._constant_refs: dict[bytes, Ref] = {}
        self.fails: list[Callable[[Any], IRError]] = []
        self.arena_bytes = self.memory.arena_bytes
        """What plan gave, and behind it room for what one instruction widens."""
        self.may_commit = True
        """Whether new state may be written over the old: nothing that is copied last reads it."""

    # What a target says

    @abstractmethod
    def kernel(self, function: Function, operands: Sequence[Ref], results: Sequence[Ref]) -> Piece:
        """Run a kernel function over refs."""

    @abstractmethod
    def contract(self, i: Instruction, a: Ref, b: Ref, out: Ref, sizes: Sizes) -> Piece:
        """``out = a @ b``."""

    @abstractmethod
    def scatter(self, op: Scatter, i: Instruction, part: Ref, index: Ref, out: Ref) -> Piece:
        """Add the slices of ``part`` to ``out``, which is zero before, where ``index`` says."""

    @abstractmethod
    def argmax(self, i: Instruction, x: Ref, out: Ref) -> Piece:
        """The index of the first largest element."""

    @abstractmethod
    def key(self, out: Ref, source: Ref, data: int | Ref) -> Piece:
        """A key folded with a number."""

    @abstractmethod
    def check(self, i: Instruction, ref: Ref, number: int) -> Piece:
        """Set the status to ``number``, from 1, and stop where an element of ``ref`` is none that ``i`` takes."""

    def whole(self, i: Instruction, operands: Sequence[Ref], results: Sequence[Ref]) -> list[Piece]:
        """A composite that decompose kept for this target."""
        raise BackendError(f"{i.op.name} was not decomposed", i.location)

    @abstractmethod
    def step(self, i: Instruction | None, pieces: Sequence[Piece]) -> None:
        """Pieces that run in order, for an instruction, or at the end."""

    # Constants

    def constant(self, array: Array, dtype: DType) -> Ref:
        """A constant array of the program; equal bytes lie once."""
        data = np.ascontiguousarray(array, dtype.numpy)
        form = data.tobytes() + dtype.name.encode()
        if form not in self._constant_refs:
            offset = sum(map(_room, self.constants))
            self.constants.append(data)
            self._constant_refs[form] = Ref("constants", offset, dtype, Layout.contiguous(array.shape))
        return self._constant_refs[form].shaped(array.shape)

    def ref(self, v: Value) -> Ref:
        """Where a value lies; a constant is laid down."""
        found = self.memory.refs.get(v)
        if isinstance(found, Ref):
            return found
        need_value(v)
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
        whole = aligned_bytes(sum(map(_room, self.constants)))
        at = 0
        for c in self.constants:
            whole[at : at + c.nbytes] = c.reshape(-1).view(np.uint8)
            at += _room(c)
        return whole

    # Kernels of one instruction

    def alone(self, i: Instruction) -> tuple[Function, list[Value]]:
        """A kernel function of one instruction, and the values it takes; numbers are written in, unless elements are chosen from them."""
        recorder = GraphBuilder()
        made: dict[Value, Value] = {}
        taken: list[Value] = []
        for n, o in enumerate(i.operands):
            if o not in made and (splat_of(o) is None or (n == 0 and isinstance(i.op, Gather))):
                made[o] = recorder.argument(o.type)
                taken.append(o)
        for o in i.operands:
            if o not in made:
                assert o.owner is not None
                made[o] = recorder.bind(o.owner.op, (), o.owner.attrs)[0]
        results = recorder.bind(i.op, tuple([made[o] for o in i.operands]), i.attrs)
        function = recorder.function("k", [(made[o], None) for o in taken], [(r, None) for r in results])
        return function, taken

    def fill(self, ref: Ref, value: Any) -> Piece:
        """Write one number everywhere."""
        recorder = GraphBuilder()
        made = Builder(recorder).splat(value, TensorType(ref.dtype, ref.layout.shape))
        return self.kernel(recorder.function("k", [], [(made, None)]), [], [ref])

    def copy(self, to: Ref, source: Ref, shape: Shape) -> Piece:
        """Move an array."""
        recorder = GraphBuilder()
        x = recorder.argument(TensorType(source.dtype, shape))
        return self.kernel(recorder.function("k", [(x, None)], [(x, None)]), [source], [to])

    # Instructions

    def lower(self) -> None:
        """All steps of the function."""
        f = self.function
        for v in f.arguments:
            self.memory.refs[v] = self.argument(v)
        for i in f.instructions:
            self._instruction(i)
        self._updates()

    def argument(self, v: Value) -> Ref:
        """Where an argument lies."""
        return self.memory.resolve(v)

    def result(self, v: Value) -> Ref:
        """Where a result of an instruction lies."""
        return self.memory.resolve(v)

    def _instruction(self, i: Instruction) -> None:
        op = i.op
        if isinstance(op, Source) or (isinstance(op, View) and i.result.place is None):
            return  # constants are laid down when they are met
        for r in i.results:
            self.memory.refs[r] = self.result(r)
        if isinstance(op, View) and i.result.place is not None and i.result.place.kind == "alias":
            return
        pieces: list[Piece] = []
        for checked, operand in self._checks(i):
            self.fails.append(_error_of(checked))
            pieces.append(self.check(checked, operand, len(self.fails)))
        results = [cast(Ref, self.memory.refs[r]) for r in i.results]
        if isinstance(op, Join):
            pieces += self._join(op, i, results[0])
        elif isinstance(op, Key):
            data = op.data(**i.attrs)
            number = self.ref(i.operands[1]) if data is None else data
            pieces.append(self.key(results[0], self.ref(i.operands[0]), number))
        elif all(r.type.size == 0 for r in i.results) or (isinstance(op, Gather) and not i.operands[0].type.size):
            pass  # nothing is chosen from no elements: the check of a gather's index has failed
        elif isinstance(op, Control):
            kernel = self.module[i.attrs[op.bodies[0]]]
            pieces.append(self.kernel(kernel, [self.ref(o) for o in i.operands], results))
        elif isinstance(op, Composite):
            pieces += self.whole(i, [self.ref(o) for o in i.operands], results)
        elif isinstance(op, Reduce) and i.operands[0].type.size == 0:
            pieces.append(self.fill(results[0], op.identity(i.result.type.dtype)))
        elif isinstance(op, (Contract, Scatter)) or (isinstance(op, Reduce) and op.combine == "argmax"):
            pieces += self._routine(op, i, results[0])
        else:
            function, taken = self.alone(i)
            pieces.append(self.kernel(function, [self.ref(o) for o in taken], results))
        if pieces:
            self.step(i, pieces)

    def _rows(self, v: Value) -> Ref:
        ref = self.ref(v)
        assert ref.layout.is_contiguous, f"{v!r} is not in rows"
        return ref

    def _routine(self, op: Op, i: Instruction, out: Ref) -> list[Piece]:
        """A product, a scatter or an argmax; of 16-bit floats, where the target asks for it, one of float32 between casts."""
        refs = [self._rows(o) if isinstance(op, (Contract, Scatter)) else self.ref(o) for o in i.operands]
        wide = self._widened([*refs, out])
        taken, to = [wide.get(r, r) for r in refs], wide.get(out, out)
        before = [self.cast(wide[r], r) for r in dict.fromkeys(refs) if r in wide and math.prod(r.layout.shape)]
        after = [self.cast(out, to)] if out in wide else []
        if isinstance(op, Contract):
            a, b = i.operands
            ta, tb = (bool(i.attrs[name]) for name in op.transposes)
            piece = self.contract(i, taken[0], taken[1], to, product_sizes(a.type, b.type, ta, tb))
        elif isinstance(op, Scatter):
            piece = self.scatter(op, i, taken[0], taken[1], to)
        else:
            piece = self.argmax(i, taken[0], to)
        return [*before, piece, *after]

    def _widened(self, refs: Sequence[Ref]) -> dict[Ref, Ref]:
        """Room behind the arena for the 16-bit floats among some arrays as float32, where the target asks for it."""
        made: dict[Ref, Ref] = {}
        at = self.memory.arena_bytes
        for ref in refs:
            if self.widens and ref.dtype.narrow and ref not in made:
                at = -(-at // ALIGNMENT) * ALIGNMENT
                made[ref] = Ref("arena", at, f32, Layout.contiguous(ref.layout.shape))
                at += TensorType(f32, ref.layout.shape).nbytes
        self.arena_bytes = max(self.arena_bytes, at)
        return made

    def cast(self, to: Ref, source: Ref) -> Piece:
        """Move an array into one of another dtype."""
        recorder = GraphBuilder()
        x = recorder.argument(TensorType(source.dtype, source.layout.shape))
        made = Builder(recorder).cast(x, dtype=to.dtype)
        return self.kernel(recorder.function("k", [(x, None)], [(made, None)]), [source], [to])

    def _join(self, op: Join, i: Instruction, out: Ref) -> list[Piece]:
        if not i.result.type.size:
            return []
        pieces: list[Piece] = []
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
        checks = checks_of(kernel, [ref.layout for ref in given.values()])
        return [
            (c.instruction, self.ref(c.operand) if c.layout is None else given[c.operand]._replace(layout=c.layout))
            for c in checks
        ]

    # State

    def _updates(self) -> None:
        """New state that does not lie in its buffer yet is moved there, last."""
        f = self.function
        for v, mark in zip(f.results, f.marks, strict=True):
            if mark is not None and mark.kind == "update" and v.type.size:
                to, source = self.memory.state(mark.of, v, "next"), self.ref(v)
                if not same_bytes(to, source):
                    self.step(None, [self.copy(to, source, v.type.shape)])
                    self.may_commit &= not source.buffer.startswith(("state", "next"))


def _room(constant: Array) -> int:
    """Bytes of a constant among others; each begins where a library's product on any target may read it."""
    return -(-constant.nbytes // 256) * 256


def product_sizes(a: TensorType, b: TensorType, ta: bool, tb: bool) -> Sizes:
    """The sizes of a product of matrices, each transposed if its flag says so."""
    m, k = a.shape[-2:][::-1] if ta else a.shape[-2:]
    return math.prod(a.shape[:-2]), m, k, b.shape[-2] if tb else b.shape[-1], ta, tb


def _error_of(i: Instruction) -> Callable[[Array], IRError]:
    """The error of a check, from the words of status behind which the bad element lies."""
    rule, types = i.op.check, tuple([o.type for o in i.operands])
    assert rule is not None
    operand = types[rule.operand]

    def error(status: Array) -> IRError:
        bad = status.view(operand.dtype.numpy)[0]
        return blame(cast(Any, rule.error)(rule.message(bad, types, i.attrs)), i.op.name, types, i.location)

    return error
