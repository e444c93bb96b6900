"""Elementwise ops: arithmetic, comparison, selection, elementary functions, casts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import DivisionByZeroError, ShapeError
from ..graph import Value
from ..literal import saturating_cast
from ..op import Absent, Attr, Check, Elementwise, Random, Sample, need_kind
from ..scalar import Scalar, ScalarBuilder
from ..types import DTYPES, Array, DType, TensorType, bool_, f32, f64, i32, i64, u8

Rules = tuple[Callable[[], Value] | None, ...]


class Add(Elementwise):
    """``y = a + b``; integers wrap.  Backward: ``da = db = dy``."""

    name = "add"
    arity = 2
    accepts = "fiu"
    rounding = "correct"

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.add(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.add(a, b)

    def vjp(self, build: Any, dy: Value, y: Value, a: Value, b: Value) -> Rules:
        return (lambda: dy, lambda: dy)


class Sub(Elementwise):
    """``y = a - b``; integers wrap.  Backward: ``da = dy``, ``db = -dy``."""

    name = "sub"
    arity = 2
    accepts = "fiu"
    rounding = "correct"

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.subtract(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.sub(a, b)

    def vjp(self, build: Any, dy: Value, y: Value, a: Value, b: Value) -> Rules:
        return (lambda: dy, lambda: build.neg(dy))


class Mul(Elementwise):
    """``y = a * b``; integers wrap.  Backward: ``da = dy * b``, ``db = dy * a``."""

    name = "mul"
    arity = 2
    accepts = "fiu"
    rounding = "correct"

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.multiply(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.mul(a, b)

    def vjp(self, build: Any, dy: Value, y: Value, a: Value, b: Value) -> Rules:
        return (lambda: build.mul(dy, b), lambda: build.mul(dy, a))


class Div(Elementwise):
    """``y = a / b``.  Backward: ``da = dy / b``, ``db = -(dy * y) / b``."""

    name = "div"
    arity = 2
    rounding = "correct"

    def example(self, random: Random, dtype: DType, shape: tuple[int, ...], position: int) -> Array:
        return random.uniform(0.5, 2, shape).astype(dtype.numpy)

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.divide(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.div(a, b)

    def vjp(self, build: Any, dy: Value, y: Value, a: Value, b: Value) -> Rules:
        return (lambda: build.div(dy, b), lambda: build.neg(build.div(build.mul(dy, y), b)))


def _nonzero(s: ScalarBuilder, b: Scalar, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> Scalar:
    return s.compare("ne", b, s.like(b, 0))


def _zero_message(bad: Any, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> str:
    return f"integer division by {bad}\n  rule: the divisor is not 0"


NONZERO = Check(1, _nonzero, DivisionByZeroError, _zero_message, lambda types: types[0].dtype.integer)


class FloorDivide(Elementwise):
    """``y = floor(a / b)``, Python's ``//``; an integer divisor of 0 raises.  Backward: zero."""

    name = "floor_divide"
    arity = 2
    accepts = "fiu"
    rounding = "pinned"
    check = NONZERO

    def example(self, random: Random, dtype: DType, shape: tuple[int, ...], position: int) -> Array:
        return random.uniform(1, 9, shape).astype(dtype.numpy)

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.floor_divide(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.floor_divide(a, b)

    def vjp(self, build: Any, dy: Value, y: Value, a: Value, b: Value) -> Rules:
        return (None, None)


class Remainder(Elementwise):
    """``y = a - floor(a / b) * b``, Python's ``%``; an integer divisor of 0 raises.  Backward: ``da = dy``, ``db = -dy * (a // b)``."""

    name = "remainder"
    arity = 2
    accepts = "fiu"
    rounding = "pinned"
    check = NONZERO

    def example(self, random: Random, dtype: DType, shape: tuple[int, ...], position: int) -> Array:
        return random.uniform(1, 9, shape).astype(dtype.numpy)

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.remainder(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.remainder(a, b)

    def vjp(self, build: Any, dy: Value, y: Value, a: Value, b: Value) -> Rules:
        return (lambda: dy, lambda: build.neg(build.mul(dy, build.floor_divide(a, b))))


class Neg(Elementwise):
    """``y = -x``.  Backward: ``dx = -dy``."""

    name = "neg"
    arity = 1
    accepts = "fiu"
    rounding = "correct"
    widens = False

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.negative(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.neg(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.neg(dy),)


class Abs(Elementwise):
    """``y = |x|``.  Backward: ``dx = dy * sign(x)``."""

    name = "abs"
    arity = 1
    accepts = "fiu"
    rounding = "correct"
    widens = False

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.absolute(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.abs(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.mul(dy, build.sign(x)),)


class Sign(Elementwise):
    """``y = 1`` where ``x > 0``, ``-1`` where ``x < 0``, else ``x`` (so 0 and NaN stay).  Backward: zero."""

    name = "sign"
    arity = 1
    accepts = "fiu"
    rounding = "correct"
    widens = False

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.where(x > 0, xp.ones_like(x), xp.where(x < 0, -xp.ones_like(x), x))

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        if x.dtype.kind == "u":
            return s.select(s.compare("gt", x, s.like(x, 0)), s.like(x, 1), x)
        below = s.select(s.compare("lt", x, s.like(x, 0)), s.like(x, -1), x)
        return s.select(s.compare("gt", x, s.like(x, 0)), s.like(x, 1), below)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (None,)


class Floor(Elementwise):
    """``y`` is the largest integer not above ``x``.  Backward: zero."""

    name = "floor"
    arity = 1
    rounding = "correct"
    widens = False

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.floor(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.floor(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (None,)


class Round(Elementwise):
    """``y`` is the integer nearest to ``x``, halves to even.  Backward: zero."""

    name = "round"
    arity = 1
    rounding = "correct"
    widens = False

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.rint(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.rint(x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (None,)


class Maximum(Elementwise):
    """``y = a`` where ``a >= b`` or ``a`` is NaN, else ``b``.

    Backward: ``dy`` to the larger operand, half of it to each of two equal ones, all of it to both where one is NaN.
    """

    name = "maximum"
    arity = 2
    accepts = "fiu"
    rounding = "correct"
    widens = False
    relation, loses = "ge", "lt"

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.where((a >= b) | (a != a), a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        chosen = s.compare(self.relation, a, b)
        if a.dtype.floating:
            chosen = s.bit_or(chosen, s.is_nan(a))
        return s.select(chosen, a, b)

    def vjp(self, build: Any, dy: Value, y: Value, a: Value, b: Value) -> Rules:
        def share(own: Value, other: Value) -> Value:
            kept = build.where(getattr(build, self.loses)(own, other), build.splat(0.0, dy.type), dy)
            return build.where(build.eq(own, other), build.mul(dy, 0.5), kept)

        return (lambda: share(a, b), lambda: share(b, a))


class Minimum(Maximum):
    """``y = a`` where ``a <= b`` or ``a`` is NaN, else ``b``.

    Backward: ``dy`` to the smaller operand, half of it to each of two equal ones, all of it to both where one is NaN.
    """

    name = "minimum"
    relation, loses = "le", "gt"

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.where((a <= b) | (a != a), a, b)


class Comparison(Elementwise):
    """Base of the six comparisons: false when an operand is NaN, except ``ne``."""

    arity = 2
    accepts = "fiub"
    compares = True
    rounding = "correct"
    widens = False

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        function = {
            "eq": "equal",
            "ne": "not_equal",
            "lt": "less",
            "le": "less_equal",
            "gt": "greater",
            "ge": "greater_equal",
        }
        return getattr(xp, function[self.name])(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.compare(self.name, a, b)

    def vjp(self, build: Any, dy: Value, y: Value, a: Value, b: Value) -> Rules:
        return (None, None)


class Eq(Comparison):
    """``y = a == b``, bool."""

    name = "eq"


class Ne(Comparison):
    """``y = a != b``, bool."""

    name = "ne"


class Lt(Comparison):
    """``y = a < b``, bool."""

    name = "lt"


class Le(Comparison):
    """``y = a <= b``, bool."""

    name = "le"


class Gt(Comparison):
    """``y = a > b``, bool."""

    name = "gt"


class Ge(Comparison):
    """``y = a >= b``, bool."""

    name = "ge"


class BitAnd(Elementwise):
    """``y = a & b``: bitwise on integers, logical on bool."""

    name = "bit_and"
    arity = 2
    accepts = "iub"
    rounding = "correct"

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.bitwise_and(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.bit_and(a, b)

    vjp = Absent("the operands are not floating")


class BitOr(Elementwise):
    """``y = a | b``: bitwise on integers, logical on bool."""

    name = "bit_or"
    arity = 2
    accepts = "iub"
    rounding = "correct"

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.bitwise_or(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.bit_or(a, b)

    vjp = Absent("the operands are not floating")


class BitXor(Elementwise):
    """``y = a ^ b``: bitwise on integers, logical on bool."""

    name = "bit_xor"
    arity = 2
    accepts = "iub"
    rounding = "correct"

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.bitwise_xor(a, b)

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.bit_xor(a, b)

    vjp = Absent("the operands are not floating")


class BitNot(Elementwise):
    """``y = ~x``: bitwise on integers, logical on bool."""

    name = "bit_not"
    arity = 1
    accepts = "iub"
    rounding = "correct"

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.invert(x)

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return s.bit_not(x)

    vjp = Absent("the operand is not floating")


class ShiftLeft(Elementwise):
    """``y = a << (b modulo the width)``."""

    name = "shift_left"
    arity = 2
    accepts = "iu"
    rounding = "correct"

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.left_shift(a, b & b.dtype.type(b.dtype.itemsize * 8 - 1))

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.shift_left(a, b)

    vjp = Absent("the operands are integers")


class ShiftRight(Elementwise):
    """``y = a >> (b modulo the width)``, keeping the sign of signed integers."""

    name = "shift_right"
    arity = 2
    accepts = "iu"
    rounding = "correct"

    def eval(self, xp: Any, a: Array, b: Array) -> Array:
        return xp.right_shift(a, b & b.dtype.type(b.dtype.itemsize * 8 - 1))

    def scalar(self, s: ScalarBuilder, a: Scalar, b: Scalar) -> Scalar:
        return s.shift_right(a, b)

    vjp = Absent("the operands are integers")


class Where(Elementwise):
    """``y = a`` where ``condition``, else ``b``.  Backward: ``da = where(condition, dy, 0)``, ``db = where(condition, 0, dy)``."""

    name = "where"
    arity = 3
    accepts = "fiub"
    rounding = "correct"
    widens = False

    def infer(self, *types: TensorType, **attrs: Any) -> TensorType:
        condition, a, b = types
        need_kind("the condition of where", condition, "b")
        if condition.shape != a.shape:
            raise ShapeError(
                f"where of a condition {condition} and {a}\n  rule: operands have one shape; broadcast explicitly"
            )
        return super().infer(a, b)

    def eval(self, xp: Any, condition: Array, a: Array, b: Array) -> Array:
        return xp.where(condition, a, b)

    def scalar(self, s: ScalarBuilder, condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
        return s.select(condition, a, b)

    def vjp(self, build: Any, dy: Value, y: Value, condition: Value, a: Value, b: Value) -> Rules:
        return (None, lambda: build.where(condition, dy, 0.0), lambda: build.where(condition, 0.0, dy))

    def example(self, random: Random, dtype: DType, shape: tuple[int, ...], position: int) -> Array:
        return super().example(random, dtype if position else bool_, shape, position)


class Cast(Elementwise):
    """``x`` in another dtype: floats round to nearest even, float to integer saturates with NaN to 0, integers wrap, to bool is ``x != 0``.

    Backward: the cotangent cast back.
    """

    name = "cast"
    arity = 1
    accepts = "fiub"
    rounding = "correct"
    attrs = {"dtype": Attr("dtype")}

    def infer(self, *types: TensorType, **attrs: Any) -> TensorType:
        need_kind("cast", types[0], self.accepts)
        need_kind("the target of cast", types[0].with_dtype(attrs["dtype"]), self.accepts)
        return types[0].with_dtype(attrs["dtype"])

    def eval(self, xp: Any, x: Array, *, dtype: DType) -> Array:
        return saturating_cast(x, dtype.numpy)

    def scalar(self, s: ScalarBuilder, x: Scalar, *, dtype: DType) -> Scalar:
        return s.convert(x, dtype)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, dtype: DType) -> Rules:
        return (lambda: build.cast(dy, dtype=x.type.dtype),)

    def jvp(
        self, build: Any, tangents: tuple[Value | None, ...], y: Value, *operands: Value, **attrs: Any
    ) -> Value | None:
        return None if tangents[0] is None else build.cast(tangents[0], **attrs)

    def samples(self, random: Random) -> Iterable[Sample]:
        wild = np.array([0.0, -0.0, 1.5, -2.5, 300.7, -1e30, 1e30, np.inf, -np.inf, np.nan, 255.9, -0.9])
        for target in (d for d in DTYPES.values() if d.kind in "fiub"):
            for source in (f64, f32, i64, i32, u8, bool_):
                x = wild.astype(source.numpy) if source.floating else saturating_cast(wild, source.numpy)
                yield Sample((x,), {"dtype": target}, False)
        yield Sample((random.uniform(-2, 2, (2, 3)),), {"dtype": f64})


class Bitcast(Elementwise):
    """The same bits read as another dtype of the same width; NaNs are made canonical first."""

    name = "bitcast"
    arity = 1
    accepts = "fiu"
    rounding = "correct"
    widens = False
    attrs = {"dtype": Attr("dtype")}

    def infer(self, *types: TensorType, **attrs: Any) -> TensorType:
        target: DType = attrs["dtype"]
        need_kind("bitcast", types[0], self.accepts)
        if target.bits != types[0].dtype.bits or target.kind not in self.accepts:
            raise ShapeError(f"bitcast of {types[0]} to {target}\n  rule: both dtypes have one width and are numbers")
        return types[0].with_dtype(target)

    def eval(self, xp: Any, x: Array, *, dtype: DType) -> Array:
        if x.dtype.kind in "fV":
            x = xp.where(xp.isnan(x), xp.asarray(xp.nan, x.dtype), x)
        return xp.ascontiguousarray(x).view(dtype.numpy).reshape(x.shape)

    def scalar(self, s: ScalarBuilder, x: Scalar, *, dtype: DType) -> Scalar:
        if not x.dtype.floating:
            return s.bits(x, dtype)
        # Chosen among integers: LLVM takes one NaN for as good as another.
        word = dtype if dtype.integer else DTYPES[f"u{dtype.bits}"]
        nan = np.asarray(math.nan).astype(x.dtype.numpy).view(word.numpy)
        bits = s.select(s.is_nan(x), s.constant(int(nan), word), s.bits(x, word))
        return s.bits(bits, dtype) if dtype is not word else bits

    vjp = Absent("bits have no derivative")

    def examples(self) -> Iterable[Mapping[str, Any]]:
        return ()

    def samples(self, random: Random) -> Iterable[Sample]:
        for source, target in ((f64, i64), (f32, i32), (i64, f64), (i32, f32)):
            x = np.array([0.0, -0.0, 1.5, np.inf, np.nan]) if source.floating else np.array([0, 1 << 20, -3])
            yield Sample((x.astype(source.numpy),), {"dtype": target}, False)


class StopGradient(Elementwise):
    """The identity, through which no cotangent passes."""

    name = "stop_gradient"
    arity = 1
    accepts = "fiub"
    rounding = "correct"
    widens = False

    def eval(self, xp: Any, x: Array) -> Array:
        return x

    def scalar(self, s: ScalarBuilder, x: Scalar) -> Scalar:
        return x

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (None,)

    def samples(self, random: Random) -> Iterable[Sample]:
        yield Sample((random.uniform(-2, 2, (2, 3)),), {}, False)
        yield Sample((random.uniform(-2, 2, ()).astype(f32.numpy),), {}, False)
