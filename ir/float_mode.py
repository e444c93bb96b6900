"""The floating-point mode of the thread: results are those of IEEE 754's default, whatever mode another library has set.

Libraries built with ``-ffast-math``, and ``torch.set_flush_denormal``, make the processor treat denormal numbers as zero in the thread
that loads or calls them.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from .errors import BackendError

_DENORMAL = 5e-324
_ONE = 1.0
_QUARTER_UNIT = 2.0**-54
"""A quarter of the unit in the last place of 1."""
_THREE_QUARTERS = 3.0 * 2.0**-54
_BYTES = 256
"""No ``fenv_t`` is larger."""


def is_standard() -> bool:
    """Whether this thread keeps denormal numbers and rounds to the nearest."""
    return (
        _DENORMAL * 3.0 != 0.0
        and _ONE + _QUARTER_UNIT == _ONE
        and _ONE + _THREE_QUARTERS != _ONE
        and -_ONE - _QUARTER_UNIT == -_ONE
    )


@cache
def _library() -> tuple[Any, Any]:
    """C's ``<fenv.h>``: its functions, and the address of the default environment.  Raises ``BackendError`` where there is none."""
    try:
        library = ctypes.CDLL("libm.so.6" if sys.platform.startswith("linux") else None)
        library.fegetenv.argtypes = library.fesetenv.argtypes = [ctypes.c_void_p]
        default: int = -1
        if sys.platform == "darwin":
            default = ctypes.addressof(ctypes.c_char.in_dll(library, "_FE_DFL_ENV"))
    except (OSError, AttributeError, ValueError, TypeError):
        raise _unchangeable() from None
    return library, ctypes.c_void_p(default)


def _unchangeable() -> BackendError:
    return BackendError(
        "this thread treats denormal numbers as zero, or does not round to the nearest: some library has set the processor's mode, and it "
        "cannot be set back here\n  remedy: torch.set_flush_denormal(False), or load libraries built with -ffast-math in another process"
    )


class standard_mode:
    """Inside the block of a ``with``, arithmetic keeps denormal numbers and rounds to the nearest; the mode before is restored at its end.

    Raises ``BackendError`` where the mode is another and cannot be changed.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before: Any = None
        if not is_standard():
            self._before = ctypes.create_string_buffer(_BYTES)
            library, default = _library()
            library.fegetenv(self._before)
            library.fesetenv(default)
            if not is_standard():
                raise _unchangeable()

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            _library()[0].fesetenv(self._before)
