"""Edits of modules that verify may still accept: other types, operands, ops, attributes, names, roles and marks, types inferred again."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from tapeir.ir import DTYPES, OPS, Function, Instruction, IRError, Location, Mark, Module, Symbol, TensorType, Value
from tapeir.ir.graph import ROLES
from tapeir.ir.literal import Literal
from tapeir.ir.op import Control
from tapeir.ir.types import DType

SIZES = (0, 1, 2, 3, 4, 5, 16, 17, 31)
NUMBERS = (
    *SIZES,
    -1,
    -2,
    127,
    255,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    (1 << 62) + 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    -(1 << 63),
)
REALS = (0.0, -0.0, 1e-300, 1e300, float("inf"), float("nan"), -1.0, 0.5)
NAMES = (
    "\0", "\ud800", "a\0b", "\U0001f600", "", "0", "in0", "out0", "arena", "optimizer/param/w", "optimizer/step", "optimizer//w", "../x",
    "\n", "k0", "main", "*/", "run", "\x1b[2J", "loc", "x", "a" * 300, "nan", "%0", "\\", '"', "\u2028", "__import__", "class", "é",
)  # fmt: skip
FILES = ("a.py", "../é b.py", "*/", "")
WORDS = ("arena", "bound", "values", "alignment", "class", "mode", "x")
KINDS = ("map", "row", "column", "update", "", "\0")


def _pick(items: Any, random: Random) -> Any:
    listed = list(items)
    return random.choice(listed) if listed else None


def _resized(shape: tuple[int, ...], old: int, new: int) -> tuple[int, ...]:
    return tuple(new if n == old else n for n in shape)


def _literals(i: Instruction, change: Callable[[Literal], Literal]) -> None:
    i.attrs = {k: change(v) if isinstance(v, Literal) else v for k, v in i.attrs.items()}


def size_everywhere(module: Module, random: Random) -> None:
    sizes = {n for f in module for v in f.arguments for n in v.type.shape}
    old = _pick(sorted(sizes), random)
    if old is None:
        return
    new = random.choice(SIZES)

    def change(x: Literal) -> Literal:
        fits = x.is_splat and x.type.size
        return Literal.splat(x.data.reshape(-1)[0], x.type.with_shape(_resized(x.type.shape, old, new))) if fits else x

    for f in module:
        for v in f.arguments:
            v.type = v.type.with_shape(_resized(v.type.shape, old, new))
        for i in f.instructions:
            _literals(i, change)
            i.attrs = {k: _resized(v, old, new) if k in ("shape", "stop") else v for k, v in i.attrs.items()}


def dtype_everywhere(module: Module, random: Random) -> None:
    found = {v.type.dtype.name for f in module for v in f.values()}
    old, new = DTYPES[_pick(sorted(found), random) or "f32"], random.choice(list(DTYPES.values()))

    def change(x: Literal) -> Literal:
        with np.errstate(all="ignore"):
            return Literal.of(x.data.astype(new.numpy)) if x.type.dtype is old and new.kind != "k" else x

    for f in module:
        for v in f.arguments:
            if v.type.dtype is old:
                v.type = v.type.with_dtype(new)
        for i in f.instructions:
            _literals(i, change)
            i.attrs = {k: new if v is old else v for k, v in i.attrs.items()}


def argument_type(module: Module, random: Random) -> None:
    v: Value | None = _pick((v for f in module for v in f.arguments), random)
    if v is None:
        return
    shape = tuple(random.choice(SIZES) if random.random() < 0.3 else n for n in v.type.shape)
    v.type = TensorType(random.choice([v.type.dtype, *DTYPES.values()]), shape)


def _instruction(module: Module, random: Random) -> tuple[Function, Instruction] | None:
    return _pick(((f, i) for f in module for i in f.instructions), random)


def operand(module: Module, random: Random) -> None:
    found = _instruction(module, random)
    if found is None or not found[1].operands:
        return
    f, i = found
    before = [*f.arguments, *[r for j in f.instructions[: f.instructions.index(i)] for r in j.results]]
    n = random.randrange(len(i.operands))
    alike = [v for v in before if v.type == i.operands[n].type]
    i.operands = (*i.operands[:n], random.choice(alike or before), *i.operands[n + 1 :])


def other_op(module: Module, random: Random) -> None:
    found = _instruction(module, random)
    if found is None:
        return
    i = found[1]
    i.op = random.choice([op for op in OPS.values() if (op.arity, set(op.attrs)) == (i.op.arity, set(i.op.attrs))])


def attribute(module: Module, random: Random) -> None:
    place = _pick(((i, k) for f in module for i in f.instructions for k in i.attrs), random)
    if place is None:
        return
    i, name = place
    value: Any = i.attrs[name]
    if isinstance(value, bool):
        value = not value
    elif isinstance(value, int):
        value = random.choice(NUMBERS)
    elif isinstance(value, float):
        value = random.choice(REALS)
    elif isinstance(value, tuple) and value:
        listed: list[Any] = list(i.attrs[name])
        listed[random.randrange(len(listed))] = random.choice(NUMBERS)
        value = tuple(listed)
    elif isinstance(value, Symbol):
        value = Symbol(random.choice(list(module.functions)))
    elif isinstance(value, str):
        value = random.choice(NAMES)
    elif isinstance(value, DType):
        value = random.choice(list(DTYPES.values()))
    i.attrs = {**i.attrs, name: value}


def name(module: Module, random: Random) -> None:
    new = random.choice(NAMES)
    match random.randrange(4):
        case 0:
            module.name = new
        case 1:
            f: Function | None = _pick(module, random)
            if f is not None and new not in module.functions:
                old, f.name = f.name, new
                module.functions = {g.name: g for g in module}
                for i in (i for g in module for i in g.instructions):
                    i.attrs = {k: Symbol(new) if isinstance(v, Symbol) and v == old else v for k, v in i.attrs.items()}
        case _:
            v: Value | None = _pick((v for f in module for v in f.values()), random)
            if v is not None:
                v.name = random.choice((new, None))


def role(module: Module, random: Random) -> None:
    f: Function | None = _pick((f for f in module if f.arguments), random)
    if f is None:
        return
    n = random.randrange(len(f.arguments))
    f.roles[n] = random.choice((*ROLES, None))
    fitting = [k for k, r in enumerate(f.results) if r.type == f.arguments[n].type]
    if fitting and f.roles[n] not in ("input", None):
        f.marks[random.choice(fitting)] = Mark(random.choice(("update", "grad")), f.arguments[n])


def heading(module: Module, random: Random) -> None:
    f: Function | None = _pick(module, random)
    if f is not None:
        f.attrs[random.choice(WORDS)] = random.choice((*NUMBERS, *REALS, *KINDS, True, DTYPES["f32"], (1, 2)))


def location(module: Module, random: Random) -> None:
    found = _instruction(module, random)
    if found is not None:
        where = Location(random.choice(FILES), random.choice((0, 1, 1 << 62)), random.choice(NAMES))
        found[1].location = (where, *found[1].location)


def result(module: Module, random: Random) -> None:
    f: Function | None = _pick((f for f in module if any(f.values())), random)
    if f is not None:
        f.results.append(random.choice(list(f.values())))
        f.marks.append(None)


def again(module: Module, random: Random) -> None:
    found = _instruction(module, random)
    if found is None:
        return
    f, i = found
    copy = Instruction(i.op, i.operands, i.attrs, [r.type for r in i.results], i.location)
    f.instructions.insert(f.instructions.index(i) + 1, copy)
    f.results.append(copy.results[0])
    f.marks.append(None)


EDITS = (
    *[size_everywhere, dtype_everywhere, attribute, operand, name] * 2,
    *(attribute, argument_type, other_op, role, heading, location, result, again),
)


def inferred(module: Module) -> None:
    """Give all results the types that their ops infer, as far as they do; places are forgotten now and then with them."""
    for f in module:
        for i in f.instructions:
            attrs: dict[str, Any] = dict(i.attrs)
            if isinstance(i.op, Control):
                kernel = module.functions.get(attrs.get("kernel", ""))
                if kernel is None:
                    return
                for v, o in zip(kernel.arguments, i.operands, strict=False):
                    v.type = o.type
                types = tuple(r.type for r in kernel.results)
            else:
                try:
                    types = i.op.result_types(tuple(o.type for o in i.operands), attrs)
                except IRError:
                    return
            for r, t in zip(i.results, types, strict=False):
                r.type = t


def edited(module: Module, random: Random) -> Module:
    """A copy of a module after one to four edits."""
    module = module.clone()
    for _ in range(random.choice((1, 1, 2, 3, 4))):
        random.choice(EDITS)(module, random)
    for _ in range(2):  # kernels stand before or after those that name them
        inferred(module)
    return module
