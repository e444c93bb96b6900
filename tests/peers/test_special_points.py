"""What PyTorch and JAX give at special points is what the documents' table says."""

from __future__ import annotations

import pytest
from peers.special_points import by_jax, by_torch
from points import PAGE, Row, rows

pytestmark = [pytest.mark.slow, pytest.mark.checkout]
every_row = pytest.mark.parametrize("row", rows() if PAGE.exists() else [], ids=str)


@every_row
def test_pytorch(row: Row) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e .[peers]")
    assert by_torch(row) == row.answers["PyTorch"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@every_row
def test_jax(row: Row) -> None:
    pytest.importorskip("jax", reason="JAX is not installed: pip install -e .[peers]")
    assert by_jax(row) == row.answers["JAX"]
