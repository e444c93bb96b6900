"""Attention masks: bool and floating ones, rows that may see nothing, shared heads, leading axes that broadcast."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from outcomes import same_bits

import tapeir as tp
from tapeir import ops
from tapeir.ir.errors import DtypeError, ShapeError
from tapeir.ir.types import Array

from .closeness import random

BACKENDS = ("eager", "compiled")
QUERIES, KEYS = 5, 4
HIDDEN = 2
"""The query that may see no key."""


def weights(q: Array, k: Array, added: Array, scale: float | None = None) -> Array:
    """The weights in float64 for a mask that is added; 0 for a row without keys."""
    scores = q @ k.swapaxes(-1, -2) * (scale or 1 / np.sqrt(q.shape[-1])) + added
    top = scores.max(-1, keepdims=True)
    e = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def operands(*lead: int) -> tuple[Array, Array, Array]:
    return random(*lead, QUERIES, 3), random(*lead, KEYS, 3, seed=1), random(*lead, KEYS, 2, seed=2)


ALLOWED = np.array([[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]], np.bool_)
assert not ALLOWED[HIDDEN].any()
FORBIDDEN = np.where(ALLOWED, 0.0, -np.inf)
CAUSAL = np.where(np.tri(QUERIES, KEYS) > 0, 0.0, -np.inf)
SLOPED = FORBIDDEN + random(QUERIES, KEYS, seed=3)
LATE = np.broadcast_to(np.arange(KEYS) > 0, (QUERIES, KEYS))
MASKS: dict[str, tuple[Array | None, bool, Array]] = {
    # name: mask, is_causal, what is added to the scores
    "bool": (ALLOWED, False, FORBIDDEN),
    "zeros and infinities": (FORBIDDEN, False, FORBIDDEN),
    "a bias": (SLOPED, False, SLOPED),
    "a finite bias": (random(QUERIES, KEYS, seed=3), False, random(QUERIES, KEYS, seed=3)),
    "causal": (None, True, CAUSAL),
    "causal without the first key": (LATE, True, CAUSAL + np.where(LATE, 0.0, -np.inf)),
    "causal and a bias": (SLOPED, True, SLOPED + CAUSAL),
    "a row for all": (ALLOWED[:1], False, FORBIDDEN[:1]),
    "a column for all": (ALLOWED[:, :1], False, FORBIDDEN[:, :1]),
    "a bias of one key": (SLOPED[:, 1:2], False, SLOPED[:, 1:2]),
    "heads": (np.stack([ALLOWED, ~ALLOWED])[:, None], False, np.stack([FORBIDDEN, np.where(ALLOWED, -np.inf, 0.0)])[:, None]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str, dtype: str, table: str) -> None:
    mask, causal, added = MASKS[name]
    q, k, v = (x.astype(dtype) for x in operands(2, 3))
    given = None if mask is None else mask if mask.dtype == np.bool_ else mask.astype(dtype)
    dy = random(2, 3, QUERIES, 2, seed=4).astype(dtype)

    def attend(q: Any, k: Any, v: Any) -> Any:
        return ops.scaled_dot_product_attention(q, k, v, given, is_causal=causal)

    def both(q: Any, k: Any, v: Any) -> Any:
        y, pullback = tp.vjp(attend, q, k, v)
        return y, *pullback(dy), tp.jvp(attend, (q, k, v), (k[..., :1, :] + 0 * q, k, v))[1]

    eager, compiled = (tp.compile(both, backend=b)(q, k, v) for b in BACKENDS)
    for a, b in zip(eager, compiled, strict=True):
        assert same_bits(a, b)
    q, k, v, dy = (x.astype(np.float64) for x in (q, k, v, dy))
    p = weights(q, k, added)
    dp = dy @ v.swapaxes(-1, -2)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / np.sqrt(3)
    tangent = (k[..., :1, :] + 0 * q) @ k.swapaxes(-1, -2) + q @ k.swapaxes(-1, -2)
    moved = p * (tangent - (p * tangent).sum(-1, keepdims=True)) / np.sqrt(3)
    wanted = (p @ v, ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ dy, moved @ v + p @ v)
    for found, expected in zip(eager, wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 if dtype == "float64" else 2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", ["bool", "zeros and infinities", "causal without the first key"])
def test_a_query_that_sees_no_key_gives_exactly_0(mask: str, backend: str, table: str) -> None:
    given, causal, added = MASKS[mask]
    hidden = int(np.flatnonzero(np.isneginf(np.broadcast_to(added, (QUERIES, KEYS))).all(-1))[0])
    arrays = [x.astype(np.float32) for x in operands()]
    given = given if given is None or given.dtype == np.bool_ else given.astype(np.float32)

    def attend(q: Any, k: Any, v: Any) -> Any:
        return ops.scaled_dot_product_attention(q, k, v, given, is_causal=causal)

    def derivatives(*x: Any) -> Any:
        def loss(*x: Any) -> Any:
            return ops.sum(attend(*x) ** 2)

        first = tp.grad(loss, argnums=(0, 1, 2))
        return *first(*x), *tp.hvp(loss, x, x), tp.jvp(attend, x, x)[1]

    y = tp.compile(attend, backend=backend)(*arrays)
    found = tp.compile(derivatives, backend=backend)(*arrays)
    for exact in (y, found[0], found[-1]):
        assert (exact[hidden] == 0).all()
        assert np.abs(np.delete(exact, hidden, 0)).max() > 0
    for x in found:
        assert np.isfinite(x).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_that_is_added_has_a_gradient(backend: str, table: str) -> None:
    q, k, v = operands(2, 3)
    bias = SLOPED[None].repeat(3, 0)

    def loss(bias: Any) -> Any:
        return ops.sum(ops.square(ops.scaled_dot_product_attention(q, k, v, bias, is_causal=True)))

    found = tp.compile(tp.grad(loss), backend=backend)(bias)
    tangent = tp.compile(lambda b, t: tp.jvp(loss, (b,), (t,))[1], backend=backend)(bias, np.ones_like(bias) * found)
    p = weights(q, k, bias + CAUSAL)
    dp = 2 * (p @ v) @ v.swapaxes(-1, -2)
    expected = (p * (dp - (dp * p).sum(-1, keepdims=True))).sum(0)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(tangent, (expected**2).sum(), rtol=1e-12)
    assert (found[:, HIDDEN] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_share_the_heads_of_keys_and_values(backend: str) -> None:
    q, k, v = random(2, 6, 5, 3), random(2, 2, 4, 3, seed=1), random(2, 2, 4, 2, seed=2)

    def attend(q: Any, k: Any, v: Any) -> Any:
        return ops.scaled_dot_product_attention(q, k, v, ALLOWED, scale=0.7, enable_gqa=True)

    def repeated(q: Any, k: Any, v: Any) -> Any:
        k, v = (ops.stack([x] * 3, axis=2).reshape((2, 6, 4, -1)) for x in (k, v))
        return ops.scaled_dot_product_attention(q, k, v, ALLOWED, scale=0.7)

    found = tp.compile(attend, backend=backend)(q, k, v)
    np.testing.assert_allclose(found, weights(q, k.repeat(3, 1), FORBIDDEN, 0.7) @ v.repeat(3, 1), atol=1e-12)
    gradients, expected = (
        tp.compile(tp.grad(lambda *x, f=f: ops.sum(f(*x) ** 2), argnums=(0, 1, 2)), backend=backend)(q, k, v)
        for f in (attend, repeated)
    )
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_leading_axes_broadcast() -> None:
    q, k, v = random(2, 1, 5, 3), random(3, 4, 3, seed=1), random(4, 2, seed=2)
    found = ops.scaled_dot_product_attention(q, k, v, ALLOWED)
    np.testing.assert_allclose(found, weights(q, k, FORBIDDEN) @ v, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_key_at_all_gives_0(backend: str, table: str) -> None:
    q, k, v = (np.ones(s, np.float32) for s in ((2, 5, 3), (2, 0, 3), (2, 0, 4)))

    def both(q: Any, k: Any, v: Any) -> Any:
        y, pullback = tp.vjp(ops.scaled_dot_product_attention, q, k, v)
        return y, *pullback(y + 1)

    y, dq, dk, dv = tp.compile(both, backend=backend)(q, k, v)
    assert (y == 0).all()
    assert y.shape == (2, 5, 4)
    assert (dq == 0).all()
    assert (dk.shape, dv.shape) == ((2, 0, 3), (2, 0, 4))


def test_an_integer_mask_is_an_error() -> None:
    q, k, v = operands()
    with pytest.raises(DtypeError) as caught:
        ops.scaled_dot_product_attention(q, k, v, ALLOWED.astype(np.int64))
    assert "attn_mask is i64[5, 4]\n" in str(caught.value)
    assert "rule: it is bool, True where a query may see a key, or floating, added to the scores" in str(caught.value)
    assert "remedy: attn_mask != 0" in str(caught.value)


def test_heads_that_do_not_divide_are_an_error() -> None:
    q, k = random(1, 6, 5, 3), random(1, 4, 5, 3)
    with pytest.raises(ShapeError) as caught:
        ops.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    assert "6 heads of queries, 4 of keys and 4 of values\n" in str(caught.value)
    assert "rule: the heads, axis -3, of queries are a multiple of those of keys and values" in str(caught.value)
    with pytest.raises(ShapeError, match="remedy: enable_gqa=True lets queries share heads"):
        ops.scaled_dot_product_attention(q, k, k)
