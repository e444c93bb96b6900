"""Every error TapeIR raises on purpose.  A message states the place, the fact and the remedy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .escape import shortened
from .lines import source_line

if TYPE_CHECKING:
    from .graph import Location
    from .origin import Origin

MOST_PLACES = 4


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
        self.behind: int | None = None
        """How many steps had been started after the one that failed, where that is known only later (on CUDA)."""

    def __str__(self) -> str:
        return place_text(self.locations) + self.message


class TextError(IRError):
    """An error about IR that was read from text.

    ``file``, ``line`` and ``column`` (from 1) say where, and ``str(error)`` shows the lines around; ``line`` is 0 for IR that
    was not read from text.
    """

    def __init__(
        self, message: str, locations: Sequence[Location] = (), *, origin: Origin | None = None, offset: int = 0
    ) -> None:
        super().__init__(message, locations)
        self.origin, self.offset = origin, offset
        self.file = origin.file if origin is not None else ""
        self.line, self.column = origin.place(offset) if origin is not None else (0, 0)

    def prefixed(self, words: str) -> Self:
        """The same error with words before its message."""
        return type(self)(words + self.message, self.locations, origin=self.origin, offset=self.offset)

    def __str__(self) -> str:
        if self.origin is None:
            return super().__str__()
        made = f"\n  made at {places_text(self.locations)}" if self.locations else ""
        return (
            f"{self.file}:{self.line}:{self.column}: {self.message}{made}\n"
            f"{self.origin.excerpt(self.line, self.column)}"
        )


class ParseError(TextError):
    """IR text that does not follow the grammar, or names what is not there."""


class VerifyError(TextError):
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


class ArgumentError(IRError):
    """Base of the errors about an argument that a function does not take."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument of a wrong kind: a string for an axis, say."""


class ArgumentValueError(ArgumentError, ValueError):
    """An argument of the right kind with a value that has no meaning: a probability of 2, say."""


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
    where = places_text(locations[:1])
    source = source_line(locations[0].file, locations[0].line)
    return f"{where}\n    {source}\n" if source else f"{where}\n"


def places_text(locations: Sequence[Location], base: str | None = None) -> str:
    """Places as ``file:line in "module"``, separated by commas, of many only the first; files below ``base`` relative to it."""
    listed = [_place(p, base) for p in locations[:MOST_PLACES]]
    more = len(locations) - MOST_PLACES
    return ", ".join(listed) + (f" and {more} more" if more > 0 else "")


def _place(place: Location, base: str | None) -> str:
    file = place.file
    if base is not None and os.path.isabs(file) and Path(file).is_relative_to(base):
        file = os.path.relpath(file, base)
    within = f' in "{shortened(place.module, 200)}"' if place.module else ""
    return f"{shortened(file, 200)}:{place.line}{within}"
