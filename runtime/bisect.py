"""Which pass, and which application of which rewrite, makes a program compute something else than the tape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..backends.base import compile_module, get
from ..backends.eager.interpret import run, run_instruction
from ..ir import Diff, IRError, Location, Module, diff
from ..ir.types import Array
from ..passes import PASSES, PIPELINES, Application, PassManager, Provenance
from .compare import FAILURES
from .ir_file import checked
from .reference import same_bits


@dataclass(frozen=True)
class Guilt:
    """The guilty pass, by its place in the pipeline (from 1) and name, and what happens.

    ``application`` is the rewrite after which it happens, of ``rewrites`` that the pass made; None where the pass does not count its
    changes.  ``change`` is what that rewrite (or pass) did to the module.  ``pass_`` is empty where every pass keeps the results and
    only the program differs.
    """

    pass_: str
    number: int
    symptom: str
    application: Application | None = None
    rewrites: int = 0
    change: Diff | None = None

    @property
    def location(self) -> tuple[Location, ...]:
        """Source of the op that was rewritten."""
        return self.application.at.location if self.application is not None else ()


@dataclass
class _Trial:
    module: Module | None
    symptom: str
    manager: PassManager


class _Bisection:
    def __init__(self, module: Module, name: str, arrays: Sequence[Array], passes: Sequence[str]) -> None:
        self.module, self.name, self.arrays, self.passes = module, name, arrays, passes
        self.expected = self._run(module)
        if isinstance(self.expected, str):
            raise IRError(f"the tape itself gives no results to hold others against\n{self.expected}")

    def _run(self, module: Module) -> tuple[Array, ...] | str:
        try:
            return run(module[self.name], [a.copy() for a in self.arrays], module)
        except FAILURES as error:
            return f"{type(error).__name__}: {error}"

    def symptom(self, found: tuple[Array, ...] | str) -> str:
        """How an outcome differs from the tape's; empty if it does not."""
        expected = self.expected
        if isinstance(found, str) or isinstance(expected, str):
            return "" if found == expected else f"it gives {_named(found)} where the tape gives {_named(expected)}"
        for n, (a, b) in enumerate(zip(expected, found, strict=True)):
            if not same_bits(a, b):
                return f"result {n} differs from the tape's"
        return ""

    def trial(self, count: int, fuel: int | None) -> _Trial:
        """The first ``count`` passes with so much fuel."""
        manager = PassManager(PASSES, evaluate=run_instruction, fuel=fuel)
        module = self.module.clone()
        try:
            manager.run(module, self.passes[:count])
        except FAILURES as error:
            text = error.message if isinstance(error, IRError) else f"{type(error).__name__}: {error}"
            return _Trial(None, text, manager)
        return _Trial(module, self.symptom(self._run(module)), manager)


def _named(outcome: tuple[Array, ...] | str) -> str:
    return outcome.splitlines()[0] if isinstance(outcome, str) else "results"


def bisect(
    module: Module,
    name: str,
    arrays: Mapping[str, Array] | Sequence[Array],
    passes: Sequence[str] | None = None,
    *,
    backend: str = "compiled",
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> Guilt | None:
    """The pass and the rewrite after which a function computes something else, or fails; None if nothing does.

    The passes run with ever less fuel and the interpreter runs what they leave, so code generation has no part in it; it is asked
    last, and only for the pipeline of the backend (``passes`` is None), with its ``options``.  ``arrays`` are the arguments, by name or in
    order.
    """
    given = checked(module[name], arrays)
    names = list(PIPELINES["planned"] if passes is None else passes)
    search = _Bisection(module, name, given, names)
    before = 0
    for number, pass_ in enumerate(names, 1):
        whole = search.trial(number, None)
        if whole.symptom:
            return _rewrite(search, number, pass_, before, whole)
        before = whole.manager.context.rewrites
    if passes is None:
        try:
            uncached = {"provenance": Provenance(), **(options or {})}
            program = compile_module(get(backend), module, name, device, uncached)
            found: tuple[Array, ...] | str = program.run(given)
        except FAILURES as error:
            found = f"{type(error).__name__}: {error}"
        symptom = search.symptom(found)
        if symptom:
            return Guilt("", 0, symptom)
    return None


def _rewrite(search: _Bisection, number: int, pass_: str, before: int, whole: _Trial) -> Guilt:
    """The application in one pass between the fuel that is harmless and the fuel that is not."""
    total = whole.manager.context.rewrites
    harmless = search.trial(number, before)
    if harmless.symptom:
        earlier = search.trial(number - 1, None).module
        change = diff(earlier, whole.module) if earlier is not None and whole.module is not None else None
        return Guilt(pass_, number, whole.symptom, None, 0, change)
    low, high, guilty = before, total, whole
    while high - low > 1:
        middle = (low + high) // 2
        trial = search.trial(number, middle)
        if trial.symptom:
            high, guilty = middle, trial
        else:
            low, harmless = middle, trial
    change = diff(harmless.module, guilty.module) if harmless.module is not None and guilty.module is not None else None
    return Guilt(pass_, number, guilty.symptom, guilty.manager.context.last, total - before, change)
