"""``bisect``: the pass and the rewrite that change what a function computes."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import tapeir as tp
from tapeir.ir import Instruction, Module, Value
from tapeir.passes import PASSES, PIPELINES, Context, Pass
from tapeir.passes.rewrite import sweep
from tapeir.runtime.bisect import bisect
from tapeir.runtime.ir_file import example_arrays

from .planting import TanhIsExpm1, chain, plant, wrong_primitive


def found(module: Module, name: str = "main", passes: Sequence[str] | None = None) -> Any:
    return bisect(module, name, example_arrays(module[name], 0), passes)


def test_right_passes_are_not_guilty() -> None:
    assert found(chain("sin", "tanh", "exp")) is None


@pytest.mark.parametrize("tanhs", [1, 3, 17])
def test_the_rewrite_among_many(tanhs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = chain("neg", "neg", *["tanh"] * tanhs, "sin")
    before = str(module)
    plant(monkeypatch, TanhIsExpm1())
    guilt = found(module)
    assert str(module) == before, "the module stays as it is"
    assert (guilt.pass_, guilt.number) == ("canonicalize", 1)
    assert guilt.application.rule == "TanhIsExpm1"
    assert guilt.application.at.op.name == "tanh"
    assert guilt.rewrites == 1 + tanhs
    assert guilt.application.number == 2, "after -(-x), the first tanh"
    assert [(d.kind, d.what, d.detail) for d in guilt.change.differences] == [("changed", "op", "tanh -> expm1")]
    assert "result 0 differs" in guilt.symptom


def test_the_line_of_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, TanhIsExpm1())
    module = tp.trace(lambda x: tp.ops.exp(tp.ops.tanh(x)), tp.f32[8])
    assert found(module).location == module["main"].instructions[0].location


def test_a_pipeline_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, TanhIsExpm1())
    module = chain("tanh")
    assert found(module, passes=["cse", "dce"]) is None
    assert found(module, passes=["cse", "canonicalize"]).number == 2


def _drop_first(module: Module, context: Context) -> bool:
    """Forget an op without asking for fuel."""

    def visit(build: Any, i: Instruction) -> Sequence[Value] | None:
        return i.operands if i.op.name == "sin" else None

    changes = [sweep(f, visit, context) for f in module]
    return any(changes)


def test_a_pass_that_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES, "dce", Pass("dce", _drop_first))
    guilt = found(chain("sin", "exp"))
    assert (guilt.pass_, guilt.application) == ("dce", None)
    assert guilt.number == PIPELINES["planned"].index("dce") + 1
    assert [d.kind for d in guilt.change.differences] == ["removed"]


def _invalid(module: Module, context: Context) -> bool:
    """Leave an operand that is not defined."""
    for f in module:
        for i in f.instructions:
            if i.op.name == "exp" and context.spend("invalid", i):
                i.operands = (Value(i.operands[0].type),)
                return True
    return False


def _crash(module: Module, context: Context) -> bool:
    """Fail."""
    for f in module:
        for i in f.instructions:
            if i.op.name == "exp" and context.spend("crash", i):
                raise KeyError("lost")
    return False


@pytest.mark.parametrize(("run", "words"), [(_invalid, "is defined before it is used"), (_crash, "KeyError: 'lost'")])
def test_passes_that_fail(run: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES, "fold", Pass("fold", run))
    guilt = found(chain("sin", "exp"))
    assert (guilt.pass_, guilt.application.at.op.name) == ("fold", "exp")
    assert words in guilt.symptom
    assert guilt.change is None


def test_a_wrong_program_of_right_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_primitive(monkeypatch, "tanh")
    guilt = found(chain("tanh"))
    assert (guilt.pass_, guilt.number) == ("", 0)
    assert "result 0 differs" in guilt.symptom
    assert found(chain("tanh"), passes=list(PIPELINES["planned"])) is None
