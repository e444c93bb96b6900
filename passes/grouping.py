"""Which ops become one kernel.

One walk over the ops in order puts each into the group of one of its operands, or a new one.  Views are index maps: every kernel has
its own copies, and nothing moves.  An op joins a group if it runs over the same elements (or over the group's reduced ones) and reads
the group's values where they are made.  Reductions over the same axes that read one value from outside join each other, and so do copies
of parts of one value.  Groups are ordered by depth: what depends on a group is deeper, so an op may join a group when all it reads
elsewhere is shallower; no path is ever searched.  A cheap producer (``CLONED_COST``) that reads at most one array of its own size is
computed again by each kernel that needs it instead of being stored; so is padding, whatever it pads.  At the end, reductions take in chains
(``INLINED_COST``) whose result only they read, where they then read no more arrays.

Ops that can fail keep their order, so that of several the user's first one raises: each is at least as deep as the one before it, and
those of one group follow each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Set
from typing import Self

from ..ir import Function, Instruction, Module, Value
from ..ir.composite import can_fail
from ..ir.op import (
    Composite,
    Contract,
    Control,
    Elementwise,
    Gather,
    Join,
    Key,
    Layout,
    Random32,
    Reduce,
    Scatter,
    Source,
    View,
)
from ..ir.types import Shape
from .group import Group, find, is_plain, spreads, view_layout
from .loops import COMBINED, are_neighbours, rules, split_of
from .manager import Context

MEMBERS = 64
CLONED_COST = 2
INLINED_COST = 4
"""Ops of a chain that a reduction computes itself instead of reading its result, where it then reads no more arrays."""
SOON = 3
"""How much deeper a reduction may be than one that it joins because both read one value."""
SINGLE_ROW = 1 << 13
"""A reduction of everything joins only groups up to this size: one row is not shared by threads."""
JOINED = 4


class Fuser:
    """Groups the ops of one function; those in ``alone`` stay as they are."""

    def __init__(self, module: Module, function: Function, context: Context, alone: Set[Instruction]) -> None:
        self.module, self.function, self.context, self.alone = module, function, context, alone
        self.group_of: dict[Instruction, Group] = {}
        self.depths: dict[Instruction, int] = {}
        self.users: dict[Value, list[Instruction]] = {}
        self.sources: dict[Value, tuple[Value, Layout | None]] = {}
        self.cloned: dict[Value, tuple[Value, ...] | None] = {}
        self.checked = {i.operands[i.op.check.operand] for i in function.instructions if i.op.check and can_fail(i)}
        """Operands that are looked at before a kernel runs, so they are in memory."""
        self.readers: dict[Value, list[Group]] = {}
        """The groups that read every element of a value that they do not make."""
        self.movers: dict[tuple[Value, Shape], list[Group]] = {}
        """The groups of copies of parts of a value, by that and the shape of the parts."""
        self.position = {i: n for n, i in enumerate(function.instructions)}
        self.failing = [i for i in function.instructions if can_fail(i, module)]
        self.check_number = {i: n for n, i in enumerate(self.failing)}
        for i in function.instructions:
            for o in i.operands:
                self.users.setdefault(o, []).append(i)
        self.returned = set(function.results)

    # What ops are

    def source(self, v: Value) -> tuple[Value, Layout | None]:
        """The value behind a chain of views, and how ``v`` lies in its memory (None where it would have to move)."""
        if v not in self.sources:
            i = v.owner
            if i is not None and isinstance(i.op, View) and i not in self.group_of:
                source, layout = self.source(i.operands[0])
                self.sources[v] = source, view_layout(i, layout)
            else:
                self.sources[v] = v, Layout.contiguous(v.type.shape)
        return self.sources[v]

    def _moves(self, i: Instruction) -> bool:
        """Whether a view must be copied: someone reads its result in rows, and it does not lie so."""
        result = i.result
        _, layout = self.source(result)
        if layout is not None and layout.is_contiguous:
            return False
        if self.source(result)[0].owner is not None and isinstance(self.source(result)[0].owner.op, Source):  # type: ignore[union-attr]
            return False
        return result in self.returned or any(
            isinstance(u.op, (Contract, Scatter, Gather, Control, Key))
            or (isinstance(u.op, Composite) and u.op.reads_rows)
            or (isinstance(u.op, Join) and not self._is_joinable(u))
            for u in self.users.get(result, ())
        )

    def _is_joinable(self, i: Instruction) -> bool:
        if len(i.operands) > JOINED or any(isinstance(u.op, Control) for u in self.users.get(i.result, ())):
            return False
        if i.op.name == "pad" and any(
            u.op.name == "concat" and any(isinstance(w.op, Control) for w in self.users.get(u.result, ()))
            for u in self.users.get(i.result, ())
        ):
            return False
        blocks = rules(i).blocks(tuple([o.type for o in i.operands]), **i.attrs)
        return all(s == 1 for b in blocks for s in b.step)

    def _is_compute(self, i: Instruction) -> bool:
        """Whether an op can be part of a kernel."""
        op = i.op
        if i in self.alone or i.result.type.size == 0 or any(o.type.size == 0 for o in i.operands):
            return False
        if isinstance(op, View):
            return self._moves(i)
        if isinstance(op, Reduce):
            return op.combine in COMBINED and are_neighbours(i.attrs["axes"])
        if isinstance(op, Join):
            return self._is_joinable(i)
        if isinstance(op, Gather):
            layout = self.source(i.operands[0])[1]
            return layout is not None and layout.is_contiguous
        if isinstance(op, Elementwise):
            return not can_fail(i, self.module)
        return isinstance(op, Random32)

    def clone_leaves(self, v: Value) -> tuple[Value, ...] | None:
        """What a cheap producer reads, if it is to be computed again by each kernel that needs it."""
        if v not in self.cloned:
            checked = v in {self.source(c)[0] for c in self.checked}
            self.cloned[v] = None if checked else self._find_leaves(v)
        return self.cloned[v]

    @staticmethod
    def _is_simple(i: Instruction) -> bool:
        """Whether an op takes about a cycle an element."""
        return isinstance(i.op, Elementwise) and i.op.rounding == "correct" and i.op.name not in ("div", "sqrt")

    def _find_leaves(self, v: Value) -> tuple[Value, ...] | None:
        cost, pending, leaves = 0, [v], dict[Value, None]()
        while pending:
            x, _ = self.source(pending.pop())
            i = x.owner
            if i is not None and isinstance(i.op, Source):
                continue
            if i is None or i not in self.group_of:
                leaves[x] = None
                continue
            if isinstance(i.op, Join) and len(i.operands) == 1:
                leaves[self.source(i.operands[0])[0]] = None
                continue
            cost += 1
            if not self._is_simple(i) or cost > CLONED_COST:
                return None
            pending += i.operands
        large = [x for x in leaves if x.type.size >= v.type.size]
        return tuple(leaves) if len(large) <= 1 and v.type.size > 1 else None

    # Grouping

    def _depth(self, v: Value) -> int:
        source, _ = self.source(v)
        i = source.owner
        if i is None:
            return 0
        return find(self.group_of[i]).depth if i in self.group_of else self.depths.get(i, 0)

    def _outside(self, i: Instruction, inside: set[Group]) -> list[Value]:
        """The values that an op reads from outside of some groups."""
        found: list[Value] = []
        for n, o in enumerate(i.operands):
            source, _ = self.source(o)
            owner = source.owner
            if owner is not None and owner in self.group_of:
                if find(self.group_of[owner]) in inside:
                    continue
                whole = isinstance(i.op, Gather) and n == 0  # chosen from by position: it is in memory
                found += (None if whole else self.clone_leaves(source)) or (source,)
            else:
                found.append(source)
        return found

    # The order of ops that can fail

    def _fails_before(self, i: Instruction) -> Instruction | None:
        """The last op before one that can fail, if that one can."""
        number = self.check_number.get(i, 0)
        return self.failing[number - 1] if number else None

    def _needed_depth(self, i: Instruction, reads: Iterable[Value]) -> int:
        """How deep an op must be that reads some values: deeper than what makes them, and no less than what can fail before it."""
        before = self._fails_before(i)
        least = self._depth(before.results[0]) if before is not None else 0
        return max(least, 1 + max(map(self._depth, reads), default=0))

    def _keep_order(self, groups: Sequence[Group], i: Instruction | None = None) -> bool:
        """Whether the ops that can fail, of some groups and one more, follow each other among those of the function."""
        checks = set[int]().union(*[g.checks for g in groups])
        if i is not None and i in self.check_number:
            checks.add(self.check_number[i])
        return not checks or max(checks) - min(checks) < len(checks)

    def _consume_check(self, i: Instruction, inside: set[Group]) -> None:
        """What can fail before an op that can is no deeper from now on."""
        before = self._fails_before(i)
        if before is not None and before in self.group_of and find(self.group_of[before]) not in inside:
            find(self.group_of[before]).consumed = True

    def _consume(self, values: Iterable[Value]) -> None:
        for v in values:
            i = self.source(v)[0].owner
            if i is not None and i in self.group_of:
                find(self.group_of[i]).consumed = True

    def _reads_in_place(self, i: Instruction, inside: set[Group], size: int, split: Shape | None, full: bool) -> bool:
        """Whether an op meets the values of some groups, taken as one, where they are made."""
        for n, o in enumerate(i.operands):
            source, layout = self.source(o)
            owner = source.owner
            if owner is None or owner not in self.group_of:
                continue
            group = find(self.group_of[owner])
            if group not in inside:
                continue
            reduced = source in group.reduced
            if isinstance(i.op, (Join, View)) or (i.op.check and can_fail(i) and i.op.check.operand == n):
                return False
            if full and reduced:
                if split is None or not spreads(layout, split):
                    return False
            elif full != (not reduced) or not is_plain(layout, source.type.size):
                return False
        return True

    def _candidates(self, i: Instruction) -> list[Group]:
        found: dict[Group, None] = {}
        for o in i.operands:
            owner = self.source(o)[0].owner
            if owner is not None and owner in self.group_of:
                found[find(self.group_of[owner])] = None
        made = sorted(found, key=lambda g: -g.depth)
        if isinstance(i.op, View):
            parts = self.movers.get((self.source(i.operands[0])[0], i.result.type.shape), ())
            return [*made, *dict.fromkeys(map(find, parts))]
        return [*made, *self._beside(i, made)] if isinstance(i.op, Reduce) else made

    def _beside(self, i: Instruction, made: Sequence[Group]) -> list[Group]:
        """Groups that reduce, over the same axes, something of what a reduction or the groups before it read: one kernel reads it once."""
        split, read = split_of(i), {self.source(i.operands[0])[0]}.union(*[g.reads for g in made])
        near = dict.fromkeys(find(g) for v in read for g in self.readers.get(v, ()))
        # Sums that wait for later and later ones would keep all that they read alive.
        latest = max((self._depth(v) for v in self._outside(i, set())), default=0)
        return [g for g in near if g.split == split and g not in made and latest <= g.first + SOON]

    def _place(self, i: Instruction) -> None:
        """Put an op into a group."""
        op, candidates = i.op, self._candidates(i)
        split = split_of(i) if isinstance(op, Reduce) else None
        for first in candidates:
            together = [first]
            for other in candidates:
                if other is not first and self._can_merge(together, other):
                    together.append(other)
            while together:
                if self._try(i, together, split):
                    return
                together.pop()
        depth = self._needed_depth(i, self._outside(i, set()))
        size = math.prod(split) if split else i.result.type.size
        group = Group(size, depth, split, joins=isinstance(op, Join), first=depth)
        self._consume(self._outside(i, set()))
        self._consume_check(i, set())
        self._add(i, group, split is not None)

    def _add(self, i: Instruction, group: Group, reduced: bool) -> None:
        group.members.append(i)
        if i in self.check_number:
            group.checks.add(self.check_number[i])
        for o in i.operands:
            source = self.source(o)[0]
            owner = source.owner
            made = owner is not None and (
                isinstance(owner.op, Source) or (owner in self.group_of and find(self.group_of[owner]) is group)
            )
            if not made and source.type.size == group.size and source not in group.reads:
                group.reads.add(source)
                self.readers.setdefault(source, []).append(group)
        if isinstance(i.op, View):
            self.movers.setdefault((self.source(i.operands[0])[0], i.result.type.shape), []).append(group)
        self.group_of[i] = group
        self.sources.pop(i.result, None)
        if reduced:
            group.reduced.add(i.result)

    def _can_merge(self, together: Sequence[Group], other: Group) -> bool:
        low, high = sorted((max(together, key=lambda g: g.depth), other), key=lambda g: g.depth)
        if low.depth != high.depth and low.consumed:
            return False
        sizes = {g.size for g in (*together, other)}
        splits = {g.split for g in (*together, other) if g.split}
        return len(sizes) == 1 and len(splits) <= 1

    def _try(self, i: Instruction, together: Sequence[Group], split: Shape | None) -> bool:
        """Add an op to some groups, making them one, if that is possible."""
        inside = set(together)
        size = together[0].size
        known = next((g.split for g in together if g.split), None)
        gather_row = isinstance(i.op, Gather) and self.source(i.operands[0])[0].owner in self.group_of
        if isinstance(i.op, Reduce):
            assert split is not None
            if math.prod(split) != size or known not in (None, split) or any(g.joins for g in together):
                return False
            if split[0] * split[2] == 1 and size > SINGLE_ROW:
                return False
            full, known = True, split
        elif gather_row and find(self.group_of[self.source(i.operands[0])[0].owner]) in inside:  # type: ignore[index]
            return self._try_pick(i, inside, known)
        else:
            n = i.result.type.size
            full = n == size and not (
                known is not None and known[1] == 1 and any(self._owns_reduced(o, inside) for o in i.operands)
            )
            if not full and not (known is not None and n == known[0] * known[2]):
                return False
            if isinstance(i.op, (Join, Random32)) and (known is not None or not full):
                return False
        if not self._reads_in_place(i, inside, size, known, full):
            return False
        return self._join(i, together, known, isinstance(i.op, Reduce) or not full)

    def _owns_reduced(self, o: Value, inside: set[Group]) -> bool:
        source, layout = self.source(o)
        return any(source in g.reduced for g in inside) and is_plain(layout, source.type.size)

    def _try_pick(self, i: Instruction, inside: set[Group], split: Shape | None) -> bool:
        """A gather of one element of each row that a row kernel computes."""
        walk = rules(i).walk(tuple([o.type for o in i.operands]), **i.attrs)
        source, layout = self.source(i.operands[0])
        index_owner = self.source(i.operands[1])[0].owner
        if index_owner is not None and index_owner in self.group_of and find(self.group_of[index_owner]) in inside:
            return False
        if split != (walk.outer, walk.size, 1) or walk.count != 1 or walk.inner != 1 or walk.shared:
            return False
        if any(source in g.reduced for g in inside) or not is_plain(layout, source.type.size):
            return False
        return self._join(i, list(inside), split, True)

    def _join(self, i: Instruction, together: Sequence[Group], split: Shape | None, reduced: bool) -> bool:
        outside = self._outside(i, set(together))
        need = self._needed_depth(i, outside)
        depth = max(g.depth for g in together)
        if need > depth and any(g.consumed for g in together):
            return False
        if sum(len(g.members) for g in together) >= MEMBERS or not self._keep_order(together, i):
            return False
        self._consume_check(i, set(together))
        group = together[0]
        for other in together[1:]:
            self._absorb(group, other)
        group.depth, group.split = max(need, depth), split
        group.joins |= isinstance(i.op, Join)
        self._consume(outside)
        self._add(i, group, reduced)
        return True

    def _absorb(self, group: Group, other: Group) -> None:
        """Make another group part of a group."""
        other.into = group
        group.members += other.members
        group.reduced |= other.reduced
        group.reads |= other.reads
        group.inlined |= other.inlined
        group.checks |= other.checks
        group.consumed |= other.consumed
        group.joins |= other.joins

    def group(self) -> Self:
        """Put every op into a group."""
        for i in self.function.instructions:
            if isinstance(i.op, (Source,)):
                continue
            if len(i.results) == 1 and self._is_compute(i):
                self._place(i)
            elif not isinstance(i.op, View):
                self.depths[i] = self._needed_depth(i, i.operands)
                self._consume(i.operands)
                self._consume_check(i, set())
        self._inline()
        return self

    # Chains that reductions compute themselves

    def _inline(self) -> None:
        """Let reductions compute what only they read, if what it is made of is read anyway: nobody then stores it."""
        levels: dict[tuple[Shape, int], list[Group]] = {}
        for group in dict.fromkeys(map(find, self.group_of.values())):
            if group.split is not None:
                levels.setdefault((group.split, group.depth), []).append(group)
        for groups in levels.values():
            for group in groups:
                for v in sorted(group.reads, key=self._place_of):
                    self._inline_into(find(group), v, groups)

    def _place_of(self, v: Value) -> int:
        return self.position[v.owner] if v.owner is not None else -1

    def _inline_into(self, group: Group, v: Value, groups: Sequence[Group]) -> None:
        near = [g for g in dict.fromkeys(map(find, groups)) if g is not group]
        chain = self._chain(v, group, set[Value]().union(group.reads - {v}, *[g.reads for g in near]))
        if chain is None:
            return
        inside, leaves = chain
        large = {x for x in leaves if x.type.size >= v.type.size}
        for others in ([], [g for g in near if large & g.reads]):
            reads = set[Value]().union(group.reads, *[g.reads for g in others])
            members = sum(len(g.members) for g in (group, *others))
            if len(large - reads) <= 1 and members < MEMBERS and self._keep_order((group, *others)):
                for other in others:  # equally deep, so that none needs another
                    self._absorb(group, other)
                group.inlined |= inside
                group.reads = (group.reads - {v}) | large
                return

    def _chain(self, v: Value, reader: Group, known: Set[Value]) -> tuple[set[Value], set[Value]] | None:
        """The values of a short chain of simple ops that ends at a value that only a group reads, and what they are made of.

        It goes back to what is ``known`` to be in memory, and no further than what made the value.
        """
        maker = find(self.group_of[v.owner]) if v.owner is not None and v.owner in self.group_of else None
        if maker is None or maker is reader or v in self.returned or not self._is_read_by(v, (maker, reader)):
            return None
        checked = {self.source(c)[0] for c in self.checked}
        inside, leaves, pending = set[Value](), set[Value](), [v]
        while pending:
            x = pending.pop()
            i = x.owner
            if i is not None and isinstance(i.op, Source):
                continue
            stored = x in known and x is not v
            if i is None or i not in self.group_of or stored or x in checked or not self._is_simple(i):
                leaves.add(x)
            elif x is v or find(self.group_of[i]) is maker or self.clone_leaves(x) is not None:
                inside.add(x)
                pending += [self.source(o)[0] for o in i.operands]
            else:
                leaves.add(x)
        if v not in inside or len(inside) > INLINED_COST:
            return None
        return inside, leaves

    def _is_read_by(self, v: Value, groups: Sequence[Group]) -> bool:
        """Whether a value and all views of it are read by members of some groups alone."""
        pending = [v]
        while pending:
            x = pending.pop()
            if x in self.returned:
                return False
            for u in self.users.get(x, ()):
                whole = isinstance(u.op, Gather) and u.operands[0] is x
                if isinstance(u.op, View) and u not in self.group_of:
                    pending.append(u.result)
                elif whole or u not in self.group_of or find(self.group_of[u]) not in groups:
                    return False
        return True
