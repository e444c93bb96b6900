"""Convolution and pooling over the last axes, under PyTorch's names and with its layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.errors import ShapeError
from ...ir.graph import Value
from ...ir.ops.windows import extents
from ...ir.types import Shape
from ..convert import as_value, broadcast, builder, cast, on_tape, promoted
from ..tensor import Tensor
from .apply import floating, located_errors
from .arithmetic import add, divide
from .shape import pad, reshape

Sizes = int | Sequence[int]


def per_axis(what: str, value: Sizes, count: int) -> Shape:
    """One number for each of ``count`` axes."""
    sizes = (value,) * count if isinstance(value, int) else tuple(value)
    if len(sizes) != count:
        raise ShapeError(f"{what} {list(sizes)}\n  rule: one number, or one for each of {count} axes")
    return sizes


def _padded(value: Value, pairs: Sequence[tuple[int, int]]) -> Value:
    """The last axes with zeros before and behind."""
    if not any(map(any, pairs)):
        return value
    return pad(Tensor(value), [(0, 0)] * (value.type.rank - len(pairs)) + list(pairs)).value


def _around(padding: Sizes | str, size: Shape, stride: Shape, dilation: Shape) -> list[tuple[int, int]]:
    """How many zeros stand before and behind each axis."""
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ShapeError(f'padding "{padding}"\n  rule: it is a number, one for each axis, "same" or "valid"')
        if padding == "same" and any(s != 1 for s in stride):
            raise ShapeError(f'padding "same" with stride {list(stride)}\n  rule: "same" is for stride 1')
        reach = [r - 1 if padding == "same" else 0 for r in extents(size, dilation)]
        return [(r // 2, r - r // 2) for r in reach]
    widths = per_axis("padding", padding, len(size))
    if any(w < 0 for w in widths):
        raise ShapeError(f"padding {list(widths)}\n  rule: it is not negative")
    return [(w, w) for w in widths]


@on_tape
def conv(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """PyTorch's conv1d, conv2d and conv3d: cross-correlation of ``x [N, C, *axes]`` with ``weight [O, C / groups, *size]``.

    ``bias`` is ``[O]``; ``padding`` puts zeros on both sides of each axis, ``"same"`` so many that the axes keep their sizes.
    """
    a, w = as_value(x), as_value(weight)
    with located_errors("conv", a, w):
        if a.type.rank < 2 or w.type.rank != a.type.rank:
            raise ShapeError("conv\n  rule: x is [N, C, *axes] and the weight is [O, C / groups, *size]")
        m, size = a.type.rank - 2, w.type.shape[2:]
        steps, spread = per_axis("stride", stride, m), per_axis("dilation", dilation, m)
        pairs = _around(padding, size, steps, spread)
        dtype = promoted([a.type.dtype, w.type.dtype])
    a = _padded(cast(a, dtype), pairs)
    y = Tensor(builder().conv(a, cast(w, dtype), stride=steps, dilation=spread, groups=groups))
    return y if bias is None else add(y, reshape(bias, (-1, *[1] * m)))


def _pooled(
    name: str, value: Value, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes
) -> tuple[dict[str, Shape], list[tuple[int, int]]]:
    """The attributes of a pool, and the padding around its axes."""
    with located_errors(name, value):
        count = value.type.rank - 2 if isinstance(kernel_size, int) else len(tuple(kernel_size))
        if not 1 <= count <= value.type.rank:
            raise ShapeError(
                f"{name} with kernel size {kernel_size}\n  rule: x is [N, C, *axes], or there is a size for each of its last axes"
            )
        size, spread = per_axis("kernel size", kernel_size, count), per_axis("dilation", dilation, count)
        steps = size if stride is None else per_axis("stride", stride, count)
        pairs = _around(padding, size, steps, spread)
        if any(low > n // 2 for (low, _), n in zip(pairs, extents(size, spread), strict=True)):
            raise ShapeError(f"padding {padding} of windows of {list(size)}\n  rule: at most half a window is padding")
    return {"size": size, "stride": steps, "dilation": spread}, pairs


@on_tape
def max_pool(
    x: Any, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1
) -> Tensor:
    """The largest element of each window of the last axes; ``stride`` is by default ``kernel_size``.

    One ``kernel_size`` is that of all axes of ``x [N, C, *axes]``.
    A gradient goes to the first largest element of a window, never to padding.
    """
    value = floating(x)
    attrs, pairs = _pooled("max_pool", value, kernel_size, stride, padding, dilation)
    if any(map(any, pairs)):
        attrs |= {"low": tuple(a for a, _ in pairs), "high": tuple(b for _, b in pairs)}
    return Tensor(builder().max_pool(value, **attrs))


@on_tape
def avg_pool(
    x: Any, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, count_include_pad: bool = True
) -> Tensor:
    """The mean of each window of the last axes; ``stride`` is by default ``kernel_size``.

    One ``kernel_size`` is that of all axes of ``x [N, C, *axes]``.  Zeros of the padding count unless ``count_include_pad`` is False.
    """
    value, build = floating(x), builder()
    attrs, pairs = _pooled("avg_pool", value, kernel_size, stride, padding, 1)
    y = Tensor(build.avg_pool(_padded(value, pairs), **attrs))
    if count_include_pad or not any(map(any, pairs)):
        return y
    m = len(pairs)
    inside = build.splat(1.0, value.type.with_shape(value.type.shape[value.type.rank - m :]))
    share = build.avg_pool(_padded(inside, pairs), **attrs)
    return divide(y, Tensor(broadcast(share, y.value.type.shape)))
