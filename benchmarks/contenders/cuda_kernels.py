"""Single kernels on a CUDA device, of every contender, and the copy that bounds them: some launches, then one wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from .workloads import Contender, Workload

LAUNCHES = 20
"""Launches of a step."""
SIDE = 1 << 13
"""Rows and columns: 2^26 elements."""


@dataclass(frozen=True)
class CudaKernel(Workload):
    """One kernel on ``SIDE`` rows and columns of float32, of which ``arrays`` are read; ``moved`` such arrays are read or written."""

    kind: str
    arrays: int
    moved: int
    copy_share: float = 0.85

    @property
    def bytes(self) -> int:
        """Bytes that a launch must read or write."""
        return self.moved * 4 * SIDE * SIDE

    def given(self) -> list[Any]:
        """The arguments on the host."""
        random = np.random.default_rng(1)
        return [random.standard_normal((SIDE, SIDE), np.float32) for _ in range(self.arrays)]


class Launched(Contender):
    """A kernel launched again and again on arrays of the device."""

    def __init__(self, start: Callable[[], Any], wait: Callable[[], Any], checked: Callable[[Any], float]) -> None:
        self.start, self.wait, self.checked = start, wait, checked

    def step(self) -> float:
        for _ in range(LAUNCHES - 1):
            self.start()
        made = self.start()
        self.wait()
        self.last = made
        return 0.0

    def evidence(self) -> list[float]:
        """The mean size of the result's elements."""
        self.step()
        return [self.checked(self.last)]


def _mean_size(x: Any) -> float:
    return float(np.abs(np.asarray(x, np.float64)).mean())


def with_tapeir(kernel: CudaKernel, numerics: str) -> Contender:
    """``tp.compile`` on arrays of the device, written to given ones."""
    import tapeir as tp
    from tapeir import ops
    from tapeir.backends.cuda.device import DeviceArray

    functions: dict[str, Callable[..., Any]] = {
        "gelu": ops.gelu,
        "multiply_add": lambda x, y, z: x * y + z,  # pyright: ignore[reportUnknownLambdaType]
        "softmax": ops.softmax,
        "column_sum": lambda x: ops.sum(x, axis=0),  # pyright: ignore[reportUnknownLambdaType]
    }
    given = kernel.given()
    executable: Any = tp.compile(functions[kernel.kind], device="cuda").executable(*given)
    device = executable.device
    there = [DeviceArray(device, v.type) for v in executable.function.arguments]
    for array, data in zip(there, given, strict=True):
        device.write(array.memory, 0, data)
    out = [DeviceArray(device, v.type) for v in executable.function.results]
    return Launched(lambda: executable(*there, out=out), lambda: device.wait(device.mark()), _mean_size)


def with_torch(kernel: CudaKernel, compiled: bool) -> Contender:
    """Eager, or ``torch.compile``."""
    torch: Any = import_module("torch")
    functions: dict[str, Callable[..., Any]] = {
        "gelu": torch.nn.functional.gelu,
        "multiply_add": lambda x, y, z: x * y + z,  # pyright: ignore[reportUnknownLambdaType]
        "softmax": lambda x: torch.softmax(x, -1),  # pyright: ignore[reportUnknownLambdaType]
        "column_sum": lambda x: x.sum(0),  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
    }
    function = functions[kernel.kind]
    call: Any = torch.compile(function) if compiled else function
    given = [torch.from_numpy(a).cuda() for a in kernel.given()]
    return Launched(lambda: call(*given), torch.cuda.synchronize, lambda x: _mean_size(x.cpu().numpy()))


def with_jax(kernel: CudaKernel) -> Contender:
    """One ``jit``."""
    jax: Any = import_module("jax")
    functions: dict[str, Callable[..., Any]] = {
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),  # pyright: ignore[reportUnknownLambdaType]
        "multiply_add": lambda x, y, z: x * y + z,  # pyright: ignore[reportUnknownLambdaType]
        "softmax": jax.nn.softmax,
        "column_sum": lambda x: x.sum(0),  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
    }
    call = jax.jit(functions[kernel.kind])
    given = [jax.device_put(a) for a in kernel.given()]
    made: list[Any] = [None]

    def start() -> Any:
        made[0] = call(*given)
        return made[0]

    return Launched(start, lambda: made[0].block_until_ready(), _mean_size)


def copy(kernel: CudaKernel) -> Contender:
    """``cudaMemcpyAsync`` of as many bytes as the kernel moves, in and out."""
    cupy: Any = import_module("cupy")
    half = kernel.bytes // 2
    source, target = cupy.ones(half, cupy.uint8), cupy.empty(half, cupy.uint8)
    stream = cupy.cuda.get_current_stream()

    def start() -> None:
        target.data.copy_from_device_async(source.data, half, stream)

    return Launched(start, stream.synchronize, lambda _: 0.0)


def make(name: str, kernel: CudaKernel) -> Contender:
    """The contender of a name."""
    if name == "copy":
        return copy(kernel)
    if name.startswith("TapeIR"):
        return with_tapeir(kernel, "fast" if name.endswith("fast") else "exact")
    return with_jax(kernel) if name.startswith("JAX") else with_torch(kernel, "compile" in name)
