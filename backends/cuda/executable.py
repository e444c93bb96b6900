"""A CUDA program that runs on a device: called with arrays, or bound to a runtime's state as one repeated piece of work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...ir import Function, IRError, Module, Value
from ...ir.types import Array
from ..base import Bound, Executable, PlannedMemory, Steps
from ..compiled.memory import Ref
from ..interrupt import Uninterrupted
from .calls import Call, KernelCall
from .device import ALIGNMENT, Device, DeviceArray, DeviceState
from .lanes import BEGIN, EACH_LANE, LANES, Turn
from .program import CudaProgram
from .shortage import shortage
from .steps import CudaSteps

STATUS_BYTES = 64
WITH_THE_STEP = 1 << 16
"""Bytes of inputs up to which their copy is part of the step; more are copied on a second stream, while the step before runs."""
SMALL = 256
"""Bytes of a result up to which every step hands it to the host."""


class CudaExecutable(Executable):
    """Compiled kernels, memory and launches of one function.

    ``program`` was lowered from ``traced``; ``in_place`` lets it write new state over the old, where a failed check cannot leave it half
    written: no check comes after the first write.
    """

    def __init__(self, program: CudaProgram, traced: Function, device: Device, in_place: bool = False) -> None:
        super().__init__(traced)
        self.lock = device.lock
        self.program, self.device, self.source = program, device, program.source
        self.kernels = program.described
        self.commits = in_place and program.may_commit and any(traced.state())
        self._code = device.compile(program.units, list(program.kernels), program.fast)
        constants = program.blob()
        self.memory = PlannedMemory.of(
            program.function, constants.nbytes + sum(v.type.nbytes for v in program.memory.caller)
        )
        self._own = {"arena": self.allocate(program.memory.arena_bytes)}
        if program.constants:
            self._own["constants"] = self.allocate(constants.nbytes)
        if constants.nbytes:
            device.write(self._own["constants"], 0, constants)
        for name, size in (("counters", 4 * program.counters), ("scratch", program.scratch)):
            if size:
                self._own.update({f"{name} {lane}": self.allocate(size) for lane in range(LANES)})
        for name, size in (("rows", program.rows), ("aligned", program.aligned)):
            if size:
                self._own[name] = self.allocate(size)
        self._over = program.memory.overwritable(program.module)
        sizes = [v.type.nbytes for v in program.memory.outputs]
        self.reported = {n: size for n, size in enumerate(sizes) if size <= SMALL or self.commits}
        """Results that every step hands to the host, with their bytes."""
        own = [n for n in self.reported if program.results[n].buffer == f"output {n}"]
        starts, self.report_bytes = _packed([STATUS_BYTES, *(sizes[n] for n in own)])
        self.report_starts = dict(zip(own, starts[1:], strict=True))
        """Where those that are arrays of their own lie behind the status, so that one copy takes all."""
        self.report = self.allocate(self.report_bytes)
        """The status, and those results."""
        self._state: DeviceState | None = None
        self._last: tuple[Mapping[str, int], list[Callable[[], None]]] = {}, []

    def allocate(self, nbytes: int) -> Any:
        """Memory for the program.  Raises ``BackendError`` with its largest values where there is not enough."""
        try:
            return self.device.allocate(nbytes)
        except MemoryError:
            raise shortage(self.program.function, self.device.name, nbytes, self.device.used()) from None

    # Launches

    def launches(self, addresses: Mapping[str, int], beside: bool = False) -> list[Callable[[], None]]:
        """What starts each kernel and product, given where each buffer begins.

        With ``beside`` they are in lanes, which takes that no two buffers share memory.
        """
        calls = [call for _, call in self.program.calls]
        if not beside:
            return [self._launch(call, addresses, 0) for call in calls]
        turns, ends = self.program.lanes
        before: dict[int, list[Callable[[], None]]] = {}
        behind: dict[int, list[Callable[[], None]]] = {}
        for n, turn in enumerate([*turns, Turn(0, ends)]):
            for m in turn.after:
                note, wait = self.device.edge(turns[m].lane if m != BEGIN else 0, turn.lane)
                behind.setdefault(m, []).append(note)
                before.setdefault(n, []).append(wait)
        work = behind.get(BEGIN, [])
        for n, (call, turn) in enumerate(zip(calls, turns, strict=True)):
            work += [*before.get(n, ()), self._launch(call, addresses, turn.lane), *behind.get(n, ())]
        return [*work, *before.get(len(calls), ())]

    def _launch(self, call: Call, addresses: Mapping[str, int], lane: int) -> Callable[[], None]:
        def place(ref: Ref) -> int:
            return addresses[f"{ref.buffer} {lane}" if ref.buffer in EACH_LANE else ref.buffer] + ref.offset

        if isinstance(call, KernelCall):
            places = [self.device.address(self.report), *map(place, call.refs)]
            if call.data is not None:
                places.insert(-1, call.data)
            return self.device.launch(self._code[call.name], call.launch, places, lane)
        a, b, out = map(place, (call.a, call.b, call.out))
        if call.bias is None:
            return self.device.product(call.a.dtype, a, b, out, call.sizes, self.program.fast, lane)
        return self.device.layer(call.a.dtype, a, b, out, call.sizes, place(call.bias), call.activation, lane)

    def own(self) -> dict[str, int]:
        """Where the program's own buffers begin."""
        return {name: self.device.address(memory) for name, memory in self._own.items()}

    def failure(self, status: Array) -> IRError | None:
        """What the words of the status say; they are cleared for what comes next."""
        words = status.view(np.int64)
        if not words[0]:
            return None
        self.device.write(self.report, 0, np.zeros(STATUS_BYTES, np.uint8))
        return self.program.fails[int(words[0]) - 1](words[1:].copy())

    def raise_failure(self) -> None:
        """Wait, and raise what the calls so far failed with."""
        status = np.zeros(STATUS_BYTES, np.uint8)
        self.device.read(self.report, 0, status)
        error = self.failure(status)
        if error is not None:
            raise error

    def memories(self, state: DeviceState) -> dict[str, Any]:
        """The program's own buffers and those of the state, by name."""
        which = state.current
        found = dict(self._own)
        for side, chosen in (("state", which), ("next", which if self.commits else 1 - which)):
            found.update({f"{side} {d.name}": b for d, b in state.buffers(chosen).items()})
        return found

    @property
    def module(self) -> Module:
        """The planned module around the program's function."""
        return self.program.module

    def steps(self) -> Steps:
        return CudaSteps(self)

    # Called with arrays

    def accept(self, value: Value, array: Any) -> Any:
        type_ = value.type
        found = self.device.take(array, type_.dtype)
        if found is None:
            return super().accept(value, array)
        if found.type != type_:
            raise TypeError(f"@{self.function.name}: %{value.name} is {type_}, not an array of {found.type}")
        return found

    def run(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """All results for all arguments: on the device if an argument is, else on the host."""
        results = self._run(arrays, None)
        return results if any(isinstance(a, DeviceArray) for a in arrays) else tuple(map(np.asarray, results))

    def run_into(self, arrays: Sequence[Any], out: Sequence[Any]) -> tuple[Any, ...]:
        if not all(isinstance(o, DeviceArray) for o in out):
            return super().run_into(arrays, out)
        if any(self.function.state()):
            for target, result in zip(out, self._run_with_state(arrays), strict=True):
                self.device.write(target.memory, target.offset, np.asarray(result))
        else:
            self._run(arrays, out)
        return tuple(out)

    def _run(self, arrays: Sequence[Any], out: Sequence[Any] | None) -> tuple[Any, ...]:
        if any(self.function.state()):
            return self._run_with_state(arrays)
        device, addresses = self.device, self.own()
        device.begin()
        held: list[DeviceArray] = []
        for n, (v, array) in enumerate(zip(self.program.function.inputs(), arrays, strict=True)):
            given = array if isinstance(array, DeviceArray) else None
            if given is None or not self.program.is_callers(v):
                mine = DeviceArray(device, v.type)
                if given is None:
                    device.write(mine.memory, 0, np.ascontiguousarray(array))
                else:
                    device.copy(mine.memory, 0, given.memory, given.offset, v.type.nbytes)
                given = mine
            held.append(given)
            addresses[f"input {n}"] = given.address
        results: list[DeviceArray] = []
        for n, v in enumerate(self.program.memory.outputs):
            direct = out is not None and self._is_writable(out[n], n, held, results)
            results.append(out[n] if out is not None and direct else DeviceArray(device, v.type))
            addresses[f"output {n}"] = results[-1].address
        if self._last[0] != addresses:
            self._last = addresses, self.launches(addresses)
        for launch in self._last[1]:
            launch()
        device.hold([a for a in arrays if isinstance(a, DeviceArray)])
        if self.program.fails:
            self.raise_failure()
        for n, (ref, result) in enumerate(zip(self.program.results, results, strict=True)):
            if ref.buffer == f"output {n}":
                continue
            kind, _, number = ref.buffer.partition(" ")
            if kind in ("input", "output"):
                other = (held if kind == "input" else results)[int(number)]
                memory, start = other.memory, other.offset
            else:
                memory, start = self._own[ref.buffer], 0
            device.copy(result.memory, result.offset, memory, start + ref.offset, result.nbytes)
        for target, result in zip(results if out is None else out, results, strict=True):
            if target is not result:
                device.copy(target.memory, target.offset, result.memory, result.offset, result.nbytes)
        return tuple(results)

    def _is_writable(
        self, array: DeviceArray, output: int, inputs: Sequence[DeviceArray], results: Sequence[DeviceArray]
    ) -> bool:
        """Whether the program may write a result into an array: it meets none in use but inputs that it may be written over."""
        shared = [n for n, other in enumerate(inputs) if _meet(array, other)]
        same = all(n in self._over[output] and inputs[n].address == array.address for n in shared)
        return same and not any(_meet(array, other) for other in results)

    def _run_with_state(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        f = self.function
        if self._state is None:
            self._state = DeviceState(f.state_types(), self.device)
            self._bound = self.bind(self._state)
        state = self._state
        given = list(zip(f.arguments, f.roles, arrays, strict=True))
        state.load({v.name or "": a for v, role, a in given if role not in ("input", None)})
        outputs = iter(self._bound(*[a for _, role, a in given if role in ("input", None)]))
        new = state.__getitem__ if self.commits else state.next
        return tuple(
            new(m.of.name or "") if m is not None and m.kind == "update" else np.asarray(next(outputs)) for m in f.marks
        )

    # Bound to state

    def bind(self, state: Any) -> Bound:
        sides = [_Side(self, state) for _ in range(2 if self.commits else 1)]
        turn = 0

        def call(*given: Any) -> tuple[Any, ...]:
            nonlocal turn
            side, turn = sides[turn], (turn + 1) % len(sides)
            run = side.start(given)
            if not self.commits:
                return run.results(any(isinstance(a, DeviceArray) for a in given))
            return tuple([Pending(run, n) for n in range(len(self.program.results))])

        return call


def _meet(a: DeviceArray, b: DeviceArray) -> bool:
    """Whether two arrays share memory."""
    return a.address < b.address + b.nbytes and b.address < a.address + a.nbytes


class _Side:
    """Inputs, results and ready-made work of every second step: while one side runs, the other is prepared."""

    def __init__(self, executable: CudaExecutable, state: DeviceState) -> None:
        self.executable, self.state = executable, state
        device, program = executable.device, executable.program
        starts, end = _packed([v.type.nbytes for v in program.function.inputs()])
        self.inputs = executable.allocate(end)
        self.starts = starts
        self.host_inputs = device.pinned(end)
        self.views = [
            self.host_inputs[s : s + v.type.nbytes].view(v.type.dtype.numpy).reshape(v.type.array_shape)
            for s, v in zip(starts, program.function.inputs(), strict=True)
        ]
        sizes = [v.type.nbytes for v in program.memory.outputs]
        self.outputs = {
            f"output {n}": executable.allocate(size)
            for n, (ref, size) in enumerate(zip(program.results, sizes, strict=True))
            if ref.buffer == f"output {n}" and n not in executable.report_starts
        }
        self.host_report = device.pinned(executable.report_bytes)
        self.host_status = self.host_report[:STATUS_BYTES]
        self.host_results = {n: self.host_report[s : s + sizes[n]] for n, s in executable.report_starts.items()}
        self.besides = {n: device.pinned(sizes[n]) for n in executable.reported if n not in self.host_results}
        self.host_results.update(self.besides)
        device.wait(device.mark())  # what was done to this memory before: copies aside do not wait for it
        self.works: dict[tuple[int, bool], Callable[[], None]] = {}
        self.warm = False
        self.run: Run | None = None

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        """Pinned memory may be given to others at once: no copy must still reach it."""
        run = getattr(self, "run", None)
        if run is not None and run.mark is not None and not ending():
            self.executable.device.wait(run.mark)

    def memories(self) -> dict[str, Any]:
        """All buffers but those of the inputs, by name, for the current side of the state."""
        return {**self.executable.memories(self.state), **self.outputs}

    def start(self, given: Sequence[Any]) -> Run:
        """Begin a step, after the one before on this side, and after those of other programs: what stops them would not stop this one."""
        if self.run is not None:
            self.run.finish()
        for run in [r for r in self.state.under_way if r.side.executable is not self.executable]:
            run.finish()
        with Uninterrupted():
            return self._begin(given)

    def _begin(self, given: Sequence[Any]) -> Run:
        device = self.executable.device
        device.begin()
        there = [a for a in given if isinstance(a, DeviceArray)]
        aside = not there and len(self.host_inputs) > WITH_THE_STEP
        for start, view, array in zip(self.starts, self.views, given, strict=True):
            if isinstance(array, DeviceArray):
                device.copy(self.inputs, start, array.memory, array.offset, array.nbytes)
                continue
            np.copyto(view, array)
            if there:
                device.upload(self.inputs, start, self.host_inputs[start : start + view.nbytes])
        if aside:
            device.upload(self.inputs, 0, self.host_inputs, aside=True)
        self._work(not there and not aside)()
        device.hold(there)
        self.run = Run(self)
        if self.executable.commits:
            self.state.under_way = [r for r in self.state.under_way if r.mark is not None] + [self.run]
        return self.run

    def _work(self, uploads: bool) -> Callable[[], None]:
        """All launches of a step, with the copies before and after them; repeated work after the first time."""
        form = (self.state.current, uploads)
        if form in self.works:
            return self.works[form]
        executable, device = self.executable, self.executable.device
        memories = self.memories()
        addresses = {name: device.address(m) for name, m in memories.items()}
        begin = device.address(self.inputs)
        report = device.address(executable.report)
        addresses.update({f"output {n}": report + start for n, start in executable.report_starts.items()})
        addresses.update({f"input {n}": begin + start for n, start in enumerate(self.starts)})
        launches = executable.launches(addresses, beside=True)
        besides = [(self.where(executable.program.results[n]), target) for n, target in self.besides.items()]

        def work() -> None:
            if uploads:
                device.upload(self.inputs, 0, self.host_inputs)
            for launch in launches:
                launch()
            device.download(executable.report, 0, self.host_report)
            for (memory, offset), target in besides:
                device.download(memory, offset, target)

        if not self.warm:
            self.warm = True
            return work
        self.works[form] = device.repeated(work)
        return self.works[form]

    def where(self, ref: Ref) -> tuple[Any, int]:
        """The memory that a result lies in, and where it begins there."""
        kind, _, number = ref.buffer.partition(" ")
        if kind == "input":
            return self.inputs, ref.offset + self.starts[int(number)]
        if kind == "output" and int(number) in self.executable.report_starts:
            return self.executable.report, ref.offset + self.executable.report_starts[int(number)]
        return self.memories()[ref.buffer], ref.offset

    def collect(self, on_device: bool) -> tuple[Any, ...]:
        """The results of the run that is done, as arrays on the host or the device."""
        executable = self.executable
        found: list[Any] = []
        for n, (ref, v) in enumerate(zip(executable.program.results, executable.program.memory.outputs, strict=True)):
            type_ = v.type
            if n in self.host_results and not on_device:
                found.append(self.host_results[n].view(type_.dtype.numpy).reshape(type_.array_shape).copy())
            elif on_device:
                made = DeviceArray(executable.device, type_)
                executable.device.copy(made.memory, 0, *self.where(ref), type_.nbytes)
                found.append(made)
            else:
                out = np.empty(type_.array_shape, type_.dtype.numpy)
                executable.device.read(*self.where(ref), out)
                found.append(out)
        return tuple(found)


class Run:
    """A step under way, and then what it gave."""

    def __init__(self, side: _Side) -> None:
        self.side = side
        self.mark: Any = side.executable.device.mark()
        self.error: IRError | None = None
        self._found: tuple[Any, ...] = ()

    def finish(self, on_device: bool = False) -> None:
        """Wait, and raise what the step failed with: it changed nothing, and neither did those started after it."""
        if self.mark is None:
            return
        executable, state = self.side.executable, self.side.state
        executable.device.wait(self.mark)
        executable.device.hold(())
        self.mark = None
        self.error = executable.failure(self.side.host_status)
        if self.error is None:
            self._found = self.side.collect(on_device)
            return
        later = [r for r in state.under_way if r.mark is not None]
        self.error.behind = len(later)
        for run in later:
            executable.device.wait(run.mark)
            run.mark, run.error = None, self.error
        raise self.error

    def results(self, on_device: bool = False) -> tuple[Any, ...]:
        """The results, when they are there.  Raises what the step failed with."""
        with self.side.executable.lock:
            self.finish(on_device)
        if self.error is not None:
            raise self.error
        return self._found


class Pending:
    """A result of a step that may still be under way; reading it waits."""

    __slots__ = ("_number", "_run")

    def __init__(self, run: Run, number: int) -> None:
        self._run, self._number = run, number

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._run.results()[self._number], dtype)

    def __float__(self) -> float:
        return float(self._run.results()[self._number])


def _packed(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where arrays of these bytes begin in one piece of memory, and its end."""
    starts: list[int] = []
    end = 0
    for size in sizes:
        starts.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return starts, max(end, ALIGNMENT)
