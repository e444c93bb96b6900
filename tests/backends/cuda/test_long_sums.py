"""Long sums in emitted CUDA, on the CPU: their accuracy against float64, and one order in fused kernels and kernels of one op."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from outcomes import same_bits

from tapeir.backends import sums
from tapeir.backends.cuda import long_sums, nest
from tapeir.ir import parse
from tapeir.ir.types import Array

from .nvrtc import compile_for, library
from .on_cpu import compiler, executable, once, program_of

pytestmark = once
runs = pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")

ROWS = """module @rows {
  func @main(%x: f32[SHAPE] input) -> (f32[2], f32[2], f32[SHAPE], f32[2]) {
    %0 = sum %x {axes = [1], keepdims = false} : f32[2]
    %1 = reshape %0 {shape = [2, 1]} : f32[2, 1]
    %2 = broadcast_to %1 {shape = [SHAPE]} : f32[SHAPE]
    %3 = sub %x, %2 : f32[SHAPE]
    %4 = abs %x : f32[SHAPE]
    %5 = sum %4 {axes = [1], keepdims = false} : f32[2]
    %6 = max %x {axes = [1], keepdims = false} : f32[2]
    return %0, %5, %3, %6
  }
}
"""
COLUMNS = ROWS.replace("[2, 1]", "[1, 2]").replace("axes = [1]", "axes = [0]")
"""With a result of every element that needs the finished sum, and a sum and a maximum that do not."""
ONLY_SUMS = """module @columns {
  func @main(%x: f32[SHAPE] input) -> (f32[2], f32[2]) {
    %0 = sum %x {axes = [0], keepdims = false} : f32[2]
    %1 = abs %x : f32[SHAPE]
    %2 = sum %1 {axes = [0], keepdims = false} : f32[2]
    return %0, %2
  }
}
"""


def check(text: str, shape: tuple[int, int], axis: int, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The results for the last array; fused kernels and kernels of one op agree for all of them."""
    module = parse(text.replace("SHAPE", f"{shape[0]}, {shape[1]}"))
    fused, apart = executable(module), executable(module, fused=False)
    found: tuple[Array, ...] = ()
    for x in arrays:
        found = fused.run([x])
        for a, b in zip(found, apart.run([x]), strict=True):
            assert same_bits(a, b)
        if len(found) > 2:
            assert (found[3] == x.max(axis)).all()
    return found


@runs
@pytest.mark.parametrize(
    ("text", "count", "axis"),
    [
        (ROWS, 97, 1),
        pytest.param(COLUMNS, 4300, 0, marks=[pytest.mark.slow, pytest.mark.heavy]),
        pytest.param(ONLY_SUMS, 4300, 0, marks=[pytest.mark.slow, pytest.mark.heavy]),
    ],
    ids=["rows", "columns in one block", "columns in a block a segment"],
)
def test_every_term_is_added_once(text: str, count: int, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one term and columns in short segments, so that short sums have several blocks; integers add up exactly."""
    for module, name, value in (
        (sums, "BLOCK", 1),
        (long_sums, "BLOCK", 1),
        (nest, "TERMS", 1),
        (nest, "SEGMENT", 128),
    ):
        monkeypatch.setattr(module, name, value)
    shape = (2, count) if axis else (count, 2)
    random = np.random.default_rng(0)
    integers = random.integers(-50, 50, shape).astype(np.float32)
    found = check(text, shape, axis, [random.standard_normal(shape).astype(np.float32), integers])
    assert (found[0] == integers.sum(axis)).all()
    assert (found[1] == np.abs(integers).sum(axis)).all()


@runs
@pytest.mark.slow
@pytest.mark.heavy
def test_accuracy_of_long_rows() -> None:
    x = np.full((2, 120_001), 0.1, np.float32)
    found = check(ROWS, (2, 120_001), 1, [x])
    exact = x.astype(np.float64).sum(1)
    assert (np.abs(found[0] - exact) / exact / 2.0**-24).max() < 8


@pytest.mark.skipif(library() is None, reason="needs the nvidia-cuda-nvrtc wheel")
@pytest.mark.parametrize(("text", "shape"), [(ROWS, "2, 2000000"), (COLUMNS, "2000000, 2"), (ONLY_SUMS, "2000000, 2")])
def test_long_sums_compile(text: str, shape: str) -> None:
    program = program_of(parse(text.replace("SHAPE", shape)))
    assert "stack" in program.source
    assert compile_for(program.source, "sm_80")
