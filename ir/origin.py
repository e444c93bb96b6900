"""Where IR stands in the text it was read from, and the excerpt of that text which an error shows."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from .graph import Location
from .lines import own

if TYPE_CHECKING:
    from .graph import Module

CONTEXT = 5
"""Lines shown above and below the one an error is about."""
WIDTH = 160
"""Longer lines are cut around the caret."""


def _visible(row: str) -> str:
    """A row with one sign for each character that would not print, so that columns stay."""
    return row if row.isprintable() else "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in row)


class Span(NamedTuple):
    """Offsets in the text: of an instruction's or function's own name, of its operands, and of its (result) types."""

    name: int
    operands: tuple[int, ...] = ()
    types: tuple[int, ...] = ()


class Origin:
    """A parsed text; ``spans`` tells where its functions, arguments and instructions stand."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.spans: dict[Any, Span] = {}

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        at = self.text.find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = self.text.find("\n", at + 1)
        return starts

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both counted from 1."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line_of(self, part: Any) -> int:
        """The line of a function, argument or instruction; 0 for one that is not from this text."""
        span = self.spans.get(part)
        return self.place(span.name)[0] if span is not None else 0

    def excerpt(self, line: int, column: int) -> str:
        """The ten lines around a line, with their numbers, and a caret under the column."""
        rows = self.text.split("\n")
        first, last = max(line - CONTEXT, 1), min(line + CONTEXT, len(rows))
        if last == len(rows) > line and not rows[-1]:
            last -= 1
        begin = max(column - WIDTH // 2, 0) if len(rows[line - 1]) > WIDTH else 0
        digits = len(str(last))
        shown: list[str] = []
        for n in range(first, last + 1):
            row = rows[n - 1].removesuffix("\r")
            cut = begin if n == line else 0
            text = ("..." if cut else "") + _visible(row[cut : cut + WIDTH]) + ("..." if len(row) > cut + WIDTH else "")
            shown.append(f"{'>' if n == line else ' '} {n:>{digits}} | {text}".rstrip())
            if n == line:
                before = row[cut : column - 1]
                blank = "".join("\t" if c == "\t" else " " for c in before)
                shown.append(f"  {' ' * digits} | {'   ' if cut else ''}{blank}^")
        return "\n".join(shown)

    def locate(self, module: Module) -> None:
        """Give every instruction that has no location the line of this text."""
        own(self.file)
        for function in module:
            for i in function.instructions:
                if not i.location and i in self.spans:
                    i.location = (Location(self.file, self.line_of(i)),)
