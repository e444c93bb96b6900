"""Arithmetic and elementary functions, element by element."""

from __future__ import annotations

from typing import Any

from ..convert import as_value, builder, cast, is_number, on_tape, promoted, together, weak_kind
from ..tensor import Tensor
from .apply import binary, floating, unary


@on_tape
def add(x: Any, y: Any) -> Tensor:
    """``x + y``."""
    return binary("add", x, y)


@on_tape
def subtract(x: Any, y: Any) -> Tensor:
    """``x - y``."""
    return binary("sub", x, y)


@on_tape
def multiply(x: Any, y: Any) -> Tensor:
    """``x * y``."""
    return binary("mul", x, y)


@on_tape
def divide(x: Any, y: Any) -> Tensor:
    """``x / y``; integers are divided in the runtime's floating dtype."""
    return binary("div", x, y, floating=True)


@on_tape
def floor_divide(x: Any, y: Any) -> Tensor:
    """``floor(x / y)``, Python's ``//``; an integer divisor of 0 raises."""
    return binary("floor_divide", x, y)


@on_tape
def remainder(x: Any, y: Any) -> Tensor:
    """Python's ``%``; an integer divisor of 0 raises."""
    return binary("remainder", x, y)


@on_tape
def pow(x: Any, y: Any) -> Tensor:
    """``x ** y``; a constant exponent 0.5, 1, 2, 3 or -1 becomes a square root or products.

    Integers to an integer power are integers; a negative exponent then raises.
    """
    if is_number(y) and not is_number(x):
        value = as_value(x)
        dtype = promoted([value.type.dtype], weak_kind(y))
        base, build = cast(value, dtype), builder()
        if y == 1:
            return Tensor(base)
        if y == 2:
            return Tensor(build.mul(base, base))
        if y == 3:
            return Tensor(build.mul(build.mul(base, base), base))
        if y == -1 and dtype.floating:
            return Tensor(build.div(1.0, base))
        if y == 0.5:
            return Tensor(build.sqrt(base))
    return binary("pow", x, y)


@on_tape
def negative(x: Any) -> Tensor:
    """``-x``."""
    return Tensor(builder().neg(as_value(x)))


@on_tape
def abs(x: Any) -> Tensor:
    """``|x|``."""
    return Tensor(builder().abs(as_value(x)))


@on_tape
def sign(x: Any) -> Tensor:
    """-1, 0 or 1; NaN stays."""
    return Tensor(builder().sign(as_value(x)))


@on_tape
def floor(x: Any) -> Tensor:
    """The largest integer not above ``x``, in ``x``'s dtype."""
    value = as_value(x)
    return Tensor(builder().floor(value) if value.type.dtype.floating else value)


@on_tape
def ceil(x: Any) -> Tensor:
    """The smallest integer not below ``x``, in ``x``'s dtype."""
    value = as_value(x)
    build = builder()
    return Tensor(build.neg(build.floor(build.neg(value))) if value.type.dtype.floating else value)


@on_tape
def round(x: Any) -> Tensor:
    """The nearest integer, halves to even, in ``x``'s dtype."""
    value = as_value(x)
    return Tensor(builder().round(value) if value.type.dtype.floating else value)


@on_tape
def square(x: Any) -> Tensor:
    """``x * x``."""
    value = as_value(x)
    return Tensor(builder().mul(value, value))


@on_tape
def sqrt(x: Any) -> Tensor:
    """The square root."""
    return unary("sqrt", x)


@on_tape
def rsqrt(x: Any) -> Tensor:
    """``1 / sqrt(x)``."""
    build = builder()
    return Tensor(build.div(1.0, build.sqrt(floating(x))))


@on_tape
def exp(x: Any) -> Tensor:
    """``e**x``."""
    return unary("exp", x)


@on_tape
def expm1(x: Any) -> Tensor:
    """``e**x - 1``."""
    return unary("expm1", x)


@on_tape
def log(x: Any) -> Tensor:
    """The natural logarithm."""
    return unary("log", x)


@on_tape
def log1p(x: Any) -> Tensor:
    """``ln(1 + x)``."""
    return unary("log1p", x)


@on_tape
def tanh(x: Any) -> Tensor:
    """The hyperbolic tangent."""
    return unary("tanh", x)


@on_tape
def sigmoid(x: Any) -> Tensor:
    """``1 / (1 + e**-x)``."""
    return unary("sigmoid", x)


@on_tape
def erf(x: Any) -> Tensor:
    """The error function."""
    return unary("erf", x)


@on_tape
def sin(x: Any) -> Tensor:
    """The sine of an angle in radians."""
    return unary("sin", x)


@on_tape
def cos(x: Any) -> Tensor:
    """The cosine of an angle in radians."""
    return unary("cos", x)


@on_tape
def maximum(x: Any, y: Any) -> Tensor:
    """The larger operand; NaN if one is NaN."""
    return binary("maximum", x, y)


@on_tape
def minimum(x: Any, y: Any) -> Tensor:
    """The smaller operand; NaN if one is NaN."""
    return binary("minimum", x, y)


@on_tape
def clip(x: Any, min: Any = None, max: Any = None) -> Tensor:
    """``x`` held between ``min`` and ``max``; a gradient passes at the bounds too."""
    bounds = [b for b in (min, max) if b is not None]
    if not bounds:
        return Tensor(as_value(x))
    operands = together("clip", x, *bounds)
    return Tensor(builder().clip(*operands, lower=min is not None, upper=max is not None))
