"""Element types, tensor types and shape arithmetic.

A ``DType`` is one of a fixed set of objects, compared by identity; indexing one spells a tensor type:
``f32[64, 10]``.  A scalar type is ``f32[()]`` in Python and ``f32[]`` in text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from typing import cast as typed

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .errors import ArgumentTypeError, ArgumentValueError, ShapeError
from .source import public

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DType:
    """An element type: ``kind`` is ``"f"`` float, ``"i"`` signed, ``"u"`` unsigned, ``"b"`` bool, ``"k"`` random key."""

    name: str
    kind: str
    bits: int
    numpy: np.dtype[Any]

    @public
    def __getitem__(self, shape: int | tuple[int, ...]) -> TensorType:
        """The type of tensors of a shape.  Raises ``ValueError`` for sizes that are no integers of at least 0."""
        return TensorType(self, static_shape(shape if isinstance(shape, tuple) else (shape,)))

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return (dtype, (self.name,))

    @property
    def floating(self) -> bool:
        return self.kind == "f"

    @property
    def integer(self) -> bool:
        return self.kind in "iu"

    @property
    def narrow(self) -> bool:
        """Whether it is a 16-bit float: stored in 16 bits, computed with in float32 and rounded once per op."""
        return self.kind == "f" and self.bits == 16


def static_shape(shape: Iterable[Any]) -> Shape:
    """A shape of Python integers.  Raises ``ValueError`` for sizes that are no integers of at least 0."""
    sizes = tuple(shape)
    for n in sizes:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 0 <= n < 1 << 63:
            raise ArgumentValueError(
                f"shape {list(sizes)}: {n!r} is no size\n  rule: shapes are static, integers of at least 0"
            )
    return tuple([int(n) for n in sizes])


def _dtype(name: str, kind: str, bits: int, numpy: Any) -> DType:
    return DType(name, kind, bits, np.dtype(numpy))


f16 = _dtype("f16", "f", 16, np.float16)
bf16 = _dtype("bf16", "f", 16, ml_dtypes.bfloat16)
f32 = _dtype("f32", "f", 32, np.float32)
f64 = _dtype("f64", "f", 64, np.float64)
i8 = _dtype("i8", "i", 8, np.int8)
i16 = _dtype("i16", "i", 16, np.int16)
i32 = _dtype("i32", "i", 32, np.int32)
i64 = _dtype("i64", "i", 64, np.int64)
u8 = _dtype("u8", "u", 8, np.uint8)
u16 = _dtype("u16", "u", 16, np.uint16)
u32 = _dtype("u32", "u", 32, np.uint32)
u64 = _dtype("u64", "u", 64, np.uint64)
bool_ = _dtype("bool", "b", 8, np.bool_)
key = _dtype("key", "k", 64, np.uint32)  # an array of keys has one more axis: two words each

DTYPES: dict[str, DType] = {d.name: d for d in (f16, bf16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64, bool_, key)}
_FROM_NUMPY: dict[np.dtype[Any], DType] = {d.numpy: d for d in DTYPES.values() if d is not key}
_SPELLINGS = {**{d.numpy.name: d for d in _FROM_NUMPY.values()}, **DTYPES, "float": f64}


def dtype(spelling: Any) -> DType:
    """The ``DType`` for a name (``"f32"``, ``"float32"``), a NumPy dtype or a ``DType``.

    Raises ``TypeError`` when there is none.
    """
    if isinstance(spelling, DType):
        return spelling
    try:
        if isinstance(spelling, (np.dtype, type)):
            return _FROM_NUMPY[np.dtype(typed(Any, spelling))]
        return _SPELLINGS[spelling]
    except (TypeError, KeyError):
        raise ArgumentTypeError(f"{spelling!r} is not an element type; one of {', '.join(DTYPES)}") from None


def holds_floats(array: Array) -> bool:
    """Whether the elements of a NumPy array are floats; bfloat16, which NumPy itself does not know, included."""
    return array.dtype.kind == "f" or array.dtype == bf16.numpy


@dataclass(frozen=True, slots=True, init=False)
class TensorType:
    """An element type and a static shape."""

    dtype: DType
    shape: Shape

    def __init__(self, dtype_: DType | str, shape: Sequence[int] = ()) -> None:
        object.__setattr__(self, "dtype", dtype_ if isinstance(dtype_, DType) else dtype(dtype_))
        object.__setattr__(self, "shape", tuple(shape))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a contiguous array of this type."""
        return self.size * (self.dtype.bits // 8)

    @property
    def array_shape(self) -> Shape:
        """Shape of the NumPy array that holds it (a key is two words)."""
        return (*self.shape, 2) if self.dtype is key else self.shape

    def with_shape(self, shape: Sequence[int]) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype_: DType) -> TensorType:
        return TensorType(dtype_, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"

    def __repr__(self) -> str:
        return str(self)


def type_of(array: Array) -> TensorType:
    """The tensor type of a NumPy array; raises ``TypeError`` for an element type there is none for."""
    return TensorType(dtype(array.dtype), array.shape)


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The common shape under NumPy's rule; raises ``ShapeError`` when two axes differ and neither is 1."""
    rank = max(map(len, shapes), default=0)
    result: list[int] = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            raise ShapeError(
                f"shapes {' and '.join(map(str, shapes))} do not broadcast: axis {axis} has sizes "
                f"{' and '.join(map(str, sorted(sizes)))}\n  rule: right-aligned axes are equal, or one of them is 1"
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def normalize_axis(axis: int, rank: int) -> int:
    """``axis`` counted from 0; raises ``ShapeError`` when it is not in ``-rank..rank-1``."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is outside an array of rank {rank}\n  rule: {-rank} <= axis < {rank}")
    return axis % rank


def reduced_axes(axes: int | Sequence[int] | None, rank: int) -> Shape:
    """``normalize_axes`` of a reduction: over axis 0 or -1, one of rank 0 is over no axis, as in NumPy and PyTorch."""
    return () if rank == 0 and axes in (0, -1) else normalize_axes(axes, rank)


def normalize_axes(axes: int | Sequence[int] | None, rank: int) -> Shape:
    """Sorted axes counted from 0; None is all of them; raises ``ShapeError`` for a repeated or foreign one."""
    if axes is None:
        return tuple(range(rank))
    listed = [normalize_axis(a, rank) for a in ((axes,) if isinstance(axes, int) else axes)]
    if len(set(listed)) != len(listed):
        raise ShapeError(f"axes {listed} name one axis twice\n  rule: each axis once")
    return tuple(sorted(listed))
