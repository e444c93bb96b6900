"""Scalar primitives: the vocabulary in which elementwise and random ops state their lowering.

An op's ``scalar`` rule calls the methods below on a ``ScalarBuilder``; a code generator subclasses it, prints or runs
each primitive in ``emit``, and thereby lowers every op without knowing any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import types
from .types import DType

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


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
        """A cast: float to integer saturates and NaN gives 0, integers wrap, to bool is ``a != 0``."""
        return a if a.dtype is dtype else self.emit("convert", (a,), dtype)

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


def scalar_of(
    op: Any, builder: ScalarBuilder, operands: Sequence[Scalar], attrs: Mapping[str, Any], dtype: DType
) -> Scalar:
    """What an op's ``scalar`` rule makes.  Raises ``TypeError`` where that is not of the dtype that ``infer`` says."""
    made: Scalar = op.scalar(builder, *operands, **attrs)
    if made.dtype is not dtype:
        raise TypeError(f"{op.name}: its rule scalar gives {made.dtype}, and infer says {dtype}")
    return made
