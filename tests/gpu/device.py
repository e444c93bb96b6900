"""What the tests on a CUDA device share."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from tapeir.backends.cuda import devices

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what CuPy and nvmath warn of is theirs
    REASON = devices.unavailable("cuda")
needs_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
    pytest.mark.filterwarnings("default"),
]


def same(a: Any, b: Any) -> bool:
    """Whether two arrays have one dtype, shape and bits; all NaNs count as one."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind != "f":
        return bool((a == b).all())
    word = np.dtype(f"u{a.dtype.itemsize}")
    nan = np.isnan(a)
    return bool((nan == np.isnan(b)).all()) and bool(((a.view(word) == b.view(word)) | nan).all())
