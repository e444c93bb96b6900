"""16-bit floats in native code: words of 16 bits in memory, float32 in registers.

A register that holds a 16-bit float holds one of its values exactly.  ``loaded`` and ``word`` move between the two, and ``rounded``
rounds a float32 to the nearest, ties to even.  bfloat16 and, where the processor has no conversion of its own, float16 are rounded by
integer arithmetic, which gives the same bits.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ...ir.scalar import Scalar
from ...ir.types import DType, bf16, f32, u16, u32

if TYPE_CHECKING:
    from .vector import VectorBuilder


@cache
def converts() -> bool:
    """Whether the processor converts between float16 and float32."""
    from . import engine  # llvmlite, which writing text does not take

    return engine.has_feature("f16c") or engine.has_feature("neon")


def loaded(b: VectorBuilder, name: str, dtype: DType) -> Scalar:
    """The register of words in memory, an operand of 16-bit integers."""
    if dtype is not bf16 and converts():
        half = b.op(f"bitcast {b.type_of(u16)} {name} to {_half(b)}", dtype)
        return b.op(f"fpext {_half(b)} {half.code} to {b.type_of(f32)}", dtype)
    word = b.convert(Scalar(u16, name), u32)
    if dtype is bf16:
        return _as(dtype, b.bits(b.shift_left(word, b.like(word, 16)), f32))
    sign = b.shift_left(b.bit_and(word, b.like(word, 0x8000)), b.like(word, 16))
    rest = b.bit_and(word, b.like(word, 0x7FFF))
    shifted = b.shift_left(rest, b.like(word, 13))
    normal = b.add(shifted, b.like(word, 0x38000000))
    small = b.bits(b.mul(b.convert(rest, f32), b.constant(2.0**-24, f32)), u32)
    size = b.select(b.compare("lt", rest, b.like(word, 0x400)), small, normal)
    size = b.select(b.compare("ge", rest, b.like(word, 0x7C00)), b.bit_or(shifted, b.like(word, 0x7F800000)), size)
    return _as(dtype, b.bits(b.bit_or(size, sign), f32))


def word(b: VectorBuilder, x: Scalar) -> Scalar:
    """The words of a register for memory."""
    if x.dtype is not bf16 and converts():
        half = b.op(f"fptrunc {b.type_of(f32)} {x.code} to {_half(b)}", u16)
        return b.op(f"bitcast {_half(b)} {half.code} to {b.type_of(u16)}", u16)
    bits = b.bits(_as(f32, x), u32)
    if x.dtype is bf16:
        return b.convert(b.shift_right(bits, b.like(bits, 16)), u16)
    sign = b.bit_and(b.shift_right(bits, b.like(bits, 16)), b.like(bits, 0x8000))
    rest = b.bit_and(bits, b.like(bits, 0x7FFFFFFF))
    normal = b.shift_right(b.sub(rest, b.like(bits, 0x38000000)), b.like(bits, 13))
    half = b.constant(0.5, f32)
    small = b.sub(b.bits(b.add(b.bits(rest, f32), half), u32), b.bits(half, u32))
    size = b.select(b.compare("lt", rest, b.like(bits, 0x38800000)), small, normal)
    size = b.select(b.compare("eq", rest, b.like(bits, 0x7F800000)), b.like(bits, 0x7C00), size)
    size = b.select(b.compare("gt", rest, b.like(bits, 0x7F800000)), b.like(bits, 0x7E00), size)
    return b.convert(b.bit_or(size, sign), u16)


def rounded(b: VectorBuilder, x: Scalar, dtype: DType) -> Scalar:
    """A float32 rounded to a 16-bit float, still in a register of float32."""
    if dtype is not bf16 and converts():
        half = b.op(f"fptrunc {b.type_of(f32)} {x.code} to {_half(b)}", dtype)
        return b.op(f"fpext {_half(b)} {half.code} to {b.type_of(f32)}", dtype)
    bits, drop = b.bits(x, u32), 16 if dtype is bf16 else 13
    odd = b.bit_and(b.shift_right(bits, b.like(bits, drop)), b.like(bits, 1))
    near = b.add(b.add(bits, b.like(bits, (1 << (drop - 1)) - 1)), odd)
    near = b.bit_and(near, b.like(bits, -(1 << drop)))
    if dtype is not bf16:
        near = _float16(b, bits, near)
    return _as(dtype, b.bits(b.select(b.is_nan(x), b.like(bits, 0x7FC00000), near), f32))


def _float16(b: VectorBuilder, bits: Scalar, near: Scalar) -> Scalar:
    """The bits of float32 rounded to 11 digits with float16's range: what is too large is infinite, what is small a multiple of 2**-24."""
    sign, rest = b.bit_and(bits, b.like(bits, 0x80000000)), b.bit_and(bits, b.like(bits, 0x7FFFFFFF))
    half = b.constant(0.5, f32)  # float32's neighbours lie 2**-24 apart from here on
    small = b.bits(b.sub(b.add(b.bits(rest, f32), half), half), u32)
    near = b.select(b.compare("lt", rest, b.like(bits, 0x38800000)), b.bit_or(small, sign), near)
    large = b.compare("ge", rest, b.like(bits, 0x477FF000))
    return b.select(large, b.bit_or(b.like(bits, 0x7F800000), sign), near)


def _half(b: VectorBuilder) -> str:
    return "half" if b.width == 1 else f"<{b.width} x half>"


def _as(dtype: DType, x: Scalar) -> Scalar:
    """The same register under another dtype."""
    return Scalar(dtype, x.code)
