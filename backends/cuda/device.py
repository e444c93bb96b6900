"""What a program asks of a device, and the state of a runtime in a device's memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.types import Array, DType, TensorType
from ...passes.plan import state_layout
from ..state import state_sizes
from .nest import Launch


class Device(ABC):
    """A device with memory of its own.  ``Memory`` and ``Kernel`` are whatever it makes of them.

    Work is done in the order in which it is asked for; only ``read`` waits for it.
    """

    @abstractmethod
    def allocate(self, nbytes: int) -> Any:
        """Zeroed memory at a multiple of 256 bytes."""

    @abstractmethod
    def address(self, memory: Any) -> int:
        """Where memory begins."""

    @abstractmethod
    def write(self, memory: Any, offset: int, array: Array) -> None:
        """Copy a contiguous array from the host."""

    @abstractmethod
    def read(self, memory: Any, offset: int, out: Array) -> None:
        """Copy to a contiguous array on the host, when everything before is done."""

    @abstractmethod
    def copy(self, to: Any, to_offset: int, source: Any, offset: int, nbytes: int) -> None:
        """Copy inside the device."""

    @abstractmethod
    def compile(self, source: str, names: Sequence[str], fast: bool) -> Mapping[str, Any]:
        """The kernels of a source by name."""

    @abstractmethod
    def launch(self, kernel: Any, launch: Launch, arguments: Sequence[int]) -> None:
        """Start a kernel; its arguments are addresses and 64-bit numbers."""

    @abstractmethod
    def product(
        self, dtype: DType, a: int, b: int, out: int, sizes: tuple[int, int, int, int, bool, bool], fast: bool
    ) -> None:
        """``out = a @ b`` of ``(batches, m, k, n, a is transposed, b is transposed)``, row-major, at addresses."""

    def repeated(self, work: Callable[[], None]) -> Callable[[], None]:
        """The same launches, made ready to be done often; here as they are."""
        return work


class DeviceState:
    """As ``State``, in a device's memory: what is read from it are copies."""

    def __init__(self, types: Mapping[str, TensorType], device: Device) -> None:
        self.types, self.device = dict(types), device
        self.slots = state_layout(self.types)
        self.buffers: tuple[dict[DType, Any], dict[DType, Any]] = tuple(
            {d: device.allocate(n) for d, n in state_sizes(self.slots).items()} for _ in range(2)
        )  # type: ignore[assignment]
        self.current = 0

    def _read(self, name: str, which: int) -> Array:
        slot, type_ = self.slots[name], self.types[name]
        out = np.empty(type_.array_shape, type_.dtype.numpy)
        self.device.read(self.buffers[which][slot.dtype], slot.offset, out)
        return out

    def __getitem__(self, name: str) -> Array:
        """A copy of the current array."""
        return self._read(name, self.current)

    def next(self, name: str) -> Array:
        """A copy of the array that the next ``commit`` makes current."""
        return self._read(name, 1 - self.current)

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Write arrays (of the right types) and commit; every name not given keeps its value."""
        for name, array in arrays.items():
            slot, type_ = self.slots[name], self.types[name]
            data = np.ascontiguousarray(np.broadcast_to(array, type_.array_shape), type_.dtype.numpy)
            self.device.write(self.buffers[1 - self.current][slot.dtype], slot.offset, data)
        self.commit(name for name in self.types if name not in arrays)

    def commit(self, unchanged: Iterable[str] = ()) -> None:
        """Make the other set current; the names in ``unchanged`` were not written there and are copied first."""
        for name in unchanged:
            slot = self.slots[name]
            old, new = (self.buffers[w][slot.dtype] for w in (self.current, 1 - self.current))
            self.device.copy(new, slot.offset, old, slot.offset, self.types[name].nbytes)
        self.current = 1 - self.current
