"""Where the time of one run of a function goes: per instruction of its program, beside the program in one call.

A compiled program is taken apart with ``Executable.steps()``; the interpreter is timed op by op.  Every round runs all instructions in
order, so that each finds the caches as the others left them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from ..backends import Executable, get
from ..backends.base import Steps, compile_module, timed
from ..backends.eager import Interpreter
from ..backends.eager.interpret import Host
from ..backends.state import state_on
from ..ir import OPS, Function, Instruction, Location, Module, Value
from ..ir.op import Contract, Control, Gather, Source, View
from ..ir.types import Array
from ..passes.rewrite import splat_of

WARM_UP = 3
CALLS = 1000
"""Calls that do nothing, timed to know what timing costs."""
FEWEST, MOST = 5, 400
"""Rounds, however long or short one is."""


@dataclass(frozen=True)
class Timed:
    """One instruction of a program: the median seconds of its code, the ops in it and where they come from.

    ``flops`` counts a product's multiplications and additions; ``bytes`` are those of operands and results, each once.
    """

    kernel: str
    seconds: float
    ops: tuple[str, ...]
    locations: tuple[Location, ...]
    flops: int
    bytes: int

    @property
    def rate(self) -> float:
        """Operations per second of a product, bytes per second of anything else."""
        work = self.flops or self.bytes
        return work / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Profile:
    """The instructions of a program that have code, the slowest first, and what is around them.

    ``program`` is the program run in one call, copies of inputs and results included; ``call`` what the caller waits for, where that is
    known: Python around the program is the difference.
    """

    function: str
    kernels: tuple[Timed, ...]
    program: float
    call: float | None
    rounds: int
    apart: bool
    """Whether the program could be taken apart; else ``kernels`` is empty."""

    @property
    def total(self) -> float:
        """Seconds of all kernels together."""
        return sum(k.seconds for k in self.kernels)


def profile(
    module: Module,
    name: str,
    arrays: Sequence[Array],
    *,
    backend: str = "compiled",
    device: str = "cpu",
    numerics: str = "exact",
    call: Callable[[], Any] | None = None,
    seconds: float = 1.0,
) -> Profile:
    """Time one function of a module on ``arrays``, one for each argument.

    ``call`` is the same work as a user asks for it.  ``seconds`` is about how long each of the three measurements takes.  Raises
    ``BackendError`` where the backend cannot serve the function, and what running it raises.
    """
    program = compile_module(get(backend), module, name, device, {"numerics": numerics})
    steps: Steps | None
    if isinstance(program, Interpreter):
        steps = _OpByOp(program.function, module, program.on)
    else:
        steps = program.steps()
    kernels, rounds = ((), 0) if steps is None else _kernels(program, steps, arrays, seconds)
    whole = median(repeated(_whole(program, arrays, device), seconds))
    around = median(repeated(call, seconds)) if call is not None else None
    return Profile(name, kernels, whole, around, rounds, steps is not None)


def repeated(call: Callable[[], Any], seconds: float) -> list[float]:
    """The seconds of each of many calls, which take about ``seconds`` together, after a few that are not counted."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST or (len(times) < 4 * MOST and time.perf_counter() < end):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times


def _whole(program: Executable, arrays: Sequence[Array], device: str) -> Callable[[], Any]:
    """The program in one call on state of its own, which no call changes."""
    f = program.function
    state = state_on(device, f.state_types())
    given = list(zip(f.arguments, f.roles, arrays, strict=True))
    state.load({v.name or "": a for v, role, a in given if role not in ("input", None)})
    inputs = [a for _, role, a in given if role in ("input", None)]
    bound = program.bind(state)
    return lambda: bound(*inputs)


def _kernels(
    program: Executable, steps: Steps, arrays: Sequence[Array], seconds: float
) -> tuple[tuple[Timed, ...], int]:
    """The instructions that have code, timed in the order of the program, the slowest first; and how many rounds there were."""
    instructions, arguments = steps.function.instructions, steps.function.arguments
    clock, rounds = time.perf_counter, list[list[float]]()
    end = clock() + seconds
    with np.errstate(all="ignore"):
        while len(rounds) < WARM_UP + FEWEST or (len(rounds) < WARM_UP + MOST and clock() < end):
            for value, array in zip(arguments, arrays, strict=True):
                steps.write(value, array)
            rounds.append(steps.times(instructions))
    medians = [median(column) for column in zip(*rounds[WARM_UP:], strict=True)]
    free = {i for i in instructions if not _has_code(i, program, steps)}
    costless = None if isinstance(program, Interpreter) else next((i for i in instructions if i in free), None)
    cost = _cost_of_timing(steps, costless)
    listed = [
        _timed(program, steps, i, max(taken - cost, 0.0))
        for i, taken in zip(instructions, medians, strict=True)
        if i not in free
    ]
    return tuple(sorted(listed, key=lambda k: -k.seconds)), len(rounds) - WARM_UP


def _has_code(i: Instruction, program: Executable, steps: Steps) -> bool:
    return not isinstance(i.op, Source) and (steps.kernel(i) in program.kernels or not program.kernels)


def _nothing(i: Any) -> None:
    """What a call costs that does nothing."""


def _cost_of_timing(steps: Steps, free: Instruction | None) -> float:
    """Seconds that timing adds to an instruction: those of running one that has no code."""
    return median(timed(_nothing, [free] * CALLS) if free is None else steps.times([free] * CALLS))


def _timed(program: Executable, steps: Steps, i: Instruction, seconds: float) -> Timed:
    name = steps.kernel(i)
    ops = _ops(program, i, name)
    flops = _product(i.op, i) if isinstance(i.op, Contract) else 0
    return Timed(name, seconds, ops, i.location, flops, _bytes(i))


def _ops(program: Executable, i: Instruction, name: str) -> tuple[str, ...]:
    """The ops that a kernel runs, constants aside."""
    planned: Any = getattr(program, "module", None)
    if isinstance(i.op, Control) and isinstance(planned, Module):
        body = planned[i.attrs[i.op.bodies[0]]]
        return tuple(inner.op.name for inner in body.instructions if not isinstance(inner.op, Source))
    return tuple(entry for entry in program.kernels.get(name, ()) if entry in OPS) or (i.op.name,)


def _product(op: Contract, i: Instruction) -> int:
    """Multiplications and additions of a product."""
    left = i.operands[0].type.shape
    summed = left[-2] if i.attrs[op.transposes[0]] else left[-1]
    return 2 * i.result.type.size * summed


def _bytes(i: Instruction) -> int:
    """The bytes that an instruction has to read and write at least: of operands and results, each once.

    A view counts what it shows, at most its source; a number costs nothing; of what a gather chooses from, as much as it takes.
    """
    read: dict[Value, int] = {}
    for n, o in enumerate(i.operands):
        if splat_of(o) is not None:
            continue
        root, size = o, o.type.nbytes
        while root.owner is not None and isinstance(root.owner.op, View):
            root = root.owner.operands[0]
            size = min(size, root.type.nbytes)
        if isinstance(i.op, Gather) and n == 0:
            size = min(size, i.result.type.nbytes)
        read[root] = max(read.get(root, 0), size)
    return sum(read.values()) + sum(r.type.nbytes for r in i.results)


class _OpByOp(Steps):
    """The interpreter's steps: each op on the arrays of those before it."""

    def __init__(self, function: Function, module: Module | None, on: Host) -> None:
        self.function, self._module, self._on = function, module, on
        self._known: dict[Value, Any] = {}

    def write(self, value: Value, array: Array) -> None:
        self._known[value] = self._on.array(array)

    def read(self, value: Value) -> Array:
        return np.asarray(self._known[value])

    def run(self, i: Instruction) -> None:
        arrays = self._on.run(i, [self._known[o] for o in i.operands], self._module)
        self._on.wait()
        self._known.update(zip(i.results, arrays, strict=True))

    def kernel(self, i: Instruction) -> str:
        return i.op.name
