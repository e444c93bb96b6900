"""How much memory one value or program may take: more than the machine has is refused before it is asked for, with the user's line."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from .errors import BackendError

if TYPE_CHECKING:
    from .graph import Function, Location, Value
    from .types import Array

VARIABLE = "TAPEIR_MEMORY_LIMIT"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def readable(nbytes: int) -> str:
    """Bytes in the unit that suits them."""
    size, units = float(nbytes), ["B", "KB", "MB", "GB", "TB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.3g} {units[0]}"


@cache
def _machine() -> int:
    """Bytes of memory of the machine, or of its control group."""
    found = 1 << 62
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return min(found, int(file.read()))
    except (OSError, ValueError):
        return found


@cache
def _asked(text: str) -> int:
    match = re.fullmatch(r"(\d+) ?([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise BackendError(f"{VARIABLE}={text}: it is a number of bytes, such as 8G")
    return int(match[1]) * _UNITS[match[2]]


def memory_limit() -> int:
    """``TAPEIR_MEMORY_LIMIT`` in bytes (``8G``), or the machine's memory."""
    asked = os.environ.get(VARIABLE)
    return _asked(asked) if asked else _machine()


def need_memory(nbytes: int, what: object, at: Sequence[Location] = ()) -> None:
    """Raise ``BackendError`` where ``what`` takes more than the limit."""
    if nbytes > SURELY and nbytes > memory_limit():
        raise shortage(nbytes, what, at)


SURELY = 1 << 20
"""Bytes that no limit forbids."""


def shortage(nbytes: int, what: object, at: Sequence[Location] = ()) -> BackendError:
    """The error for ``what``, which cannot have its memory."""
    limit = memory_limit()
    reason = f"more than the limit of {readable(limit)}" if nbytes > limit else "which cannot be had"
    return BackendError(
        f"not enough memory: {what} takes {readable(nbytes)}, {reason}\n  remedy: smaller arrays, or another {VARIABLE}",
        at,
    )


@contextmanager
def allocating(nbytes: int, what: str, at: Sequence[Location] = ()) -> Generator[None]:
    """Around an allocation: what does not fit the limit, or cannot be had, raises ``BackendError``."""
    need_memory(nbytes, what, at)
    try:
        yield
    except MemoryError:
        raise shortage(nbytes, what, at) from None


def need_value(value: Value) -> None:
    """``need_memory`` for a value, named by its type and line."""
    need_memory(value.type.nbytes, value.type, value.owner.location if value.owner is not None else ())


def copy_of(value: Value) -> Array:
    """A copy of the array of a tape's value, which may be one number broadcast to any size."""
    need_value(value)
    try:
        return np.array(value.array)
    except MemoryError:
        raise shortage(value.type.nbytes, value.type, value.owner.location if value.owner is not None else ()) from None


def program_memory(function: Function, nbytes: int) -> AbstractContextManager[None]:
    """``allocating`` for all that a program plans; the error names the line of its largest value."""
    large = max(function.values(), key=lambda v: v.type.nbytes, default=None)
    of = f", whose largest value is {large.type}," if large is not None else ""
    at = large.owner.location if large is not None and large.owner is not None else ()
    return allocating(nbytes, f"@{function.name}{of}", at)
