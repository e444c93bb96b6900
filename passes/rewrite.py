"""The rewrite driver: rules as small classes, applied in one forward sweep that rebuilds the function."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..ir import OPS, Builder, Function, GraphBuilder, Instruction, Value
from ..ir.errors import VerifyError
from ..ir.literal import Literal, misfit
from ..ir.op import Source, View
from .manager import Context

MAX_DEPTH = 8
"""How deep the ops of a replacement are themselves offered to the rules."""


@dataclass(frozen=True)
class Var:
    """A pattern variable: any operand, or any attribute value."""

    name: str


@dataclass(frozen=True)
class Node:
    """A pattern: an op on patterns."""

    op: str
    operands: tuple[Any, ...]
    attrs: dict[str, Any]


class PatternBuilder:
    """Stands in for the builder while a rule's ``before`` runs, and writes down what it asks for."""

    def __getattr__(self, name: str) -> Callable[..., Node]:
        if name not in OPS:
            raise AttributeError(name)
        return lambda *operands, **attrs: Node(name, operands, attrs)


@dataclass
class Match:
    """Where a pattern matched: its root and what each variable stands for."""

    root: Instruction
    uses: Mapping[Value, int] = field(default_factory=dict[Value, int])
    """How often each value is used in the function that is rewritten; replacements are not counted."""
    bound: dict[str, Any] = field(default_factory=dict[str, Any])

    def __getitem__(self, name: str) -> Any:
        return self.bound[name]


class Rewrite:
    """A local rule.  ``before`` and ``after`` build the two sides from the same variables; ``refuse`` gives a reason not to.

    Only rules that keep every bit for every input, infinities and signed zeros included, belong in exact pipelines.
    """

    pattern: ClassVar[Node]

    def __init_subclass__(cls) -> None:
        names = list(inspect.signature(cls.before).parameters)[2:]
        cls.pattern = cls.before(cls.__new__(cls), PatternBuilder(), *map(Var, names))

    before: Callable[..., Any]
    after: Callable[..., Any]

    def refuse(self, match: Match) -> str | None:
        """Why the rule does not apply to a match; None if it does."""
        return None


def _match(pattern: Any, value: Any, match: Match) -> bool:
    if isinstance(pattern, Var):
        known = match.bound.setdefault(pattern.name, value)
        return known is value or (not isinstance(value, Value) and known == value)
    if isinstance(pattern, Node):
        return isinstance(value, Value) and value.owner is not None and match_instruction(pattern, value.owner, match)
    if isinstance(value, Value):
        literal = splat_of(value)
        held = literal is not None and misfit(pattern, value.type.dtype) is None
        return held and literal == Literal.splat(pattern, value.type)
    return pattern == value


def match_instruction(pattern: Node, i: Instruction, match: Match) -> bool:
    """Whether an instruction has the pattern's form; fills ``match``."""
    return (
        i.op.name == pattern.op
        and len(i.operands) == len(pattern.operands)
        and all(_match(p, o, match) for p, o in zip(pattern.operands, i.operands, strict=True))
        and all(_match(p, i.attrs.get(name), match) for name, p in pattern.attrs.items())
    )


def splat_of(value: Value) -> Literal | None:
    """The literal of a splat constant, else None."""
    if value.owner is None or value.owner.op.name != "constant":
        return None
    literal: Literal = value.owner.attrs["value"]
    return literal if literal.is_splat else None


def repeated_number(value: Value) -> float | bool | None:
    """The number that a splat constant repeats, seen through views, else None."""
    i = value.owner
    while i is not None and isinstance(i.op, View):
        i = i.operands[0].owner
    literal = splat_of(i.result) if i is not None and isinstance(i.op, Source) else None
    return literal.data.reshape(-1)[0].item() if literal is not None and literal.type.size else None


Visit = Callable[[Builder, Instruction], Sequence[Value] | None]


def sweep(function: Function, visit: Visit, context: Context) -> bool:
    """Rebuild a function in one forward pass.

    ``visit(build, i)`` sees each instruction with its operands already replaced, and returns values in place of its results,
    recording new ops on ``build`` as it likes, or None to keep it.  Returns whether anything was replaced.
    """
    recorder = GraphBuilder()
    build = Builder(recorder)
    replaced: dict[Value, Value] = {}
    changed = False
    for i in function.instructions:
        for o in i.operands:
            if o in replaced:
                i.operands = tuple([replaced.get(v, v) for v in i.operands])
                break
        recorder.at = i.location
        mark = len(recorder.instructions)
        values = visit(build, i)
        if values is None:
            del recorder.instructions[mark:]
            recorder.instructions.append(i)
            continue
        changed = True
        for old, new in zip(i.results, values, strict=True):
            if new.type != old.type:
                raise VerifyError(f"a rewrite of {i.op.name} gives {new.type} in place of {old.type}", i.location)
            replaced[old] = new
            context.replace(old, new)
            if old.name is not None and new.name is None:
                new.name = old.name
    if changed:
        function.instructions = recorder.instructions
        function.results = [replaced.get(v, v) for v in function.results]
    return changed


def apply(function: Function, rules: Sequence[Rewrite], context: Context) -> bool:
    """Offer every instruction, and every op a rule makes, to the rules of its kind."""
    by_root: dict[str, list[Rewrite]] = {}
    for rule in rules:
        by_root.setdefault(rule.pattern.op, []).append(rule)
    uses = Counter([*function.results, *[o for i in function.instructions for o in i.operands]])

    def rewrite(build: Builder, i: Instruction, depth: int) -> Value | None:
        for rule in by_root.get(i.op.name, ()):
            name = type(rule).__name__
            match = Match(i, uses)
            if not match_instruction(rule.pattern, i, match):
                if context.why is not None:
                    context.note(i, f"{name}: does not match ({(type(rule).__doc__ or name).strip()})")
                continue
            reason = rule.refuse(match)
            if reason is not None:
                context.note(i, f"{name}: {reason}")
                continue
            if not context.spend(name, i):
                return None
            begin = len(build.recorder.instructions)
            result: Value = rule.after(build, **match.bound)
            made = build.recorder.instructions[begin:]
            if depth < MAX_DEPTH and made and result is made[-1].results[0]:
                again = rewrite(build, made[-1], depth + 1)
                return result if again is None else again
            return result
        return None

    def visit(build: Builder, i: Instruction) -> Sequence[Value] | None:
        new = rewrite(build, i, 0) if len(i.results) == 1 else None
        return None if new is None else (new,)

    return sweep(function, visit, context)
