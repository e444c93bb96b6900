"""PyTorch's operators, by their names in its OpInfo list, written with ``tp.ops``: each takes PyTorch's arguments.

A sample that TapeIR has no function for raises ``AbsentError`` with the reason; ``ABSENT`` lists all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tapeir import ops

Call = Callable[..., Any]


class AbsentError(Exception):
    """A sample asks for something that TapeIR does not have; the message says what."""


def _none(reason: str, *given: Any) -> None:
    if any(g is not None and g is not False for g in given):
        raise AbsentError(reason)


def _axes(dim: Any) -> Any:
    """PyTorch's axes: an empty list means all of them."""
    return None if dim is None or dim == () or dim == [] else dim


def _reduced(name: str) -> Call:
    def call(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
        _none("a result dtype", dtype)
        return getattr(ops, name)(x, axis=_axes(dim), keepdims=keepdim)

    return call


def _position(name: str) -> Call:
    def call(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        return getattr(ops, name)(x, axis=dim, keepdims=keepdim)

    return call


def _spread(name: str) -> Call:
    def call(x: Any, dim: Any = None, unbiased: bool | None = None, correction: Any = 1, keepdim: bool = False) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        if unbiased is not None:
            correction = int(unbiased)
        return getattr(ops, name)(
            x, axis=_axes(dim), correction=1 if correction is None else correction, keepdims=keepdim
        )

    return call


def _add(x: Any, y: Any, alpha: Any = 1) -> Any:
    return ops.add(x, y if alpha == 1 else ops.multiply(y, alpha))


def _sub(x: Any, y: Any, alpha: Any = 1) -> Any:
    return ops.subtract(x, y if alpha == 1 else ops.multiply(y, alpha))


def _rsub(x: Any, y: Any, alpha: Any = 1) -> Any:
    return _sub(y, x, alpha)


def _where(x: Any, condition: Any, y: Any) -> Any:
    return ops.where(condition, x, y)


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    return ops.clip(x, min, max)


def _div(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return ops.floor_divide(x, y)
    _none("division that truncates", rounding_mode)
    return ops.divide(x, y)


def _split_at(x: Any, sizes: Any, dim: int = 0) -> Any:
    n = x.shape[dim]
    if isinstance(sizes, int):
        return tuple(ops.split(x, list(range(sizes, n, sizes)), axis=dim))
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return tuple(ops.split(x, ends, axis=dim))


def _chunk(x: Any, chunks: int, dim: int = 0) -> Any:
    return _split_at(x, -(-x.shape[dim] // chunks), dim)


def _unbind(x: Any, dim: int = 0) -> Any:
    return tuple(ops.squeeze(p, dim) for p in ops.split(x, x.shape[dim], axis=dim)) if x.shape[dim] else _nothing()


def _nothing() -> Any:
    raise AbsentError("a list of no tensors")


def _swap(x: Any, a: int, b: int) -> Any:
    order = list(range(x.ndim))
    if order:
        order[a], order[b] = order[b], order[a]
    return ops.permute_dims(x, order)


def _movedim(x: Any, source: Any, destination: Any) -> Any:
    sources = [source] if isinstance(source, int) else list(source)
    targets = [destination] if isinstance(destination, int) else list(destination)
    sources, targets = [a % x.ndim for a in sources], [a % x.ndim for a in targets]
    order = [a for a in range(x.ndim) if a not in sources]
    for target, moved in sorted(zip(targets, sources, strict=True)):
        order.insert(target, moved)
    return ops.permute_dims(x, order)


def _shape(first: Any, rest: Sequence[Any]) -> list[int]:
    return [first, *rest] if isinstance(first, int) else list(first)


def _expand(x: Any, *sizes: Any) -> Any:
    wanted = _shape(sizes[0], sizes[1:]) if sizes else []
    own = [1] * (len(wanted) - x.ndim) + list(x.shape)
    return ops.broadcast_to(x, [n if w == -1 else w for w, n in zip(wanted, own, strict=True)])


def _reshape(x: Any, *sizes: Any) -> Any:
    return ops.reshape(x, _shape(sizes[0], sizes[1:]))


def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if not x.ndim:
        return ops.reshape(x, [1])
    start, end = start_dim % x.ndim, end_dim % x.ndim
    return ops.reshape(x, [*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]])


def _unflatten(x: Any, dim: int, sizes: Sequence[int]) -> Any:
    dim %= x.ndim
    known = math.prod(n for n in sizes if n != -1)
    full = [x.shape[dim] // known if n == -1 else n for n in sizes]
    return ops.reshape(x, [*x.shape[:dim], *full, *x.shape[dim + 1 :]])


def _squeeze(x: Any, dim: Any = None) -> Any:
    if dim is None:
        return ops.squeeze(x)
    axes = {a % x.ndim for a in ([dim] if isinstance(dim, int) else dim)} if x.ndim else set[int]()
    return ops.squeeze(x, tuple(a for a in axes if x.shape[a] == 1))


def _narrow(x: Any, dim: int, start: Any, length: int) -> Any:
    if not isinstance(start, int):
        raise AbsentError("a start that is a tensor")
    start %= max(x.shape[dim], 1)
    return ops.index(x, (*[slice(None)] * (dim % x.ndim), slice(start, start + length)))


def _select(x: Any, dim: int, index: int) -> Any:
    return ops.index(x, (*[slice(None)] * (dim % x.ndim), index))


def _stacked(axis: int) -> Call:
    def call(arrays: Sequence[Any]) -> Any:
        least = 2 if axis == 0 else 1
        wide = [ops.reshape(a, [1] * (least - a.ndim) + list(a.shape)) if a.ndim < least else a for a in arrays]
        return ops.concat(wide, axis=0 if wide[0].ndim == 1 else axis)

    return call


def _cat(arrays: Sequence[Any], dim: int = 0) -> Any:
    if len({a.ndim for a in arrays}) > 1:
        raise AbsentError("concat of an empty vector with arrays of another rank")
    return ops.concat(list(arrays), axis=dim)


def _stack(arrays: Sequence[Any], dim: int = 0) -> Any:
    return ops.stack(list(arrays), axis=dim)


def _flip(x: Any, dims: Any) -> Any:
    return ops.flip(x, axis=tuple(dims))


def _roll(x: Any, shifts: Any, dims: Any = None) -> Any:
    if dims is None or dims == () or not x.ndim:
        shape = x.shape
        if not isinstance(shifts, int):
            raise AbsentError("several shifts of a flattened tensor")
        return ops.reshape(_roll(ops.reshape(x, [-1] if x.size else [0]), shifts, 0), list(shape))
    pairs = [(shifts, dims)] if isinstance(dims, int) else list(zip(shifts, dims, strict=True))
    for shift, dim in pairs:
        n = x.shape[dim]
        if n and shift % n:
            x = ops.concat(list(reversed(ops.split(x, [n - shift % n], axis=dim))), axis=dim)
    return x


def _repeat(x: Any, *sizes: Any) -> Any:
    counts = _shape(sizes[0], sizes[1:]) if sizes else []
    shape = [1] * (len(counts) - x.ndim) + list(x.shape)
    spread = [m for c, n in zip(counts, shape, strict=True) for m in (c, n)]
    split = ops.reshape(x, [m for n in shape for m in (1, n)])
    return ops.reshape(ops.broadcast_to(split, spread), [c * n for c, n in zip(counts, shape, strict=True)])


def _pad(x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = 0.0) -> Any:
    _none("padding that is not constant", mode if mode != "constant" else None)
    if min(pad, default=0) < 0:
        raise AbsentError("negative padding")
    pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]
    return ops.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1], value or 0)


def _constant_pad(x: Any, pad: Sequence[int], value: float = 0) -> Any:
    return _pad(x, pad, "constant", value)


def _take_along(x: Any, indices: Any, dim: int | None = None) -> Any:
    if dim is None:
        return ops.take(ops.reshape(x, [-1]), ops.reshape(indices, [-1]))
    return ops.take_along_axis(x, indices, axis=dim)


def _gather(x: Any, dim: int, index: Any, sparse_grad: bool = False) -> Any:
    if not x.ndim or not index.ndim:
        raise AbsentError("a gather of a scalar")
    own = ops.index(x, tuple(slice(None) if a == dim % x.ndim else slice(0, n) for a, n in enumerate(index.shape)))
    return ops.take_along_axis(own, index, axis=dim)


def _index_select(x: Any, dim: int, index: Any) -> Any:
    if not x.ndim or not index.ndim:
        raise AbsentError("an index that is a scalar")
    return ops.take(x, index, axis=dim)


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if weight.ndim != 2:
        raise AbsentError("a weight that is a vector")
    return ops.linear(x, weight, bias)


def _addmm(c: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Any:
    return c * beta + ops.matmul(a, b) * alpha


def _conv(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    if x.ndim < weight.ndim:
        raise AbsentError("an image without a batch")
    m = weight.ndim - 2
    stride, dilation = _sizes(stride, m), _sizes(dilation, m)
    padding = padding if isinstance(padding, str) else _sizes(padding, m)
    return ops.conv(x, weight, bias, stride, padding, dilation, groups)


def _sizes(value: Any, m: int) -> Any:
    return (value,) * m if isinstance(value, int) else tuple(value) * (m if len(value) == 1 else 1)


def _max_pool(m: int) -> Call:
    def call(
        x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:  # fmt: skip
        _none("pools in ceil mode, or with indices", ceil_mode, return_indices)
        size, step = _sizes(kernel_size, m), stride if stride is None or stride == () else _sizes(stride, m)
        return ops.max_pool(x, size, step or None, _sizes(padding, m), _sizes(dilation, m))

    return call


def _avg_pool(m: int) -> Call:
    def call(
        x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Any:  # fmt: skip
        _none("pools in ceil mode, or with a divisor", ceil_mode, divisor_override)
        step = _sizes(stride, m) if stride else None
        return ops.avg_pool(x, _sizes(kernel_size, m), step, _sizes(padding, m), count_include_pad)

    return call


def _layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    if 0 in x.shape or not len(normalized_shape):
        raise AbsentError("a normalisation of nothing")
    return ops.layer_norm(x, tuple(normalized_shape), weight, bias, eps)


def _batch_norm(
    x: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if 0 in x.shape:
        raise AbsentError("a normalisation of nothing")
    if training:
        return ops.batch_norm(x, weight=weight, bias=bias, eps=eps)
    return ops.batch_norm(x, running_mean, running_var, weight, bias, eps)


def _softmax(name: str) -> Call:
    def call(x: Any, dim: int, dtype: Any = None) -> Any:
        _none("a result dtype", dtype)
        if not x.ndim:
            raise AbsentError("a softmax of a scalar")
        return getattr(ops, name)(x, axis=dim)

    return call


def _cross_entropy(x: Any, target: Any, **options: Any) -> Any:
    if any(n != "reduction" or v != "mean" for n, v in options.items()):
        raise AbsentError("an option of cross_entropy")
    if x.ndim != 2:
        raise AbsentError("cross_entropy of another rank")
    return ops.cross_entropy(x, target)


def _mse(x: Any, target: Any, reduction: str = "mean") -> Any:
    if x.shape != target.shape:
        raise AbsentError("mse of two shapes")
    if reduction == "mean":
        return ops.mse(x, target)
    squares = ops.square(x - target)
    return ops.sum(squares) if reduction == "sum" else squares


def _embedding(weight: Any, x: Any, **options: Any) -> Any:
    _none("an option of embedding", *options.values())
    return ops.embedding(x, weight)


def _softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
    return ops.where(x * beta > threshold, x, ops.softplus(x * beta) / beta)


def _leaky(x: Any, negative_slope: float = 0.01) -> Any:
    return ops.where(x > 0, x, x * negative_slope)


def _elu(x: Any, alpha: float = 1.0) -> Any:
    return ops.where(x > 0, x, ops.expm1(ops.minimum(x, 0.0)) * alpha)


def _hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    return ops.clip(x, min_val, max_val)


def _threshold(x: Any, threshold: float, value: float) -> Any:
    return ops.where(x > threshold, x, value)


def _lerp(x: Any, y: Any, weight: Any) -> Any:
    return x + (y - x) * weight


def _addcmul(x: Any, a: Any, b: Any, value: float = 1) -> Any:
    return x + a * b * value


def _addcdiv(x: Any, a: Any, b: Any, value: float = 1) -> Any:
    return x + a / b * value


def _masked_fill(x: Any, mask: Any, value: Any) -> Any:
    return ops.where(mask, value, x)


def _huber(x: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    if x.shape != target.shape:
        raise AbsentError("a loss of two shapes")
    apart = ops.abs(x - target)
    each = ops.where(apart < delta, ops.square(apart) * 0.5, (apart - 0.5 * delta) * delta)
    return {"mean": ops.mean, "sum": ops.sum}[reduction](each) if reduction != "none" else each


def _l1(x: Any, target: Any, reduction: str = "mean") -> Any:
    if x.shape != target.shape:
        raise AbsentError("a loss of two shapes")
    each = ops.abs(x - target)
    return {"mean": ops.mean, "sum": ops.sum}[reduction](each) if reduction != "none" else each


def _attention(
    q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, scale: Any = None,
    enable_gqa: bool = False,
) -> Any:  # fmt: skip
    if dropout_p or enable_gqa:
        raise AbsentError("attention with dropout or grouped heads")
    if len({t.shape[:-2] for t in (q, k, v)}) > 1:
        raise AbsentError("attention that broadcasts its batch")
    if attn_mask is not None and attn_mask.dtype.floating:
        raise AbsentError("attention with a floating mask")
    return ops.scaled_dot_product_attention(q, k, v, attn_mask, is_causal, scale)


UNARY = {
    "abs": "abs", "ceil": "ceil", "cos": "cos", "erf": "erf", "exp": "exp", "expm1": "expm1", "floor": "floor", "isfinite": "isfinite",
    "isinf": "isinf", "isnan": "isnan", "log": "log", "log1p": "log1p", "logical_not": "logical_not", "neg": "negative", "round": "round",
    "rsqrt": "rsqrt", "sigmoid": "sigmoid", "sign": "sign", "sin": "sin", "sqrt": "sqrt", "square": "square", "tanh": "tanh",
    "nn.functional.relu": "relu", "nn.functional.silu": "silu",}  # fmt: skip
BINARY = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "mul": "multiply",
    "true_divide": "divide", "floor_divide": "floor_divide", "remainder": "remainder", "pow": "pow", "maximum": "maximum",
    "minimum": "minimum", "max.binary": "maximum", "min.binary": "minimum", "logical_and": "logical_and", "logical_or": "logical_or",
    "logical_xor": "logical_xor", "matmul": "matmul", "mm": "matmul", "bmm": "matmul", "mv": "matmul", "__rmul__": "multiply",
    "__radd__": "add", "clamp_min": "maximum", "clamp_max": "minimum",
}  # fmt: skip
OF_ONE: dict[str, Callable[[Any], Any]] = {
    "reciprocal": lambda x: 1 / x,
    "t": lambda x: _swap(x, 0, 1) if x.ndim == 2 else ops.reshape(x, list(x.shape)),
    "fliplr": lambda x: ops.flip(x, axis=1),
    "flipud": lambda x: ops.flip(x, axis=0),
    "nn.functional.relu6": lambda x: ops.clip(x, 0, 6),
    "nn.functional.logsigmoid": lambda x: -ops.softplus(-x),
    "nn.functional.softsign": lambda x: x / (1 + ops.abs(x)),
    "nn.functional.tanhshrink": lambda x: x - ops.tanh(x),
    "nn.functional.mish": lambda x: x * ops.tanh(ops.softplus(x)),
}
OF_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "__rsub__": lambda x, y: ops.subtract(y, x),
    "__rdiv__": lambda x, y: ops.divide(y, x),
    "__rpow__": lambda x, y: ops.pow(y, x),
    "__rmod__": lambda x, y: ops.remainder(y, x),
    "__rmatmul__": lambda x, y: ops.matmul(y, x),
    "expand_as": lambda x, y: ops.broadcast_to(x, y.shape),
    "reshape_as": lambda x, y: ops.reshape(x, y.shape),
    "outer": lambda x, y: ops.expand_dims(x, 1) * y,
    "dot": lambda x, y: ops.sum(x * y),
    "vdot": lambda x, y: ops.sum(x * y),
}
TABLE: dict[str, Call] = {
    **{name: getattr(ops, own) for name, own in {**UNARY, **BINARY}.items()},
    **OF_ONE, **OF_TWO,
    "add": _add, "sub": _sub, "rsub": _rsub, "div.no_rounding_mode": _div, "div.floor_rounding": _div, "clamp": _clamp, "where": _where,
    "sum": _reduced("sum"), "mean": _reduced("mean"), "amax": _reduced("max"), "amin": _reduced("min"),
    "max.reduction_no_dim": _reduced("max"), "min.reduction_no_dim": _reduced("min"),
    "argmax": _position("argmax"), "argmin": _position("argmin"), "var": _spread("var"), "std": _spread("std"),
    "var.unbiased": _spread("var"), "std.unbiased": _spread("std"),
    "cat": _cat, "stack": _stack, "hstack": _stacked(1), "vstack": _stacked(0), "split": _split_at, "split.list_args": _split_at,
    "split_with_sizes": _split_at, "chunk": _chunk, "unbind": _unbind, "transpose": _swap, "mT": ops.matrix_transpose,
    "movedim": _movedim, "permute": ops.permute_dims, "expand": _expand, "broadcast_to": _expand, "reshape": _reshape, "view": _reshape,
    "ravel": _flatten, "flatten": _flatten, "unflatten": _unflatten, "squeeze": _squeeze, "squeeze.multiple": _squeeze,
    "unsqueeze": ops.expand_dims, "flip": _flip, "roll": _roll, "repeat": _repeat, "narrow": _narrow, "select": _select,
    "take_along_dim": _take_along, "gather": _gather, "index_select": _index_select,
    "nn.functional.pad.constant": _pad, "constant_pad_nd": _constant_pad,
    "nn.functional.linear": _linear, "addmm": _addmm, "baddbmm": _addmm, "addmv": _addmm,
    "nn.functional.conv1d": _conv, "nn.functional.conv2d": _conv, "nn.functional.conv3d": _conv,
    "nn.functional.max_pool1d": _max_pool(1), "nn.functional.max_pool2d": _max_pool(2), "nn.functional.max_pool3d": _max_pool(3),
    "nn.functional.avg_pool1d": _avg_pool(1), "nn.functional.avg_pool2d": _avg_pool(2), "nn.functional.avg_pool3d": _avg_pool(3),
    "nn.functional.layer_norm": _layer_norm, "nn.functional.batch_norm": _batch_norm, "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"), "nn.functional.cross_entropy": _cross_entropy, "nn.functional.mse_loss": _mse,
    "nn.functional.embedding": _embedding, "nn.functional.gelu": ops.gelu, "nn.functional.softplus": _softplus,
    "nn.functional.leaky_relu": _leaky, "nn.functional.elu": _elu, "nn.functional.hardtanh": _hardtanh,
    "nn.functional.threshold": _threshold, "nn.functional.huber_loss": _huber, "nn.functional.l1_loss": _l1,
    "nn.functional.scaled_dot_product_attention": _attention, "lerp": _lerp, "addcmul": _addcmul, "addcdiv": _addcdiv,
    "masked_fill": _masked_fill,
}  # fmt: skip
"""Functions by the names of PyTorch's operators, with their variants."""
ABSENT = {
    "index_select": {"an index that is a scalar"},
    "nn.functional.conv2d": {"an image without a batch"},
    "nn.functional.conv3d": {"an image without a batch"},
    **{f"nn.functional.max_pool{m}d": {"pools in ceil mode, or with indices"} for m in (1, 2, 3)},
    **{f"nn.functional.avg_pool{m}d": {"pools in ceil mode, or with a divisor"} for m in (1, 2, 3)},
    "nn.functional.batch_norm": {"a normalisation of nothing"},
    "nn.functional.cross_entropy": {"cross_entropy of another rank", "an option of cross_entropy"},
    "nn.functional.scaled_dot_product_attention": {
        "attention with dropout or grouped heads",
        "attention with a floating mask",
    },
}
"""The reasons for which samples of an operator are left out, those that are met before enough have run."""
