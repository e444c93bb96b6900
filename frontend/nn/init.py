"""Initialisers: ``init(key, shape)`` gives a parameter's first elements, computed in f64 and rounded once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.errors import ArgumentValueError
from ...ir.types import Shape, f64
from .. import functional as ops
from ..arguments import Number, checked_fields

__all__ = ["Constant", "KaimingNormal", "KaimingUniform", "Normal", "Uniform", "XavierNormal", "XavierUniform", "fans"]


def fans(shape: Shape) -> tuple[int, int]:
    """(fan in, fan out) of a weight laid out as PyTorch's: ``[out, in, *receptive field]``."""
    if len(shape) < 2:
        raise ArgumentValueError(f"a weight of shape {list(shape)} has no fan; it has at least two axes")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


@checked_fields
@dataclass(frozen=True)
class Constant:
    """Every element ``value``; an integer stays exact."""

    value: Number = 0.0

    def __call__(self, key: Any, shape: Shape) -> Any:
        if isinstance(self.value, (float, np.floating)):
            return ops.full(shape, self.value, f64)
        return np.broadcast_to(np.asarray(self.value), shape)


@checked_fields
@dataclass(frozen=True)
class Uniform:
    """Uniform on ``[low, high)``."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, key: Any, shape: Shape) -> Any:
        return ops.random_uniform(shape, f64, key) * (self.high - self.low) + self.low


@checked_fields
@dataclass(frozen=True)
class Normal:
    """Normal with a mean and a standard deviation."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, key: Any, shape: Shape) -> Any:
        return ops.random_normal(shape, f64, key) * self.std + self.mean


@checked_fields
@dataclass(frozen=True)
class KaimingUniform:
    """Uniform with bound ``sqrt(6 / ((1 + a**2) * fan_in))`` (He et al., arXiv:1502.01852)."""

    a: float = 0.0

    def __call__(self, key: Any, shape: Shape) -> Any:
        bound = math.sqrt(6 / ((1 + self.a**2) * fans(shape)[0]))
        return Uniform(-bound, bound)(key, shape)


@checked_fields
@dataclass(frozen=True)
class KaimingNormal:
    """Normal with standard deviation ``sqrt(2 / ((1 + a**2) * fan_in))`` (He et al., arXiv:1502.01852)."""

    a: float = 0.0

    def __call__(self, key: Any, shape: Shape) -> Any:
        return Normal(0.0, math.sqrt(2 / ((1 + self.a**2) * fans(shape)[0])))(key, shape)


@checked_fields
@dataclass(frozen=True)
class XavierUniform:
    """Uniform with bound ``gain * sqrt(6 / (fan_in + fan_out))`` (Glorot and Bengio, AISTATS 2010)."""

    gain: float = 1.0

    def __call__(self, key: Any, shape: Shape) -> Any:
        bound = self.gain * math.sqrt(6 / sum(fans(shape)))
        return Uniform(-bound, bound)(key, shape)


@checked_fields
@dataclass(frozen=True)
class XavierNormal:
    """Normal with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio, AISTATS 2010)."""

    gain: float = 1.0

    def __call__(self, key: Any, shape: Shape) -> Any:
        return Normal(0.0, self.gain * math.sqrt(2 / sum(fans(shape))))(key, shape)
