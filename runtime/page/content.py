"""What a page says about each function: its nodes in drawing order, their texts, and where they come from."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...ir.graph import Function, Instruction, Location, Module, Symbol, Value
from ...ir.lines import source_line
from ...ir.literal import Literal
from ...ir.origin import Origin
from ...ir.print import Names, argument, attribute, print_function, quote, result
from .tree import Edge, Group, Path, arrange

RESULTS_APART = 12
RESULTS: Path = ("\0results",)
LONG_BYTES = re.compile(r'bytes "([A-Za-z0-9+/=]{24})([A-Za-z0-9+/=]{16,})"')


@dataclass
class Node:
    """An argument, an op or a result as the page shows it; ``operands`` are pairs of a node and the number of its value."""

    kind: str  # "argument" | "op" | "result"
    op: str
    values: list[str]
    text: str
    note: str
    types: list[str]
    family: str = ""
    attrs: list[str] = field(default_factory=list[str])
    operands: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    module: str = ""
    places: list[int] = field(default_factory=list[int])
    kernel: str | None = None


class Places:
    """Source lines by number: ``(file, line, module, text of the line)``, each kept once."""

    def __init__(self, base: str | None) -> None:
        self.rows: list[tuple[str, int, str, str]] = []
        self._base = base
        self._known: dict[Location, int] = {}

    def number(self, place: Location, source: bool = True) -> int:
        """The number of a location, which is kept with the text of its line if there is any and ``source`` asks for it."""
        if place not in self._known:
            self._known[place] = len(self.rows)
            text = source_line(place.file, place.line, self._base) if source else ""
            self.rows.append((self._shown(place.file), place.line, place.module, text))
        return self._known[place]

    def _shown(self, file: str) -> str:
        return os.path.relpath(file, self._base).replace(os.sep, "/") if self._base and os.path.isabs(file) else file


@dataclass
class Content:
    """One module as the page embeds it, and where things are in that.

    ``index`` gives function and node of an instruction, ``numbers`` the place of a function, ``named`` the node of an argument or a
    result by its function and its printed line or the head of that.
    """

    title: str
    places: Places
    origin: Origin | None
    functions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    index: dict[Instruction, tuple[int, int]] = field(default_factory=dict[Instruction, tuple[int, int]])
    numbers: dict[str, int] = field(default_factory=dict[str, int])
    named: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def add(self, function: Function, kernel: bool) -> None:
        """Append a function."""
        order = list(_order(function))
        lines = shorten(print_function(function)).split("\n")
        writer = Writer(function, lines, self.places, self.origin)
        for item, _ in order:
            writer.write(item)
        nodes, number = writer.nodes, len(self.functions)
        inputs = [n for n, node in enumerate(nodes) if node.kind == "argument" and node.op in ("input", "argument")]
        groups = arrange([path for _, path in order], list(writer.edges), inputs)
        self.functions.append(
            {
                "name": function.name,
                "label": "@" + quote(function.name),
                "kernel": kernel,
                "hue": hue(function.name),
                "head": lines[: -2 - len(function.instructions)],
                "return": lines[-2].strip(),
                "nodes": [vars(n) for n in nodes],
                "groups": [_group(g, nodes[g.start : g.stop]) for g in groups],
            }
        )
        self.numbers[function.name] = number
        self.index |= {item: (number, n) for n, (item, _) in enumerate(order) if isinstance(item, Instruction)}
        for n, node in enumerate(nodes):
            if node.kind != "op":
                self.named.setdefault((function.name, node.text), n)
                self.named.setdefault((function.name, _head(node.text)), n)

    def find(self, function: str, text: str) -> tuple[int, int]:
        """Function and node of an argument or a result by its printed line; -1 where there is none."""
        at = self.named.get((function, text), self.named.get((function, _head(text)), -1))
        return self.numbers.get(function, -1), at

    def json(self) -> dict[str, Any]:
        return {"title": self.title, "functions": self.functions, "places": self.places.rows}


def content(module: Module, title: str, base: str | None) -> Content:
    """Everything the page knows of a verified module."""
    kernels = {name for f in module for name in f.symbols()}
    made = Content(title, Places(base), module.origin)
    for function in module:
        made.add(function, function.name in kernels)
    return made


def _head(text: str) -> str:
    """The name with which the printed line of an argument or a result begins."""
    return text.split(": ")[0] + ": "


def _group(group: Group, nodes: Sequence[Node]) -> dict[str, Any]:
    label, path = (text.replace("\0", "") for text in (group.label, ".".join(group.path)))
    ops = sum(n.kind == "op" for n in nodes)
    return {"label": label, "path": path, "rows": group.rows, "ops": ops, "nodes": len(nodes)}


def hue(name: str) -> int:
    """A colour for a kernel: the same for a name always, and far apart for consecutive numbers."""
    number = re.search(r"\d{1,9}$", name)
    return round((int(number[0]) if number else zlib.crc32(name.encode("utf-8", "replace"))) * 137.508 + 20) % 360


def shorten(text: str) -> str:
    """Printed IR with the bytes of large constants cut off."""
    return LONG_BYTES.sub(lambda m: f'bytes "{m[1]}…" ({(len(m[1]) + len(m[2])) * 3 // 4:,} bytes)', text)


# The order of nodes

Item = Value | Instruction | int  # an argument, an op, or the number of a result


def _order(function: Function) -> Iterator[tuple[Item, Path]]:
    """The nodes in drawing order, which is topological, each with its module path.

    An argument that holds state stands before its first user and takes its path: it is drawn inside the module that reads it.
    """
    state = dict(function.state())
    first: dict[Value, int] = {}
    for n, i in enumerate(function.instructions):
        for operand in i.operands:
            first.setdefault(operand, n)
    waiting: dict[int, list[Value]] = {}
    for value in function.arguments:
        if value in state and value in first:
            waiting.setdefault(first[value], []).append(value)
        else:
            yield value, ()
    for n, i in enumerate(function.instructions):
        path = _path(i)
        for value in waiting.get(n, ()):
            yield value, path
        yield i, path
    many = len(function.results) > RESULTS_APART
    for n in range(len(function.results)):
        yield n, RESULTS if many else ()


def _path(i: Instruction) -> Path:
    module = i.location[0].module if i.location else ""
    return tuple(module.split(".")) if module else ()


# Nodes


class Writer:
    """Makes the nodes of one function, in the order in which they are asked for."""

    def __init__(self, function: Function, lines: Sequence[str], places: Places, origin: Origin | None) -> None:
        self.function = function
        self.names = Names(function)
        self.places = places
        self.origin = origin
        self.nodes: list[Node] = []
        self.edges: dict[Edge, None] = {}
        self._made: dict[Value, tuple[int, int]] = {}
        self._line = dict(zip(function.instructions, lines[-2 - len(function.instructions) : -2], strict=True))
        self._roles = dict(zip(function.arguments, function.roles, strict=True))

    def write(self, item: Item) -> None:
        """Add the node of an argument, an op or a result."""
        if isinstance(item, int):
            self._add(self._result(item), [self.function.results[item]], ())
        elif isinstance(item, Value):
            self._add(self._argument(item), (), [item])
        else:
            self._add(self._op(item), item.operands, item.results)

    def _add(self, node: Node, operands: Sequence[Value], results: Sequence[Value]) -> None:
        number = len(self.nodes)
        node.operands = [self._made[o] for o in operands]
        self.edges |= {(made, number): None for made, _ in node.operands}
        self._made |= {r: (number, n) for n, r in enumerate(results)}
        self.nodes.append(node)

    def _argument(self, value: Value) -> Node:
        role = self._roles[value]
        note = f"{role or 'argument'} {value.type}"
        node = Node("argument", role or "argument", [self.names.of[value]], "", note, [str(value.type)])
        return replace(node, text=argument(value, role, self.names), places=self._places(value, ()))

    def _result(self, number: int) -> Node:
        value, mark = self.function.results[number], self.function.marks[number]
        text = f"return {self.names.of[value]}: {result(value, mark, self.names)}"
        note = f"{mark.kind}({self.names.of[mark.of]})" if mark else f"result {number} {value.type}"
        return Node("result", "return", [], text, note, [str(value.type)])

    def _places(self, part: Value | Instruction, location: tuple[Location, ...]) -> list[int]:
        """Where a part comes from: its source lines, else its line of the text that was read."""
        if location or self.origin is None:
            return [self.places.number(place) for place in location]
        line = self.origin.line_of(part)
        return [self.places.number(Location(self.origin.file, line), source=False)] if line else []

    def _op(self, i: Instruction) -> Node:
        types = [str(r.type) for r in i.results]
        literal = next((shorten(attribute(v)) for v in i.attrs.values() if isinstance(v, Literal)), None)
        return Node(
            kind="op",
            op=i.op.name,
            values=[self.names.of[r] for r in i.results],
            text=self._line[i].strip(),
            note=", ".join(types) if literal is None else f"{literal} : {types[0]}",
            types=types,
            family=i.op.family,
            attrs=[f"{k} = {shorten(attribute(v))}" for k, v in i.attrs.items()],
            module=i.location[0].module if i.location else "",
            places=self._places(i, i.location),
            kernel=next((str(v) for v in i.attrs.values() if isinstance(v, Symbol)), None),
        )
