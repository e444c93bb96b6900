"""Golden files of the passes: ``<pass>.ir`` holds modules and what the pass makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tapeir.ir import Module, parse
from tapeir.passes import PASSES
from tapeir.passes.canonicalize import RULES

from . import goldens
from .goldens import FOLDER, UNCHANGED, Case, ExecutionDiffers, accept, check_memory, fits, outcome, read, transform, write


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
    with pytest.raises(ExecutionDiffers, match="after canonicalize"):
        outcome("canonicalize", NEG)


def test_an_error_expectation_is_a_part_of_the_message() -> None:
    actual, module = outcome("canonicalize", NEG.replace("return %1", "return %2"))
    assert module is None
    assert fits(f"ERROR {json.dumps('is not defined')}", actual)
    assert not fits('ERROR "something else"', actual)
    assert not fits(UNCHANGED, actual)
