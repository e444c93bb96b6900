"""The watch on a device's allocator: when it samples, what it prints and what it concludes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tapeir.runtime.memory import MemoryWatch, watch_every


def watched(used: Sequence[int], free: int = 1 << 30, total: int | None = None, every: int = 10) -> str:
    watch = MemoryWatch(every, every * len(used), total or every * len(used))
    for n, bytes_ in enumerate(used, 1):
        watch.sample(every * n, {"used": bytes_, "reserved": bytes_, "free": free - bytes_, "total": free})
    return watch.verdict()


@pytest.mark.parametrize("used", [[], [5], [5, 5, 5], [5, 90, 90, 90, 90], [9, 8, 9, 8], [5, 90, 90, 95, 90, 90, 91]])
def test_steady(used: list[int]) -> None:
    assert watched(used) == "steady"


def test_growing() -> None:
    assert watched([0, 100, 200, 300, 400]) == "growing 10 bytes/step"


def test_growing_until_nothing_is_left() -> None:
    assert watched([0, 100, 200, 300], free=1300, total=1000) == "growing: exhausts the device at step 140"
    assert watched([0, 100, 200, 300], free=1300, total=130) == "growing 10 bytes/step"


def test_when_it_samples() -> None:
    assert watch_every(0, 999, True) == 0
    assert watch_every(0, 1000, True) == 100
    assert watch_every(7, 10, True) == 7
    assert watch_every(7, 5000, False) == 0
    assert [s for s in range(1, 24) if MemoryWatch(10, 23, 23).due(s)] == [10, 20, 23]
