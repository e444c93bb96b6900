"""A thread that flushes denormal numbers to zero, as libraries built with ``-ffast-math`` make it."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

# Where glibc's fenv_t holds the mode, and the bits that flush results and operands.
_KNOWN = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
needs_modes = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in _KNOWN, reason="knows glibc's fenv_t alone"
)


def mode() -> int:
    """The thread's mode, exception flags left out."""
    at, _ = _KNOWN[platform.machine()]
    return _word(_environment(), at).value & ~0x3F


def _environment() -> ctypes.Array[ctypes.c_char]:
    found = ctypes.create_string_buffer(256)
    ctypes.CDLL("libm.so.6").fegetenv(found)
    return found


def _word(environment: ctypes.Array[ctypes.c_char], at: int) -> ctypes.c_uint32:
    return ctypes.c_uint32.from_buffer(environment, at)


@contextmanager
def flushing(more: int = 0) -> Generator[None]:
    """Inside the block denormal numbers are zero; ``more`` bits of the mode are set too.  It must be what it was set to at the end."""
    at, bits = _KNOWN[platform.machine()]
    before, changed = _environment(), _environment()
    word = _word(changed, at)
    word.value |= bits | more
    ctypes.CDLL("libm.so.6").fesetenv(changed)
    try:
        yield
        found = mode()
    finally:
        ctypes.CDLL("libm.so.6").fesetenv(before)
    assert found == word.value & ~0x3F
