"""Ops one at a time on a device: each is a program of its own, made once for its types and attributes.

An op's program has the same kernel as a compiled program that does not fuse, and products go through the same handle: a tape on the
device and compiled programs agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ...ir import GraphBuilder, Instruction, IRError, Module, Place
from ...ir.composite import decomposition
from ...ir.errors import BackendError
from ...ir.op import Composite, Control, Layout, Reduce, Source, View
from ...ir.print import attribute
from ...ir.record import blame
from ...ir.types import TensorType, type_of
from ...passes.loops import are_neighbours
from ..eager.interpret import Host, run
from .device import ALIGNMENT, Device, DeviceArray
from .executable import CudaExecutable
from .program import CudaProgram

KEPT_CONSTANTS = 256
"""Constants that stay on the device."""


class DeviceOps(Host):
    """What a tape or the interpreter runs on where arrays lie on a device."""

    _made: WeakKeyDictionary[Device, DeviceOps] = WeakKeyDictionary()

    def __init__(self, device: Device) -> None:
        self.device = device
        self._programs: dict[object, CudaExecutable] = {}
        self._constants: dict[object, DeviceArray] = {}

    @classmethod
    def of(cls, device: Device) -> DeviceOps:
        """The one for a device."""
        with device.lock:
            if device not in cls._made:
                cls._made[device] = cls(device)
            return cls._made[device]

    def array(self, x: Any, type: TensorType | None = None) -> DeviceArray:
        if isinstance(x, DeviceArray):
            return x
        data = np.asarray(x)
        with self.device.lock:
            made = DeviceArray(self.device, type or type_of(data))
            self.device.write(made.memory, 0, np.ascontiguousarray(data))
        return made

    def wait(self) -> None:
        with self.device.lock:
            self.device.wait(self.device.mark())

    def run(self, i: Instruction, arrays: Sequence[Any], module: Module | None = None) -> tuple[Any, ...]:
        types = tuple([o.type for o in i.operands])
        try:
            with self.device.lock:
                return self._run(i, types, arrays, module)
        except IRError as error:
            raise blame(error, i.op.name, types, i.location) from None
        except MemoryError:
            results = ", ".join(str(r.type) for r in i.results)
            error = BackendError(f"there is not enough memory on {self.device.name} for {results}")
            raise blame(error, i.op.name, types, i.location) from None

    def _run(
        self, i: Instruction, types: tuple[TensorType, ...], arrays: Sequence[Any], module: Module | None
    ) -> tuple[Any, ...]:
        op = i.op
        if isinstance(op, Composite):
            return run(decomposition(op, types, i.attrs), arrays, None, self)
        if isinstance(op, Control):
            assert module is not None
            return run(module[i.attrs[op.bodies[0]]], arrays, module, self)
        form = (op.name, types, i.result.type, tuple([(name, attribute(value)) for name, value in i.attrs.items()]))
        if isinstance(op, Source):
            return (self._constant(op, i, form),)
        if isinstance(op, View):
            layout = op.layout(Layout.contiguous(types[0].shape), **i.attrs)
            x: DeviceArray = arrays[0]
            start = x.offset + (layout.offset if layout is not None else 0) * x.dtype.itemsize
            if layout is not None and layout.is_contiguous and start % ALIGNMENT == 0:
                return (DeviceArray(self.device, i.result.type, x.memory, start),)
        if form not in self._programs:
            self._programs[form] = self._program(i)
        return self._programs[form].run([self.array(a, t) for a, t in zip(arrays, types, strict=True)])

    def _constant(self, op: Source, i: Instruction, form: object) -> DeviceArray:
        if form not in self._constants:
            made = self.array(op.literal(**i.attrs), i.result.type)
            if len(self._constants) >= KEPT_CONSTANTS:
                del self._constants[next(iter(self._constants))]
            self._constants[form] = made
        return self._constants[form]

    def _program(self, i: Instruction) -> CudaExecutable:
        recorder = GraphBuilder()
        recorder.at = ()
        operands = [recorder.argument(o.type, f"x{n}") for n, o in enumerate(i.operands)]
        results = recorder.bind(i.op, tuple(operands), i.attrs)
        for v in (*operands, *results):
            v.place = Place("caller", 0)
        function = recorder.function(i.op.name, [(v, "input") for v in operands], [(r, None) for r in results])
        module = Module(i.op.name, [function])
        if isinstance(i.op, Reduce) and not are_neighbours(i.attrs["axes"]):
            # What a compiled program does: it moves the axes together.
            from ..compiled import lower

            module = lower(module, ("decompose", "plan"), "cuda")
        return CudaExecutable(CudaProgram(module[function.name], module), function, self.device)
