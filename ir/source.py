"""Which line of user code an op comes from.

The answer is the innermost Python frame outside ``tapeir`` and installed libraries, above the runtime's entry.  Built-in modules have no
such frame; then it is the line that constructed the module.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import ParamSpec, TypeVar

from .errors import ArgumentError, IRError
from .lines import own

_BOUNDARIES: set[CodeType] = set()
_LIBRARY: dict[CodeType, bool] = {}
_PYTHON = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = f"{os.sep}site-packages{os.sep}"


def boundary(code: CodeType) -> None:
    """Declare a function's code as an entry: lines outside it are not the user's model."""
    _BOUNDARIES.add(code)


def is_library(frame: FrameType) -> bool:
    """Whether the frame runs code of this package (its tests and examples are users), of an installed one or of Python."""
    code = frame.f_code
    known = _LIBRARY.get(code)
    if known is None:
        name = frame.f_globals.get("__name__", "")
        file = code.co_filename
        known = _LIBRARY[code] = (
            name == "tapeir"
            or name.startswith("tapeir.")
            or file.startswith((_PYTHON, "<frozen", "<tapeir"))
            or _INSTALLED in file
        )
        if not known:
            own(file)
    return known


def user_line(depth: int = 1) -> tuple[str, int] | None:
    """File and line of the innermost user frame, or None when an entry is met first."""
    frame: FrameType | None = sys._getframe(depth)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code = frame.f_code
        if code in _BOUNDARIES:
            return None
        if not (_LIBRARY[code] if code in _LIBRARY else is_library(frame)):
            return code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


P = ParamSpec("P")
R = TypeVar("R")
FULL = "TAPEIR_TRACEBACK"
"""The environment variable that is ``full`` where tracebacks keep the frames of this package."""


def public(function: Callable[P, R]) -> Callable[P, R]:
    """What users call: the traceback of an error of ours keeps the frames of their code alone.

    So does that of a call that does not fit the signature.  An error about an argument gets the user's line.
    ``TAPEIR_TRACEBACK=full`` keeps all frames.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (IRError, TypeError) as error:
            if isinstance(error, ArgumentError) and not error.locations:
                from .record import here

                error.locations = here()
            ours = isinstance(error, IRError) or _misfits(error.__traceback__)
            if ours and os.environ.get(FULL) != "full":
                error.__traceback__ = _of_users(error.__traceback__)
            raise

    return wraps(call)


_WRAPPERS: set[CodeType] = set()


def wraps(function: Callable[P, R]) -> Callable[P, R]:
    """Declare a function as one that only passes its arguments on: where a call fails in it, they did not fit a signature."""
    _WRAPPERS.add(function.__code__)
    return function


def _misfits(trace: TracebackType | None) -> bool:
    """Whether a call failed before any function proper began: it had too many arguments, say."""
    while trace is not None and trace.tb_frame.f_code in _WRAPPERS:
        trace = trace.tb_next
    return trace is None


def _of_users(trace: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    while trace is not None:
        if not is_library(trace.tb_frame):
            kept.append(trace)
        trace = trace.tb_next
    made: TracebackType | None = None
    for t in reversed(kept):
        made = TracebackType(made, t.tb_frame, t.tb_lasti, t.tb_lineno)
    return made
