"""How much memory the process has used."""

from __future__ import annotations

import sys


def peak_memory() -> int | None:
    """The largest resident size of the process so far in bytes; None where the platform does not tell."""
    try:
        import resource
    except ImportError:
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
