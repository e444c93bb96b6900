"""Emitted CUDA runs on the CPU, threads and barriers included: fused kernels have the bits of one kernel an op, maps those of the tape."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from outcomes import agree, outcome
from strategies import Program, inputs_of, programs, update_programs

from tapeir.backends.base import compile_module
from tapeir.backends.eager import EagerBackend
from tapeir.ir import Module, parse
from tapeir.ir.types import Array

from .on_cpu import compiler, executable, once

pytestmark = [once, pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")]
EXAMPLES = int(os.environ.get("TAPEIR_FUZZ", "60")) // 10
REGRESSIONS = sorted((Path(__file__).parents[1] / "regressions").glob("*.ir"))


def check(module: Module, arrays: Sequence[Array]) -> None:
    fused = executable(module)
    expected, found = outcome(executable(module, fused=False).run, arrays), outcome(fused.run, arrays)
    assert agree(expected, found), f"{expected!r} is not {found!r}\n{fused.program.listing}"
    assert agree(expected, outcome(fused.run, arrays)), f"the second run differs\n{fused.program.listing}"


fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@fuzzed
@given(programs())
def test_fused_programs_have_the_bits_of_one_kernel_an_op(program: Program) -> None:
    check(program.module, program.arrays)


@fuzzed
@given(update_programs())
def test_fused_updates_have_the_bits_of_one_kernel_an_op(program: Program) -> None:
    check(program.module, program.arrays)


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda p: p.stem)
def test_regressions(path: Path) -> None:
    module = parse(path.read_text(encoding="utf-8"))
    check(module, inputs_of(module["main"], 1, True))


ORDERED = {"sum", "matmul"}
"""Ops whose order of additions is another on a CPU."""


@fuzzed
@given(programs())
def test_programs_without_sums_have_the_bits_of_the_tape(program: Program) -> None:
    fused = executable(program.module)
    ops = {i.op.name for f in fused.program.module for i in f.instructions}
    assume(not ops & ORDERED)
    expected = outcome(compile_module(EagerBackend(), program.module, "main", "cpu").run, program.arrays)
    found = outcome(fused.run, program.arrays)
    assert agree(expected, found), f"{expected!r} is not {found!r}\n{fused.program.listing}"


SUMS = """module @sums {
  func @main(%x: f32[ROWS, COLUMNS] input) -> (f32[ROWS], f32[COLUMNS], f32[ROWS], f32[COLUMNS], f32[]) {
    %0 = sum %x {axes = [1], keepdims = false} : f32[ROWS]
    %1 = sum %x {axes = [0], keepdims = false} : f32[COLUMNS]
    %2 = max %x {axes = [1], keepdims = false} : f32[ROWS]
    %3 = max %x {axes = [0], keepdims = false} : f32[COLUMNS]
    %4 = sum %x {axes = [0, 1], keepdims = false} : f32[]
    return %0, %1, %2, %3, %4
  }
}
"""


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (3, 33), (9, 1024), (2, 1500), (2, 4097), (130, 5), (300, 40), (1100, 40), (2600, 3)]
)
def test_reductions_of_all_sizes(rows: int, columns: int) -> None:
    x = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    x[0, columns // 2] = np.nan if columns == 33 else x[0, 0]
    module = parse(SUMS.replace("ROWS", str(rows)).replace("COLUMNS", str(columns)))
    a, b, c, d, e = executable(module).run([x])
    wide = x.astype(np.float64)
    np.testing.assert_allclose(a, wide.sum(1), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(b, wide.sum(0), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(e, wide.sum(), rtol=1e-5, atol=1e-3)
    assert np.array_equal(c, x.max(1), equal_nan=True)
    assert np.array_equal(d, x.max(0), equal_nan=True)


def test_tall_columns_that_need_their_own_sums() -> None:
    """The second sum of every column needs the first, and a result of every element needs both."""
    norm = """module @norm {
  func @main(%x: f32[1100, 5] input) -> (f32[1100, 5], f32[5]) {
    %0 = sum %x {axes = [0], keepdims = true} : f32[1, 5]
    %1 = broadcast_to %0 {shape = [1100, 5]} : f32[1100, 5]
    %2 = sub %x, %1 : f32[1100, 5]
    %3 = mul %2, %2 : f32[1100, 5]
    %4 = sum %3 {axes = [0], keepdims = true} : f32[1, 5]
    %5 = broadcast_to %4 {shape = [1100, 5]} : f32[1100, 5]
    %6 = div %2, %5 : f32[1100, 5]
    %7 = reshape %4 {shape = [5]} : f32[5]
    return %6, %7
  }
}
"""
    module = parse(norm)
    check(module, inputs_of(module["main"], 1, False))


def test_neighbours_are_read_together() -> None:
    text = """module @m {
  func @main(%x: f32[48, 64] input, %y: f64[48, 64] input, %b: f32[64] input, %m: bool[48, 64] input) -> (f32[48, 64], f64[48, 64]) {
    %0 = broadcast_to %b {shape = [48, 64]} : f32[48, 64]
    %1 = add %x, %0 : f32[48, 64]
    %2 = where %m, %1, %x : f32[48, 64]
    %3 = mul %y, %y : f64[48, 64]
    return %2, %3
  }
}
"""
    module = parse(text)
    source = executable(module).source
    assert source.count("*(const float4 *)") == 2
    assert source.count("*(const uchar4 *)") == 1
    assert source.count("*(const double2 *)") == 2
    check(module, inputs_of(module["main"], 1, True))
