"""What programs ask of a device: memory, kernels, launches and products; and arrays and state in its memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import RLock
from typing import Any, Self

import numpy as np

from ...ir.errors import BackendError
from ...ir.types import Array, DType, TensorType
from ...passes.plan import state_layout
from ..base import Sizes, timed
from ..state import state_sizes

ALIGNMENT = 256
"""Bytes to which arrays in a device's memory are aligned."""


@dataclass(frozen=True)
class Launch:
    """The grid and the block of a kernel, in threads ``(x, y)``."""

    blocks: int
    threads: tuple[int, int]
    counters: int = 0
    """Words that blocks count themselves with: 0 before and after."""
    scratch: int = 0
    """Bytes in which blocks leave what the last of them needs."""


class Device(ABC):
    """A device with memory of its own.  ``memory`` and ``kernel`` are whatever it makes of them.

    Work is done in the order in which it is asked for, some time after it was asked for.  ``read`` and ``wait`` wait for it, and
    ``write`` takes what the array holds now.  Running out of memory is a ``MemoryError``.

    Lanes run side by side.  Everything is on lane 0 unless another is named; ``edge`` makes one wait for another.

    One thread at a time asks for work: programs, state and arrays hold ``lock`` while they do.
    """

    lock: AbstractContextManager[Any]

    name: str = "cuda"
    tensor_cores: bool = True
    """Whether it multiplies fragments in TF32: from compute capability 8.0 on."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = super().__new__(cls)
        made.lock = RLock()
        return made

    @abstractmethod
    def allocate(self, nbytes: int, zeroed: bool = True) -> Any:
        """Memory at a multiple of ``ALIGNMENT``; it is given back when nobody holds it."""

    @abstractmethod
    def address(self, memory: Any) -> int:
        """Where memory begins."""

    @abstractmethod
    def write(self, memory: Any, offset: int, array: Array) -> None:
        """Copy a contiguous array from the host."""

    @abstractmethod
    def clear(self, memory: Any, offset: int, nbytes: int) -> None:
        """Make bytes 0."""

    @abstractmethod
    def read(self, memory: Any, offset: int, out: Array) -> None:
        """Copy to a contiguous array on the host, when everything before is done."""

    @abstractmethod
    def copy(self, to: Any, to_offset: int, source: Any, offset: int, nbytes: int) -> None:
        """Copy inside the device."""

    @abstractmethod
    def compile(self, sources: Sequence[str], names: Sequence[str], fast: bool) -> Mapping[str, Any]:
        """The kernels of some sources by name."""

    @abstractmethod
    def launch(self, kernel: Any, launch: Launch, arguments: Sequence[int], lane: int = 0) -> Callable[[], None]:
        """What starts a kernel whose arguments are addresses and 64-bit numbers."""

    @abstractmethod
    def product(
        self, dtype: DType, a: int, b: int, out: int, sizes: Sizes, fast: bool, lane: int = 0
    ) -> Callable[[], None]:
        """What computes ``out = a @ b``, row-major, at addresses.  No size is 0."""

    def has_layer(self, dtype: DType, sizes: Sizes, activation: str) -> bool:
        """Whether ``layer`` computes this one.  It is asked before a program is lowered."""
        return True

    @abstractmethod
    def layer(
        self, dtype: DType, a: int, b: int, out: int, sizes: Sizes, bias: int, activation: str, lane: int = 0
    ) -> Callable[[], None]:
        """What computes ``out = activation(a @ b + bias)`` of two matrices that it has a layer for, in fast numerics."""

    @abstractmethod
    def edge(self, lane: int, to: int) -> tuple[Callable[[], None], Callable[[], None]]:
        """What notes how far a lane has come, and what makes another wait until it was there."""

    def repeated(self, work: Callable[[], None]) -> Callable[[], None]:
        """Work that was done once before, made ready to be done often; here as it is."""
        return work

    # What a step needs besides: host memory that copies reach without a detour, copies that do not wait, and a way to wait later.

    def pinned(self, nbytes: int) -> Array:
        """Bytes on the host for ``upload`` and ``download``."""
        return np.zeros(nbytes, np.uint8)

    @abstractmethod
    def upload(self, memory: Any, offset: int, pinned: Array, aside: bool = False) -> None:
        """Copy pinned memory to the device; ``aside`` while earlier work still runs, none of which uses ``memory``."""

    @abstractmethod
    def download(self, memory: Any, offset: int, pinned: Array) -> None:
        """Copy to pinned memory."""

    @abstractmethod
    def mark(self) -> Any:
        """Stands for everything asked for so far."""

    @abstractmethod
    def wait(self, mark: Any) -> None:
        """Wait until what a mark stands for is done."""

    def begin(self) -> None:  # noqa: B027 (where there is one device, it is that)
        """What is asked for next, by this thread, is for this device."""

    def times(self, work: Sequence[Callable[[], None]]) -> list[float]:
        """Do pieces of work in order; the seconds that each took on the device."""

        def do(piece: Callable[[], None]) -> None:
            piece()
            self.wait(self.mark())

        self.wait(self.mark())
        return timed(do, work)

    def take(self, array: Any, floating: DType | None = None) -> DeviceArray | None:
        """An array that lies on this device, in rows and with floats in a dtype, copied only for that; None for one that lies elsewhere."""
        if not isinstance(array, DeviceArray) or array.device is not self:
            return None
        if floating is not None and array.type.dtype.floating and array.type.dtype is not floating:
            raise TypeError(f"an array of {array.dtype} on {self.name}, where {floating} is computed with")
        return array

    def hold(self, arrays: Sequence[DeviceArray]) -> None:  # noqa: B027 (where no other library's arrays are taken)
        """Keep other libraries' memory until what was asked for so far is done."""

    def lend(self, thing: Any) -> None:  # noqa: B027 (where no other library works)
        """Other libraries may still use the memory of a thing when it is gone."""

    def exported(self, array: DeviceArray) -> Any:
        """An array as one of the library that other libraries of the device know, when everything that writes it is done."""
        return np.asarray(array)

    def used(self) -> Mapping[str, int] | None:
        """Bytes of memory: ``used``, ``reserved``, ``free`` and ``total``; None where nobody counts them."""
        return None


class DeviceArray:
    """An array in the memory of a device, row-major.

    ``np.asarray`` copies it to the host; other libraries read it where it lies, by DLPack or ``__cuda_array_interface__``.
    """

    __slots__ = ("__weakref__", "device", "memory", "offset", "owner", "type")

    def __init__(
        self, device: Device, type: TensorType, memory: Any = None, offset: int = 0, owner: Any = None
    ) -> None:
        self.device, self.type, self.offset = device, type, offset
        self.owner = owner
        """What keeps another library's memory alive, where this array is that memory or is copied from it."""
        self.memory = device.allocate(type.nbytes, zeroed=False) if memory is None else memory

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return self.type.array_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of its elements on the host."""
        return self.type.dtype.numpy

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.type.nbytes

    @property
    def address(self) -> int:
        """Where it begins."""
        return self.device.address(self.memory) + self.offset

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        out = np.empty(self.shape, self.dtype)
        with self.device.lock:
            self.device.read(self.memory, self.offset, out)
        return out if dtype is None else out.astype(dtype, copy=False)

    def item(self) -> Any:
        """The only element."""
        return self.__array__().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d array")
        return self.shape[0]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Says to other libraries where the array lies, when everything that writes it is done."""
        if not self.device.name.startswith("cuda"):
            raise AttributeError("__cuda_array_interface__")
        with self.device.lock:
            self.device.wait(self.device.mark())
            self.device.lend(self)
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3, "strides": None, "stream": None,
        }  # fmt: skip

    def __dlpack__(self, **options: Any) -> Any:
        with self.device.lock:
            return self.device.exported(self).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        with self.device.lock:
            return self.device.exported(self).__dlpack_device__()

    def __repr__(self) -> str:
        return f"DeviceArray({self.__array__()!r}, {self.type}, {self.device.name})"


def _is_zero(array: Array) -> bool:
    """Whether an array is one number everywhere, all of whose bits are 0."""
    return array.size > 0 and not any(array.strides) and not any(np.asarray(array.flat[0], array.dtype).tobytes())


class DeviceState:
    """As ``State``, in a device's memory: what is read from it are copies on the host.

    ``settle`` waits for the steps that are under way, and raises what one of them failed with; every use of the state calls it.
    """

    def __init__(self, types: Mapping[str, TensorType], device: Device) -> None:
        self.types, self.device = dict(types), device
        self.slots = state_layout(self.types, ALIGNMENT)
        self.sets: list[dict[DType, Any] | None] = [None, None]
        self.buffers(0)
        self.current = 0
        self.under_way: list[Any] = []

    def buffers(self, which: int) -> dict[DType, Any]:
        """The flat buffers of one of the two sets, which is made at its first use."""
        found = self.sets[which]
        if found is None:
            sizes = state_sizes(self.slots)
            try:
                found = self.sets[which] = {d: self.device.allocate(n) for d, n in sizes.items()}
            except MemoryError as error:
                total = sum(sizes.values())
                raise BackendError(
                    f"not enough memory on {self.device.name} for {total} bytes of state: {error}"
                ) from None
        return found

    def settle(self) -> None:
        """Wait for the steps under way."""
        while self.under_way:
            self.under_way.pop(0).finish()

    def array(self, name: str) -> DeviceArray:
        """A copy of the current array, on the device."""
        self.settle()
        slot, type_ = self.slots[name], self.types[name]
        made = DeviceArray(self.device, type_)
        self.device.copy(made.memory, 0, self.buffers(self.current)[slot.dtype], slot.offset, type_.nbytes)
        return made

    def _read(self, name: str, which: int) -> Array:
        self.settle()
        slot, type_ = self.slots[name], self.types[name]
        out = np.empty(type_.array_shape, type_.dtype.numpy)
        self.device.read(self.buffers(which)[slot.dtype], slot.offset, out)
        return out

    def __getitem__(self, name: str) -> Array:
        """A copy of the current array."""
        return self._read(name, self.current)

    def next(self, name: str) -> Array:
        """A copy of the array that the next ``commit`` makes current."""
        return self._read(name, 1 - self.current)

    def load(self, arrays: Mapping[str, Any]) -> None:
        """Write arrays (of the right types, on the host or this device) and commit; every name not given keeps its value."""
        self.settle()
        new = self.buffers(1 - self.current)
        for name, array in arrays.items():
            slot, type_ = self.slots[name], self.types[name]
            if isinstance(array, DeviceArray):
                self.device.copy(new[slot.dtype], slot.offset, array.memory, array.offset, type_.nbytes)
                continue
            if _is_zero(np.asarray(array)):
                self.device.clear(new[slot.dtype], slot.offset, type_.nbytes)
                continue
            data = np.ascontiguousarray(np.broadcast_to(array, type_.array_shape), type_.dtype.numpy)
            self.device.write(new[slot.dtype], slot.offset, data)
        self.device.hold([a for a in arrays.values() if isinstance(a, DeviceArray)])
        self.commit(name for name in self.types if name not in arrays)

    def commit(self, unchanged: Iterable[str] = ()) -> None:
        """Make the other set current; the names in ``unchanged`` were not written there and are copied first."""
        self.settle()
        old, new = self.buffers(self.current), self.buffers(1 - self.current)
        for name in unchanged:
            slot = self.slots[name]
            self.device.copy(new[slot.dtype], slot.offset, old[slot.dtype], slot.offset, self.types[name].nbytes)
        self.current = 1 - self.current
