"""How many threads compute."""

from __future__ import annotations

import os
from functools import cache

from ..ir.errors import BackendError


def processors() -> int:
    """Processors this process may use: those of its affinity, and no more than its control group's share of time."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, count)


@cache
def wanted_threads() -> int:
    """``TAPEIR_THREADS`` as it is when first asked for; one a processor where it is empty or 0.  Raises ``BackendError`` for no number."""
    asked = os.environ.get("TAPEIR_THREADS", "").strip() or "0"
    if not asked.isdecimal():
        raise BackendError(f"TAPEIR_THREADS={asked}: it is a number of threads")
    return int(asked) or processors()
