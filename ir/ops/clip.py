"""Bounds: values held between two others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import DtypeError, ShapeError
from ..graph import Value
from ..op import Attr, Composite, Elementwise, Random, Sample, need_kind
from ..types import Array, TensorType, f32, f64, i64

Rules = tuple[Callable[[], Value] | None, ...]


class Clip(Composite):
    """``y = minimum(maximum(x, low), high)`` of operands ``x``, ``low`` if ``lower``, and ``high`` if ``upper``.

    Backward: ``dy`` to ``x`` where ``low <= x <= high``, the bounds included; to ``high`` where ``x`` or ``low`` is above it; to ``low``
    where ``x`` is below it and ``low < high``.  Nothing where an operand is NaN.
    """

    name = "clip"
    attrs = {"lower": Attr("bool", True), "upper": Attr("bool", True)}

    def infer(self, *types: TensorType, lower: bool, upper: bool) -> TensorType:
        if not (lower or upper) or len(types) != 1 + lower + upper:
            raise ShapeError(
                f"clip of {len(types)} operands, lower = {lower}, upper = {upper}\n"
                "  rule: x and one operand for each bound, at least one bound"
            )
        need_kind(self.name, types[0], "fiu")
        for bound in types[1:]:
            if bound != types[0]:
                error = ShapeError if bound.dtype is types[0].dtype else DtypeError
                raise error(f"clip of {types[0]} with a bound {bound}\n  rule: bounds have the type of x")
        return types[0]

    @staticmethod
    def _bounds(bounds: tuple[Any, ...], lower: bool) -> tuple[Any | None, Any | None]:
        """The lower and the upper bound."""
        return (bounds[0], bounds[1] if len(bounds) > 1 else None) if lower else (None, bounds[0])

    def eval(self, xp: Any, x: Array, *bounds: Array, lower: bool, upper: bool) -> Array:
        low, high = self._bounds(bounds, lower)
        if low is not None:
            x = xp.where((x >= low) | (x != x), x, low)
        return x if high is None else xp.where((x <= high) | (x != x), x, high)

    def decompose(self, build: Any, x: Value, *bounds: Value, lower: bool, upper: bool) -> Value:
        low, high = self._bounds(bounds, lower)
        if low is not None:
            x = build.maximum(x, low)
        return x if high is None else build.minimum(x, high)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *bounds: Value, lower: bool, upper: bool) -> Rules:
        low, high = self._bounds(bounds, lower)

        def where(condition: Value) -> Value:
            return build.where(condition, dy, build.splat(0.0, dy.type))

        def inside() -> Value:
            tests = [build.ge(x, low)] if low is not None else []
            tests += [build.le(x, high)] if high is not None else []
            return where(build.bit_and(*tests) if len(tests) > 1 else tests[0])

        def below() -> Value:
            under = build.lt(x, low)
            return where(under if high is None else build.bit_and(under, build.lt(low, high)))

        def above() -> Value:
            over = build.gt(x, high)
            return where(over if low is None else build.bit_or(over, build.gt(low, high)))

        return (inside, *[below] * lower, *[above] * upper)

    jvp = Elementwise.jvp

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32, i64):
            for shape in ((2, 3), (), (0, 2), (17,)):
                x, low, high = (random.uniform(*ends, shape) * 9 for ends in ((-2, 2), (-1, 0), (0.1, 1)))
                for lower, upper in ((True, True), (True, False), (False, True)):
                    operands = [x, *[low] * lower, *[high] * upper]
                    arrays = tuple(np.asarray(a).astype(d.numpy) for a in operands)
                    yield Sample(arrays, {"lower": lower, "upper": upper}, d is f64)
