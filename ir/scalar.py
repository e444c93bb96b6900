"""Scalar primitives: the vocabulary in which elementwise and random ops state their lowering.

An op's ``scalar`` rule calls the methods below on a ``ScalarBuilder``; a code generator subclasses it, prints or runs
each primitive in ``emit``, and thereby lowers every op without knowing any of them.

The rule of an op on 16-bit floats runs on float32: ``scalar_of`` widens the operands and rounds the result once.  A builder therefore
meets a 16-bit float in ``EXACT_PRIMITIVES``, comparisons, ``is_nan`` and ``bits``, and in conversions from and to float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import types
from .types import DType

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
EXACT_PRIMITIVES = ("select", "neg", "abs", "floor", "rint")
"""Primitives whose result on 16-bit floats is a 16-bit float without rounding."""


class Scalar:
    """One element while a rule is being lowered: its dtype and what the builder made of it."""

    __slots__ = ("code", "dtype")

    def __init__(self, dtype: DType, code: Any) -> None:
        self.dtype = dtype
        self.code = code


class ScalarBuilder(ABC):
    """Receives the primitives of a ``scalar`` rule."""

    @abstractmethod
    def emit(self, primitive: str, arguments: tuple[Scalar, ...], dtype: DType) -> Scalar:
        """One primitive with a result of ``dtype``."""

    @abstractmethod
    def constant(self, value: float | bool, dtype: DType) -> Scalar:
        """A number, rounded to ``dtype``."""

    def like(self, x: Scalar, value: float | bool) -> Scalar:
        """A number of ``x``'s dtype."""
        return self.constant(value, x.dtype)

    # Fixed by IEEE 754 or integer arithmetic, whoever computes them.
    def add(self, a: Scalar, b: Scalar) -> Scalar:
        return self.emit("add", (a, b), a.dtype)

    def sub(self, a: Scalar, b: Scalar) -> Scalar:
        return self.emit("sub", (a, b), a.dtype)

    def mul(self, a: Scalar, b: Scalar) -> Scalar:
        return self.emit("mul", (a, b), a.dtype)

    def div(self, a: Scalar, b: Scalar) -> Scalar:
        return self.emit("div", (a, b), a.dtype)

    def neg(self, a: Scalar) -> Scalar:
        return self.emit("neg", (a,), a.dtype)

    def abs(self, a: Scalar) -> Scalar:
        return self.emit("abs", (a,), a.dtype)

    def fma(self, a: Scalar, b: Scalar, c: Scalar) -> Scalar:
        """``a * b + c``, rounded once."""
        return self.emit("fma", (a, b, c), a.dtype)

    def sqrt(self, a: Scalar) -> Scalar:
        return self.emit("sqrt", (a,), a.dtype)

    def floor(self, a: Scalar) -> Scalar:
        return self.emit("floor", (a,), a.dtype)

    def rint(self, a: Scalar) -> Scalar:
        """Nearest integer, halves to even."""
        return self.emit("rint", (a,), a.dtype)

    def compare(self, relation: str, a: Scalar, b: Scalar) -> Scalar:
        """``relation`` is one of ``COMPARISONS``; false when an operand is NaN, except ``ne``."""
        return self.emit(relation, (a, b), types.bool_)

    def is_nan(self, a: Scalar) -> Scalar:
        return self.emit("is_nan", (a,), types.bool_)

    def bit_and(self, a: Scalar, b: Scalar) -> Scalar:
        """Bitwise on integers, logical on bool."""
        return self.emit("and", (a, b), a.dtype)

    def bit_or(self, a: Scalar, b: Scalar) -> Scalar:
        return self.emit("or", (a, b), a.dtype)

    def bit_xor(self, a: Scalar, b: Scalar) -> Scalar:
        return self.emit("xor", (a, b), a.dtype)

    def bit_not(self, a: Scalar) -> Scalar:
        return self.emit("not", (a,), a.dtype)

    def shift_left(self, a: Scalar, b: Scalar) -> Scalar:
        """Shift by ``b`` modulo the width."""
        return self.emit("shift_left", (a, self._amount(b)), a.dtype)

    def shift_right(self, a: Scalar, b: Scalar) -> Scalar:
        """Arithmetic on signed integers; by ``b`` modulo the width."""
        return self.emit("shift_right", (a, self._amount(b)), a.dtype)

    def _amount(self, b: Scalar) -> Scalar:
        return self.emit("and", (b, self.like(b, b.dtype.bits - 1)), b.dtype)

    def select(self, condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
        return self.emit("select", (condition, a, b), a.dtype)

    def convert(self, a: Scalar, dtype: DType) -> Scalar:
        """A cast: float to integer saturates and NaN gives 0, integers wrap, to bool is ``a != 0``; floats are rounded once."""
        if a.dtype is dtype:
            return a
        if a.dtype.narrow and dtype is not types.f32:
            return self.convert(self.emit("convert", (a,), types.f32), dtype)
        if dtype.narrow and a.dtype is not types.f32:
            a = self._to_odd(a)
        return self.emit("convert", (a,), dtype)

    def _to_odd(self, a: Scalar) -> Scalar:
        """``a`` as a float32 on the way to a 16-bit float: an inexact result is made odd, so the two roundings equal one."""
        if a.dtype.bits <= 16:
            return self.convert(a, types.f32)
        if a.dtype.integer and a.dtype.bits == 64:
            a = self._sticky(a)
        wide = self.convert(a, types.f64)
        near = self.convert(wide, types.f32)
        size, found = self.abs(wide), self.abs(self.convert(near, types.f64))
        word = self.bits(near, types.u32)
        one = self.like(word, 1)
        above, below = self.compare("gt", size, found), self.compare("lt", size, found)
        moved = self.select(above, self.add(word, one), self.select(below, self.sub(word, one), word))
        even = self.compare("eq", self.bit_and(word, one), self.like(word, 0))
        return self.bits(self.select(even, moved, word), types.f32)

    def _sticky(self, a: Scalar) -> Scalar:
        """A 64-bit integer that float64 holds: of one above ``2**40``, bit 16 stands for all lower bits."""
        low = self.bit_and(a, self.like(a, 0xFFFF))
        high = self.bit_xor(a, low)
        big = self.compare("ge", a, self.like(a, 1 << 40))
        if a.dtype.kind == "i":
            big = self.bit_or(big, self.compare("lt", a, self.like(a, -(1 << 40))))
        lost = self.bit_and(big, self.compare("ne", low, self.like(a, 0)))
        return self.select(lost, self.bit_or(high, self.like(a, 1 << 16)), a)

    def bits(self, a: Scalar, dtype: DType) -> Scalar:
        """The same bits as another dtype of the same width; the operand is never NaN."""
        return self.emit("bits", (a,), dtype)

    def rare(self, condition: Scalar, common: Scalar, function: Callable[..., Scalar], *arguments: Scalar) -> Scalar:
        """``function(self, *arguments)`` where ``condition``, else ``common``; a builder may branch round the function."""
        return self.select(condition, function(self, *arguments), common)

    # Pinned: one implementation a device, in its kernel table.
    def exp(self, a: Scalar) -> Scalar:
        return self.emit("exp", (a,), a.dtype)

    def log(self, a: Scalar) -> Scalar:
        return self.emit("log", (a,), a.dtype)

    def log1p(self, a: Scalar) -> Scalar:
        return self.emit("log1p", (a,), a.dtype)

    def expm1(self, a: Scalar) -> Scalar:
        return self.emit("expm1", (a,), a.dtype)

    def tanh(self, a: Scalar) -> Scalar:
        return self.emit("tanh", (a,), a.dtype)

    def sigmoid(self, a: Scalar) -> Scalar:
        return self.emit("sigmoid", (a,), a.dtype)

    def erf(self, a: Scalar) -> Scalar:
        return self.emit("erf", (a,), a.dtype)

    def sin(self, a: Scalar) -> Scalar:
        return self.emit("sin", (a,), a.dtype)

    def cos(self, a: Scalar) -> Scalar:
        return self.emit("cos", (a,), a.dtype)

    def pow(self, a: Scalar, b: Scalar) -> Scalar:
        return self.emit("pow", (a, b), a.dtype)

    def floor_divide(self, a: Scalar, b: Scalar) -> Scalar:
        """Python's ``//``; an integer divided by 0 is 0."""
        return self.emit("floor_divide", (a, b), a.dtype)

    def remainder(self, a: Scalar, b: Scalar) -> Scalar:
        """Python's ``%``; an integer modulo 0 is 0."""
        return self.emit("remainder", (a, b), a.dtype)


def computes_in_float32(op: Any, dtypes: Sequence[DType]) -> bool:
    """Whether the ``scalar`` rule of an op runs on float32 for operands of these dtypes."""
    return any(d.narrow for d in dtypes) and op.widens


def widened(builder: ScalarBuilder, x: Scalar) -> Scalar:
    """A 16-bit float as a float32, anything else as it is."""
    return builder.convert(x, types.f32) if x.dtype.narrow else x


def scalar_of(
    op: Any, builder: ScalarBuilder, operands: Sequence[Scalar], attrs: Mapping[str, Any], dtype: DType
) -> Scalar:
    """What an op's ``scalar`` rule makes.  Raises ``TypeError`` where that is not of the dtype that ``infer`` says.

    16-bit operands are widened to float32 for the rule and its result is rounded once, unless the op says that it rounds nothing.
    """
    wide = computes_in_float32(op, [x.dtype for x in operands])
    made: Scalar = op.scalar(builder, *([widened(builder, x) for x in operands] if wide else operands), **attrs)
    if wide and dtype.narrow and made.dtype is types.f32:
        made = builder.convert(made, dtype)
    if made.dtype is not dtype:
        raise TypeError(f"{op.name}: its rule scalar gives {made.dtype}, and infer says {dtype}")
    return made
