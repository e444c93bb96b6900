"""Moving elements: shapes, axes, joins, padding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.errors import ArgumentTypeError, ShapeError, shortened
from ...ir.types import Shape, bool_, normalize_axes, normalize_axis
from ..arguments import Number
from ..convert import as_value, broadcast, builder, cast, on_tape, promoted, to_array
from ..tensor import Tensor
from .apply import Axis, located_errors
from .indexing import index


@on_tape
def reshape(x: Any, shape: int | Sequence[int]) -> Tensor:
    """The elements in row-major order under another shape; one size may be -1."""
    value = as_value(x)
    wanted = (shape,) if isinstance(shape, int) else tuple(shape)
    with located_errors("reshape", value):
        if wanted.count(-1) > 1:
            raise ShapeError(f"reshape to {list(wanted)}\n  rule: at most one size is -1")
        if -1 in wanted:
            rest = math.prod(n for n in wanted if n != -1)
            if rest == 0 or value.type.size % rest:
                raise ShapeError(
                    f"{value.type.size} elements do not fill {list(wanted)}\n  rule: the number of elements stays"
                )
            wanted = tuple(value.type.size // rest if n == -1 else n for n in wanted)
    return Tensor(value if wanted == value.type.shape else builder().reshape(value, shape=wanted))


@on_tape
def permute_dims(x: Any, axes: Sequence[int]) -> Tensor:
    """Axis ``i`` of the result is axis ``axes[i]`` of ``x``."""
    value = as_value(x)
    with located_errors("permute_dims", value):
        order = tuple(normalize_axis(a, value.type.rank) for a in axes)
    return Tensor(builder().permute_dims(value, axes=order))


@on_tape
def matrix_transpose(x: Any) -> Tensor:
    """The last two axes swapped."""
    value = as_value(x)
    rank = value.type.rank
    with located_errors("matrix_transpose", value):
        if rank < 2:
            raise ShapeError("a matrix has two axes\n  rule: rank 2 or more")
    return Tensor(builder().permute_dims(value, axes=(*range(rank - 2), rank - 1, rank - 2)))


@on_tape
def broadcast_to(x: Any, shape: Sequence[int]) -> Tensor:
    """``x`` repeated to ``shape`` under NumPy's rule."""
    return Tensor(broadcast(as_value(x), tuple(shape)))


@on_tape
def expand_dims(x: Any, axis: int = 0) -> Tensor:
    """A new axis of size 1 at ``axis``."""
    value = as_value(x)
    with located_errors("expand_dims", value):
        at = normalize_axis(axis, value.type.rank + 1)
    shape = value.type.shape
    return Tensor(builder().reshape(value, shape=(*shape[:at], 1, *shape[at:])))


@on_tape
def squeeze(x: Any, axis: Axis = None) -> Tensor:
    """Axes of size 1 removed (all of them by default)."""
    value = as_value(x)
    with located_errors("squeeze", value):
        gone = (
            normalize_axes(axis, value.type.rank)
            if axis is not None
            else tuple(a for a, n in enumerate(value.type.shape) if n == 1)
        )
        if any(value.type.shape[a] != 1 for a in gone):
            raise ShapeError(f"axes {list(gone)} are not all of size 1\n  rule: only axes of size 1 are removed")
    return reshape(Tensor(value), [n for a, n in enumerate(value.type.shape) if a not in gone])


@on_tape
def flip(x: Any, axis: Axis = None) -> Tensor:
    """``x`` reversed along axes (all by default)."""
    value = as_value(x)
    with located_errors("flip", value):
        axes = normalize_axes(axis, value.type.rank)
    return Tensor(builder().flip(value, axes=axes))


@on_tape
def concat(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """The arrays one after the other along an axis."""
    values = [as_value(a) for a in arrays]
    with located_errors("concat", *values):
        if not values:
            raise ShapeError("concat of nothing\n  rule: at least one array")
        dtype = promoted([v.type.dtype for v in values])
        at = normalize_axis(axis, values[0].type.rank)
    return Tensor(builder().concat(*[cast(v, dtype) for v in values], axis=at))


@on_tape
def stack(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """The arrays joined along a new axis."""
    return concat([expand_dims(a, axis) for a in arrays], axis)


@on_tape
def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """NumPy's split: into equal sections, or at the given positions."""
    value = as_value(x)
    with located_errors("split", value):
        at = normalize_axis(axis, value.type.rank)
        size = value.type.shape[at]
        if isinstance(sections, int):
            if sections < 1 or size % sections:
                raise ShapeError(f"axis {at} of size {size} does not split into {sections}\n  rule: equal sections")
            step = size // sections
            bounds = [i * step for i in range(sections + 1)]
        else:
            bounds = [0, *sections, size]
    lead = (slice(None),) * at
    return [index(Tensor(value), (*lead, slice(a, b))) for a, b in itertools.pairwise(bounds)]


def _widths(given: Any, rank: int) -> tuple[Shape, Shape]:
    """What is before and after each axis.  Raises ``ArgumentTypeError`` for anything but NumPy's forms of integers."""
    try:
        widths = to_array(given)
        pairs = np.broadcast_to(widths, (rank, 2))
    except ValueError:
        pairs = widths = np.empty(0)
    if pairs.shape != (rank, 2) or (pairs.size and widths.dtype.kind not in "iu"):
        raise ArgumentTypeError(
            f"pad: pad_width = {shortened(repr(given), 80)}\n"
            f"  rule: it is an integer, a pair (before, after), or a pair for each of {rank} axes"
        )
    return tuple(pairs[:, 0].tolist()), tuple(pairs[:, 1].tolist())


@on_tape
def pad(x: Any, pad_width: int | Sequence[Any], constant_values: Number = 0) -> Tensor:
    """NumPy's pad with a constant: ``pad_width`` is one number, ``(before, after)`` or such a pair per axis."""
    value = as_value(x)
    rank = value.type.rank
    low, high = _widths(pad_width, rank)
    build, interior = builder(), (0,) * rank
    padded = build.pad(value, low=low, high=high, interior=interior)
    if constant_values == 0:
        return Tensor(padded)
    filling = build.splat(constant_values, padded.type, "pad", [value.type])
    inside = build.pad(build.splat(True, value.type.with_dtype(bool_)), low=low, high=high, interior=interior)
    return Tensor(build.where(inside, padded, filling))
