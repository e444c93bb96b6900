"""Reductions: integer sums that widen, means and variances of integers, corrections, and gradients where nothing varies."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from outcomes import same_bits

import tapeir as tp
from tapeir import ops
from tapeir.ir.errors import DtypeError
from tapeir.ir.types import Array

BACKENDS = ("eager", "compiled")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def on_both(f: Callable[..., Any], *arrays: Array) -> Array:
    """The result, the same on both backends."""
    eager, compiled = (np.asarray(tp.compile(f, backend=b)(*arrays)) for b in BACKENDS)
    assert same_bits(eager, compiled)
    return eager


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_sums_of_integers_widen(dtype: str, axis: Any, table: str) -> None:
    if dtype == "bool":
        x = np.ones((300, 4), np.bool_)
    else:
        top = np.iinfo(dtype).max if np.iinfo(dtype).bits < 64 else 1 << 50
        x = np.full((300, 4), top, dtype)
    wanted = np.sum(x, axis=axis)
    assert wanted.dtype == ("uint64" if dtype.startswith("u") else "int64")
    ways: list[Callable[[Any], Any]] = [lambda x: ops.sum(x, axis=axis), lambda x: x.sum(axis=axis)]
    for f in ways:
        assert same_bits(on_both(f, x), np.asarray(wanted))
    assert same_bits(np.asarray(ops.sum(x, axis=axis, keepdims=True)), np.asarray(np.sum(x, axis=axis, keepdims=True)))


@pytest.mark.parametrize(
    ("given", "dtype"),
    [("uint8", "int32"), ("int8", "float64"), ("bool", "float32"), ("float32", "float64"), ("float64", "float32"), ("float32", "int64")],
)  # fmt: skip
def test_a_sum_in_a_dtype(given: str, dtype: str, table: str) -> None:
    x = (np.arange(1000) % 120 * (1.37 if given.startswith("f") else 1)).astype(given).reshape(4, 250)
    ways: list[Callable[[Any], Any]] = [lambda x: ops.sum(x, axis=1, dtype=dtype), lambda x: x.sum(axis=1, dtype=dtype)]
    for f in ways:
        found = on_both(f, x)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, x.astype(dtype).sum(1), rtol=1e-6 if dtype == "float32" else 1e-14)


def test_a_sum_in_a_wider_dtype_has_a_gradient_in_the_operands() -> None:
    x = np.linspace(1, 2, 5, dtype=np.float32)
    found = on_both(tp.grad(lambda x: ops.sum(x * x, dtype="float64")), x)
    assert same_bits(found, 2 * x)


def test_a_sum_in_bool_is_an_error() -> None:
    with pytest.raises(DtypeError, match="sum does not take bool\n  rule: the element type is"):
        ops.sum(np.ones(3), dtype="bool")


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_means_and_variances_of_integers_do_not_wrap(dtype: str, table: str) -> None:
    top = 1 if dtype == "bool" else min(np.iinfo(dtype).max, 1 << 20)
    x = np.where(np.arange(600).reshape(300, 2) % 3 == 0, 0, top).astype(dtype)
    for f, reference in ((ops.mean, np.mean), (ops.var, np.var), (ops.std, np.std)):
        found = on_both(lambda x, f=f: f(x, axis=0), x)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, reference(x.astype(np.float64), axis=0), rtol=1e-5)


def test_a_mean_in_a_dtype() -> None:
    x = np.array([[1, 2], [2, 3]], np.uint8)
    assert same_bits(on_both(lambda x: ops.mean(x, axis=0, dtype="float64"), x), x.mean(0))
    assert same_bits(on_both(lambda x: x.mean(dtype="float64"), x.astype(np.float32)), np.asarray(x.mean()))
    with pytest.raises(DtypeError, match="mean in i64\n  rule: a mean is floating"):
        ops.mean(x, dtype="int64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", [[], [5], [1, 2], [2, 2], [1, 2, 4], [1, np.inf], [1, np.nan]], ids=str)
def test_a_variance_is_never_negative(row: list[float], dtype: str, table: str) -> None:
    x, corrections = np.array(row, dtype), (0, 1, 1.5, 2, 3, 100)
    with np.errstate(all="ignore"):
        squares = ((x - x.sum() / np.float64(len(row))) ** 2).sum()
        wanted = squares / np.array([max(len(row) - c, 0) for c in corrections])
    for f, expected in ((ops.var, wanted), (ops.std, np.sqrt(wanted))):
        found = on_both(lambda x, f=f: ops.stack([f(x, correction=c) for c in corrections]), x)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "correction"), [((2, 4), 0), ((2, 4), 1), ((2, 1), 0), ((1, 300), 1)])
def test_the_derivative_of_std_where_nothing_varies_is_0(
    shape: tuple[int, int], correction: int, dtype: str, table: str
) -> None:
    x = np.ones(shape, dtype)

    def of(x: Any) -> Any:
        return ops.sum(ops.std(x, axis=1, correction=correction))

    ones: Any = np.arange(x.size, dtype=dtype).reshape(shape)
    assert (on_both(lambda x: tp.grad(of)(x), x) == 0).all()
    assert on_both(lambda x, t: tp.jvp(of, (x,), (t,))[1], x, ones) == 0
    assert (on_both(lambda x, t: tp.jvp(tp.grad(of), (x,), (t,))[1], x, ones) == 0).all()


def test_a_row_that_varies_beside_one_that_does_not() -> None:
    x = np.array([[1.0, 1, 1], [1, 2, 4]])
    found = on_both(lambda x: tp.grad(lambda x: ops.sum(ops.std(x, axis=1)))(x), x)
    centred = x[1] - x[1].mean()
    np.testing.assert_allclose(found, [[0, 0, 0], centred / (3 * x[1].std())], rtol=1e-14)
