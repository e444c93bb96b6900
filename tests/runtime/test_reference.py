"""Units in the last place, the grades of differences, and the float64 reference of every op."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import operand_types, special_floats

from tapeir.backends.eager.interpret import run_instruction
from tapeir.ir import OPS, Instruction, Value
from tapeir.ir.types import Array, DType, bf16, f16, f32, f64
from tapeir.runtime.reference import grade, rounding_ulp, same_bits, ulp_apart, ulp_from, wide

FLOATS = (f16, bf16, f32, f64)


def up(x: Array, steps: int = 1) -> Array:
    """The next numbers above, by their bits."""
    word = np.dtype(f"i{x.dtype.itemsize}")
    return (x.view(word) + np.where(np.signbit(x), -steps, steps).astype(word)).view(x.dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_neighbours_are_one_apart(dtype: DType) -> None:
    x = np.array([1.0, -1.0, 0.5, 3.0, -1e-3, 100.0]).astype(dtype.numpy)
    assert ulp_apart(x, up(x)).tolist() == [1.0] * 6
    assert ulp_apart(up(x, 7), x).tolist() == [7.0] * 6
    smallest = np.array([1], f"i{x.dtype.itemsize}").view(dtype.numpy)
    assert ulp_apart(smallest, -smallest).tolist() == [2.0]
    assert ulp_apart(np.zeros(1, dtype.numpy), -np.zeros(1, dtype.numpy)).tolist() == [0.0]


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_distance_is_a_metric_of_order(a: float, b: float) -> None:
    x, y = np.array([a]), np.array([b])
    assert ulp_apart(x, y) == ulp_apart(y, x)
    assert (ulp_apart(x, y)[0] == 0) == (a == b)
    with np.errstate(over="ignore"):
        above = np.nextafter(x, np.inf)
    assert ulp_apart(x, above)[0] == (0 if a == math.inf else 1)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_all_nans_are_one_and_no_number(dtype: DType) -> None:
    nan, one = np.array([np.nan]).astype(dtype.numpy), np.ones(1, dtype.numpy)
    assert same_bits(nan, -nan)
    assert ulp_apart(nan, -nan)[0] == 0
    assert ulp_apart(nan, one)[0] == math.inf
    assert grade(nan, one) == "real"
    assert grade(nan, nan) == "none"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_grades(dtype: DType) -> None:
    one = np.ones(3, dtype.numpy)
    assert grade(one, one) == "none"
    assert grade(one, up(one)) == "rounding"
    assert grade(one, up(one, rounding_ulp(one.dtype))) == "rounding"
    assert grade(one, up(one, rounding_ulp(one.dtype) + 1)) == "real"
    assert grade(np.zeros(1, dtype.numpy), -np.zeros(1, dtype.numpy)) == "rounding"
    assert grade(one, np.array([1, 2, 1]).astype(dtype.numpy)) == "real"
    assert grade(np.full(1, np.inf).astype(dtype.numpy), -np.full(1, np.inf).astype(dtype.numpy)) == "real"


def test_sums_that_cancel_differ_by_rounding() -> None:
    a, b = np.array([1e-9], np.float32), np.array([-3e-7], np.float32)
    assert grade(a, b) == "real"
    assert grade(a, b, scale=10.0) == "rounding"
    assert grade(a, np.array([0.1], np.float32), scale=10.0) == "real"


def test_integers_and_bools_are_equal_or_really_different() -> None:
    assert grade(np.array([1, 2]), np.array([1, 2])) == "none"
    assert grade(np.array([1, 2]), np.array([1, 3])) == "real"
    assert grade(np.array([True]), np.array([False])) == "real"
    assert grade(np.empty(0), np.empty(0)) == "none"


def test_distance_from_float64() -> None:
    x = np.array([1.0, np.inf, np.nan, 0.1], np.float32)
    found = ulp_from(x, np.array([1.0 + 2.0**-24, np.inf, np.nan, 0.1]))
    assert found[:3].tolist() == [0.5, 0.0, 0.0]
    assert 0 < found[3] <= 0.5
    assert ulp_from(np.array([1.0], np.float32), np.array([np.nan]))[0] == math.inf


@pytest.mark.parametrize("name", sorted(OPS))
def test_float64_is_what_the_op_means(name: str) -> None:
    op = OPS[name]
    for sample in op.samples(np.random.default_rng(5)):
        types = operand_types(op, sample.operands)
        attrs = op.attributes(sample.attrs)
        i = Instruction(op, tuple(map(Value, types)), attrs, op.result_types(types, attrs))
        operands: list[Any] = [
            a.astype(np.float64) if t.dtype.floating else a for a, t in zip(sample.operands, types, strict=True)
        ]
        results = wide(i, operands)
        table = run_instruction(i, list(sample.operands))
        for r, w, t in zip(i.results, results, table, strict=True):
            assert w.dtype == (np.float64 if r.type.dtype.floating else t.dtype)
            assert w.shape == t.shape
            if not r.type.dtype.floating:
                assert np.array_equal(w, t)
            elif t.size:
                finite = np.isfinite(t) & np.isfinite(w)
                worst = np.abs(t[finite].astype(np.float64) - w[finite]).max(initial=0)
                tolerance = 1e-4 if t.dtype.itemsize > 2 else 1e-2
                assert worst <= tolerance * max(1.0, float(np.abs(w[finite]).max(initial=0)))


def test_special_values_have_a_place_in_the_order() -> None:
    for dtype in (f32, f64):
        x = np.sort(special_floats(dtype)[~np.isnan(special_floats(dtype))])
        apart = ulp_apart(x[:-1], x[1:])
        assert (apart >= 0).all()
