"""The pass manager: runs a pipeline, and itself verifies, times, dumps, counts rewrites and checks what passes report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..ir import IRError, Module, VerifyError
from ..ir.graph import Instruction
from ..ir.types import Array

Evaluate = Callable[[Instruction, Sequence[Array]], tuple[Array, ...]]


@dataclass
class Context:
    """What a pass may use: the kernel table's ``evaluate``, the fuel left, and where to report.

    ``spend`` is called before each rewrite with its rule and place; False means that the fuel is used up.
    """

    evaluate: Evaluate | None = None
    fuel: int | None = None
    rewrites: int = 0
    last: str = ""
    why: Callable[[Instruction, str], None] | None = None

    def spend(self, rule: str, at: Instruction) -> bool:
        """Whether one more rewrite may be applied; counts it."""
        if self.fuel is not None and self.rewrites >= self.fuel:
            return False
        self.rewrites += 1
        self.last = f"{rule} on {at!r}"
        return True

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
    ``after_all`` is a folder for one numbered dump per pass that changed something, ``fuel`` bounds the rewrites.
    """

    passes: Mapping[str, Pass]
    verify_each: bool = True
    strict: bool = False
    after_all: Path | None = None
    fuel: int | None = None
    evaluate: Evaluate | None = None
    why: Callable[[Instruction, str], None] | None = None
    records: list[Record] = field(default_factory=list[Record])

    def run(self, module: Module, names: Sequence[str]) -> Module:
        """Run the named passes on a module, in place; raises ``IRError`` naming the pass that left invalid IR."""
        context = Context(self.evaluate, self.fuel, why=self.why)
        for number, name in enumerate(names, 1):
            if name not in self.passes:
                raise IRError(f"there is no pass {name!r}; one of {', '.join(self.passes)}")
            before, text = count_ops(module), str(module) if self.strict else ""
            rewrites, begin = context.rewrites, time.perf_counter()
            changed = self.passes[name].run(module, context)
            seconds = time.perf_counter() - begin
            if self.verify_each:
                try:
                    module.verify()
                except VerifyError as error:
                    raise error.prefixed(f"after pass {name}: ") from None
            if self.strict and changed != (text != str(module)):
                raise IRError(f"pass {name} reported changed = {changed}, and the text says otherwise")
            self.records.append(Record(name, seconds, before, count_ops(module), changed, context.rewrites - rewrites))
            self._dump(number, name, changed, module)
        return module

    def _dump(self, number: int, name: str, changed: bool, module: Module) -> None:
        if self.after_all is None:
            return
        self.after_all.mkdir(parents=True, exist_ok=True)
        stem = f"{number:02d}-{name}"
        if changed:
            (self.after_all / f"{stem}.ir").write_text(str(module), encoding="utf-8")
        else:
            (self.after_all / f"{stem}.unchanged").write_text("", encoding="utf-8")


def per_function(run: Callable[..., Any]) -> Callable[[Module, Context], bool]:
    """A module pass from one over functions, ``run(function, context) -> changed``."""

    def over(module: Module, context: Context) -> bool:
        changes = [run(f, context) for f in list(module)]
        return any(changes)

    over.__doc__ = run.__doc__
    return over
