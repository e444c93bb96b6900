"""The pinned functions by their primitive's name, each defined once over scalar primitives: a builder expands them in place."""

from __future__ import annotations

from collections.abc import Callable

from ...ir.scalar import Scalar
from .exponential import erf, exp, expm1, log, log1p, sigmoid, tanh
from .power import floor_divide, pow, remainder
from .trigonometry import cos, sin

FUNCTIONS: dict[str, Callable[..., Scalar]] = {
    "exp": exp, "log": log, "log1p": log1p, "expm1": expm1, "tanh": tanh, "sigmoid": sigmoid, "erf": erf, "sin": sin, "cos": cos,
    "pow": pow, "floor_divide": floor_divide, "remainder": remainder,
}  # fmt: skip
