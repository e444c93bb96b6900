"""Matching two functions op by op, whatever their names and order.

First bottom-up: ops with equal op, attributes and operands are one, and equal ones are told apart by position.  What is left is matched
from there, by the operands and the users that are matched already, and at last by position alone.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from difflib import SequenceMatcher
from typing import Any

from .graph import Function, Instruction, Module, Symbol, Value
from .literal import Literal
from .print import attribute
from .types import TensorType


class Keys:
    """Gives equal structures equal numbers, in both modules."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._bodies: dict[tuple[int, str], int] = {}

    def number(self, form: Hashable) -> int:
        """The number of a structure."""
        return self._numbers.setdefault(form, len(self._numbers))

    def fresh(self) -> int:
        """A number of nothing else."""
        return self.number(("fresh", len(self._numbers)))

    def attrs(self, module: Module, attrs: Any) -> Hashable:
        """Attributes as a key: functions by what they hold, floats by their bits, every NaN equal."""
        return tuple([(name, self._attr(module, value)) for name, value in sorted(attrs.items())])

    def _attr(self, module: Module, value: Any) -> Hashable:
        if isinstance(value, Literal):
            return value
        if isinstance(value, Symbol) and value in module.functions:
            return ("function", self.body(module, value))
        return attribute(value)

    def body(self, module: Module, name: str) -> int:
        """The number of a function's whole structure."""
        known = self._bodies.get((id(module), name))
        if known is None:
            function = module[name]
            values = {v: self.number(("argument", n, v.type)) for n, v in enumerate(function.arguments)}
            ops = sorted(self.ops(module, function, values).values())
            marks = [m and (m.kind, values.get(m.of)) for m in function.marks]
            results = tuple([values.get(v) for v in function.results])
            form = ("function", tuple(function.roles), tuple(values[v] for v in function.arguments))
            attrs = self.attrs(module, function.attrs)
            known = self.number((*form, tuple(ops), results, tuple(marks), attrs))
            self._bodies[id(module), name] = known
        return known

    def ops(self, module: Module, function: Function, values: dict[Value, int]) -> dict[Instruction, int]:
        """The number of every instruction; adds the numbers of their results to ``values``."""
        numbers: dict[Instruction, int] = {}
        for i in function.instructions:
            operands = tuple([values[o] for o in i.operands])
            types = tuple([r.type for r in i.results])
            key = numbers[i] = self.number((i.op.name, self.attrs(module, i.attrs), operands, types))
            for n, r in enumerate(i.results):
                values[r] = self.number(("result", key, n))
        return numbers


class Match:
    """The correspondence of two functions.

    ``pairs`` maps matched instructions of ``a`` to those of ``b``, ``arguments`` are matched arguments (None: only on the other
    side), and ``token`` is equal for two values just when they correspond.
    """

    def __init__(self, keys: Keys, modules: tuple[Module, Module], functions: tuple[Function, Function]) -> None:
        self._keys = keys
        self.a, self.b = functions
        self.modules = modules
        self.pairs: dict[Instruction, Instruction] = {}
        self.back: dict[Instruction, Instruction] = {}
        self.token: dict[Value, int] = {}
        self.arguments = list(_argument_pairs(self.a, self.b))
        self.results = list(self._result_pairs())
        self._attrs = {
            i: keys.attrs(m, i.attrs) for m, f in zip(modules, functions, strict=True) for i in f.instructions
        }
        self._match_equal()
        rounds: tuple[Callable[[], int], ...] = (
            self._by_operands,
            self._by_users,
            self._by_an_operand,
            self._replaced,
            self._by_form,
        )
        while any(r() for r in rounds):
            pass

    # What is matched

    def _pair(self, i: Instruction, j: Instruction) -> None:
        self.pairs[i], self.back[j] = j, i
        for r, s in zip(i.results, j.results, strict=False):
            self.token[r] = self.token[s] = self._keys.fresh()

    def _open(self) -> list[Instruction]:
        return [i for i in self.a.instructions if i not in self.pairs]

    def _open_b(self) -> list[Instruction]:
        return [j for j in self.b.instructions if j not in self.back]

    def _result_pairs(self) -> Iterator[tuple[int | None, int | None]]:
        """Positions of results that belong together: marked ones by what they mark, the others in order."""
        token: dict[Value, int] = {}
        for n, (u, v) in enumerate(self.arguments):
            token.update({x: n for x in (u, v) if x is not None})
        places: list[dict[Hashable, int]] = []
        for f in (self.a, self.b):
            plain = iter(range(len(f.results)))
            places.append({(m.kind, token[m.of]) if m else ("plain", next(plain)): n for n, m in enumerate(f.marks)})
        for key in dict.fromkeys((*places[0], *places[1])):
            yield places[0].get(key), places[1].get(key)

    def _match_equal(self) -> None:
        """Bottom-up: equal op, attributes and operands."""
        values: tuple[dict[Value, int], dict[Value, int]] = ({}, {})
        for n, pair in enumerate(self.arguments):
            for v, known in zip(pair, values, strict=True):
                if v is not None:
                    known[v] = self._keys.number(("argument", n, v.type))
                    self.token[v] = self._keys.number(("paired argument", n))
        numbers = [
            self._keys.ops(m, f, known) for m, f, known in zip(self.modules, (self.a, self.b), values, strict=True)
        ]
        users = [_users_of(f, n) for f, n in zip((self.a, self.b), numbers, strict=True)]
        for use, place in ((True, True), (True, False), (False, True), (False, False)):
            waiting: dict[Hashable, deque[Instruction]] = defaultdict(deque)

            def key(side: int, i: Instruction, use: bool = use, place: bool = place) -> Hashable:
                return numbers[side][i], users[side][i] if use else (), _places(i) if place else ()

            for j in self._open_b():
                waiting[key(1, j)].append(j)
            for i in self._open():
                found = waiting.get(key(0, i))
                if found:
                    j = found.popleft()
                    self.pairs[i], self.back[j] = j, i
        for known, paired in zip(values, (self.pairs, self.back), strict=True):
            self.token.update({v: n for v, n in known.items() if v.owner is not None and v.owner in paired})

    def _tokens(self, i: Instruction) -> tuple[int | None, ...]:
        return tuple([self.token.get(o) for o in i.operands])

    def _by_operands(self) -> int:
        """One op on matched operands; equal attributes first."""
        made = 0
        for attrs in (True, False):
            waiting: dict[Hashable, deque[Instruction]] = defaultdict(deque)

            def key(i: Instruction, attrs: bool = attrs) -> Hashable:
                return i.op.name, self._tokens(i), self._attrs[i] if attrs else ()

            pending = deque(self._open_b())
            for i in self._open():
                tokens = self._tokens(i)
                if not tokens or None in tokens:
                    continue
                while pending:  # those whose operands became known meanwhile are found in the next round
                    j = pending.popleft()
                    waiting[key(j)].append(j)
                j = _first(waiting.get(key(i)), self.back)
                if j is not None:
                    made += 1
                    self._pair(i, j)
                    pending.extend(u for r in j.results for u in self._users(r) if u not in self.back)
        return made

    def _users(self, value: Value) -> list[Instruction]:
        if not hasattr(self, "_use"):
            self._use: dict[Value, list[Instruction]] = defaultdict(list)
            for j in self.b.instructions:
                for o in dict.fromkeys(j.operands):
                    self._use[o].append(j)
        return self._use[value]

    def _meetings(self) -> Iterator[tuple[Instruction, Instruction]]:
        """Unmatched ops that make the same operand of matched users, or the same result."""
        ends: Iterable[tuple[Value, Value]] = (
            (self.a.results[n], self.b.results[m]) for n, m in self.results if n is not None and m is not None
        )
        for x, y in (
            *ends,
            *((x, y) for i, j in reversed(self.pairs.items()) for x, y in zip(i.operands, j.operands, strict=False)),
        ):
            p, q = x.owner, y.owner
            if p is not None and q is not None and p not in self.pairs and q not in self.back:
                if len(p.results) == len(q.results) and p.results.index(x) == q.results.index(y):
                    yield p, q

    def _by_users(self) -> int:
        """One op for matched users."""
        made = 0
        pending = deque(self._meetings())
        while pending:
            p, q = pending.popleft()
            if p.op is not q.op or p in self.pairs or q in self.back:
                continue
            made += 1
            self._pair(p, q)
            for x, y in zip(p.operands, q.operands, strict=False):
                if (
                    x.owner is not None
                    and y.owner is not None
                    and x.owner not in self.pairs
                    and y.owner not in self.back
                ):
                    pending.append((x.owner, y.owner))
        return made

    def _by_an_operand(self) -> int:
        """One op with equal attributes and types, of which an operand is matched."""

        def keys(i: Instruction) -> Iterator[Hashable]:
            types = tuple([r.type for r in i.results])
            for n, token in enumerate(self._tokens(i)):
                if token is not None:
                    yield i.op.name, self._attrs[i], types, n, token

        return self._by_keys(keys)

    def _replaced(self) -> int:
        """Another op in an op's place: between the same operands and users, or alone on the same operands."""
        made = 0
        for p, q in list(self._meetings()):
            if p in self.pairs or q in self.back:
                continue
            tokens = self._tokens(p)
            if tokens and None not in tokens and tokens == self._tokens(q):
                made += 1
                self._pair(p, q)
        if made:
            return made
        alone: list[dict[Hashable, list[Instruction]]] = []
        for instructions in (self._open(), self._open_b()):
            by_form: dict[Hashable, list[Instruction]] = defaultdict(list)
            for i in instructions:
                tokens = self._tokens(i)
                if tokens and None not in tokens:
                    by_form[tokens, tuple([r.type for r in i.results])].append(i)
            alone.append(by_form)
        for form, mine in alone[0].items():
            theirs = alone[1].get(form, [])
            if len(mine) == len(theirs) == 1:
                made += 1
                self._pair(mine[0], theirs[0])
        return made

    def _by_form(self) -> int:
        """By position: the n-th unmatched op of a name, attributes and types is the n-th of the other side."""

        def keys(i: Instruction) -> Iterator[Hashable]:
            types = tuple([v.type for v in (*i.operands, *i.results)])
            yield i.op.name, self._attrs[i], types

        return self._by_keys(keys)

    def _by_keys(self, keys: Callable[[Instruction], Iterator[Hashable]]) -> int:
        waiting: dict[Hashable, deque[Instruction]] = defaultdict(deque)
        for j in self._open_b():
            for key in keys(j):
                waiting[key].append(j)
        made = 0
        for i in self._open():
            for key in keys(i):
                j = _first(waiting.get(key), self.back)
                if j is not None:
                    made += 1
                    self._pair(i, j)
                    break
        return made


def _users_of(function: Function, numbers: dict[Instruction, int]) -> dict[Instruction, Hashable]:
    """For every instruction who uses it where, which tells equal ones apart."""
    users: dict[Value, list[tuple[int, int, int]]] = defaultdict(list)
    for i in function.instructions:
        for n, o in enumerate(i.operands):
            users[o].append((0, numbers[i], n))
    for n, v in enumerate(function.results):
        users[v].append((1, n, 0))
    return {i: tuple([tuple(sorted(users[r])) for r in i.results]) for i in function.instructions}


def _first(waiting: deque[Instruction] | None, taken: Any) -> Instruction | None:
    while waiting:
        j = waiting.popleft()
        if j not in taken:
            return j
    return None


def _places(i: Instruction) -> Hashable:
    return tuple([r.place and r.place[:2] for r in i.results])


def _argument_pairs(a: Function, b: Function) -> Iterator[tuple[Value | None, Value | None]]:
    """Arguments of one role in order; where their numbers differ, those of one name and type first, then runs of equal types."""
    for role in dict.fromkeys((*a.roles, *b.roles)):
        mine = [v for v, r in zip(a.arguments, a.roles, strict=True) if r == role]
        theirs = [v for v, r in zip(b.arguments, b.roles, strict=True) if r == role]
        if len(mine) == len(theirs):
            yield from zip(mine, theirs, strict=True)
            continue
        named: dict[tuple[str | None, TensorType], Value] = {(v.name, v.type): v for v in theirs if v.name is not None}
        pairs = {v: named[v.name, v.type] for v in mine if (v.name, v.type) in named}
        mine_left = [v for v in mine if v not in pairs]
        taken = set(pairs.values())
        theirs_left = [v for v in theirs if v not in taken]
        types = [v.type for v in mine_left], [v.type for v in theirs_left]
        for at, to, size in SequenceMatcher(None, *types, autojunk=False).get_matching_blocks():
            pairs.update(zip(mine_left[at : at + size], theirs_left[to : to + size], strict=True))
        taken = set(pairs.values())
        yield from ((v, pairs.get(v)) for v in mine)
        yield from ((None, v) for v in theirs if v not in taken)
