"""Matrix products and the functions of neural networks, under PyTorch's names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir.errors import ArgumentValueError, DtypeError, ShapeError
from ...ir.graph import Value
from ...ir.record import here
from ...ir.types import DType, Shape, bool_, broadcast_shapes, normalize_axis
from ..convert import as_value, broadcast, builder, cast, on_tape, promoted
from ..tensor import Tensor
from .apply import as_shape, chosen_key, floating, located_errors, unary
from .arithmetic import add, multiply, rsqrt, subtract
from .reduction import mean
from .shape import reshape


def _untransposed(value: Value) -> tuple[Value, bool]:
    """The operand of a swap of the last two axes and True, else the value itself and False."""
    owner, rank = value.owner, value.type.rank
    if (
        owner is not None
        and owner.op.name == "permute_dims"
        and owner.attrs["axes"] == (*range(rank - 2), rank - 1, rank - 2)
    ):
        return owner.operands[0], True
    return value, False


@on_tape
def matmul(x: Any, y: Any) -> Tensor:
    """The matrix product over the last two axes; leading axes broadcast, and a 1-D operand is a row or column."""
    a, b = as_value(x), as_value(y)
    with located_errors("matmul", a, b):
        if not a.type.rank or not b.type.rank:
            raise ShapeError("matmul of a scalar\n  rule: rank 1 or more; use * for scalars")
        dtype = promoted([a.type.dtype, b.type.dtype])
    if dtype is bool_:
        raise DtypeError("matmul takes no bools", here())
    a, b = cast(a, dtype), cast(b, dtype)
    build = builder()
    row, column = a.type.rank == 1, b.type.rank == 1
    if row:
        a = build.reshape(a, shape=(1, *a.type.shape))
    if column:
        b = build.reshape(b, shape=(*b.type.shape, 1))
    lead, rows = a.type.shape[:-2], a.type.shape[:-1]
    flatten = b.type.rank == 2 and a.type.rank > 2
    if flatten:
        a = build.reshape(a, shape=(math.prod(a.type.shape[:-1]), a.type.shape[-1]))
    elif a.type.shape[:-2] != b.type.shape[:-2]:
        with located_errors("matmul", a, b):
            lead = broadcast_shapes(a.type.shape[:-2], b.type.shape[:-2])
        a, b = broadcast(a, (*lead, *a.type.shape[-2:])), broadcast(b, (*lead, *b.type.shape[-2:]))
    (a, flip_a), (b, flip_b) = _untransposed(a), _untransposed(b)
    y = build.matmul(a, b, transpose_a=flip_a, transpose_b=flip_b)
    shape = y.type.shape
    if flatten:
        shape = (*rows, shape[-1])
    if row:
        shape = (*shape[:-2], shape[-1])
    if column:
        shape = shape[:-1]
    return Tensor(y if shape == y.type.shape else build.reshape(y, shape=shape))


@on_tape
def linear(x: Any, weight: Any, bias: Any = None) -> Tensor:
    """``x @ weight.T + bias`` with ``weight`` ``[out, in]``: one product for all leading axes of ``x``."""
    a, w = as_value(x), as_value(weight)
    with located_errors("linear", a, w):
        if not a.type.rank or w.type.rank != 2:
            raise ShapeError("linear\n  rule: x has a last axis, and the weight is [out, in]")
        dtype = promoted([a.type.dtype, w.type.dtype])
    rows = reshape(Tensor(cast(a, dtype)), (-1 if a.type.size else math.prod(a.type.shape[:-1]), a.type.shape[-1]))
    y = Tensor(builder().matmul(rows.value, cast(w, dtype), transpose_b=True))
    y = reshape(y, (*a.type.shape[:-1], w.type.shape[0]))
    return y if bias is None else add(y, bias)


@on_tape
def relu(x: Any) -> Tensor:
    """0 where ``x <= 0``, else ``x``."""
    return unary("relu", x)


@on_tape
def gelu(x: Any, approximate: str = "none") -> Tensor:
    """``x * P(X <= x)`` for a standard normal X; ``approximate="tanh"`` is the tanh form."""
    return Tensor(builder().gelu(floating(x), approximate=approximate))


@on_tape
def silu(x: Any) -> Tensor:
    """``x * sigmoid(x)``."""
    return unary("silu", x)


@on_tape
def softplus(x: Any) -> Tensor:
    """``ln(1 + e**x)``."""
    return unary("softplus", x)


def _along(name: str, x: Any, axis: int) -> Tensor:
    value = floating(x)
    with located_errors(name, value):
        at = normalize_axis(axis, value.type.rank)
    return Tensor(getattr(builder(), name)(value, axis=at))


@on_tape
def softmax(x: Any, axis: int = -1) -> Tensor:
    """``e**x`` normalised to sum 1 along an axis."""
    return _along("softmax", x, axis)


@on_tape
def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """The logarithm of ``softmax``, computed without overflow."""
    return _along("log_softmax", x, axis)


@on_tape
def layer_norm(
    x: Any, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """PyTorch's layer_norm over the last axes, which have ``normalized_shape``."""
    value, shape = floating(x), as_shape(normalized_shape)
    with located_errors("layer_norm", value):
        if value.type.shape[-len(shape) :] != shape:
            raise ShapeError(
                f"the last axes are not {list(shape)}\n  rule: normalized_shape is the shape of the last axes"
            )
    result = Tensor(builder().layer_norm(value, rank=len(shape), eps=eps))
    if weight is not None:
        result = multiply(result, weight)
    return result if bias is None else add(result, bias)


@on_tape
def batch_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    """PyTorch's batch_norm of ``x [N, C, *axes]``; everything else is ``[C]``.

    Each channel is normalised by the running values, or without them by its own mean and biased variance.  Running values stay as they are.
    """
    value = floating(x)
    channel = (-1, *[1] * (value.type.rank - 2))
    with located_errors("batch_norm", value):
        if value.type.rank < 2:
            raise ShapeError(f"batch_norm of {value.type}\n  rule: x is [N, C, *axes]")
        if (running_mean is None) != (running_var is None):
            raise ShapeError("one running value\n  rule: running_mean and running_var are given together, or neither")
    if running_mean is None:
        result = Tensor(builder().batch_norm(value, eps=eps))
    else:
        inverse = rsqrt(add(running_var, eps))
        result = multiply(subtract(Tensor(value), reshape(running_mean, channel)), reshape(inverse, channel))
    if weight is not None:
        result = multiply(result, reshape(weight, channel))
    return result if bias is None else add(result, reshape(bias, channel))


@on_tape
def embedding(x: Any, weight: Any) -> Tensor:
    """Rows of ``weight`` at integer indices; one out of range raises IndexError, and so does a negative one."""
    rows, at = as_value(weight), as_value(x)
    with located_errors("embedding", rows, at):
        if not rows.type.rank:
            raise ShapeError("embedding\n  rule: the weight has rows")
    return Tensor(builder().take(rows, at, axis=0))


@on_tape
def dropout(x: Any, p: float = 0.5, key: Any = None) -> Tensor:
    """Zeros each element with probability ``p`` and scales the others by ``1 / (1 - p)``.

    ``key`` is a ``key[]`` tensor; by default the draw's place in the model gives it.
    """
    if not 0 <= p <= 1:
        raise ArgumentValueError(f"dropout with p = {p}; it is a probability")
    value, build = floating(x), builder()
    if p == 0:
        return Tensor(value)
    kept = build.mask(chosen_key(key), p=1 - p, shape=value.type.shape)
    scaled = build.mul(value, 1 / (1 - p)) if p < 1 else value
    return Tensor(build.where(kept, scaled, build.splat(0.0, value.type)))


def _share_heads(q: Value, k: Value, v: Value) -> tuple[Value, Value]:
    """Keys and values with each head (axis -3) repeated for the queries that share it."""
    heads = [x.type.shape[-3] if x.type.rank > 2 else 1 for x in (q, k, v)]
    if not heads[1] or not heads[2] or heads[0] % heads[1] or heads[0] % heads[2]:
        raise ShapeError(
            f"{heads[0]} heads of queries, {heads[1]} of keys and {heads[2]} of values\n"
            "  rule: the heads, axis -3, of queries are a multiple of those of keys and values"
        )

    def repeated(x: Value, have: int) -> Value:
        if have in (1, heads[0]):
            return x
        *lead, _, rows, columns = x.type.shape
        each = builder().reshape(x, shape=(*lead, have, 1, rows, columns))
        each = broadcast(each, (*lead, have, heads[0] // have, rows, columns))
        return builder().reshape(each, shape=(*lead, heads[0], rows, columns))

    return repeated(k, heads[1]), repeated(v, heads[2])


def _mask(mask: Any, dtype: DType, shape: Shape) -> Value:
    """An attention mask, bool or of a dtype, with a shape."""
    value = as_value(mask)
    if value.type.dtype is not bool_ and not value.type.dtype.floating:
        raise DtypeError(
            f"attn_mask is {value.type}\n  rule: it is bool, True where a query may see a key, or floating, added to the scores\n"
            "  remedy: attn_mask != 0"
        )
    return broadcast(value if value.type.dtype is bool_ else cast(value, dtype), shape)


@on_tape
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """PyTorch's attention: ``softmax(q @ k^T * scale + mask) @ v``; a query that may see no key gives 0.

    ``attn_mask`` broadcasts to ``[..., T, S]``: a bool one is True where a query may see a key, a floating one is added to the scores.
    ``is_causal`` lets query ``t`` see keys ``s <= t``.  With ``enable_gqa`` several heads of queries share one of keys and values.
    """
    q, k, v = (floating(t) for t in (query, key, value))
    with located_errors("scaled_dot_product_attention", q, k, v):
        if min(q.type.rank, k.type.rank, v.type.rank) < 2:
            raise ShapeError("attention\n  rule: query, key and value are [..., rows, features]")
        if enable_gqa:
            k, v = _share_heads(q, k, v)
        try:
            lead = broadcast_shapes(*[x.type.shape[:-2] for x in (q, k, v)])
        except ShapeError as error:
            raise ShapeError(
                f"{error}\n  remedy: enable_gqa=True lets queries share heads of keys and values"
            ) from None
        q, k, v = (broadcast(x, (*lead, *x.type.shape[-2:])) for x in (q, k, v))
        operands = [q, k, v]
        if attn_mask is not None:
            operands.append(_mask(attn_mask, q.type.dtype, (*lead, q.type.shape[-2], k.type.shape[-2])))
    factor = scale if scale is not None else 1 / math.sqrt(q.type.shape[-1])
    return Tensor(builder().scaled_dot_product_attention(*operands, causal=is_causal, scale=factor))


@on_tape
def cross_entropy(prediction: Any, target: Any) -> Tensor:
    """The mean over rows of ``-ln softmax(prediction)[target]``: ``[N, C]`` with integer ``[N]`` or floating ``[N, C]``."""
    x, t = floating(prediction), as_value(target)
    return Tensor(builder().cross_entropy(x, cast(t, x.type.dtype) if t.type.dtype.floating else t))


@on_tape
def mse(prediction: Any, target: Any) -> Tensor:
    """The mean squared difference; shapes must be equal."""
    x, t = as_value(prediction), as_value(target)
    with located_errors("mse", x, t):
        if x.type.shape != t.type.shape:
            remedy = (
                f"reshape the target with target.reshape({', '.join(map(str, (-1, *x.type.shape[1:])))})"
                if x.type.size == t.type.size and x.type.shape
                else "give both one shape"
            )
            raise ShapeError(f"prediction {x.type} and target {t.type}\n  rule: shapes are equal\n  remedy: {remedy}")
    difference = subtract(Tensor(x), Tensor(t))
    return mean(multiply(difference, difference))
