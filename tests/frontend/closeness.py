"""Arrays for tests, and whether results are what NumPy gives."""

from __future__ import annotations

from typing import Any

import numpy as np


def random(*shape: int, seed: int = 0) -> Any:
    """Standard normal f64 elements."""
    return np.random.default_rng(seed).standard_normal(shape)


def check(actual: Any, expected: Any, rtol: float = 1e-12) -> None:
    """Same shape and dtype, and close elements."""
    expected = np.asarray(expected)
    found: Any = actual
    assert isinstance(actual, np.ndarray)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-14)
