"""Programs of the composites that fast numerics compute whole, and what they are to give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tapeir as tp
from tapeir import ops
from tapeir.ir import OPS, Module
from tapeir.ir.types import Array, DType, Shape, f32

SCALE = 0.25
ATTENTION, GRADIENT = OPS["scaled_dot_product_attention"], OPS["scaled_dot_product_attention_grad"]


def attention(
    shapes: Sequence[Shape],
    dtype: DType = f32,
    causal: bool = False,
    masked: bool = False,
    by_head: bool = False,
    added: bool = False,
) -> tuple[Module, list[Array]]:
    """A function of q, k, v of some shapes, a cotangent and perhaps a mask that gives attention and its gradient, and arrays for it.

    ``masked``: a bool mask whose last query may see no key; ``added``: a floating one instead, minus infinity where that is False.
    ``by_head``: q, k, v and the cotangent are views of arrays ``[batch, rows, heads, columns]``.
    """
    random = np.random.default_rng(0)
    y = (*shapes[0][:-1], shapes[2][-1])
    arrays = [random.standard_normal(s).astype(np.float32).astype(dtype.numpy) for s in (*shapes, y)]
    types = [dtype[s] for s in (*shapes, y)]
    if by_head:
        arrays = [np.ascontiguousarray(a.swapaxes(1, 2)) for a in arrays]
        types = [dtype[a.shape] for a in arrays]
    if masked:
        arrays.append(random.integers(0, 2, (*shapes[0][:-1], shapes[1][-2])).astype(np.bool_))
        arrays[-1][..., -1, :] = False
        if added:
            bias = random.standard_normal(arrays[-1].shape).astype(np.float32)
            arrays[-1] = np.where(arrays[-1], bias, -np.inf).astype(dtype.numpy)
        types.append((dtype if added else tp.bool_)[arrays[-1].shape])

    def f(q: Any, k: Any, v: Any, dy: Any, *mask: Any) -> Any:
        if by_head:
            q, k, v, dy = (ops.permute_dims(x, (0, 2, 1, 3)) for x in (q, k, v, dy))

        def of(q: Any, k: Any, v: Any) -> Any:
            return ops.scaled_dot_product_attention(q, k, v, *mask, is_causal=causal, scale=SCALE)

        return (of(q, k, v), *tp.grad(lambda *x: ops.sum(of(*x) * dy), argnums=(0, 1, 2))(q, k, v))

    return tp.trace(f, *types), arrays


def attention_by_definition(arrays: Sequence[Array], causal: bool = False, by_head: bool = False) -> list[Array]:
    """What the function of ``attention`` is to give, by the ops' meaning in float64."""
    q, k, v, dy, *mask = [a.swapaxes(1, 2) for a in arrays] if by_head else arrays
    attrs = {"causal": causal, "scale": SCALE}
    with np.errstate(invalid="ignore"):
        return [ATTENTION.eval(np, q, k, v, *mask, **attrs), *GRADIENT.eval(np, dy, q, k, v, *mask, **attrs)]


def layers(dtype: DType = f32, activation: Any = ops.relu) -> Module:
    """A loss of two layers, with gradients."""

    def f(x: Any, w: Any, b: Any, v: Any, c: Any) -> Any:
        def loss(w: Any, b: Any, v: Any, c: Any) -> Any:
            return ops.sum((activation(x @ w.T + b) @ v + c) ** 2)

        return (loss(w, b, v, c), *tp.grad(loss, argnums=(0, 1, 2, 3))(w, b, v, c))

    return tp.trace(f, dtype[2, 5, 6], dtype[8, 6], dtype[8], dtype[8, 3], dtype[3])
