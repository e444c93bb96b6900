"""A CUDA program that runs on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir import Function
from ...ir.op import Layout
from ...ir.types import Array
from ..base import Bound, Executable, PlannedMemory
from ..compiled.memory import Ref, window
from .device import Device, DeviceState
from .program import Call, CudaProgram, KernelCall

STATUS_WORDS = 8


class CudaExecutable(Executable):
    """Compiled kernels, memory and launches of one function.

    ``program`` was lowered from ``traced``; ``in_place`` lets it write new state over the old, where a failed check cannot leave it half
    written: no check comes after the first write.
    """

    def __init__(self, program: CudaProgram, traced: Function, device: Device, in_place: bool = False) -> None:
        super().__init__(traced)
        self.program, self.device, self.source = program, device, program.source
        self.commits = in_place and program.may_commit and bool(traced.state())
        self._kernels = device.compile(program.source, list(program.kernels), program.fast)
        memory, constants = program.memory, program.blob()
        self._own = {
            "arena": device.allocate(memory.arena_bytes),
            "constants": device.allocate(constants.nbytes),
            **{name: device.allocate(v.type.nbytes) for v, name in memory.caller.items()},
        }
        device.write(self._own["constants"], 0, constants)
        self._status = device.allocate(8 * STATUS_WORDS)
        f = program.function
        self._inputs = [program.ref(v) for v, role in zip(f.arguments, f.roles, strict=True) if role in ("input", None)]
        self._outputs = [program.ref(v) for v in memory.outputs]
        self.memory = PlannedMemory.of(f, constants.nbytes + sum(v.type.nbytes for v in memory.caller))
        self._state: DeviceState | None = None

    def _memory(self, state: DeviceState, which: int) -> dict[str, Any]:
        buffers = dict(self._own)
        for side, chosen in (("state", which), ("next", which if self.commits else 1 - which)):
            buffers.update({f"{side} {d.name}": b for d, b in state.buffers[chosen].items()})
        return buffers

    def _work(self, state: DeviceState, which: int) -> Callable[[], None]:
        """All launches on one side of the state."""
        buffers = {name: self.device.address(m) for name, m in self._memory(state, which).items()}
        status = self.device.address(self._status)
        made = [self._launch(call, buffers, status) for _, call in self.program.calls]

        def work() -> None:
            for launch in made:
                launch()

        return self.device.repeated(work)

    def _launch(self, call: Call, buffers: dict[str, int], status: int) -> Callable[[], None]:
        device = self.device
        if isinstance(call, KernelCall):
            kernel, places = self._kernels[call.name], [status, *(buffers[r.buffer] + r.offset for r in call.refs)]
            if call.data is not None:
                places.insert(-1, call.data)
            return lambda: device.launch(kernel, call.launch, places)
        a, b, out = (buffers[r.buffer] + r.offset for r in (call.a, call.b, call.out))
        return lambda: device.product(call.a.dtype, a, b, out, call.sizes, self.program.fast)

    def bind(self, state: Any) -> Bound:
        device = self.device
        works = [self._work(state, which) for which in (0, 1)]
        memories: list[dict[str, Any]] = [self._memory(state, which) for which in (0, 1)]
        found = np.zeros(STATUS_WORDS, np.int64)
        none = np.zeros(STATUS_WORDS, np.int64)

        def call(*given: Array) -> tuple[Array, ...]:
            for ref, array in zip(self._inputs, given, strict=True):
                device.write(self._own[ref.buffer], _start(ref), np.ascontiguousarray(array, ref.dtype.numpy))
            side: int = state.current
            works[side]()
            device.read(self._status, 0, found)
            if found[0]:
                device.write(self._status, 0, none)
                raise self.program.fails[found[0] - 1](found[1:])
            return tuple([self._read(memories[side], ref) for ref in self._outputs])

        return call

    def _read(self, memory: dict[str, Any], ref: Ref) -> Array:
        """A copy of an array on the host."""
        if ref.buffer == "constants":
            return self.program.constants_array(ref).copy()
        layout, item = ref.layout, ref.dtype.bits // 8
        reach = [stride * (n - 1) for n, stride in zip(layout.shape, layout.strides, strict=True) if n > 1]
        low = layout.offset + sum(min(r, 0) for r in reach)
        count = 1 + sum(map(abs, reach)) if 0 not in layout.shape else 0
        span = np.empty(count * item, np.uint8)
        self.device.read(memory[ref.buffer], ref.offset + low * item, span)
        moved = ref._replace(buffer="span", offset=0, layout=Layout(layout.shape, layout.strides, layout.offset - low))
        return np.array(window({"span": span}, moved))

    def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        f = self.function
        if self._state is None:
            self._state = DeviceState({v.name or "": v.type for v, _ in f.state()}, self.device)
            self._bound = self.bind(self._state)
        state = self._state
        given = list(zip(f.arguments, f.roles, arrays, strict=True))
        state.load({v.name or "": a for v, role, a in given if role not in ("input", None)})
        outputs = iter(self._bound(*[a for _, role, a in given if role in ("input", None)]))
        new = state.__getitem__ if self.commits else state.next
        return tuple(new(m.of.name or "") if m is not None and m.kind == "update" else next(outputs) for m in f.marks)


def _start(ref: Ref) -> int:
    return ref.offset + ref.layout.offset * ref.dtype.numpy.itemsize
