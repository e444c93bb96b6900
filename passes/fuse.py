"""fuse: groups of ops become ``fused`` ops, each naming a kernel function of the same module.

A kernel is one nest of loops over ``outer x n x inner`` elements (``passes/loops.py``).  Its class is ``map`` where nothing is reduced,
``row`` where trailing axes are (softmax, layer norm), ``column`` where leading ones are (gradients of biases and scales).

``grouping.py`` says which ops come together.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from ..ir import Function, GraphBuilder, Instruction, Location, Module, Symbol, Value
from ..ir.composite import can_fail
from ..ir.literal import Literal
from ..ir.op import OPS, Gather, Source, View
from ..ir.print import attribute
from ..ir.types import key
from .group import Group, find
from .grouping import Fuser
from .loops import UnfitError, kernel_nest
from .manager import Context, Pass
from .rewrite import splat_of

UNFIT = "it is no nest of loops"


@dataclass(eq=False)
class _Kernel:
    """A kernel in the making: its ops in order, what it reads and what it gives."""

    group: Group
    ops: list[Instruction]
    arguments: list[Value]
    results: list[Value]


class _Rewriter:
    """Puts fused ops in place of groups."""

    def __init__(self, fuser: Fuser) -> None:
        self.fuser, self.function, self.module = fuser, fuser.function, fuser.module
        self.groups = list({find(g): None for g in fuser.group_of.values()})
        self.kernels = self._cut_all()
        self.refusals = {k: self._refusal(k) for k in self.kernels}

    @property
    def unfit(self) -> set[Instruction]:
        """The ops of groups that are no nest of loops.

        They read from memory what their kernel would have computed again: with them apart, other groups must be found.
        """
        return {i for k, reason in self.refusals.items() if reason == UNFIT for i in k.group.members}

    def run(self) -> bool:
        """Rewrite the function; whether anything was fused."""
        fused: dict[Instruction, _Kernel] = {}
        position = self.fuser.position
        for kernel in sorted(self.kernels, key=lambda k: max(map(position.__getitem__, k.ops))):
            if self.refusals[kernel] is None and self.fuser.context.spend("fuse", kernel.ops[-1]):
                fused.update(dict.fromkeys(kernel.group.members, kernel))
        if fused:
            self._rebuild(fused)
        return bool(fused)

    def _cut_all(self) -> list[_Kernel]:
        """Kernels of all groups that can be one.  Deepest first: what a kernel reads is known before those that make it are cut out."""
        needed = self._needed()
        found = [self._cut(g, needed) for g in sorted(self.groups, key=lambda g: -g.depth)]
        # A producer that is computed again may be as deep as its reader: what is needed is then known in a second round.
        before = len(needed)
        found = [self._cut(g, needed) for g in sorted(self.groups, key=lambda g: -g.depth)]
        assert len(needed) >= before
        return [k for k in found if k is not None]

    def _needed(self) -> set[Value]:
        """Values that must be in memory whatever the kernels: read by ops that are no part of one, or returned."""
        fuser = self.fuser
        needed = {fuser.source(v)[0] for v in self.function.results}
        for i in self.function.instructions:
            if i not in fuser.group_of and not isinstance(i.op, View):
                needed.update(fuser.source(o)[0] for o in i.operands)
            elif i in fuser.group_of and can_fail(i, self.module):
                needed.add(i.result)
        return needed

    def _cut(self, group: Group, needed: set[Value]) -> _Kernel | None:
        """The ops of a kernel, from what is needed of it back to what it reads; adds that to ``needed``."""
        fuser = self.fuser
        results = [i.result for i in sorted(group.members, key=fuser.position.__getitem__) if i.result in needed]
        if not results:
            return None
        seen: set[Instruction] = set()
        arguments: dict[Value, None] = {}
        pending = list(results)
        while pending:
            v = pending.pop()
            i = v.owner
            if i is None or not self._is_inside(v, i, group):
                arguments[v] = None
                continue
            if i in seen:
                continue
            seen.add(i)
            pending += i.operands
        needed.update(fuser.source(a)[0] for a in arguments)
        ops = _in_order(results, seen)
        failing = [fuser.check_number[i] for i in ops if i in fuser.check_number]
        if failing != sorted(failing):
            ops = _in_order([*(r for n in sorted(failing) for r in fuser.failing[n].results), *results], seen)
        order: dict[Value, None] = {}
        for i in ops:
            order.update((o, None) for o in i.operands if o in arguments)
        return _Kernel(group, ops, list(order), results)

    def _is_inside(self, v: Value, i: Instruction, group: Group) -> bool:
        """Whether a kernel computes a value itself: a member, a view, a number, or a cheap op computed again."""
        fuser = self.fuser
        choosers = [u for u in fuser.users.get(v, ()) if isinstance(u.op, Gather) and u.operands[0] is v]
        made_here = not choosers or fuser.source(v)[0].owner in set(group.members)
        if i in fuser.group_of:
            if not made_here and not set(choosers).isdisjoint(group.members):
                return False  # what is chosen from by position is in memory
            return find(fuser.group_of[i]) is group or v in group.inlined or fuser.clone_leaves(v) is not None
        if isinstance(i.op, Source):
            return i.op.element is not None or splat_of(v) is not None
        return isinstance(i.op, View) and made_here

    def _refusal(self, kernel: _Kernel) -> str | None:
        """Why a group stays as it is: it is one op alone, or no nest of loops."""
        moves = [i for i in kernel.ops if not isinstance(i.op, Source)]
        if len(moves) < 2 or any(a.type.dtype is key and a.type.rank for a in kernel.arguments):
            return "it is one op alone"
        try:
            kernel_nest(self._function(kernel, "k"))
        except UnfitError as reason:
            self.fuser.context.note(kernel.ops[-1], f"fuse: {reason}")
            return UNFIT
        return None

    def _function(self, kernel: _Kernel, name: str) -> Function:
        recorder = GraphBuilder()
        made: dict[Value, Value] = {a: recorder.argument(a.type) for a in kernel.arguments}
        for i in kernel.ops:
            recorder.at = i.location
            results = recorder.bind(i.op, tuple([made[o] for o in i.operands]), i.attrs)
            made.update(zip(i.results, results, strict=True))
        kind = "map" if kernel.group.split is None else "row" if kernel.group.split[2] == 1 else "column"
        return recorder.function(
            name,
            [(made[a], None) for a in kernel.arguments],
            [(made[r], None) for r in kernel.results],
            {"class": kind},
        )

    def _rebuild(self, fused: dict[Instruction, _Kernel]) -> None:
        fuser = self.fuser
        known: dict[object, str] = {}
        made: dict[Value, Value] = {}
        units: dict[_Kernel, Instruction] = {}
        number = 0
        for kernel in dict.fromkeys(fused.values()):
            while f"k{number}" in self.module.functions:
                number += 1
            function = self._function(kernel, f"k{number}")
            # An error names the user's line: only what cannot fail is shared by lines.
            form = form_of(function), tuple([i.location for i in function.instructions if can_fail(i)])
            if form not in known:
                known[form] = function.name
                self.module.add(function)
            locations: dict[Location, None] = {}
            for i in kernel.ops:
                locations.update(dict.fromkeys(i.location))
            types = [r.type for r in kernel.results]
            unit = units[kernel] = Instruction(
                OPS["fused"], tuple(kernel.arguments), {"kernel": Symbol(known[form])}, types, tuple(locations)
            )
            for old, new in zip(kernel.results, unit.results, strict=True):
                made[old] = new
                new.name = old.name
                fuser.context.replace(old, new)
        kept = [i for i in self.function.instructions if i not in fused]
        places = {u: max(fuser.position[i] for i in k.ops) for k, u in units.items()}
        places.update((i, fuser.position[i]) for i in kept)
        for i in places:
            i.operands = tuple([made.get(o, o) for o in i.operands])
        self.function.results = [made.get(v, v) for v in self.function.results]
        self.function.instructions = _ordered(self._live(places), self._check_numbers(units, kept))

    def _check_numbers(
        self, units: Mapping[_Kernel, Instruction], kept: Sequence[Instruction]
    ) -> dict[Instruction, int]:
        """What can fail, kernels and single ops, with the number of the first op in it that can."""
        known = self.fuser.check_number
        found = {i: known[i] for i in kept if i in known}
        for kernel, unit in units.items():
            numbers = [known[i] for i in kernel.ops if i in known]
            if numbers:
                found[unit] = min(numbers)
        return found

    def _live(self, places: dict[Instruction, int]) -> dict[Instruction, int]:
        """Without what only kernels read: they have their own views, numbers and cheap ops."""
        read = set(self.function.results)
        pending = [*read]
        live: set[Instruction] = set()
        for i in places:
            if can_fail(i, self.module):
                live.add(i)
                pending += i.operands
        while pending:
            i = pending.pop().owner
            if i is not None and i not in live:
                live.add(i)
                pending += i.operands
        return {i: n for i, n in places.items() if i in live}


def _in_order(results: Sequence[Value], inside: Set[Instruction]) -> list[Instruction]:
    """Some instructions, each behind its operands and those of no other: kernels that compute the same are written alike."""
    found: dict[Instruction, None] = {}
    pending = [(v, False) for v in reversed(results)]
    while pending:
        v, ready = pending.pop()
        i = v.owner
        if i is None or i not in inside or i in found:
            continue
        if ready:
            found[i] = None
        else:
            pending.append((v, True))
            pending += [(o, False) for o in reversed(i.operands)]
    return list(found)


def form_of(function: Function) -> object:
    """A kernel without names and locations."""
    numbers: dict[Value, int] = {v: n for n, v in enumerate(function.arguments)}
    lines: list[object] = [tuple(str(a.type) for a in function.arguments)]
    for i in function.instructions:
        attrs = tuple((k, v if isinstance(v, Literal) else attribute(v)) for k, v in i.attrs.items())
        lines.append((i.op.name, tuple(numbers[o] for o in i.operands), attrs))
        for r in i.results:
            numbers[r] = len(numbers)
    lines.append(tuple(numbers[r] for r in function.results))
    return tuple(lines)


def _ordered(places: dict[Instruction, int], checks: Mapping[Instruction, int]) -> list[Instruction]:
    """Instructions after what they read, else by their places; what can fail in the order of its ``checks``."""
    failing = sorted((i for i in checks if i in places), key=checks.__getitem__)
    before = dict(zip(failing[1:], failing, strict=False))
    missing: dict[Instruction, int] = {}
    users: dict[Instruction, list[Instruction]] = {}
    for i in places:
        owners = {o.owner for o in i.operands if o.owner is not None and o.owner in places}
        if i in before:
            owners.add(before[i])
        missing[i] = len(owners)
        for owner in owners:
            users.setdefault(owner, []).append(i)
    ready = [(n, k, i) for k, (i, n) in enumerate(places.items()) if not missing[i]]
    numbers = {i: k for k, i in enumerate(places)}
    heapq.heapify(ready)
    order: list[Instruction] = []
    while ready:
        _, _, i = heapq.heappop(ready)
        order.append(i)
        for u in users.get(i, ()):
            missing[u] -= 1
            if not missing[u]:
                heapq.heappush(ready, (places[u], numbers[u], u))
    return order


def _fuse(module: Module, context: Context) -> bool:
    """Groups of ops become kernels: map, row and column nests of loops."""
    bodies = set[str]().union(*[f.symbols() for f in module])
    functions = [f for f in module if f.name not in bodies]
    changes = [_fuse_function(module, f, context) for f in functions]
    return any(changes)


def _fuse_function(module: Module, function: Function, context: Context) -> bool:
    alone: set[Instruction] = set()
    while True:
        rewriter = _Rewriter(Fuser(module, function, context, alone).group())
        if not rewriter.unfit:
            return rewriter.run()
        alone |= rewriter.unfit


fuse = Pass("fuse", _fuse)
