"""Gradients at special points are what the documents' table says, on the tape and compiled, in both dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from points import PAGE, Row, rows

import tapeir as tp
from tapeir import ops

pytestmark = pytest.mark.checkout
ROWS = rows() if PAGE.exists() else []


def _pool(name: str) -> Any:
    def call(x: Any, size: int, **options: Any) -> Any:
        return getattr(ops, name)(x, (size,), **options)

    return call


def _cross_entropy(x: Any, target: int) -> Any:
    return ops.cross_entropy(x[None], np.array([target]))


NAMES: dict[str, Any] = {
    **{n: getattr(ops, n) for n in ops.__all__},
    "max_pool": _pool("max_pool"),
    "avg_pool": _pool("avg_pool"),
    "cross_entropy": _cross_entropy,
}


def by_tapeir(row: Row, dtype: Any, backend: str) -> str:
    """TapeIR's answer."""
    values = [np.asarray(v, dtype) for v in row.arguments.values()]
    function = row.function(NAMES)

    def gradient(*given: Any) -> Any:
        found = tp.grad(lambda *v: ops.sum(function(*v)), tuple(range(len(given))))(*given)
        return found if len(given) > 1 else found[0]

    found = tp.compile(gradient, backend=backend)(*values)
    return row.said(found if len(values) > 1 else [found])


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_gradients_at_special_points(row: Row) -> None:
    for dtype in (np.float64, np.float32):
        values = [np.asarray(v, np.float64) for v in row.arguments.values()]
        if all((np.isfinite(v) <= (np.abs(v) < np.finfo(dtype).max)).all() for v in values):
            for backend in ("eager", "compiled"):
                assert by_tapeir(row, dtype, backend) == row.answers["TapeIR"], f"{np.dtype(dtype)}, {backend}"


def test_the_table_has_rows() -> None:
    assert len(ROWS) > 80
    assert len({(r.expression, r.point) for r in ROWS}) == len(ROWS)
