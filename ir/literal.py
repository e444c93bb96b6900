"""The value of a ``constant``: elements rounded to the dtype, a splat wherever all are bitwise equal."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from .errors import DtypeError
from .escape import shortened
from .types import Array, DType, TensorType, bf16, f16, type_of


def saturating_cast(array: Array, target: np.dtype[Any]) -> Array:
    """Cast by TapeIR's rule: a float out of an integer's range saturates and NaN gives 0; the rest is NumPy's.

    ``array`` may have any numeric or bool dtype; returns a new array of ``target``.
    """
    if array.dtype.kind in "fV" and target.kind in "iu":
        info = np.iinfo(target)
        with np.errstate(all="ignore"):
            wide = array.astype(np.float64)
        result = np.where(wide < 0, np.array(info.min, target), np.array(info.max, target))
        inside = (wide > float(info.min) - 1) & (wide < float(info.max) + (info.bits < 53))
        result[inside] = wide[inside].astype(target)
        result[np.isnan(wide)] = 0
        return result
    with np.errstate(all="ignore"):
        if target in (f16.numpy, bf16.numpy) and array.dtype.kind in "fiu" and array.dtype.itemsize > 2:
            array = _to_odd(array)
        return array.astype(target)


def _to_odd(array: Array) -> Array:
    """As float32 on the way to a 16-bit float: inexact results are made odd, so the two roundings equal one."""
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        low = array & 0xFFFF
        lost = ((array >= 1 << 40) | (array < -(1 << 40))) & (low != 0)
        array = np.where(lost, (array ^ low) | 0x10000, array)
    wide = array.astype(np.float64)
    near = np.asarray(wide.astype(np.float32))
    size, found = np.abs(wide), np.abs(near.astype(np.float64))
    word = near.view(np.uint32)
    moved = np.where(size > found, word + np.uint32(1), np.where(size < found, word - np.uint32(1), word))
    return np.where(word & 1 == 0, moved, word).astype(np.uint32).view(np.float32)


def misfit(value: Any, dtype: DType) -> str | None:
    """Why a dtype does not hold a number, which would become another one; None where it does.

    A float is rounded to a floating dtype, but a finite one may not become infinite.  An integer dtype holds whole numbers
    of its range, and bool holds 0 and 1.
    """
    number = _plain(value)
    finite = isinstance(number, int) or math.isfinite(number)
    if dtype.floating:
        return (
            f"the largest number of {dtype} is {_largest(dtype):.5g}" if finite and _overflows(number, dtype) else None
        )
    if dtype.kind == "b":
        return None if number in (0, 1) else "bool holds True and False"
    if not dtype.integer:
        return None
    info = np.iinfo(dtype.numpy)
    inside = finite and number == int(number) and info.min <= number <= info.max
    return None if inside else f"{dtype} holds whole numbers from {info.min} to {info.max}"


def _plain(value: Any) -> Any:
    """A Python number of a NumPy scalar or an array of one."""
    item: Any = getattr(value, "item", None)
    return value if item is None else item()


def _largest(dtype: DType) -> float:
    finfo: Any = ml_dtypes.finfo
    return float(finfo(dtype.numpy).max)


def _overflows(number: float, dtype: DType) -> bool:
    if abs(number) <= _largest(dtype):
        return False
    try:
        with np.errstate(over="ignore"):
            return not np.isfinite(np.float64(number).astype(dtype.numpy))
    except OverflowError:
        return True


def need_fit(value: Any, dtype: DType) -> None:
    """Raise ``DtypeError`` for a number that a dtype does not hold; see ``misfit``."""
    rule = misfit(value, dtype)
    if rule is not None:
        raise DtypeError(
            f"{shortened(repr(_plain(value)), 60)} does not fit {dtype}\n  rule: {rule}\n"
            "  remedy: a number of that range, or a tensor cast to a wider dtype with ops.astype"
        )


class Literal:
    """Typed constant elements.  ``data`` is 0-d for a splat, else has the type's shape; NaNs are canonical."""

    __slots__ = ("_key", "data", "type")

    def __init__(self, data: Array, type: TensorType) -> None:
        self.data = data
        self.type = type
        self._key = (type, data.shape, data.tobytes())

    @classmethod
    def splat(cls, value: Any, type: TensorType) -> Literal:
        """Every element ``value``, rounded once to the type's dtype.  Raises ``DtypeError`` for one that it does not hold."""
        need_fit(value, type.dtype)
        data = saturating_cast(np.asarray(value), type.dtype.numpy)
        with np.errstate(all="ignore"):
            if type.dtype.floating and np.isnan(data):
                data = np.asarray(np.nan, type.dtype.numpy)
        if type.size == 0:
            data = np.empty(type.shape, type.dtype.numpy)
        return cls(data.reshape(data.shape), type)

    @classmethod
    def of(cls, array: Array, dtype: DType | None = None) -> Literal:
        """The elements of an array, cast to ``dtype`` if one is given."""
        if dtype is not None:
            array = saturating_cast(array, dtype.numpy)
        type = type_of(array)
        data = np.array(array, order="C", copy=True)
        if type.dtype.floating:
            with np.errstate(all="ignore"):
                data[np.isnan(data)] = np.nan
        if type.size > 0:
            words = data.reshape(-1).view(np.uint8).reshape(type.size, -1)
            if bool((words == words[0]).all()):
                data = data.reshape(-1)[0:1].reshape(())
        return cls(data, type)

    @property
    def is_splat(self) -> bool:
        """Whether one element stands for all."""
        return self.data.ndim == 0

    @property
    def scalar(self) -> Any:
        """The element of a splat as a Python number."""
        return self.data.item()

    @property
    def array(self) -> Array:
        """All elements, read-only, with the type's shape."""
        return np.broadcast_to(self.data, self.type.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)
