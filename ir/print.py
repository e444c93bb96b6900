"""The canonical printer.  One form for every op: ``results = name operands {attributes} : types location``."""

from __future__ import annotations

import base64
import json
import os
import re
from typing import Any

import numpy as np

from .graph import Function, Instruction, Location, Mark, Module, Symbol, Value
from .literal import Literal
from .types import DType, bf16

PLAIN = re.compile(r"(?!\d+$)[A-Za-z0-9_.]{1,4096}(/[A-Za-z0-9_.]{1,4096}){0,64}", re.ASCII)
INLINE_ELEMENTS = 16


def quote(name: str) -> str:
    """A name as text: bare where the grammar allows it, else a JSON string."""
    return name if PLAIN.fullmatch(name) else json.dumps(name)


def number(value: Any, dtype: DType) -> str:
    """One element: the shortest text that reads back to the same bits."""
    if dtype.kind == "b":
        return "true" if value else "false"
    if not dtype.floating:
        return str(int(value))
    x = float(value)
    if x != x:
        return "nan"
    if x in (np.inf, -np.inf):
        return "inf" if x > 0 else "-inf"
    if dtype.name != "f64":
        with np.errstate(over="ignore"):
            short = _shortest(x) if dtype.name == "bf16" else str(dtype.numpy.type(value))
            if float(dtype.numpy.type(float(short))) == x:
                return _dotted(short)
    return _dotted(repr(x))


def _shortest(x: float) -> str:
    """The fewest digits that read back to a bfloat16; its own ``str`` gives six."""
    return next(
        t for digits in range(1, 10) if float(bf16.numpy.type(float(t := f"{x:.{digits}g}"))) == x or digits == 9
    )


def _dotted(text: str) -> str:
    return text if any(c in text for c in ".en") else text + ".0"


def attribute(value: Any) -> str:
    """An attribute's value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Symbol):
        return "@" + quote(value)
    if isinstance(value, float):
        return "nan" if value != value else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, DType):
        return value.name
    if isinstance(value, tuple):
        return "[" + ", ".join([attribute(v) for v in value]) + "]"  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Literal):
        return literal(value)
    raise TypeError(f"{value!r} is no attribute value")


def literal(value: Literal) -> str:
    """A constant's elements: one for a splat, a list up to 16, else their bytes in base64."""
    dtype = value.type.dtype
    if value.is_splat:
        return number(value.scalar if dtype.kind != "f" else value.data[()], dtype)
    if value.data.size > INLINE_ELEMENTS:
        data = value.data.astype(value.data.dtype.newbyteorder("<"), copy=False)
        return f'bytes "{base64.b64encode(data.tobytes()).decode()}"'
    return "[" + ", ".join([number(v, dtype) for v in value.data.reshape(-1)]) + "]"


def attributes(attrs: Any) -> str:
    """``{name = value, ...}``, or nothing."""
    return " {" + ", ".join([f"{k} = {attribute(v)}" for k, v in attrs.items()]) + "}" if attrs else ""


class Names:
    """Gives every value of a function its printed name: its own with a free suffix, else the next number."""

    def __init__(self, function: Function) -> None:
        self.of: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}
        stateful = [v for v, _ in function.state()]
        for value in (*stateful, *function.arguments):
            if value not in self.of and value.name is not None:
                self._name(value, value.name)
        count = 0
        for value in (*function.arguments, *(r for i in function.instructions for r in i.results)):
            if value in self.of:
                continue
            if value.name is not None:
                self._name(value, value.name)
            else:
                self.of[value] = f"%{count}"
                count += 1

    def _name(self, value: Value, name: str) -> None:
        chosen = name
        while chosen in self._taken:
            self._next[name] = self._next.get(name, 0) + 1
            chosen = f"{name}_{self._next[name]}"
        self._taken.add(chosen)
        self.of[value] = "%" + quote(chosen)


def _type(value: Value, names: Names) -> str:
    if value.place is None:
        return str(value.type)
    of = value.place.of
    inside = f"({names.of[of]})" if of is not None else ""
    offset = f"+{value.place.offset}" if of is not None and value.place.offset else ""
    return f"{value.type} at {value.place}{inside}{offset}"


def _location(places: tuple[Location, ...], base: str | None) -> str:
    def one(place: Location) -> str:
        file = (
            os.path.relpath(place.file, base).replace(os.sep, "/") if base and os.path.isabs(place.file) else place.file
        )
        return f"{json.dumps(file)}:{place.line}" + (f" in {json.dumps(place.module)}" if place.module else "")

    return f" loc({', '.join(one(p) for p in places)})" if places else ""


def instruction(i: Instruction, names: Names, locations: bool = False, base: str | None = None) -> str:
    """One instruction's line, without indentation."""
    results = ", ".join([names.of[r] for r in i.results])
    operands = " " + ", ".join([names.of[o] for o in i.operands]) if i.operands else ""
    types = ", ".join([_type(r, names) for r in i.results])
    where = _location(i.location, base) if locations else ""
    return f"{results} = {i.op.name}{operands}{attributes(i.attrs)} : {types}{where}"


def _mark(mark: Mark | None, names: Names) -> str:
    return f" {mark.kind}({names.of[mark.of]})" if mark else ""


def print_function(function: Function, *, locations: bool = False, base: str | None = None, indent: str = "") -> str:
    """The text of one function; ``base`` is the folder that files in locations are relative to."""
    names = Names(function)
    lines = [f"{indent}func @{quote(function.name)}("]
    last = len(function.arguments) - 1
    for n, (value, role) in enumerate(zip(function.arguments, function.roles, strict=True)):
        tail = f" {role}" if role else ""
        lines.append(f"{indent}  {names.of[value]}: {_type(value, names)}{tail}{',' if n < last else ''}")
    results = ", ".join(f"{v.type}{_mark(m, names)}" for v, m in zip(function.results, function.marks, strict=True))
    attrs = f" with{attributes(function.attrs)}" if function.attrs else ""
    closing = f") -> ({results}){attrs} {{"
    if function.arguments:
        lines.append(indent + closing)
    else:
        lines[-1] += closing
    for i in function.instructions:
        lines.append(f"{indent}  {instruction(i, names, locations, base)}")
    returned = " " + ", ".join(names.of[v] for v in function.results) if function.results else ""
    lines.append(f"{indent}  return{returned}")
    lines.append(indent + "}")
    return "\n".join(lines)


def print_module(module: Module, *, locations: bool = False, base: str | None = None) -> str:
    """The canonical text of a module, ending in a newline."""
    functions = "\n".join(print_function(f, locations=locations, base=base, indent="  ") + "\n" for f in module)
    return f"module @{quote(module.name)} {{\n{functions}}}\n"
