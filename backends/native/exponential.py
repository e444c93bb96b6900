"""Exponentials, logarithms and the functions made of them, over scalar primitives, for f32 and f64.

Each function is one sequence of primitives whatever the argument: ranges are joined by ``select``, NaN passes through comparisons
and arithmetic, and odd functions take their sign, of zero too, from the argument at the end.  Coefficients without another source
are weighted minimax fits of our own: least squares at Chebyshev nodes in 45 digits, reweighted (Lawson) until the errors level,
then rounded to the dtype lowest power first, the others fitted again after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan

from ...ir.scalar import Scalar, ScalarBuilder
from ...ir.types import DType, f32, f64, i32, i64, u32, u64


@dataclass(frozen=True)
class Format:
    """The integers and numbers of a binary floating format."""

    integer: DType
    unsigned: DType
    mantissa: int
    bias: int
    magic: float
    """``1.5 * 2**mantissa``: a small number added to it is rounded to an integer in its low bits."""
    magic_bits: int
    one_bits: int
    half_root_bits: int
    """The bits of ``sqrt(1/2)``."""
    smallest: float
    """The smallest normal number."""
    ln2: tuple[float, float]
    """``ln 2`` as the nearest number and the rest."""

    @property
    def sign(self) -> int:
        """The bits of ``-0.0``."""
        return 1 << (self.integer.bits - 1)


FORMATS = {
    f32: Format(
        i32, u32, 23, 127, 1.5 * 2.0**23, 0x4B400000, 0x3F800000, 0x3F3504F3, 2.0**-126,
        (0.6931471824645996, -1.9046542121259336e-09),
    ),
    f64: Format(
        i64, u64, 52, 1023, 1.5 * 2.0**52, 0x4338000000000000, 0x3FF0000000000000, 0x3FE6A09E667F3BCD, 2.0**-1022,
        (0.6931471805599453, 2.3190468138462996e-17),
    ),
}  # fmt: skip

LOG2_E = 1.4426950408889634
SHORT_LN2 = (0.6931471805598903, 5.497923018708371e-14)
"""``ln 2`` in f64, the first part short enough that an exponent times it is exact."""

# e**r = 1 + r + r**2 * q(r) for |r| <= ln(2)/2.  Errors of e**r: 2**-28.2 and 2**-58.0 of it.
_EXP = {
    f32: (0.5, 0.166665181517601, 0.04166644066572189, 0.008368956856429577, 0.0013937187613919377),
    f64: (
        0.5000000000000013, 0.16666666666666685, 0.04166666666651136, 0.008333333333315356, 0.0013888888947952787,
        0.0001984126990089504, 2.480148906365374e-05, 2.755723024420721e-06, 2.76315696319965e-07, 2.5113641922045702e-08,
    ),
}  # fmt: skip
# The same, its error relative to r: 2**-31.0 and 2**-61.7.
_EXPM1 = {
    f32: (0.5, 0.1666666716337204, 0.04166647791862488, 0.00833318941295147, 0.001393370097503066, 0.0001996104110730812),
    f64: (
        0.5, 0.16666666666666677, 0.041666666666666685, 0.008333333333321442, 0.0013888888888872975, 0.00019841269886570177,
        2.4801587350352957e-05, 2.7557243785386505e-06, 2.7557250474003003e-07, 2.510917904111329e-08, 2.092227126626858e-09,
    ),
}  # fmt: skip
# f32: ln(1 + f) = f - f**2/2 + f**3 * p(f), 2**-27.3.  f64: ln((1 + s)/(1 - s)) = 2s + s * z * p(z), z = s**2, 2**-58.5.
_LOG = {
    f32: (
        0.3333333134651184, -0.250008225440979, 0.2000124752521515, -0.16623328626155853, 0.14201398193836212,
        -0.13160072267055511, 0.1276351511478424, -0.07636966556310654,
    ),
    f64: (
        0.6666666666666735, 0.39999999999410785, 0.28571428743171595, 0.22222198496434292, 0.18183568243386225,
        0.1531395046349141, 0.1479695985678565,
    ),
}  # fmt: skip
# tanh x = x + x * y * p(y), y = x**2, for |x| <= 0.625: 2**-27.8 and 2**-56.5.
_TANH = {
    f32: (-0.3333328366279602, 0.13331486284732819, -0.05374320223927498, 0.020649908110499382, -0.005716522689908743),
    f64: (
        -0.33333333333332876, 0.13333333333264732, -0.05396825393241394, 0.021869487600657895, -0.008863221304567456,
        0.003591991466870737, -0.0014549700017228633, 0.0005863510842079193, -0.00022863066317516166, 7.721648513444444e-05,
        -1.6106325922106714e-05,
    ),
}  # fmt: skip
# erf x = x + x * p(x**2) for |x| <= 1: 2**-29.5 and 2**-55.9.
_ERF = {
    f32: (
        0.12837916612625122, -0.3761262893676758, 0.11283618956804276, -0.02685517445206642, 0.005190844647586346,
        -0.0008031836478039622, 7.924136298242956e-05,
    ),
    f64: (
        0.12837916709551256, -0.37612638903183476, 0.11283791670943444, -0.026866170643060273, 0.0052239776059880986,
        -0.0008548325931337969, 0.0001205529379574311, -1.4924718540821047e-05, 1.6447225827595758e-06, -1.62071282704074e-07,
        1.371478658916366e-08, -7.786946546807905e-10,
    ),
}  # fmt: skip
# f32: 1 - erf x = p(x - 2.5) for 1 <= x <= 4, 2**-26.7.  f64: ln(1 - erf x) = p(x - 2) for 1 <= x <= 5.95, 2**-57.0 of erf.
_ERFC = {
    f32: (
        0.0004069526621606201, -0.002178188879042864, 0.005445676390081644, -0.008351716212928295, 0.008622686378657818,
        -0.006109301000833511, 0.0027973472606390715, -0.0005600668955594301, -0.00025847871438600123, 0.00027039999258704484,
        -8.12578437034972e-05, -1.7682368707028218e-05, 1.5768366210977547e-05, -5.092480819257617e-07, -8.961795856521348e-07,
    ),
    f64: (
        -5.364941264616636, -4.418160805994413, -0.9237508418239448, -0.01646511813740221, 0.0035707563478225156,
        -0.0007323993778841854, 0.000135309330850377, -2.0706470828222968e-05, 1.952186560681411e-06, 2.0372744970597297e-07,
        -1.7317116493482915e-07, 5.769606830378534e-08, -1.3990428959954781e-08, 2.609643299376092e-09, -2.567011750772655e-10,
        -7.157984768368474e-11, 3.659188656655982e-11, -4.8562725384952426e-12,
    ),
}  # fmt: skip


def horner(s: ScalarBuilder, x: Scalar, coefficients: Sequence[float]) -> Scalar:
    """The polynomial with ``coefficients``, lowest power first."""
    y = s.like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        y = s.fma(y, x, s.like(x, c))
    return y


def clamp_above(s: ScalarBuilder, x: Scalar, limit: float) -> Scalar:
    """``x``, at most ``limit``; NaN stays."""
    return s.select(s.compare("gt", x, s.like(x, limit)), s.like(x, limit), x)


def clamp_below(s: ScalarBuilder, x: Scalar, limit: float) -> Scalar:
    """``x``, at least ``limit``; NaN stays."""
    return s.select(s.compare("lt", x, s.like(x, limit)), s.like(x, limit), x)


def integer(s: ScalarBuilder, x: Scalar) -> Scalar:
    """The bits of a float as a signed integer."""
    return s.bits(x, FORMATS[x.dtype].integer)


def with_sign(s: ScalarBuilder, size: Scalar, sign: Scalar) -> Scalar:
    """``size``, which is not negative, with the sign of ``sign``."""
    i = integer(s, sign)
    return s.bits(s.bit_or(integer(s, size), s.bit_and(i, s.like(i, FORMATS[sign.dtype].sign))), size.dtype)


def power_of_two(s: ScalarBuilder, i: Scalar, dtype: DType) -> Scalar:
    """``2**i`` for a normal exponent."""
    form = FORMATS[dtype]
    return s.bits(s.shift_left(s.add(i, s.like(i, form.bias)), s.like(i, form.mantissa)), dtype)


def nearest(s: ScalarBuilder, x: Scalar, factor: float) -> tuple[Scalar, Scalar]:
    """``rint(x * factor)`` as a float and as an integer, for results up to ``2**(mantissa - 2)``."""
    form = FORMATS[x.dtype]
    magic = s.like(x, form.magic)
    t = s.fma(x, s.like(x, factor), magic)
    i = integer(s, t)
    return s.sub(t, magic), s.sub(i, s.like(i, form.magic_bits))


def reduce_exponent(s: ScalarBuilder, x: Scalar) -> tuple[Scalar, Scalar]:
    """``r, i`` with ``e**x = 2**i * e**r`` and ``|r| <= ln(2)/2``."""
    high, low = FORMATS[x.dtype].ln2
    n, i = nearest(s, x, LOG2_E)
    return s.fma(n, s.like(x, -low), s.fma(n, s.like(x, -high), x)), i


def scale(s: ScalarBuilder, x: Scalar, i: Scalar) -> Scalar:
    """``x * 2**i`` for ``i`` over twice the range of exponents, rounded once: by two powers, the first product exact."""
    form = FORMATS[x.dtype]
    above = s.bits(
        s.add(i, s.like(i, 2 * form.bias + 2)), form.unsigned
    )  # shifted without a sign, which AVX2 does in one
    half = s.sub(s.bits(s.shift_right(above, s.like(above, 1)), i.dtype), s.like(i, form.bias + 1))
    return s.mul(s.mul(x, power_of_two(s, half, x.dtype)), power_of_two(s, s.sub(i, half), x.dtype))


def near_one(s: ScalarBuilder, r: Scalar) -> Scalar:
    """``e**r`` for ``|r| <= ln(2)/2``."""
    return s.add(s.like(r, 1), s.fma(s.mul(r, r), horner(s, r, _EXP[r.dtype]), r))


def exp(s: ScalarBuilder, x: Scalar) -> Scalar:
    """``e**x``."""
    low, high = (-104.0, 89.0) if x.dtype is f32 else (-746.0, 710.0)
    r, i = reduce_exponent(s, clamp_above(s, clamp_below(s, x, low), high))
    return scale(s, near_one(s, r), i)


def expm1(s: ScalarBuilder, x: Scalar) -> Scalar:
    """``e**x - 1``: with ``e**x = 2**i * (1 + q)`` it is ``2**i * q + (2**i - 1)``, taken by halves against overflow."""
    low, high = (-18.0, 89.0) if x.dtype is f32 else (-38.0, 710.0)
    r, i = reduce_exponent(s, clamp_above(s, clamp_below(s, x, low), high))
    q = s.fma(s.mul(r, r), horner(s, r, _EXPM1[x.dtype]), r)
    half = power_of_two(s, s.sub(i, s.like(i, 1)), x.dtype)
    y = s.fma(half, q, s.sub(half, s.like(x, 0.5)))
    return s.select(s.compare("lt", s.abs(x), s.like(x, 2.0**-60)), x, s.add(y, y))


def sigmoid(s: ScalarBuilder, x: Scalar) -> Scalar:
    """``1 / (1 + e**-x)``: 1 or ``e`` over ``1 + e`` with ``e = e**-|x|``, so nothing overflows."""
    r, i = reduce_exponent(s, clamp_below(s, s.neg(s.abs(x)), -104.0 if x.dtype is f32 else -746.0))
    e, one = scale(s, near_one(s, r), i), s.like(x, 1)
    return s.div(s.select(s.compare("ge", x, s.like(x, 0)), one, e), s.add(one, e))


def tanh(s: ScalarBuilder, x: Scalar) -> Scalar:
    """An odd polynomial below 0.625, ``1 - 2 / (e**2x + 1)`` above; 1 from 9.02 (19.1 in f64)."""
    size, one = s.abs(x), s.like(x, 1)
    y = s.mul(size, size)
    small = s.fma(s.mul(y, size), horner(s, y, _TANH[x.dtype]), size)
    high = clamp_above(s, size, 9.02 if x.dtype is f32 else 19.1)
    r, i = reduce_exponent(s, s.add(high, high))
    e = s.mul(near_one(s, r), power_of_two(s, i, x.dtype))
    large = s.sub(one, s.div(s.like(x, 2), s.add(e, one)))
    return with_sign(s, s.select(s.compare("lt", size, s.like(x, 0.625)), small, large), x)


def erf(s: ScalarBuilder, x: Scalar) -> Scalar:
    """An odd polynomial below 1, the complement as a polynomial (f32) or the exponential of one (f64) above; 1 from 4 (5.95)."""
    size, one = s.abs(x), s.like(x, 1)
    small = s.fma(size, horner(s, s.mul(size, size), _ERF[x.dtype]), size)
    limit, middle = (4.0, 2.5) if x.dtype is f32 else (5.95, 2.0)
    complement = horner(s, s.sub(clamp_above(s, size, limit), s.like(x, middle)), _ERFC[x.dtype])
    if x.dtype is f64:
        r, i = reduce_exponent(s, clamp_above(s, complement, 0.0))
        complement = s.mul(near_one(s, r), power_of_two(s, i, x.dtype))
    large = s.sub(one, complement)
    return with_sign(s, s.select(s.compare("lt", size, one), small, large), x)


def split(s: ScalarBuilder, x: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """``m, n, e`` with ``x = 2**n * m``, ``sqrt(1/2) <= m < sqrt(2)`` and ``e = n + bias`` an integer; ``x`` is normal and positive."""
    form = FORMATS[x.dtype]
    word = s.bits(x, form.unsigned)
    t = s.add(word, s.like(word, form.one_bits - form.half_root_bits))
    e = s.shift_right(t, s.like(t, form.mantissa))
    m = s.add(s.bit_and(t, s.like(t, (1 << form.mantissa) - 1)), s.like(t, form.half_root_bits))
    n = s.sub(s.bits(s.bit_or(e, s.like(e, form.magic_bits)), x.dtype), s.like(x, form.magic + form.bias))
    return s.bits(m, x.dtype), n, e


def _log_of(s: ScalarBuilder, n: Scalar, f: Scalar) -> Scalar:
    """``n * ln 2 + ln(1 + f)`` for ``sqrt(1/2) <= 1 + f < sqrt(2)``."""
    z, half = s.mul(f, f), s.like(f, 0.5)
    if f.dtype is f32:
        high, low = FORMATS[f.dtype].ln2
        rest = s.fma(n, s.like(f, low), s.mul(s.mul(f, z), horner(s, f, _LOG[f.dtype])))
        return s.fma(n, s.like(f, high), s.add(f, s.fma(s.neg(half), z, rest)))
    # fdlibm's e_log.c (Sun Microsystems, 1993): s = f / (2 + f), and f**2 / 2 apart.
    high, low = SHORT_LN2
    t = s.div(f, s.add(s.like(f, 2), f))
    w, square = s.mul(t, t), s.mul(half, z)
    rest = s.fma(n, s.like(f, low), s.mul(t, s.fma(w, horner(s, w, _LOG[f.dtype]), square)))
    return s.fma(n, s.like(f, high), s.sub(f, s.sub(square, rest)))


def log(s: ScalarBuilder, x: Scalar) -> Scalar:
    """``ln x``."""
    form = FORMATS[x.dtype]
    tiny = s.compare("lt", x, s.like(x, form.smallest))
    bits = form.mantissa + 2
    m, n, _ = split(s, s.select(tiny, s.mul(x, s.like(x, 2.0**bits)), x))
    n = s.sub(n, s.select(tiny, s.like(x, bits), s.like(x, 0)))
    y = _log_of(s, n, s.sub(m, s.like(m, 1)))
    y = s.select(s.compare("lt", x, s.like(x, inf)), y, x)
    pole = s.select(s.compare("eq", x, s.like(x, 0)), s.like(x, -inf), s.like(x, nan))
    return s.select(s.compare("gt", x, s.like(x, 0)), y, pole)


def log1p(s: ScalarBuilder, x: Scalar) -> Scalar:
    """``ln(1 + x)``: what rounding ``u = 1 + x`` lost is added to its fraction."""
    form, one, zero = FORMATS[x.dtype], s.like(x, 1), s.like(x, 0)
    u = s.add(one, x)
    back = s.sub(u, one)
    lost = s.add(s.sub(one, s.sub(u, back)), s.sub(x, back))
    m, n, e = split(s, u)
    down = s.bits(s.shift_left(s.sub(s.like(e, 2 * form.bias), e), s.like(e, form.mantissa)), x.dtype)  # 2**-n
    down = s.select(s.compare("lt", x, s.like(x, 2.0**60)), down, zero)
    y = _log_of(s, n, s.fma(lost, down, s.sub(m, one)))
    y = s.select(s.compare("lt", s.abs(x), s.like(x, 2.0**-60)), x, y)
    y = s.select(s.compare("lt", x, s.like(x, inf)), y, x)
    pole = s.select(s.compare("eq", u, zero), s.like(x, -inf), s.like(x, nan))
    return s.select(s.compare("gt", u, zero), y, pole)
