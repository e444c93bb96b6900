"""A CUDA program run instruction by instruction on memory of its own, for ``irc profile`` and ``irc compare``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir import Instruction, Value
from ...ir.types import Array
from ..base import Steps
from ..compiled.memory import Ref, span, window
from .calls import Call, KernelCall
from .device import DeviceState

if TYPE_CHECKING:
    from .executable import CudaExecutable


class CudaSteps(Steps):
    """The calls of each instruction, which run one after the other."""

    def __init__(self, executable: CudaExecutable) -> None:
        program, device = executable.program, executable.device
        self._executable, self._program, self._device = executable, program, device
        self.function = f = program.function
        state = DeviceState(f.state_types(), device)
        self._memory: dict[str, Any] = executable.memories(state)
        sides = (("input", f.inputs()), ("output", program.memory.outputs))
        for kind, values in sides:
            self._memory.update({f"{kind} {n}": executable.allocate(v.type.nbytes) for n, v in enumerate(values)})
        addresses = {name: device.address(memory) for name, memory in self._memory.items()}
        self._calls: dict[Instruction, list[Call]] = {}
        self._work: dict[Instruction, list[Callable[[], None]]] = {}
        for (i, call), launch in zip(program.calls, executable.launches(addresses), strict=True):
            if i is not None:
                self._calls.setdefault(i, []).append(call)
                self._work.setdefault(i, []).append(launch)

    def _bytes(self, ref: Ref) -> tuple[Array, Array, int]:
        """The bytes that an array reaches over, the array in them, and where they begin in its buffer."""
        _, begin, end = span(ref)
        raw = np.zeros(end - begin, np.uint8)
        if 0 not in ref.layout.shape:
            self._device.read(self._memory[ref.buffer], begin, raw)
        return raw, window({ref.buffer: raw}, ref._replace(offset=ref.offset - begin)), begin

    def write(self, value: Value, array: Array) -> None:
        ref = self._program.ref(value)
        if ref.buffer == "constants" or 0 in ref.layout.shape:
            return
        raw, found, begin = self._bytes(ref)
        np.copyto(found, array)
        self._device.write(self._memory[ref.buffer], begin, raw)

    def read(self, value: Value) -> Array:
        ref = self._program.ref(value)
        return np.array(self._program.constants_array(ref) if ref.buffer == "constants" else self._bytes(ref)[1])

    def run(self, i: Instruction) -> None:
        self._start(i)
        if any(isinstance(call, KernelCall) and call.checks for call in self._calls.get(i, ())):
            self._executable.raise_failure()

    def _start(self, i: Instruction) -> None:
        for launch in self._work.get(i, ()):
            launch()

    def times(self, instructions: Sequence[Instruction]) -> list[float]:
        return self._device.times([lambda i=i: self._start(i) for i in instructions])

    def kernel(self, i: Instruction) -> str:
        calls = self._calls.get(i, ())
        products = [c.name for c in calls if not isinstance(c, KernelCall)]
        return products[0] if products else calls[-1].name if calls else i.op.name
