"""The canonical printer.  One form for every op: ``results = name operands {attributes} : types location``.

A constant of more than 16 elements that is no splat is printed as its bytes (``str(module)``) or, by ``print``, as the hash under
which its elements stand beside the text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .float_mode import standard_mode
from .graph import Function, Instruction, Location, Mark, Module, Symbol, Value
from .literal import Literal
from .types import Array, DType, TensorType, bf16

PLAIN = re.compile(r"(?!\d+$)[A-Za-z0-9_.]{1,4096}(/[A-Za-z0-9_.]{1,4096}){0,64}", re.ASCII)
INLINE_ELEMENTS = 16
SIDE = "data"
"""The attribute that stands for a constant's elements where they are kept beside the text."""


class Text(NamedTuple):
    """IR text and, by name, the elements of the large constants that it refers to."""

    text: str
    data: dict[str, Array]


@dataclass(frozen=True)
class Form:
    """How to print: with ``locations``, their files relative to the folder ``base``; large constants to ``data``, or inline."""

    locations: bool = False
    base: str | None = None
    data: dict[str, Array] | None = None


PLAIN_FORM = Form()


def side_name(array: Array, type: TensorType) -> str:
    """The name of a constant kept beside the text: the SHA-256 of its type and its little-endian bytes."""
    data = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return f"sha256_{hashlib.sha256(f'{type}:'.encode() + data.tobytes()).hexdigest()}"


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
        return "nan" if value != value else repr(float(value))  # not a subclass's repr, such as NumPy's
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, DType):
        return value.name
    if isinstance(value, tuple):
        return "[" + ", ".join([attribute(v) for v in value]) + "]"  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, Literal):
        return literal(value)
    raise TypeError(f"{value!r} is no attribute value")


def _is_large(value: Any) -> bool:
    return isinstance(value, Literal) and not value.is_splat and value.data.size > INLINE_ELEMENTS


def literal(value: Literal) -> str:
    """A constant's elements: one for a splat, a list up to 16, else their bytes in base64."""
    dtype = value.type.dtype
    if value.is_splat:
        return number(value.scalar if dtype.kind != "f" else value.data[()], dtype)
    if _is_large(value):
        data = value.data.astype(value.data.dtype.newbyteorder("<"), copy=False)
        return f'bytes "{base64.b64encode(data.tobytes()).decode()}"'
    return "[" + ", ".join([number(v, dtype) for v in value.data.reshape(-1)]) + "]"


def _pair(name: str, value: Any, form: Form) -> str:
    if form.data is None or not _is_large(value):
        return f"{name} = {attribute(value)}"
    side = side_name(value.data, value.type)
    form.data[side] = value.data
    return f"{SIDE} = @{side}"


def attributes(attrs: Any, form: Form = PLAIN_FORM) -> str:
    """``{name = value, ...}``, or nothing."""
    return " {" + ", ".join([_pair(k, v, form) for k, v in attrs.items()]) + "}" if attrs else ""


class Names:
    """Gives every value of a function its printed name: its own with a free suffix, else the next number."""

    def __init__(self, function: Function) -> None:
        self.of: dict[Value, str] = {}
        self._taken: set[str] = set()  # as printed: two names may have one text
        self._next: dict[str, int] = {}
        stateful = [v for v, _ in function.state()]
        for value in (*stateful, *function.arguments):
            if value not in self.of and value.name is not None:
                self._name(value, value.name)
        count = 0
        for value in function.values():
            if value in self.of:
                continue
            if value.name is not None:
                self._name(value, value.name)
            else:
                self.of[value] = f"%{count}"
                count += 1

    def _name(self, value: Value, name: str) -> None:
        chosen = quote(name)
        while chosen in self._taken:
            self._next[name] = self._next.get(name, 0) + 1
            chosen = quote(f"{name}_{self._next[name]}")
        self._taken.add(chosen)
        self.of[value] = "%" + chosen


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


def instruction(i: Instruction, names: Names, form: Form = PLAIN_FORM) -> str:
    """One instruction's line, without indentation."""
    results = ", ".join([names.of[r] for r in i.results])
    operands = " " + ", ".join([names.of[o] for o in i.operands]) if i.operands else ""
    types = ", ".join([_type(r, names) for r in i.results])
    where = _location(i.location, form.base) if form.locations else ""
    return f"{results} = {i.op.name}{operands}{attributes(i.attrs, form)} : {types}{where}"


def argument(value: Value, role: str | None, names: Names) -> str:
    """One argument as it stands in a function's head."""
    return f"{names.of[value]}: {_type(value, names)}{f' {role}' if role else ''}"


def result(value: Value, mark: Mark | None, names: Names) -> str:
    """One result as it stands in a function's head."""
    return f"{value.type}{f' {mark.kind}({names.of[mark.of]})' if mark else ''}"


def _function(function: Function, form: Form, indent: str) -> str:
    names = Names(function)
    lines = [f"{indent}func @{quote(function.name)}("]
    last = len(function.arguments) - 1
    for n, (value, role) in enumerate(zip(function.arguments, function.roles, strict=True)):
        lines.append(f"{indent}  {argument(value, role, names)}{',' if n < last else ''}")
    results = ", ".join(result(v, m, names) for v, m in zip(function.results, function.marks, strict=True))
    attrs = f" with{attributes(function.attrs)}" if function.attrs else ""
    closing = f") -> ({results}){attrs} {{"
    if function.arguments:
        lines.append(indent + closing)
    else:
        lines[-1] += closing
    with standard_mode():  # digits are found by arithmetic
        lines += [f"{indent}  {instruction(i, names, form)}" for i in function.instructions]
    returned = " " + ", ".join(names.of[v] for v in function.results) if function.results else ""
    lines.append(f"{indent}  return{returned}")
    lines.append(indent + "}")
    return "\n".join(lines)


def print_function(function: Function, *, locations: bool = False, base: str | None = None) -> str:
    """The text of one function; ``base`` is the folder that files in locations are relative to."""
    return _function(function, Form(locations, base), "")


def _module(module: Module, form: Form) -> str:
    functions = "\n".join(_function(f, form, "  ") + "\n" for f in module)
    return f"module @{quote(module.name)} {{\n{functions}}}\n"


def print_module(module: Module, *, locations: bool = False, base: str | None = None) -> str:
    """The canonical text of a module, ending in a newline, large constants inline."""
    return _module(module, Form(locations, base))


def print(module: Module, *, locations: bool = False, base: str | None = None) -> Text:
    """The canonical text of a module, ending in a newline, and beside it the elements of its large constants.

    ``parse`` takes the pair back.  Files in locations are relative to the folder ``base``.
    """
    data: dict[str, Array] = {}
    return Text(_module(module, Form(locations, base, data)), data)
