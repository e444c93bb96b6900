"""What the tests on a CUDA device share.

``TAPEIR_GPU=required``: where no device can be used they fail, with the reason, and are not skipped.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import pytest
from outcomes import same_bits

from tapeir.backends.cuda import devices

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what CuPy and nvmath warn of is theirs
    REASON = devices.unavailable("cuda")
REQUIRED = os.environ.get("TAPEIR_GPU") == "required"
needs_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(REASON is not None and not REQUIRED, reason=REASON or ""),
    pytest.mark.filterwarnings("default"),
]


def same(a: Any, b: Any) -> bool:
    """Whether two arrays, wherever they lie, have one dtype, shape and bits; all NaNs count as one."""
    return same_bits(np.asarray(a), np.asarray(b))
