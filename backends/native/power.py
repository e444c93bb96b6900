"""Powers, floor division and remainders over scalar primitives, for floats and integers."""

from __future__ import annotations

from math import inf, nan

from ...ir.scalar import Scalar, ScalarBuilder
from ...ir.types import f32, f64
from .exponential import (
    FORMATS,
    SHORT_LN2,
    clamp_above,
    clamp_below,
    horner,
    integer,
    near_one,
    nearest,
    reduce_exponent,
    scale,
    split,
)

# (ln((1 + s)/(1 - s)) / 2s - 1 - z/3) / z**2 with z = s**2, 2**-73.5; and log2((1 + s)/(1 - s)) / s, 2**-43.6;
# 2**r for |r| <= 1/2, 2**-29.0; fitted as in exponential.py.
_LOG = (
    0.1999999999999999, 0.14285714285721896, 0.11111111108903378, 0.09090909420853803, 0.07692279292494171,
    0.06668129349223231, 0.058379458751145634, 0.05990446237846938,
)  # fmt: skip
_LOG2 = (
    2.8853900817778495, 0.9617966941143392, 0.5770779420700546, 0.4122092824514291, 0.31990445326183603, 0.28291807663106083,
)  # fmt: skip
_EXP2 = (
    0.9999999999195567, 0.6931472070197932, 0.24022651501833853, 0.05550326552488566, 0.009617994819125201,
    0.001340069716177414, 0.00015477951901635422,
)  # fmt: skip


def pow(s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
    """``a ** b``: C99's special values for floats; wrapping, with a non-negative exponent, for integers."""
    if a.dtype.integer:
        return _integer_pow(s, a, b)
    if a.dtype is f32:
        return s.convert(_signed_pow(s, s.convert(a, f64), s.convert(b, f64), True), f32)
    return _signed_pow(s, a, b, False)


def _signed_pow(s: ScalarBuilder, a: Scalar, b: Scalar, single: bool) -> Scalar:
    """``a ** b`` in f64, to f32's accuracy and range where ``single``."""
    zero, one, endless = s.like(a, 0), s.like(a, 1), s.like(a, inf)
    x, size = s.abs(a), s.abs(b)
    y = _short_pow(s, x, b) if single else _pow(s, x, b)
    extreme = s.bit_or(s.compare("eq", x, zero), s.bit_or(s.compare("eq", x, endless), s.compare("eq", size, endless)))
    shrinks = s.bit_xor(s.compare("gt", x, one), s.compare("gt", b, zero))
    y = s.select(extreme, s.select(shrinks, zero, endless), y)
    y = s.select(s.compare("eq", x, one), one, y)
    half = s.mul(b, s.like(b, 0.5))
    whole = s.compare("eq", s.floor(b), b)
    odd = s.bit_and(whole, s.compare("ne", s.floor(half), half))
    i = integer(s, a)
    y = s.select(s.bit_and(odd, s.compare("lt", i, s.like(i, 0))), s.neg(y), y)
    finite = s.bit_and(s.compare("lt", a, zero), s.compare("gt", a, s.neg(endless)))
    y = s.select(s.bit_and(finite, s.bit_not(whole)), s.like(a, nan), y)
    y = s.select(s.bit_or(s.is_nan(a), s.is_nan(b)), s.add(a, b), y)
    return s.select(s.bit_or(s.compare("eq", b, zero), s.compare("eq", a, one)), one, y)


def _short_pow(s: ScalarBuilder, x: Scalar, y: Scalar) -> Scalar:
    """``x ** y`` for a positive f32 and an f32 held in f64: ``2**(y * log2 x)``."""
    m, n, _ = split(s, x)
    t = s.div(s.sub(m, s.like(m, 1)), s.add(m, s.like(m, 1)))
    logarithm = s.fma(t, horner(s, s.mul(t, t), _LOG2), n)
    power = clamp_above(s, clamp_below(s, s.mul(y, logarithm), -160.0), 130.0)
    n, i = nearest(s, power, 1.0)
    return scale(s, horner(s, s.sub(power, n), _EXP2), i)


def _pow(s: ScalarBuilder, x: Scalar, y: Scalar) -> Scalar:
    """``x ** y`` for positive finite f64 ``x`` and finite ``y``: the logarithm and its product with ``y`` as sums of two numbers."""
    high, low = _log_in_two(s, x)
    p = s.mul(y, high)
    rest = s.fma(y, low, s.fma(y, high, s.neg(p)))
    inside = s.compare("lt", s.abs(p), s.like(p, 800))
    rest = s.select(inside, rest, s.like(p, 0))
    r, i = reduce_exponent(s, clamp_above(s, clamp_below(s, p, -800.0), 800.0))
    return scale(s, near_one(s, s.add(r, rest)), i)


def _log_in_two(s: ScalarBuilder, x: Scalar) -> tuple[Scalar, Scalar]:
    """``ln x`` as a number and a correction, about 2**-64 of it together: ``n ln 2 + 2t (1 + t**2/3 + t**4 * p(t**2))``."""
    form = FORMATS[x.dtype]
    tiny = s.compare("lt", x, s.like(x, form.smallest))
    m, n, _ = split(s, s.select(tiny, s.mul(x, s.like(x, 2.0**54)), x))
    n = s.sub(n, s.select(tiny, s.like(x, 54), s.like(x, 0)))
    one = s.like(m, 1)
    above, below = s.sub(m, one), s.add(m, one)
    below_low = s.sub(m, s.sub(below, one))
    inverse = s.div(one, below)
    t = s.mul(above, inverse)
    t_low = s.mul(s.fma(s.neg(t), below_low, s.fma(s.neg(t), below, above)), inverse)
    z = s.mul(t, t)
    double = s.add(t, t)
    z_low = s.fma(double, t_low, s.fma(t, t, s.neg(z)))
    third, third_low = s.like(z, 0.3333333333333333), s.like(z, 1.850371707708594e-17)
    u = s.mul(z, third)
    u_low = s.fma(z_low, third, s.fma(z, third_low, s.fma(z, third, s.neg(u))))
    w = s.mul(s.mul(z, z), horner(s, z, _LOG))
    v = s.add(u, w)
    v_low = s.add(s.add(s.sub(u, v), w), u_low)
    double_low = s.add(t_low, t_low)
    c = s.mul(double, v)
    c_low = s.fma(double_low, v, s.fma(double, v_low, s.fma(double, v, s.neg(c))))
    high = s.add(double, c)
    low = s.add(s.add(s.sub(double, high), c), s.add(c_low, double_low))
    k = s.mul(n, s.like(n, SHORT_LN2[0]))
    total = s.add(k, high)
    rest = s.add(s.add(s.sub(k, total), high), s.fma(n, s.like(n, SHORT_LN2[1]), low))
    rounded = s.add(total, rest)
    return rounded, s.add(s.sub(total, rounded), rest)


def _integer_pow(s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
    """By squaring: four bits of the exponent always, the others only where one is set."""
    common = _squared(s, a, b, 4)
    return s.rare(s.compare("gt", b, s.like(b, 15)), common, integer_pow_large, a, b)


def integer_pow_large(s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
    """An integer to a power of any size."""
    return _squared(s, a, b, b.dtype.bits)


def _squared(s: ScalarBuilder, a: Scalar, b: Scalar, bits: int) -> Scalar:
    y, one, zero = s.like(a, 1), s.like(b, 1), s.like(b, 0)
    for k in range(bits):
        bit = s.bit_and(s.shift_right(b, s.like(b, k)), one)
        y = s.select(s.compare("ne", bit, zero), s.mul(y, a), y)
        if k + 1 < bits:
            a = s.mul(a, a)
    return y


def floor_divide(s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
    """Python's ``//``; for floats what NumPy computes (``npy_floor_divide``), for an integer divided by 0 0."""
    if a.dtype.integer:
        return _integer_division(s, a, b)[0]
    zero = s.like(a, 0)
    fraction = s.div(a, b)
    rest = _fmod(s, a, b)
    quotient = s.div(s.sub(a, rest), b)
    opposite = s.bit_xor(s.compare("lt", b, zero), s.compare("lt", rest, zero))
    down = s.bit_and(s.compare("ne", rest, zero), opposite)
    quotient = s.select(down, s.sub(quotient, s.like(a, 1)), quotient)
    whole = s.floor(quotient)
    whole = s.select(s.compare("gt", s.sub(quotient, whole), s.like(a, 0.5)), s.add(whole, s.like(a, 1)), whole)
    whole = s.select(s.compare("eq", quotient, zero), _signed_zero(s, fraction), whole)
    return s.select(s.compare("eq", b, zero), fraction, whole)


def remainder(s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
    """Python's ``%``; for floats what NumPy computes (``npy_remainder``), for an integer modulo 0 0."""
    if a.dtype.integer:
        return _integer_division(s, a, b)[1]
    zero = s.like(a, 0)
    rest = _fmod(s, a, b)
    opposite = s.bit_xor(s.compare("lt", b, zero), s.compare("lt", rest, zero))
    signed = s.select(s.bit_and(s.compare("ne", rest, zero), opposite), s.add(rest, b), rest)
    return s.select(s.compare("eq", rest, zero), _signed_zero(s, b), signed)


def _signed_zero(s: ScalarBuilder, sign: Scalar) -> Scalar:
    i = integer(s, sign)
    return s.bits(s.bit_and(i, s.like(i, FORMATS[sign.dtype].sign)), sign.dtype)


def _fmod(s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
    """C's ``fmod``, which is exact: one multiply-add and a correction while the quotient has few bits."""
    x, y = s.abs(a), s.abs(b)
    fraction = s.div(x, y)
    q = s.floor(fraction)
    r = s.fma(s.neg(q), y, x)
    r = s.select(s.compare("lt", r, s.like(r, 0)), s.add(r, y), r)
    limit = 2.0 ** (FORMATS[a.dtype].mantissa - 2)
    plain = s.bit_and(s.compare("lt", fraction, s.like(q, limit)), s.compare("lt", y, s.like(y, inf)))
    i, j = integer(s, r), integer(s, a)
    r = s.bits(s.bit_or(i, s.bit_and(j, s.like(j, FORMATS[a.dtype].sign))), a.dtype)
    return s.rare(s.bit_not(plain), r, fmod, a, b)


def fmod(s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
    """C's ``fmod``, by the primitive."""
    return s.emit("fmod", (a, b), a.dtype)


def _integer_division(s: ScalarBuilder, a: Scalar, b: Scalar) -> tuple[Scalar, Scalar]:
    """Quotient and remainder with Python's signs, both 0 where ``b`` is 0."""
    zero, one = s.like(a, 0), s.like(a, 1)
    none = s.compare("eq", b, zero)
    unsafe = none
    if a.dtype.kind == "i":
        least = s.like(a, -(1 << (a.dtype.bits - 1)))
        unsafe = s.bit_or(none, s.bit_and(s.compare("eq", a, least), s.compare("eq", b, s.like(b, -1))))
    divisor = s.select(unsafe, one, b)
    q = s.div(a, divisor)
    r = s.sub(a, s.mul(q, divisor))
    if a.dtype.kind == "i":
        opposite = s.compare("lt", s.bit_xor(r, divisor), zero)
        down = s.bit_and(opposite, s.compare("ne", r, zero))
        q, r = s.select(down, s.sub(q, one), q), s.select(down, s.add(r, divisor), r)
    return s.select(none, zero, q), s.select(none, zero, r)
