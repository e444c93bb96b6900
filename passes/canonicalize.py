"""canonicalize: local rewrites that keep every bit.

Neutral elements (``x * 1 = x``), moves that meet (``reshape(reshape(x)) = reshape(x)``) and moves that do nothing.  What an
infinity, a NaN or a zero's sign could tell apart (``x * 0``, ``x - x``, ``x + 0.0``) is not here.
"""

from __future__ import annotations

import math
from typing import Any

from ..ir import Function, Value
from ..ir.types import Shape
from .manager import Context, Pass, per_function
from .rewrite import Match, Rewrite, apply, splat_of


class MulOne(Rewrite):
    """x * 1 is x."""

    def before(self, build: Any, x: Any) -> Any:
        return build.mul(x, 1)

    def after(self, build: Any, x: Value) -> Value:
        return x


class OneMul(MulOne):
    """1 * x is x."""

    def before(self, build: Any, x: Any) -> Any:
        return build.mul(1, x)


class DivOne(MulOne):
    """x / 1 is x."""

    def before(self, build: Any, x: Any) -> Any:
        return build.div(x, 1)


class AddNegativeZero(MulOne):
    """x + -0.0 is x; on integers x + 0 is x."""

    def before(self, build: Any, x: Any) -> Any:
        return build.add(x, -0.0)


class SubZero(MulOne):
    """x - 0.0 is x."""

    def before(self, build: Any, x: Any) -> Any:
        return build.sub(x, 0.0)


class DivPowerOfTwo(Rewrite):
    """x / 2**k is x * 2**-k where 2**-k is a normal number: both round the same product."""

    def before(self, build: Any, x: Any, c: Any) -> Any:
        return build.div(x, c)

    def refuse(self, match: Match) -> str | None:
        literal = splat_of(match["c"])
        if literal is None:
            return "the divisor is not a constant"
        value = float(literal.scalar)
        if not math.isfinite(value) or value == 0 or abs(math.frexp(value)[0]) != 0.5 or not 1e-30 < abs(value) < 1e30:
            return f"{value} is not a power of two of moderate size"
        if match["x"].type.dtype.bits < 32:
            return "narrow dtypes have few normal powers"
        return None

    def after(self, build: Any, x: Value, c: Value) -> Value:
        literal = splat_of(c)
        assert literal is not None
        return build.mul(x, build.splat(1 / float(literal.scalar), x.type))


class NegNeg(MulOne):
    """-(-x) is x."""

    def before(self, build: Any, x: Any) -> Any:
        return build.neg(build.neg(x))


class NotNot(MulOne):
    """~~x is x."""

    def before(self, build: Any, x: Any) -> Any:
        return build.bit_not(build.bit_not(x))


class StopGradient(MulOne):
    """stop_gradient(x) is x: derivatives are recorded before any pass runs."""

    def before(self, build: Any, x: Any) -> Any:
        return build.stop_gradient(x)


class WhereSame(Rewrite):
    """where(c, x, x) is x."""

    def before(self, build: Any, c: Any, x: Any) -> Any:
        return build.where(c, x, x)

    def after(self, build: Any, c: Value, x: Value) -> Value:
        return x


class CastSame(Rewrite):
    """cast(x) to its own dtype is x."""

    def before(self, build: Any, x: Any, dtype: Any) -> Any:
        return build.cast(x, dtype=dtype)

    def refuse(self, match: Match) -> str | None:
        return None if match["x"].type.dtype is match["dtype"] else "the dtype changes"

    def after(self, build: Any, x: Value, **_: Any) -> Value:
        return x


class CastThere(Rewrite):
    """cast(cast(x, wide), narrow) is x where x was narrow and wide holds all its values."""

    def before(self, build: Any, x: Any, wide: Any, narrow: Any) -> Any:
        return build.cast(build.cast(x, dtype=wide), dtype=narrow)

    def refuse(self, match: Match) -> str | None:
        x, wide, narrow = match["x"].type.dtype, match["wide"], match["narrow"]
        if x is not narrow:
            return "the outer cast does not restore the dtype"
        lossless = x.floating and wide.floating and (x.bits, wide.bits) in ((32, 64), (16, 32), (16, 64))
        return None if lossless else f"{wide} does not hold every {x}"

    def after(self, build: Any, x: Value, **_: Any) -> Value:
        return x


class ReshapeTwice(Rewrite):
    """reshape(reshape(x, s), t) is reshape(x, t)."""

    def before(self, build: Any, x: Any, s: Any, t: Any) -> Any:
        return build.reshape(build.reshape(x, shape=s), shape=t)

    def after(self, build: Any, x: Value, t: Any, **_: Any) -> Value:
        return build.reshape(x, shape=t)


class SameShape(Rewrite):
    """reshape(x) to its own shape is x."""

    def before(self, build: Any, x: Any, s: Any) -> Any:
        return build.reshape(x, shape=s)

    def refuse(self, match: Match) -> str | None:
        return None if match["x"].type.shape == match["s"] else "the shape changes"

    def after(self, build: Any, x: Value, **_: Any) -> Value:
        return x


class BroadcastSame(SameShape):
    """broadcast_to(x) to its own shape is x."""

    def before(self, build: Any, x: Any, s: Any) -> Any:
        return build.broadcast_to(x, shape=s)


class BroadcastTwice(Rewrite):
    """broadcast_to(broadcast_to(x, s), t) is broadcast_to(x, t)."""

    def before(self, build: Any, x: Any, s: Any, t: Any) -> Any:
        return build.broadcast_to(build.broadcast_to(x, shape=s), shape=t)

    def after(self, build: Any, x: Value, t: Any, **_: Any) -> Value:
        return build.broadcast_to(x, shape=t)


class BroadcastLeading(Rewrite):
    """broadcast_to(reshape(x, [1, ..., *shape of x]), t) is broadcast_to(x, t)."""

    def before(self, build: Any, x: Any, s: Any, t: Any) -> Any:
        return build.broadcast_to(build.reshape(x, shape=s), shape=t)

    def refuse(self, match: Match) -> str | None:
        shape, wide = match["x"].type.shape, match["s"]
        added = len(wide) - len(shape)
        return (
            None
            if added >= 0 and wide == (1,) * added + shape
            else "the reshape does more than add leading axes of size 1"
        )

    def after(self, build: Any, x: Value, t: Any, **_: Any) -> Value:
        return build.broadcast_to(x, shape=t)


class PermuteTwice(Rewrite):
    """permute_dims(permute_dims(x, a), b) is one permutation."""

    def before(self, build: Any, x: Any, a: Any, b: Any) -> Any:
        return build.permute_dims(build.permute_dims(x, axes=a), axes=b)

    def after(self, build: Any, x: Value, a: Any, b: Any) -> Value:
        return build.permute_dims(x, axes=tuple(a[i] for i in b))


class PermuteSame(Rewrite):
    """permute_dims(x) that keeps the order is x."""

    def before(self, build: Any, x: Any, a: Any) -> Any:
        return build.permute_dims(x, axes=a)

    def refuse(self, match: Match) -> str | None:
        return None if match["a"] == tuple(range(len(match["a"]))) else "the order changes"

    def after(self, build: Any, x: Value, **_: Any) -> Value:
        return x


class FlipTwice(Rewrite):
    """flip(flip(x, a), a) is x."""

    def before(self, build: Any, x: Any, a: Any) -> Any:
        return build.flip(build.flip(x, axes=a), axes=a)

    def after(self, build: Any, x: Value, **_: Any) -> Value:
        return x


class SliceAll(Rewrite):
    """slice(x) of everything is x."""

    def before(self, build: Any, x: Any, start: Any, stop: Any, step: Any) -> Any:
        return build.slice(x, start=start, stop=stop, step=step)

    def refuse(self, match: Match) -> str | None:
        shape = match["x"].type.shape
        whole = match["start"] == (0,) * len(shape) and match["stop"] == shape and match["step"] == (1,) * len(shape)
        return None if whole else "something is left out"

    def after(self, build: Any, x: Value, **_: Any) -> Value:
        return x


class SliceSum(Rewrite):
    """slice(sum(x)) is sum(slice(x)) where nothing else reads the sum, and columns do not become a row: that is added in another order."""

    def before(self, build: Any, x: Any, axes: Any, keepdims: Any, start: Any, stop: Any, step: Any) -> Any:
        return build.slice(build.sum(x, axes=axes, keepdims=keepdims), start=start, stop=stop, step=step)

    def refuse(self, match: Match) -> str | None:
        if match.uses.get(match.root.operands[0]) != 1:
            return "something else reads the sum"
        if match["keepdims"]:
            return "axes that are summed over are kept"
        behind = [a for a in range(match["x"].type.rank) if a > max(match["axes"], default=-1)]
        columns = match.root.result.type.shape[-len(behind) :] if behind else ()
        sizes = [match["x"].type.shape[a] for a in behind]
        return "one column is left" if math.prod(sizes) > 1 and math.prod(columns) == 1 else None

    def after(self, build: Any, x: Value, axes: Shape, start: Shape, stop: Shape, step: Shape, **_: Any) -> Value:
        kept = [a for a in range(x.type.rank) if a not in axes]
        low, high, steps = [0] * x.type.rank, list(x.type.shape), [1] * x.type.rank
        for n, a in enumerate(kept):
            low[a], high[a], steps[a] = start[n], stop[n], step[n]
        return build.sum(build.slice(x, start=low, stop=high, step=steps), axes=axes)


RULES: tuple[Rewrite, ...] = (
    MulOne(),
    OneMul(),
    DivOne(),
    AddNegativeZero(),
    SubZero(),
    DivPowerOfTwo(),
    NegNeg(),
    NotNot(),
    StopGradient(),
    WhereSame(),
    CastSame(),
    CastThere(),
    ReshapeTwice(),
    SameShape(),
    BroadcastSame(),
    BroadcastTwice(),
    BroadcastLeading(),
    PermuteTwice(),
    PermuteSame(),
    FlipTwice(),
    SliceAll(),
    SliceSum(),
)


def _canonicalize(function: Function, context: Context) -> bool:
    """Local rewrites that keep every bit: neutral elements, moves that meet, moves that do nothing."""
    return apply(function, RULES, context)


canonicalize = Pass("canonicalize", per_function(_canonicalize))
