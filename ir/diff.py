"""Structural differences of two modules: renaming, reordering of independent ops and formatting are none.

Functions are matched by name, then by structure; arguments by role and position; ops by what they compute from what (``match.py``).
What only follows from a reported difference is not reported again: the operand of an op whose producer was replaced, a type that
changed because an operand's did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .graph import Function, Instruction, Location, Mark, Module, Symbol, Value
from .literal import Literal
from .match import Keys, Match
from .print import Names, argument, attribute, instruction, number, quote, result
from .types import Array

LONG = 60
"""Longer attribute values are shortened in details."""


class Side(NamedTuple):
    """One side of a difference: the function, the printed line, where it comes from, and the op if it is one."""

    function: str
    text: str
    location: tuple[Location, ...] = ()
    instruction: Instruction | None = None


class Difference(NamedTuple):
    """``kind`` is added, removed or changed; ``what`` is op, attribute, operand, type, place, argument, result or function."""

    kind: str
    what: str
    detail: str
    a: Side | None
    b: Side | None

    @property
    def sign(self) -> str:
        """``+``, ``-`` or ``~``."""
        return {"added": "+", "removed": "-", "changed": "~"}[self.kind]


@dataclass
class Diff:
    """All differences, by function and position, and the matched ops, from the first module's to the second's."""

    differences: list[Difference] = field(default_factory=list[Difference])
    pairs: dict[Instruction, Instruction] = field(default_factory=dict[Instruction, Instruction])

    def __bool__(self) -> bool:
        return bool(self.differences)


def diff(a: Module, b: Module) -> Diff:
    """The structural differences of two verified modules."""
    keys, found = Keys(), Diff()
    kernels: dict[tuple[str, str], None] = {}
    for f, g in _function_pairs(keys, a, b):
        if f is None or g is None:
            found.differences.append(_lone_function(a, b, f, g))
        else:
            _compare(keys, a, b, f, g, found, kernels)
    done: set[tuple[str, str]] = set()
    while len(done) < len(kernels):
        for pair in [p for p in kernels if p not in done]:
            done.add(pair)
            _compare(keys, a, b, a[pair[0]], b[pair[1]], found, kernels)
    return found


def _entries(module: Module) -> list[Function]:
    """The functions that no other one names."""
    named = set[str]().union(*[f.symbols() for f in module])
    return [f for f in module if f.name not in named]


def _function_pairs(keys: Keys, a: Module, b: Module) -> Iterator[tuple[Function | None, Function | None]]:
    mine, theirs = _entries(a), _entries(b)
    by_name = {g.name: g for g in theirs}
    pairs: dict[str, Function] = {f.name: by_name[f.name] for f in mine if f.name in by_name}
    rest = [g for g in theirs if g.name not in pairs]
    for f in mine:
        if f.name not in pairs:
            equal = next((g for g in rest if keys.body(a, f.name) == keys.body(b, g.name)), None)
            if equal is not None:
                pairs[f.name] = equal
                rest.remove(equal)
    open_ = [f for f in mine if f.name not in pairs]
    if len(open_) == len(rest) == 1:
        pairs[open_[0].name] = rest.pop()
    yield from ((f, pairs.get(f.name)) for f in mine)
    yield from ((None, g) for g in rest)


def _lone_function(a: Module, b: Module, f: Function | None, g: Function | None) -> Difference:
    if f is not None:
        return Difference("removed", "function", f"{len(f.instructions)} ops", _head(a, f), None)
    assert g is not None
    return Difference("added", "function", f"{len(g.instructions)} ops", None, _head(b, g))


def _where(module: Module, part: Any, location: tuple[Location, ...] = ()) -> tuple[Location, ...]:
    """The source location, or the line of the text where there is none."""
    line = module.origin.line_of(part) if module.origin is not None and not location else 0
    return (Location(module.origin.file, line),) if module.origin is not None and line else location


def _head(module: Module, function: Function) -> Side:
    return Side(function.name, f"func @{quote(function.name)}", _where(module, function))


def _compare(
    keys: Keys, a: Module, b: Module, f: Function, g: Function, found: Diff, kernels: dict[tuple[str, str], None]
) -> None:
    report = _Report(Match(keys, (a, b), (f, g)), keys, kernels)
    found.differences += report.differences()
    found.pairs.update(report.match.pairs)


class _Report:
    """Puts the differences of two matched functions into words."""

    def __init__(self, match: Match, keys: Keys, kernels: dict[tuple[str, str], None]) -> None:
        self.match = match
        self.keys = keys
        self.kernels = kernels
        self.names = (Names(match.a), Names(match.b))
        self._above: dict[Instruction, set[int]] = {}

    def differences(self) -> list[Difference]:
        """Function and arguments, then ops where they stand, then results."""
        m = self.match
        found = [*self._attributes(), *self._arguments()]
        at = {i: n for n, i in enumerate(m.a.instructions)}
        ops: list[tuple[float, Difference]] = []
        for n, i in enumerate(m.a.instructions):
            j = m.pairs.get(i)
            if j is None:
                ops.append((n, Difference("removed", "op", "", self._op(0, i), None)))
            else:
                changes = list(self._changes(i, j))
                if changes:
                    detail = "; ".join(text for _, text in changes)
                    ops.append((n, Difference("changed", changes[0][0], detail, self._op(0, i), self._op(1, j))))
        before = -1.0
        for j in m.b.instructions:
            if j in m.back:
                before = at[m.back[j]]
            else:
                ops.append((before + 0.5, Difference("added", "op", "", None, self._op(1, j))))
        return [*found, *(d for _, d in sorted(ops, key=lambda x: x[0])), *self._results()]

    # Sides

    def _op(self, side: int, i: Instruction) -> Side:
        module, function = self.match.modules[side], (self.match.a, self.match.b)[side]
        return Side(function.name, _short(instruction(i, self.names[side])), _where(module, i, i.location), i)

    def _argument(self, side: int, value: Value | None) -> Side | None:
        if value is None:
            return None
        module, function = self.match.modules[side], (self.match.a, self.match.b)[side]
        role = function.roles[function.arguments.index(value)]
        return Side(function.name, argument(value, role, self.names[side]), _where(module, value))

    def _result(self, side: int, n: int | None) -> Side | None:
        if n is None:
            return None
        module, function = self.match.modules[side], (self.match.a, self.match.b)[side]
        value, mark = function.results[n], function.marks[n]
        at = _where(module, value.owner, value.owner.location) if value.owner is not None else _where(module, value)
        return Side(function.name, f"return {self.names[side].of[value]}: {result(value, mark, self.names[side])}", at)

    # Differences

    def _attributes(self) -> Iterator[Difference]:
        a, b = self.match.a, self.match.b
        texts = list(_attribute_changes(a.attrs, b.attrs))
        if texts:
            heads = _head(self.match.modules[0], a), _head(self.match.modules[1], b)
            yield Difference("changed", "attribute", "; ".join(texts), *heads)

    def _arguments(self) -> Iterator[Difference]:
        for u, v in self.match.arguments:
            a, b = self._argument(0, u), self._argument(1, v)
            if u is None or v is None:
                yield Difference("added" if u is None else "removed", "argument", "", a, b)
            elif u.type != v.type:
                yield Difference("changed", "argument", f"{u.type} -> {v.type}", a, b)
            elif place := self._place(u, v):
                yield Difference("changed", "place", place, a, b)

    def _results(self) -> Iterator[Difference]:
        m = self.match
        for n, k in m.results:
            a, b = self._result(0, n), self._result(1, k)
            if n is None or k is None:
                yield Difference("added" if n is None else "removed", "result", "", a, b)
            else:
                u, v = m.a.results[n], m.b.results[k]
                if not self._same(u, v):
                    mark: Mark | None = m.a.marks[n]
                    what = f"the {mark.kind} of {self.names[0].of[mark.of]}" if mark else f"result {n}"
                    yield Difference("changed", "result", f"{what} is another value", a, b)

    def _changes(self, i: Instruction, j: Instruction) -> Iterator[tuple[str, str]]:
        if i.op is not j.op:
            yield "op", f"{i.op.name} -> {j.op.name}"
        else:
            for text in _attribute_changes(self._without_bodies(i, j), self._without_bodies(j, i)):
                yield "attribute", text
        if len(i.operands) != len(j.operands):
            yield "operand", f"{len(i.operands)} operands -> {len(j.operands)}"
        else:
            for n, (u, v) in enumerate(zip(i.operands, j.operands, strict=True)):
                if not self._same(u, v):
                    yield "operand", f"operand {n}: {self.names[0].of[u]} -> {self.names[1].of[v]}"
        types = tuple([r.type for r in i.results]), tuple([r.type for r in j.results])
        follows = any(u.type != v.type for u, v in zip(i.operands, j.operands, strict=False))
        if types[0] != types[1] and not follows:
            yield "type", " -> ".join([", ".join(map(str, t)) for t in types])
        for r, s in zip(i.results, j.results, strict=False):
            if place := self._place(r, s):
                yield "place", place

    def _without_bodies(self, i: Instruction, other: Instruction) -> dict[str, Any]:
        """Attributes without the functions that both name: those are compared on their own."""
        kept: dict[str, Any] = {}
        for name, value in i.attrs.items():
            theirs = other.attrs.get(name)
            if isinstance(value, Symbol) and isinstance(theirs, Symbol):
                first = i in self.match.pairs
                mine, yours = (value, theirs) if first else (theirs, value)
                modules = self.match.modules
                if self.keys.body(modules[0], mine) != self.keys.body(modules[1], yours):
                    self.kernels[mine, yours] = None
            else:
                kept[name] = value
        return kept

    def _place(self, u: Value, v: Value) -> str:
        def same(p: Any, q: Any) -> bool:
            return p == q if p is None or q is None else p[:2] == q[:2] and (p.of is None) == (q.of is None)

        if same(u.place, v.place):
            of = (u.place.of if u.place else None), (v.place.of if v.place else None)
            if of[0] is None or of[1] is None or self._same(of[0], of[1]):
                return ""
        return f"at {self._place_text(0, u)} -> {self._place_text(1, v)}"

    def _place_text(self, side: int, v: Value) -> str:
        if v.place is None:
            return "no place"
        return f"{v.place}({self.names[side].of[v.place.of]})" if v.place.of is not None else str(v.place)

    def _same(self, u: Value, v: Value) -> bool:
        """Whether two values correspond, or differ by ops that are reported themselves."""
        token = self.match.token
        x, y = token.get(u), token.get(v)
        if x is not None and x == y:
            return True
        lone = (self._is_lone(u, self.match.pairs), self._is_lone(v, self.match.back))
        if all(lone):
            return True
        return (lone[1] and x in self._reached(v)) or (lone[0] and y in self._reached(u))

    def _is_lone(self, v: Value, paired: Any) -> bool:
        return v.owner is not None and v.owner not in paired

    def _reached(self, v: Value) -> set[int]:
        """What a value is made of through ops that are only on its side."""
        assert v.owner is not None
        m = self.match
        if v.owner not in self._above:
            reached, pending, seen = set[int](), [v.owner], {v.owner}
            while pending:
                for o in pending.pop().operands:
                    if o.owner is not None and o.owner not in m.pairs and o.owner not in m.back:
                        if o.owner not in seen:
                            seen.add(o.owner)
                            pending.append(o.owner)
                    elif o in m.token:
                        reached.add(m.token[o])
            self._above[v.owner] = reached
        return self._above[v.owner]


def _attribute_changes(a: Any, b: Any) -> Iterator[str]:
    for name in dict.fromkeys((*a, *b)):
        if name not in a:
            yield f"{name} = {_value(b[name])} added"
        elif name not in b:
            yield f"{name} = {_value(a[name])} removed"
        elif isinstance(a[name], Literal) and isinstance(b[name], Literal):
            if text := _elements(a[name], b[name]):
                yield f"{name}: {text}"
        elif attribute(a[name]) != attribute(b[name]):
            yield f"{name} = {_value(a[name])} -> {_value(b[name])}"


def _value(value: Any) -> str:
    return _short(attribute(value))


def _short(text: str) -> str:
    """A printed line or value with long runs of bytes left out."""
    at = text.find('bytes "')
    if at >= 0 and len(text) > at + LONG:
        end = text.find('"', at + 7)
        return f"{text[: at + 27]}...{text[end:]}"
    return text


def _elements(a: Literal, b: Literal) -> str:
    """How two constants differ: the first element that does, and how many do.  Their types are compared elsewhere."""
    if a == b or (a.is_splat and b.is_splat and a.type.dtype is b.type.dtype and a.data.tobytes() == b.data.tobytes()):
        return ""
    if a.type != b.type:
        return "other elements"
    x, y = _bits(a.array), _bits(b.array)
    at = np.flatnonzero((x != y).reshape(a.type.size, -1).any(1))
    first = int(at[0])
    dtype = a.type.dtype
    words = f"{number(a.array.reshape(-1)[first], dtype)} -> {number(b.array.reshape(-1)[first], dtype)}"
    if a.type.size == 1 or (a.is_splat and b.is_splat):
        return words
    index = [int(n) for n in np.unravel_index(first, a.type.shape)]
    return f"{words} at {index}, {len(at)} of {a.type.size} elements differ"


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
