"""A small network, its batch and its runtime, for tests of what a runtime does."""

from __future__ import annotations

from typing import Any

import numpy as np

import tapeir as tp
from tapeir import nn

BACKENDS = ("eager", "compiled")
X: Any = np.random.default_rng(0).standard_normal((6, 4))
Y: Any = np.array([0, 1, 2, 0, 1, 2])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def runtime(backend: str = "eager", model: nn.Module | None = None, **options: Any) -> tp.Runtime:
    options = {"objective": "cross_entropy", "optimizer": tp.optim.Adam(1e-2), **options}
    return tp.Runtime(model or network(), backend=backend, **options)


def bits(rt: tp.Runtime) -> dict[str, tuple[Any, ...]]:
    """All state as shapes, dtypes and bytes."""
    views = {**rt.params, **rt.buffers, **rt.optimizer_state}
    return {n: (a.shape, a.dtype, a.tobytes()) for n, a in views.items()}
