"""Randomness as data: keys are derived, and draws depend on their key alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any

import numpy as np

from .. import philox
from ..errors import ShapeError
from ..op import Attr, Key, Random, Random32, Sample, need_kind
from ..scalar import Scalar, ScalarBuilder
from ..types import Array, DType, Shape, TensorType, bool_, f16, f32, f64, u32, u64


class FoldIn(Key):
    """A new key from a key and a number: operand 1 (a 0-d integer), or the 64 bits that ``site`` stands for."""

    name = "fold_in"
    attrs = {"site": Attr("str", None)}

    def infer(self, *types: TensorType, site: str | None = None) -> TensorType:
        if len(types) != (1 if site is not None else 2):
            raise ShapeError("fold_in takes a key and either a site or a number")
        need_kind("fold_in", types[0], "k")
        if len(types) == 2:
            need_kind("the number of fold_in", types[1], "iu")
        if any(t.rank for t in types):
            raise ShapeError(f"fold_in of {', '.join(map(str, types))}\n  rule: operands are 0-d")
        return types[0]

    def data(self, *, site: str | None = None) -> int | None:
        return None if site is None else philox.site_word(site)

    def eval(self, xp: Any, key: Array, *number: Array, site: str | None = None) -> Array:
        return philox.fold_in(key, philox.site_word(site) if site is not None else int(number[0]))

    def samples(self, random: Random) -> Iterable[Sample]:
        yield Sample((philox.key_of_seed(7),), {"site": "2:0"}, False)
        for number in (np.asarray(5), np.asarray(-1), np.asarray(3, np.uint8)):
            yield Sample((philox.key_of_seed(7), number), {}, False)


class Draw(Random32):
    """Base of the draws: ``shape`` elements from one key."""

    attrs = {"shape": Attr("ints"), "dtype": Attr("dtype")}
    accepts = "f"

    def infer(self, type: TensorType, *, shape: Shape, dtype: DType, **attrs: Any) -> TensorType:
        need_kind(self.name, type, "k")
        need_kind(self.name, TensorType(dtype, shape), self.accepts)
        if type.rank or any(n < 0 for n in shape):
            raise ShapeError(
                f"{self.name} of {type} with shape {list(shape)}\n  rule: one key, and sizes are not negative"
            )
        return TensorType(dtype, shape)

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f32, f64):
            for shape in ((5,), (), (0, 2), (3, 7)):
                yield Sample((philox.key_of_seed(3),), {"shape": shape, "dtype": d}, False)


def _words(key: Array, shape: Shape) -> Array:
    return philox.words(key, math.prod(shape)).reshape(shape)


class RandomBits(Draw):
    """Philox4x32-10 words, u32."""

    name = "random_bits"
    attrs = {"shape": Attr("ints"), "dtype": Attr("dtype", u32)}
    accepts = "u"

    def infer(self, type: TensorType, *, shape: Shape, dtype: DType, **attrs: Any) -> TensorType:
        if dtype is not u32:
            raise ShapeError(f"random_bits of {dtype}\n  rule: the dtype is u32")
        return super().infer(type, shape=shape, dtype=dtype)

    def eval(self, xp: Any, key: Array, *, shape: Shape, dtype: DType) -> Array:
        return _words(key, shape)

    def scalar(self, s: ScalarBuilder, word: Scalar, *, shape: Shape, dtype: DType) -> Scalar:
        return word

    def samples(self, random: Random) -> Iterable[Sample]:
        for shape in ((5,), (), (0, 2), (3, 7)):
            yield Sample((philox.key_of_seed(3),), {"shape": shape, "dtype": u32}, False)


class Uniform(Draw):
    """Uniform on ``[0, 1)``: ``(word >> 8) * 2**-24``, truncated in 16-bit floats."""

    name = "uniform"

    def eval(self, xp: Any, key: Array, *, shape: Shape, dtype: DType) -> Array:
        exact = xp.asarray((_words(key, shape) >> 8) * 2.0**-24)
        if dtype.narrow:
            exact = (exact.astype(xp.float32).view(xp.uint32) & xp.uint32(_kept(dtype))).view(xp.float32)
        return exact.astype(dtype.numpy)

    def scalar(self, s: ScalarBuilder, word: Scalar, *, shape: Shape, dtype: DType) -> Scalar:
        wide = f32 if dtype.narrow else dtype
        high = s.convert(s.shift_right(word, s.like(word, 8)), wide)
        exact = s.mul(high, s.constant(2.0**-24, wide))
        if dtype.narrow:
            exact = s.bits(s.bit_and(s.bits(exact, u32), s.constant(_kept(dtype), u32)), f32)
        return s.convert(exact, dtype)


def _kept(dtype: DType) -> int:
    """The bits of a float32 that a multiple of ``2**-24`` keeps when a 16-bit float truncates it."""
    return 0xFFFFE000 if dtype is f16 else 0xFFFF0000


class Mask(Draw):
    """True with probability ``p``: ``word < round(p * 2**32)``."""

    name = "mask"
    attrs = {"p": Attr("float"), "shape": Attr("ints"), "dtype": Attr("dtype", bool_)}
    accepts = "b"

    def infer(self, type: TensorType, *, shape: Shape, dtype: DType, **attrs: Any) -> TensorType:
        p: float = attrs["p"]
        if not 0 <= p <= 1:
            raise ShapeError(f"mask with p = {p}\n  rule: 0 <= p <= 1")
        return super().infer(type, shape=shape, dtype=dtype)

    def eval(self, xp: Any, key: Array, *, p: float, shape: Shape, dtype: DType) -> Array:
        return _words(key, shape).astype(np.uint64) < round(p * 2**32)

    def scalar(self, s: ScalarBuilder, word: Scalar, *, p: float, shape: Shape, dtype: DType) -> Scalar:
        threshold = round(p * 2**32)
        if threshold == 0:
            return s.compare("lt", word, s.like(word, 0))
        return s.compare("le", word, s.like(word, threshold - 1))

    def samples(self, random: Random) -> Iterable[Sample]:
        for p in (0.0, 0.1, 0.5, 1.0):
            yield Sample((philox.key_of_seed(3),), {"p": p, "shape": (3, 5), "dtype": bool_}, False)


# Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37 (1988), PPND16.
_CENTRE = (
    (
        2509.0809287301226727,
        33430.575583588128105,
        67265.770927008700853,
        45921.953931549871457,
        13731.693765509461125,
        1971.5909503065514427,
        133.14166789178437745,
        3.387132872796366608,
    ),
    (
        5226.495278852854561,
        28729.085735721942674,
        39307.89580009271061,
        21213.794301586595867,
        5394.1960214247511077,
        687.1870074920579083,
        42.313330701600911252,
        1.0,
    ),
)
_TAIL = (
    (
        7.7454501427834140764e-4,
        0.0227238449892691845833,
        0.24178072517745061177,
        1.27045825245236838258,
        3.64784832476320460504,
        5.7694972214606914055,
        4.6303378461565452959,
        1.42343711074968357734,
    ),
    (
        1.05075007164441684324e-9,
        5.475938084995344946e-4,
        0.0151986665636164571966,
        0.14810397642748007459,
        0.68976733498510000455,
        1.6763848301838038494,
        2.05319162663775882187,
        1.0,
    ),
)


def _polynomial(s: ScalarBuilder, x: Scalar, coefficients: tuple[float, ...]) -> Scalar:
    """Horner's scheme without fused operations, highest power first."""
    total = s.like(x, coefficients[0])
    for c in coefficients[1:]:
        total = s.add(s.mul(total, x), s.like(x, c))
    return total


def _log(s: ScalarBuilder, x: Scalar) -> Scalar:
    """ln of a normal positive float64 with correctly rounded operations only, so that every device gives the same bits."""
    bits = s.bits(x, u64)
    exponent = s.sub(s.convert(s.shift_right(bits, s.like(bits, 52)), f64), s.constant(1023.0, f64))
    fraction = s.bit_or(s.bit_and(bits, s.like(bits, (1 << 52) - 1)), s.like(bits, 1023 << 52))
    m = s.bits(fraction, f64)
    high = s.compare("gt", m, s.like(m, math.sqrt(2)))
    m = s.select(high, s.mul(m, s.like(m, 0.5)), m)
    exponent = s.select(high, s.add(exponent, s.like(exponent, 1.0)), exponent)
    f = s.sub(m, s.like(m, 1.0))
    q = s.div(f, s.add(f, s.like(f, 2.0)))
    series = _polynomial(s, s.mul(q, q), tuple(2.0 / (2 * k + 1) for k in range(11, -1, -1)))
    low = s.add(s.mul(q, series), s.mul(exponent, s.like(exponent, 1.90821492927058770002e-10)))
    return s.add(s.mul(exponent, s.like(exponent, 6.93147180369123816490e-01)), low)


class Normal(Draw):
    """Standard normal: the inverse distribution function (AS 241) of ``(word + 0.5) * 2**-32``, in float64, then rounded."""

    name = "normal"

    def eval(self, xp: Any, key: Array, *, shape: Shape, dtype: DType) -> Array:
        u = (_words(key, shape) + 0.5) * 2.0**-32
        return xp.array([NormalDist().inv_cdf(p) for p in u.reshape(-1)]).reshape(shape).astype(dtype.numpy)

    def scalar(self, s: ScalarBuilder, word: Scalar, *, shape: Shape, dtype: DType) -> Scalar:
        half = s.constant(0.5, f64)
        p = s.mul(s.add(s.convert(word, f64), half), s.constant(2.0**-32, f64))
        q = s.sub(p, half)
        centre_r = s.sub(s.constant(0.180625, f64), s.mul(q, q))
        centre = s.div(s.mul(q, _polynomial(s, centre_r, _CENTRE[0])), _polynomial(s, centre_r, _CENTRE[1]))
        below = s.compare("lt", q, s.like(q, 0.0))
        nearest = s.select(below, p, s.sub(s.constant(1.0, f64), p))
        tail_r = s.sub(s.sqrt(s.neg(_log(s, nearest))), s.constant(1.6, f64))
        tail = s.div(_polynomial(s, tail_r, _TAIL[0]), _polynomial(s, tail_r, _TAIL[1]))
        tail = s.select(below, s.neg(tail), tail)
        inside = s.compare("le", s.abs(q), s.constant(0.425, f64))
        return s.convert(s.select(inside, centre, tail), dtype)
