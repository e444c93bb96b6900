"""What a program was recorded from: that recording it again gives the same program, and what changed since.

A compiled program holds the Python values that ``forward`` met while it was recorded.  Attributes of modules are followed: assigning
one records again.  Numbers that differ between two recordings, such as draws of NumPy's generators, are an error.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import FrameType
from typing import Any, ClassVar, cast

import numpy as np

from ..frontend.nn import Module
from ..frontend.nn.module import Declared, assigned_at
from ..frontend.tensor import Operators
from ..ir import Function, Instruction, TraceError, Value
from ..ir.graph import location
from ..ir.literal import Literal
from ..ir.source import is_library

DRAW = "  remedy: tp.ops.random_normal, tp.ops.random_uniform and tp.ops.dropout draw anew in each step, from the runtime's seed"
KEEP = (
    "  remedy: make a number that changes an input of the model, an nn.Buffer or an attribute of a module; "
    "compute one that does not change in __init__"
)
LONG = 0.2
"""Seconds for which a thread may keep the interpreter while it looks for a draw."""
PLAIN: tuple[type[Any], ...] = (bool, int, float, complex, str, bytes, Enum, np.generic, type(None))


@dataclass(frozen=True)
class Difference:
    """The first op in which two recordings differ; either is None where one recording ends before the other."""

    earlier: Instruction | None
    later: Instruction | None

    def __str__(self) -> str:
        if self.earlier is None or self.later is None:
            longer = self.later or self.earlier
            return f"{longer.op.name if longer else 'a result'} is recorded in one of two recordings"
        if self.earlier.op is not self.later.op:
            return f"{self.earlier.op.name} is recorded first, and then {self.later.op.name} in its place"
        for name, was in self.earlier.attrs.items():
            now = self.later.attrs.get(name)
            if was != now:
                return f"{self.earlier.op.name} has {name} = {_shown(was)} at first, and then {_shown(now)}"
        return f"{self.earlier.op.name} has other operands when it is recorded again"

    def error(self, what: str, remedy: str = KEEP) -> TraceError:
        """The error at the user's line; ``what`` says which recordings differ."""
        at = self.later or self.earlier
        return TraceError(f"{what}: {self}\n{remedy}", at.location if at else ())


def _shown(value: Any) -> str:
    if not isinstance(value, Literal):
        return str(value)
    if value.is_splat:
        return str(value.scalar)
    elements = value.data.reshape(-1)[:3].tolist()
    return f"[{', '.join(map(str, elements))}, ...]"


def difference(earlier: Function, later: Function, prefix: bool = False) -> Difference | None:
    """The first difference of two recorded functions, op by op in order; None where there is none.

    With ``prefix``, ``later`` may record less: what comes after its last op is not compared, nor are results.
    """
    numbers: tuple[dict[Value, object], dict[Value, object]] = ({}, {})
    for function, known in zip((earlier, later), numbers, strict=True):
        known.update({v: (role, v.name) for v, role in zip(function.arguments, function.roles, strict=True)})
    for n, (a, b) in enumerate(zip(earlier.instructions, later.instructions, strict=False)):
        if not _same(a, b, *numbers):
            return Difference(a, b)
        for known, i in zip(numbers, (a, b), strict=True):
            known.update({v: (n, at) for at, v in enumerate(i.results)})
    most, least = len(earlier.instructions), len(later.instructions)
    if least > most or (most > least and not prefix):
        longer = earlier if most > least else later
        found = longer.instructions[min(most, least)]
        return Difference(found, None) if longer is earlier else Difference(None, found)
    if not prefix:
        results = [[known[v] for v in f.results] for f, known in zip((earlier, later), numbers, strict=True)]
        if results[0] != results[1]:
            return Difference(None, None)
    return None


def _same(a: Instruction, b: Instruction, first: Mapping[Value, object], second: Mapping[Value, object]) -> bool:
    return (
        a.op is b.op
        and len(a.operands) == len(b.operands)
        and all(first[x] == second[y] for x, y in zip(a.operands, b.operands, strict=True))
        and a.attrs == b.attrs
        and [r.type for r in a.results] == [r.type for r in b.results]
    )


# Draws of generators that are not the program's


def generator_states() -> tuple[Any, ...]:
    """The states of Python's and NumPy's global generators, comparable."""
    numpy = np.random.get_state(legacy=False)
    words = numpy["state"]
    return random.getstate(), words["pos"], words["key"].tobytes(), numpy["has_gauss"], numpy["gauss"]


class _Undisturbed:
    """Inside the block of a ``with`` other threads, which may draw too, get the interpreter only after ``LONG`` or where this one waits."""

    _lock: ClassVar = threading.Lock()
    _inside: ClassVar = 0
    _before: ClassVar = 0.0

    def __enter__(self) -> None:
        kind = type(self)
        with kind._lock:
            if not kind._inside:
                kind._before = sys.getswitchinterval()
            kind._inside += 1
            sys.setswitchinterval(LONG)
        time.sleep(0)  # who waits for the interpreter now waits for less than LONG
        generators: Any = np.random  # its stubs lack get_bit_generator
        self._numpy: Any = generators.get_bit_generator().lock
        self._numpy.acquire()

    def __exit__(self, *_: object) -> None:
        kind = type(self)
        self._numpy.release()
        with kind._lock:
            kind._inside -= 1
            if not kind._inside:
                sys.setswitchinterval(kind._before)


def repeatable(made: Function, again: Callable[[], Function], name: str) -> Function:
    """What was recorded, after recording it ``again``, or its first ops alone, gave the same ops.

    Raises ``TraceError`` where they differ, or where recording drew from a global generator.
    """
    before = generator_states()
    found = difference(made, again(), prefix=True)
    if found is not None or generator_states() != before:
        refuse(found, again, name)
    return made


def refuse(found: Difference | None, again: Callable[[], Function], name: str) -> None:
    """Raise ``TraceError`` for a recording that draws from a global generator, or differs from another one."""
    line = drawing_line(again)
    if line is not None:
        message = f"{name} draws from a generator of NumPy or Python; a program that is recorded once would repeat the numbers"
        raise TraceError(f"{message}\n{DRAW}", location(*line, ""))
    if found is not None:
        raise found.error(f"two recordings of {name} differ", f"{DRAW}\n{KEEP}")


def drawing_line(record: Callable[[], object]) -> tuple[str, int] | None:
    """The user's line that moves a global generator while ``record`` runs; None where none does.

    Other threads may draw at the same time, so a line counts if it is found twice.
    """
    first = _watched(record)
    return first if first is not None and first == _watched(record) else None


def _watched(record: Callable[[], object]) -> tuple[str, int] | None:
    """The user's line after which a global generator had moved for the first time."""
    found: list[tuple[str, int]] = []
    running: tuple[str, int] | None = None
    state: tuple[Any, ...] = ()

    def moved() -> bool:
        return not found and running is not None and generator_states() != state

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal running
        if is_library(frame):
            return None
        if running is not None and moved():
            found.append(running)
        running = (frame.f_code.co_filename, frame.f_lineno)
        return trace

    before = sys.gettrace()
    with _Undisturbed():
        state = generator_states()
        sys.settrace(trace)
        try:
            record()
        finally:
            sys.settrace(before)
        if running is not None and moved():
            found.append(running)
    return found[0] if found else None


# Attributes of modules


class Attributes:
    """The plain attributes of a model's modules, by path and name, as they were at one time."""

    def __init__(self, model: Module) -> None:
        self.values: dict[str, tuple[Any, Module, str]] = {}
        for path, item in model.walk():
            if isinstance(item, Module):
                for name, value in vars(item).items():
                    if name not in Module.INTERNAL and not isinstance(value, (Module, Operators)):
                        self.values[f"{path}.{name}" if path else name] = (_kept(value), item, name)

    def changes(self, model: Module) -> list[str]:
        """What is different in the model now: each attribute with its two values and the line that assigned it."""
        now = Attributes(model).values
        missing = (None, model, "")
        found: list[str] = []
        for path in {**self.values, **now}:
            (was, _, _), (value, module, name) = self.values.get(path, missing), now.get(path, missing)
            if path not in now or path not in self.values or not _equal(was, value):
                line = assigned_at(module, name)
                at = f" (assigned at {line[0]}:{line[1]})" if line else ""
                found.append(f"{path} was {_brief(was)} and is {_brief(value)}{at}")
        return found


def _kept(value: Any, above: tuple[int, ...] = ()) -> Any:
    """A value as it is now: containers are copied, because they change in place; one that holds itself ends there."""
    if id(value) in above:
        return None
    below = (*above, id(value))
    if isinstance(value, dict):
        return {k: _kept(v, below) for k, v in cast(dict[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_kept(v, below) for v in cast(Sequence[Any], value)]
    return value


def _equal(a: object, b: object) -> bool:
    if a is b or _equal_plain(a, b):
        return True
    if isinstance(a, dict) and isinstance(b, dict):
        first, second = cast(dict[Any, Any], a), cast(dict[Any, Any], b)
        return first.keys() == second.keys() and all(_equal(v, second[k]) for k, v in first.items())
    if isinstance(a, list) and isinstance(b, list):
        pair = cast(tuple[list[Any], list[Any]], (a, b))
        return len(pair[0]) == len(pair[1]) and all(map(_equal, *pair))
    return False


def _equal_plain(a: object, b: object) -> bool:
    """By type and text, because 1 == True and 0.0 == -0.0."""
    return isinstance(a, PLAIN) and type(a) is type(b) and repr(a) == repr(b)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def replaced(before: Mapping[str, Declared | Module], model: Module) -> TraceError | None:
    """The error of a model in which a parameter, buffer or module is not the one that a runtime was made with."""
    now = dict(model.walk())
    for path in {**before, **now}:
        if before.get(path) is now.get(path):
            continue
        happened = "added" if path not in before else "removed" if path not in now else "replaced"
        owner, _, name = path.rpartition(".")
        holder = now.get(owner)
        line = assigned_at(holder, name) if isinstance(holder, Module) else None
        kind = type(now.get(path) or before[path]).__name__
        return TraceError(
            f"{kind} {path} was {happened} after the runtime was made; a runtime owns the state it found then\n"
            "  remedy: make a new Runtime, and give it the state that stays with load_state",
            location(*line, "") if line else (),
        )
    return None


def note_again(function: str, changes: Sequence[str], times: int) -> None:
    """Say on standard error why a program is compiled again; of many times only some."""
    if times > 3 and str(times).strip("0") != "1":
        return
    why = "; ".join(changes[:3]) + (f"; and {len(changes) - 3} more" if len(changes) > 3 else "")
    print(f"recording @{function} again: {why}", file=sys.stderr)
    if times >= 3:
        print(f"  {times} programs were recorded again so far, each compiled anew\n{KEEP}", file=sys.stderr)
