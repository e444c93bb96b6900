"""Structural differences of two modules: renaming, reordering of independent ops and formatting are none.

Functions are matched by structure, then by name; arguments by role and position; ops by what they compute from what (``match.py``).
What only follows from a reported difference is not reported again: the operand of an op whose producer was replaced, a type, shape or
size that changed because an argument's did, the arguments of a kernel (they are the operands of its call).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from .graph import Function, Instruction, Location, Mark, Module, Symbol, Value
from .literal import Literal, saturating_cast
from .match import Keys, Match, Positions, aligned, in_order
from .print import Names, argument, attribute, instruction, number, quote, result
from .types import Array, TensorType

LONG = 60
"""Longer attribute values are shortened in details."""
FAR = 64
"""How many ops of one side only may lie between a value and what it is made of."""
SHAPED = ("shape", "dtype", "size", "stop", "value")
"""Attributes that say sizes and dtypes, and so follow from types of arguments."""


class Side(NamedTuple):
    """One side of a difference: the function, the printed line, where it comes from, and the op if it is one."""

    function: str
    text: str
    location: tuple[Location, ...] = ()
    instruction: Instruction | None = None


class Difference(NamedTuple):
    """``kind`` is added, removed or changed; ``what`` is op, attribute, operand, place, argument, result or function."""

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
    for module in (a, b):
        if not isinstance(module, Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"diff takes two modules, not {type(module).__name__}; Module(name, [function]) makes one")
    keys, found = Keys(), Diff()
    kernels: dict[tuple[str, str], _Call] = {}
    for f, g in _function_pairs(keys, a, b):
        if f is None or g is None:
            found.differences.append(_lone_function(a, b, f, g))
        else:
            _compare(keys, _Report(Match(keys, (a, b), (f, g)), keys, kernels), found)
    done: set[tuple[str, str]] = set()
    while len(done) < len(kernels):
        for pair, call in [(p, c) for p, c in kernels.items() if p not in done]:
            done.add(pair)
            match = Match(keys, (a, b), (a[pair[0]], b[pair[1]]), call.arguments)
            _compare(keys, _Report(match, keys, kernels, call), found)
    return found


class _Call(NamedTuple):
    """How two kernels are called: which arguments belong together, and what changes around them."""

    arguments: Positions
    follows: Follows


def _entries(module: Module) -> set[str]:
    """The functions that no other one names."""
    return set(module.functions).difference(*[f.symbols() for f in module])


def _function_pairs(keys: Keys, a: Module, b: Module) -> Iterator[tuple[Function | None, Function | None]]:
    """The functions that no other one names: by structure, by name, then by arguments, results and attributes.

    One that the other module has too, but calls, is the same function and left out.
    """
    entries = [_entries(m) for m in (a, b)]
    called = [{keys.body(m, f.name) for f in m if f.name not in e} for m, e in zip((a, b), entries, strict=True)]
    found = [[f for f in m if f.name in e] for m, e in zip((a, b), entries, strict=True)]
    bodies = [[keys.body(m, f.name) for f in fs] for m, fs in zip((a, b), found, strict=True)]
    names = [[f.name for f in fs] for fs in found]
    both = [list(zip(n, k, strict=True)) for n, k in zip(names, bodies, strict=True)]
    heads = [[_signature(f) for f in fs] for fs in found]
    rest = [[0] * len(fs) if len(found[0]) == len(found[1]) else [None] * len(fs) for fs in found]
    for n, m in sorted(aligned(both, bodies, names, heads, rest), key=in_order):
        if n is not None and (m is not None or bodies[0][n] not in called[1]):
            yield found[0][n], found[1][m] if m is not None else None
        elif n is None and m is not None and bodies[1][m] not in called[0]:
            yield None, found[1][m]


def _signature(f: Function) -> Hashable:
    attrs = tuple([(n, attribute(v)) for n, v in sorted(f.attrs.items())])
    return tuple([v.type for v in f.arguments]), tuple([v.type for v in f.results]), attrs


def _lone_function(a: Module, b: Module, f: Function | None, g: Function | None) -> Difference:
    lone = f or g
    assert lone is not None
    count = len(lone.instructions)
    detail = f"{count} op{'' if count == 1 else 's'}"
    if f is not None:
        return Difference("removed", "function", detail, _head(a, f), None)
    return Difference("added", "function", detail, None, _head(b, lone))


def _where(module: Module, part: Any, location: tuple[Location, ...] = ()) -> tuple[Location, ...]:
    """The source location, or the line of the text where there is none."""
    line = module.origin.line_of(part) if module.origin is not None and not location else 0
    return (Location(module.origin.file, line),) if module.origin is not None and line else location


def _head(module: Module, function: Function) -> Side:
    return Side(function.name, f"func @{quote(function.name)}", _where(module, function))


def _compare(keys: Keys, report: _Report, found: Diff) -> None:
    found.differences += report.differences()
    found.pairs.update(report.match.pairs)


class _Report:
    """Puts the differences of two matched functions into words; ``call`` is of kernels."""

    def __init__(
        self, match: Match, keys: Keys, kernels: dict[tuple[str, str], _Call], call: _Call | None = None
    ) -> None:
        self.match = match
        self.keys = keys
        self.kernels = kernels
        self.call = call
        self.names = (Names(match.a), Names(match.b))
        self.follows = Follows(call.follows.changes if call is not None else ())
        for n, m in match.arguments:
            if n is not None and m is not None:
                self.follows.add(match.a.arguments[n].type, match.b.arguments[m].type)

    def differences(self) -> list[Difference]:
        """Function and arguments, then ops where they stand, then results, at last places."""
        found = [*self._attributes(), *self._arguments(), *self._ops(), *self._results()]
        places = list(self._places())
        if found and len(places) > 1:  # a plan follows from the program
            more = f"; {len(places) - 1} more moved"
            places = [places[0]._replace(detail=places[0].detail + more)]
        return [*found, *places]

    def _ops(self) -> Iterator[Difference]:
        m = self.match
        after: dict[Instruction | None, list[Instruction]] = {None: []}
        last: Instruction | None = None
        for j in m.b.instructions:
            last = m.back.get(j, last)
            after.setdefault(last, [])
            if j not in m.back:
                after[last].append(j)
        for i in (None, *m.a.instructions):
            j = m.pairs.get(i) if i is not None else None
            if i is not None and j is None:
                yield Difference("removed", "op", "", self._op(0, i), None)
            elif i is not None and j is not None and (changes := list(self._changes(i, j))):
                detail = "; ".join([text for _, text in changes])
                yield Difference("changed", changes[0][0], detail, self._op(0, i), self._op(1, j))
            for added in after.get(i, ()):
                yield Difference("added", "op", "", None, self._op(1, added))

    # Sides

    def _op(self, side: int, i: Instruction) -> Side:
        module, function = self.match.modules[side], (self.match.a, self.match.b)[side]
        return Side(function.name, _short(instruction(i, self.names[side])), _where(module, i, i.location), i)

    def _argument(self, side: int, n: int | None) -> Side | None:
        if n is None:
            return None
        module, function = self.match.modules[side], (self.match.a, self.match.b)[side]
        value = function.arguments[n]
        return Side(function.name, argument(value, function.roles[n], self.names[side]), _where(module, value))

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
        m = self.match
        for n, k in m.arguments if self.call is None else ():
            a, b = self._argument(0, n), self._argument(1, k)
            if n is None or k is None:
                yield Difference("added" if n is None else "removed", "argument", "", a, b)
                continue
            u, v, roles = m.a.arguments[n], m.b.arguments[k], (m.a.roles[n], m.b.roles[k])
            texts = [f"{x or 'no role'} -> {y or 'no role'}" for x, y in [roles] if x != y]
            texts += [f"{u.type} -> {v.type}"] if u.type != v.type else []
            if texts:
                yield Difference("changed", "argument", "; ".join(texts), a, b)

    def _results(self) -> Iterator[Difference]:
        m = self.match
        for n, k in m.results:
            a, b = self._result(0, n), self._result(1, k)
            if n is None or k is None:
                yield Difference("added" if n is None else "removed", "result", "", a, b)
                continue
            marks = [self._mark(0, m.a.marks[n]), self._mark(1, m.b.marks[k])]
            if (mine := m.a.marks[n]) is None or (theirs := m.b.marks[k]) is None:
                changed = m.a.marks[n] is not m.b.marks[k]
            else:
                changed = mine.kind != theirs.kind or not self._same(mine.of, theirs.of)
            texts = [" -> ".join(marks)] if changed else []
            if not self._same(m.a.results[n], m.b.results[k]):
                what = f"result {n}" if changed or mine is None else marks[0].replace("(", " of ").rstrip(")")
                values = [self.names[0].of[m.a.results[n]], self.names[1].of[m.b.results[k]]]
                texts.append(f"{what}: {' -> '.join(values)}" if values[0] != values[1] else f"{what} is another value")
            if texts:
                yield Difference("changed", "result", "; ".join(texts), a, b)

    def _mark(self, side: int, mark: Mark | None) -> str:
        return f"{mark.kind}({self.names[side].of[mark.of]})" if mark else "no mark"

    def _changes(self, i: Instruction, j: Instruction) -> Iterator[tuple[str, str]]:
        if i.op is not j.op:
            yield "op", f"{i.op.name} -> {j.op.name}"
        else:
            near = self.follows.near(i, j)
            mine, theirs = self._without_bodies(i, j)
            kept = {n for n in mine if n in theirs and near.explain(n, mine[n], theirs[n])}
            for text in _attribute_changes(*({n: v for n, v in x.items() if n not in kept} for x in (mine, theirs))):
                yield "attribute", text
        for n, m in self.match.operands(i, j):
            if n is None or m is None:
                side, at = (1, m or 0) if n is None else (0, n)
                value = (j if side else i).operands[at]
                yield "operand", f"operand {at}: {self.names[side].of[value]} {'added' if side else 'removed'}"
            elif not self._same(i.operands[n], j.operands[m]):
                names = self.names[0].of[i.operands[n]], self.names[1].of[j.operands[m]]
                other = "" if names[0] != names[1] else ", another value"
                yield "operand", f"operand {n}: {names[0]} -> {names[1]}{other}"

    def _without_bodies(self, i: Instruction, j: Instruction) -> tuple[dict[str, Any], dict[str, Any]]:
        """Attributes without the functions that both name: those are compared on their own."""
        mine, theirs = dict(i.attrs), dict(j.attrs)
        for name, value in i.attrs.items():
            other = j.attrs.get(name)
            if isinstance(value, Symbol) and isinstance(other, Symbol):
                del mine[name], theirs[name]
                if (value, other) not in self.kernels:
                    self.kernels[value, other] = _Call(self.match.operands(i, j), self.follows.near(i, j))
        return mine, theirs

    def _places(self) -> Iterator[Difference]:
        m = self.match
        for n, k in m.arguments:
            if n is not None and k is not None and (text := self._place(m.a.arguments[n], m.b.arguments[k])):
                yield Difference("changed", "place", text, self._argument(0, n), self._argument(1, k))
        for i in m.a.instructions:
            if i in m.pairs:
                j = m.pairs[i]
                texts = [t for r, s in zip(i.results, j.results, strict=False) if (t := self._place(r, s))]
                if texts:
                    yield Difference("changed", "place", "; ".join(texts), self._op(0, i), self._op(1, j))

    def _place(self, u: Value, v: Value) -> str:
        p, q = u.place, v.place
        if p is None or q is None:
            same = p is q
        else:
            of = (p.of is None) == (q.of is None) and (p.of is None or q.of is None or self._same(p.of, q.of))
            same = p[:2] == q[:2] and of
        return "" if same else f"{self._place_text(0, u)} -> {self._place_text(1, v)}"

    def _place_text(self, side: int, v: Value) -> str:
        if v.place is None:
            return "no place"
        return f"{v.place}({self.names[side].of[v.place.of]})" if v.place.of is not None else str(v.place)

    def _same(self, u: Value, v: Value) -> bool:
        """Whether two values correspond, or differ by ops and arguments that are reported themselves."""
        x, y = (token.get(w) for token, w in zip(self.match.token, (u, v), strict=True))
        if x is not None and x == y:
            return True
        lone = self._is_lone(0, u), self._is_lone(1, v)
        return all(lone) or (lone[1] and self._reaches(1, v, x)) or (lone[0] and self._reaches(0, u, y))

    def _is_lone(self, side: int, v: Value) -> bool:
        if v.owner is None:
            return v not in self.match.token[side]
        return v.owner not in (self.match.pairs, self.match.back)[side]

    def _reaches(self, side: int, v: Value, token: int | None) -> bool:
        """Whether a value is made of another one through ops that are only on its side; far away counts as well."""
        pending, seen = [v], {v}
        while pending and len(seen) < FAR:
            value = pending.pop()
            for o in value.owner.operands if value.owner is not None and self._is_lone(side, value) else ():
                if token is not None and self.match.token[side].get(o) == token:
                    return True
                if o not in seen:
                    seen.add(o)
                    pending.append(o)
        return len(seen) >= FAR


class Follows:
    """What changes because types of arguments do: sizes and dtypes."""

    def __init__(self, changes: Iterable[tuple[Any, Any]] = ()) -> None:
        self.changes = set(changes)

    def add(self, a: TensorType, b: TensorType) -> None:
        """A changed type."""
        if a != b:
            self.changes.add((a.dtype, b.dtype))
            if len(a.shape) == len(b.shape):
                self.changes.update(zip(a.shape, b.shape, strict=True))
            self.changes.add((a.size, b.size))

    def near(self, i: Instruction, j: Instruction) -> Follows:
        """With the types of the operands of two ops."""
        types = [(u.type, v.type) for u, v in zip(i.operands, j.operands, strict=False)]
        if all(t == u for t, u in types):
            return self
        found = Follows(self.changes)
        for t, u in types:
            found.add(t, u)
        return found

    def explain(self, name: str, a: Any, b: Any) -> bool:
        """Whether an attribute is what the changes make of it."""
        if name not in SHAPED or not self.changes:
            return False
        if isinstance(a, Literal) and isinstance(b, Literal):
            shapes = a.type.shape, b.type.shape
            return self._explain(a.type.dtype, b.type.dtype) and self._explain(*shapes) and _equal_elements(a, b)
        return self._explain(a, b)

    def _explain(self, a: Any, b: Any) -> bool:
        if isinstance(a, tuple) and isinstance(b, tuple):
            x, y = cast(tuple[Any, ...], a), cast(tuple[Any, ...], b)
            return len(x) == len(y) and all(map(self._explain, x, y))
        return a == b or (a, b) in self.changes


def _equal_elements(a: Literal, b: Literal) -> bool:
    """Whether two constants of other types have the same elements, rounded to the narrower dtype."""
    if a.data.shape != b.data.shape:
        return False
    return any(Literal(saturating_cast(x.data, y.type.dtype.numpy), y.type) == y for x, y in ((a, b), (b, a)))


def _attribute_changes(a: Any, b: Any) -> Iterator[str]:
    for name in dict.fromkeys((*a, *b)):
        if name not in a:
            yield f"{name} = {_value(b[name])} added"
        elif name not in b:
            yield f"{name} = {_value(a[name])} removed"
        elif isinstance(a[name], Literal) and isinstance(b[name], Literal):
            if a[name] != b[name]:
                yield f"{name} = {_elements(a[name], b[name])}"
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
    """How two constants differ: in all, or the first element that does, and how many do."""
    if a.type != b.type:
        return f"{_value(a)} : {a.type} -> {_value(b)} : {b.type}"
    if (a.is_splat and b.is_splat) or a.type.size == 1:
        return f"{_value(a)} -> {_value(b)}"
    x, y = _bits(a.array), _bits(b.array)
    at = np.flatnonzero((x != y).reshape(a.type.size, -1).any(1))
    first = int(at[0])
    dtype = a.type.dtype
    words = f"{number(a.array.reshape(-1)[first], dtype)} -> {number(b.array.reshape(-1)[first], dtype)}"
    index = [int(n) for n in np.unravel_index(first, a.type.shape)]
    return f"{words} at {index}, {len(at)} of {a.type.size} elements differ"


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
