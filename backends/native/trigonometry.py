"""Sine and cosine over scalar primitives, for f32 and f64 and every finite angle.

An angle is reduced by the nearest multiple of pi/2: by three parts of pi/2 and fused multiply-adds while the multiple is small,
by the bits of 2/pi that matter (Payne and Hanek, 1983) in a branch that is rarely taken.
"""

from __future__ import annotations

from math import inf, nan

from ...ir.scalar import Scalar, ScalarBuilder
from ...ir.types import f32, f64, i64, u64
from .exponential import FORMATS, horner, integer, nearest

# sin r = r + r**3 * p(r**2), cos r = 1 - r**2/2 + r**4 * p(r**2) for |r| <= pi/4; fitted as in exponential.py.
_SIN = {
    f32: (-0.16666655242443085, 0.008332191966474056, -0.0001951876620296389),
    f64: (
        -0.16666666666666632, 0.008333333333322486, -0.00019841269829851788, 2.75573137037914e-06, -2.505075956836599e-08,
        1.5896860801385426e-10,
    ),
}  # fmt: skip
_COS = {
    f32: (0.04166664555668831, -0.00138873141258955, 2.443316043354571e-05),
    f64: (
        0.0416666666666666, -0.0013888888888874476, 2.4801587289671066e-05, -2.7557314400107054e-07, 2.0875729041117847e-09,
        -1.135991595750719e-11,
    ),
}  # fmt: skip
# pi/2 in three parts, each the nearest number to what is left.
_HALF_PI = {
    f32: (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
    f64: (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591815e-33),
}
_LIMIT = {f32: 1e5, f64: 1e7}
"""Angles up to here are reduced by multiply-adds."""
_TWO_OVER_PI = (
    0x0, 0xA2F9836E4E441529, 0xFC2757D1F534DDC0, 0xDB6295993C439041, 0xFE5163ABDEBBC561, 0xB7246E3A424DD2E0,
    0x06492EEA09D1921C, 0xFE1DEB1CB129A73E, 0xE88235F52EBB4484, 0xE99C7026B45F7E41, 0x3991D639835339F4, 0x9C845F8BBDF9283B,
    0x1FF897FFDE05980F, 0xEF2F118B5A0A6D1F, 0x6D367ECF27CB09B7, 0x4F463F669E5FEA2D, 0x7527BAC7EBE5F17B, 0x3D0739F78A5292EA,
    0x6BFB5FB11F8D5D08, 0x56033046FC7B6BAB,
)  # fmt: skip
"""The bits of 2/pi after 64 zeros."""


def sin(s: ScalarBuilder, x: Scalar) -> Scalar:
    """The sine of an angle in radians; NaN of an infinite one."""
    y = _turned(s, *_reduced(s, x), 0)
    y = s.select(s.compare("eq", x, s.like(x, 0)), x, y)
    return s.rare(s.compare("gt", s.abs(x), s.like(x, _LIMIT[x.dtype])), y, sin_large, x)


def cos(s: ScalarBuilder, x: Scalar) -> Scalar:
    """The cosine of an angle in radians; NaN of an infinite one."""
    y = _turned(s, *_reduced(s, x), 1)
    return s.rare(s.compare("gt", s.abs(x), s.like(x, _LIMIT[x.dtype])), y, cos_large, x)


def sin_large(s: ScalarBuilder, x: Scalar) -> Scalar:
    """The sine of a large angle."""
    return s.convert(_turned(s, *_reduced_large(s, s.convert(x, f64)), 0), x.dtype)


def cos_large(s: ScalarBuilder, x: Scalar) -> Scalar:
    """The cosine of a large angle."""
    return s.convert(_turned(s, *_reduced_large(s, s.convert(x, f64)), 1), x.dtype)


def _reduced(s: ScalarBuilder, x: Scalar) -> tuple[Scalar, Scalar | None, Scalar]:
    """``r, low, n`` with ``x = n * pi/2 + r + low`` and ``|r| <= pi/4``; in f64 ``low`` is what rounding ``r`` lost."""
    n, i = nearest(s, x, 0.6366197723675814)
    first, second, third = (s.like(x, -part) for part in _HALF_PI[x.dtype])
    rest = s.fma(n, first, x)  # exact
    r = s.fma(n, second, rest)
    if x.dtype is f32:
        return s.fma(n, third, r), None, i
    return r, s.fma(n, third, s.fma(n, second, s.sub(rest, r))), i


def _turned(s: ScalarBuilder, r: Scalar, low: Scalar | None, n: Scalar, quarters: int) -> Scalar:
    """``sin(r + low + (n + quarters) * pi/2)``."""
    z, one, minus_half = s.mul(r, r), s.like(r, 1), s.like(r, -0.5)
    cube, tail = s.mul(r, z), s.mul(s.mul(z, z), horner(s, z, _COS[r.dtype]))
    top = s.fma(minus_half, z, one)
    if low is None:
        sine = s.fma(cube, horner(s, z, _SIN[r.dtype]), r)
    else:  # with what rounding 1 - r**2/2 lost, as in fdlibm's k_cos.c (Sun Microsystems, 1993)
        sine = s.add(r, s.fma(cube, horner(s, z, _SIN[r.dtype]), low))
        tail = s.add(s.fma(minus_half, z, s.sub(one, top)), s.fma(s.neg(r), low, tail))
    cosine = s.add(top, tail)
    n = s.add(n, s.like(n, quarters)) if quarters else n
    odd = s.compare("ne", s.bit_and(n, s.like(n, 1)), s.like(n, 0))
    flip = s.shift_left(s.bit_and(n, s.like(n, 2)), s.like(n, n.dtype.bits - 2))
    return s.bits(s.bit_xor(integer(s, s.select(odd, cosine, sine)), flip), r.dtype)


def _window(s: ScalarBuilder, position: Scalar) -> list[Scalar]:
    """Three words of 2/pi, highest first, from a bit position."""
    at, shift = s.shift_right(position, s.like(position, 6)), s.bit_and(position, s.like(position, 63))
    words = [s.like(position, 0)] * 4
    for j in range(len(_TWO_OVER_PI) - 3):
        hit = s.compare("eq", at, s.like(at, j))
        words = [s.select(hit, s.like(at, _TWO_OVER_PI[j + k]), words[k]) for k in range(4)]
    one, back = s.like(shift, 1), s.sub(s.like(shift, 63), shift)
    return [
        s.bit_or(s.shift_left(words[k], shift), s.shift_right(s.shift_right(words[k + 1], one), back)) for k in range(3)
    ]


def _product(s: ScalarBuilder, m: Scalar, window: list[Scalar]) -> list[Scalar]:
    """The low three words of ``m`` (53 bits) times three words, highest first."""
    low_half, half = s.like(m, (1 << 32) - 1), s.like(m, 32)
    pieces = [s.bit_and(m, low_half), s.shift_right(m, half)]
    limbs = [part for w in reversed(window) for part in (s.bit_and(w, low_half), s.shift_right(w, half))]
    columns: list[list[Scalar]] = [[] for _ in range(6)]
    for a, piece in enumerate(pieces):
        for b, limb in enumerate(limbs[: 6 - a]):
            p = s.mul(piece, limb)
            columns[a + b].append(s.bit_and(p, low_half))
            if a + b < 5:
                columns[a + b + 1].append(s.shift_right(p, half))
    digits: list[Scalar] = []
    for k, column in enumerate(columns):
        total = column[0]
        for term in column[1:]:
            total = s.add(total, term)
        if k < 5:
            columns[k + 1].append(s.shift_right(total, half))
        digits.append(s.bit_and(total, low_half))
    return [s.bit_or(digits[k], s.shift_left(digits[k + 1], half)) for k in (4, 2, 0)]


def _reduced_large(s: ScalarBuilder, x: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """As ``_reduced`` for f64 of at least 2**-10, NaN for what is not finite.

    With ``x = m * 2**e``, the product of ``m`` and the 192 bits of 2/pi from weight ``2**(1 - e)`` is ``x * 2/pi`` modulo 4, to 190
    places: two bits are the quadrant, the rest the fraction, which is at least ``2**-62`` for every f64.
    """
    form = FORMATS[f64]
    word = s.bits(s.abs(x), u64)
    exponent = s.shift_right(word, s.like(word, form.mantissa))
    m = s.bit_or(s.bit_and(word, s.like(word, (1 << 52) - 1)), s.like(word, 1 << 52))
    position = s.sub(exponent, s.like(exponent, form.bias + form.mantissa + 2 - 64))
    high, middle, low = _product(s, m, _window(s, position))
    quadrant = s.add(
        s.shift_right(high, s.like(high, 62)), s.bit_and(s.shift_right(high, s.like(high, 61)), s.like(high, 1))
    )
    two, rest = s.like(high, 2), s.like(high, 62)
    high = s.bit_or(s.shift_left(high, two), s.shift_right(middle, rest))
    middle = s.bit_or(s.shift_left(middle, two), s.shift_right(low, rest))
    below = s.compare("ne", s.shift_right(high, s.like(high, 63)), s.like(high, 0))
    high = s.select(below, s.bit_not(high), high)
    middle = s.select(below, s.bit_not(middle), middle)
    r, rest = _angle(s, high, middle)
    negative = s.compare("lt", s.bits(x, i64), s.constant(0, i64))
    back = s.bit_xor(below, negative)
    r, rest = s.select(back, s.neg(r), r), s.select(back, s.neg(rest), rest)
    quadrant = s.select(negative, s.neg(quadrant), quadrant)
    r = s.select(s.compare("lt", s.abs(x), s.like(x, inf)), r, s.like(x, nan))
    return r, rest, s.convert(quadrant, i64)


def _angle(s: ScalarBuilder, high: Scalar, middle: Scalar) -> tuple[Scalar, Scalar]:
    """pi/2 times the fraction ``(high * 2**64 + middle) / 2**128``, as a number and what rounding it lost."""

    def number(word: Scalar, power: int) -> Scalar:
        part = s.convert(s.bits(word, i64), f64)
        return s.mul(part, s.like(part, 2.0**power))

    half = s.like(high, 32)
    first = number(s.shift_right(high, half), -32)
    second = s.add(
        number(s.bit_and(high, s.like(high, (1 << 32) - 1)), -64), number(s.shift_right(middle, s.like(high, 1)), -127)
    )
    f = s.add(first, second)
    lost = s.sub(second, s.sub(f, first))
    top, low = (s.like(f, c) for c in _HALF_PI[f64][:2])
    product = s.mul(f, top)
    rest = s.fma(lost, top, s.fma(f, low, s.fma(f, top, s.neg(product))))
    r = s.add(product, rest)
    return r, s.add(s.sub(product, r), rest)
