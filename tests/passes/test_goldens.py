"""Golden files of the passes: ``<pass>.ir`` holds modules and what the pass makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tapeir.backends.compiled import NumpyProgram
from tapeir.ir import Module, parse
from tapeir.passes import PASSES
from tapeir.passes.canonicalize import RULES

from . import goldens
from .goldens import (
    FOLDER,
    UNCHANGED,
    Case,
    ExecutionError,
    accept,
    check_memory,
    fits,
    outcome,
    read,
    transform,
    write,
)

CASES = [
    pytest.param(path, case, id=f"{path.stem}: {case.name}")
    for path in sorted(FOLDER.glob("*.ir"))
    for case in read(path)[1]
]


@pytest.mark.parametrize(("path", "case"), CASES)
def test_golden(path: Path, case: Case, request: pytest.FixtureRequest) -> None:
    actual, _ = outcome(path.stem, case.source)
    if fits(case.expect, actual):
        return
    if request.config.getoption("--accept"):
        accept(path, case.name, actual)
        return
    assert actual == case.expect, f"{path.name}, case {case.name}; pytest --accept rewrites it"


@pytest.mark.parametrize(("path", "case"), CASES)
def test_expectations_are_canonical_text(path: Path, case: Case) -> None:
    if case.expect == UNCHANGED or case.expect.startswith("ERROR "):
        return
    module = parse(case.expect).verify()
    assert str(module).strip("\n") == case.expect


def test_every_pass_has_cases() -> None:
    assert {p.stem for p in FOLDER.glob("*.ir")} == set(PASSES)


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_has_a_positive_and_a_negative_case(name: str) -> None:
    unchanged = [c.expect == UNCHANGED for c in read(FOLDER / f"{name}.ir")[1]]
    assert any(unchanged), f"{name}.ir has no case that stays"
    assert not all(unchanged), f"{name}.ir has no case that changes"


def test_every_rule_has_a_positive_and_a_negative_case() -> None:
    cases = {c.name: c for c in read(FOLDER / "canonicalize.ir")[1]}
    for rule in RULES:
        name = type(rule).__name__
        positive = [c for c in cases.values() if c.name == name or c.name.startswith(f"{name}: ")]
        negative = [c for c in cases.values() if c.name.startswith(f"{name} refuses")]
        assert positive, f"no case {name}"
        assert all(c.expect != UNCHANGED for c in positive), f"case {name} changes nothing"
        assert negative, f"no case {name} refuses"
        assert all(c.expect == UNCHANGED for c in negative), f"a case {name} refuses is rewritten"


PLANNED = [c for c in read(FOLDER / "plan.ir")[1] if not c.expect.startswith("ERROR ")]


@pytest.mark.parametrize("case", PLANNED, ids=lambda c: c.name)
def test_planned_memory_is_live(case: Case) -> None:
    for function in transform("plan", parse(case.source)):
        if None not in function.roles:
            check_memory(function)


NEG = """module @m {
  func @f(
    %x: f32[4] input
  ) -> (f32[4]) {
    %0 = neg %x : f32[4]
    %1 = neg %0 : f32[4]
    return %1
  }
}
"""


def _file(tmp_path: Path, name: str, expect: str) -> Path:
    path = tmp_path / f"{name}.ir"
    write(path, "// head\n", [Case("a", NEG.strip("\n"), expect), Case("b", NEG.strip("\n"), UNCHANGED)])
    return path


def test_accept_rewrites_one_expectation(tmp_path: Path) -> None:
    path = _file(tmp_path, "canonicalize", "stale")
    actual, _ = outcome("canonicalize", NEG)
    accept(path, "a", actual)
    head, (a, b) = read(path)
    assert (head, a.source, b.expect) == ("// head\n", NEG.strip("\n"), UNCHANGED)
    assert "return %x" in a.expect
    assert fits(a.expect, actual)


def test_accept_refuses_where_execution_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(name: str, module: Module) -> Module:
        return parse(str(module).replace("return %1", "return %0"))

    monkeypatch.setattr(goldens, "transform", wrong)
    with pytest.raises(ExecutionError, match="after canonicalize"):
        outcome("canonicalize", NEG)


def test_an_error_expectation_is_a_part_of_the_message() -> None:
    actual, module = outcome("canonicalize", NEG.replace("return %1", "return %2"))
    assert module is None
    assert fits(f"ERROR {json.dumps('is not defined')}", actual)
    assert not fits('ERROR "something else"', actual)
    assert not fits(UNCHANGED, actual)


def _pass(name: str, body: str, arguments: str, results: str, others: str = "") -> Module:
    actual, after = outcome(name, f"module @m {{ {others} func @f({arguments}) -> ({results}) {{\n{body}\n}} }}")
    assert after is not None, actual
    return after


TWO = "%g: f32[4] input, %h: f32[4] input, %a: f32[4] param, %b: f32[4] param"
NEW = "f32[4] update(%a), f32[4] update(%b)"


def test_plan_joins_along_the_first_axis_only() -> None:
    body = "%0 = neg %x : f32[2, 3]\n%1 = abs %x : f32[2, 3]\n%2 = concat %0, %1 {axis = 1} : f32[2, 6]\nreturn %2"
    check_memory(_pass("plan", body, "%x: f32[2, 3] input", "f32[2, 6]")["f"])


def test_where_in_place_of_its_condition() -> None:
    body = "%0 = where %c, %a, %b : bool[4]\nreturn %0, %a, %b"
    module = _pass("plan", body, "%c: bool[4] input, %a: bool[4] input, %b: bool[4] input", "bool[4], bool[4], bool[4]")
    c, a, b = (np.array(x, np.bool_) for x in ((1, 0, 1, 0), (1, 0, 0, 1), (1, 1, 0, 0)))
    assert NumpyProgram(module["f"], module)(c, a, b)[0].tolist() == [True, True, False, False]


def test_plan_of_planned_ir_is_that_ir() -> None:
    text = str(
        _pass("plan", "%0 = tanh %x : f32[4]\n%1 = add %0, %x : f32[4]\nreturn %1", "%x: f32[4] input", "f32[4]")
    )
    assert str(transform("plan", parse(text))) == text


def test_update_finds_a_free_name() -> None:
    kernel = "func @k1(%x: f32[4]) -> (f32[4]) { return %x }"
    assert (
        "k0"
        in _pass(
            "update", "%0 = sub %a, %g : f32[4]\n%1 = sub %b, %h : f32[4]\nreturn %0, %1", TWO, NEW, kernel
        ).functions
    )


def test_update_of_casts_from_two_dtypes() -> None:
    body = "%0 = cast %g {dtype = f32} : f32[4]\n%1 = cast %h {dtype = f32} : f32[4]\n"
    body += "%2 = sub %a, %0 : f32[4]\n%3 = sub %b, %1 : f32[4]\nreturn %2, %3"
    _pass("update", body, TWO.replace("%g: f32", "%g: f64").replace("%h: f32", "%h: f16"), NEW)


def test_update_with_a_scalar_slot() -> None:
    body = "%0 = constant {value = 1.0} : f32[]\n%1 = add %optimizer/n/a, %0 : f32[]\n"
    body += "%2 = add %optimizer/n/b, %0 : f32[]\n"
    body += "%3 = sub %a, %g : f32[4]\n%4 = sub %b, %h : f32[4]\nreturn %3, %4, %1, %2"
    slots = ", %optimizer/n/a: f32[] optimizer, %optimizer/n/b: f32[] optimizer"
    _pass("update", body, TWO + slots, NEW + ", f32[] update(%optimizer/n/a), f32[] update(%optimizer/n/b)")


@pytest.mark.parametrize("size", [4, 40], ids=["elements", "splat"])
def test_fold_makes_infinities_in_silence(size: int) -> None:
    one, zero = (f"constant {{value = {x}}} : f32[{size}]" for x in ("1.0", "0.0"))
    body = f"%0 = {one}\n%1 = {zero}\n%2 = div %0, %1 : f32[{size}]\nreturn %2"
    assert "{value = inf}" in str(_pass("fold", body, "%x: f32[4] input", f"f32[{size}]"))


def test_dce_keeps_a_kernel_that_may_raise() -> None:
    kernel = "func @k(%a: f32[4], %b: i64[2]) -> (f32[2]) { %0 = take %a, %b {axis = 0} : f32[2] return %0 }"
    body = "%0 = fused %x, %i {kernel = @k} : f32[2]\nreturn %x"
    _pass("dce", body, "%x: f32[4] input, %i: i64[2] input", "f32[4]", kernel)


def test_dce_drops_kernels_of_dropped_kernels() -> None:
    kernels = "func @k(%a: f32[4]) -> (f32[4]) { %0 = fused %a {kernel = @l} : f32[4] return %0 }"
    kernels += " func @l(%a: f32[4]) -> (f32[4]) { return %a }"
    module = _pass("dce", "%0 = fused %x {kernel = @k} : f32[4]\nreturn %x", "%x: f32[4] input", "f32[4]", kernels)
    assert list(module.functions) == ["f"]
