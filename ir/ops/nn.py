"""Composites of neural networks: ops that stay whole until decompose, with their own backward where it is cheaper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import DtypeError, ShapeError
from ..graph import Value
from ..op import Attr, Composite, Random, Sample, need_kind
from ..types import Array, TensorType, f32, f64, i64
from .reduce import keep_axes

Rules = tuple[Callable[[], Value] | None, ...]


def own_transpose(
    self: Composite, build: Any, tangents: tuple[Value | None, ...], y: Value, *operands: Value, **attrs: Any
) -> Value | None:
    """The ``jvp`` of a composite of one operand whose derivative is a symmetric matrix: its ``vjp`` applied to the tangent."""
    return None if tangents[0] is None else self.vjp(build, tangents[0], y, *operands, **attrs)[0]()


class Activation(Composite):
    """Base of the elementwise composites: one floating operand, the result of its type, and a ``vjp`` of its own."""

    arity = 1

    def infer(self, x: TensorType, **attrs: Any) -> TensorType:
        need_kind(self.name, x, "f")
        return x

    jvp = own_transpose

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32):
            for shape in ((2, 3), (), (1,), (0, 2), (17,)):
                for attrs in self.examples():
                    yield Sample((random.uniform(-3, 3, shape).astype(d.numpy),), attrs, d is f64)

    def examples(self) -> Iterable[dict[str, Any]]:
        return ({},)


class Relu(Activation):
    """``y = 0`` where ``x <= 0``, else ``x`` (so NaN stays).  Backward: ``dx = 0`` where ``x <= 0``, else ``dy``."""

    name = "relu"

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.where(x <= 0, xp.zeros_like(x), x)

    def decompose(self, build: Any, x: Value) -> Value:
        zero = build.splat(0.0, x.type)
        return build.where(build.le(x, zero), zero, x)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        def rule() -> Value:
            zero = build.splat(0.0, x.type)
            return build.where(build.le(x, zero), zero, dy)

        return (rule,)


class Gelu(Activation):
    """``y = x * P(X <= x)`` for a standard normal ``X``, or with ``approximate = "tanh"`` Hendrycks and Gimpel's
    ``x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3)))`` (arXiv:1606.08415).
    """

    name = "gelu"
    attrs = {"approximate": Attr("str", "none")}

    def infer(self, x: TensorType, **attrs: Any) -> TensorType:
        approximate: str = attrs["approximate"]
        if approximate not in ("none", "tanh"):
            raise ShapeError(f'gelu with approximate = "{approximate}"\n  rule: it is "none" or "tanh"')
        return super().infer(x)

    def eval(self, xp: Any, x: Array, *, approximate: str) -> Array:
        wide = x.astype(np.float64)
        if approximate == "tanh":
            return (0.5 * wide * (1 + xp.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))).astype(x.dtype)
        erf = xp.vectorize(math.erf, otypes=[np.float64])(wide / math.sqrt(2)) if x.size else wide
        return (0.5 * wide * (1 + erf)).astype(x.dtype)

    @staticmethod
    def _tanh(build: Any, x: Value) -> Value:
        cube = build.mul(build.mul(build.mul(x, x), x), 0.044715)
        return build.tanh(build.mul(build.add(x, cube), math.sqrt(2 / math.pi)))

    @staticmethod
    def _erf(build: Any, x: Value) -> Value:
        return build.erf(build.mul(x, 1 / math.sqrt(2)))

    def decompose(self, build: Any, x: Value, *, approximate: str) -> Value:
        inner = self._tanh(build, x) if approximate == "tanh" else self._erf(build, x)
        return build.mul(build.mul(x, 0.5), build.add(inner, 1.0))

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, approximate: str) -> Rules:
        def rule() -> Value:
            if approximate == "tanh":
                t = self._tanh(build, x)
                slope = build.mul(build.add(build.mul(build.mul(x, x), 3 * 0.044715), 1.0), math.sqrt(2 / math.pi))
                bend = build.mul(build.mul(x, 0.5), build.mul(build.sub(1.0, build.mul(t, t)), slope))
                return build.mul(dy, build.add(build.mul(build.add(t, 1.0), 0.5), bend))
            cdf = build.mul(build.add(self._erf(build, x), 1.0), 0.5)
            pdf = build.mul(build.exp(build.mul(build.mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
            return build.mul(dy, build.add(cdf, build.mul(x, pdf)))

        return (rule,)

    def examples(self) -> Iterable[dict[str, Any]]:
        return ({"approximate": "none"}, {"approximate": "tanh"})


class Silu(Activation):
    """``y = x * sigmoid(x)``.  Backward: ``dx = dy * s * (1 + x * (1 - s))`` with ``s = sigmoid(x)``."""

    name = "silu"

    def eval(self, xp: Any, x: Array) -> Array:
        wide = x.astype(np.float64)
        return (wide / (1 + xp.exp(-wide))).astype(x.dtype)

    def decompose(self, build: Any, x: Value) -> Value:
        return build.mul(x, build.sigmoid(x))

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        def rule() -> Value:
            s = build.sigmoid(x)
            return build.mul(dy, build.mul(s, build.add(build.mul(x, build.sub(1.0, s)), 1.0)))

        return (rule,)


class Softplus(Activation):
    """``y = ln(1 + e**x)``, as ``max(x, 0) + ln(1 + e**-|x|)``.  Backward: ``dx = dy * sigmoid(x)``."""

    name = "softplus"

    def eval(self, xp: Any, x: Array) -> Array:
        return xp.logaddexp(x.astype(np.float64), 0).astype(x.dtype)

    def decompose(self, build: Any, x: Value) -> Value:
        return build.add(build.maximum(x, 0.0), build.log1p(build.exp(build.neg(build.abs(x)))))

    def vjp(self, build: Any, dy: Value, y: Value, x: Value) -> Rules:
        return (lambda: build.mul(dy, build.sigmoid(x)),)


def _sum(build: Any, x: Value, axes: tuple[int, ...]) -> Value:
    """The sum over ``axes``, broadcast back to ``x``'s shape."""
    return keep_axes(build, build.sum(x, axes=axes), x, axes)


def _mean(build: Any, x: Value, axes: tuple[int, ...]) -> Value:
    """The mean over ``axes``, broadcast back to ``x``'s shape."""
    total = build.sum(x, axes=axes)
    return keep_axes(build, build.div(total, float(math.prod(x.type.shape[a] for a in axes))), x, axes)


def is_class(build: Any, target: Value, count: int) -> Value:
    """bool ``[*target, count]``: whether the class along the last axis is the integer target."""
    if count - 1 > np.iinfo(target.type.dtype.numpy).max:
        target = build.cast(target, dtype=i64)
    shape = (*target.type.shape, count)
    classes = build.iota(dtype=target.type.dtype, shape=shape, axis=len(shape) - 1)
    return build.eq(build.broadcast_to(build.reshape(target, shape=(*shape[:-1], 1)), shape=shape), classes)


class Softmax(Composite):
    """``y = e**(x - m) / sum(e**(x - m))`` along ``axis``, ``m`` the maximum.  Backward: ``dx = y * (dy - sum(dy * y))``."""

    name = "softmax"
    arity = 1
    attrs = {"axis": Attr("int")}

    def infer(self, x: TensorType, *, axis: int) -> TensorType:
        need_kind(self.name, x, "f")
        if not 0 <= axis < x.rank or x.shape[axis] == 0:
            raise ShapeError(f"{self.name} of {x} along axis {axis}\n  rule: the axis is inside the rank and not empty")
        return x

    @staticmethod
    def shifted(build: Any, x: Value, axis: int) -> Value:
        """``x`` minus its maximum along ``axis``."""
        return build.sub(x, keep_axes(build, build.max(x, axes=(axis,)), x, (axis,)))

    def eval(self, xp: Any, x: Array, *, axis: int) -> Array:
        e = xp.exp((x - x.max(axis, keepdims=True, initial=-np.inf)).astype(np.float64))
        return (e / e.sum(axis, keepdims=True)).astype(x.dtype)

    def decompose(self, build: Any, x: Value, *, axis: int) -> Value:
        e = build.exp(self.shifted(build, x, axis))
        return build.div(e, _sum(build, e, (axis,)))

    @staticmethod
    def cotangent(build: Any, dy: Value, y: Value, axis: int) -> Value:
        """``dx`` from ``dy`` and ``y``."""
        return build.mul(y, build.sub(dy, _sum(build, build.mul(dy, y), (axis,))))

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, axis: int) -> Rules:
        return (lambda: self.cotangent(build, dy, y, axis),)

    jvp = own_transpose

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32):
            for shape, axis in (((2, 3), 1), ((4, 2), 0), ((1,), 0), ((0, 3), 1), ((2, 3, 4), 1)):
                yield Sample((random.uniform(-3, 3, shape).astype(d.numpy),), {"axis": axis}, d is f64)


class LogSoftmax(Softmax):
    """``y = z - ln(sum(e**z))`` along ``axis``, ``z = x - max(x)``.  Backward: ``dx = dy - e**y * sum(dy)``."""

    name = "log_softmax"

    def eval(self, xp: Any, x: Array, *, axis: int) -> Array:
        z = (x - x.max(axis, keepdims=True, initial=-np.inf)).astype(np.float64)
        return (z - xp.log(xp.exp(z).sum(axis, keepdims=True))).astype(x.dtype)

    def decompose(self, build: Any, x: Value, *, axis: int) -> Value:
        z = self.shifted(build, x, axis)
        return build.sub(z, keep_axes(build, build.log(build.sum(build.exp(z), axes=(axis,))), x, (axis,)))

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, *, axis: int) -> Rules:
        return (lambda: build.sub(dy, build.mul(build.exp(y), _sum(build, dy, (axis,)))),)

    def jvp(self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, *, axis: int) -> Value | None:
        """``dy = dx - sum(dx * e**y)``."""
        if tangents[0] is None:
            return None
        return build.sub(tangents[0], _sum(build, build.mul(tangents[0], build.exp(y)), (axis,)))


class _Standardized(Composite):
    """Base of the normalisations: ``(x - mean) / sqrt(var + eps)`` over some axes."""

    arity = 1

    axes: Callable[[int, Mapping[str, Any]], tuple[int, ...]]
    """The axes over which mean and variance are taken, for a rank and attributes."""

    def eval(self, xp: Any, x: Array, **attrs: Any) -> Array:
        axes, wide = self.axes(x.ndim, attrs), x.astype(np.float64)
        centred = wide - wide.mean(axes, keepdims=True)
        return (centred / xp.sqrt(wide.var(axes, keepdims=True) + attrs["eps"])).astype(x.dtype)

    def _parts(self, build: Any, x: Value, attrs: Mapping[str, Any]) -> tuple[Value, Value, tuple[int, ...]]:
        axes = self.axes(x.type.rank, attrs)
        centred = build.sub(x, _mean(build, x, axes))
        count = float(math.prod(x.type.shape[a] for a in axes))
        variance = build.div(build.sum(build.mul(centred, centred), axes=axes), count)
        inverse = build.div(1.0, build.sqrt(build.add(variance, attrs["eps"])))
        return centred, keep_axes(build, inverse, x, axes), axes

    def decompose(self, build: Any, x: Value, **attrs: Any) -> Value:
        centred, inverse, _ = self._parts(build, x, attrs)
        return build.mul(centred, inverse)

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, **attrs: Any) -> Rules:
        def rule() -> Value:
            _, inverse, axes = self._parts(build, x, attrs)
            pull = build.mul(y, _mean(build, build.mul(dy, y), axes))
            return build.mul(build.sub(build.sub(dy, _mean(build, dy, axes)), pull), inverse)

        return (rule,)

    jvp = own_transpose


class LayerNorm(_Standardized):
    """``y = (x - mean) / sqrt(var + eps)`` over the last ``rank`` axes (Ba et al., arXiv:1607.06450); weight and bias are separate ops.

    Backward: ``dx = (dy - mean(dy) - y * mean(dy * y)) / sqrt(var + eps)``.
    """

    name = "layer_norm"
    attrs = {"rank": Attr("int"), "eps": Attr("float", 1e-5)}

    def infer(self, x: TensorType, *, rank: int, eps: float) -> TensorType:
        need_kind(self.name, x, "f")
        if not 1 <= rank <= x.rank or 0 in x.shape[x.rank - rank :]:
            raise ShapeError(
                f"layer_norm of {x} over the last {rank} axes\n  rule: there are that many axes, and none of them is empty"
            )
        return x

    @staticmethod
    def axes(rank: int, attrs: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(range(rank - attrs["rank"], rank))

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32):
            for shape, rank in (((2, 5), 1), ((2, 3, 4), 2), ((0, 3), 1), ((4, 1), 1)):
                yield Sample((random.uniform(-3, 3, shape).astype(d.numpy),), {"rank": rank, "eps": 1e-5}, d is f64)


class BatchNorm(_Standardized):
    """``y = (x - mean) / sqrt(var + eps)`` of each channel, over all axes but the second (Ioffe and Szegedy, arXiv:1502.03167).

    Weight, bias and running values are separate ops.  Backward: ``dx = (dy - mean(dy) - y * mean(dy * y)) / sqrt(var + eps)``.
    """

    name = "batch_norm"
    attrs = {"eps": Attr("float", 1e-5)}

    def infer(self, x: TensorType, *, eps: float) -> TensorType:
        need_kind(self.name, x, "f")
        if x.rank < 2 or 0 in (x.shape[0], *x.shape[2:]):
            raise ShapeError(f"batch_norm of {x}\n  rule: x is [N, C, *axes], and a channel has an element")
        return x

    @staticmethod
    def axes(rank: int, attrs: Mapping[str, Any]) -> tuple[int, ...]:
        return (0, *range(2, rank))

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32):
            for shape in ((5, 2), (3, 2, 4), (2, 3, 2, 3), (4, 0), (1, 3, 2)):
                yield Sample((random.uniform(-3, 3, shape).astype(d.numpy),), {"eps": 1e-5}, d is f64)


class CrossEntropy(Composite):
    """Mean over rows of ``-ln softmax(x)[target]``: ``x`` is ``[N, C]``, the target integer ``[N]`` or floating ``[N, C]``.

    Backward: ``dx = (softmax(x) - one_hot(target)) * (dy / N)``; with floating targets ``t``,
    ``dx = (softmax(x) * sum(t) - t) * (dy / N)`` and ``dt = -ln softmax(x) * (dy / N)``.
    """

    name = "cross_entropy"
    arity = 2

    def infer(self, x: TensorType, target: TensorType) -> TensorType:
        need_kind("cross_entropy", x, "f")
        if x.rank != 2 or x.shape[1] == 0:
            raise ShapeError(
                f"cross_entropy of {x}\n  rule: the prediction is [N, C] with C >= 1; reshape other axes into N"
            )
        wanted = x.shape[:1] if target.dtype.integer else x.shape
        if target.dtype.floating and target.dtype is not x.dtype:
            raise DtypeError(
                f"cross_entropy of {x} with target {target}\n  rule: floating targets have the prediction's dtype"
            )
        if target.dtype.kind not in "iuf" or target.shape != wanted:
            raise ShapeError(
                f"cross_entropy of {x} with target {target}\n  rule: the target is integer [{x.shape[0]}] or floating {list(x.shape)}"
            )
        return x.with_shape(())

    def eval(self, xp: Any, x: Array, target: Array) -> Array:
        z = (x - x.max(1, keepdims=True, initial=-np.inf)).astype(np.float64)
        logp = z - xp.log(xp.exp(z).sum(1, keepdims=True))
        if target.dtype.kind in "iu":
            logp = xp.take_along_axis(logp, target.astype(np.int64)[:, None], 1)
        else:
            logp = logp * target
        return xp.asarray(-logp.sum() / np.float64(len(x))).astype(x.dtype)

    def decompose(self, build: Any, x: Value, target: Value) -> Value:
        logp = build.log_softmax(x, axis=1)
        if target.type.dtype.integer:
            rows = x.type.shape[0]
            chosen = build.take_along_axis(logp, build.reshape(target, shape=(rows, 1)), axis=1)
        else:
            chosen = build.mul(logp, target)
        return build.div(build.neg(build.sum(chosen, axes=(0, 1))), float(x.type.shape[0]))

    def vjp(self, build: Any, dy: Value, y: Value, x: Value, target: Value) -> Rules:
        rows, columns = x.type.shape

        def scale() -> Value:
            return build.broadcast_to(build.div(dy, float(rows)), shape=x.type.shape)

        def prediction() -> Value:
            p = build.softmax(x, axis=1)
            if target.type.dtype.floating:
                return build.mul(build.sub(build.mul(p, _sum(build, target, (1,))), target), scale())
            hot = build.cast(is_class(build, target, columns), dtype=x.type.dtype)
            return build.mul(build.sub(p, hot), scale())

        def labels() -> Value:
            return build.mul(build.neg(build.log_softmax(x, axis=1)), scale())

        return (prediction, labels if target.type.dtype.floating else None)

    def jvp(self, build: Any, tangents: tuple[Value | None, ...], y: Value, x: Value, target: Value) -> Value | None:
        """The gradient for a cotangent of 1, met with the tangents."""
        rules = self.vjp(build, build.splat(1.0, y.type), y, x, target)
        total: Value | None = None
        for tangent, rule in zip(tangents, rules, strict=True):
            if tangent is not None and rule is not None:
                term = build.sum(build.mul(tangent, rule()), axes=(0, 1))
                total = term if total is None else build.add(total, term)
        return total

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32):
            for n, c in ((4, 3), (1, 1), (2, 7)):
                x = random.uniform(-3, 3, (n, c)).astype(d.numpy)
                yield Sample((x, random.integers(0, c, n)), {}, d is f64)
                yield Sample((x, random.integers(0, c, n).astype(np.uint8)), {}, d is f64)
                yield Sample((x, random.uniform(0, 1, (n, c)).astype(d.numpy)), {}, d is f64)
