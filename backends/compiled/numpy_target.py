"""The NumPy target: a planned function as readable Python that calls the kernel table with ``out=`` buffers.

Every array is a view, made once, of the arena, the state buffers, a scratch region or a constant.  Nothing is allocated while it runs,
except where sums, products and scatters of 16-bit floats are computed in float32.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from weakref import finalize

import numpy as np

from ...ir import Function, Instruction, Module, Value, philox
from ...ir.errors import BackendError, IRError
from ...ir.escape import comment
from ...ir.float_mode import standard_mode
from ...ir.memory import need_value, program_memory
from ...ir.op import (
    Contract,
    Control,
    Elementwise,
    Gather,
    IndexWalk,
    Join,
    Key,
    Layout,
    Random32,
    Reduce,
    Scatter,
    Source,
    View,
)
from ...ir.print import Names, instruction
from ...ir.record import blame
from ...ir.scalar import Scalar, scalar_of
from ...ir.types import DTYPES, Array, Shape, i64, u32, u64
from ...passes.loops import grouped
from ...passes.plan import Arena
from .. import kernels
from ..base import Bound, Executable, PlannedMemory, Steps
from ..state import State, aligned_bytes
from .memory import Memory, Number, Ref, same_bytes
from .numpy_writer import Recorded, Writer


class NumpyProgram(Executable):
    """A planned function compiled to Python source; see ``source``."""

    def __init__(self, function: Function, module: Module) -> None:
        super().__init__(function)
        self.module = module
        self._places = Memory(function)
        self._arena_bytes = self._places.arena_bytes
        self._out = Writer()
        self._names = Names(function)
        self._fails: list[Callable[[Array], IRError]] = []
        self._lines: dict[Instruction, tuple[int, int]] = {}
        self.kernel_of: dict[Instruction, str] = {}
        """The name in ``kernels`` of every instruction that has code."""
        self._state: State | None = None
        self._calls = dict(_CALLS)
        self._generate()
        constants = sum(c.nbytes for c in self._out.constants)
        caller = sum(v.type.nbytes for v in self._places.caller)
        self.memory = PlannedMemory.of(function, self._out.scratch_bytes + constants + caller)
        name = comment(f"{module.name}.{function.name}")
        code = compile(self.source, f"<tapeir {name} {id(self):x}>", "exec")
        linecache.cache[code.co_filename] = (len(self.source), None, self.source.splitlines(True), code.co_filename)
        finalize(self, linecache.cache.pop, code.co_filename, None)
        scope: dict[str, Any] = {}
        exec(code, scope)
        self._program: Callable[..., Callable[..., tuple[Array, ...]]] = scope["program"]
        with program_memory(function, int(self.memory) + sum(v.type.nbytes for v in self._places.outputs)):
            self._own = {
                "arena": aligned_bytes(self._arena_bytes),
                **self._places.own_arrays(),
                "scratch": aligned_bytes(self._out.scratch_bytes),
            }

    # Ops, by family

    def _array(self, v: Value) -> Ref:
        """The operand as an array."""
        return self._out.full(self._places.refs[v], v.type.shape)

    def _rows(self, v: Value, pool: Arena) -> Ref:
        """The operand row-major contiguous, copied to scratch if it is not."""
        ref = self._array(v)
        if ref.layout.is_contiguous:
            return ref.shaped(v.type.shape)
        copy = self._out.scratch(pool, ref.dtype, v.type.shape)
        self._out.copy(copy, ref)
        return copy

    def _result(self, v: Value) -> Ref:
        ref = self._places.refs[v]
        assert isinstance(ref, Ref)
        return ref

    def _instruction(self, i: Instruction) -> None:
        """Print one instruction; ``_refs`` holds its operands already."""
        op, pool = i.op, Arena()
        if isinstance(op, Source):
            self._places.refs[i.result] = self._source(op, i)
            return
        if isinstance(op, View) and i.result.place is None:
            self._places.refs[i.result] = self._constant_view(op, i)
            return
        for r in i.results:
            self._places.refs[r] = self._places.resolve(r)
        if isinstance(op, View) and i.result.place is not None and i.result.place.kind == "alias":
            return
        where = f"  {i.location[0].file.rsplit('/', 1)[-1]}:{i.location[0].line}" if i.location else ""
        begin = len(self._out.body)
        self._out.line(f"# {comment(instruction(i, self._names).split(' : ')[0] + where)}")
        if op.check is not None:
            self._check(i, pool)
        if isinstance(op, View):
            source, out = self._array(i.operands[0]), self._result(i.result)
            layout = op.layout(source.layout, **i.attrs)
            if layout is None:  # a reshape: the elements in the operand's order
                self._out.copy(out.shaped(source.layout.shape), source)
            else:
                self._out.copy(out, source._replace(layout=layout))
        elif isinstance(op, Elementwise):
            self._elementwise(op, i, pool)
        elif isinstance(op, Reduce):
            self._reduce(op, i, pool)
        elif isinstance(op, Contract):
            self._contract(op, i, pool)
        elif isinstance(op, Join):
            self._join(op, i)
        elif isinstance(op, Gather):
            whole = self._rows(i.operands[0], pool)
            walk = op.walk(tuple([o.type for o in i.operands]), **i.attrs)
            positions = self._positions(walk, i.operands[1], pool)
            shape = (walk.outer, walk.count, walk.inner)
            flat = whole.shaped((i.operands[0].type.size,))
            self._out.line(
                f"gather({self._out.var(flat)}, {positions}, {self._out.var(self._result(i.result).shaped(shape))})"
            )
        elif isinstance(op, Scatter):
            part = self._rows(i.operands[0], pool)
            walk = op.walk(tuple([o.type for o in i.operands]), **i.attrs)
            positions = self._positions(walk, i.operands[1], pool, flat=True)
            out = self._result(i.result).shaped((i.result.type.size,))
            self._out.line(
                f"scatter_add({self._out.var(part.shaped((i.operands[0].type.size,)))}, {positions}, {self._out.var(out)})"
            )
        elif isinstance(op, Random32):
            self._random(op, i, pool)
        elif isinstance(op, Key):
            data = op.data(**i.attrs)
            number = f"int({self._out.var(self._places.refs[i.operands[1]])})" if data is None else str(data)
            self._out.line(
                f"{self._out.var(self._result(i.result))}[:] = fold_in({self._out.var(self._array(i.operands[0]))}, {number})"
            )
        elif isinstance(op, Control):
            self._control(op, i, pool)
        else:
            raise TypeError(f"op {op.name} is of no family that the NumPy target knows")
        if len(self._out.body) == begin + 1:
            self._out.body.pop()
        else:
            lines = [f"{p.file}:{p.line}" for p in i.location]
            name = self.kernel_of[i] = f"{op.name}_{len(self.kernels)}"
            self.kernels[name] = [op.name, *lines]

    def _source(self, op: Source, i: Instruction) -> Ref | Number:
        if op.element is not None:
            need_value(i.result)
        array = op.literal(**i.attrs)
        dtype = i.result.type.dtype
        if array.size and not any(array.strides):
            return Number(array.reshape(-1)[:1].tobytes(), dtype)
        return self._out.constant(array, dtype)

    def _constant_view(self, op: View, i: Instruction) -> Ref | Number:
        """A view of a constant, moved now."""
        ref = self._places.refs[i.operands[0]]
        if isinstance(ref, Number):
            return ref
        moved = op.eval(np, self._out.constants[int(ref.buffer.split()[1])], **i.attrs)
        return self._out.constant(moved, ref.dtype)

    def _scalars(self, i: Instruction, full: bool, pool: Arena) -> list[Scalar]:
        return [Scalar(o.type.dtype, self._rows(o, pool) if full else self._places.refs[o]) for o in i.operands]

    def _elementwise(self, op: Elementwise, i: Instruction, pool: Arena) -> None:
        recorded = Recorded()
        operands = self._scalars(i, op.rounding == "pinned", pool)
        result = scalar_of(op, recorded, operands, i.attrs, i.result.type.dtype)
        self._out.emit(recorded.primitives, [(result, self._result(i.result))], i.result.type.shape, pool)

    def _check(self, i: Instruction, pool: Arena) -> None:
        rule, types = i.op.check, tuple([o.type for o in i.operands])
        if rule is None or not rule.applies(types):
            return
        operand = i.operands[rule.operand]
        ref = self._array(operand)
        recorded = Recorded()
        holds = rule.holds(recorded, Scalar(operand.type.dtype, ref), types, i.attrs)
        flag = self._out.scratch(pool, holds.dtype, operand.type.shape)
        self._out.emit(recorded.primitives, [(holds, flag)], operand.type.shape, pool)
        self._out.line(f"if not all_true({self._out.var(flag)}, None):")
        self._out.line(f"    fail({len(self._fails)}, {self._out.var(ref)}, {self._out.var(flag)})")

        def error(bad: Array) -> IRError:
            return blame(cast(Any, rule.error)(rule.message(bad, types, i.attrs)), i.op.name, types, i.location)

        self._fails.append(error)

    def _reduce(self, op: Reduce, i: Instruction, pool: Arena) -> None:
        x, axes = i.operands[0], i.attrs["axes"]
        ref, shape = self._rows(x, pool), x.type.shape
        groups = grouped(len(shape), axes)
        order = sum(groups, ())
        if order != tuple(range(len(shape))):
            moved = self._out.scratch(pool, ref.dtype, tuple(shape[a] for a in order))
            layout = Layout(moved.layout.shape, tuple(ref.layout.strides[a] for a in order), ref.layout.offset)
            self._out.copy(moved, ref._replace(layout=layout))
            ref = moved
        sizes = tuple(int(np.prod([shape[a] for a in group], dtype=np.int64)) for group in groups)
        out = self._result(i.result).shaped((sizes[0], sizes[2]))
        a, b = self._out.var(ref.shaped(sizes)), self._out.var(out)
        name = f"{op.combine}_{x.type.dtype}"
        self._out.calls[name] = kernels.table().reduction(op.combine, x.type.dtype)
        self._out.line(f"{name}({a}, {b})")

    def _contract(self, op: Contract, i: Instruction, pool: Arena) -> None:
        a, b = (self._out.var(self._rows(o, pool)) for o in i.operands)
        flags = [bool(i.attrs[flag]) for flag in op.transposes]
        name = f"contract_{i.result.type.dtype}"
        self._out.calls[name] = kernels.table().contract(i.result.type.dtype)
        self._out.line(f"{name}({a}, {b}, {self._out.var(self._result(i.result))}, {flags[0]}, {flags[1]})")

    def _join(self, op: Join, i: Instruction) -> None:
        out = self._result(i.result)
        blocks = op.blocks(tuple([o.type for o in i.operands]), **i.attrs)
        strides = out.layout.strides
        copies: list[tuple[Ref, Ref | Number]] = []
        for o, block in zip(i.operands, blocks, strict=True):
            start = sum(a * s for a, s in zip(block.start, strides, strict=True))
            layout = Layout(o.type.shape, tuple(s * k for s, k in zip(strides, block.step, strict=True)), start)
            part, source = out._replace(layout=layout), self._places.refs[o]
            if o.type.size == 0 or (isinstance(source, Ref) and same_bytes(part, source)):
                continue
            copies.append((part, source))
        if copies and sum(o.type.size for o in i.operands) != i.result.type.size:
            self._out.line(f"{self._out.var(out)}.fill(0)")
        for part, source in copies:
            self._out.copy(part, source)
        if not i.operands or not any(o.type.size for o in i.operands):
            self._out.line(f"{self._out.var(out)}.fill(0)")

    def _positions(self, walk: IndexWalk, index: Value, pool: Arena, flat: bool = False) -> str:
        """Print the positions of a gather or scatter in the flattened whole; returns their variable."""
        shape = (walk.outer, walk.count, walk.inner)
        base = np.arange(walk.outer)[:, None, None] * (walk.size * walk.inner) + np.arange(walk.inner)
        ref = self._rows(index, pool).shaped((1, walk.count, 1) if walk.shared else shape)
        out = self._out.scratch(pool, i64, shape)
        self._out.line(
            f"flat_index({self._out.var(ref)}, {self._out.var(self._out.constant(base, i64))}, {walk.inner}, {self._out.var(out)})"
        )
        return self._out.var(out.shaped((walk.outer * walk.count * walk.inner,)) if flat else out)

    def _random(self, op: Random32, i: Instruction, pool: Arena) -> None:
        count, shape = i.result.type.size, i.result.type.shape
        blocks = -(-count // 4)
        scratch = self._out.scratch(pool, u64, (philox.SCRATCH_ROWS, blocks))
        words = self._out.scratch(pool, u32, (blocks, 4))
        counters = self._out.constant(philox.counters(blocks), u64)
        source = self._array(i.operands[0])
        self._out.line(f"philox({', '.join(map(self._out.var, (counters, source, words, scratch)))})")
        recorded = Recorded()
        result = scalar_of(op, recorded, [Scalar(u32, words.shaped(shape))], i.attrs, i.result.type.dtype)
        self._out.emit(recorded.primitives, [(result, self._result(i.result))], shape, pool)

    def _control(self, op: Control, i: Instruction, pool: Arena) -> None:
        """A map kernel: all its scalar rules as one list of primitives."""
        kernel = self.module[i.attrs[op.bodies[0]]]
        known: dict[Value, Scalar] = {}
        for argument, operand in zip(kernel.arguments, i.operands, strict=True):
            known[argument] = Scalar(argument.type.dtype, self._places.refs[operand])
        recorded = Recorded()
        for inner in kernel.instructions:
            if isinstance(inner.op, Source):
                known[inner.result] = Scalar(inner.result.type.dtype, self._source(inner.op, inner))
            elif isinstance(inner.op, View):
                source = known[inner.operands[0]]
                if isinstance(source.code, Ref):
                    layout = inner.op.layout(source.code.layout, **inner.attrs)
                    assert layout is not None
                    source = Scalar(source.dtype, source.code._replace(layout=layout))
                known[inner.result] = source
            elif isinstance(inner.op, Elementwise):
                operands = [known[o] for o in inner.operands]
                known[inner.result] = scalar_of(inner.op, recorded, operands, inner.attrs, inner.result.type.dtype)
            else:
                raise TypeError(f"kernel @{kernel.name} holds {inner.op.name}, which is no map")
        outs = [(known[v], self._result(r)) for v, r in zip(kernel.results, i.results, strict=True)]
        self._out.emit(recorded.primitives, outs, kernel.results[0].type.shape, pool)

    # The program

    def _generate(self) -> None:
        f = self.function
        parameters: list[str] = []
        for v, role in zip(f.arguments, f.roles, strict=True):
            ref = self._places.refs[v] = self._places.resolve(v)
            if role in ("input", None):
                parameters.append(f"in{len(parameters)}")
                self._out.line(f"copyto({self._out.var(ref)}, {parameters[-1]})  # {comment(self._names.of[v])}")
        for i in f.instructions:
            begin = len(self._out.body)
            try:
                self._instruction(i)
            except BackendError as error:
                raise blame(error, i.op.name, tuple([o.type for o in i.operands]), i.location) from None
            self._lines[i] = begin, len(self._out.body)
        self._calls.update(self._out.calls)
        outputs: list[str] = []
        for v, mark in zip(f.results, f.marks, strict=True):
            ref = self._places.refs[v]
            if mark is not None and mark.kind == "update":
                self._out.copy(self._places.state(mark.of, v, "next"), ref)
            else:
                need_value(v)
                outputs.append(f"{self._out.var(self._out.full(ref, v.type.shape))}.copy()")
        self._out.line(f"return ({', '.join(outputs)}{',' if len(outputs) == 1 else ''})")
        head = f"@{f.name} of module @{self.module.name}: arena {self._arena_bytes} bytes, scratch {self._out.scratch_bytes} bytes."
        self.source = "\n".join([ascii(head), "", "", *self._text([("run", parameters, self._out.body)], "run"), ""])

    def _text(self, functions: Sequence[tuple[str, list[str], list[str]]], returned: str) -> list[str]:
        """``program``, which sets up the arrays and returns functions (name, parameters, lines) that use them."""
        calls = sorted(
            {name for _, _, lines in functions for line in lines for name in self._calls if f"{name}(" in line}
        )
        text = ["def program(view, number, fail, calls):"]
        text += [f"    {line}" for line in (*[f"{name} = calls[{name!r}]" for name in calls], *self._out.setup)]
        for name, parameters, lines in functions:
            text += [
                "",
                f"    def {name}({', '.join(parameters)}):",
                *[f"        {line}" for line in lines or ["pass"]],
            ]
        return [*text, "", f"    return {returned}"]

    def steps(self) -> Steps:
        return _NumpySteps(self)

    def taken_apart(self) -> tuple[Callable[[Instruction], None], Callable[[Value], Array]]:
        """The program's own lines for each instruction, on memory of their own, and where that memory holds each value."""
        numbers = {i: n for n, i in enumerate(self.function.instructions)}
        parts = [(f"step{n}", list[str](), self._out.body[slice(*self._lines[i])]) for i, n in numbers.items()]
        scope: dict[str, Any] = {}
        exec("\n".join(self._text(parts, f"[{', '.join(name for name, _, _ in parts)}]")), scope)
        state = State(self.function.state_types())
        memory = self._memory(state, 0, {name: aligned_bytes(array.nbytes) for name, array in self._own.items()})
        functions: list[Callable[[], None]] = scope["program"](*memory, self._calls)
        view, number = memory[0], memory[1]

        def array(v: Value) -> Array:
            ref = self._places.refs[v]
            if isinstance(ref, Number):
                return np.broadcast_to(number(ref.value, ref.dtype.name), v.type.shape)
            start, shape, strides = ref.window()
            found: Array = view(ref.buffer, start, ref.dtype.name, shape, strides)
            if ref.buffer.startswith("constant"):
                found.flags.writeable = False
            return found

        return lambda i: functions[numbers[i]](), array

    def _instantiate(self, state: State | None, which: int) -> Callable[..., tuple[Array, ...]]:
        """The program on one set of state buffers."""
        return self._program(*self._memory(state, which, self._own), self._calls)

    def _memory(self, state: State | None, which: int, own: Mapping[str, Array]) -> tuple[Callable[..., Any], ...]:
        """How a program reaches its arrays and numbers, and how it raises."""
        buffers: dict[str, Array] = {**own}
        buffers.update({f"constant {n}": c.reshape(-1).view(np.uint8) for n, c in enumerate(self._out.constants)})
        if state is not None:
            for side, chosen in (("state", which), ("next", 1 - which)):
                buffers.update({f"{side} {d.name}": b for d, b in state.buffers[chosen].items()})

        def view(buffer: str, offset: int, dtype: str, shape: Shape, strides: Shape) -> Array:
            kind = DTYPES[dtype].numpy
            if 0 in shape:
                return np.empty(shape, kind)
            return np.ndarray(shape, kind, buffers[buffer], offset, [s * kind.itemsize for s in strides])

        def number(value: bytes, dtype: str) -> Array:
            return np.frombuffer(value, DTYPES[dtype].numpy).reshape(())

        fails = self._fails  # not the program: it would wait for the cyclic collector

        def fail(n: int, operand: Array, holds: Array) -> None:
            raise fails[n](operand[~holds].reshape(-1)[0])

        return view, number, fail

    def bind(self, state: State) -> Bound:
        runs = tuple(self._instantiate(state, which) for which in (0, 1))

        def call(*inputs: Array) -> tuple[Array, ...]:
            with standard_mode(), np.errstate(all="ignore"):
                return runs[state.current](*inputs)

        return call

    def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        f = self.function
        if self._state is None:
            self._state = State(f.state_types())
            self._call_bound = self.bind(self._state)
        inputs: list[Array] = []
        for v, role, array in zip(f.arguments, f.roles, arrays, strict=True):
            if role in ("input", None):
                inputs.append(array)
            else:
                np.copyto(self._state[v.name or ""], array)
        outputs = iter(self._call_bound(*inputs))
        return tuple(
            np.array(self._state.next(m.of.name or "")) if m is not None and m.kind == "update" else next(outputs)
            for m in f.marks
        )


class _NumpySteps(Steps):
    """A program's lines run instruction by instruction; errors are ignored as in the program."""

    def __init__(self, program: NumpyProgram) -> None:
        self.function = program.function
        self._kernels = program.kernel_of
        self._run, self._array = program.taken_apart()

    def write(self, value: Value, array: Array) -> None:
        target = self._array(value)
        if target.flags.writeable:
            np.copyto(target, array)

    def read(self, value: Value) -> Array:
        return np.array(self._array(value))

    def run(self, i: Instruction) -> None:
        with standard_mode(), np.errstate(all="ignore"):
            self._run(i)

    def kernel(self, i: Instruction) -> str:
        return self._kernels.get(i, i.op.name)


_CALLS: dict[str, Callable[..., Any]] = {
    "copyto": np.copyto, "logical_not": np.logical_not, "all_true": np.logical_and.reduce, "philox": philox.philox,
    "fold_in": philox.fold_in, "gather": kernels.gather, "scatter_add": kernels.scatter_add, "flat_index": kernels.flat_index,
}  # fmt: skip
"""What every program may call, by the name it is printed under; the kernel table's entries come on top."""
