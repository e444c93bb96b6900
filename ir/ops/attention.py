"""Scaled dot-product attention and its gradient, whole until decompose: a target that has a kernel for them keeps them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

from ..errors import DtypeError, ShapeError
from ..graph import Value
from ..op import Attr, Composite, Random, Sample, need_kind
from ..types import Array, TensorType, bool_, f32, f64, i64
from .nn import Softmax
from .reduce import keep_axes

Rules = tuple[Callable[[], Value] | None, ...]


def _allowed(xp: Any, shape: tuple[int, ...], mask: tuple[Array, ...], causal: bool) -> Array:
    allowed = xp.ones(shape, np.bool_)
    if causal:
        allowed = allowed & (xp.arange(shape[-1]) <= xp.arange(shape[-2])[:, None])
    return allowed & mask[0] if mask and mask[0].dtype == np.bool_ else allowed


def _weights(xp: Any, q: Array, k: Array, mask: tuple[Array, ...], causal: bool, scale: float) -> Array:
    scores = xp.matmul(q.astype(np.float64), k.astype(np.float64).swapaxes(-1, -2)) * scale
    if mask and mask[0].dtype != np.bool_:
        scores = scores + mask[0].astype(np.float64)
    scores = xp.where(_allowed(xp, scores.shape, mask, causal), scores, -np.inf)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    e = xp.exp(scores - xp.where(top == -np.inf, 0, top))
    total = e.sum(-1, keepdims=True)
    return e / xp.where(total == 0, 1, total)


class _Attention(Composite):
    """What attention and its gradient share: queries ``[..., T, d]``, keys ``[..., S, d]``, values ``[..., S, e]``, and perhaps a mask."""

    attrs = {"causal": Attr("bool", False), "scale": Attr("float")}
    arity_without_mask: int

    def _check(self, q: TensorType, k: TensorType, v: TensorType, *mask: TensorType) -> None:
        need_kind(self.name, q, "f")
        if k.dtype is not q.dtype or v.dtype is not q.dtype:
            raise DtypeError(f"attention of {q}, {k}, {v}\n  rule: one dtype")
        lead = q.shape[:-2]
        if (
            not q.rank == k.rank == v.rank >= 2
            or k.shape[:-2] != lead
            or v.shape[:-2] != lead
            or q.shape[-1] != k.shape[-1]
            or k.shape[-2] != v.shape[-2]
        ):
            raise ShapeError(f"attention of {q}, {k}, {v}\n  rule: q [..., T, d], k [..., S, d], v [..., S, e]")
        shape = (*lead, q.shape[-2], k.shape[-2])
        wanted = TensorType(bool_, shape), TensorType(q.dtype, shape)
        if mask and mask[0] not in wanted:
            raise ShapeError(f"attention mask {mask[0]}\n  rule: the mask is {wanted[0]} or {wanted[1]}")

    @staticmethod
    def _scores(
        build: Any, q: Value, k: Value, mask: tuple[Value, ...], causal: bool, scale: float
    ) -> tuple[Value, list[Value]]:
        """The masked score of every key for every query, and the conditions under which a query may see a key."""
        scores = build.mul(build.matmul(q, k, transpose_b=True), scale)
        shape, rank = scores.type.shape, scores.type.rank
        conditions: list[Value] = []
        if causal:
            column, row = (build.iota(dtype=i64, shape=shape, axis=a) for a in (rank - 1, rank - 2))
            conditions.append(build.le(column, row))
        for given in mask:
            if given.type.dtype is bool_:
                conditions.append(given)
            else:
                scores = build.add(scores, given)
        for condition in conditions:
            scores = build.where(condition, scores, -math.inf)
        return scores, conditions

    def _probabilities(
        self, build: Any, q: Value, k: Value, mask: tuple[Value, ...], causal: bool, scale: float
    ) -> tuple[Value, list[Value]]:
        """The weight of every key for every query, and the conditions under which it may be more than 0.

        Softmax, but 0 in a row whose scores are all minus infinity: its maximum counts as 0 and its sum as 1.
        """
        scores, conditions = self._scores(build, q, k, mask, causal, scale)
        if not k.type.shape[-2]:
            return scores, conditions
        last = (scores.type.rank - 1,)
        top = build.max(scores, axes=last)
        top = build.where(build.eq(top, -math.inf), 0.0, top)
        e = build.exp(build.sub(scores, keep_axes(build, top, scores, last)))
        total = build.sum(e, axes=last)
        total = build.where(build.eq(total, 0.0), 1.0, total)
        return build.div(e, keep_axes(build, total, scores, last)), conditions

    @staticmethod
    def _scores_cotangent(build: Any, dy: Value, v: Value, p: Value, conditions: list[Value]) -> Value:
        """What is left of ``dy`` for the scores with the mask added; 0 where a query may not see a key."""
        ds = Softmax.cotangent(build, build.matmul(dy, v, transpose_b=True), p, p.type.rank - 1)
        for condition in reversed(conditions):
            ds = build.where(condition, ds, 0.0)
        return ds

    def samples(self, random: Random) -> Iterable[Sample]:
        for d in (f64, f32):
            for lead, t, s, e in (((), 3, 3, 2), ((2,), 3, 4, 2), ((2, 2), 1, 1, 1)):
                tails = [(t, e), (s, e), (s, e + 1)]
                q, k, v, dy = (random.uniform(-1, 1, (*lead, *tail)).astype(d.numpy) for tail in (*tails, (t, e + 1)))
                operands = (dy, q, k, v)[-self.arity_without_mask :]
                for causal in (False, True):
                    yield Sample(operands, {"causal": causal, "scale": 0.5}, d is f64)
                mask = random.integers(0, 2, (*lead, t, s)).astype(np.bool_)
                mask[..., 0, :] = False
                bias = np.where(mask, random.uniform(-1, 1, mask.shape), -np.inf).astype(d.numpy)
                yield Sample((*operands, mask), {"causal": False, "scale": 0.5}, d is f64)
                yield Sample((*operands, bias), {"causal": True, "scale": 0.5}, d is f64)


class ScaledDotProductAttention(_Attention):
    """``softmax(q @ k^T * scale + mask) @ v`` for ``q [..., T, d]``, ``k [..., S, d]``, ``v [..., S, e]`` (arXiv:1706.03762).

    A fourth operand ``[..., T, S]`` is a mask: a bool one is True where attention is allowed, a floating one is added to the scores.
    ``causal`` allows position ``s <= t`` only.  What is not allowed has weight exactly 0, and a row whose scores are all minus
    infinity gives 0.
    """

    name = "scaled_dot_product_attention"
    arity_without_mask = 3

    def infer(self, *types: TensorType, causal: bool, scale: float) -> TensorType:
        if len(types) not in (3, 4):
            raise ShapeError(f"{self.name} takes q, k, v and at most a mask, not {len(types)} operands")
        q, _, v = types[:3]
        self._check(*types)
        return q.with_shape((*q.shape[:-1], v.shape[-1]))

    def eval(self, xp: Any, q: Array, k: Array, v: Array, *mask: Array, causal: bool, scale: float) -> Array:
        return xp.matmul(_weights(xp, q, k, mask, causal, scale), v.astype(np.float64)).astype(q.dtype)

    def decompose(self, build: Any, q: Value, k: Value, v: Value, *mask: Value, causal: bool, scale: float) -> Value:
        return build.matmul(self._probabilities(build, q, k, mask, causal, scale)[0], v)

    def vjp(
        self, build: Any, dy: Value, y: Value, q: Value, k: Value, v: Value, *mask: Value, causal: bool, scale: float
    ) -> Rules:
        @cache
        def gradients() -> tuple[Value, ...]:
            return build.scaled_dot_product_attention_grad(dy, q, k, v, *mask, causal=causal, scale=scale)

        def rule(n: int) -> Callable[[], Value]:
            return lambda: gradients()[n]

        def added() -> Value:
            p, conditions = self._probabilities(build, q, k, mask, causal, scale)
            return self._scores_cotangent(build, dy, v, p, conditions)

        return (rule(0), rule(1), rule(2), *(added if m.type.dtype.floating else None for m in mask))


class ScaledDotProductAttentionGrad(_Attention):
    """The cotangents of ``q``, ``k`` and ``v`` of ``scaled_dot_product_attention``, from that of its result, ``dy [..., T, e]``.

    With ``p`` the weights, ``dv = p^T @ dy``, ``dp = dy @ v^T``, ``ds = p * (dp - sum(dp * p)) * scale`` where attention is allowed
    and 0 elsewhere, ``dq = ds @ k`` and ``dk = ds^T @ q``.
    """

    name = "scaled_dot_product_attention_grad"
    results = 3
    arity_without_mask = 4

    def infer(self, *types: TensorType, causal: bool, scale: float) -> tuple[TensorType, ...]:
        if len(types) not in (4, 5):
            raise ShapeError(f"{self.name} takes dy, q, k, v and at most a mask, not {len(types)} operands")
        dy, q, k, v = types[:4]
        self._check(*types[1:])
        wanted = q.with_shape((*q.shape[:-1], v.shape[-1]))
        if dy != wanted:
            raise ShapeError(f"{self.name} of {dy}\n  rule: dy has the type of the result, {wanted}")
        return q, k, v

    def eval(
        self, xp: Any, dy: Array, q: Array, k: Array, v: Array, *mask: Array, causal: bool, scale: float
    ) -> tuple[Array, ...]:
        p, wide = _weights(xp, q, k, mask, causal, scale), dy.astype(np.float64)
        dp = xp.matmul(wide, v.astype(np.float64).swapaxes(-1, -2))
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * scale
        ds = xp.where(_allowed(xp, ds.shape, mask, causal), ds, 0)
        dq, dk = xp.matmul(ds, k.astype(np.float64)), xp.matmul(ds.swapaxes(-1, -2), q.astype(np.float64))
        return tuple(x.astype(q.dtype) for x in (dq, dk, xp.matmul(p.swapaxes(-1, -2), wide)))

    def decompose(
        self, build: Any, dy: Value, q: Value, k: Value, v: Value, *mask: Value, causal: bool, scale: float
    ) -> tuple[Value, Value, Value]:
        p, conditions = self._probabilities(build, q, k, mask, causal, scale)
        dv = build.matmul(p, dy, transpose_a=True)
        ds = build.mul(self._scores_cotangent(build, dy, v, p, conditions), scale)
        return build.matmul(ds, k), build.matmul(ds, q, transpose_a=True), dv
