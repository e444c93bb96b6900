"""CUDA programs instruction by instruction: ``compare`` finds the kernel at fault, and ``profile`` times each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir.backends.cuda import devices, program
from tapeir.backends.cuda.nest import KernelWriter
from tapeir.ir import Module
from tapeir.ir.types import Array
from tapeir.passes.loops import Nest
from tapeir.runtime import profile as profiling
from tapeir.runtime.commands.modules import Given, target
from tapeir.runtime.compare import compare
from tapeir.runtime.ir_file import example_arrays

from .fake_cuda import FakeCuda, fake_cuda
from .on_cpu import CpuDevice, compiler, once

pytestmark = [once, pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")]
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def device() -> Iterator[CpuDevice]:
    with devices.registered("cuda", CpuDevice()) as found:
        assert isinstance(found, CpuDevice)
        yield found


def example(name: str) -> tuple[Module, str, list[Array]]:
    module, function, arrays, *_ = target(EXAMPLES / f"{name}.py", Given({}), None, None, None)
    return module, function, arrays


@pytest.mark.parametrize("name", ["simple_mlp", "digits_norm"])
def test_an_example_has_the_bits_of_the_tape_kernel_by_kernel(device: CpuDevice, name: str) -> None:
    module, function, arrays = example(name)
    found = compare(module, function, arrays, device="cuda")
    assert (found.grade, found.finding) == ("none", None)
    assert found.kernels >= 6


def test_the_kernel_at_fault_is_found(device: CpuDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def f(x: Any, y: Any) -> Any:
        return tp.ops.exp(tp.ops.sum(x * y, axis=1) - 1.0), tp.ops.tanh((x - y) * x)

    module = tp.trace(f, tp.f32[6, 8], tp.f32[6, 8])
    arrays = example_arrays(module["f"], 1)
    assert compare(module, "f", arrays, device="cuda").grade == "none"

    def wrong(nest: Nest, *rest: Any) -> KernelWriter:
        """Subtracts twice, in kernels of several ops."""
        made = KernelWriter(nest, *rest)
        if len(nest.function.instructions) > 2:
            made.text = re.sub(r"= (\w+) - (\w+);", r"= \1 - 2.0f * \2;", made.text)
        return made

    monkeypatch.setattr(program, "KernelWriter", wrong)
    found = compare(module, "f", arrays, device="cuda")
    assert found.grade == "real"
    assert found.finding is not None
    assert found.finding.fault == "program"
    assert "fused" in found.finding.op


def test_a_failing_check_is_an_error_on_both_sides(device: CpuDevice) -> None:
    def chosen(x: Any, n: Any) -> Any:
        return tp.ops.exp(tp.ops.take(x, n))

    module = tp.trace(chosen, tp.f32[4], tp.i64[3])
    found = compare(module, "chosen", [np.zeros(4, np.float32), np.array([0, 9, 1])], device="cuda")
    assert found.errors[0] is not None
    assert found.errors[0] == found.errors[1]


@pytest.mark.parametrize("backend", ["compiled", "eager"])
def test_every_kernel_is_timed(device: CpuDevice, backend: str) -> None:
    module, function, arrays = example("simple_mlp")
    found = profiling.profile(module, function, arrays, backend=backend, device="cuda", seconds=0.01)
    assert found.apart
    assert found.program > 0
    products = [k for k in found.kernels if k.flops]
    assert len(products) == 8 if backend == "compiled" else products
    assert all(k.ops and k.locations for k in found.kernels if k.kernel != "k0")


def test_time_on_the_device_is_that_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    module, function, arrays = example("simple_mlp")
    with fake_cuda(monkeypatch) as cuda:
        assert isinstance(cuda, FakeCuda)
        found = profiling.profile(module, function, arrays, device="cuda", seconds=0.01)
        launched = {k.kernel: round(k.seconds * 1e3) for k in found.kernels}
    assert launched["gemm"] == 1
    assert sum(round(k.seconds * 1e3) for k in found.kernels) == 15
