"""Emitted CUDA runs on the CPU, threads and barriers included: fused kernels have the bits of one kernel an op, maps those of the tape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from outcomes import SUMS, agree, outcome
from program_strategies import Program, programs, update_programs
from strategies import inputs_of

from tapeir.backends.base import compile_module
from tapeir.backends.cuda.calls import ProductCall
from tapeir.backends.cuda.eager import DeviceOps
from tapeir.backends.eager import EagerBackend
from tapeir.ir import Module, parse
from tapeir.ir.types import Array, bf16

from .on_cpu import CpuDevice, compiler, executable, fuzzed, last_first, once

pytestmark = [once, pytest.mark.skipif(compiler() is None, reason="needs a C++20 compiler")]
REGRESSIONS = sorted((Path(__file__).parents[1] / "regressions").glob("*.ir"))


def check(module: Module, arrays: Sequence[Array]) -> None:
    fused = executable(module)
    expected, found = outcome(executable(module, fused=False).run, arrays), outcome(fused.run, arrays)
    assert agree(expected, found), f"{expected!r} is not {found!r}\n{fused.program.listing}"
    with last_first():
        again = outcome(fused.run, arrays)
    assert agree(expected, again), (
        f"{expected!r} is not {again!r} where the last block comes first\n{fused.program.listing}"
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


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (3, 33), (9, 1024), (2, 1500), (2, 4097), (130, 5), (300, 40), (1100, 3)]
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


def test_products_read_and_write_where_the_tape_does() -> None:
    """Libraries choose kernels by where arrays begin: what lies at no multiple of 256 bytes is copied."""
    text = """module @m {
  func @main(%x: f32[5, 3] input, %w: f32[3, 3] input) -> (f32[7, 3]) {
    %0 = slice %x {start = [1, 0], stop = [5, 3], step = [1, 1]} : f32[4, 3]
    %1 = matmul %0, %w {transpose_a = false, transpose_b = false} : f32[4, 3]
    %2 = matmul %w, %w {transpose_a = false, transpose_b = true} : f32[3, 3]
    %3 = concat %1, %2 {axis = 0} : f32[7, 3]
    return %3
  }
}
"""
    module = parse(text)
    program = executable(module).program
    products = [call for _, call in program.calls if isinstance(call, ProductCall)]
    assert len(products) == 2
    assert all(ref.offset % 256 == 0 for call in products for ref in (*call.reads, *call.writes))
    assert len(program.calls) == 5
    check(module, inputs_of(module["main"], 1, True))


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


def test_narrow_floats_are_rounded_as_numpy_rounds_them() -> None:
    """Every float16, and float64 numbers about the middles between neighbours."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        wide = every.astype(np.float64)
        near = np.concatenate([wide * (1 + e) for e in (0, 2**-11, -(2**-11), 2**-11 + 2**-40, 2**-12 + 2**-50)])
    text = """module @m {
  func @main(%x: f16[65536] input, %y: f64[N] input, %b: bf16[65536] input) -> (f64[65536], f16[65536], f16[N], bf16[65536]) {
    %0 = cast %x {dtype = f64} : f64[65536]
    %1 = add %x, %x : f16[65536]
    %2 = cast %y {dtype = f16} : f16[N]
    %3 = mul %b, %b : bf16[65536]
    return %0, %1, %2, %3
  }
}
"""
    module = parse(text.replace("N", str(near.size)))
    narrow = np.arange(1 << 16, dtype=np.uint16).view(bf16.numpy)
    found = executable(module, fused=False).run([every, near, narrow])
    with np.errstate(all="ignore"):
        expected = [wide, every + every, near.astype(np.float16), narrow * narrow]
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a.astype(np.float64), b.astype(np.float64), equal_nan=True)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrow_programs_have_the_bits_of_one_kernel_an_op(dtype: str) -> None:
    text = """module @m {
  func @main(%x: DT[36, 40] input, %w: DT[40, 8] input, %i: i64[36] input) -> (DT[36, 40], DT[40], DT[36, 8], i64[36], DT[5, 40]) {
    %0 = softmax %x {axis = 1} : DT[36, 40]
    %1 = gelu %x {approximate = "none"} : DT[36, 40]
    %2 = mul %0, %1 : DT[36, 40]
    %3 = sum %2 {axes = [0], keepdims = false} : DT[40]
    %4 = matmul %2, %w {transpose_a = false, transpose_b = false} : DT[36, 8]
    %5 = argmax %2 {axes = [1], keepdims = false} : i64[36]
    %6 = scatter_add %2, %i {axis = 0, size = 5} : DT[5, 40]
    return %2, %3, %4, %5, %6
  }
}
"""
    module = parse(text.replace("DT", dtype))
    random = np.random.default_rng(0)
    kind = module["main"].arguments[0].type.dtype.numpy
    arrays = [random.standard_normal(s).astype(kind) for s in ((36, 40), (40, 8))]
    check(module, [*arrays, np.arange(36) % 5])


@pytest.mark.parametrize("axes", ["0, 2", "0", "1, 2"])
def test_the_tape_adds_as_programs_do(axes: str) -> None:
    text = """module @m {
  func @main(%x: f32[5, 3, 70] input) -> (SHAPE) {
    %0 = sum %x {axes = [AXES], keepdims = false} : SHAPE
    return %0
  }
}
"""
    shape = {"0, 2": "f32[3]", "0": "f32[3, 70]", "1, 2": "f32[5]"}[axes]
    module = parse(text.replace("AXES", axes).replace("SHAPE", shape))
    x = np.random.default_rng(0).standard_normal((5, 3, 70)).astype(np.float32)
    ops = DeviceOps.of(CpuDevice())
    (found,) = ops.run(module["main"].instructions[0], [ops.array(x)])
    assert np.array_equal(np.asarray(found), executable(module).run([x])[0])
