"""Golden cases of passes: reading, running (execution is compared before text) and rewriting them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tapeir.backends.eager import Interpreter
from tapeir.backends.eager.interpret import run_instruction
from tapeir.ir import DTYPES, Function, Instruction, IRError, Module, TensorType, Value, parse
from tapeir.ir.op import Join, View
from tapeir.ir.types import Array, f32, key
from tapeir.passes import PASSES, PassManager
from tapeir.passes.manager import Keeps, keeps_none
from tapeir.passes.plan import state_layout

FOLDER = Path(__file__).parent
UNCHANGED = "UNCHANGED"
TRIALS = 4
_SPECIAL = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -3e-39, 5e-324, 6e-8, 3e38, 1e300)

KEEPS: dict[str, Keeps] = {"compose": lambda i: i.results[0].type.dtype is f32}
"""What the target of a pass's cases computes whole; else nothing."""

Outcome = tuple[Array, ...] | tuple[str, str]


@dataclass(frozen=True)
class Case:
    """A module's text, and what the pass makes of it: a module, ``UNCHANGED`` or ``ERROR "substring"``."""

    name: str
    source: str
    expect: str

    def __str__(self) -> str:
        return f"// CASE {self.name}\n{self.source}\n// EXPECT\n{self.expect}\n"


class ExecutionError(AssertionError):
    """A pass changed what a program computes: no expectation can make that right."""


def read(path: Path) -> tuple[str, list[Case]]:
    """The text before the first case, and the cases; raises ``ValueError`` for one without an expectation."""
    head, *parts = re.split(r"^// CASE ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    cases: list[Case] = []
    for part in parts:
        name, _, body = part.partition("\n")
        source, mark, expect = body.partition("// EXPECT\n")
        if not mark:
            raise ValueError(f"{path.name}: case {name!r} has no // EXPECT line")
        cases.append(Case(name.strip(), source.strip("\n"), expect.strip("\n")))
    names = [c.name for c in cases]
    if len(set(names)) != len(names):
        raise ValueError(f"{path.name}: a case name appears twice")
    return head, cases


def write(path: Path, head: str, cases: list[Case]) -> None:
    """Write a golden file."""
    path.write_text(head + "\n".join(map(str, cases)), encoding="utf-8")


def accept(path: Path, name: str, expect: str) -> None:
    """Rewrite the expectation of one case."""
    head, cases = read(path)
    write(path, head, [replace(c, expect=expect) if c.name == name else c for c in cases])


def _array(random: np.random.Generator, type: TensorType, trial: int) -> Array:
    shape, dtype = type.array_shape, type.dtype
    if dtype is key:
        return random.integers(0, 1 << 32, shape, dtype=np.uint32)
    if dtype.kind == "b":
        return np.asarray(random.integers(0, 2, shape)).astype(np.bool_)
    if dtype.integer:
        info = np.iinfo(dtype.numpy)
        if trial < 2:  # small enough to index with
            return np.asarray(random.integers(0, 2, shape)).astype(dtype.numpy)
        low, high = (max(info.min, -9), 10) if trial == 2 else (info.min, int(info.max))
        return np.asarray(random.integers(low, high, shape, dtype=dtype.numpy))
    x = np.asarray(random.standard_normal(shape) * 10.0 ** random.integers(-2, 3, shape))
    if trial % 2:
        x = np.where(random.random(shape) < 0.4, random.choice(_SPECIAL, shape), x)
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype.numpy)


def inputs(function: Function, trial: int) -> list[Array]:
    """Seeded arguments of a function; odd trials hold infinities, NaN, signed zeros and denormals."""
    random = np.random.default_rng([2024, trial])
    return [_array(random, v.type, trial) for v in function.arguments]


def entries(module: Module) -> list[str]:
    """Names of the functions that no other one calls."""
    called = set[str]().union(*[f.symbols() for f in module])
    return [f.name for f in module if f.name not in called]


def execute(module: Module, name: str, arrays: list[Array]) -> Outcome:
    """The results of a function in the interpreter, or the kind of error that it raises and what it says."""
    try:
        results: Any = Interpreter(module[name], module)(*arrays)
    except IRError as error:
        return type(error).__name__, str(error)
    return results if isinstance(results, tuple) else (results,)  # pyright: ignore[reportUnknownVariableType]


def same_bits(a: Any, b: Any) -> bool:
    """Bitwise equality, every NaN equal; of error outcomes, equality."""
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a == b
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind in "fV":
        a, b = (np.where(np.isnan(x), np.asarray(np.nan, x.dtype), x) for x in (a, b))
    return a.tobytes() == b.tobytes()


def equal(a: Outcome, b: Outcome) -> bool:
    """Whether two runs gave the same."""
    return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b, strict=True))


def runs(before: Module) -> Iterator[tuple[str, list[Array], Outcome]]:
    """Every entry with its arguments and what it gives, for every trial."""
    for name in entries(before):
        for trial in range(TRIALS):
            arrays = inputs(before[name], trial)
            yield name, arrays, execute(before, name, arrays)


def transform(name: str, module: Module) -> Module:
    """A copy of a module after one pass, under the manager's strict checks."""
    keeps = KEEPS.get(name, keeps_none)
    manager = PassManager(PASSES, strict=True, evaluate=run_instruction, keeps=keeps)
    return manager.run(module.clone(), [name])


def outcome(name: str, source: str) -> tuple[str, Module | None]:
    """What a pass makes of a module, as an expectation's text, and the module; an error's text is its message.

    Raises ``ExecutionError`` where the module computes something else than before.
    """
    try:
        before = parse(source).verify()
        expected = [(entry, arrays, result) for entry, arrays, result in runs(before)]
        after = transform(name, before)
    except IRError as error:
        return f"ERROR {json.dumps(error.message)}", None
    for entry, arrays, result in expected:
        now = execute(after, entry, arrays)
        if not equal(result, now):
            raise ExecutionError(f"@{entry} of {arrays} gave {result}, and after {name} {now}\n{after}")
    text = str(after)
    return (UNCHANGED if text == str(before) else text.strip("\n")), after


def fits(expect: str, actual: str) -> bool:
    """Whether an expectation holds; of an error it gives a part of the message."""
    if expect.startswith("ERROR "):
        return actual.startswith("ERROR ") and json.loads(expect[6:]) in json.loads(actual[6:])
    return expect == actual


class Memory:
    """What each byte of a planned function's memory holds, by the value that wrote it."""

    def __init__(self, function: Function) -> None:
        self.slots = state_layout({v.name or "": v.type for v, _ in function.state()})
        self.bytes: dict[str, dict[int, Value]] = {"arena": {}, "state": {}, "next": {}, "caller": {}}
        self.given = 0
        self.size = int(function.attrs.get("arena", 0))
        self.at: dict[Value, tuple[str, int, int]] = {}
        self.writer: dict[Value, Value] = {}

    def slot(self, of: Value) -> int:
        """Where a state buffer begins; the dtypes' buffers are kept apart by a large stride."""
        slot = self.slots[of.name or ""]
        return slot.offset + (list(DTYPES).index(slot.dtype.name) << 32)

    def place(self, v: Value) -> None:
        """Find out where a value lies, and write it there unless it is a view of what is there already."""
        if v.place is None:
            return
        op = v.owner.op if v.owner is not None else None
        kind, offset, of = v.place
        self.writer[v] = v
        if kind == "arena":
            assert offset + v.type.nbytes <= self.size, f"{v!r} lies outside the arena"
            self.at[v] = ("arena", offset, v.type.nbytes)
        elif kind == "caller":
            self.at[v] = ("caller", self.given, v.type.nbytes)
            self.given += v.type.nbytes
        elif kind == "state":
            assert of is not None
            space = "state" if op is None or isinstance(op, Join) else "next"
            self.at[v] = (space, self.slot(of) + offset, v.type.nbytes)
            if isinstance(op, Join):
                return
        else:
            assert of is not None
            if of not in self.at:
                return
            self.at[v] = self.at[of]
            if isinstance(op, View):
                self.writer[v] = self.writer[of]
                return
        space, start, size = self.at[v]
        self.bytes[space].update(dict.fromkeys(range(start, start + size), v))

    def read(self, v: Value) -> None:
        """A value is still where it was written."""
        if v not in self.at or (v.owner is not None and isinstance(v.owner.op, Join) and self.at[v][0] == "state"):
            return
        space, start, size = self.at[v]
        lost = [n for n in range(start, start + size) if self.bytes[space].get(n) is not self.writer[v]]
        assert not lost, f"{v!r} at {space}+{start} was overwritten before its last use"

    def check_join(self, i: Instruction) -> None:
        """An operand that lies inside the joined value lies where the join puts it."""
        if not isinstance(i.op, Join) or i.result not in self.at:
            return
        space, start, size = self.at[i.result]
        indices = np.arange(i.result.type.size).reshape(i.result.type.shape)
        types = tuple(o.type for o in i.operands)
        for o, block in zip(i.operands, i.op.blocks(types, **i.attrs), strict=True):
            at = self.at.get(o)
            if at is None or at[0] != space or at[1] + at[2] <= start or start + size <= at[1]:
                continue
            ends = [a + n * s for a, n, s in zip(block.start, o.type.shape, block.step, strict=True)]
            bounds = zip(block.start, ends, block.step, strict=True)
            wanted = indices[tuple(slice(a, b, s) for a, b, s in bounds)].reshape(-1)
            first = (at[1] - start) // (o.type.dtype.bits // 8)
            assert wanted.tolist() == list(range(first, first + o.type.size)), f"{o!r} does not lie where {i!r} puts it"


def check_memory(function: Function) -> None:
    """No value of a planned function is overwritten before its last use, and all lie inside their buffers."""
    memory = Memory(function)
    for v in function.arguments:
        memory.place(v)
    for i in function.instructions:
        for o in i.operands:
            memory.read(o)
        for r in i.results:
            memory.place(r)
        memory.check_join(i)
    for v in function.results:
        memory.read(v)
