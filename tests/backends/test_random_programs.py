"""Random programs: interpreter, compiled program and the interpreter after each pass agree bit for bit."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from outcomes import Outcome, agree, outcome
from program_strategies import Program, programs, update_programs
from strategies import inputs_of

from tapeir.backends.base import compile_module
from tapeir.backends.compiled import CompiledBackend, llvm_target
from tapeir.backends.eager import EagerBackend
from tapeir.backends.eager.interpret import run_instruction
from tapeir.ir import Module, parse
from tapeir.ir.types import Array
from tapeir.passes import PASSES, PIPELINES, PassManager, Provenance

EXAMPLES = int(os.environ.get("TAPEIR_FUZZ", "60"))
REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*.ir"))


def interpreted(module: Module, arrays: Sequence[Array]) -> Outcome:
    return outcome(compile_module(EagerBackend(), module, "main", "cpu").run, arrays)


def check_text(module: Module, stage: str) -> None:
    text = str(module)
    again = parse(text)
    again.verify()
    assert str(again) == text, f"{stage}: the text changes when it is parsed"


def check_compiled(module: Module, arrays: Sequence[Array], expected: Outcome) -> None:
    program = compile_module(CompiledBackend(), module, "main", "cpu")
    first = outcome(program.run, arrays)
    assert agree(expected, first), f"compiled: {first!r} is not {expected!r}\n{program.source}"
    # A second call finds the arena full of the first one's values.
    assert agree(expected, outcome(program.run, arrays)), f"compiled: the second call differs\n{program.source}"
    check_callers_arrays(module, arrays, expected)


def check_callers_arrays(module: Module, arrays: Sequence[Array], expected: Outcome) -> None:
    """The program reads and writes the caller's own arrays, whatever their size; a result may be one of the inputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["tapeir.passes.plan"], "CALLER_BYTES", 1)
        patch.setattr(llvm_target, "STREAM_BYTES", 1)
        program = compile_module(CompiledBackend(), module, "main", "cpu", {"provenance": Provenance()})
    results = [np.zeros(v.type.array_shape, v.type.dtype.numpy) for v in module["main"].results]
    assert agree(expected, outcome(lambda given: program.run_into(given, results), arrays)), f"out=: {program.source}"
    copies = [a.copy() for a in arrays]
    over: list[Array] = []
    for result in results:
        fits = (a for a in copies if a.shape == result.shape and a.dtype == result.dtype)
        over.append(next((a for a in fits if all(a is not b for b in over)), result))
    assert agree(expected, outcome(lambda _: program.run_into(copies, over), [])), f"out= of inputs: {program.source}"


def run_pass(module: Module, name: str) -> None:
    PassManager(PASSES, strict=True, evaluate=run_instruction).run(module, [name])


def check(module: Module, arrays: Sequence[Array]) -> None:
    module.verify()
    check_text(module, "traced")
    expected = interpreted(module, arrays)
    for name in PASSES:
        alone = module.clone()
        run_pass(alone, name)
        found = interpreted(alone, arrays)
        assert agree(expected, found), f"pass {name} alone: {found!r} is not {expected!r}\n{alone}"
    assert PIPELINES["planned"][: len(PIPELINES["fused"])] == PIPELINES["fused"], "the last pipeline holds every stage"
    assert PIPELINES["fused"][: len(PIPELINES["optimized"])] == PIPELINES["optimized"], (
        "the last pipeline holds every stage"
    )
    staged = module.clone()
    for number, name in enumerate(PIPELINES["planned"]):
        run_pass(staged, name)
        check_text(staged, f"after {number} {name}")
        found = interpreted(staged, arrays)
        assert agree(expected, found), f"after {number} {name}: {found!r} is not {expected!r}\n{staged}"
    check_compiled(module, arrays, expected)


fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@fuzzed
@given(programs())
def test_random_programs_agree(program: Program) -> None:
    check(program.module, program.arrays)


@fuzzed
@given(update_programs())
def test_random_updates_agree(program: Program) -> None:
    check(program.module, program.arrays)


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda p: p.stem)
def test_regression(path: Path) -> None:
    module = parse(path.read_text(encoding="utf-8"))
    for seed in range(6):
        check(module, inputs_of(module["main"], seed, seed % 2 == 1))
