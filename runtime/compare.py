"""Where a compiled program and the tape part: kernel by kernel, on the tape's values, beside a float64 reference.

The program runs unchanged, one kernel at a time.  Each kernel's operands are what the tape holds for the values that they stand for;
values that only a pass made are computed by the interpreter.  So the first kernel whose results differ is the one at fault, or the pass
that made it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from ..backends.base import Backend, Executable, Steps, compile_module, get
from ..backends.compiled.memory import Memory, Ref
from ..backends.eager import host_or
from ..backends.eager.interpret import values_of
from ..ir import Function, Instruction, IRError, Location, Module, Value
from ..ir.errors import BackendError
from ..ir.op import Composite, Contract, Control, Join, Reduce, Scatter, Source, View
from ..ir.print import Names, instruction
from ..ir.types import Array, key
from ..passes import Provenance
from .ir_file import checked, result_names
from .reference import grade, same_bits, ulp_apart, ulp_from, wide, wide_values

GRADES = ("none", "rounding", "real")
FAILURES = (IRError, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a program may raise, and what a wrong pass or target may."""
T = TypeVar("T")


@dataclass(frozen=True)
class Gap:
    """How one array of the program differs from the tape's.

    ``ulp`` is the largest distance of two elements, at ``index``, where the two sides and the float64 reference are given;
    ``nearer`` says which side the reference is closer to.
    """

    grade: str
    ulp: float = 0.0
    index: tuple[int, ...] = ()
    tape: Any = None
    program: Any = None
    reference: float | None = None

    @property
    def nearer(self) -> str:
        """``tape``, ``program`` or ``neither``."""
        if self.reference is None:
            return "neither"
        distance = [abs(float(x) - self.reference) for x in (self.tape, self.program)]
        if np.isnan(self.reference) or distance[0] == distance[1]:
            return "neither"
        return "tape" if np.isnan(distance[1]) or distance[0] < distance[1] else "program"


@dataclass(frozen=True)
class Finding:
    """The first kernel whose results differ, and the op inside it.

    ``made_by`` is the pass that made the kernel's op, or ``traced``.  ``fault`` is ``pass`` where the IR itself computes something else
    than the traced one, ``program`` where the generated code does, and ``memory`` where a value was overwritten.
    """

    kernel: str
    op: str
    made_by: str
    fault: str
    gap: Gap
    location: tuple[Location, ...]
    inside: str = ""


@dataclass(frozen=True)
class Result:
    """One result of the function: the gap, and the largest distance of each side from float64, in ulp."""

    name: str
    gap: Gap
    tape_ulp: float
    program_ulp: float


@dataclass
class Comparison:
    """What ``compare`` found: the results of both sides, the first kernel that differs, or the errors raised."""

    grade: str
    results: list[Result] = field(default_factory=list[Result])
    finding: Finding | None = None
    errors: tuple[str | None, str | None] = (None, None)
    kernels: int = 0

    @property
    def kind(self) -> tuple[str, ...]:
        """What sort of failure it is: two comparisons of one kind show the same fault."""
        found = self.finding
        if found is not None:
            return self.grade, found.fault, found.made_by
        return self.grade, *((error or "").partition(":")[0] for error in self.errors)


def gap(tape: Array, program: Array, reference: Array | None, scale: float = 0.0) -> Gap:
    """How two arrays differ, worst element first."""
    found = grade(tape, program, scale)
    if found == "none":
        return Gap(found)
    if tape.dtype.kind in "fV":
        apart = ulp_apart(tape, program)
        # Zeros of two signs are no step apart.
        worst = np.where(apart == 0, np.signbit(tape) != np.signbit(program), apart)
    else:
        apart = worst = np.asarray(tape != program).astype(np.float64)
    index = tuple(int(n) for n in np.unravel_index(int(np.argmax(worst)), tape.shape))
    known = float(reference[index]) if reference is not None and tape.dtype.kind in "fV" else None
    return Gap(found, float(apart[index]), index, tape[index].item(), program[index].item(), known)


def compare(
    module: Module,
    name: str,
    arrays: Mapping[str, Array] | Sequence[Array],
    *,
    backend: str = "compiled",
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> Comparison:
    """Run one function on the tape and on a backend, and find where they part.  Nothing is changed.

    ``arrays`` are the arguments, by name or in order; raises ``DataError`` where they do not fit.
    """
    function, chosen, provenance = module[name], get(backend), Provenance()
    given = checked(function, arrays)
    tape, error = _attempt(lambda: values_of(function, given, module, host_or(device)))
    program, other = _attempt(
        lambda: compile_module(chosen, module, function.name, device, {"provenance": provenance, **(options or {})})
    )
    results = None
    if program is not None:
        results, other = _attempt(lambda: program.run(given))
    if tape is None or program is None or results is None:
        if error is None and other is None:
            other = f"{chosen.name} gave no results"
        return Comparison("none" if error == other else "real", errors=(error, other))
    done = Comparison("none", list(_results(function, tape, results, wide_values(function, given, module))))
    steps = program.steps()
    if steps is None:
        done.finding = _whole(chosen, device, module, function, tape, results)
    else:
        done.kernels = len(program.kernels)
        done.finding = _Search(chosen, device, function, module, tape, provenance, program, steps).first()
        if done.finding is None and any(r.gap.grade != "none" for r in done.results):
            done.finding = _overwritten(steps, given, function, tape, provenance)
    differs = any(r.gap.grade != "none" for r in done.results)
    vague = done.finding.made_by == "fuse" if done.finding is not None else differs
    if vague and not (options or {}).get("unfused"):
        apart = {**(options or {}), "unfused": True}  # op by op, a rewrite before fusion shows by itself
        done.finding = (
            compare(module, name, arrays, backend=backend, device=device, options=apart).finding or done.finding
        )
    grades = [r.gap.grade for r in done.results] + ([done.finding.gap.grade] if done.finding is not None else [])
    done.grade = max(grades, key=GRADES.index, default="none")
    return done


def _attempt(run: Callable[[], T]) -> tuple[T | None, str | None]:
    """What a call gives, or what it raises; a backend that does not serve the function is no difference and raises."""
    try:
        return run(), None
    except BackendError:
        raise
    except FAILURES as error:
        return None, f"{type(error).__name__}: {error}"


def _results(
    function: Function, tape: Mapping[Value, Array], results: Sequence[Array], reference: Mapping[Value, Array]
) -> Iterator[Result]:
    for name, value, array in zip(result_names(function), function.results, results, strict=True):
        floating = value.type.dtype.floating and value.type.size
        sides = [float(ulp_from(x, reference[value]).max()) if floating else 0.0 for x in (tape[value], array)]
        yield Result(name, gap(tape[value], array, reference[value]), sides[0], sides[1])


def _scale(i: Instruction, arrays: Sequence[Array]) -> float:
    """The size of the terms that an op adds up; 0 for an op that adds none."""
    op = i.op
    if not isinstance(op, (Reduce, Contract, Scatter, Composite, Control)):
        return 0.0
    with np.errstate(all="ignore"):
        largest = [float(np.max(np.abs(a.astype(np.float64)), initial=0.0)) for a in arrays if a.dtype.kind in "fV"]
    largest = [x for x in largest if np.isfinite(x)]
    return float(np.prod(largest)) if isinstance(op, Contract) else max(largest, default=0.0)


class _Search:
    """Runs a program's kernels in order until one differs."""

    def __init__(
        self,
        backend: Backend,
        device: str,
        function: Function,
        module: Module,
        tape: Mapping[Value, Array],
        provenance: Provenance,
        program: Executable,
        steps: Steps,
    ) -> None:
        self.backend, self.device, self.on = backend, device, host_or(device)
        self.module, self.tape, self.provenance, self.steps = module, tape, provenance, steps
        self.planned: Module | None = getattr(program, "module", None)
        self.names = Names(steps.function)
        self.standing: dict[Value, list[Value]] = {}
        for v in function.values():
            self.standing.setdefault(provenance.now(v), []).append(v)
        for v, traced in zip(steps.function.results, function.results, strict=True):
            if traced not in self.standing.setdefault(v, []):
                self.standing[v].append(traced)
        self.traced = {v: stands[0] for v, stands in self.standing.items()}
        """What a value of the program stands for in the traced function."""
        self.memory = Memory(steps.function).everywhere()
        self.expected: dict[Value, Array] = {}
        for v in steps.function.arguments:
            self.expected[v] = tape[self.traced[v]]

    def first(self) -> Finding | None:
        """The first kernel that really differs, or else the first that rounds otherwise."""
        first: Finding | None = None
        for i in self.steps.function.instructions:
            found = self._kernel(i) or self._merged(i)
            if found is not None and (found.gap.grade == "real" or found.fault == "memory"):
                return found
            first = first or found
        return first

    def _merged(self, i: Instruction) -> Finding | None:
        """A value that stands for several traced ones that are not equal."""
        for r in i.results:
            standing = self.standing.get(r, [])
            first = standing[0] if standing else None
            for v in standing[1:]:
                if first is not None and not same_bits(self.tape[v], self.tape[first]):
                    difference = gap(self.tape[v], self.tape[first], None)
                    made_by = self.provenance.last_pass(v) or "traced"
                    at = v.owner.location if v.owner is not None else i.location
                    text = instruction(i, self.names)
                    return Finding(_kernel_name(i, self.steps), text, made_by, "pass", difference, at)
        return None

    def _kernel(self, i: Instruction) -> Finding | None:
        operands = [self.expected[o] for o in i.operands]
        for o, array in zip(i.operands, operands, strict=True):
            self.steps.write(o, array)
        for o, array in zip(i.operands, operands, strict=True):
            if not same_bits(array, self.steps.read(o)):
                shared = f"{self.names.of[o]} at {o.place} shares its memory with another operand"
                return self._finding(i, "memory", gap(array, self.steps.read(o), None), shared)
        body: dict[Value, Array] | None = None
        kernel = self._body(i)
        if kernel is not None:
            body = values_of(kernel, operands, self.planned, self.on)
            interpreted = tuple([body[v] for v in kernel.results])
        else:
            with np.errstate(all="ignore"):
                given = list(map(self.on.array, operands))
                interpreted = tuple([np.asarray(a) for a in self.on.run(i, given, self.planned)])
        try:
            self.steps.run(i)
        except IRError as error:
            return self._finding(i, "program", Gap("real"), f"raised {error.message.splitlines()[0]}")
        for r, computed in zip(i.results, interpreted, strict=True):
            origin = self.traced.get(r)
            self.expected[r] = self.tape[origin] if origin is not None else computed
        for r, computed in zip(i.results, interpreted, strict=True):
            origin, wanted = self.traced.get(r), self.expected[r]
            got = self.steps.read(r)
            if isinstance(i.op, Join) and [self._start(r)] == [self._start(o) for o in i.operands]:
                # Padding that only the lanes of an update meet: it is not written, and what they make of it is not read.
                wanted = self.expected[r] = np.concatenate([operands[0], got[operands[0].size :]])
            if same_bits(wanted, got):
                continue
            reference = self._reference(origin, i, i.results.index(r), operands)
            difference = gap(wanted, got, reference, _scale(i, operands))
            if same_bits(computed, got):
                return self._finding(i, "pass", difference)
            return self._finding(i, "program", difference, self._inside(kernel, body))
        return None

    def _start(self, v: Value) -> tuple[str, int] | Value:
        """Where a value's memory begins; a value without a place stands for itself."""
        ref = self.memory.refs.get(v)
        return (ref.buffer, ref.window()[0]) if isinstance(ref, Ref) else v

    def _body(self, i: Instruction) -> Function | None:
        if isinstance(i.op, Control) and self.planned is not None:
            return self.planned[i.attrs[i.op.bodies[0]]]
        return None

    def _reference(self, origin: Value | None, i: Instruction, n: int, operands: Sequence[Array]) -> Array:
        """The op's meaning in float64 on the tape's operands: of the traced op where the value stands for one."""
        if origin is not None and origin.owner is not None:
            i, n = origin.owner, origin.owner.results.index(origin)
            operands, module = [self.tape[o] for o in i.operands], self.module
        else:
            module = self.planned
        widened = [
            a.astype(np.float64) if o.type.dtype.floating else a for o, a in zip(i.operands, operands, strict=True)
        ]
        return wide(i, widened, module)[n]

    def _finding(self, i: Instruction, fault: str, difference: Gap, inside: str = "") -> Finding:
        origins = [self.traced[r] for r in i.results if r in self.traced]
        replaced = next(filter(None, map(self.provenance.last_pass, origins)), "traced")
        made_by = "plan" if fault == "memory" else self.provenance.made_by.get(i, replaced)
        kernel, text = _kernel_name(i, self.steps), instruction(i, self.names)
        return Finding(kernel, text, made_by, fault, difference, i.location, inside)

    def _inside(self, kernel: Function | None, body: Mapping[Value, Array] | None) -> str:
        """The op of a kernel's body whose code, compiled alone, gives another result."""
        if kernel is None or body is None:
            return ""
        return _op_that_differs(self.backend, self.device, kernel, self.planned, body)[0]


def _kernel_name(i: Instruction, steps: Steps) -> str:
    return f"@{i.attrs[i.op.bodies[0]]}" if isinstance(i.op, Control) else steps.kernel(i)


def _single(i: Instruction, module: Module | None) -> Module:
    """A module of one function of one op."""
    arguments = [Value(o.type, f"x{n}") for n, o in enumerate(i.operands)]
    alone = Instruction(i.op, tuple(arguments), i.attrs, [r.type for r in i.results], i.location)
    function = Function(
        "main", arguments, ["input"] * len(arguments), [alone], list(alone.results), [None] * len(alone.results)
    )
    others = [f.clone() for f in module if f.name != "main"] if module is not None and isinstance(i.op, Control) else []
    return Module("single", [function, *others])


def _op_that_differs(
    backend: Backend, device: str, function: Function, module: Module | None, values: Mapping[Value, Array]
) -> tuple[str, Instruction | None, Gap | None]:
    """The first op of a function that, compiled alone, really differs from the interpreter on the same operands, or else the first that
    rounds otherwise.
    """
    names = Names(function)
    first: tuple[str, Instruction | None, Gap | None] = "", None, None
    for i in function.instructions:
        if isinstance(i.op, (Source, View)) or any(v.type.dtype is key for v in i.results):
            continue
        operands = [values[o] for o in i.operands]
        results = compile_module(backend, _single(i, module), "main", device).run(operands)
        for r, got in zip(i.results, results, strict=True):
            if not same_bits(values[r], got):
                reference = wide(i, [a.astype(np.float64) if a.dtype.kind in "fV" else a for a in operands], module)
                difference = gap(values[r], got, reference[i.results.index(r)], _scale(i, operands))
                found = instruction(i, names), i, difference
                if difference.grade == "real":
                    return found
                first = first if first[1] is not None else found
    return first


def _whole(
    backend: Backend,
    device: str,
    module: Module,
    function: Function,
    tape: Mapping[Value, Array],
    results: Sequence[Array],
) -> Finding | None:
    """For a program that cannot be taken apart: each op compiled alone."""
    if all(same_bits(tape[v], a) for v, a in zip(function.results, results, strict=True)):
        return None
    text, i, difference = _op_that_differs(backend, device, function, module, tape)
    if i is None or difference is None:
        n = next(n for n, v in enumerate(function.results) if not same_bits(tape[v], results[n]))
        value = function.results[n]
        at = value.owner.location if value.owner is not None else ()
        text, difference = "", gap(tape[value], results[n], None)
        return Finding(f"@{function.name}", f"result {n}", "traced", "program", difference, at, "no op alone differs")
    return Finding(f"@{function.name}", text, "traced", "program", difference, i.location)


def _overwritten(
    steps: Steps, arrays: Sequence[Array], function: Function, tape: Mapping[Value, Array], provenance: Provenance
) -> Finding | None:
    """Every kernel is right on the tape's values, and the results are not: the value that was overwritten before it was read."""
    traced = {provenance.now(v): v for v in function.values()}
    names = Names(steps.function)
    for v, array in zip(steps.function.arguments, arrays, strict=True):
        steps.write(v, array)
    for i in steps.function.instructions:
        for o in i.operands:
            if o in traced and not same_bits(tape[traced[o]], steps.read(o)):
                difference = gap(tape[traced[o]], steps.read(o), None)
                place = f"{names.of[o]} at {o.place} was overwritten before this read it"
                made_by = "plan" if o.place is not None else "traced"
                return Finding(
                    _kernel_name(i, steps),
                    instruction(i, names),
                    made_by,
                    "memory",
                    difference,
                    i.location,
                    place,
                )
        steps.run(i)
    for n, v in enumerate(steps.function.results):
        if v in traced and not same_bits(steps.read(v), tape[traced[v]]):
            difference = gap(tape[traced[v]], steps.read(v), None)
            return Finding("return", names.of[v], "plan", "memory", difference, (), f"result {n} was overwritten")
    return None
