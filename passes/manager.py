"""The pass manager: runs a pipeline, and itself verifies, times, dumps, counts rewrites and checks what passes report."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..ir import IRError, Module, Value, VerifyError, save
from ..ir.atomic import write_atomically
from ..ir.float_mode import standard_mode
from ..ir.graph import Instruction
from ..ir.types import Array

Evaluate = Callable[[Instruction, Sequence[Array]], tuple[Array, ...]]
Keeps = Callable[[Instruction], bool]


def keeps_none(i: Instruction) -> bool:
    """That of a target without kernels for composites."""
    return False


class Application(NamedTuple):
    """One rewrite: its number in the whole pipeline, counted from 1, the pass, the rule, and the op it was applied to."""

    number: int
    pass_: str
    rule: str
    at: Instruction


@dataclass
class Provenance:
    """What became of the values of the first module, and which pass made each op that is new.

    ``became`` maps a value to the one that a pass put in its place, ``made_by`` a new op, and ``replaced_by`` a replaced value, to
    the name of the pass.
    """

    became: dict[Value, Value] = field(default_factory=dict[Value, Value])
    made_by: dict[Instruction, str] = field(default_factory=dict[Instruction, str])
    replaced_by: dict[Value, str] = field(default_factory=dict[Value, str])

    def now(self, value: Value) -> Value:
        """The value that stands for ``value`` after the last pass."""
        while value in self.became:
            value = self.became[value]
        return value

    def last_pass(self, value: Value) -> str | None:
        """The pass that last put another value in a value's place; None if none did."""
        found = None
        while value in self.became:
            found = self.replaced_by.get(value, found)
            value = self.became[value]
        return found


@dataclass
class Context:
    """What a pass may use: the kernel table's ``evaluate``, the fuel left, and where to report.

    ``spend`` is called before each rewrite with its rule and place; False means that the fuel is used up.  ``alignment`` is
    that of the device's memory, in bytes.  ``keeps`` says of a composite whether the target computes it whole.
    """

    evaluate: Evaluate | None = None
    fuel: int | None = None
    rewrites: int = 0
    running: str = ""
    last: Application | None = None
    why: Callable[[Instruction, str], None] | None = None
    provenance: Provenance = field(default_factory=Provenance)
    alignment: int = 64
    keeps: Keeps = keeps_none

    def spend(self, rule: str, at: Instruction) -> bool:
        """Whether one more rewrite may be applied; counts it."""
        if self.fuel is not None and self.rewrites >= self.fuel:
            self.note(at, f"{rule}: out of fuel")
            return False
        self.rewrites += 1
        self.last = Application(self.rewrites, self.running, rule, at)
        self.note(at, f"{rule}: applied")
        return True

    def replace(self, old: Value, new: Value) -> None:
        """Report that a value now stands in another's place."""
        if old is not new:
            self.provenance.became[old] = new
            self.provenance.replaced_by[old] = self.running

    def note(self, at: Instruction, text: str) -> None:
        """Report a rule that looked at an instruction and declined, or applied."""
        if self.why is not None:
            self.why(at, text)


@dataclass(frozen=True)
class Pass:
    """A named pass: ``run(module, context)`` changes the module in place and says whether it did."""

    name: str
    run: Callable[[Module, Context], bool]

    @property
    def doc(self) -> str:
        """First line of the pass's description."""
        return (self.run.__doc__ or "").strip().split("\n")[0]


@dataclass(frozen=True)
class Record:
    """What the manager saw of one pass."""

    name: str
    seconds: float
    ops_before: int
    ops_after: int
    changed: bool
    rewrites: int


def count_ops(module: Module) -> int:
    """Instructions in all functions."""
    return sum(len(f.instructions) for f in module)


@dataclass
class PassManager:
    """Runs passes by name.

    ``verify_each`` verifies after every pass, ``strict`` also compares the texts before and after with the reported change,
    ``after_all`` is a folder for numbered dumps and their ``index.txt``, ``fuel`` bounds the rewrites.  ``records`` and
    ``context`` tell afterwards what happened.
    """

    passes: Mapping[str, Pass]
    verify_each: bool = True
    strict: bool = False
    after_all: Path | None = None
    fuel: int | None = None
    evaluate: Evaluate | None = None
    why: Callable[[Instruction, str], None] | None = None
    provenance: Provenance | None = None
    locations: bool = False
    base: str | None = None
    alignment: int = 64
    keeps: Keeps = keeps_none
    records: list[Record] = field(default_factory=list[Record])
    context: Context = field(default_factory=Context)

    def run(self, module: Module, names: Sequence[str]) -> Module:
        """Run the named passes on a module, in place; raises ``IRError`` naming the pass that left invalid IR."""
        context = self.context = Context(
            self.evaluate,
            self.fuel,
            why=self.why,
            provenance=self.provenance or Provenance(),
            alignment=self.alignment,
            keeps=self.keeps,
        )
        for name in names:
            if name not in self.passes:
                raise IRError(f"there is no pass {name!r}; one of {', '.join(self.passes)}")
        dumps = _Dumps(self.after_all, self.locations, self.base) if self.after_all is not None else None
        if dumps is not None:
            dumps.add("input", module, True)
        for name in names:
            before, text = count_ops(module), str(module) if self.strict else ""
            known = {i for f in module for i in f.instructions} if self.provenance is not None else None
            rewrites, begin = context.rewrites, time.perf_counter()
            context.running = name
            with standard_mode():
                changed = self.passes[name].run(module, context)
            seconds = time.perf_counter() - begin
            if known is not None:
                made = (i for f in module for i in f.instructions if i not in known)
                context.provenance.made_by.update(dict.fromkeys(made, name))
            if self.verify_each:
                try:
                    module.verify()
                except VerifyError as error:
                    raise error.prefixed(f"after pass {name}: ") from None
            if self.strict and changed != (text != str(module)):
                raise IRError(f"pass {name} reported changed = {changed}, and the text says otherwise")
            self.records.append(Record(name, seconds, before, count_ops(module), changed, context.rewrites - rewrites))
            if dumps is not None:
                dumps.add(name, module, changed)
        return module


class _Dumps:
    """Numbered files, one for each pass that changed something, and ``index.txt``, which also lists the others.

    What the index of an earlier run lists is removed first; nothing else is.
    """

    def __init__(self, folder: Path, locations: bool, base: str | None) -> None:
        self.folder, self.locations, self.base = folder, locations, base
        self.lines: list[str] = []
        index = folder / "index.txt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            listed = index.read_text("utf-8", errors="replace").splitlines() if index.exists() else []
            earlier = [_LISTED.fullmatch(line) for line in listed]
            if not all(earlier):
                raise IRError(f"{index} is there and was not written by an earlier dump\n  remedy: another folder")
            for match in filter(None, earlier):
                for suffix in (".ir", ".safetensors"):
                    (folder / f"{match[1]}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            raise IRError(f"{folder} cannot be used for dumps: {error.strerror}") from None

    def add(self, name: str, module: Module, changed: bool) -> None:
        stem = f"{len(self.lines):02d}-{name}"
        if changed:
            save(module, self.folder / f"{stem}.ir", locations=self.locations, base=self.base)
        self.lines.append(f"{stem}: {f'{count_ops(module)} ops' if changed else 'unchanged'}\n")  # as _LISTED reads it
        write_atomically(self.folder / "index.txt", "".join(self.lines).encode())


_LISTED = re.compile(r"(\d{2,}-[a-z_]+): (?:\d+ ops|unchanged)")


def per_function(run: Callable[..., Any]) -> Callable[[Module, Context], bool]:
    """A module pass from one over functions, ``run(function, context) -> changed``."""

    def over(module: Module, context: Context) -> bool:
        changes = [run(f, context) for f in list(module)]
        return any(changes)

    over.__doc__, over.__module__ = run.__doc__, run.__module__
    return over
