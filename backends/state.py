"""The arrays a runtime owns: flat buffers, one per dtype, in two sets of which one is current."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..ir.memory import allocating
from ..ir.types import Array, DType, TensorType
from ..passes.plan import ALIGNMENT, StateSlot, state_layout


def aligned_bytes(count: int) -> Array:
    """Zeroed ``uint8[count]`` whose address is a multiple of the alignment."""
    raw = np.zeros(count + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + count]


def state_sizes(slots: Mapping[str, StateSlot]) -> dict[DType, int]:
    """Bytes of the flat buffer of each dtype."""
    sizes: dict[DType, int] = {}
    for slot in slots.values():
        sizes[slot.dtype] = max(sizes.get(slot.dtype, 0), slot.end)
    return sizes


def _largest(types: Mapping[str, TensorType]) -> str:
    """The largest state, as an error names it."""
    name = max(types, key=lambda n: types[n].nbytes, default=None)
    return f"{name}: {types[name]} and others" if name is not None else "nothing"


class State:
    """Named arrays as slices of flat buffers.

    A step writes the other set and ``commit`` makes it the current one with one assignment, so a step that fails leaves
    everything as it was.
    """

    def __init__(self, types: Mapping[str, TensorType]) -> None:
        self.types = dict(types)
        self.slots: dict[str, StateSlot] = state_layout(self.types)
        sizes = state_sizes(self.slots)
        with allocating(2 * sum(sizes.values()), f"twice the state of {_largest(self.types)}"):
            self.buffers: tuple[dict[DType, Array], dict[DType, Array]] = tuple(
                {d: aligned_bytes(n) for d, n in sizes.items()} for _ in range(2)
            )  # type: ignore[assignment]
        self._views = tuple({name: self._view(name, which) for name in self.types} for which in (0, 1))
        self.current = 0

    def _view(self, name: str, which: int) -> Array:
        slot, type_ = self.slots[name], self.types[name]
        data = self.buffers[which][slot.dtype][slot.offset : slot.offset + type_.nbytes]
        return data.view(type_.dtype.numpy).reshape(type_.array_shape)

    def __getitem__(self, name: str) -> Array:
        """The current array, not a copy."""
        return self._views[self.current][name]

    def array(self, name: str) -> Array:
        """A copy of the current array."""
        return np.array(self[name])

    def next(self, name: str) -> Array:
        """The array that the next ``commit`` makes current."""
        return self._views[1 - self.current][name]

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Write arrays (of the right types) and commit; every name not given keeps its value."""
        for name, array in arrays.items():
            np.copyto(self.next(name), array)
        self.commit(name for name in self.types if name not in arrays)

    def commit(self, unchanged: Iterable[str] = ()) -> None:
        """Make the other set current; the names in ``unchanged`` were not written there and are copied first."""
        for name in unchanged:
            np.copyto(self.next(name), self[name])
        self.current = 1 - self.current


def state_on(device: str, types: Mapping[str, TensorType]) -> Any:
    """State in the memory of a device: a ``State`` on the CPU, else a ``DeviceState``, which is used alike."""
    if device == "cpu":
        return State(types)
    from .cuda import devices
    from .cuda.device import DeviceState

    return DeviceState(types, devices.find(device))
