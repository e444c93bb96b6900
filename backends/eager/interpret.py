"""Running ops on arrays one at a time, and with it a whole IR function."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...ir import Function, Instruction, Module, Op, philox
from ...ir.composite import decomposition
from ...ir.errors import IRError
from ...ir.float_mode import standard_mode
from ...ir.graph import Value
from ...ir.memory import SURELY, need_memory, program_memory, shortage
from ...ir.op import Composite, Contract, Control, Elementwise, Random32, Reduce, Scatter, Source, View
from ...ir.record import blame
from ...ir.scalar import Scalar, ScalarBuilder, computes_in_float32, scalar_of
from ...ir.types import Array, DType, Shape, TensorType, u32
from .. import kernels
from ..base import Executable, PlannedMemory


class ArrayScalars(ScalarBuilder):
    """Runs each primitive of a ``scalar`` rule at once on whole arrays, through the kernel table."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def emit(self, primitive: str, arguments: tuple[Scalar, ...], dtype: DType) -> Scalar:
        kernel = kernels.table().primitive(primitive, arguments[-1].dtype, dtype)
        out = np.empty(self.shape, dtype.numpy)
        kernel.call(*[a.code for a in arguments], out, *[np.empty(self.shape, d.numpy) for d in kernel.scratch])
        return Scalar(dtype, out)

    def constant(self, value: float | bool, dtype: DType) -> Scalar:
        return Scalar(dtype, np.asarray(value).astype(dtype.numpy))


def checked(
    op: Op, types: tuple[TensorType, ...], attrs: Mapping[str, Any], arrays: Sequence[Array]
) -> Sequence[Array]:
    """The operands, of which the one that the op's check looks at is a copy: the caller may change the array meanwhile.

    Raises the op's error when the check fails.
    """
    rule = op.check
    if rule is None or not rule.applies(types):
        return arrays
    operand = np.array(arrays[rule.operand])
    holds = rule.holds(ArrayScalars(operand.shape), Scalar(types[rule.operand].dtype, operand), types, attrs).code
    if not holds.all():
        bad = operand[~holds].reshape(-1)[0]
        raise rule.error(rule.message(bad, types, attrs))
    return [*arrays[: rule.operand], operand, *arrays[rule.operand + 1 :]]


def execute(
    op: Op,
    types: tuple[TensorType, ...],
    attrs: Mapping[str, Any],
    arrays: Sequence[Array],
    result: TensorType,
    module: Module | None = None,
) -> tuple[Array, ...]:
    """The results of one op on arrays; ``result`` is the (first) result's type.

    Pinned ops go through the kernel table; the others have one possible answer.
    """
    if isinstance(op, Composite):
        body = decomposition(op, types, attrs)
        return run(body, arrays)
    arrays = checked(op, types, attrs, arrays)
    if isinstance(op, Control):

        def call(symbol: str, *operands: Array) -> tuple[Array, ...]:
            assert module is not None
            return run(module[symbol], operands, module)

        return op.eval(np, *arrays, call=call, **attrs)
    if isinstance(op, Random32):
        words = Scalar(u32, philox.words(arrays[0], result.size).reshape(result.shape))
        return (scalar_of(op, ArrayScalars(result.shape), [words], attrs, result.dtype).code,)
    widens = isinstance(op, Elementwise) and computes_in_float32(op, [t.dtype for t in types])
    if op.rounding == "correct" and not widens:
        return (np.asarray(op.eval(np, *arrays, **attrs)),)
    arrays = [kernels.rows(a) for a in arrays]
    if isinstance(op, Elementwise):
        scalars = [Scalar(t.dtype, a) for t, a in zip(types, arrays, strict=True)]
        return (scalar_of(op, ArrayScalars(result.shape), scalars, attrs, result.dtype).code,)
    out = np.empty(result.shape, result.dtype.numpy)
    if isinstance(op, Reduce):
        rows = kernels.arranged(arrays[0], attrs["axes"])
        kernels.table().reduction(op.combine, types[0].dtype)(rows, out.reshape(rows.shape[0], rows.shape[2]))
    elif isinstance(op, Contract):
        kernels.table().contract(result.dtype)(*arrays, out, *[bool(attrs[flag]) for flag in op.transposes])
    elif isinstance(op, Scatter):
        walk = op.walk(types, **attrs)
        part, index = arrays
        base = np.arange(walk.outer)[:, None, None] * (walk.size * walk.inner) + np.arange(walk.inner)
        where = index.reshape((1, walk.count, 1) if walk.shared else (walk.outer, walk.count, walk.inner))
        positions = np.empty((walk.outer, walk.count, walk.inner), np.int64)
        kernels.flat_index(where, base, walk.inner, positions)
        kernels.scatter_add(part.reshape(-1), positions.reshape(-1), out.reshape(-1))
    else:
        raise TypeError(f"op {op.name} is of no family that the interpreter knows")
    return (out,)


def _need_memory(i: Instruction, arrays: Sequence[Array]) -> None:
    """Raise ``BackendError`` for what is too large: operands that are one number broadcast, which an op writes out, and results."""
    op = i.op
    if isinstance(op, Elementwise):
        for array in arrays:
            if array.nbytes > SURELY:
                need_memory(array.nbytes, i.result.type)
    elif not isinstance(op, View) and not (isinstance(op, Source) and op.element is None):
        for v in (*i.operands, *i.results):
            need_memory(v.type.nbytes, v.type)


def run_instruction(i: Instruction, arrays: Sequence[Array], module: Module | None = None) -> tuple[Array, ...]:
    """The results of one instruction on arrays; errors name its line."""
    types = tuple([o.type for o in i.operands])
    try:
        _need_memory(i, arrays)
        return execute(i.op, types, i.attrs, arrays, i.results[0].type, module)
    except IRError as error:
        raise blame(error, i.op.name, types, i.location) from None
    except MemoryError:
        large = max((v.type for v in (*i.operands, *i.results)), key=lambda t: t.nbytes)
        raise blame(shortage(large.nbytes, large), i.op.name, types, i.location) from None


class Host:
    """Ops one at a time on NumPy's arrays: what a tape and the interpreter run on."""

    def array(self, x: Any) -> Any:
        """An array of the caller's as one that ops run on."""
        return np.asarray(x)

    def run(self, i: Instruction, arrays: Sequence[Any], module: Module | None = None) -> tuple[Any, ...]:
        """The results of one instruction; errors name its line."""
        return run_instruction(i, arrays, module)

    def wait(self) -> None:
        """Wait until all ops are done."""


HOST = Host()


def run(function: Function, arrays: Sequence[Any], module: Module | None = None, on: Host = HOST) -> tuple[Any, ...]:
    """The results of a function on arrays, one op after the other; a value is dropped after its last use."""
    last: dict[Value, int] = {}
    for n, i in enumerate(function.instructions):
        for v in (*i.operands, *i.results):
            last[v] = n
    for v in function.results:
        last[v] = len(function.instructions)
    ends: list[list[Value]] = [[] for _ in function.instructions]
    for v, n in last.items():
        if n < len(ends):
            ends[n].append(v)
    known: dict[Value, Any] = dict(zip(function.arguments, map(on.array, arrays), strict=True))
    with standard_mode(), np.errstate(all="ignore"):
        for n, i in enumerate(function.instructions):
            for r, a in zip(i.results, on.run(i, [known[o] for o in i.operands], module), strict=True):
                known[r] = a
            for v in ends[n]:
                known.pop(v, None)
    return tuple([known[v] for v in function.results])


def values_of(
    function: Function, arrays: Sequence[Any], module: Module | None = None, on: Host = HOST
) -> dict[Value, Array]:
    """Every value of a function on arrays, as a tape would hold them; copies on the host of what lies elsewhere."""
    known: dict[Value, Any] = dict(zip(function.arguments, map(on.array, arrays), strict=True))
    with standard_mode(), np.errstate(all="ignore"):
        for i in function.instructions:
            known.update(zip(i.results, on.run(i, [known[o] for o in i.operands], module), strict=True))
    return {v: np.asarray(a) for v, a in known.items()}


class Interpreter(Executable):
    """Runs a function op by op through the kernel table: for IR files, fallback and conformance."""

    def __init__(self, function: Function, module: Module | None, on: Host = HOST) -> None:
        begin = time.perf_counter()
        super().__init__(function)
        self.module, self.on = module, on
        self.source = str(function)
        values = sum(r.type.nbytes for i in function.instructions for r in i.results)
        self.memory = PlannedMemory(values, values, values)
        self.compile_seconds = time.perf_counter() - begin

    def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        results = run(self.function, arrays, self.module, self.on)
        with program_memory(self.function, sum(v.type.nbytes for v in self.function.results)):
            return tuple([np.array(a) for a in results])
