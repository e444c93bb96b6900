"""Of several checks that fail, the one of the user's first line is named, wherever kernels and plans put them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import ops
from tapeir.backends import kernels
from tapeir.ir import IRError
from tapeir.ir.types import Array

pytestmark = pytest.mark.usefixtures("table")
X = np.arange(60, dtype=np.float32).reshape(6, 10)
FAR, ZEROS = np.array([2, 9]), np.zeros(2, np.int64)


def raised(f: Callable[..., Any], *arrays: Array) -> str:
    """The text of the error that both backends raise."""
    texts: list[str] = []
    for backend in ("eager", "compiled"):
        with pytest.raises(IRError) as error:
            tp.compile(f, backend=backend)(*arrays)
        texts.append(str(error.value))
    assert texts[0] == texts[1]
    return texts[0]


def kernel_behind(x: Any, i: Any, n: Any) -> Any:
    """A kernel that ends behind another check begins with a choice."""
    chosen = ops.take(x, i, axis=0)
    quotient = i // n
    return ops.exp(chosen) * 2.0, quotient


def kernel_before(x: Any, i: Any, n: Any) -> Any:
    quotient = i // n
    chosen = ops.take(x, i, axis=0)
    return ops.exp(chosen) * 2.0, quotient


def two_and_one_between(x: Any, i: Any, n: Any) -> Any:
    """Two choices that could be one kernel, and a check between them."""
    a = ops.take(x, ops.clip(i, 0, 5), axis=0)
    quotient = n % n
    b = ops.take(x, i, axis=0)
    return a + b, quotient


def one_kernel_for_two_lines(x: Any, i: Any, n: Any) -> Any:
    """Two lines that make the same kernel, of which the second fails."""
    y = ops.matmul(ops.matmul(x, ops.matrix_transpose(x)), x)
    a = ops.exp(ops.take(x, n, axis=0)) * 2.0
    b = ops.exp(ops.take(y, i, axis=0)) * 2.0
    return a, b


@pytest.mark.parametrize(
    ("f", "line"),
    [
        (kernel_behind, "chosen = ops.take(x, i, axis=0)"),
        (kernel_before, "quotient = i // n"),
        (two_and_one_between, "quotient = n % n"),
        (one_kernel_for_two_lines, "b = ops.exp(ops.take(y, i, axis=0)) * 2.0"),
    ],
)
def test_the_first_line_that_fails(f: Callable[..., Any], line: str) -> None:
    assert line in raised(f, X, FAR, ZEROS)


def test_choices_of_one_sum_are_one_kernel() -> None:
    """The order of checks keeps nothing apart that has no check between."""

    def embedded(x: Any, i: Any, j: Any) -> Any:
        return ops.exp(ops.take(x, i, axis=0) + ops.take(x, j, axis=0))

    program = tp.compile(embedded).executable(X, FAR, ZEROS)
    assert kernels.table().name != "native" or len([k for k in program.kernels if k.startswith("k")]) == 1
    assert "index 9 is out of range" in raised(embedded, X, ZEROS, FAR)


def test_equal_checks_name_the_first() -> None:
    def twice(x: Any, i: Any) -> Any:
        first = ops.take(x, i, axis=0)
        second = ops.take(x, i, axis=0)
        return first * 2.0, second

    assert "first = ops.take" in raised(twice, X, FAR)
