"""The tensor: a handle on an IR value that carries Python's operators and indexing."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NoReturn, Self

import numpy as np

from ..ir.errors import ArgumentTypeError, TraceError
from ..ir.graph import Value
from ..ir.record import current_frame, here
from ..ir.types import Array, DType, Shape

Axis = int | Sequence[int] | None


class Operators:
    """Python's operators in terms of ``ops``; shared by tensors, parameters and buffers."""

    __array_priority__ = 1000
    __array_ufunc__ = None
    __hash__ = object.__hash__

    def __add__(self, other: Any) -> Tensor:
        return functional.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return functional.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return functional.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return functional.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return functional.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return functional.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return functional.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return functional.divide(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return functional.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return functional.floor_divide(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return functional.remainder(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return functional.remainder(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return functional.pow(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return functional.pow(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return functional.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return functional.matmul(other, self)

    def __neg__(self) -> Tensor:
        return functional.negative(self)

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Tensor:
        return functional.abs(self)

    def __invert__(self) -> Tensor:
        return functional.bitwise_invert(self)

    def __and__(self, other: Any) -> Tensor:
        return functional.bitwise_and(self, other)

    def __rand__(self, other: Any) -> Tensor:
        return functional.bitwise_and(other, self)

    def __or__(self, other: Any) -> Tensor:
        return functional.bitwise_or(self, other)

    def __ror__(self, other: Any) -> Tensor:
        return functional.bitwise_or(other, self)

    def __xor__(self, other: Any) -> Tensor:
        return functional.bitwise_xor(self, other)

    def __rxor__(self, other: Any) -> Tensor:
        return functional.bitwise_xor(other, self)

    def __lshift__(self, other: Any) -> Tensor:
        return functional.bitwise_left_shift(self, other)

    def __rshift__(self, other: Any) -> Tensor:
        return functional.bitwise_right_shift(self, other)

    def __rlshift__(self, other: Any) -> Tensor:
        return functional.bitwise_left_shift(other, self)

    def __rrshift__(self, other: Any) -> Tensor:
        return functional.bitwise_right_shift(other, self)

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return functional.equal(self, other)

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return functional.not_equal(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return functional.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return functional.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return functional.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return functional.greater_equal(self, other)

    def __getitem__(self, index: Any) -> Tensor:
        return functional.index(self, index)

    @property
    def T(self) -> Tensor:
        """The matrix transpose of a tensor of rank 2."""
        return functional.matrix_transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        return functional.matrix_transpose(self)

    def reshape(self, *shape: Any) -> Tensor:
        """See ``ops.reshape``; one size may be -1."""
        return functional.reshape(self, shape[0] if len(shape) == 1 else shape)

    def sum(self, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
        """See ``ops.sum``."""
        return functional.sum(self, axis=axis, keepdims=keepdims, dtype=dtype)

    def mean(self, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
        """See ``ops.mean``."""
        return functional.mean(self, axis=axis, keepdims=keepdims, dtype=dtype)

    def var(self, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        """See ``ops.var``."""
        return functional.var(self, axis=axis, correction=correction, keepdims=keepdims)

    def std(self, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        """See ``ops.std``."""
        return functional.std(self, axis=axis, correction=correction, keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """See ``ops.max``."""
        return functional.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """See ``ops.min``."""
        return functional.min(self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """See ``ops.argmax``."""
        return functional.argmax(self, axis=axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """See ``ops.argmin``."""
        return functional.argmin(self, axis=axis, keepdims=keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """See ``ops.any``."""
        return functional.any(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """See ``ops.all``."""
        return functional.all(self, axis=axis, keepdims=keepdims)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        """See ``ops.clip``."""
        return functional.clip(self, min, max)

    def round(self) -> Tensor:
        """See ``ops.round``."""
        return functional.round(self)

    def squeeze(self, axis: Axis = None) -> Tensor:
        """See ``ops.squeeze``."""
        return functional.squeeze(self, axis=axis)

    def take(self, indices: Any, axis: int | None = None) -> Tensor:
        """See ``ops.take``."""
        return functional.take(self, indices, axis=axis)

    def astype(self, dtype: Any) -> Tensor:
        """See ``ops.astype``."""
        return functional.astype(self, dtype)


class Tensor(Operators):
    """A value of the program being recorded.

    ``shape`` and ``dtype`` are always known.  The elements are known only under the eager tape: reading them gives a plain
    array, through which no gradient passes; under a trace it is a ``TraceError``.
    """

    __slots__ = ("value",)

    def __init__(self, value: Value) -> None:
        self.value = value

    @property
    def shape(self) -> Shape:
        return self.value.type.shape

    @property
    def dtype(self) -> DType:
        return self.value.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.value.type.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.value.type.size

    def named(self, name: str) -> Tensor:
        """Give the value a name in IR text; returns the tensor.  An argument keeps the name its caller knows it by."""
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TraceError(f"named({name!r}): a name is a string", here())
        if self.value.owner is not None:
            self.value.name = name
        return self

    def _read(self, what: str) -> Array:
        array = self.value.array
        if array is None:
            raise TraceError(
                f"{what} of a traced {self.value.type}: its elements are not known while the program is being recorded\n"
                "  remedy: choose between values with ops.where, or run with backend eager",
                here(),
            )
        active = current_frame()
        if active is not None and hasattr(active.recorder, "read_by"):
            active.recorder.read_by.append(here())  # type: ignore[attr-defined]
        return array

    def numpy(self) -> Array:
        """The elements, a fresh array."""
        return np.array(self._read("numpy()"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._read("a NumPy array"), dtype=dtype)

    def __dlpack__(self, **options: Any) -> Any:
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return functional

    def __float__(self) -> float:
        return float(self._read("float()").item())

    def __format__(self, spec: str) -> str:
        return format(self._read("a number in text").item(), spec) if spec else str(self)

    def __int__(self) -> int:
        return int(self._read("int()").item())

    def __bool__(self) -> bool:
        return bool(self._read("bool()").item())

    def __index__(self) -> int:
        return operator.index(self._read("an index").item())

    def __len__(self) -> int:
        if not self.shape:
            raise ArgumentTypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise ArgumentTypeError(
            "tensors are values and cannot be assigned into; build a new one with ops.where or ops.concat"
        )

    def __repr__(self) -> str:
        return (
            f"Tensor({self.value.type})"
            if self.value.array is None
            else f"Tensor({self.value.array!r}, {self.value.type})"
        )


from . import functional  # noqa: E402  (the operators above are defined by it)
