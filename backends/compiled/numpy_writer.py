"""What the NumPy target writes with: arrays of the program by name, and scalar primitives as calls with ``out=``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.memory import need_memory
from ...ir.op import Layout
from ...ir.scalar import Scalar, ScalarBuilder
from ...ir.types import Array, DType, Shape, TensorType
from ...passes.plan import Arena
from .. import kernels
from .memory import Number, Ref, same_bytes


@dataclass
class Primitive:
    """One call of a scalar primitive."""

    name: str
    arguments: tuple[Scalar, ...]
    result: Scalar


class Recorded(ScalarBuilder):
    """Collects the primitives of ``scalar`` rules."""

    def __init__(self) -> None:
        self.primitives: list[Primitive] = []

    def emit(self, primitive: str, arguments: tuple[Scalar, ...], dtype: DType) -> Scalar:
        result = Scalar(dtype, None)
        self.primitives.append(Primitive(primitive, arguments, result))
        return result

    def convert(self, a: Scalar, dtype: DType) -> Scalar:
        if isinstance(a.code, Ref) and a.dtype.integer and dtype.integer and a.dtype.bits == dtype.bits:
            return Scalar(dtype, a.code._replace(dtype=dtype))  # wrapping is reading the same bytes
        return super().convert(a, dtype)

    def constant(self, value: float | bool, dtype: DType) -> Scalar:
        return Scalar(dtype, Number(np.asarray(value).astype(dtype.numpy).tobytes(), dtype))


class Writer:
    """The text of one program: ``setup`` makes its arrays, ``body`` computes."""

    def __init__(self) -> None:
        self.setup: list[str] = []
        self.body: list[str] = []
        self.constants: list[Array] = []
        self.scratch_bytes = 0
        self.calls: dict[str, Callable[..., Any]] = {}
        """What the body calls besides the fixed names."""
        self._numbers: dict[Number, str] = {}
        self._views: dict[Ref, str] = {}

    def var(self, ref: Ref | Number) -> str:
        """The variable that holds an array or number of the program."""
        if isinstance(ref, Number):
            if ref not in self._numbers:
                name = self._numbers[ref] = f"c{len(self._numbers)}"
                value = np.frombuffer(ref.value, ref.dtype.numpy)[0]
                self.setup.append(f"{name} = number({ref.value!r}, {ref.dtype.name!r})  # {value}")
            return self._numbers[ref]
        if ref not in self._views:
            name = self._views[ref] = f"v{len(self._views)}"
            start, shape, strides = ref.window()
            self.setup.append(f"{name} = view({ref.buffer!r}, {start}, {ref.dtype.name!r}, {shape}, {strides})")
        return self._views[ref]

    def constant(self, array: Array, dtype: DType) -> Ref:
        """A constant array of the program."""
        self.constants.append(np.ascontiguousarray(array).reshape(array.shape))
        return Ref(f"constant {len(self.constants) - 1}", 0, dtype, Layout.contiguous(array.shape))

    def full(self, ref: Ref | Number, shape: Shape) -> Ref:
        """A number as a constant array."""
        if isinstance(ref, Ref):
            return ref
        wanted = TensorType(ref.dtype, shape)
        need_memory(wanted.nbytes, f"constant {wanted}")
        return self.constant(np.full(shape, np.frombuffer(ref.value, ref.dtype.numpy)[0]), ref.dtype)

    def scratch(self, pool: Arena, dtype: DType, shape: Shape) -> Ref:
        size = TensorType(dtype, shape).nbytes
        offset = pool.take(size)
        self.scratch_bytes = max(self.scratch_bytes, pool.end)
        return Ref("scratch", offset, dtype, Layout.contiguous(shape))

    def line(self, text: str) -> None:
        self.body.append(text)

    def copy(self, to: Ref, source: Ref | Number) -> None:
        same = isinstance(source, Ref) and same_bytes(to, source) and to.layout.shape == source.layout.shape
        if not same:
            self.line(f"copyto({self.var(to)}, {self.var(source)})")

    def emit(self, primitives: list[Primitive], outs: Sequence[tuple[Scalar, Ref]], shape: Shape, pool: Arena) -> None:
        """Print primitives; ``outs`` says where the results that matter go.  Temporaries come from ``pool`` and are reused."""
        last: dict[Scalar, int] = {}
        for n, p in enumerate(primitives):
            for a in p.arguments:
                last[a] = n
        targets = {id(s): ref for s, ref in outs}
        temporary: dict[int, Ref] = {}
        late: list[tuple[Ref, Scalar]] = []
        made = {id(p.result) for p in primitives}
        for n, p in enumerate(primitives):
            target = targets.get(id(p.result))
            if target is not None and self._read_later(target, primitives, n, temporary):
                late.append((target, p.result))
                target = None
            dying = [a for a in dict.fromkeys(p.arguments) if last[a] == n and id(a) in temporary]
            if target is None:
                target = next(
                    (
                        temporary.pop(id(a))._replace(dtype=p.result.dtype)
                        for a in reversed(dying)
                        if a.dtype.bits == p.result.dtype.bits
                    ),
                    None,
                ) or self.scratch(pool, p.result.dtype, shape)
                temporary[id(p.result)] = target
            self._call(p, target, shape, pool)
            p.result.code = target
            for a in dying:
                if id(a) in temporary:
                    ref = temporary.pop(id(a))
                    pool.give(ref.offset, TensorType(ref.dtype, shape).nbytes)
        for target, scalar in late:
            self.copy(target, scalar.code)
        for scalar, target in outs:
            if id(scalar) not in made or (scalar.code != target and all(target is not t for t, _ in late)):
                self.copy(target, scalar.code)

    @staticmethod
    def _read_later(target: Ref, primitives: list[Primitive], n: int, temporary: dict[int, Ref]) -> bool:
        """Whether writing ``target`` at primitive ``n`` would destroy an operand that a later one reads."""
        for p in primitives[n + 1 :]:
            for a in p.arguments:
                if (
                    isinstance(a.code, Ref)
                    and (a.code.buffer, a.code.offset) == (target.buffer, target.offset)
                    and id(a) not in temporary
                ):
                    return True
        return False

    def _call(self, p: Primitive, out: Ref, shape: Shape, pool: Arena) -> None:
        """Print one primitive."""
        arguments = [self.var(a.code) for a in p.arguments]
        to = self.var(out)
        if p.name == "select":
            condition, a, b = arguments
            written = [isinstance(x.code, Ref) and same_bytes(out, x.code) for x in p.arguments]
            if written[0] or written[1]:
                # The result overwrites the condition or the first choice: select by a copy of the condition.
                copy = self.var(self.scratch(pool, p.arguments[0].dtype, shape))
                if written[1]:
                    self.line(f"logical_not({condition}, {copy})")
                    self.line(f"copyto({to}, {b}, where={copy})")
                    return
                self.line(f"copyto({copy}, {condition})")
                condition = copy
            if not written[2]:
                self.line(f"copyto({to}, {b})")
            self.line(f"copyto({to}, {a}, where={condition})")
            return
        kernel = kernels.table().primitive(p.name, p.arguments[-1].dtype, p.result.dtype)
        scratch = [self.scratch(pool, d, shape) for d in kernel.scratch]
        self.calls[kernel.name] = kernel.call
        self.line(f"{kernel.name}({', '.join([*arguments, to, *map(self.var, scratch)])})")
        for ref in scratch:
            pool.give(ref.offset, TensorType(ref.dtype, shape).nbytes)
