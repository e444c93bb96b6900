"""How many threads compute."""

from __future__ import annotations

import os
from functools import cache


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
    """``TAPEIR_THREADS`` as it is when first asked for, or one a processor.  Raises ``ValueError`` where it is no number from 1 on."""
    asked = os.environ.get("TAPEIR_THREADS", "")
    if not asked:
        return processors()
    if not asked.isdecimal() or not int(asked):
        raise ValueError(f"TAPEIR_THREADS={asked}: it is a number of threads, at least 1")
    return int(asked)
