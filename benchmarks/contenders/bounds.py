"""What bounds a workload from below: its matrix products alone, or copying as many bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .workloads import Contender, Kernel, Mlp, Workload

Product = Callable[[NDArray[Any], NDArray[Any], NDArray[Any], bool, bool], Any]


def by_numpy(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], transpose_a: bool, transpose_b: bool) -> None:
    np.matmul(a.T if transpose_a else a, b.T if transpose_b else b, out=out)


def by_tapeir() -> Product:
    """TapeIR's native products, or NumPy's where there are none."""
    try:
        return import_module("tapeir.backends.native.blas").contract
    except (ImportError, AttributeError):
        return by_numpy


class Products(Contender):
    """Of every layer the forward product and both gradients, except that of the network's input."""

    def __init__(self, size: Mlp, product: Product) -> None:
        rng = np.random.default_rng(1)

        def normal(*shape: int) -> NDArray[np.float32]:
            return rng.standard_normal(shape, np.float32)

        activations = [normal(size.rows, width) for width in size.widths]
        gradients = [normal(size.rows, width) for width in size.widths]
        self.calls: list[Callable[[], Any]] = []
        for n in range(len(size.widths) - 1):
            weight, slope = (normal(size.widths[n + 1], size.widths[n]) for _ in range(2))
            self.calls.append(partial(product, activations[n], weight, activations[n + 1], False, True))
            self.calls.append(partial(product, gradients[n + 1], activations[n], slope, True, False))
            if n:
                self.calls.append(partial(product, gradients[n + 1], weight, gradients[n], False, False))

    def reset(self) -> None:
        """Nothing; activations are overwritten by products that stay finite."""

    def step(self) -> float:
        for call in self.calls:
            call()
        return 0.0

    def evidence(self) -> list[float]:
        return []


class Copy(Contender):
    """A copy that reads and writes as many bytes as a kernel must, cut in one part a thread."""

    def __init__(self, kernel: Kernel) -> None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        source, target = np.ones(kernel.bytes // 8, np.float32), np.ones(kernel.bytes // 8, np.float32)
        self.parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
        self.pool = ThreadPoolExecutor(threads)

    def step(self) -> float:
        waiting = [self.pool.submit(np.copyto, *part) for part in self.parts[1:]]
        np.copyto(*self.parts[0])
        for one in waiting:
            one.result()
        return 0.0

    def evidence(self) -> list[float]:
        return []


def make(name: str, workload: Workload) -> Contender:
    """The bound of a name for a workload."""
    if isinstance(workload, Mlp):
        return Products(workload, by_numpy if name == "products, NumPy" else by_tapeir())
    assert isinstance(workload, Kernel)
    return Copy(workload)
