"""What a runtime hands out: the loss of a step, results in a tuple, and views of its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.types import Array


class Loss:
    """The loss of a step: a 0-d array that ``float()`` reads."""

    __slots__ = ("_array",)

    def __init__(self, array: Array) -> None:
        self._array = array

    def __float__(self) -> float:
        return float(self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._array, dtype=dtype)

    def __format__(self, spec: str) -> str:
        return format(float(self), spec) if spec else str(self)

    def __repr__(self) -> str:
        return f"Loss({float(self)!r})"


class Packed(tuple[Array, ...]):
    """The only result of an entry whose Python function returned a tuple or list of it."""


class Arrays(Mapping[str, Array]):
    """A read-only view of state by name; every array handed out is a fresh copy."""

    def __init__(self, names: Sequence[str], read: Callable[[str], Array]) -> None:
        self._names = dict.fromkeys(names)
        self._read = read

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"{{{', '.join(self._names)}}}"
