"""Calls side by side: which are, and that no order that lanes allow changes a bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from outcomes import agree, outcome
from program_strategies import Program, programs

import tapeir as tp
from tapeir import nn
from tapeir.backends.cuda import lanes
from tapeir.backends.cuda.calls import ProductCall
from tapeir.backends.cuda.executable import CudaExecutable
from tapeir.backends.cuda.program import CudaProgram
from tapeir.ir.types import TensorType, f32, i64

from .fake_cuda import FakeCuda, fake_cuda
from .on_cpu import CpuDevice, compiler, executable, fuzzed, once, program_of

pytestmark = once
runs = pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")


def step_of(widths: tuple[int, ...], rows: int) -> CudaProgram:
    model = nn.Sequential(*[m for n in pairwise(widths) for m in (nn.Linear(*n), nn.ReLU())][:-1])
    rt = tp.Runtime(model, objective="cross_entropy", optimizer=tp.optim.Adam(lr=0.1), backend="compiled")
    return program_of(rt.module(TensorType(f32, (rows, widths[0])), TensorType(i64, (rows,))), "train_step")


def test_products_of_wide_layers_run_beside_each_other() -> None:
    program = step_of((1024, 2048, 2048, 10), 1024)
    turns, ends = program.lanes
    beside = [call for (_, call), turn in zip(program.calls, turns, strict=True) if turn.lane]
    assert sum(isinstance(c, ProductCall) for c in beside) >= 2
    assert not ends or turns[ends[0]].lane == 1


def test_small_calls_are_one_lane() -> None:
    turns, ends = step_of((2, 8, 8, 2), 4).lanes
    assert {turn.lane for turn in turns} == {0}
    assert not ends
    assert not any(turn.after for turn in turns)


@runs
@fuzzed
@given(programs())
def test_no_order_changes_a_bit(program: Program) -> None:
    expected = outcome(executable(program.module, fused=False).run, program.arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "WAIT", 0.0)
        for first in (0, 1):
            made = executable(program.module, fused=False)
            assert isinstance(made.device, CpuDevice)
            made.device.first = first
            patch.setattr(made, "launches", partial(made.launches, beside=True))
            found = outcome(made.run, program.arrays)
            assert agree(expected, found), f"{expected!r} is not {found!r}\n{made.program.listing}"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    with fake_cuda(monkeypatch) as found:
        yield found


@runs
@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_steps_have_the_same_bits_in_lanes(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, numerics: str) -> None:
    rows = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    targets = np.arange(6) % 3

    def losses(wait: float) -> list[Any]:
        monkeypatch.setattr(lanes, "WAIT", wait)
        model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 3))
        rt = tp.Runtime(
            model, objective="cross_entropy", optimizer=tp.optim.Adam(lr=0.1), backend="compiled", device="cuda", numerics=numerics
        )  # fmt: skip
        found = [float(rt.step(rows * n, targets)) for n in range(7)]
        (made,) = rt.artifacts.values()
        assert isinstance(made, CudaExecutable)
        assert any(turn.lane for turn in made.program.lanes[0]) == (wait == 0)
        return [*found, *(p.tobytes() for p in rt.params.values())]

    one = losses(1e9)
    assert losses(0.0) == one
