"""Every emitted kernel compiles for the architectures in use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from program_strategies import Program, programs, update_programs

from tapeir.ir import parse
from tapeir.runtime.commands.modules import Given, target

from .nvrtc import compile_for, library
from .on_cpu import once, program_of

pytestmark = [once, pytest.mark.skipif(library() is None, reason="needs the nvidia-cuda-nvrtc wheel")]
ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
REGRESSIONS = sorted((Path(__file__).parents[1] / "regressions").glob("*.ir"))
ARCHITECTURES = ("sm_80", "sm_90")

fuzzed = settings(
    max_examples=int(os.environ.get("TAPEIR_FUZZ", "60")) // 6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples(path: Path, dtype: str, arch: str) -> None:
    module, name, _, *_ = target(path, Given({"dtype": dtype}), None, None, None)
    for fused in (True, False):
        assert compile_for(program_of(module, name, fused=fused).source, arch)


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda p: p.stem)
def test_regressions(path: Path) -> None:
    assert compile_for(program_of(parse(path.read_text(encoding="utf-8"))).source, "sm_90")


@fuzzed
@given(programs())
def test_random_programs(program: Program) -> None:
    assert compile_for(program_of(program.module).source, "sm_90")


@fuzzed
@given(update_programs())
def test_random_updates(program: Program) -> None:
    assert compile_for(program_of(program.module).source, "sm_80")


@pytest.mark.parametrize("rows", [600, 70_000])
@pytest.mark.parametrize("dtype", ["f32", "f64", "i64"])
def test_many_sums_share_the_memory_of_a_block(dtype: str, rows: int) -> None:
    """A block has 48 KB."""
    column, count = f"{dtype}[64]", 16
    lines = [f"%{n} = mul %x, %x{n} : {dtype}[{rows}, 64]" for n in range(count)]
    lines += [f"%{count + n} = sum %{n} {{axes = [0], keepdims = false}} : {column}" for n in range(count)]
    given = ", ".join(f"%x{n}: {dtype}[{rows}, 64] input" for n in range(count))
    sums = ", ".join(f"%{count + n}" for n in range(count))
    text = f"module @m {{\nfunc @main(%x: {dtype}[{rows}, 64] input, {given}) -> ({', '.join([column] * count)}) {{\n"
    program = program_of(parse(text + "\n".join([*lines, f"return {sums}"]) + "\n}\n}\n"))
    assert program.launches == 1
    assert compile_for(program.source, "sm_90")


def test_an_error_is_told() -> None:
    with pytest.raises(AssertionError, match="undefined"):
        compile_for('extern "C" __global__ void k(float *r) { r[0] = missing; }', "sm_90")
