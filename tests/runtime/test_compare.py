"""``compare``: agreement, and the kernel, op, line and pass of every kind of planted mistake."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from program_strategies import Program, programs, update_programs

import tapeir as tp
from tapeir import nn
from tapeir.backends import base, kernels
from tapeir.backends.base import Executable
from tapeir.backends.compiled import CompiledBackend
from tapeir.backends.eager import EagerBackend, Interpreter
from tapeir.ir import Function, Instruction, Module, Value, parse
from tapeir.ir.types import Array
from tapeir.passes import PASSES, Context, Pass
from tapeir.passes.plan import Planner
from tapeir.passes.rewrite import sweep
from tapeir.runtime.commands.modules import Given, target
from tapeir.runtime.compare import compare
from tapeir.runtime.ir_file import example_arrays

from .planting import AddAgain, TanhIsExpm1, chain, plant, wrong_primitive

EXAMPLES = Path(__file__).parents[2] / "examples"


def examined(module: Module, name: str = "main", **options: Any) -> Any:
    return compare(module, name, example_arrays(module[name], 0), **options)


@pytest.mark.parametrize("example", ["simple_mlp", "minibatch_mlp", "digits_mlp", "digits_norm", "digits_cnn"])
@pytest.mark.parametrize("dtype", ["float", "float32"])
def test_examples_agree(example: str, dtype: str) -> None:
    module, name, arrays, *_ = target(EXAMPLES / f"{example}.py", Given({"dtype": dtype}), None, None, None)
    found = compare(module, name, arrays)
    assert (found.grade, found.finding) == ("none", None)
    assert found.kernels > 8
    assert {r.name for r in found.results} > {"optimizer/step"}
    assert all(r.tape_ulp == r.program_ulp for r in found.results)


def test_padding_in_the_memory_of_a_view() -> None:
    """The lanes of an update reach over the end of a gradient that is a view: nobody reads what is there."""

    class Net(nn.Module):
        def __init__(self) -> None:
            self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: Any) -> Any:
            return tp.ops.mean(tp.ops.silu(self.norm(self.second(self.first(x)))), axis=(1, 2, 3))

    x, y = np.random.default_rng(0).standard_normal((32, 1, 8, 8)), np.ones(32)
    rt = tp.Runtime(Net(), optimizer=tp.optim.Adam(), backend="compiled")
    module = rt.module(x, y)
    found = compare(module, "train_step", example_arrays(module["train_step"], 0))
    assert (found.grade, found.finding) == ("none", None)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(programs(30) | update_programs())
def test_random_programs_agree(program: Program) -> None:
    found = compare(program.module, "main", program.arrays)
    assert (found.grade, found.finding) == ("none", None)


def test_a_wrong_rewrite(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, TanhIsExpm1())
    module = tp.trace(lambda x: tp.ops.exp(tp.ops.tanh(tp.ops.sin(x))), tp.f32[8])
    line = next(i for i in module["main"].instructions if i.op.name == "tanh").location
    found = examined(module)
    assert found.grade == "real"
    assert found.finding.op.startswith("%1 = expm1 %0 : f32[8]")
    assert (found.finding.made_by, found.finding.fault) == ("canonicalize", "pass")
    assert found.finding.location == line
    gap = found.finding.gap
    assert gap.ulp > 1000
    assert gap.nearer == "tape"
    assert abs(gap.reference - gap.tape) < 1e-6 < abs(gap.reference - gap.program)
    assert found.kind == ("real", "pass", "canonicalize")


def test_another_order_of_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, AddAgain())
    module = tp.trace(lambda x, y, z: (x + y) + z, tp.f32[64], tp.f32[64], tp.f32[64])
    found = examined(module)
    assert found.grade == "rounding"
    assert (found.finding.made_by, found.finding.fault) == ("canonicalize", "pass")
    assert found.finding.gap.nearer in ("tape", "program")


def test_ops_that_are_not_equal_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(module: Module, context: Context) -> bool:
        """Merge ops by name."""
        seen: dict[str, Instruction] = {}

        def visit(build: Any, i: Instruction) -> Sequence[Value] | None:
            first = seen.setdefault(i.op.name, i)
            return first.results if first is not i and context.spend("cse", i) else None

        changes = [sweep(f, visit, context) for f in module]
        return any(changes)

    monkeypatch.setitem(PASSES, "cse", Pass("cse", run))
    module = tp.trace(lambda x: tp.ops.exp(tp.ops.sin(x)) + tp.ops.sin(x * x), tp.f64[5])
    found = examined(module)
    assert found.grade == "real"
    assert (found.finding.made_by, found.finding.fault) == ("cse", "pass")
    assert "sin" in found.finding.op


def test_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_primitive(monkeypatch, "tanh")
    found = examined(chain("sin", "tanh", "exp"))
    assert found.grade == "rounding"
    assert found.finding.fault == "program"
    assert " = tanh " in found.finding.op + found.finding.inside
    assert found.finding.gap.ulp >= 1.0


def test_the_op_inside_a_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_primitive(monkeypatch, "sqrt")
    module, name, arrays, *_ = target(EXAMPLES / "simple_mlp.py", Given({}), None, None, None)
    found = compare(module, name, arrays)
    assert found.finding is not None
    assert found.finding.fault == "program"
    if found.finding.kernel.startswith("@"):
        assert " = sqrt " in found.finding.inside
        assert found.finding.made_by in ("fuse", "update")
    else:
        assert " = sqrt " in found.finding.op


def test_two_values_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Planner.run

    def overlapping(self: Planner) -> None:
        run(self)
        made = {i.op.name: i.result for i in self.function.instructions}
        if {"exp", "sin"} <= set(made):
            made["sin"].place = made["exp"].place

    monkeypatch.setattr(Planner, "run", overlapping)

    def function(x: Any) -> Any:
        y = tp.ops.exp(x)
        z = tp.ops.sin(x)
        return y * z + x

    found = examined(tp.trace(function, tp.f32[16]), "function", options={"unfused": True})
    assert found.grade == "real"
    assert (found.finding.fault, found.finding.made_by) == ("memory", "plan")
    assert "shares its memory" in found.finding.inside
    assert "mul" in found.finding.op


def test_a_value_that_was_overwritten_before_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Planner.run

    def overlapping(self: Planner) -> None:
        run(self)
        made = {i.op.name: i.result for i in self.function.instructions}
        if {"exp", "sin", "cos"} <= set(made):
            made["cos"].place = made["exp"].place

    monkeypatch.setattr(Planner, "run", overlapping)

    def function(x: Any) -> Any:
        y = tp.ops.exp(x)
        z = tp.ops.sin(tp.ops.cos(x))
        return z + x, y - x

    found = examined(tp.trace(function, tp.f32[16]), "function", options={"unfused": True})
    assert (found.grade, found.finding.fault, found.finding.made_by) == ("real", "memory", "plan")
    assert "was overwritten before this read it" in found.finding.inside
    assert "sub" in found.finding.op


TAKE = """module @m {
  func @main(%x: f32[4] input, %i: i64[3] input) -> (f32[3]) {
    %0 = take %x, %i {axis = 0} : f32[3]
    return %0
  }
}
"""


def test_errors_on_both_sides_are_agreement() -> None:
    module = parse(TAKE)
    found = compare(module, "main", [np.zeros(4, np.float32), np.array([0, 9, 1])])
    assert found.grade == "none"
    assert found.errors[0] == found.errors[1]
    assert "index 9 is out of range" in str(found.errors[0])


class Careless:
    """A backend whose programs add one to what ``exp`` gives, raise nothing and cannot be taken apart."""

    name = "careless"

    def unavailable(self, device: str) -> str | None:
        return None

    def supports(self, op: Instruction, device: str) -> bool:
        return True

    def compile(self, func: Function, *, device: str, options: Mapping[str, Any]) -> Executable:
        module: Module = options["module"]

        class Program(Interpreter):
            def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
                if any(i.op.name == "take" for i in func.instructions):
                    return (np.zeros(3, np.float32),)
                results = super().run(arrays)
                return tuple(r + 1 for r in results) if any(i.op.name == "exp" for i in func.instructions) else results

        return Program(func, module)

    def cache_key(self) -> str:
        return "careless"


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(vars(base)["_REGISTERED"], "careless", Careless())
    return "careless"


def test_a_backend_that_cannot_be_taken_apart(careless: str) -> None:
    found = examined(chain("sin", "exp", "tanh"), backend=careless)
    assert (found.grade, found.finding.fault, found.kernels) == ("real", "program", 0)
    assert " = exp " in found.finding.op
    assert found.finding.gap.program == pytest.approx(found.finding.gap.tape + 1)
    assert examined(chain("sin", "tanh"), backend=careless).grade == "none"


def test_an_error_on_one_side_is_a_real_difference(careless: str) -> None:
    found = compare(parse(TAKE), "main", [np.zeros(4, np.float32), np.array([0, 9, 1])], backend=careless)
    assert found.grade == "real"
    assert found.errors[0] is not None
    assert found.errors[1] is None


def test_a_program_that_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(module: Module, context: Context) -> bool:
        raise KeyError("lost")

    monkeypatch.setitem(PASSES, "fold", Pass("fold", run))
    found = examined(chain("sin"))
    assert (found.grade, found.errors) == ("real", (None, "KeyError: 'lost'"))
    assert found.kind == ("real", "", "KeyError")


def test_what_a_backend_does_not_serve_is_an_error(careless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Careless, "supports", lambda self, op, device: op.op.name != "sin")  # pyright: ignore[reportUnknownMemberType]
    with pytest.raises(tp.BackendError, match="'careless' does not support sin on cpu"):
        examined(chain("sin", "exp"), backend=careless)


def test_the_program_runs_unchanged() -> None:
    """Taken apart, a program has the lines of its source, one step an instruction, and changes nothing of the program."""
    module = chain("sin", "tanh")
    program = base.compile_module(CompiledBackend(), module, "main", "cpu")
    arrays = example_arrays(module["main"], 1)
    before = program.run(arrays)
    steps = program.steps()
    assert steps is not None
    steps.write(steps.function.arguments[0], arrays[0])
    for i in steps.function.instructions:
        steps.run(i)
    assert steps.read(steps.function.results[0]).tobytes() == before[0].tobytes()
    assert program.run(arrays)[0].tobytes() == before[0].tobytes()
    assert base.compile_module(EagerBackend(), module, "main", "cpu").steps() is None
    assert kernels.UFUNCS["tanh"] is np.tanh
