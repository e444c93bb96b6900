"""How much memory the process has used, and whether a device's memory grows while it trains."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping


def peak_memory() -> int | None:
    """The largest resident size of the process so far in bytes; None where the platform does not tell."""
    try:
        import resource
    except ImportError:
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


class MemoryWatch:
    """Samples of a device's allocator while it trains, and the verdict on them.

    ``every`` is the number of updates between samples, ``last`` the last update of this process, and ``total`` those of the whole run.
    """

    def __init__(self, every: int, last: int, total: int) -> None:
        self.every, self.last, self.total = every, last, total
        self.peak = 0
        self.samples: list[tuple[int, int, int]] = []  # step, bytes in use, bytes free or kept unused

    def due(self, step: int) -> bool:
        """Whether to sample after an update."""
        return step % self.every == 0 or step == self.last

    def sample(self, step: int, memory: Mapping[str, int]) -> str:
        """Keep a sample (bytes ``used``, ``reserved``, ``free``, ``total``) and say it."""
        self.peak = max(self.peak, memory["used"])
        self.samples.append((step, memory["used"], memory["free"] + memory["reserved"] - memory["used"]))
        shown = {**memory, "peak": self.peak}
        return f"cuda_mem step={step}: " + " ".join(
            f"{name}={shown[name]}" for name in ("used", "reserved", "peak", "free", "total")
        )

    def verdict(self) -> str:
        """``steady``, or how much is lost with each update and when nothing is left.

        The first sample does not count where there are others enough: programs are still being made then.
        """
        counted = self.samples[1:] if len(self.samples) > 2 else self.samples
        if len(counted) < 2:
            return "steady"
        (first, before, _), (step, after, left) = counted[0], counted[-1]
        rises = sum(b[1] > a[1] for a, b in itertools.pairwise(counted))
        if after <= before or step == first or 2 * rises < len(counted) - 1:
            return "steady"
        rate = (after - before) / (step - first)
        end = step + int(left / rate)
        if end < self.total:
            return f"growing: exhausts the device at step {end}"
        return f"growing {rate:.0f} bytes/step"


def watch_every(every: int, steps: int, on_cuda: bool) -> int:
    """How often to sample: as asked for, or by itself only in long runs on CUDA; 0 is never."""
    if not on_cuda:
        return 0
    return every or (max(1, steps // 10) if steps >= 1000 else 0)
