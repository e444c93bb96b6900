"""The verifier: re-runs every type rule and checks definitions, roles, marks and symbols."""

from __future__ import annotations

from typing import Any, NoReturn

from .errors import IRError, VerifyError
from .graph import ROLES, Function, Instruction, Module, Symbol, Value
from .op import Control
from .origin import Span
from .types import TensorType


def verify(module: Module) -> None:
    """Check every function of a module; raises ``VerifyError`` naming function, instruction and rule.

    Of IR that was read from text the error also shows the lines.
    """
    for function in module:
        verify_function(function, module)
    _refuse_cycles(module)


def _refuse_cycles(module: Module) -> None:
    state: dict[str, int] = {}
    for root in module.functions:
        stack = [(root, False)]
        while stack:
            name, done = stack.pop()
            if done:
                state[name] = 2
                continue
            if state.get(name) == 2:
                continue
            if state.get(name) == 1:
                origin, span = module.origin, _span(module, module.functions[name])
                raise VerifyError(
                    f"function @{name} reaches itself through its kernels\n  rule: functions do not recurse",
                    origin=origin if span else None,
                    offset=span.name if span else 0,
                )
            state[name] = 1
            stack.append((name, True))
            stack.extend(
                (symbol, False) for symbol in sorted(module.functions[name].symbols()) if state.get(symbol) != 2
            )


def _span(module: Module | None, part: Any) -> Span | None:
    return module.origin.spans.get(part) if module is not None and module.origin is not None else None


def verify_function(function: Function, module: Module | None = None) -> None:
    """Check one function; ``module`` resolves the functions it names."""

    def fail(rule: str, i: Instruction | None = None, *, operand: int = -1, type: int = -1) -> NoReturn:
        where = f"in @{function.name}" + (f", {i.op.name} number {function.instructions.index(i)}" if i else "")
        span = _span(module, i or function)
        offset = 0
        if span is not None:
            parts = span.operands[operand : operand + 1] if operand >= 0 else span.types[type : type + 1]
            offset = parts[0] if (operand >= 0 or type >= 0) and parts else span.name
        raise VerifyError(
            f"{where}: {rule}",
            i.location if i else (),
            origin=module.origin if module is not None and span is not None else None,
            offset=offset,
        )

    known: set[Value] = set()

    def place(value: Value, i: Instruction | None) -> None:
        if value.place is not None and value.place.of is not None and value.place.of not in known:
            fail(f"the place of {value!r} names a value defined before it", i)

    if len(function.arguments) != len(function.roles) or len(function.results) != len(function.marks):
        fail("every argument has a role and every result a mark, or None")
    for value, role in zip(function.arguments, function.roles, strict=True):
        if value in known:
            fail("an argument appears once")
        if role is not None and role not in ROLES:
            fail(f"role {role!r} is one of {', '.join(ROLES)}")
        known.add(value)
        place(value, None)
    for i in function.instructions:
        for n, o in enumerate(i.operands):
            if o not in known:
                fail(f"operand {o!r} is defined before it is used", i, operand=n)
        attrs: dict[str, Any] = dict(i.attrs)
        if attrs or i.op.attrs:
            try:
                if i.op.attributes(attrs) != attrs:
                    fail("attributes are complete and in the op's form", i)
            except TypeError as error:
                fail(f"attributes fit the op ({error})", i)
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
        if len(results) != len(types):
            fail(f"{i.op.name} has {len(types)} results, not {len(results)}", i)
        for n, (r, t) in enumerate(zip(results, types, strict=True)):
            if r.type is not t and r.type != t:
                fail(f"the result type is {t}, not {r.type}", i, type=n)
            place(r, i)
        known.update(results)
        if len(set(results)) != len(results):
            fail("results are distinct values", i)
    roles = dict(zip(function.arguments, function.roles, strict=True))
    marked: set[tuple[str, Value]] = set()
    for n, (value, mark) in enumerate(zip(function.results, function.marks, strict=True)):
        if value not in known:
            fail(f"result {value!r} is defined", type=n)
        if mark is None:
            continue
        if mark.kind not in ("grad", "update") or mark.of not in roles:
            fail("a mark is grad or update of an argument", type=n)
        if mark.kind == "update" and roles[mark.of] in ("input", None):
            fail(f"an update is of state, not of the {roles[mark.of] or 'kernel argument'} {mark.of!r}", type=n)
        if (mark.kind, mark.of) in marked:
            fail(f"{mark.of!r} has one {mark.kind}", type=n)
        marked.add((mark.kind, mark.of))
        if mark.of.type != value.type:
            fail(f"{mark.kind} of a {mark.of.type} has its type, not {value.type}", type=n)
