"""The verifier: re-runs every type rule and checks definitions, roles, marks and symbols.

What it lets through, the text can hold: a verified module is equal to the one that its text is parsed to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn, cast

from .errors import IRError, VerifyError
from .escape import shortened
from .graph import PLACE_RULE, PLACES, ROLES, Function, Instruction, Module, Place, Symbol, Value
from .literal import Literal
from .op import BITS, Control
from .origin import Span
from .print import quote
from .types import DType, TensorType, key

MAX_ELEMENTS = 1 << 40
MAX_RANK = 32
MAX_LIST = 4 * MAX_RANK
"""Of numbers in an attribute of an op: they are axes, or one or two for each axis."""
MAX_NESTING = 64
"""Of functions that name each other."""
MAX_INSTRUCTIONS = 1 << 22
"""Of a function with those of all functions that it runs."""
POSSIBLE = f"up to {MAX_RANK} axes and 2**40 elements, and keys are scalars"
PLANNED = ("arena", "bound", "values", "alignment")
"""The attributes of a function that plan writes: bytes."""
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,255}", re.ASCII)


def is_possible(type: TensorType) -> bool:
    """Whether a tensor of the type may exist; empty axes do not make up for huge ones."""
    if len(type.shape) > MAX_RANK or (type.dtype is key and type.shape):
        return False
    count = 1
    for n in type.shape:
        if n < 0:
            return False
        count *= n or 1
    return count <= MAX_ELEMENTS


def is_attribute(value: Any) -> bool:
    """Whether an instruction or a function may hold the attribute value: all that text can hold, and no more."""
    if isinstance(value, tuple):
        items = cast(tuple[Any, ...], value)
        return all(not isinstance(v, (tuple, Literal)) and is_attribute(v) for v in items)
    if isinstance(value, int):
        return -(1 << BITS - 1) <= value < 1 << BITS
    if isinstance(value, Literal):
        return value.type.dtype.kind != "k"
    return isinstance(value, (float, str, DType))


def verify(module: Module) -> None:
    """Check every function of a module; raises ``VerifyError`` naming function, instruction and rule.

    Of IR that was read from text the error also shows the lines.
    """
    for name, function in module.functions.items():
        if name != function.name:
            raise VerifyError(f"the module has function {_at(function.name)} under the name {_at(name)}")
        verify_function(function, module)
    _refuse_cycles(module)


def _refuse_cycles(module: Module) -> None:
    def fail(name: str, fact: str, rule: str) -> NoReturn:
        span = _span(module, module.functions[name])
        raise VerifyError(
            f"function {_at(name)} {fact}\n  rule: {rule}",
            origin=module.origin if span else None,
            offset=span.name if span else 0,
        )

    heights: dict[str, int] = {}  # 0 while the functions that it names are visited
    counts: dict[str, int] = {}
    for root in module.functions:
        stack = [(root, False)]
        while stack:
            name, done = stack.pop()
            named = sorted(module.functions[name].symbols())
            if done:
                heights[name] = 1 + max((heights[symbol] for symbol in named), default=0)
                if heights[name] > MAX_NESTING:
                    fail(name, "holds too many kernels in each other", f"functions nest up to {MAX_NESTING} deep")
                counts[name] = _instructions(module.functions[name], counts)
                if counts[name] > MAX_INSTRUCTIONS:
                    rule = f"a function and those that it runs have up to {MAX_INSTRUCTIONS} instructions"
                    fail(name, f"runs {shortened(str(counts[name]), 40)} instructions", rule)
                continue
            if heights.get(name):
                continue
            if name in heights:
                fail(name, "reaches itself through its kernels", "functions do not recurse")
            heights[name] = 0
            stack.append((name, True))
            stack.extend((symbol, False) for symbol in named if not heights.get(symbol))


def _instructions(function: Function, counts: Mapping[str, int]) -> int:
    """How many instructions a function runs, those of the functions that it names included."""
    named = (counts[a] for i in function.instructions for a in i.attrs.values() if isinstance(a, Symbol))
    return len(function.instructions) + sum(named)


def _span(module: Module | None, part: Any) -> Span | None:
    return module.origin.spans.get(part) if module is not None and module.origin is not None else None


def _at(name: str) -> str:
    return "@" + shortened(quote(name), 80)


def _shown(value: Value) -> str:
    return f"%{'?' if value.name is None else shortened(quote(value.name), 80)}: {value.type}"


def _attributes_rule(i: Instruction) -> str:
    """The rule that an instruction's attributes break, or nothing."""
    given = dict(i.attrs)
    try:
        checked = i.op.attributes(given)
    except TypeError as error:
        return f"attributes fit the op ({error})"
    if list(checked.items()) != list(given.items()) or list(map(type, checked.values())) != list(
        map(type, given.values())
    ):
        return "attributes are complete and in the op's form"
    for name, value in given.items():
        if isinstance(value, Symbol) and i.op.attrs[name].kind != "symbol":
            return f"attribute {name} is a string, not a symbol"
        if isinstance(value, tuple) and len(given[name]) > MAX_LIST:
            return f"attribute {name} has up to {MAX_LIST} numbers"
        if not is_attribute(value):
            return f"attribute {name} is no attribute value: integers have {BITS} bits, and there are no constant keys"
    return ""


def _heading_rule(function: Function) -> str:
    """The rule that a function's attributes, or the number of its roles or marks, break, or nothing."""
    if len(function.arguments) != len(function.roles) or len(function.results) != len(function.marks):
        return "every argument has a role and every result a mark, or None"
    for name, value in function.attrs.items():
        if not _WORD.fullmatch(name):
            return f"attribute {quote(name)} has a word for a name"
        if isinstance(value, Literal) or not is_attribute(value):
            return f"attribute {name} is a number of {BITS} bits, a bool, string, dtype, symbol or list of these"
        if name in PLANNED and (type(value) is not int or value < 0):
            return f"attribute {name} is what plan counted, an integer of at least 0"
    return ""


def _is_place(place: Place) -> bool:
    most = 0 if place.kind == "caller" else (1 << 63) - 1
    return PLACES.get(place.kind) is (place.of is not None) and 0 <= place.offset <= most


def verify_function(function: Function, module: Module | None = None) -> None:
    """Check one function; ``module`` resolves the functions it names."""

    def fail(
        rule: str, i: Instruction | None = None, *, operand: int = -1, type: int = -1, at: Value | None = None
    ) -> NoReturn:
        where = f"in {_at(function.name)}" + (f", {i.op.name} number {function.instructions.index(i)}" if i else "")
        span = _span(module, at or i or function)
        offset = 0
        if span is not None:
            parts = span.operands[operand : operand + 1] if operand >= 0 else span.types[type : type + 1]
            offset = parts[0] if (operand >= 0 or type >= 0) and parts else span.name
        raise VerifyError(
            shortened(f"{where}: {rule}"),
            i.location if i else (),
            origin=module.origin if module is not None and span is not None else None,
            offset=offset,
        )

    known: set[Value] = set()

    def define(value: Value, i: Instruction | None, n: int) -> None:
        if not is_possible(value.type):
            fail(f"{value.type} is not a possible type\n  rule: {POSSIBLE}", i, type=n)
        if value.place is None:
            return
        if not _is_place(value.place):
            fail(f"the place of {_shown(value)} is {PLACE_RULE}", i, type=n)
        if value.place.of is not None and value.place.of not in known:
            fail(f"the place of {_shown(value)} names a value defined before it", i, type=n)

    if rule := _heading_rule(function):
        fail(rule)
    for value, role in zip(function.arguments, function.roles, strict=True):
        if value in known:
            fail("an argument appears once")
        if role is not None and role not in ROLES:
            fail(f"role {role!r} is one of {', '.join(ROLES)}")
        known.add(value)
        define(value, None, -1)
    if fault := function.state_fault():
        fail(fault[1], at=fault[0])
    for i in function.instructions:
        for n, o in enumerate(i.operands):
            if o not in known:
                fail(f"operand {_shown(o)} is defined before it is used", i, operand=n)
        attrs: dict[str, Any] = dict(i.attrs)
        if (attrs or i.op.attrs) and (rule := _attributes_rule(i)):
            fail(rule, i)
        if isinstance(i.op, Control):
            for body in i.op.bodies:
                symbol = attrs.get(body)
                if not isinstance(symbol, Symbol) or module is None or symbol not in module.functions:
                    fail(f"{body} = {symbol!r} names a function of the module", i)
                attrs[body] = module.functions[symbol]
        try:
            types: tuple[TensorType, ...] = (
                tuple(i.op.infer(*[o.type for o in i.operands], **attrs))
                if i.op.results < 0
                else i.op.result_types(tuple([o.type for o in i.operands]), attrs)
            )
        except IRError as error:
            fail(error.message, i)
        results = i.results
        if len(results) != len(types) or not results:
            fail(f"{i.op.name} has {len(types)} results, not {len(results)}", i)
        for n, (r, t) in enumerate(zip(results, types, strict=True)):
            if r.type is not t and r.type != t:
                fail(f"the result type is {t}, not {r.type}", i, type=n)
            if r in known:
                fail(f"{_shown(r)} is defined once", i, type=n)
            define(r, i, n)
        known.update(results)
        if len(set(results)) != len(results):
            fail("results are distinct values", i)
    roles = dict(zip(function.arguments, function.roles, strict=True))
    marked: set[tuple[str, Value]] = set()
    for n, (value, mark) in enumerate(zip(function.results, function.marks, strict=True)):
        if value not in known:
            fail(f"result {_shown(value)} is defined", type=n)
        if mark is None:
            continue
        if mark.kind not in ("grad", "update") or mark.of not in roles:
            fail("a mark is grad or update of an argument", type=n)
        if mark.kind == "update" and roles[mark.of] in ("input", None):
            fail(f"an update is of state, not of the {roles[mark.of] or 'kernel argument'} {_shown(mark.of)}", type=n)
        if (mark.kind, mark.of) in marked:
            fail(f"{_shown(mark.of)} has one {mark.kind}", type=n)
        marked.add((mark.kind, mark.of))
        if mark.of.type != value.type:
            fail(f"{mark.kind} of a {mark.of.type} has its type, not {value.type}", type=n)
