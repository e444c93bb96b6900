"""An order of instructions that needs less memory at once: what frees most and allocates least goes first.

``scheduled`` gives the better of that order and the one there is, by the bytes that are alive at one time.  Ops that can fail keep their
order among each other, so the first that fails is the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from ..ir import Function, Instruction, Module, Value
from ..ir.composite import can_fail
from ..ir.op import Source, View

WORTHWHILE = 0.95
"""Another order is taken if it needs at most this part of the memory: the user's order is the one people look for."""


class _Live:
    """What is alive while instructions run in some order; a view is its operand's memory."""

    def __init__(self, function: Function) -> None:
        self.root: dict[Value, Value] = {}
        self.size: dict[Value, int] = {}
        readers: dict[Value, dict[Instruction, None]] = {}
        for i in function.instructions:
            for o in i.operands:
                readers.setdefault(self.of(o), {})[i] = None
            if isinstance(i.op, View):
                self.root[i.result] = self.of(i.operands[0])
            elif not isinstance(i.op, Source):
                self.size.update((r, r.type.nbytes) for r in i.results)
        kept = {self.of(v) for v in function.results}
        self.readers = {v: [i for i in r if not isinstance(i.op, View)] for v, r in readers.items() if v not in kept}

    def of(self, v: Value) -> Value:
        return self.root.get(v, v)

    def operands(self, i: Instruction) -> Sequence[Value]:
        return tuple(dict.fromkeys(self.of(o) for o in i.operands))

    def peak(self, order: Sequence[Instruction]) -> int:
        """Most bytes alive at one time."""
        left = {v: len(r) for v, r in self.readers.items()}
        now = most = 0
        for i in order:
            if isinstance(i.op, View):
                continue
            now += sum(self.size.get(r, 0) for r in i.results)
            most = max(most, now)
            for v in self.operands(i):
                if v in left:
                    left[v] -= 1
                    if not left[v]:
                        now -= self.size.get(v, 0)
        return most


def scheduled(function: Function, module: Module) -> list[Instruction]:
    """The instructions of a function in an order that is valid and needs no more memory than theirs."""
    live, given = _Live(function), function.instructions
    order = _greedy(given, live, module)
    return order if live.peak(order) <= WORTHWHILE * live.peak(given) else list(given)


def _dependencies(given: Sequence[Instruction], module: Module) -> dict[Instruction, set[Instruction]]:
    owners = set(given)
    found: dict[Instruction, set[Instruction]] = {}
    failing: Instruction | None = None
    for i in given:
        found[i] = {o.owner for o in i.operands if o.owner is not None and o.owner in owners}
        if can_fail(i, module):
            if failing is not None:
                found[i].add(failing)
            failing = i
    return found


def _greedy(given: Sequence[Instruction], live: _Live, module: Module) -> list[Instruction]:
    missing = _dependencies(given, module)
    users: dict[Instruction, list[Instruction]] = {}
    for i, before in missing.items():
        for b in before:
            users.setdefault(b, []).append(i)
    waiting = {i: len(before) for i, before in missing.items()}
    left = {v: len(r) for v, r in live.readers.items()}
    position = {i: n for n, i in enumerate(given)}

    def growth(i: Instruction) -> int:
        if isinstance(i.op, (View, Source)):
            return -(1 << 62)
        freed = sum(live.size.get(v, 0) for v in live.operands(i) if left.get(v) == 1)
        return sum(live.size.get(r, 0) for r in i.results) - freed

    ready = [(growth(i), position[i], i) for i in given if not waiting[i]]
    heapq.heapify(ready)
    order: list[Instruction] = []
    done: set[Instruction] = set()
    while ready:
        _, _, i = heapq.heappop(ready)
        if i in done:
            continue
        done.add(i)
        order.append(i)
        wanted = list[Instruction]()
        for v in () if isinstance(i.op, View) else live.operands(i):
            if v in left:
                left[v] -= 1
                if left[v] == 1:  # the reader that remains now frees it
                    wanted += [r for r in live.readers[v] if r not in done and not waiting[r]]
        for u in users.get(i, ()):
            waiting[u] -= 1
            if not waiting[u]:
                wanted.append(u)
        for u in wanted:
            heapq.heappush(ready, (growth(u), position[u], u))
    return order
