"""Matching two functions op by op, whatever their names and order.

First bottom-up: ops with equal op, attributes and operands are one class, whose members are told apart by their users.  What is left is
matched from there, by the operands and the users that are matched already, then by what stands around it, and at last by position.
Every match is one step of a worklist, the surest kind first, so that the work is linear in the ops.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from .graph import Function, Instruction, Module, Symbol, Value
from .literal import Literal
from .print import attribute

RADII = (3, 1, 0)
"""How far around ops must look alike that are matched by their surroundings, tried in this order."""
Pair = tuple[Instruction, Instruction]
Test = Callable[[int, Instruction], bool]
Positions = list[tuple[int | None, int | None]]


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

    def attrs(self, module: Module, attrs: Any) -> int:
        """Attributes as a number: functions by what they hold, floats by their bits, every NaN equal."""
        return self.number(tuple([(name, self._attr(module, value)) for name, value in sorted(attrs.items())]))

    def _attr(self, module: Module, value: Any) -> Hashable:
        if isinstance(value, Literal):
            return value
        if isinstance(value, Symbol) and value in module.functions:
            return ("function", self.body(module, value))
        return attribute(value)

    def body(self, module: Module, name: str) -> int:
        """The number of a function's whole structure."""
        known = self._bodies.get((id(module), name))
        if known is not None:
            return known
        function = module[name]
        of = {v: self.number(("argument", n, v.type)) for n, v in enumerate(function.arguments)}
        ops: list[int] = []
        for i in function.instructions:
            operands, types = tuple([of[o] for o in i.operands]), tuple([r.type for r in i.results])
            key = self.number((i.op.name, self.attrs(module, i.attrs), operands, types))
            of.update({r: self.number(("result", key, n)) for n, r in enumerate(i.results)})
            ops.append(self.number((key, self._places(i.results, of))))
        marks = tuple([m and (m.kind, of[m.of]) for m in function.marks])
        results = tuple([of[v] for v in function.results])
        head = (tuple(function.roles), tuple([of[v] for v in function.arguments]))
        places = self._places(function.arguments, of)
        form = (*head, places, tuple(sorted(ops)), results, marks, self.attrs(module, function.attrs))
        self._bodies[id(module), name] = known = self.number(("function", *form))
        return known

    def _places(self, values: Sequence[Value], of: dict[Value, int]) -> Hashable:
        return tuple([v.place and (*v.place[:2], v.place.of and of[v.place.of]) for v in values])


class Match:
    """The correspondence of two functions.

    ``pairs`` maps matched instructions of ``a`` to those of ``b``, ``arguments`` and ``results`` are matched positions (None: only on
    the other side), and ``token`` is, for each side, equal for two values just when they correspond.
    """

    def __init__(
        self,
        keys: Keys,
        modules: tuple[Module, Module],
        functions: tuple[Function, Function],
        arguments: Positions | None = None,
    ) -> None:
        self._keys = keys
        self.modules = modules
        self.a, self.b = functions
        self.pairs: dict[Instruction, Instruction] = {}
        self.back: dict[Instruction, Instruction] = {}
        self.token: tuple[dict[Value, int], dict[Value, int]] = ({}, {})
        self._sides = _Side(keys, modules[0], self.a, self.pairs), _Side(keys, modules[1], self.b, self.back)
        self._tables = _Tables()
        self._surroundings: dict[int | None, _Table] = {}
        self._meetings: tuple[deque[Pair], ...] = tuple([deque[Pair]() for _ in range(4)])
        self._known: deque[tuple[int, Value]] = deque()
        self._late: deque[tuple[int, Instruction, int]] = deque()
        self.arguments = arguments if arguments is not None else self._argument_pairs()
        self._start()
        self.results = self._result_pairs()
        for n, m in self.results:
            if n is not None and m is not None:
                self._meet(self.a.results[n], self.b.results[m])
        self._run()

    # Arguments and results

    def _argument_pairs(self) -> Positions:
        """Arguments of one role in order; where their numbers differ by name, by use and by type; then those that change role."""
        found: Positions = []
        rest: tuple[list[int], list[int]] = ([], [])
        if Counter(self.a.roles) != Counter(self.b.roles):
            if [v.type for v in self.a.arguments] == [v.type for v in self.b.arguments]:  # some change their role alone
                return [(n, n) for n in range(len(self.a.arguments))]
        for role in dict.fromkeys((*self.a.roles, *self.b.roles)):
            here, there = ([n for n, r in enumerate(f.roles) if r == role] for f in (self.a, self.b))
            for n, m in self._arguments_of(here, there):
                if n is not None and m is not None:
                    found.append((n, m))
                elif n is not None:
                    rest[0].append(n)
                elif m is not None:
                    rest[1].append(m)
        given = [self.a.arguments[n] for n in rest[0]], [self.b.arguments[m] for m in rest[1]]
        found += _picked(
            rest, aligned([[(v.name, v.type) for v in vs] for vs in given], [[v.type for v in vs] for vs in given])
        )
        return sorted(found, key=in_order)

    def _arguments_of(self, here: list[int], there: list[int]) -> Positions:
        if len(here) == len(there):
            return list(zip(here, there, strict=True))
        a, b = [self.a.arguments[n] for n in here], [self.b.arguments[m] for m in there]
        names = [[v.name and (v.name, v.type) for v in vs] for vs in (a, b)]
        uses = [[(v.type, side.uses(v)) for v in vs] for side, vs in zip(self._sides, (a, b), strict=True)]
        types = [[v.type for v in vs] for vs in (a, b)]
        return _picked((here, there), aligned(names, uses, types))

    def _result_pairs(self) -> Positions:
        """Marked results by what they mark; the others in order or, where their numbers differ, by value and by type."""
        marks: list[dict[Hashable, int]] = [{}, {}]
        rest: list[list[int]] = [[], []]
        for side, f in enumerate((self.a, self.b)):
            for n, mark in enumerate(f.marks):
                if mark is not None and mark.of in self.token[side]:
                    marks[side][mark.kind, self.token[side][mark.of]] = n
        found: Positions = [(n, marks[1][key]) for key, n in marks[0].items() if key in marks[1]]
        paired = {n for n, _ in found}, {m for _, m in found}
        for side, f in enumerate((self.a, self.b)):
            rest[side] = [n for n in range(len(f.results)) if n not in paired[side]]
        plain = [[n for n in ns if f.marks[n] is None] for f, ns in zip((self.a, self.b), rest, strict=True)]
        if len(plain[0]) == len(plain[1]):
            found += zip(*plain, strict=True)
            rest = [[n for n in ns if n not in p] for ns, p in zip(rest, map(set, plain), strict=True)]
        values = [[f.results[n] for n in ns] for f, ns in zip((self.a, self.b), rest, strict=True)]
        tokens = [[t.get(v) for v in vs] for t, vs in zip(self.token, values, strict=True)]
        found += _picked(rest, aligned(tokens, [[v.type for v in vs] for vs in values]))
        return sorted(found, key=in_order)

    def operands(self, i: Instruction, j: Instruction) -> Positions:
        """Which operands belong together: those of one position or, where their numbers differ, by value and by type."""
        if len(i.operands) == len(j.operands):
            return [(n, n) for n in range(len(i.operands))]
        tokens = [[t.get(o) for o in x.operands] for t, x in zip(self.token, (i, j), strict=True)]
        return aligned(tokens, [[o.type for o in x.operands] for x in (i, j)])

    # The worklist

    def _start(self) -> None:
        for n, m in self.arguments:
            if n is not None and m is not None:
                self._name(self.a.arguments[n], self.b.arguments[m])
        for number, side in enumerate(self._sides):
            for i in side.function.instructions:
                if not i.operands:
                    self._ready(number, i)
        self._spread()

    def _run(self) -> None:
        t, s = self._tables, self._sides
        free, open_ = self._is_free, self._is_open
        sources: tuple[Callable[[], Pair | None], ...] = (
            lambda: t.equal.take(open_, alone=True),
            lambda: self._met(0, open_, lambda i, j: s[0].form.get(i, -1) == s[1].form.get(j, -2)),
            self._loosen,
            lambda: t.operands.take(free, alone=True),
            lambda: self._met(1, free, lambda i, j: i.op is j.op and s[0].attrs[i] == s[1].attrs[j]),
            lambda: self._met(2, free, lambda i, j: i.op is j.op),
            lambda: self._met(3, free, lambda i, j: self._tokens(0, i) == self._tokens(1, j) is not None),
            lambda: t.replaced.take(free, alone=True),
            lambda: t.an_operand.take(free, alone=True),
            lambda: t.equal_places.take(open_),
            lambda: t.equal.take(open_),
            lambda: t.operands.take(free),
            lambda: t.an_operand.take(free),
            lambda: t.any_attrs.take(free, alone=True),
            *[lambda radius=radius: self._around(radius).take(free) for radius in RADII],
            lambda: t.any_op.take(free, alone=True),
            lambda: self._around(None).take(free, alone=True),
        )
        most = min(len(self.a.instructions), len(self.b.instructions))
        while len(self.pairs) < most:
            pair = next(filter(None, (take() for take in sources)), None)
            if pair is None:
                return
            self._pair(*pair)
            self._spread()

    def _pair(self, i: Instruction, j: Instruction) -> None:
        self.pairs[i], self.back[j] = j, i
        form = self._sides[0].leave(i), self._sides[1].leave(j)
        if form[0] is None or form[0] != form[1]:
            for r, s in zip(i.results, j.results, strict=False):
                self._name(r, s)
        for n, m in self.operands(i, j):
            if n is not None and m is not None:
                self._meet(i.operands[n], j.operands[m])

    def _name(self, u: Value, v: Value) -> None:
        """Two values correspond, whatever they are."""
        token = self._keys.fresh()
        for side, value in enumerate((u, v)):
            if value not in self.token[side]:
                self._known.append((side, value))
            self.token[side][value] = token

    def _meet(self, u: Value, v: Value) -> None:
        """Two values are used alike: maybe their ops belong together."""
        i, j = u.owner, v.owner
        if i is not None and j is not None and i not in self.pairs and j not in self.back:
            if i.results.index(u) == j.results.index(v):
                self._meetings[0].append((i, j))

    def _met(self, level: int, test: Test, same: Callable[[Instruction, Instruction], bool]) -> Pair | None:
        """The next ops in one place that pass; the others wait for the next level."""
        while self._meetings[level]:
            i, j = pair = self._meetings[level].popleft()
            if test(0, i) and test(1, j) and same(i, j):
                return pair
            if level + 1 < len(self._meetings) and self._is_open(0, i) and self._is_open(1, j):
                self._meetings[level + 1].append(pair)
        return None

    def _spread(self) -> None:
        """What follows from new tokens: ops all of whose operands have one, and equal ones among them."""
        while self._known:
            number, value = self._known.popleft()
            side = self._sides[number]
            for i, n in side.users[value]:
                if i not in side.taken:
                    self._late.append((number, i, n))
                side.unknown[i] -= 1
                if not side.unknown[i] and i not in side.taken:
                    self._ready(number, i)

    def _ready(self, number: int, i: Instruction) -> None:
        here, there, t = self._sides[number], self._sides[1 - number], self._tables
        tokens = self._tokens(number, i)
        form = self._keys.number((i.op.name, here.attrs[i], tokens))
        here.enter(i, form)
        t.equal.add(number, form, i)
        if (places := _places(i)) is not None:
            t.equal_places.add(number, (form, places), i)
        self._late.append((number, i, -1))
        if there.members[form]:
            self._agree(number, form, i)
            if len(here.members[form]) == 1:
                for j in there.members[form]:
                    self._agree(1 - number, form, j)

    def _loosen(self) -> None:
        """Ops that no equal one was found for may be matched by less."""
        t = self._tables
        while self._late:
            number, i, n = self._late.popleft()
            side, token = self._sides[number], self.token[number]
            if not self._is_free(number, i):
                continue
            types = side.types[i]
            if n >= 0:
                key = i.op.name, n, token[i.operands[n]]
                t.an_operand.add(number, (*key, types, side.attrs[i]), i)
                t.any_attrs.add(number, key, i)
            elif tokens := self._tokens(number, i):
                t.operands.add(number, (i.op.name, tokens), i)
                t.replaced.add(number, (tokens, *[side.uses(r) for r in i.results]), i)
                t.any_op.add(number, (tokens, types), i)

    def _agree(self, number: int, form: int, i: Instruction) -> None:
        """The op has equals on the other side."""
        for n, r in enumerate(i.results):
            if r not in self.token[number]:
                self.token[number][r] = self._keys.number(("result", form, n))
                self._known.append((number, r))

    def _tokens(self, number: int, i: Instruction) -> tuple[int, ...] | None:
        """The tokens of the operands, if all have one."""
        token = self.token[number]
        found = tuple([token[o] for o in i.operands if o in token])
        return found if len(found) == len(i.operands) else None

    def _is_open(self, number: int, i: Instruction) -> bool:
        return i not in self._sides[number].taken

    def _is_free(self, number: int, i: Instruction) -> bool:
        """Whether it is open, and its equals on the other side have others to be matched with."""
        here, there = self._sides[number], self._sides[1 - number]
        form = here.form.get(i)
        return i not in here.taken and (form is None or here.open[form] > there.open[form])

    def _around(self, radius: int | None) -> _Table:
        """The open ops by what stands around them (None: by the kind and the uses of their results alone)."""
        if radius not in self._surroundings:
            table = self._surroundings[radius] = _Table()
            for number, side in enumerate(self._sides):
                labels = side.labels(self._keys, radius, self.token[number]) if radius is not None else side.kinds()
                for i in side.function.instructions:
                    if i not in side.taken:
                        table.add(number, labels[i], i)
        return self._surroundings[radius]


class _Side:
    """One of the two functions: who uses its values, and its ops that have tokens for all operands, by their form."""

    def __init__(self, keys: Keys, module: Module, function: Function, taken: dict[Instruction, Instruction]) -> None:
        self.function = function
        self.taken = taken
        self.attrs = {i: keys.attrs(module, i.attrs) for i in function.instructions}
        self.types = {i: keys.number(tuple([r.type for r in i.results])) for i in function.instructions}
        self.unknown = {i: len(i.operands) for i in function.instructions}
        self.users: dict[Value, list[tuple[Instruction, int]]] = defaultdict(list)
        for i in function.instructions:
            for n, o in enumerate(i.operands):
                self.users[o].append((i, n))
        self._returned: dict[Value, list[tuple[str, int]]] = defaultdict(list)
        for v, mark in zip(function.results, function.marks, strict=True):
            self._returned[v].append((f"return {mark.kind}" if mark else "return", 0))
            if mark:
                self._returned[mark.of].append((mark.kind, 0))
        self.form: dict[Instruction, int] = {}
        self.members: dict[int, list[Instruction]] = defaultdict(list)
        self.open = Counter[int]()

    def enter(self, i: Instruction, form: int) -> None:
        """The op has a form now."""
        self.form[i] = form
        self.members[form].append(i)
        self.open[form] += 1

    def leave(self, i: Instruction) -> int | None:
        """The form of an op that is matched now."""
        form = self.form.get(i)
        if form is not None:
            self.open[form] -= 1
        return form

    def uses(self, value: Value) -> Hashable:
        """What ops use a value, and as which operand, and what results it is or is marked in."""
        return tuple(sorted([*[(i.op.name, n) for i, n in self.users[value]], *self._returned[value]]))

    def kinds(self) -> dict[Instruction, Hashable]:
        """Every op's name, types and uses."""
        return {i: (i.op.name, self.types[i], *[self.uses(r) for r in i.results]) for i in self.function.instructions}

    def labels(self, keys: Keys, radius: int, token: dict[Value, int]) -> dict[Instruction, Hashable]:
        """What stands around every op, as a number."""
        label: dict[Instruction, Any] = {}
        for i in self.function.instructions:
            label[i] = keys.number((i.op.name, self.attrs[i], tuple([o.type for o in i.operands]), self.types[i]))
        for _ in range(radius):

            def above(v: Value, known: dict[Instruction, Any] = label) -> Hashable:
                return known[v.owner] if v.owner is not None else (token.get(v),)

            def below(v: Value, known: dict[Instruction, Any] = label) -> Hashable:
                return tuple(sorted([(known[i], n) for i, n in self.users[v]]))

            label = {
                i: keys.number((known, tuple(map(above, i.operands)), tuple(map(below, i.results))))
                for i, known in label.items()
            }
        return label


class _Table:
    """Ops of both sides under keys.  A key with ops on both sides is a candidate."""

    def __init__(self) -> None:
        self._waiting: tuple[dict[Hashable, deque[Instruction]], ...] = ({}, {})
        self._ready = deque[Hashable]()
        self._crowded = deque[Hashable]()

    def add(self, side: int, key: Hashable, i: Instruction) -> None:
        self._waiting[side].setdefault(key, deque()).append(i)
        if self._waiting[1 - side].get(key):
            self._ready.append(key)

    def take(self, test: Test, alone: bool = False) -> Pair | None:
        """The first ops of one key that pass; ``alone``: only where no others of that key do."""
        queue = self._ready if alone else self._crowded
        while queue or (not alone and self._ready):
            key = queue.popleft() if queue else self._ready.popleft()
            mine, theirs = (self._passing(side, key, test) for side in (0, 1))
            if mine and theirs:
                if len(mine) == len(theirs) == 1 or not alone:
                    if len(mine) > 1 < len(theirs):
                        queue.appendleft(key)
                    return mine.popleft(), theirs.popleft()
                self._crowded.append(key)
        return None

    def _passing(self, side: int, key: Hashable, test: Test) -> deque[Instruction]:
        """The ops under a key: the first and the last one pass."""
        found = self._waiting[side][key]
        while found and not test(side, found[0]):
            found.popleft()
        while found and not test(side, found[-1]):
            found.pop()
        return found


class _Tables:
    """Open ops by their form, and by less and less of it."""

    def __init__(self) -> None:
        self.equal, self.equal_places, self.operands = _Table(), _Table(), _Table()
        self.replaced, self.an_operand, self.any_attrs, self.any_op = _Table(), _Table(), _Table(), _Table()


def aligned(*levels: Sequence[Sequence[Hashable]]) -> Positions:
    """Positions of equal keys in two lists: what they begin and end with, then in order; next by the keys of the next level.

    A key of None equals nothing.
    """
    found: Positions = []
    left = list(range(len(levels[0][0]))), list(range(len(levels[0][1])))
    for a, b in levels:
        n = _common(([a[x] for x in left[0]], [b[y] for y in left[1]]))
        found += zip(left[0][:n], left[1][:n], strict=True)
        left = left[0][n:], left[1][n:]
        n = _common(([a[x] for x in reversed(left[0])], [b[y] for y in reversed(left[1])]))
        found += zip(left[0][len(left[0]) - n :], left[1][len(left[1]) - n :], strict=True)
        left = left[0][: len(left[0]) - n], left[1][: len(left[1]) - n]
        waiting: dict[Hashable, deque[int]] = defaultdict(deque)
        for y in left[1]:
            waiting[b[y]].append(y)
        met = [(x, waiting[a[x]].popleft()) for x in left[0] if a[x] is not None and waiting.get(a[x])]
        found += met
        taken = {x for x, _ in met}, {y for _, y in met}
        left = [x for x in left[0] if x not in taken[0]], [y for y in left[1] if y not in taken[1]]
    return [*found, *((x, None) for x in left[0]), *((None, y) for y in left[1])]


def _common(keys: tuple[Sequence[Hashable], Sequence[Hashable]]) -> int:
    """How many keys two lists begin with in common."""
    return next((n for n, (x, y) in enumerate(zip(*keys, strict=False)) if x is None or x != y), min(map(len, keys)))


def _picked(of: Sequence[list[int]], positions: Positions) -> Positions:
    return [(None if n is None else of[0][n], None if m is None else of[1][m]) for n, m in positions]


def in_order(pair: tuple[int | None, int | None]) -> float:
    """A sort key: what is only on the second side stands just before what has its position on the first."""
    n, m = pair
    return float(n) if n is not None else (m or 0) - 0.5


def _places(i: Instruction) -> Hashable:
    return tuple([r.place and r.place[:2] for r in i.results]) if any(r.place for r in i.results) else None
