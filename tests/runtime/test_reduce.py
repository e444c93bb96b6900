"""``reduce``: what is left is small, valid, and still shows the failure on the arrays that come with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from program_strategies import Program, programs

import tapeir as tp
from tapeir.backends.base import compile_module
from tapeir.backends.eager import EagerBackend
from tapeir.ir import IRError, Module, parse
from tapeir.ir.types import Array
from tapeir.runtime.commands.modules import Given, target
from tapeir.runtime.compare import compare
from tapeir.runtime.ir_file import example_arrays
from tapeir.runtime.reduce import reduce

from .planting import TanhIsExpm1, chain, plant

EXAMPLES = Path(__file__).parents[2] / "examples"


def names(module: Module, name: str = "main") -> list[str]:
    return [i.op.name for i in module[name].instructions]


def test_a_wrong_rewrite_in_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, TanhIsExpm1())
    module, name, arrays, *_ = target(EXAMPLES / "simple_mlp.py", Given({}), None, None, None)
    text = str(module)
    kind = compare(module, name, arrays).kind
    found = reduce(module, name, arrays, lambda m, f, a: compare(m, f, a).kind == kind)
    assert names(found.module, name) == ["tanh"]
    assert compare(found.module, name, found.arrays).kind == kind
    assert parse(str(found.module)).verify() == found.module
    assert str(module) == text, "the module stays as it is"
    assert found.trials < 200


def test_two_ops_that_are_needed_together() -> None:
    def both(module: Module, name: str, arrays: Sequence[Array]) -> bool:
        found = names(module, name)
        return "exp" in found and "sin" in found

    module = chain("neg", "sin", "tanh", "abs", "exp", "floor")
    found = reduce(module, "main", example_arrays(module["main"], 0), both)
    assert sorted(names(found.module)) == ["exp", "sin"]


def test_arguments_keep_their_arrays() -> None:
    """A value that becomes an argument comes with what the original function computes there."""
    module = chain("sin", "exp")
    arrays = example_arrays(module["main"], 0)
    found = reduce(module, "main", arrays, lambda m, f, a: "exp" in names(m, f))
    assert names(found.module) == ["exp"]
    assert np.array_equal(found.arrays[0], np.asarray(tp.ops.sin(arrays[0])))


def test_without_arrays_and_with_kernels() -> None:
    text = """module @m {
  func @main(%x: f32[16] input, %y: f32[16] input) -> (f32[16], f32[16]) {
    %0 = neg %x : f32[16]
    %1, %2 = fused %0, %y {kernel = @k} : f32[16], f32[16]
    %3 = exp %1 : f32[16]
    return %3, %2
  }
  func @k(%a: f32[16], %b: f32[16]) -> (f32[16], f32[16]) {
    %0 = add %a, %b : f32[16]
    return %0, %a
  }
  func @other(%x: f32[2] input) -> (f32[2]) {
    return %x
  }
}
"""
    found = reduce(parse(text), "main", None, lambda m, f, a: "fused" in names(m, f) and not a)
    assert names(found.module) == ["fused"]
    assert list(found.module.functions) == ["main", "k"]
    found.module.verify()


def test_ctrl_c_keeps_the_smallest_so_far() -> None:
    asked: list[int] = []

    def holds(module: Module, name: str, arrays: Sequence[Array]) -> bool:
        asked.append(len(module[name].instructions))
        if len(asked) == 5:
            raise KeyboardInterrupt
        return "exp" in names(module, name)

    found = reduce(chain("neg", "sin", "tanh", "abs", "exp", "floor"), "main", None, holds)
    assert found.interrupted
    assert "exp" in names(found.module)


def test_nothing_to_reduce() -> None:
    with pytest.raises(IRError, match="does not hold for @main itself"):
        reduce(chain("sin"), "main", None, lambda m, f, a: False)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(programs(25), st.data())
def test_one_op_of_a_random_program(program: Program, data: st.DataObject) -> None:
    """Whatever op is asked for, it is what is left, alone, and every candidate is valid."""
    try:
        compile_module(EagerBackend(), program.module, "main", "cpu").run(program.arrays)
    except IRError:
        assume(False)  # values after an op that raises are unknown, so it cannot be left out
    wanted = data.draw(st.sampled_from([i.op.name for i in program.module["main"].instructions]))

    def holds(module: Module, name: str, arrays: Sequence[Array]) -> bool:
        module.verify()
        assert [a.shape for a in arrays] == [v.type.array_shape for v in module[name].arguments]
        return wanted in names(module, name)

    found = reduce(program.module, "main", program.arrays, holds)
    assert names(found.module) == [wanted]
