"""Workers in threads of their own, for as long as a test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import tapeir as tp


def hammer(seconds: float, *workers: Callable[[int], None]) -> None:
    """Call every worker with 0, 1, 2, ... in a thread of its own, until time is up; raises the first error of any."""
    end = time.monotonic() + seconds
    errors: list[BaseException] = []
    start = threading.Barrier(len(workers))

    def loop(worker: Callable[[int], None]) -> None:
        turn = 0
        start.wait()
        while turn == 0 or (time.monotonic() < end and not errors):
            try:
                worker(turn)
            except (AssertionError, tp.IRError, TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
                errors.append(error)
            turn += 1

    threads = [threading.Thread(target=loop, args=(w,)) for w in workers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
