"""Random programs as users write them: what the tape runs, ``compiled`` runs to the same bits, whatever the target."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from outcomes import Outcome, agree, outcome
from user_strategies import UserProgram, user_programs

import tapeir as tp
from tapeir.backends import kernels
from tapeir.backends.compiled import lower, program_text
from tapeir.ir import Function, Module
from tapeir.ir.composite import can_fail
from tapeir.ir.op import Control
from tapeir.ir.types import Array

EXAMPLES = int(os.environ.get("TAPEIR_FUZZ", "25"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def run_by(backend: str, f: Callable[..., Any], arrays: Sequence[Array]) -> Outcome:
    executable: Any = tp.compile(f, backend=backend).executable(*arrays)
    return outcome(executable.run, arrays)


def check(f: Callable[..., Any], arrays: Sequence[Array]) -> None:
    for target in (None, kernels.Table()):
        with kernels.using(target or kernels.table()):
            name = kernels.table().name
            expected = run_by("eager", f, arrays)
            program: Any = tp.compile(f).executable(*arrays)
            for turn in ("first", "second"):  # a second call finds the arena full of the first one's values
                found = outcome(program.run, arrays)
                assert agree(expected, found), f"{name}, {turn} call: {found!r} is not {expected!r}\n{program.source}"


def check_cuda_text(f: Callable[..., Any], arrays: Sequence[Array]) -> None:
    module = tp.trace(f, *arrays)
    assert "launches" in program_text(module, next(iter(module)).name, "cuda")


def failing(module: Module, function: Function) -> list[tuple[str, object]]:
    """What can fail, in the order of a program, with the user's lines."""
    found: list[tuple[str, object]] = []
    for i in function.instructions:
        if isinstance(i.op, Control):
            found += failing(module, module[i.attrs[i.op.bodies[0]]])
        elif can_fail(i, module):
            found.append((i.op.name, i.location))
    return found


def check_order(f: Callable[..., Any], arrays: Sequence[Array]) -> None:
    """For every device, checks are where they were before kernels were made."""
    module = tp.trace(f, *arrays)
    name = next(iter(module)).name
    for device in ("cpu", "cuda"):
        plain, planned = lower(module, "optimized", device), lower(module, "planned", device)
        assert failing(planned, planned[name]) == failing(plain, plain[name]), f"{device}: {planned}"


@fuzzed
@given(user_programs())
def test_programs_agree(program: UserProgram) -> None:
    check(program.function, program.arrays)
    check_cuda_text(program.function, program.arrays)


@fuzzed
@given(user_programs(failing=True))
def test_the_first_failure_is_raised(program: UserProgram) -> None:
    check(program.function, program.arrays)
    check_order(program.function, program.arrays)


@fuzzed
@given(user_programs(most=8, floating=True))
def test_gradients_agree(program: UserProgram) -> None:
    f = tp.value_and_grad(program.loss, program.floating)

    def flat(*arrays: Any) -> Any:
        value, gradients = f(*arrays)
        return value, *gradients

    check(flat, program.arrays)
    check_cuda_text(flat, program.arrays)
