"""Elementary functions: roots, exponentials, logarithms, hyperbolic and trigonometric functions, powers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import NegativePowerError
from ..graph import Value
from ..op import Check, Elementwise, Random
from ..scalar import Scalar, ScalarBuilder
from ..types import Array, DType, TensorType

Rules = tuple[Callable[[], Value] | None, ...]


class Sqrt(Elementwise):
    """``y = sqrt(x)``.  Backward: ``dx = dy / (2 * y)``."""

    name = "sqrt"
    arity = 1
    rounding = "correct"
    domain = (0.2, 3.0)

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.sqrt(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.sqrt(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.div(dy, build.mul(y, 2.0)),)


class Exp(Elementwise):
    """``y = e**x``.  Backward: ``dx = dy * y``."""

    name = "exp"
    arity = 1
    rounding = "pinned"

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.exp(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.exp(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.mul(dy, y),)


class Expm1(Elementwise):
    """``y = e**x - 1``, accurate near 0.  Backward: ``dx = dy * (y + 1)``."""

    name = "expm1"
    arity = 1
    rounding = "pinned"

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.expm1(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.expm1(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.mul(dy, build.add(y, 1.0)),)


class Log(Elementwise):
    """``y = ln x``.  Backward: ``dx = dy / x``."""

    name = "log"
    arity = 1
    rounding = "pinned"
    domain = (0.2, 3.0)

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.log(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.log(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.div(dy, x),)


class Log1p(Elementwise):
    """``y = ln(1 + x)``, accurate near 0.  Backward: ``dx = dy / (1 + x)``."""

    name = "log1p"
    arity = 1
    rounding = "pinned"
    domain = (-0.5, 3.0)

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.log1p(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.log1p(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.div(dy, build.add(x, 1.0)),)


class Tanh(Elementwise):
    """``y = tanh(x)``.  Backward: ``dx = dy * (1 - y * y)``."""

    name = "tanh"
    arity = 1
    rounding = "pinned"

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.tanh(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.tanh(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.mul(dy, build.sub(1.0, build.mul(y, y))),)


class Sigmoid(Elementwise):
    """``y = 1 / (1 + e**-x)``.  Backward: ``dx = dy * (y * (1 - y))``."""

    name = "sigmoid"
    arity = 1
    rounding = "pinned"

    def eval(self, xp: Any, x: Array) -> Array:
        small = xp.exp(-xp.abs(x))
        return xp.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.sigmoid(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.mul(dy, build.mul(y, build.sub(1.0, y))),)


class Erf(Elementwise):
    """The error function, ``y = 2/sqrt(pi) * integral of e**-t**2 from 0 to x``.  Backward: ``dx = dy * 2/sqrt(pi) * e**(-x*x)``."""

    name = "erf"
    arity = 1
    rounding = "pinned"

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype) if x.size else x

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.erf(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.mul(dy, build.mul(build.exp(build.neg(build.mul(x, x))), 2 / math.sqrt(math.pi))),)


class Sin(Elementwise):
    """``y = sin(x)``, radians.  Backward: ``dx = dy * cos(x)``."""

    name = "sin"
    arity = 1
    rounding = "pinned"

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.sin(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.sin(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.mul(dy, build.cos(x)),)


class Cos(Elementwise):
    """``y = cos(x)``, radians.  Backward: ``dx = -dy * sin(x)``."""

    name = "cos"
    arity = 1
    rounding = "pinned"

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.cos(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.cos(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.neg(build.mul(dy, build.sin(x))),)


def _natural(s: ScalarBuilder, b: Scalar, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> Scalar:
    return s.compare("ge", b, s.like(b, 0))


def _negative_message(bad: Any, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> str:
    return f"an integer to the power {bad}\n  rule: integer exponents are not negative\n  remedy: cast one operand to a floating dtype"


class Pow(Elementwise):
    """``y = a ** b``; an integer to a negative power raises.

    Backward: ``da = dy * b * a ** (b - 1)`` (0 where ``b`` is 0), ``db = dy * y * ln a`` (0 where ``a`` is 0, whatever ``b``).
    """

    name = "pow"
    arity = 2
    accepts = "fiu"
    rounding = "pinned"
    domain = (0.3, 2.5)
    check = Check(1, _natural, NegativePowerError, _negative_message, lambda types: types[0].dtype.kind == "i")

    def example(self, random: Random, dtype: DType, shape: tuple[int, ...], position: int) -> Array:
        if dtype.integer:
            return random.integers(0, 4, shape).astype(dtype.numpy)
        return super().example(random, dtype, shape, position)

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.power(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.pow(a, b)

    def vjp(self, build: Any, dy: Value, y: Value, a: Value, b: Value) -> Rules:
        def base() -> Value:
            slope = build.mul(b, build.pow(a, build.sub(b, 1.0)))
            return build.mul(dy, build.where(build.eq(b, 0.0), build.splat(0.0, b.type), slope))

        def exponent() -> Value:
            # Both factors are replaced: 0 ** -1 is infinite, and a derivative of this rule meets the logarithm's own slope.
            zero = build.eq(a, 0.0)
            logarithm = build.log(build.where(zero, build.splat(1.0, a.type), a))
            return build.mul(dy, build.mul(build.where(zero, build.splat(0.0, y.type), y), logarithm))

        return (base, exponent)
