"""The error of a device that has not enough memory: what a program would hold when it holds most, and the lines that made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from ...ir import BackendError, Function, Value
from ...ir.memory import readable

SHOWN = 5
"""Values that the error lists."""


def _memory(v: Value) -> Value:
    """The value in whose memory a value lies."""
    while v.place is not None and v.place.kind == "alias" and v.place.of is not None:
        v = v.place.of
    return v


def largest_live(function: Function) -> list[Value]:
    """The largest values that are alive together, where a planned function's values outside its state need most, largest first."""
    last: dict[Value, int] = {}
    for n, i in enumerate(function.instructions):
        for v in (*i.operands, *i.results):
            last[_memory(v)] = n
    for v in function.results:
        last[_memory(v)] = len(function.instructions)
    live = {_memory(v) for v in function.inputs() if v in last}
    total, most, found = sum(v.type.nbytes for v in live), -1, list(live)
    ends: dict[int, list[Value]] = {}
    for v, n in last.items():
        ends.setdefault(n, []).append(v)
    for n, i in enumerate(function.instructions):
        for r in i.results:
            v = _memory(r)
            if v.place is not None and v.place.kind != "state" and v not in live:
                live.add(v)
                total += v.type.nbytes
        if total > most:
            most, found = total, list(live)
        for v in ends.get(n, ()):
            if v in live:
                live.remove(v)
                total -= v.type.nbytes
    return sorted(found, key=lambda v: v.type.nbytes, reverse=True)


def _line(v: Value) -> str:
    made = "a batch" if v.owner is None else v.owner.op.name
    place = next(iter(v.owner.location), None) if v.owner is not None else None
    return f"  {readable(v.type.nbytes):>8}  {v.type}  {made}" + (
        f"  {PurePath(place.file).name}:{place.line}" if place is not None else f" %{v.name}" if v.name else ""
    )


def shortage(function: Function, device: str, wanted: int, used: Mapping[str, int] | None) -> BackendError:
    """The error for a program that cannot get ``wanted`` bytes on a device."""
    values = largest_live(function)
    lines = [f"not enough memory on {device} for @{function.name}: {readable(wanted)} cannot be had"]
    if used is not None:
        lines[0] += f"; {readable(used['used'])} are in use, {readable(used['free'])} of {readable(used['total'])} free"
    lines += ["  largest values that are alive together:", *map(_line, values[:SHOWN])]
    lines.append(
        "  remedy: smaller batches (accumulate adds their gradients up), or tp.checkpoint around a part of the model"
    )
    owner = next((v.owner for v in values if v.owner is not None), None)
    return BackendError("\n".join(lines), owner.location if owner is not None else ())
