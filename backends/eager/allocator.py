"""The C library's allocator, told to keep what a tape frees for the next tape.

A tape's arrays are freed together.  By default glibc gives such memory back to the operating system, and the next step waits for a page
fault per 4 KiB: a third of the time of a step of an MLP with 800 KB weights.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""``M_MMAP_THRESHOLD`` and ``M_TRIM_THRESHOLD`` of glibc's ``mallopt``."""
LARGEST = 32 << 20
"""Bytes of the largest array that comes from the heap; glibc allows no more."""
KEPT = 256 << 20
"""Bytes at the heap's end that are kept."""


@cache
def keep_freed_memory() -> bool:
    """Once a process, on Linux with glibc, and where ``MALLOC_*`` variables do not say otherwise; whether it was done."""
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, KEPT))
