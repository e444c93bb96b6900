"""Derivatives as walks over recorded instructions.

``reverse`` goes backwards and emits each op's ``vjp``; ``forward`` goes forwards and emits each op's ``jvp``.  What they emit
is recorded like any other op, so derivatives nest, and a tape and a trace hold one sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .build import Builder
from .errors import ShapeError, TraceError
from .graph import Instruction, Value
from .op import Absent, Composite
from .record import Recorder, located


def _active(instructions: Sequence[Instruction], wrt: Iterable[Value]) -> set[Value]:
    """Floating values that depend on ``wrt``."""
    active = set(wrt)
    for i in instructions:
        for o in i.operands:
            if o in active:
                active.update([r for r in i.results if r.type.dtype.floating])
                break
    return active


def _rule(instruction: Instruction, kind: str) -> Any:
    rule = getattr(instruction.op, kind)
    if isinstance(rule, Absent):
        raise TraceError(f"{instruction.op.name} has no {kind}: {rule.reason}", instruction.location)
    return rule


def _decomposed(recorder: Recorder, i: Instruction) -> tuple[list[Instruction], tuple[Value, ...]]:
    """Record a composite's decomposition; returns its instructions and results."""
    begin = len(recorder.instructions)
    assert isinstance(i.op, Composite)
    results = i.op.expand(Builder(recorder), i.operands, i.attrs)
    return recorder.instructions[begin:], results


def reverse(
    recorder: Recorder,
    instructions: Sequence[Instruction],
    outputs: Sequence[Value],
    cotangents: Sequence[Value | None],
    wrt: Sequence[Value],
) -> list[Value | None]:
    """Cotangents of ``wrt`` given those of ``outputs``, emitted on ``recorder``; None where nothing reaches.

    Cotangents of one value are added in the order in which the walk meets its uses.  A missing one stays None, and an
    operand that no differentiated value leads to gets none.
    """
    build = Builder(recorder)
    active = _active(instructions, wrt)
    found: dict[Value, Value] = {}

    def give(value: Value, cotangent: Value) -> None:
        so_far = found.get(value)
        found[value] = cotangent if so_far is None else build.add(so_far, cotangent)

    for output, cotangent in zip(outputs, cotangents, strict=True):
        if cotangent is not None and output in active:
            give(output, cotangent)
    kept = set(wrt)
    for i in reversed(instructions):
        dys = [found.get(r) if r in kept else found.pop(r, None) for r in i.results]
        if all(dy is None for dy in dys) or not any(o in active for o in i.operands):
            continue
        with located(recorder, i.location):
            rule = _rule(i, "vjp")
            if rule is None:
                inner, results = _decomposed(recorder, i)
                operands = [o for o in dict.fromkeys(i.operands) if o in active]
                for o, cotangent in zip(operands, reverse(recorder, inner, results, dys, operands), strict=True):
                    if cotangent is not None:
                        give(o, cotangent)
                continue
            several = len(i.results) > 1
            rules = rule(
                build, tuple(dys) if several else dys[0], i.results if several else i.results[0], *i.operands, **i.attrs
            )
            for operand, thunk in zip(i.operands, rules, strict=True):
                if thunk is not None and operand in active:
                    cotangent = thunk()
                    if cotangent.type != operand.type:
                        raise ShapeError(
                            f"the rule vjp of {i.op.name} gives {cotangent.type} for its operand {operand.type}",
                            i.location,
                        )
                    give(operand, cotangent)
    return [found.get(value) for value in wrt]


def forward(
    recorder: Recorder,
    instructions: Sequence[Instruction],
    outputs: Sequence[Value],
    inputs: Sequence[Value],
    tangents: Sequence[Value | None],
) -> list[Value | None]:
    """Tangents of ``outputs`` given those of ``inputs``, emitted on ``recorder``; None is a zero tangent."""
    build = Builder(recorder)
    known: dict[Value, Value] = {v: t for v, t in zip(inputs, tangents, strict=True) if t is not None}
    for i in list(instructions):
        given = [known.get(o) for o in i.operands]
        if all(t is None for t in given) or not any(r.type.dtype.floating for r in i.results):
            continue
        with located(recorder, i.location):
            rule = _rule(i, "jvp")
            if rule is None:
                inner, results = _decomposed(recorder, i)
                made = forward(recorder, inner, results, i.operands, given)
            else:
                several = len(i.results) > 1
                found: Any = rule(build, tuple(given), i.results if several else i.results[0], *i.operands, **i.attrs)
                made: Sequence[Value | None] = found if several else [found]
        for r, t in zip(i.results, made, strict=True):
            if t is not None:
                known[r] = t
    return [known.get(o) for o in outputs]
