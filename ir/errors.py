"""Every error TapeIR raises on purpose.  A message states the place, the fact and the remedy."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .graph import Location


class IRError(Exception):
    """Base of all TapeIR errors.

    ``locations`` are the user lines the error is about, innermost first; ``str(error)`` shows the first of them
    with its source text above the message.
    """

    def __init__(self, message: str, locations: Sequence[Location] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.locations = tuple(locations)
        self.op = ""
        """The op that failed, once ``record.blame`` has named it."""

    def __str__(self) -> str:
        return place_text(self.locations) + self.message


class ParseError(IRError):
    """IR text that does not follow the grammar; ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, *, file: str = "<text>", line: int = 0, column: int = 0, source: str = "") -> None:
        self.file, self.line, self.column = file, line, column
        rows = source.split("\n")
        caret = f"\n  {rows[line - 1]}\n  {' ' * (column - 1)}^" if 0 < line <= len(rows) else ""
        super().__init__(f"{file}:{line}:{column}: {message}{caret}")


class VerifyError(IRError):
    """IR that breaks a rule; the message names the function, the instruction and the rule."""


class TraceError(IRError):
    """Python code that cannot be traced, such as a branch on a value that is not known yet."""


class ShapeError(IRError):
    """Operand shapes or attributes that an op's type rule refuses."""


class DtypeError(IRError):
    """Operand dtypes that an op's type rule refuses."""


class BackendError(IRError):
    """An op or a device that a backend cannot serve; the message names both."""


class CheckpointError(IRError):
    """A state file that cannot be read, or does not fit the model."""


class NonFiniteError(IRError):
    """A NaN or an infinity under ``guard="nonfinite"``; names the op and line that first made it."""


class DataError(IRError):
    """A data file that cannot be read, or columns that do not fit each other."""


class OutOfRangeError(IRError, IndexError):
    """An index outside its axis, with the bad value and the range."""


class DivisionByZeroError(IRError, ZeroDivisionError):
    """An integer division by zero."""


class NegativePowerError(IRError, ValueError):
    """An integer to a negative power."""


def place_text(locations: Sequence[Location]) -> str:
    """The user's place and source line, ready to stand above a message; empty when there is none."""
    if not locations:
        return ""
    file, line, module = locations[0]
    where = f"{file}:{line}" + (f' in "{module}"' if module else "")
    source = linecache.getline(file, line).strip()
    return f"{where}\n    {source}\n" if source else f"{where}\n"
