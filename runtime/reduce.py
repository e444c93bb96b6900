"""The smallest IR for which something still holds: a failure of ``compare``, or what a command says.

Ops are taken away in ever smaller groups.  Who used the result of one that is gone uses a new argument, whose array is what the
original function computes there; a function result that is gone is replaced by the operands of the op that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..backends.eager.interpret import values_of
from ..ir import Function, Instruction, IRError, Mark, Module, Symbol, Value
from ..ir.types import Array
from .ir_file import checked

Holds = Callable[[Module, str, Sequence[Array]], bool]


@dataclass(frozen=True)
class Reduced:
    """What is left: a module, its function, arrays for its arguments, and how often the predicate was asked.

    ``interrupted``: Ctrl-C ended the search, and this is the smallest so far.
    """

    module: Module
    function: str
    arrays: list[Array]
    trials: int
    interrupted: bool = False


class _Reducer:
    def __init__(self, module: Module, name: str, arrays: Sequence[Array] | None, holds: Holds) -> None:
        self.module, self.holds, self.trials = module.clone(), holds, 0
        self.function = self.module[name]
        for v in self.function.values():
            v.place = None
        self.values: dict[Value, Array] = {}
        if arrays is not None:
            try:
                self.values = values_of(self.function, arrays, self.module)
            except IRError:
                self.values = dict(zip(self.function.arguments, arrays, strict=True))
        self.kept = list(self.function.instructions)
        self.results: list[Value] = list(self.function.results)
        self.best: tuple[Module, list[Array]] | None = None

    def candidate(self, kept: Sequence[Instruction], results: Sequence[Value]) -> tuple[Module, list[Array]] | None:
        """The function of those of ``kept`` ops that ``results`` need; None where it cannot be made."""
        needed = set(results)
        ops: list[Instruction] = []
        for i in reversed(kept):
            if any(r in needed for r in i.results):
                ops.append(i)
                needed.update(i.operands)
        made = {r for i in ops for r in i.results}
        inputs = [v for v in self.function.values() if v in needed and v not in made]
        roles = dict(zip(self.function.arguments, self.function.roles, strict=True))
        if self.values and any(v not in self.values for v in inputs):
            return None
        marks = dict(zip(self.function.results, self.function.marks, strict=True))
        states = {v for v in inputs if v in roles}
        seen: set[tuple[str, Value]] = set()
        chosen: list[Mark | None] = []
        for v in results:
            mark = marks.get(v)
            keep = mark is not None and mark.of in states and (mark.kind, mark.of) not in seen
            if mark is not None and keep:
                seen.add((mark.kind, mark.of))
            chosen.append(mark if keep else None)
        function = Function(
            self.function.name,
            inputs,
            [roles.get(v, "input") for v in inputs],
            ops[::-1],
            list(results),
            chosen,
            {k: v for k, v in self.function.attrs.items() if k != "arena"},
        ).clone()
        module = Module(self.module.name, [function])
        pending = list(function.symbols())
        while pending:
            symbol: Symbol | str = pending.pop()
            if symbol not in module.functions:
                pending.extend(module.add(self.module[symbol].clone()).symbols())
        return module, [self.values[v] for v in inputs] if self.values else []

    def attempt(self, kept: Sequence[Instruction], results: Sequence[Value]) -> bool:
        """Whether the predicate still holds for fewer ops or results; then they are what is left."""
        if not results:
            return False
        made = self.candidate(kept, results)
        if made is None:
            return False
        module, arrays = made
        try:
            module.verify()
        except IRError:
            return False
        self.trials += 1
        if not self.holds(module, self.function.name, arrays):
            return False
        self.best = made
        self.results = list(results)
        needed: set[Value] = set(results)
        left: list[Instruction] = []
        for i in reversed(list(kept)):
            if any(r in needed for r in i.results):
                left.append(i)
                needed.update(i.operands)
        self.kept = left[::-1]
        return True

    def ends(self) -> list[Value]:
        """The results, and every value that nobody reads: an op that only dead code holds."""
        used = {o for i in self.kept for o in i.operands}
        return list(dict.fromkeys([*self.results, *(r for i in self.kept for r in i.results if r not in used)]))

    def without(self, gone: Sequence[Instruction]) -> bool:
        """Try to take ops away.  Arguments are results only where nothing else is left."""
        dropped = set(gone)
        results: dict[Value, None] = {}
        pending = list(reversed(self.results))
        while pending:
            v = pending.pop()
            if v.owner is not None and v.owner in dropped:
                pending.extend(reversed([o for o in v.owner.operands if o not in results]))
            elif v.owner is not None or v in self.results:
                results[v] = None
        operands = dict.fromkeys(o for i in gone for o in i.operands if o.owner is None)
        return self.attempt([i for i in self.kept if i not in dropped], list(results or operands))

    def fewer_results(self) -> None:
        """Keep one result if one is enough, else leave out what can be left out."""
        if len(self.results) > 1:
            for v in self.results:
                if self.attempt(self.kept, [v]):
                    return
            size = len(self.results) // 2
            while size:
                at = 0
                while at < len(self.results) > 1:
                    if not self.attempt(self.kept, self.results[:at] + self.results[at + size :]):
                        at += size
                size //= 2

    def fewer_ops(self) -> bool:
        """Take away groups of neighbours, halves first; whether anything went."""
        begin, size = len(self.kept), max(len(self.kept) // 2, 1)
        while True:
            at = 0
            while at < len(self.kept):
                if not self.without(self.kept[at : at + size]):
                    at += size
            if size == 1:
                return len(self.kept) < begin
            size //= 2


def reduce(module: Module, name: str, arrays: Mapping[str, Array] | Sequence[Array] | None, holds: Holds) -> Reduced:
    """The smallest function found for which ``holds(module, function name, arrays)`` is true.

    ``arrays`` are the function's arguments, by name or in order; without them the predicate gets none.  Ctrl-C ends the search with
    what is found.  Raises ``IRError`` where the predicate does not hold for the function as it is.
    """
    given = checked(module[name], arrays) if arrays is not None else []
    if not holds(module, name, given):
        raise IRError(f"the predicate does not hold for @{name} itself: there is nothing to reduce")
    reducer = _Reducer(module, name, given if arrays is not None else None, holds)
    if not reducer.attempt(reducer.kept, reducer.results) and not reducer.attempt(reducer.kept, reducer.ends()):
        return Reduced(module, name, given, reducer.trials)
    interrupted = False
    try:
        reducer.fewer_results()
        while reducer.fewer_ops():
            reducer.fewer_results()
    except KeyboardInterrupt:
        interrupted = True
    assert reducer.best is not None
    return Reduced(reducer.best[0], reducer.function.name, reducer.best[1], reducer.trials, interrupted)
