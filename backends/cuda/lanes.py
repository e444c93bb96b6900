"""Calls side by side: a gradient's two products need not wait for each other, and neither fills a device alone.

A program's calls keep their order on each of ``LANES`` streams; a call that needs what another lane does waits for it.  What a call needs
follows from the memory that calls read and write.  Each call in turn goes where it can begin first, by a rough estimate of what calls take.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..compiled.memory import Span, span
from .calls import Call, KernelCall, ProductCall

LANES = 2
EACH_LANE = ("counters", "scratch")
"""Buffers that every lane has of its own: what is in them is read by the kernel that wrote it."""
LAUNCH, WAIT = 2.0, 4.0
"""Microseconds that a call takes at least, and that waiting for another lane costs."""
BYTES, FLOPS = 2.5e6, 45e6
"""What large kernels move and what large products compute in a microsecond, on a device of 2023."""
BEGIN = -1


class Turn(NamedTuple):
    """The lane of a call, and the calls of other lanes that it waits for (``BEGIN``: all before the program)."""

    lane: int
    after: tuple[int, ...]


def _reads_and_writes(call: Call) -> tuple[list[Span], list[Span]]:
    reads, writes = ([span(r) for r in refs if r.buffer not in EACH_LANE] for refs in (call.reads, call.writes))
    if isinstance(call, KernelCall):  # the status is read by every kernel and written by those that check
        (writes if call.checks else reads).append(Span("status", 0, 1))
    return reads, writes


class _Needs:
    """What was read and written so far: the calls that the next one has to come after."""

    def __init__(self) -> None:
        self.met: dict[str, list[tuple[int, int, int, bool]]] = {}
        """The bytes of each buffer, from and to, that a call read or wrote."""

    def of(self, n: int, call: Call) -> set[int]:
        """The calls before ``n`` that wrote what it reads, or touched what it writes."""
        reads, writes = _reads_and_writes(call)
        needs: set[int] = set()
        for buffer, begin, end in reads:
            needs.update(m for b, e, m, wrote in self.met.get(buffer, ()) if wrote and b < end and begin < e)
        for buffer, begin, end in writes:
            met = self.met.get(buffer, [])
            needs.update(m for b, e, m, _ in met if b < end and begin < e)
            self.met[buffer] = [x for x in met if x[0] < begin or x[1] > end]
        for spans, wrote in ((reads, False), (writes, True)):
            for buffer, begin, end in spans:
                self.met.setdefault(buffer, []).append((begin, end, n, wrote))
        return needs


def _takes(call: Call) -> float:
    moved = sum(r.dtype.numpy.itemsize * math.prod(r.layout.shape) for r in (*call.reads, *call.writes))
    flops = 2 * math.prod(call.sizes[:4]) if isinstance(call, ProductCall) else 0
    return LAUNCH + moved / BYTES + flops / FLOPS


def in_lanes(calls: Iterable[Call]) -> tuple[list[Turn], tuple[int, ...]]:
    """The turn of every call, and the last calls that the end of the program has to wait for."""
    turns: list[Turn] = []
    needs, ends = _Needs(), [0.0] * LANES
    done: list[float] = []
    last = [BEGIN] * LANES
    waited = [[BEGIN] * LANES for _ in range(LANES)]
    """The last call of a lane that a lane has waited for."""

    def ready(lane: int, needed: Iterable[int]) -> float:
        return max([ends[lane], *(done[m] + WAIT * (turns[m].lane != lane) for m in needed)])

    for n, call in enumerate(calls):
        needed = needs.of(n, call)
        home = turns[max(needed, key=done.__getitem__)].lane if needed else 0
        lane = min(range(LANES), key=lambda k: (ready(k, needed) + WAIT * (k != home), k != home))
        done.append(ready(lane, needed) + _takes(call))
        turns.append(Turn(lane, _waits(needed, lane, turns, waited[lane], last[lane] == BEGIN)))
        ends[lane], last[lane] = done[n], n
    return turns, tuple([m for k, m in enumerate(last) if k and m > waited[0][k]])


def _waits(needed: Iterable[int], lane: int, turns: Sequence[Turn], waited: list[int], first: bool) -> tuple[int, ...]:
    """The calls of other lanes to wait for: the last that is needed of each, unless a later one was waited for."""
    latest: dict[int, int] = {}
    for m in needed:
        other = turns[m].lane
        if other != lane and m > max(waited[other], latest.get(other, BEGIN)):
            latest[other] = m
    if first and lane and 0 not in latest:
        latest[0] = BEGIN
    for other, m in latest.items():
        waited[other] = m
    return tuple(sorted(latest.values()))
