"""The watch on a device's allocator: when it samples, what it prints and what it concludes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from backends.cuda.on_cpu import CpuDevice, compiler

import tapeir as tp
from tapeir import nn
from tapeir.backends.cuda import devices
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


@pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")
def test_training_prints_samples_and_one_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    class Counted(CpuDevice):
        def used(self) -> dict[str, Any]:
            return {"used": 4096, "reserved": 8192, "free": 1 << 20, "total": 1 << 21}

    data = tp.data.arrays(np.ones((8, 2), np.float32), np.ones((8, 1), np.float32))
    config = tp.Trainer.Config(backend="compiled", device="cuda")
    with devices.registered("cuda", Counted()):
        options = tp.Trainer.TrainOptions(steps=5, batch_size=4, cuda_mem_watch=2, progress=False)
        trained = tp.Trainer.new(nn.Linear(2, 1), config).train(data, options)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"cuda_mem step=2: used=4096 reserved=8192 peak=4096 free={1 << 20} total={1 << 21}"
    assert [re.findall(r"step=(\d+)", line) for line in out] == [["2"], ["4"], ["5"], []]
    assert out[-1] == "cuda_mem steady"
    assert trained.report.steps == 5
    assert trained.report.loss_after is not None


@pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")
def test_an_error_names_its_step() -> None:
    labels = np.array([0, 1, 0, 1, 7, 1, 0, 1, 0, 1])
    data = tp.data.arrays(np.ones((10, 2), np.float32), labels)
    for device in ("cpu", "cuda"):
        config = tp.Trainer.Config(backend="compiled", device=device, objective="cross_entropy")
        with devices.registered("cuda", CpuDevice()):
            options = tp.Trainer.TrainOptions(steps=10, shuffle=False, progress=False)
            with pytest.raises(tp.IRError, match="in step 5$"):
                tp.Trainer.new(nn.Linear(2, 2), config).train(data, options)
